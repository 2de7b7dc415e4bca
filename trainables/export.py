"""The winner in other forms: ``python -m trainables.export RUN_DIR --output DIR --form uniform|merged``."""

import json
import sys
from pathlib import Path
from typing import Any

import click
import peft
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import save_file

from analysis.results.messages import run_command
from trainables.adapters import CONFIG, WEIGHTS, peft_adapter
from trainables.adapters.peft_adapter import load_weights
from trainables.models import hub
from trainables.models.base_model import load, load_tokenizer, read_weights
from trainables.training.checkpoint import BEST


def uniform(model: str, adapter: Path, output: Path) -> None:
    """Write an adapter for servers that support one rank and one scale.

    Every matrix of an adapted kind gets the highest rank: A and B are padded with zeros, the scale is
    multiplied into B, and alpha is the rank. Logits are those of the original.

    Args:
        model: The base, as ``Workload.model``.
        adapter: Folder that ``Adapter.save`` wrote.
        output: Folder for the other form.
    """
    config, tensors = peft.LoraConfig.from_pretrained(str(adapter)), load_weights(adapter)
    sites = {site.name: site for site in load(model).sites}
    scales = _scales(model, adapter)
    rank = max(len(tensors[key]) for key in tensors if ".lora_A." in key)
    kinds = sorted({name.rpartition(".")[2] for name in scales})
    padded: dict[str, torch.Tensor] = {}
    for name, site in sites.items():
        if name.rpartition(".")[2] in kinds:
            a, b = torch.zeros(rank, site.d_in), torch.zeros(site.d_out, rank)
            if name in scales:
                small_a, small_b = (tensors[_key(name, part)] for part in "AB")
                a[: len(small_a)] = small_a
                b[:, : len(small_a)] = small_b * scales[name]
            padded |= {_key(name, "A"): a, _key(name, "B"): b}
    plain = peft.LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=rank, target_modules=kinds, inference_mode=True,
        fan_in_fan_out=config.fan_in_fan_out, base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
    )  # fmt: skip
    output.mkdir(parents=True)
    plain.save_pretrained(str(output))
    save_file(padded, output / WEIGHTS, metadata={"format": "pt"})


def merged(model: str, adapter: Path, output: Path) -> None:
    """Write the base with the adapter added to its weights, and its tokenizer: a model that needs no PEFT."""
    base = read_weights(model)  # not the cached one, since merging changes it
    wrapped: Any = PeftModel.from_pretrained(base, str(adapter))
    wrapped.merge_and_unload().save_pretrained(str(output))
    load_tokenizer(model).save_pretrained(str(output))


def _scales(model: str, adapter: Path) -> dict[str, float]:
    """Return adapted site -> scale in use, as PEFT applies the folder's configuration."""
    wrapped = PeftModel.from_pretrained(load(model).model, str(adapter))
    try:
        return {name: scale for name, (_, scale) in peft_adapter.read_back(wrapped).items()}
    finally:
        peft_adapter.detach(wrapped)


def _key(name: str, part: str) -> str:
    return f"base_model.model.{name}.lora_{part}.weight"


FORMS = {"uniform": uniform, "merged": merged}


@click.command(help=__doc__)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--form", type=click.Choice(list(FORMS)), default="uniform", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder that does not exist yet.")
def convert(run_dir: Path, form: str, output: Path) -> None:  # noqa: D103  (its help is the docstring of the module)
    adapter, plan = run_dir / BEST, run_dir / "plan.json"
    if not adapter.is_dir() or not plan.is_file():
        raise click.UsageError(f"{run_dir}: no best_adapter and plan.json in it; give the folder of a finished run")
    for name in (CONFIG, WEIGHTS):  # without the second, PEFT would read a pickle
        if not (adapter / name).is_file():
            raise click.UsageError(f"{adapter}: no {name} in it; give the folder of a finished run")
    if output.exists():
        raise click.UsageError(f"--output {output}: exists; give a folder that does not")
    FORMS[form](_base(plan), adapter, output)
    click.echo(str(output))


def _base(plan: Path) -> str:
    try:
        choices = json.loads(plan.read_text(encoding="utf-8"))
        return hub.at(choices["model"], choices.get("model_revision"))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{plan}: no plan that can be read ({error}); give the folder of a finished run") from error


def main() -> int:
    """Run the command; wrong usage is one line and exit status 2."""
    return run_command(convert, wrong_usage=(ValueError, OSError, SafetensorError))


if __name__ == "__main__":
    sys.exit(main())
