"""What a search has decided and seen, on disk before it is acted upon: from this alone it can go on.

``rows.jsonl`` has a line for each trial that ended, ``record.jsonl`` one for everything else. Both are only ever added
to, and each line has a checksum. Ray's snapshots and Optuna's storage are not needed to go on, and not read.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.results import journal
from analysis.results.rows import ROW_ERRORS, ResultRow, append_row, surviving_rows
from analysis.results.trial_config import Phase, TrialConfig
from tuning.state.record_lines import KINDS, check_line

log = logging.getLogger(__name__)
ROWS, EVENTS = "rows.jsonl", "record.jsonl"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A configuration that was drawn.

    Args:
        config: Without a ``trial_id`` if it was not handed out, since it is what another trial is.
        turn: Of the search, if it decided by turns whose it is.
        same_as: That other trial.
        values: What Optuna was told then, one for each objective; None if nothing was known.
        around: As ``SearchPlan.around`` of the plan in force, if it was drawn.
    """

    config: TrialConfig
    turn: int | None = None
    same_as: str | None = None
    values: list[float] | None = None
    around: tuple[float, ...] | None = None


class Record:
    """A run's record, read once and then added to.

    Args:
        run_dir: The folder of the run; files that are not there yet are empty.

    Attributes:
        rows: Trial id -> its row, in the order in which trials ended.
        suggestions: What was drawn, in order.
        configs: Trial id -> configuration, as handed out.
        exhausted: Strategies that have no configuration left that differs.
        reports: Trial id -> step -> report, of trials that have no row yet.
        restarts: How often each trial was started again.
        resource_events: What memory, or a time limit, did not allow.
        looks: What was judged on the test split: how many trials and seeds, by which margin.
        shrink: Trial id -> its adapter cut to fewer parameters, of trials that have been the winner.
        samples: Trial id -> what was written with its adapter and others', and a note; of trials that were the winner.
        base_losses: Of the untouched base, as ``RunInfo.base_losses``.
        bracket: As ``RunInfo.bracket``.
        handout: Id of the trial whose adapter was handed out last, and as what; None if none was.
        plans: What was planned, last the one in force: ``plan``, ``search_id``, ``command``, ``versions``, ``changes``.
        may_lack_a_plan: Whether a line that cannot be read comes after the last plan.
        exit_status: Of the search, if nothing is left to be done.
        damage: What cannot be read, a line each; what could not be read when the search was completed without it is
            left out.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.rows: dict[str, ResultRow] = {}
        self.suggestions: list[Suggestion] = []
        self.configs: dict[str, TrialConfig] = {}
        self.exhausted: set[str] = set()
        self.reports: dict[str, dict[int, dict[str, Any]]] = {}
        self.restarts: Counter[str] = Counter()
        self.resource_events: dict[str, None] = {}
        self.looks: dict[str, None] = {}
        self.shrink: dict[str, list[dict[str, float]]] = {}
        self.samples: dict[str, tuple[list[dict[str, str]], str]] = {}
        self.base_losses: dict[str, float] = {}
        self.bracket: list[dict[str, float | None]] = []
        self.handout: tuple[str, dict[str, float | str]] | None = None
        self.plans: list[dict[str, Any]] = []
        self.exit_status: int | None = None
        self.damage: list[str] = []
        self._damaged: list[str] = []
        self._done_without: list[str] = []
        self._read()

    def planned(self, **facts: Any) -> None:
        """Note what is planned from now on."""
        self._note("planned", **facts)

    def began(self, config: TrialConfig, turn: int | None = None, around: Sequence[float] | None = None) -> None:
        """Note a configuration before it is handed out.

        Args:
            config: What was drawn, or decided.
            turn: Of the search, if it decides by turns whose it is.
            around: As ``Suggestion.around``.
        """
        self._note("began", trial_id=config.trial_id, config=config.to_ray(), turn=turn, around=around)

    def repeated(
        self, config: TrialConfig, turn: int, same_as: str, values: list[float] | None,
        around: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        """Note a configuration that was drawn and is already known.

        Args:
            config: What was drawn.
            turn: As for ``began``.
            same_as: The trial that it repeats.
            values: What Optuna was told, one for each objective; None if nothing is known.
            around: As for ``began``.
        """
        self._note("repeated", config=config.to_ray(), turn=turn, same_as=same_as, values=values, around=around)

    def ran_out(self, strategy: str) -> None:
        """Note that a strategy has no configuration left that differs."""
        log.info("%s has no configuration left that differs", strategy)
        self._note("ran_out", strategy=strategy)

    def reported(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Note a report; a kill may lose the last ones, since they are not waited for."""
        self._note("reported", sync=False, trial_id=trial_id, report=dict(report))

    def began_anew(self, trial_id: str) -> None:
        """Note that what a trial reported so far counts no more."""
        self._note("anew", trial_id=trial_id)

    def restarted(self, trial_id: str) -> None:
        """Note that a trial is started again."""
        log.warning("%s is started again", trial_id)
        self._note("restarted", trial_id=trial_id)

    def short_of(self, what: str) -> None:
        """Note what memory, or a time limit, did not allow, once."""
        if what not in self.resource_events:
            log.warning("resource event: %s", what)
            self._note("resource", what=what)

    def judged(self, what: str) -> None:
        """Note, once, what a verdict was made of, since whoever has seen it may go on because of it."""
        if what not in self.looks:
            self._note("judged", what=what)

    def shrunk(self, trial_id: str, curve: list[dict[str, float]]) -> None:
        """Note what the winner loses at fewer parameters."""
        self._note("shrunk", trial_id=trial_id, curve=curve)

    def wrote(self, trial_id: str, samples: list[dict[str, str]], note: str) -> None:
        """Note what was written with the winner's adapter and with others, as ``RunInfo.samples``."""
        self._note("wrote", trial_id=trial_id, samples=samples, note=note)

    def base_measured(self, losses: Mapping[str, float]) -> None:
        """Note losses of the untouched base, unless they are noted already."""
        if new := {name: loss for name, loss in losses.items() if name not in self.base_losses}:
            self._note("base", losses=new)

    def bracketed(self, trials: Sequence[Mapping[str, float | None]]) -> None:
        """Note by which short trials the learning rate was found, unless that is noted already."""
        if trials and not self.bracket:
            self._note("bracket", trials=list(trials))

    def handed_out(self, trial_id: str, folders: dict[str, float | str]) -> None:
        """Note whose adapter is handed out in which folders, as ``RunInfo.handed_out``."""
        self._note("handed_out", trial_id=trial_id, folders=folders)

    def ended(self, row: ResultRow) -> None:
        """Keep a row: it is on disk when this returns."""
        append_row(row, self.run_dir / ROWS)
        self._keep(row)

    def completed(self, exit_status: int) -> None:
        """Note that nothing is left to be done, whatever could not be read before."""
        self._note("completed", exit_status=exit_status, damaged=self._damaged)

    def unfinished(self, phase: Phase) -> list[TrialConfig]:
        """Return the configurations of a phase that were begun and have not ended, in order."""
        return [
            config for trial_id, config in self.configs.items() if trial_id not in self.rows and config.phase == phase
        ]

    def of_phase(self, phase: Phase) -> list[ResultRow]:
        """Return the rows of a phase."""
        return [row for row in self.rows.values() if row.phase == phase]

    def _note(self, event: str, sync: bool = True, **facts: Any) -> None:
        journal.append(self.run_dir / EVENTS, {"event": event, **facts}, sync)
        self._apply(event, **facts)

    def _keep(self, row: ResultRow) -> None:
        self.rows[row.trial_id] = row
        self.reports.pop(row.trial_id, None)

    def _apply(self, event: str, /, **facts: Any) -> None:
        if event != "completed":
            self.exit_status = None
        match event:
            case "planned":
                self.plans.append(facts)
                if facts.get("changes"):  # with them a strategy may have more that differs, and the base be another
                    self.exhausted.clear()
                    self.base_losses.clear()
            case "began":
                config = replace(TrialConfig.from_ray(facts["config"]), trial_id=facts["trial_id"])
                self.suggestions.append(Suggestion(config, facts.get("turn"), around=_around(facts)))
                self.configs[config.trial_id] = config
            case "repeated":
                config = TrialConfig.from_ray(facts["config"])
                known = facts["turn"], facts["same_as"], facts["values"]
                self.suggestions.append(Suggestion(config, *known, _around(facts)))
            case "ran_out":
                self.exhausted.add(facts["strategy"])
            case "reported":
                report = facts["report"]
                self.reports.setdefault(facts["trial_id"], {})[report["step"]] = report
            case "anew":
                self.reports.pop(facts["trial_id"], None)
            case "restarted":
                self.restarts[facts["trial_id"]] += 1
            case "resource":
                self.resource_events[facts["what"]] = None
            case "judged":
                self.looks[facts["what"]] = None
            case "shrunk":
                self.shrink[facts["trial_id"]] = facts["curve"]
            case "wrote":
                self.samples[facts["trial_id"]] = facts["samples"], facts["note"]
            case "base":
                self.base_losses |= facts["losses"]
            case "bracket":
                self.bracket = facts["trials"]
            case "handed_out":
                self.handout = facts["trial_id"], facts["folders"]
            case "completed":
                self.exit_status = facts["exit_status"]
                self._done_without = facts.get("damaged", [])

    def _read(self) -> None:
        events, damage = _events_in(self.run_dir / EVENTS)
        for event in events.values():
            self._apply(event["event"], **{name: value for name, value in event.items() if name != "event"})
        planned = max((number for number, event in events.items() if event["event"] == "planned"), default=0)
        self.may_lack_a_plan = any(number > planned for number, _ in damage)
        rows, more = surviving_rows(self.run_dir / ROWS) if (self.run_dir / ROWS).is_file() else ([], [])
        for row in rows:
            self._keep(row)
        for name, damaged_lines in ((EVENTS, damage), (ROWS, more)):
            for number, reason in damaged_lines:
                self._damaged.append(where := f"{name}, line {number}")
                if where not in self._done_without:
                    self.damage.append(f"{self.run_dir / where}: {reason}")
        if self.damage:
            self.exit_status = None


def _events_in(path: Path) -> tuple[dict[int, dict[str, Any]], journal.Damage]:
    """Return a record's events by their lines' numbers, those of which nothing is known left out, and the damage."""
    lines, damage = journal.numbered(path, unsealed=False) if path.is_file() else ({}, [])
    whole, damage = {}, [*damage]
    for number, line in lines.items():
        try:
            check_line(line)
        except ROW_ERRORS as error:
            damage.append((number, f"no line of a record ({error})"))
        else:
            if line["event"] in KINDS:
                whole[number] = line
    return whole, sorted(damage)


def _around(facts: Mapping[str, Any]) -> tuple[float, ...] | None:
    around = facts.get("around")
    return None if around is None else tuple(around)
