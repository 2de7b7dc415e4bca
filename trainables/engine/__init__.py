"""Many trials over one frozen base: batched steps, memory, and caching."""
