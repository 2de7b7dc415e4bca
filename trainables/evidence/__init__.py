"""What strategies score from, measured before any trial."""
