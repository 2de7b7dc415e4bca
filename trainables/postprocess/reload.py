"""Measure a model as anybody would load it: a script for a process of its own, in which nothing of ours is imported.

It reads a job from standard input, as JSON: ``base`` and ``revision`` (a folder, or a hub id and its commit),
``adapters`` (each a folder, or null for none), ``rows`` (each a list of ids and one of labels, -100 where nothing is
learned), ``device``, ``dtype`` of the base, and ``four_bits`` (choices of a ``BitsAndBytesConfig``, or null). For each
adapter it prints a line: the mean loss per learned token, in nats, or why there is none: ``{"loss": 4.2}``,
``{"error": "..."}``.
"""

import json
import sys
from typing import Any


class OursAreNotThere:
    """An importer that refuses this project's packages, which an adapter must not need."""

    names = ("analysis", "strategies", "trainables", "tuning")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Refuse a package of ours, and leave all others to the next importer."""
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{name} is not to be imported here")


def measure(job: dict[str, Any]) -> None:
    """Load the base once, and print a line for each adapter."""
    base = without_cache(loaded(job).eval())
    for adapter in job["adapters"]:
        try:
            answer: dict[str, Any] = {"loss": with_adapter(base, adapter, job["rows"])}
        except Exception as error:  # libraries raise anything; the next adapter may do
            lines = [line for line in str(error).splitlines() if line.strip()]
            answer = {"error": f"{type(error).__name__}: {lines[0].strip() if lines else ''}"}
        print(json.dumps(answer), flush=True)


def loaded(job: dict[str, Any]) -> Any:
    """Return the base as it is to lie in memory, on its device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    options: dict[str, Any] = {"revision": job["revision"]} if job["revision"] else {}
    dtype = getattr(torch, job["dtype"])
    saved = AutoConfig.from_pretrained(job["base"], local_files_only=True, **options)
    in_four_bits = job["four_bits"] or getattr(saved, "quantization_config", None)
    if not in_four_bits:
        base = AutoModelForCausalLM.from_pretrained(job["base"], dtype=dtype, local_files_only=True, **options)
        return base.to(job["device"])
    if job["four_bits"] and not getattr(saved, "quantization_config", None):
        options["quantization_config"] = BitsAndBytesConfig(**job["four_bits"])
    options["device_map"] = {"": job["device"]}
    base = AutoModelForCausalLM.from_pretrained(job["base"], dtype=dtype, local_files_only=True, **options)
    for module in base.modules():
        if hasattr(module, "compute_type_is_set"):  # as in training, whatever the file says
            module.compute_dtype, module.compute_type_is_set = dtype, True
            module.support_avx512bf16_for_cpu = False
    return base


def without_cache(model: Any) -> Any:
    """Have a model keep nothing for the next token, which is not asked for."""
    model.config.use_cache = False
    return model


def with_adapter(base: Any, adapter: str | None, rows: list[Any]) -> float:
    """Return the mean loss with an adapter, which is taken off again."""
    if adapter is None:
        return mean_loss(base, rows)
    from peft import PeftModel

    model = PeftModel.from_pretrained(base, adapter).eval()
    try:
        return mean_loss(model, rows)
    finally:
        model.unload()


def mean_loss(model: Any, rows: list[Any]) -> float:
    """Return the mean loss per learned token, each row alone."""
    import torch

    loss, tokens = 0.0, 0
    with torch.inference_mode():
        for ids, labels in rows:
            targets = torch.tensor(labels[1:], device=model.device)
            logits = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, :-1].float()
            loss += torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum").item()
            tokens += int((targets != -100).sum())
    return loss / tokens


if __name__ == "__main__":
    sys.meta_path.insert(0, OursAreNotThere())
    measure(json.load(sys.stdin))
