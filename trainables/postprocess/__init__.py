"""Postprocessing of a trained adapter."""
