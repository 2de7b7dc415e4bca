"""Adapters as PEFT has them: attached, read back, audited, loaded again."""

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""The files of an adapter's folder."""
