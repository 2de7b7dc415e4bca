"""The folder of a run: made whole or not at all, with the plan and what is known of the search beside it."""

import errno
import itertools
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from analysis.results.run_info import GIVEN, PLAN, RunInfo, planned
from strategies import CONTAINING_PLAIN
from tuning.lifecycle import process
from tuning.plan.search_plan import SearchPlan
from tuning.preflight.always_plain import always_plain
from tuning.preflight.preflight import Preflight
from tuning.state import continuation
from tuning.state.facts import revision, save_facts, versions
from tuning.state.record import Record

log = logging.getLogger(__name__)


def command_of(plan: SearchPlan) -> str:
    """Return the command whose search this is; of a program's, the one that would do the same."""
    return process.command_line() or f"{process.program()} {plan.flags}"


def facts_of(plan: SearchPlan, checked: Preflight, search_id: str, record: Record | None = None) -> RunInfo:
    """Return what is known of a search that begins or, with a record, goes on."""
    plans = record.plans if record else []
    commands = [earlier["command"] for earlier in plans] + [command_of(plan)]
    return RunInfo(
        **planned(plan.model_dump()),
        search_id=search_id,
        base_params=checked.shape.params,
        base_sha256=str(checked.workload.base),
        budget_params=checked.workload.budget.params,
        coverage=str(checked.shape.coverage),
        always_plain=always_plain(() if plan.official else plan.strategies, checked.workload),
        containing_plain=CONTAINING_PLAIN,
        data=checked.data,
        base_losses=checked.base_losses,
        bracket=tuple(checked.bracket or (record.bracket if record else ())),
        command=commands[0],
        versions=versions(),
        revision=revision(),
        engine=plan.engine if plan.precision.exact else f"{plan.engine}; the base in {plan.precision}",
        continued=tuple(commands[1:]),
        changes=tuple(change for earlier in plans for change in earlier["changes"]),
        resource_events=tuple(record.resource_events) if record else (),
        looks=len(record.looks) if record else 0,
        evidence=checked.workload.evidence,
    )


@contextmanager
def given_saved(plan: SearchPlan, is_named: bool) -> Iterator[SearchPlan]:
    """Yield the plan with what a program handed over in its run folder, which goes again if no search begins there.

    Args:
        plan: What was asked for; its name is known.
        is_named: Whether somebody has named it. Otherwise a number may follow its name.

    Raises:
        ValueError: It cannot be written there.
    """
    if not plan.given:
        yield plan
        return
    for its_plan in _numbered(plan):
        try:
            its_plan.run_dir.mkdir(parents=True)
            break
        except OSError as error:
            if is_named or not isinstance(error, FileExistsError):
                raise _cannot_be_made(its_plan, error) from error
    try:
        yield its_plan.with_given_saved(its_plan.run_dir / GIVEN)
    finally:
        if not (its_plan.run_dir / PLAN).exists():
            shutil.rmtree(its_plan.run_dir, ignore_errors=True)


def created(plan: SearchPlan, facts: RunInfo, is_named: bool = True) -> tuple[SearchPlan, Record]:
    """Make the run folder, whole or not at all, and return the plan and its record.

    Where nobody has named it, a number follows its name if there is one of that name: of a search that began in the
    same second. A folder into which something was saved that a program handed over is there already.

    Raises:
        ValueError: It is named, and somebody else has just made it, or it cannot be made.
    """
    if plan.given:
        note_plan(Record(plan.run_dir), plan, facts, [])
        return plan, Record(plan.run_dir)
    for its_plan in _numbered(plan):
        if is_named or not os.path.lexists(its_plan.run_dir):
            try:
                return its_plan, _made(its_plan, facts)
            except FileExistsError as error:
                if is_named:
                    raise _cannot_be_made(its_plan, error) from error
    raise AssertionError("there are as many names as numbers")


def note_plan(record: Record, plan: SearchPlan, facts: RunInfo, changes: Sequence[str]) -> None:
    """Write down what is planned from now on, and what of it was allowed to change."""
    continuation.save_plan(plan, record.run_dir)
    save_facts(facts, record.run_dir)
    log.info("search %s, plan: %s", facts.search_id, plan.model_dump_json())
    log.info("versions: %s; code: %s", dict(facts.versions), facts.revision)
    for change in changes:
        log.info("changed, as allowed: %s", change)
    record.planned(
        plan=plan.model_dump(mode="json"),
        search_id=facts.search_id,
        base_sha256=facts.base_sha256,
        command=command_of(plan),
        versions=dict(facts.versions),
        changes=list(changes),
    )
    record.base_measured(facts.base_losses)
    record.bracketed(facts.bracket)


def _numbered(plan: SearchPlan) -> Iterator[SearchPlan]:
    """Yield the plan under its name, then with a number after it."""
    yield plan
    for number in itertools.count(2):
        yield plan.model_copy(update={"name": f"{plan.name}-{number}"})


def _made(plan: SearchPlan, facts: RunInfo) -> Record:
    """Make the run folder, whole or not at all, and return its record.

    Raises:
        FileExistsError: Somebody else has just made it.
        ValueError: It cannot be made.
    """
    aside = plan.run_dir.with_name(f".{plan.name}.{facts.search_id}")
    aside.mkdir(parents=True)
    try:
        note_plan(Record(aside), plan, facts, [])
        aside.rename(plan.run_dir)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise FileExistsError(error.errno, error.strerror, str(plan.run_dir)) from error
        raise _cannot_be_made(plan, error) from error
    return Record(plan.run_dir)


def _cannot_be_made(plan: SearchPlan, error: OSError) -> ValueError:
    return ValueError(f"--name {plan.name}: {plan.run_dir} cannot be made ({error.strerror})")
