"""Base models: their files, their adaptable layers, and loading them."""
