"""Measure a model as anybody would load it: a script for a process of its own, in which nothing of ours is imported.

It reads a job from standard input, as JSON: ``base`` and ``revision`` (a folder, or a hub id and its commit),
``adapter`` (a folder, or null), ``rows`` (each a list of ids and one of labels, -100 where nothing is learned) and
``device``. It prints the mean loss per learned token, in nats: ``{"loss": 4.2}``.
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


def mean_loss(job: dict[str, Any]) -> float:
    """Return the mean loss per learned token, each row alone, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    options = {"revision": job["revision"]} if job["revision"] else {}
    model = AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32, local_files_only=True, **options)
    if job["adapter"] is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, job["adapter"])
    model.to(job["device"]).eval()
    loss, tokens = 0.0, 0
    with torch.inference_mode():
        for ids, labels in job["rows"]:
            targets = torch.tensor(labels[1:], device=job["device"])
            logits = model(input_ids=torch.tensor([ids], device=job["device"])).logits[0, :-1].float()
            loss += torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum").item()
            tokens += int((targets != -100).sum())
    return loss / tokens


if __name__ == "__main__":
    sys.meta_path.insert(0, OursAreNotThere())
    print(json.dumps({"loss": mean_loss(json.load(sys.stdin))}))
