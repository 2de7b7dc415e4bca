"""The winner in other forms: ``python -m trainables.export RUN_DIR --output DIR --form adapter|uniform|merged``.

Each is loaded by plain Transformers and PEFT in a process of its own, and measured on the run's validation rows, before
it gets its name. Otherwise it is in ``DIR_unverified``, and the exit status is 6.
"""

import datetime
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from analysis.report.card import Use, card
from analysis.results.atomic_write import replacing_folder
from analysis.results.confinement import check_folder
from analysis.results.messages import first_line, run_command
from analysis.results.rows import ResultRow, surviving_rows
from analysis.results.run_info import PLAN, RunInfo, given_in, handed_out_trial
from analysis.results.strict_json import parsed
from analysis.stats.assessment import assess
from trainables.adapters import CONFIG, WEIGHTS, peft_adapter
from trainables.adapters.saved_config import read_folder
from trainables.data.preparation import prepare
from trainables.data.source import DataSource
from trainables.data.splits import Example
from trainables.data.templates import put_template
from trainables.engine.evaluation import exact_loss
from trainables.models import hub
from trainables.models.base_model import CHAT_TEMPLATE, dense, load, read_network, save_tokenizer
from trainables.models.device import CPU
from trainables.models.identity import check_unchanged
from trainables.models.precision import Precision
from trainables.postprocess import forms
from trainables.postprocess.verification import agree, in_words, loaded_from, reloaded
from trainables.training.checkpoint import BEST, UNVERIFIED

ROWS_PER_PASS, NOT_VERIFIED = 8, 6


def as_trained(model: str, precision: Precision, adapter: Path, output: Path) -> None:
    """Write the adapter with the shortest names that mean the same.

    Args:
        model: The base, as ``Workload.model``.
        precision: How it lay in memory in training.
        adapter: Folder that ``Adapter.save`` wrote.
        output: Folder for the other form.
    """
    forms.write(model, forms.named_shortly(load(model, CPU, precision), read_folder(adapter)), output)


def uniform(model: str, precision: Precision, adapter: Path, output: Path) -> None:
    """Write the adapter with one rank and one scale, for servers that know no others; logits are the original's."""
    forms.write(model, forms.uniform(load(model, CPU, precision), read_folder(adapter)), output)


def merged(model: str, precision: Precision, adapter: Path, output: Path) -> None:
    """Write the base with the adapter added to its weights, and its tokenizer: a model that needs no PEFT.

    Of weights in four bits it has what these stand for, over which the adapter was trained.
    """
    read_folder(adapter)  # PEFT does more of what a configuration says than a stranger should ask for
    base = dense(read_network(model, CPU, precision))  # not the cached one, since merging changes it
    peft_adapter.merged(base, adapter).save_pretrained(str(output))
    save_tokenizer(model, output)


FORMS = {"adapter": as_trained, "uniform": uniform, "merged": merged}


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search had, with which a form is compared.

    Args:
        model: The base, as ``Workload.model``.
        precision: How it lay in memory.
        rows: The validation rows.
        why_none: Why there are none.
        loss: What others' code measured of the adapter then, in nats per token, or its trial where that did not agree
            or nobody measured it; None if no file says, or rounding would differ.
    """

    model: str
    precision: Precision
    rows: Sequence[Example]
    why_none: str
    loss: float | None


@click.command(help=__doc__)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--form", type=click.Choice(list(FORMS)), default="uniform", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder that does not exist yet.")
def convert(run_dir: Path, form: str, output: Path) -> int:  # noqa: D103  (its help is the docstring of the module)
    check_folder(run_dir, but=("ray",))
    adapter, output = _adapter(run_dir).resolve(), output.resolve()
    unverified = output.with_name(output.name + UNVERIFIED)
    for folder in {output, unverified} - ({adapter} & {unverified}):  # what a stopped search left may be verified
        if folder.exists():
            raise click.UsageError(f"--output {output}: {folder} exists; give a folder that does not")
    choices, aside = _choices(run_dir, adapter), output.with_name(f".{output.name}.export")
    searched = _searched(run_dir, choices, adapter)
    model, precision = searched.model, searched.precision
    shutil.rmtree(aside, ignore_errors=True)
    try:
        FORMS[form](model, precision, adapter, aside)
        put_template(choices.get("chat_template"), aside)
        sound, seen = _seen(searched, adapter, aside, form)
        handed_out = output if sound else unverified
        if form != "merged":
            _write_card(run_dir, adapter, aside, Use(*loaded_from(model), str(handed_out), form == "uniform", seen))
        with replacing_folder(handed_out) as place:
            for path in aside.iterdir():
                path.replace(place / path.name)
        if adapter == unverified != handed_out:
            shutil.rmtree(adapter)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    click.echo(f"{handed_out}: {seen}", err=not sound)
    return 0 if sound else NOT_VERIFIED


def _adapter(run_dir: Path) -> Path:
    """Return the folder of the winner's adapter; of a search that was stopped, the one that nobody has verified."""
    adapter = run_dir / BEST
    if not adapter.is_dir() and (run_dir / (BEST + UNVERIFIED)).is_dir():
        adapter = run_dir / (BEST + UNVERIFIED)
    if not adapter.is_dir() or not (run_dir / PLAN).is_file():
        raise click.UsageError(f"{run_dir}: no best_adapter and plan.json in it; give the folder of a finished run")
    for name in (CONFIG, WEIGHTS):  # without the second, PEFT would read a pickle
        if not (adapter / name).is_file():
            raise click.UsageError(f"{adapter}: no {name} in it; give the folder of a finished run")
    return adapter


def _choices(run_dir: Path, adapter: Path) -> dict[str, Any]:
    """Return the choices of a run's plan; what the run folder has of their files is taken from there.

    Of a chat template nothing else is: it becomes a part of what is exported, and a plan may name any file.
    """
    plan = run_dir / PLAN
    try:
        choices: dict[str, Any] = parsed(plan.read_text(encoding="utf-8"))
        choices |= given_in(run_dir, choices)
        hub.at(choices["model"], choices.get("model_revision"))
        TypeAdapter(DataSource).validate_python(_of_data(choices))
    except ValidationError as error:
        problem = error.errors()[0]
        reason = ": ".join((*map(str, problem["loc"]), problem["msg"]))
        raise ValueError(f"{plan}: no plan that can be read ({reason}); give the folder of a finished run") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{plan}: no plan that can be read ({error}); give the folder of a finished run") from error
    if choices.get("chat_template") is not None:
        choices["chat_template"] = str(adapter / CHAT_TEMPLATE)
        if not (adapter / CHAT_TEMPLATE).is_file():
            raise ValueError(f"{adapter}: no {CHAT_TEMPLATE} in it; copy the search's --chat-template there")
    return choices


def _searched(run_dir: Path, choices: Mapping[str, Any], adapter: Path) -> Searched:
    """Return what the search had.

    Raises:
        ValueError: Base or texts are not those that it had.
    """
    info = RunInfo.of_run(run_dir, "")
    model = hub.at(choices["model"], choices.get("model_revision"))
    check_unchanged(model, info.base_sha256)
    rows, why_none = _rows(model, choices)
    precision = Precision.of_plan(choices)
    loss = info.handed_out.get(BEST) if adapter.name == BEST else None  # of another nobody has found that it agrees
    if adapter.name != BEST and precision.exact and (run := _trial(run_dir, info)) is not None:
        loss = run.final_eval_loss
    return Searched(model, precision, rows, why_none, None if isinstance(loss, str) else loss)


def _trial(run_dir: Path, info: RunInfo) -> ResultRow | None:
    """Return the row of the trial whose adapter it is; that of a stopped search is its best so far."""
    path = run_dir / "rows.jsonl"
    rows, _ = surviving_rows(path) if path.is_file() else ([], [])
    if (trial := handed_out_trial(run_dir, info.handed_out)) is None:
        return assess(rows, info.margin, info.containing_plain).recommended
    return next((row for row in rows if row.trial_id == trial), None)


def _of_data(choices: Mapping[str, Any]) -> dict[str, Any]:
    return {item.name: choices[item.name] for item in fields(DataSource) if choices.get(item.name) is not None}


def _rows(model: str, choices: Mapping[str, Any]) -> tuple[Sequence[Example], str]:
    """Return the run's validation rows; none, and why, if they are not to be had.

    Raises:
        ValueError: The texts are not those that the search had.
    """
    chosen = _of_data(choices)
    try:
        chosen["dataset"] = hub.at(chosen["dataset"], choices.get("dataset_revision"))
        prepared = prepare(DataSource(**chosen), model)
        digest = prepared.corpus_sha256
    except (ValueError, OSError, KeyError) as error:
        return (), f"not verified, for its validation rows are not to be had ({first_line(error)})"
    if choices.get("corpus_sha256") not in {None, digest}:
        raise ValueError(
            f"--dataset {choices['dataset']}: its texts have changed since the search, SHA-256 {digest[:12]}, then "
            f"{str(choices['corpus_sha256'])[:12]}; put back those that it had"
        )
    return prepared.splits.validation, ""


def _seen(searched: Searched, adapter: Path, folder: Path, form: str) -> tuple[bool, str]:
    """Return whether others' code measures of a form what we measure of the adapter, and the search did; in words."""
    if not searched.rows:
        return False, searched.why_none
    model, precision, rows = searched.model, searched.precision, searched.rows
    measured = exact_loss(load(model, CPU, precision), read_folder(adapter), rows, ROWS_PER_PASS)
    base, adapters = (str(folder), [None]) if form == "merged" else (model, [folder])
    (loss,) = reloaded(base, adapters, rows, CPU, replace(precision, quantize=None) if form == "merged" else precision)
    expected = [measured] if searched.loss is None else [searched.loss, measured]
    other = next((value for value in expected if not agree(value, loss, precision)), None)
    return other is None, in_words(expected[0] if other is None else other, loss, precision)


def _write_card(run_dir: Path, adapter: Path, folder: Path, use: Use) -> None:
    """Write the model card of the trial whose adapter it is, if its row is there."""
    path = run_dir / "rows.jsonl"
    rows, damage = surviving_rows(path) if path.is_file() else ([], [])
    for number, reason in damage:
        click.echo(f"{path}, line {number:,}: {reason}; left out", err=True)
    info = RunInfo.of_run(run_dir, f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}")
    assessment = assess(rows, info.margin, info.containing_plain)
    run = assessment.recommended
    if adapter.name == BEST and (trial := handed_out_trial(run_dir)) is not None:  # a killed search may have a better
        run = next((row for row in rows if row.trial_id == trial), None)
    if run is None:
        click.echo(f"no model card is written: {path} has no row of the trial whose adapter this is", err=True)
        return
    (folder / "README.md").write_text(card(run, assessment, info, use), encoding="utf-8")


def main(arguments: Sequence[str] | None = None, name: str | None = None) -> int:
    """Run the command; wrong usage is one line and exit status 2."""
    return run_command(convert, arguments, name, wrong_usage=(ValueError, OSError, SafetensorError))


if __name__ == "__main__":
    sys.exit(main())
