"""Many trials over one frozen base: batched steps, memory, and what is computed once for all."""
