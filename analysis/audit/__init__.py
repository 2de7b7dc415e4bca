"""The audit of anybody's PEFT adapter, from its files alone: what it is, and what about it is wrong."""
