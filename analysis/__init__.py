"""Rows in, report out. Imports no Ray, torch or MLflow."""
