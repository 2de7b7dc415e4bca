"""The evidence that strategies score from, measured before any trial."""
