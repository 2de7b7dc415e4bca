"""One trial: turn a configuration into a trained, measured adapter."""
