"""The recommended allocation trained on all rows: ``python -m tuning.train RUN_DIR [--all-data]``.

A search trains on some rows and keeps others to compare on. This trains the allocation that it recommends, at its
learning rate, on all rows but those of validation and test; with --all-data on those, too, and then no row is left to
measure it on. What comes out is loaded by plain Transformers and PEFT before it gets its name; if they measure another
loss, the exit status is 6. Beside it is a script that trains the same with TRL and PEFT alone.
"""

import datetime
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from analysis.report import trl_script
from analysis.report.card import Use, card
from analysis.report.winner import NOT_IN_CONFIG
from analysis.results.atomic_write import replacing_folder
from analysis.results.confinement import check_folder
from analysis.results.messages import first_line, run_command
from analysis.results.rows import ResultRow, surviving_rows
from analysis.results.run_info import PLAN, RunInfo, given_in
from analysis.results.strict_json import is_number, parsed
from analysis.results.trial_config import Phase
from analysis.stats.assessment import SearchAssessment, assess
from trainables.data.preparation import all_examples
from trainables.data.splits import Example, Splits
from trainables.models.identity import check_unchanged
from trainables.spec import TrialSpec, Workload
from trainables.training.checkpoint import ADAPTER, BEST, UNIFORM, UNVERIFIED
from trainables.training.session import Diverged
from tuning.lifecycle.output import unbreakable
from tuning.observer import SearchObserver
from tuning.plan.search_plan import SearchPlan, WrongChoice
from tuning.preflight.preflight import Preflight, check

NOT_VERIFIED = 6
ROW = "row.json"
FOLDERS = {False: "trained", True: "trained_on_all_data"}


@dataclass(frozen=True, slots=True)
class Winner:
    """What is trained again.

    Args:
        plan: Of the search.
        info: What reports show of it.
        assessment: What its rows say.
        run: The run that it recommends.
    """

    plan: SearchPlan
    info: RunInfo
    assessment: SearchAssessment
    run: ResultRow


@click.command(help=__doc__)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--all-data", is_flag=True, help="Train on the rows of validation and test, too.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder that does not exist yet (default: in RUN_DIR).")
def train(run_dir: Path, all_data: bool, output: Path | None) -> int:  # noqa: D103  (see the module)
    output = (output or run_dir / FOLDERS[all_data]).resolve()
    if output.exists():
        raise click.UsageError(f"--output {output}: it exists; give a folder that does not")
    winner = _winner(run_dir)
    if (note := NOT_IN_CONFIG.get(winner.run.strategy)) is not None:
        click.echo(f"Note: its ranks are trained as plain LoRA. {note}")
    from trainables import refit  # PyTorch comes last: what is wrong with the folder is said at once

    _check_device(winner.plan.device)
    searched = check(winner.plan)
    check_unchanged(searched.workload.model, winner.info.base_sha256)
    with _in_a_line():
        workload = refit.prepared(_fitted(winner.plan, searched, all_data), winner.run.ranks or {})
    config = winner.run.trial_config
    chosen: dict[str, Any] = {"scaling": config.scaling or winner.plan.scaling, "seed": winner.run.seed or 0}
    chosen["alphas"] = _alphas(winner.run)
    spec = refit.spec_of(workload, winner.run.ranks or {}, winner.run.learning_rate or 0.0, **chosen)
    click.echo(f"Training on {workload.data.train_examples:,} rows, {workload.steps:,} steps")
    with _in_a_line(), replacing_folder(output) as aside:
        try:
            report = refit.train(workload, spec, aside / ADAPTER, _told)
        except Diverged as error:
            raise click.ClickException(f"it diverged: {error}") from error
        row = _row(winner.run, report, measured=not all_data)
        seen = _hand_out(winner, workload, row, aside, output)
        _put_script(workload, spec, row, aside)
    for form, (sound, words) in seen.items():
        click.echo(f"{output / form}: {words}", err=not sound)
    click.echo(f"{output / trl_script.NAME}: the same with TRL and PEFT alone")
    return 0 if all(sound for sound, _ in seen.values()) else NOT_VERIFIED


class _Notes(SearchObserver):
    """Prints what a plan of memory says."""

    def noted(self, line: str) -> None:
        """Print it."""
        click.echo(line)


def _check_device(device: str) -> None:
    """Check that this machine has the device that the search trained on.

    Raises:
        ValueError: It has not.
    """
    from trainables.models.device import CPU, here

    if device not in {CPU, here().name}:
        raise ValueError(
            f"--gpus-per-trial: the search trained on {device}, and this machine has none that PyTorch sees; train "
            f"where there is one"
        )


def _fitted(plan: SearchPlan, searched: Preflight, all_data: bool) -> Workload:
    """Return the workload of one trial on all rows, in passes that fit, as a search plans them.

    Raises:
        ValueError: Nothing fits on a GPU.
    """
    from trainables.models.device import device_of
    from tuning.preflight import memory

    device = device_of(plan.device)
    alone = replace(with_rows(searched.workload, all_data), pack_size=1)
    there = device.total_bytes() or device.available_bytes()
    return memory.planned(plan, replace(searched, workload=alone), there, _Notes()).workload


@contextmanager
def _in_a_line() -> Iterator[None]:
    """Say in one line that memory does not suffice, or that the device cannot be used."""
    try:
        yield
    except RuntimeError as error:
        from trainables.engine.device_errors import broken, out_of_memory

        if out_of_memory(error):
            advice = "end what else uses it, or train where there is more"
            raise click.ClickException(f"memory does not suffice ({first_line(error)}); {advice}") from error
        if broken(error):
            raise click.ClickException(f"the device cannot be used ({first_line(error)}); run it again") from error
        raise


def with_rows(workload: Workload, all_data: bool) -> Workload:
    """Return a workload that trains on all rows of its data set: but for those of validation and test, or with them."""
    splits = workload.splits
    assert splits is not None
    kept = (*splits.validation, *splits.test)
    held_out = {example.document for example in kept}
    train: tuple[Example, ...] = all_examples(workload.data, workload.model)
    if all_data:
        dealt = {example.document for example in train}
        train = (*train, *(example for example in kept if example.document not in dealt))
    else:
        train = tuple(example for example in train if example.document not in held_out)
    data = replace(workload.data, train_examples=len(train))
    return replace(workload, data=data, splits=Splits(train, splits.validation, splits.test))


def _winner(run_dir: Path) -> Winner:
    """Read what a run folder has.

    Raises:
        ValueError: It has no plan, or no run to recommend whose ranks and learning rate are known; in one line.
    """
    check_folder(run_dir, but=("ray",))
    info = RunInfo.of_run(run_dir, f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}")
    try:
        saved = parsed((run_dir / PLAN).read_text(encoding="utf-8"))
        moved = given_in(run_dir, saved)
        moved |= _template(run_dir, saved)
        plan = SearchPlan(**{**saved, **moved, "runs_dir": str(run_dir.resolve().parent)})
    except (TypeError, WrongChoice) as error:
        raise ValueError(f"{run_dir / PLAN}: no plan that can be read ({first_line(error)})") from error
    rows, damage = surviving_rows(run_dir / "rows.jsonl")
    for number, reason in damage:
        click.echo(f"{run_dir / 'rows.jsonl'}, line {number:,}: {reason}; left out", err=True)
    assessment = assess(rows, info.margin, info.containing_plain)
    run = assessment.recommended
    if run is None or not any((run.ranks or {}).values()) or run.learning_rate is None:
        raise ValueError(f"{run_dir}: no run in it can be recommended, or its ranks or learning rate are unknown")
    return Winner(plan, info, assessment, run)


def _template(run_dir: Path, saved: Mapping[str, Any]) -> dict[str, str]:
    """Return the chat template of a run, if its search was given one.

    It becomes a part of what is handed out, and a plan may name any file: it is taken from the run's adapter alone.

    Raises:
        ValueError: It is not there.
    """
    if saved.get("chat_template") is None:
        return {}
    from trainables.models.base_model import CHAT_TEMPLATE  # with it comes PyTorch

    folders = [run_dir / name for name in (BEST, UNIFORM, BEST + UNVERIFIED)]
    if (path := next(filter(Path.is_file, (folder / CHAT_TEMPLATE for folder in folders)), None)) is None:
        raise ValueError(f"{folders[0]}: no {CHAT_TEMPLATE} in it; copy the search's --chat-template there")
    return {"chat_template": str(path.resolve())}


def _alphas(run: ResultRow) -> dict[str, float] | None:
    """Return the alphas that a run was trained with; None if it does not say those of all its sites."""
    alphas = {name: (run.alphas or {}).get(name) for name, rank in (run.ranks or {}).items() if rank}
    said = {name: alpha for name, alpha in alphas.items() if is_number(alpha) and alpha is not None and alpha > 0}
    return said if said.keys() == alphas.keys() else None


def _told(report: Mapping[str, Any]) -> None:
    loss = report["train_loss"]
    click.echo(f"  step {report['step']:,}{'' if loss is None else f'  training loss {loss:.4f}'}")


def _row(run: ResultRow, report: Mapping[str, Any], measured: bool) -> ResultRow:
    """Return the row of what was trained: no confirmation run of anything, and without losses of rows that it saw."""
    losses = {"final_eval_loss": report["eval_loss"], "test_loss": report["test_loss"]} if measured else {}
    unknown = {"final_eval_loss": None, "test_loss": None, "final_perplexity": None, "test_documents": None}
    facts = {name: report[name] for name in ("fan_in_fan_out", "trainable_parameters", "parameter_efficiency")}
    allocation = json.loads(report["allocation"])
    return replace(run, phase=Phase.SEARCH, history=(), **{**unknown, **losses, **facts, **allocation})


def _hand_out(
    winner: Winner, workload: Workload, row: ResultRow, aside: Path, output: Path
) -> dict[str, tuple[bool, str]]:
    """Write both forms with their cards, and return for each folder whether it is sound, and why."""
    from trainables.postprocess.forms import write_all
    from trainables.postprocess.verification import agree, in_words, loaded_from, reloaded

    assert workload.splits is not None
    measured = write_all(workload, aside / ADAPTER, aside)
    shutil.rmtree(aside / ADAPTER)
    folders, rows = [aside / form for form in (BEST, UNIFORM)], workload.splits.validation
    info, seen = replace(winner.info, train_examples=workload.data.train_examples), {}
    losses = reloaded(workload.model, folders, rows, workload.device, workload.precision)
    for folder, loss in zip(folders, losses, strict=True):
        sound, words = agree(measured, loss, workload.precision), in_words(measured, loss, workload.precision)
        name = folder.name if sound else folder.name + UNVERIFIED
        use = Use(*loaded_from(workload.model), str(output / name), folder.name == UNIFORM, words)
        (folder / "README.md").write_text(card(row, winner.assessment, info, use), encoding="utf-8")
        folder.rename(aside / name)
        seen[name] = sound, words
    return seen


def _put_script(workload: Workload, spec: TrialSpec, row: ResultRow, aside: Path) -> None:
    """Write the script, the rows that it reads, and the row that an audit compares with."""
    from trainables.postprocess.verification import loaded_from

    assert workload.splits is not None
    training = trl_script.Training(
        *loaded_from(workload.model), workload.batch_size, workload.steps,
        max(1, round(workload.warmup * workload.steps)), spec.learning_rate, workload.weight_decay, workload.clip_norm,
        workload.dropout, spec.seed,
    )  # fmt: skip
    folder = next(path.name for path in sorted(aside.iterdir()) if path.name.startswith(BEST))
    text = trl_script.script(row.ranks or {}, row.alphas or {}, bool(row.fan_in_fan_out), training, folder)
    (aside / trl_script.NAME).write_text(text, encoding="utf-8")
    lines = (
        json.dumps({"input_ids": example.input_ids, "labels": example.labels}) for example in workload.splits.train
    )
    (aside / trl_script.ROWS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    kept = {name: value for name, value in asdict(row).items() if value is not None}
    (aside / ROW).write_text(json.dumps(kept, indent=1, default=str) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None, name: str | None = None) -> int:
    """Run the command; wrong usage is one line and exit status 2."""
    with unbreakable("the training"):
        return run_command(train, arguments, name or "train")


if __name__ == "__main__":
    sys.exit(main())
