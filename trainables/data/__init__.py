"""From a file of texts to batches."""
