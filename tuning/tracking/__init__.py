"""MLflow: events, an outbox on disk, and their delivery."""
