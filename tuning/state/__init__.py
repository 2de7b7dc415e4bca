"""What a run folder remembers, and how a search goes on from it."""
