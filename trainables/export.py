"""The winner in other forms: ``python -m trainables.export RUN_DIR --output DIR --form uniform|merged``."""

import json
import sys
from pathlib import Path
from typing import Any

import click
from peft import PeftModel
from safetensors import SafetensorError

from analysis.results.messages import run_command
from trainables.adapters import CONFIG, WEIGHTS, peft_adapter
from trainables.models import hub
from trainables.models.base_model import load, read_weights, save_tokenizer
from trainables.postprocess import forms
from trainables.training.checkpoint import BEST


def uniform(model: str, adapter: Path, output: Path) -> None:
    """Write the adapter with one rank and one scale, for servers that know no others; logits are the original's.

    Args:
        model: The base, as ``Workload.model``.
        adapter: Folder that ``Adapter.save`` wrote.
        output: Folder for the other form.
    """
    forms.write(model, forms.uniform(load(model), peft_adapter.read_folder(adapter)), output)


def merged(model: str, adapter: Path, output: Path) -> None:
    """Write the base with the adapter added to its weights, and its tokenizer: a model that needs no PEFT."""
    base = read_weights(model)  # not the cached one, since merging changes it
    wrapped: Any = PeftModel.from_pretrained(base, str(adapter))
    wrapped.merge_and_unload().save_pretrained(str(output))
    save_tokenizer(model, output)


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
