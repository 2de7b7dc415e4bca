"""Base models: where their files are, what can be adapted, and loading them."""
