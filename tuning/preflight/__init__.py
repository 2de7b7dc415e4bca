"""What is found out, and refused, before the first trial."""
