"""What was asked for, and the space that is searched."""
