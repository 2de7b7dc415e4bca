"""A search that is taken up again: its folder, its lock, its plan, and what may have changed since."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from analysis.results.atomic_write import replace_text
from analysis.results.confinement import check_folder
from analysis.results.messages import first_line
from analysis.results.run_info import FACTS, PLAN, given_in
from analysis.results.strict_json import is_number, parsed
from analysis.results.trial_config import Phase
from trainables.data.corpus import read_corpus, sha256_of
from trainables.models import hub
from trainables.models.identity import identity, in_todays_form
from trainables.models.precision import FLOAT32
from trainables.spec import TrialSpec
from tuning.plan.choices import BudgetChoices, ModelChoice, TrainingChoices
from tuning.plan.data_choices import DataChoices
from tuning.plan.places import absolute
from tuning.plan.search_plan import SearchPlan
from tuning.state.facts import versions
from tuning.state.record import EVENTS, ROWS, Record

REPORTED = ("--margin is ",)
LOCK, LATEST = ".lock", "latest"
FREE = (
    "name", "runs_dir", "max_concurrent_trials", "max_failures", "ray_address", "dashboard_host",
    "gradient_checkpointing", "time_limit", "cuda_graphs",
)  # fmt: skip
"""Choices that change nothing about what is found."""
TRAINED = sorted(
    {*ModelChoice.model_fields, *DataChoices.model_fields, *BudgetChoices.model_fields, *TrainingChoices.model_fields}
    - {"corpus_sha256"}
)
"""Choices by which a trial of the same configuration trains otherwise, or on something else."""
ORIGIN = ("base model", "texts")
TEXTS = ("dataset", "validation_dataset", "test_dataset", "chat_template")
"""Choices that name files whose digest a plan has."""
OF_OLD = {"base_dtype": FLOAT32, "plain_points": False, "sizes": False}
"""Choices as searches had them that do not say."""


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a run folder; the lock ends with the process, however that ends.

    Raises:
        ValueError: Another process holds it.
    """
    lock = filelock.FileLock(run_dir / LOCK, blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ValueError(f"{run_dir}: another process runs this search now; wait for it, or stop it") from error
    try:
        yield
    finally:
        lock.release()


def folder_of(name: str, runs_dir: str | os.PathLike[str]) -> Path:
    """Return the folder of a search that can be taken up; unless one is called so, ``latest`` is that of the newest.

    Raises:
        ValueError: There is none, or something in it leads out of it.
    """
    run_dir = Path(runs_dir).resolve() / name
    records = [path for path in run_dir.parent.glob(f"*/{EVENTS}") if not path.parent.name.startswith(".")]
    records.sort(key=lambda path: path.stat().st_mtime)
    if name == LATEST and records and not run_dir.exists():
        run_dir = records[-1].parent
    if not any((run_dir / file).is_file() for file in (EVENTS, PLAN, ROWS)):
        names = sorted(path.parent.name for path in records)
        there = f"there are {', '.join(names[-5:])}" if names else "there is none at all"
        raise ValueError(f"--resume {name}: no search of that name in {run_dir.parent}; {there}")
    check_folder(run_dir)
    return run_dir


def saved_plan(record: Record) -> SearchPlan:
    """Return the plan in force, from the record; ``plan.json`` serves where the record has, or may have, lost it.

    Raises:
        ValueError: Neither can be read.
    """
    saved, damage = _plan_file(record.run_dir / PLAN)
    newest = not record.may_lack_a_plan or saved is None
    if record.plans and newest and saved != record.plans[-1]["plan"]:
        record.damage.append(damage or f"{record.run_dir / PLAN}: it was changed; the record's plan is used")
        saved = record.plans[-1]["plan"]
        record.exit_status = None  # something is to be mended
    if saved is None:
        raise ValueError(f"{record.run_dir}: neither {EVENTS} nor {PLAN} has a plan that can be read; start anew")
    place = {"name": record.run_dir.name, "runs_dir": str(record.run_dir.parent)}
    saved = {**OF_OLD, **saved}
    return SearchPlan(**{**saved, **given_in(record.run_dir, saved), **place})


def check_trials(record: Record) -> None:
    """Refuse a record with trials that nothing here could train: of a strategy that is not there, say.

    Raises:
        ValueError: It names the first of them.
    """
    for config in [suggestion.config for suggestion in record.suggestions]:
        try:
            TrialSpec.from_config(config)
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            name = config.trial_id or config.name
            raise ValueError(f"{record.run_dir / EVENTS}: {name} cannot be trained here ({error!r})") from error


def changed_plan(
    plan: SearchPlan, given: Mapping[str, Any], extend: int, base_sha256: str | None = None
) -> tuple[SearchPlan, list[str]]:
    """Return the plan with what is given now, and what that changes, in words.

    Args:
        plan: The plan in force.
        given: Choices of the command line and its file.
        extend: Trials to add.
        base_sha256: Of the base that the search began with; None if no file says.

    Raises:
        ValueError: A choice is none that a plan could have.
    """
    wanted = _wanted(plan, given)
    if extend and wanted.official:
        raise ValueError(f"--extend {extend}: --official trains its five experiments and no more; leave it out")
    if plan.official != wanted.official:
        raise ValueError(f"--{'' if wanted.official else 'no-'}official: this search is another; start a new one")
    if plan.objective != wanted.objective:
        raise ValueError(f"--objective {wanted.objective}: this search is for {plan.objective}; start another")
    if lost := [name for name in plan.strategies if name not in wanted.strategies]:
        raise ValueError(f"--strategies: this search has trials of {', '.join(lost)}; add to them, or start another")
    before, now = absolute(plan), absolute(wanted)
    moved = any(getattr(before, name) != getattr(now, name) for name in TEXTS)
    free = (*FREE, *TEXTS) if moved and _has_same_texts(plan, wanted) else FREE
    if before.model != now.model and _is_same_base(now.model, base_sha256):
        free = (*free, "model")
    changes = [
        f"--{name.replace('_', '-')} is {getattr(plan, name)}, not {getattr(wanted, name)}"
        for name in SearchPlan.model_fields
        if name not in free and getattr(before, name) != getattr(now, name)
    ]
    return wanted.model_copy(update={"num_samples": wanted.num_samples + extend}), changes


def _wanted(plan: SearchPlan, given: Mapping[str, Any]) -> SearchPlan:
    """Return a plan with what is given now; its own flags, given again, are no change.

    A thorough search adds strategies and trials to those that are asked for, and its plan has the sums: what was asked
    for at first is not added to them once more.
    """
    choices = {**plan.model_dump(), **given, "name": plan.name, "runs_dir": plan.runs_dir}
    wanted = SearchPlan(**choices)
    if not plan.thorough:
        return wanted
    if "num_samples" not in given:
        return wanted.model_copy(update={"num_samples": plan.num_samples})
    asked = SearchPlan(**{name: value for name, value in choices.items() if name != "strategies" or name in given})
    return asked if asked.strategies == plan.strategies else wanted


def check_pairs(record: Record, changes: Sequence[str]) -> None:
    """Refuse to compare runs that were trained otherwise: confirmation runs are paired, seed by seed.

    Args:
        record: The search's.
        changes: What ``changed_plan`` and ``other_circumstances`` say.

    Raises:
        ValueError: There are confirmation runs, and others would be trained in another way or on other texts.
    """
    flags = tuple(f"--{name.replace('_', '-')} is " for name in TRAINED)
    otherwise = [change for change in changes if change.startswith((*flags, *(f"the {what} had" for what in ORIGIN)))]
    if otherwise and record.of_phase(Phase.CONFIRM):
        raise ValueError(
            f"--resume {record.run_dir.name}: {'; '.join(otherwise)}; its confirmation runs were trained as it began, "
            f"and no others can be paired with them: start another search, --config {record.run_dir / PLAN}"
        )


def are_of_the_report(changes: Sequence[str]) -> bool:
    """Return True if what ``changed_plan`` says has changed concerns no trial."""
    return bool(changes) and all(change.startswith(REPORTED) for change in changes)


def _has_same_texts(plan: SearchPlan, wanted: SearchPlan) -> bool:
    """Return True if files have the texts and the template that a plan knows the digest of, wherever they lie now."""
    if plan.corpus_sha256 is None or not Path(wanted.dataset).exists():
        return False
    source = wanted.data_source()
    try:
        return sha256_of(source, read_corpus(source)) == plan.corpus_sha256
    except (OSError, UnicodeDecodeError):  # of the template; preflight says it in one line
        return False


def _is_same_base(model: str, base_sha256: str | None) -> bool:
    """Return True if a folder has the files of the base that a search began with, wherever they lie now."""
    if base_sha256 is None or hub.is_hub_id(model):
        return False
    try:
        return in_todays_form(model, base_sha256) == identity(model)
    except (OSError, ValueError):  # preflight says it in one line
        return False


def base_of(record: Record) -> str | None:
    """Return what identified the base that a search began with; None if no file says.

    Where the record has, or may have, lost its plan, ``facts.json`` says more.
    """
    base: str | None = _said(record, "base_sha256", str)
    return base


def _said(record: Record, name: str, kind: type) -> Any:
    lost = record.may_lack_a_plan or not record.plans
    sources = ([_facts_file(record.run_dir / FACTS)] if lost else []) + record.plans[-1:]
    return next((value for source in sources if isinstance(value := source.get(name), kind) and value), None)


def origin(record: Record, plan: SearchPlan) -> dict[str, Any]:
    """Return ``search_id``, ``base_sha256``, ``corpus_sha256`` and ``versions`` of a search; what is not known is None.

    Args:
        record: The search's.
        plan: The plan that goes on, whose base may lie elsewhere now.
    """
    base = in_todays_form(hub.at(plan.model, plan.model_revision), base_of(record))
    ids = {"search_id": _said(record, "search_id", str), "base_sha256": base}
    return {**ids, "versions": _said(record, "versions", dict), "corpus_sha256": plan.corpus_sha256}


def other_circumstances(origin: Mapping[str, Any], base_sha256: str, corpus_sha256: str) -> list[str]:
    """Return how libraries, base model and texts differ from those that the search began with, in words.

    What nobody knows any more may differ.

    Args:
        origin: What the search began with.
        base_sha256: Of the base model now.
        corpus_sha256: Of the texts now.
    """
    before, now = origin["versions"], versions()
    if before is None:
        changes = ["no file says any more which versions of libraries it had"]
    else:
        differ = [name for name in now if before.get(name) != now[name]]
        changes = [
            f"{name} was {before.get(name, 'of a version that no file says')}, is {now[name]}" for name in differ
        ]
    digests = (origin["base_sha256"], base_sha256), (origin["corpus_sha256"], corpus_sha256)
    for what, (old, new) in zip(ORIGIN, digests, strict=True):
        if old is None:
            changes.append(f"no file says any more which {what} it had")
        elif old != new:
            changes.append(f"the {what} had SHA-256 {old[:12]}, now {new[:12]}")
    return changes


def seconds_so_far(run_dir: Path) -> dict[str, float]:
    """Return the seconds of each stage that earlier runs of a search have noted; nothing where no file says."""
    noted = _facts_file(run_dir / FACTS).get("seconds")
    return {name: value for name, value in noted.items() if _is_time(value)} if isinstance(noted, dict) else {}


def _is_time(value: Any) -> bool:
    return is_number(value) and value >= 0


def save_plan(plan: SearchPlan, run_dir: Path) -> None:
    """Write ``plan.json``; a reader sees the old one or the new one."""
    replace_text(run_dir / PLAN, json.dumps(plan.model_dump(mode="json"), indent=2) + "\n")


def _facts_file(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _plan_file(path: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        saved = parsed(path.read_text(encoding="utf-8"))
        SearchPlan(**saved)
    except (OSError, ValueError, TypeError) as error:
        return None, f"{path}: cannot be read ({first_line(error)})"
    return saved, ""
