"""Rows and facts of a run, as files."""
