"""What is handed out, loaded as anybody would load it and measured again."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainables.data.splits import Example
from trainables.models import files, hub
from trainables.models.precision import IN_FLOAT32, Precision

SCRIPT = Path(__file__).with_name("reload.py")


class NotReloaded(RuntimeError):
    """Plain Transformers and PEFT do not load it. The message says why, in one line."""


def reloaded(
    model: str,
    adapters: Sequence[Path | None],
    examples: Sequence[Example],
    device: str,
    precision: Precision = IN_FLOAT32,
) -> list[float | NotReloaded]:
    """Return what plain Transformers and PEFT measure, in a process of its own: mean losses per learned token, in nats.

    Args:
        model: The base, as ``Workload.model``, or the folder of a merged model.
        adapters: Their folders; None measures the model alone.
        examples: The rows.
        device: Name of the device to measure on.
        precision: How the base lies in memory; one that was saved in four bits stays so.

    Returns:
        For each adapter its loss, or why there is none.
    """
    base, revision = loaded_from(model)
    rows = [(example.input_ids, example.labels) for example in examples]
    folders = [adapter and str(adapter) for adapter in adapters]
    four_bits = precision.four_bits if precision.quantize else None
    job: dict[str, Any] = {"base": base, "revision": revision, "adapters": folders, "rows": rows, "device": device}
    job |= {"dtype": precision.dtype, "four_bits": four_bits}
    command = [sys.executable, "-P", str(SCRIPT)]  # -I would hide what pip --user or a cluster's modules installed
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    answers += [{"error": lines[-1].strip()}] * (len(adapters) - len(answers))
    return [NotReloaded(answer["error"][:300]) if "error" in answer else float(answer["loss"]) for answer in answers]


def loaded_from(model: str) -> tuple[str, str | None]:
    """Return what anybody loads a base from: a folder, or a hub id and its commit."""
    return hub.split(model) if hub.is_hub_id(model) else (str(files.resolve(model)), None)


def agree(measured: float, loss: float | NotReloaded, precision: Precision = IN_FLOAT32) -> bool:
    """Return True if two measurements over a base in some precision are of the same adapter."""
    return not isinstance(loss, NotReloaded) and math.isclose(measured, loss, rel_tol=0, abs_tol=precision.tolerance)


def in_words(measured: float, loss: float | NotReloaded, precision: Precision = IN_FLOAT32) -> str:
    """Return what others' code measured of what we have measured."""
    if isinstance(loss, NotReloaded):
        return f"plain Transformers and PEFT do not load it ({loss}); the search measured {measured:.5f}"
    same = "as the search did" if agree(measured, loss, precision) else f"the search measured {measured:.5f}"
    over = "" if precision.exact else f", with the base in {precision} as in training"
    return f"plain Transformers and PEFT measure {loss:.5f} nats per token on the validation rows{over}, {same}"
