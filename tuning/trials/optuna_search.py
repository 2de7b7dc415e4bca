"""Optuna under Ray Tune, told the truth: finished, pruned or failed, no configuration twice, no state of its own."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from analysis.results.rows import ResultRow
from analysis.results.trial_config import LEARNING_RATE, Phase, Status, TrialConfig
from analysis.stats import ranking
from strategies.baseline import Baseline
from tuning.plan.search_plan import SearchPlan
from tuning.plan.search_space import Space, fixed_part, neutral_point, searched_rates, to_optuna
from tuning.state.record import Record
from tuning.trials.optuna_compat import drawn_as
from tuning.trials.sampling import make_sampler

METRIC, STRATEGY = "eval_loss", "strategy"
optuna.logging.set_verbosity(optuna.logging.WARNING)
MAX_DUPLICATES = 100
PLAIN_POINTS = 2
PARAMETERS = "trainable_parameters"
OBJECTIVES = {"loss": (METRIC,), "loss,params": (METRIC, PARAMETERS)}
STATES = {Status.FINISHED: TrialState.COMPLETE, Status.STOPPED: TrialState.PRUNED}


class StudySearch(Searcher):  # type: ignore[misc]
    """Optuna's suggestions, with equal turns for strategies and no repeated configuration.

    Each strategy has a study of its own. In a common one Optuna takes the best tenth of all trials for good, and
    a strategy that has none of them is searched at random: it would lose for having lost.

    The studies live in memory and are made anew from the record. A suggestion depends on the plan's seed, the number of
    suggestions before it and what its study knows, and on nothing else, so a search that was cut off goes on as it
    would have.

    Args:
        plan: The search.
        effective_key: Configuration -> a key that is equal for configurations that train the same thing.
        record: Where each configuration is noted before it is handed out, and what is known from before.

    Attributes:
        may_begin: Returns whether there is time for a trial that has not begun yet.
    """

    def __init__(self, plan: SearchPlan, effective_key: Callable[[TrialConfig], str], record: Record) -> None:
        super().__init__(metric=METRIC, mode="min")
        self._plan, self._effective_key, self._record = plan, effective_key, record
        self._studies: dict[str, optuna.Study] = {}
        self._drawn: list[str] = []
        self._turn, self._handed_out, self._turns = 0, 0, Counter[str]()
        self._seen: dict[str, str] = {}
        self._live: dict[str, optuna.Trial] = {}
        self._told: set[tuple[str, int]] = set()
        self._unfinished = record.unfinished(Phase.SEARCH)
        self._around: dict[str, tuple[float, ...] | None] = {
            item.config.trial_id: item.around for item in record.suggestions
        }
        self.may_begin: Callable[[], bool] = lambda: True
        self._recall()

    @property
    def study(self) -> optuna.Study:
        """A copy of all trials in one study, in the order in which they were drawn."""
        every = optuna.distributions.CategoricalDistribution(
            tuple(dict.fromkeys((*self._plan.strategies, *self._studies)))
        )
        trials = {name: iter(study.trials) for name, study in self._studies.items()}
        together = self._empty()
        for name in self._drawn:
            trial = next(trials[name])
            trial.distributions = {STRATEGY: every, **trial.distributions}
            trial.params = {STRATEGY: name, **trial.params}
            together.add_trial(trial)
        return together

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Return the next configuration, one that has not been handed out before; the end if there is none left.

        Those that were begun before an interruption come first. Then it is the turn of the strategy that has had the
        fewest, so that each gets the same number of trials, one that was added later, too.
        """
        if self._unfinished:
            return self._again(trial_id, self._unfinished.pop(0)).to_ray()
        if not self.may_begin():
            return str(Searcher.FINISHED)
        while left := [name for name in self._plan.strategies if name not in self._record.exhausted]:
            name = min(left, key=self._turns.__getitem__)
            fixed = fixed_part(self._plan, name, is_first=not self._turns[name])
            self._turns[name] += 1
            self._turn += 1
            config = self._new_config(trial_id, fixed)
            if config is not None:
                return config.to_ray()
            self._record.ran_out(name)
        return str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass a finite intermediate value on; Optuna knows none with several objectives."""
        if trial_id not in self._live or self._plan.searches_budget or not math.isfinite(result[METRIC]):
            return
        if (trial_id, result["report"]) not in self._told:  # a trial that was taken up again repeats a report
            self._told.add((trial_id, result["report"]))
            self._live[trial_id].report(result[METRIC], result["report"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how a trial ended: COMPLETE, PRUNED (its intermediate values are known) or FAIL."""
        if result and not error:
            self.on_trial_result(trial_id, result)  # Ray passes on no report at which a trial ends
        trial, status = self._live.pop(trial_id, None), (result or {}).get("status")
        if trial is None:
            return
        if result and status == Status.FINISHED and not error:
            trial.study.tell(trial, [float(result[name]) for name in OBJECTIVES[self._plan.objective]])
        elif result and status == Status.RUNNING and not error:
            trial.study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.study.tell(trial, state=TrialState.FAIL)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the record has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""

    def _empty(self) -> optuna.Study:
        return optuna.create_study(directions=["minimize"] * len(OBJECTIVES[self._plan.objective]))

    def _next_in(self, strategy: str) -> optuna.Study:
        """Return the study of a strategy for one more trial."""
        self._drawn.append(strategy)
        return self._studies.setdefault(strategy, self._empty())

    def _ask(self, fixed: Mapping[str, Any]) -> tuple[optuna.Trial, TrialConfig]:
        """Draw what ``fixed`` leaves open; return Optuna's trial and its configuration."""
        name = fixed[STRATEGY]
        space = self._space(name, fixed.get(f"{name}/{LEARNING_RATE}"))
        sampler, study = make_sampler(space, len(self._drawn)), self._next_in(space.strategy)
        study.sampler = sampler
        study.enqueue_trial(dict(fixed))
        trial = study.ask()
        return trial, space(trial)

    def _new_config(self, ray_id: str, fixed: dict[str, Any]) -> TrialConfig | None:
        turn = self._turn - 1
        for point in (*self._neutral_points(fixed[STRATEGY]), *itertools.repeat(fixed, MAX_DUPLICATES)):
            trial, config = self._ask(point)
            key = self._effective_key(config)
            if key not in self._seen:
                self._handed_out += 1
                config = replace(config, trial_id=f"t{self._handed_out:03d}")
                self._record.began(config, turn, self._plan.around)
                self._around[config.trial_id] = self._plan.around
                self._hand_out(ray_id, trial, config)
                return config
            self._tell_duplicate(trial, config, turn, self._seen[key])
        return None

    def _neutral_points(self, strategy: str) -> list[dict[str, Any]]:
        """Return the points of a strategy that train what plain LoRA's two best trials did, if not yet told.

        They are no trials: what they train has been trained, so a strategy is told how that ended.
        """
        if not self._plan.plain_points or strategy == Baseline.name or strategy not in self._plan.strategies:
            return []
        study = self._studies.get(strategy)
        heard_of = {trial.user_attrs.get("same_as") for trial in study.trials} if study else set()
        plain = [row for row in self._record.of_phase(Phase.SEARCH) if row.strategy == Baseline.name]
        best = sorted(ranking.usable(plain), key=lambda row: row.final_eval_loss or 0.0)[:PLAIN_POINTS]
        new = [row for row in best if row.trial_id not in heard_of]
        points = [(neutral_point(strategy, row.trial_config), self._around.get(row.trial_id)) for row in new]
        return [to_optuna(point) for point, around in points if point and self._drawn_as(point, around) is not None]

    def _hand_out(self, ray_id: str, trial: optuna.Trial, config: TrialConfig) -> None:
        self._seen[self._effective_key(config)] = config.trial_id
        trial.set_user_attr("trial_id", config.trial_id)
        self._live[ray_id] = trial

    def _again(self, ray_id: str, config: TrialConfig) -> TrialConfig:
        if self._drawn_as(config, self._around.get(config.trial_id)) is None:
            self._seen[self._effective_key(config)] = config.trial_id
            return config
        trial, _ = self._ask(to_optuna(config))
        for number, report in enumerate(self._record.reports.get(config.trial_id, {}).values(), 1):
            if report["eval_loss"] is not None and not self._plan.searches_budget:
                self._told.add((ray_id, number))
                trial.report(report["eval_loss"], number)
        self._hand_out(ray_id, trial, config)
        return config

    def _tell_duplicate(self, trial: optuna.Trial, config: TrialConfig, turn: int, twin: str) -> None:
        """Answer a repeated suggestion with what is known: the value of its twin, or nothing."""
        row = self._record.rows.get(twin)
        values = self._values(row) if row is not None and row.status == Status.FINISHED else None
        self._record.repeated(config, turn, twin, values, self._plan.around)
        trial.set_user_attr("same_as", twin)
        if values is None:
            trial.study.tell(trial, state=TrialState.FAIL)
        else:
            trial.study.tell(trial, values)

    def _recall(self) -> None:
        """Make the study, the turns and the known configurations from the record."""
        recorded = {suggestion.config.trial_id for suggestion in self._record.suggestions}
        lost = [row for row in self._record.of_phase(Phase.SEARCH) if row.trial_id not in recorded]
        drawn = [item for item in self._record.suggestions if item.same_as or item.config.phase == Phase.SEARCH]
        # one turn may have had several draws; records of before 2026-11-28 may not say which turn it was
        turns = {(item.config.strategy, item.turn, item.turn is None and number) for number, item in enumerate(drawn)}
        self._turns = Counter(name for name, *_ in turns) + Counter(row.strategy for row in lost)
        for suggestion in self._record.suggestions:
            row = self._record.rows.get(suggestion.config.trial_id)
            if suggestion.same_as is not None:
                same_as = {"same_as": suggestion.same_as}
                self._remember(suggestion.config, same_as, suggestion.values, around=suggestion.around)
            elif suggestion.config.phase == Phase.SEARCH:
                self._count(suggestion.config, suggestion.turn)
                if row is not None:
                    self._remember_row(row)
        for row in lost:
            self._count(row.trial_config, None)
            self._remember_row(row)

    def _count(self, config: TrialConfig, turn: int | None) -> None:
        if (number := config.trial_id[1:10]).isdecimal():  # a record of somebody else may have any name
            self._handed_out = max(self._handed_out, int(number))
        self._turn = max(self._turn, self._handed_out, -1 if turn is None else turn + 1)
        self._seen[self._effective_key(config)] = config.trial_id

    def _remember_row(self, row: ResultRow) -> None:
        reports = {
            number: report["eval_loss"]
            for number, report in enumerate(row.history, 1)
            if report.get("eval_loss") is not None
        }
        if self._plan.searches_budget:
            reports = {}
        values = (
            self._values(row) if row.status == Status.FINISHED or (row.status == Status.STOPPED and reports) else None
        )
        around, attributes = self._around.get(row.trial_id), {"trial_id": row.trial_id}
        self._remember(row.trial_config, attributes, values, STATES.get(row.status), reports, around)

    def _values(self, row: ResultRow) -> list[float]:
        """Return what Optuna is told of a trial: a value for each objective."""
        objectives = {METRIC: row.final_eval_loss, PARAMETERS: row.trainable_parameters}
        return [float(objectives[name] or 0) for name in OBJECTIVES[self._plan.objective]]

    def _remember(
        self,
        config: TrialConfig,
        attributes: Mapping[str, str],
        values: list[float] | None,
        state: TrialState | None = None,
        reports: Mapping[int, float] | None = None,
        around: tuple[float, ...] | None = None,
    ) -> None:
        trial = self._drawn_as(config, around)
        if trial is None:
            return
        self._next_in(config.strategy).add_trial(
            optuna.trial.create_trial(
                params=trial.params,
                distributions=trial.distributions,
                values=values,  # of a pruned trial, as Optuna has it, the last intermediate one
                state=state or (TrialState.FAIL if values is None else TrialState.COMPLETE),
                user_attrs=dict(attributes),
                intermediate_values=dict(reports or {}),
            )
        )

    def _drawn_as(self, config: TrialConfig, around: tuple[float, ...] | None) -> optuna.trial.FixedTrial | None:
        """Return what Optuna would have drawn; None if the plan was changed since and its space has no such point.

        Args:
            config: A trial.
            around: As ``SearchPlan.around`` of the plan that it is of; of this one, its rate is in the range anyway.
        """
        rate = config.learning_rate if around == self._plan.around else None
        return drawn_as(to_optuna(config), self._space(config.strategy, rate))

    def _space(self, strategy: str, rate: float | None = None) -> Space:
        """Return what a strategy is drawn from now; a learning rate is in it if one is given."""
        name = f"{strategy}/{LEARNING_RATE}"
        trials = self._studies[strategy].trials if strategy in self._studies else []
        tried = [trial.params[name] for trial in trials if name in trial.params]
        done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        best = min(done, key=lambda trial: float(trial.values[0])).params[name] if done else None
        return Space(
            self._plan, strategy, searched_rates(self._plan, [*tried, *([] if rate is None else [rate])], best)
        )
