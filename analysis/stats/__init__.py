"""Rankings, intervals and verdicts."""
