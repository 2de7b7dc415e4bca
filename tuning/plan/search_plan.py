"""Every choice a user makes. Flags, YAML and plan.json all come from ``SearchPlan``."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr, ValidationError, model_validator

from analysis.results.messages import one_line
from analysis.results.run_info import GIVEN
from analysis.results.trial_config import LOOKS
from strategies import CONTROLS, RIVALS, RankBudget
from strategies.baseline import Baseline
from strategies.official import OFFICIAL
from trainables.data.formats import is_wanted
from trainables.learning_rates import LIKELY_RUNS
from trainables.spec import Workload
from tuning.plan import given
from tuning.plan.choices import (
    BudgetChoices,
    ModelChoice,
    SearchChoices,
    StorageChoices,
    TrainingChoices,
    VerdictChoices,
)
from tuning.plan.data_choices import DataChoices
from tuning.plan.engine_choices import EngineChoices

BUNDLED_LEARNING_RATE = 1e-2
USUAL_LEARNING_RATE = 2e-4
LOWEST_LEARNING_RATE, HIGHEST_LEARNING_RATE = 1e-12, 100.0
BRIEF = 120
MOST_LONGER, SHARE_TRAINED = 0.3, 0.5
"""What other sizes of plain LoRA may add to a search, and about how much of its trials early stopping leaves."""
SIZES = {"half": 0.5, "double": 2.0}
"""Name -> size of plain LoRA over the budget's."""
ALL_SIZES = {"quarter": 0.25, **SIZES, "four": 4.0}
"""Those of a thorough search."""
SEARCH_ONLY = (
    "budget", "budget_rank", "objective", "strategies", "num_samples", "confirm_seeds", "time_limit", "thorough",
)  # fmt: skip


class WrongChoice(ValueError):
    """Of these choices no plan can be made, for a reason that is told in one line."""


class UnknownChoice(WrongChoice):
    """A plan has no choice of that name."""


class SearchPlan(
    StorageChoices,
    EngineChoices,
    VerdictChoices,
    TrainingChoices,
    SearchChoices,
    BudgetChoices,
    DataChoices,
    ModelChoice,  # pydantic lists the fields of the last group first
):
    """What is searched, on what, with what: all groups of choices, their names side by side.

    In a program, data may be a list of dicts, a pandas frame or a ``datasets.Dataset``, and ``model`` a loaded model
    with its tokenizer, ``(model, tokenizer)``: a search saves them into its run folder.

    Raises:
        WrongChoice: A choice is none that a plan could have. It is a ``ValueError`` of one line.
    """

    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, **choices: Any) -> None:
        handed_over = given.handed_over(choices)
        try:
            super().__init__(**{**choices, **dict.fromkeys(handed_over, GIVEN)})
        except ValidationError as error:  # which would show passwords, too
            raise _first_problem(error) from None
        self._given = handed_over

    @model_validator(mode="after")
    def _add_rivals(self) -> Self:
        """Add the rivals of a thorough search, with as many trials as each of the strategies that were asked for."""
        if self.thorough and not self.official:
            asked = self.strategies
            more = tuple(name for name in RIVALS if name not in asked)
            trials = self.num_samples + self.num_samples * len(more) // len(asked)
            # a plan is frozen, and what nobody gave must not become one of its `model_fields_set`
            self.__dict__.update(strategies=(*asked, *more), num_samples=trials)
        return self

    @model_validator(mode="after")
    def _check_groups_together(self) -> Self:
        self._check_official()
        if self.confirm_seeds and len(self.strategies) > 1 and Baseline.name not in self.strategies:
            raise ValueError(
                f"--strategies {', '.join(self.strategies)}: the verdict compares with plain LoRA; add --strategies "
                f"{Baseline.name}, or give --confirm-seeds 0"
            )
        self._check_learning_rates()
        source = self.data_source()
        if not source.keeps_quarters and self.batch_size > source.train_examples:
            raise ValueError(
                f"--batch-size {self.batch_size}: more than --train-examples {source.train_examples}; lower it"
            )
        return self

    def _check_official(self) -> None:
        for name in SEARCH_ONLY if self.official else ():
            value = getattr(self, name)
            if value not in {type(self).model_fields[name].default, 0}:  # no confirmation is what it has
                shown = ", ".join(value) if isinstance(value, tuple) else value
                raise ValueError(
                    f"--{name.replace('_', '-')} {shown}: --official trains five given experiments and searches "
                    f"nothing; drop one of the two"
                )

    def _check_learning_rates(self) -> None:
        low = self.centre_learning_rate / self.learning_rate_factor
        high = self.centre_learning_rate * self.learning_rate_factor
        if not (low >= LOWEST_LEARNING_RATE and high < HIGHEST_LEARNING_RATE):
            raise ValueError(
                f"--learning-rate {self.centre_learning_rate:g} with --learning-rate-factor "
                f"{self.learning_rate_factor:g}: the range is {low:g} to {high:g}; keep it within "
                f"{LOWEST_LEARNING_RATE:g} to {HIGHEST_LEARNING_RATE:g}"
            )

    @property
    def given(self) -> Mapping[str, Any]:
        """What of model and data was handed over itself; None stands for what is saved."""
        return self._given

    def with_given_saved(self, folder: Path) -> Self:
        """Return the plan with what was handed over in files of a folder, which is made.

        Raises:
            ValueError: It cannot be written.
        """
        wanted = partial(is_wanted, self.data_source())
        return self.model_copy(update=given.save(self._given, folder, wanted)).without_contents()

    def without_contents(self) -> Self:
        """Forget what was handed over itself, but for the names; return the same plan."""
        self._given = dict.fromkeys(self._given)
        return self

    @property
    def flags(self) -> str:
        """The flags that give the same choices."""
        words: list[str] = []
        for name, value in self.model_dump(mode="json", exclude_defaults=True).items():
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, bool):
                words += [flag if value else f"--no-{flag[2:]}"]
            else:
                words += [
                    word for item in (value if isinstance(value, list) else [value]) for word in (flag, str(item))
                ]
        return shlex.join(words)

    @property
    def centre_learning_rate(self) -> float:
        """The learning rate that is tried first for every strategy."""
        if self.learning_rate is not None:
            return self.learning_rate
        return BUNDLED_LEARNING_RATE if self.model == "bundled" else USUAL_LEARNING_RATE

    @property
    def around(self) -> tuple[float, float]:
        """The learning rate around which strategies are searched, and by how much from there, before it is widened."""
        return self.centre_learning_rate, self.learning_rate_factor

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds at which confirmation runs are looked at, rising; empty where their number is given."""
        return LOOKS if isinstance(self.confirm_seeds, str) else ()

    @property
    def most_seeds(self) -> int:
        """From how many seeds a configuration is confirmed at most."""
        return LOOKS[-1] if isinstance(self.confirm_seeds, str) else self.confirm_seeds

    @property
    def first_seeds(self) -> int:
        """From how many seeds all that is confirmed has runs."""
        return LOOKS[0] if isinstance(self.confirm_seeds, str) else self.confirm_seeds

    @property
    def likely_seeds(self) -> int:
        """From about how many seeds a configuration is confirmed."""
        return LOOKS[1] if isinstance(self.confirm_seeds, str) else self.confirm_seeds

    @property
    def most_confirmations(self) -> int:
        """How many confirmation runs there can be, those of controls included."""
        if self.official or Baseline.name not in self.strategies or len(self.strategies) < 2:
            return 0
        rivals = len(self.strategies) - 1
        sizes, smaller_plain = (2, 1) if self.searches_budget else (1, 0)
        judged = self.most_seeds * (1 + smaller_plain + sizes * rivals * (1 + len(CONTROLS)))
        return judged + self.size_seeds * len(self.sizes_tried)

    @property
    def sizes_tried(self) -> Mapping[str, float]:
        """Name -> size of plain LoRA over the budget's, of those that are trained for what differences are worth."""
        return ALL_SIZES if self.thorough else SIZES

    @property
    def most_handed_out(self) -> int:
        """How many confirmation runs there can be of which one may be recommended: controls and other sizes are not."""
        rivals, sizes = len(self.strategies) - 1, 2 if self.searches_budget else 1
        return self.most_seeds * sizes * (1 + rivals) if self.most_confirmations else 0

    @property
    def size_seeds(self) -> int:
        """From how many of the confirmation's seeds plain LoRA of other sizes is trained, so that little is added.

        The search takes at most 1.3 times what it would take without, trials that are stopped early counted as halves.
        Where that leaves one seed there is none, for one says nothing. A thorough search has all seeds.
        """
        if not self.sizes or self.official or Baseline.name not in self.strategies or len(self.strategies) < 2:
            return 0
        searched = self.trials * (SHARE_TRAINED if self.scheduler == "asha" else 1.0)
        confirmed = self.first_seeds * (len(self.strategies) + len(CONTROLS))
        most = self.first_seeds if self.thorough else int(MOST_LONGER * (searched + confirmed) / len(SIZES))
        seeds = min(self.first_seeds, most)
        return seeds if seeds > 1 else 0

    @property
    def likely_confirmations(self) -> int:
        """About how many runs confirm strategies, and show what other sizes of plain LoRA are worth."""
        if not self.most_confirmations:
            return 0
        return self.likely_seeds * len(self.strategies) + self.size_seeds * len(self.sizes_tried)

    @property
    def likely_controls(self) -> int:
        """About how many runs are of controls: those of one strategy, unless several win."""
        return self.likely_seeds * len(CONTROLS) if self.most_confirmations else 0

    @property
    def margin_in_words(self) -> str:
        """The margin as a text."""
        return self.margin if isinstance(self.margin, str) else f"{self.margin:g}"

    @property
    def short_runs(self) -> float:
        """About how many trials cost as much as the short ones that find the learning rate; 0 if it is given."""
        return 0.0 if self.learning_rate is not None or self.official else LIKELY_RUNS

    @property
    def trials(self) -> int:
        """How many trials are trained."""
        return len(OFFICIAL) if self.official else self.num_samples

    def trained_with(self, workload: Workload) -> Workload:
        """Return a workload with the devices and the dtype that this plan has."""
        workload = replace(workload, device=self.device, pack_size=self.trials_per_pack, precision=self.precision)
        return replace(workload, captures=self.cuda_graphs == "auto")

    def workload(self, budget: RankBudget) -> Workload:
        """Return what all trials share; evidence is added once it is measured."""
        return Workload(
            model=self.model,
            data=self.data_source(),
            budget=budget,
            epochs=self.epochs,
            batch_size=self.batch_size,
            reports=self.reports,
            scale=self.scale,
            dropout=self.dropout,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            threads=max(1, int(self.cpus_per_trial)),
            device=self.device,
            pack_size=self.trials_per_pack,
            precision=self.precision,
            captures=self.cuda_graphs == "auto",
        )


def _first_problem(error: ValidationError) -> WrongChoice:
    """Return in one line what is wrong with the choices of a plan."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    message = message.replace("a valid tuple", "a list")
    if not first["loc"]:
        return WrongChoice(one_line(message))
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return UnknownChoice(one_line(f"unknown key {_brief(name)}; known: {', '.join(SearchPlan.model_fields)}"))
    return WrongChoice(one_line(f"--{name.replace('_', '-')} {_brief(first['input'])}: {message}"))


def _brief(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= BRIEF else f"{shown[:BRIEF]}… ({len(shown):,} characters)"
