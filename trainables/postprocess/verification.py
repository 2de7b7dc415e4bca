"""What is handed out, loaded as anybody would load it and measured again."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from trainables.data.splits import Example
from trainables.models import files, hub

SCRIPT = Path(__file__).with_name("reload.py")
TOLERANCE = 1e-4
"""Nats per token by which a loss may differ that is measured in float32, rows alone or together."""


class NotReloaded(RuntimeError):
    """Plain Transformers and PEFT do not load it. The message says why, in one line."""


def reloaded_loss(model: str, adapter: Path | None, examples: Sequence[Example], device: str) -> float:
    """Return the mean loss per learned token, in nats, that plain Transformers and PEFT measure in float32.

    Args:
        model: The base, as ``Workload.model``, or the folder of a merged model.
        adapter: Folder of the adapter; None measures the model alone.
        examples: The rows.
        device: Where to measure, ``cpu`` or ``cuda``.

    Raises:
        NotReloaded: They cannot.
    """
    base, revision = hub.split(model) if hub.is_hub_id(model) else (str(files.resolve(model)), None)
    rows = [(example.input_ids, example.labels) for example in examples]
    job = {"base": base, "revision": revision, "adapter": adapter and str(adapter), "rows": rows, "device": device}
    command = [sys.executable, "-I", str(SCRIPT)]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
        raise NotReloaded(lines[-1].strip()[:300])
    return float(json.loads(done.stdout.splitlines()[-1])["loss"])


def agree(measured: float, reloaded: float) -> bool:
    """Return True if two measurements of one adapter are of the same."""
    return math.isclose(measured, reloaded, rel_tol=0, abs_tol=TOLERANCE)
