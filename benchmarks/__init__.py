"""Figures of docs/log.md that no test makes."""
