"""The choices of a plan, by group: each with its flag's name, its default, and what it may be."""

import os
import re
import sys
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from analysis.results.messages import has_secret
from analysis.results.run_info import DOUBLINGS, MARGIN_PATTERN
from strategies import SEARCHED, STRATEGIES, RankBudget, Site
from trainables.models.precision import FLOAT32, Precision
from trainables.models.targets import ALL, Targets

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
MLFLOW_URI = r"^(https?://[^/\s]+|(sqlite|postgresql|mysql|mssql)(\+\w+)?:///?[^\s]+|databricks(-uc)?(://\S+)?$)"
LONGEST_TEXT = 4096
YES_OR_NO = ("official", "plain_points", "sizes", "thorough")
LARGEST_COUNT = 2**31  # confirmation seeds follow the search's, and NumPy takes none above 2**32

TIME_PATTERN = r"([0-9]{1,5}([.][0-9]+)?h)?([0-9]{1,7}m)?"

Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


def _check_text(text: str) -> None:
    if has_secret(text):
        raise ValueError(
            "a password in a URI would be saved and logged; leave it out and set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN, PGPASSWORD, RAY_AUTH_TOKEN or HF_TOKEN"
        )
    hidden = next((sign for sign in text if unicodedata.category(sign) in {"Cc", "Cs", "Zl", "Zp"}), None)
    if hidden is not None:
        encoding = sys.getfilesystemencoding()
        locale = f" (this locale reads names as {encoding}: LC_ALL=C.UTF-8)" if encoding != "utf-8" else ""
        raise ValueError(f"must be printable UTF-8 text, has the character {hidden!r}{locale}")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"has {len(text):,} characters; at most {LONGEST_TEXT:,} are taken")


def number_or_word(value: Any) -> Any:
    """Return what text stands for, of a choice that is a number or a word."""
    for kind in (int, float) if isinstance(value, str) else ():
        try:
            return kind(value)
        except ValueError:
            pass
    return value


Seeds = Annotated[Annotated[int, Field(ge=0, le=1000)] | Literal["auto"], BeforeValidator(number_or_word)]


class Choices(BaseModel):
    """A group of choices. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """Take a path for its text; refuse yes for 1, a password in a URI, characters that do not show."""
        if isinstance(value, bool) and info.field_name not in YES_OR_NO:
            raise ValueError("must be a number or text, not yes or no")
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, bytes):
                raise ValueError("must be text, not bytes")
            if isinstance(text, str):
                _check_text(text)
                if not text.strip():
                    raise ValueError("must not be empty; leave it out for its default")
        return value


class ModelChoice(Choices):
    """The base model."""

    model: str = Field("bundled", description="`bundled`, a local model directory or a hub id")
    model_revision: str | None = Field(
        None, description="Branch, tag or commit of a hub model; the commit is saved (default: the main branch)"
    )
    target_modules: tuple[str, ...] = Field(
        (ALL,), description="Matrices to adapt: `all-linear`, names or endings, or a regex; repeat the flag"
    )
    exclude_modules: tuple[str, ...] = Field((), description="Matrices to leave as they are; repeat the flag")
    layers: str | None = Field(None, description="Blocks to adapt, counted from 0, as 0-3,8 (default: all)")
    base_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="The base in memory; `auto` is bfloat16 on a GPU, and on a CPU where that is faster"
    )
    quantize: Literal["nf4"] | None = Field(
        None, description="`nf4`: the base's matrices in four bits, by bitsandbytes (default: as they are)"
    )

    @model_validator(mode="after")
    def _check_targets(self) -> Self:
        _ = self.targets
        return self

    @property
    def precision(self) -> Precision:
        """How the base lies in memory; in float32 as long as ``auto`` is not decided."""
        return Precision(FLOAT32 if self.base_dtype == "auto" else self.base_dtype, self.quantize)

    @property
    def targets(self) -> Targets:
        """The choice among the model's matrices."""
        return Targets(self.target_modules, self.exclude_modules, self.layers)


class BudgetChoices(Choices):
    """What a trial may spend."""

    budget: Count | None = Field(None, description="Trainable parameters a trial may spend")
    budget_rank: Count | None = Field(None, description="Budget as the rank of plain LoRA of the same cost (default 2)")
    objective: Literal["loss", "loss,params"] = Field(
        "loss", description="`loss`, or `loss,params`: the Pareto front of loss and parameters up to the budget"
    )

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        if self.budget is not None and self.budget_rank is not None:
            raise ValueError("--budget and --budget-rank are two ways to say one thing; give one")
        return self

    @property
    def searches_budget(self) -> bool:
        """Whether trials have budgets of their own, up to the one that is given."""
        return self.objective == "loss,params"

    def rank_budget(self, sites: tuple[Site, ...]) -> RankBudget:
        """Return the budget on a model.

        Raises:
            ValueError: It buys no rank at all on this model.
        """
        if self.budget is None:
            try:
                return RankBudget.like_uniform(self.budget_rank or 2, sites)
            except ValueError as error:
                raise ValueError(f"--budget-rank {self.budget_rank}: {error}; lower it") from error
        cheapest = min(site.cost for site in sites)
        if self.budget < cheapest:
            raise ValueError(f"--budget {self.budget} is too small for any rank: one unit costs at least {cheapest}")
        return RankBudget(self.budget)


class SearchChoices(Choices):
    """Which trials there are."""

    strategies: tuple[str, ...] = Field(
        SEARCHED, description=f"Strategies to compare, with commas between them: {', '.join(STRATEGIES)}"
    )
    official: bool = Field(False, description="Train the five experiments of the seed report instead of searching")
    num_samples: Count = Field(20, description="Trials, the same number for every strategy, give or take one")
    time_limit: str | None = Field(
        None, description="Time for all, report included, as `10h`, `90m` or `2h30m`; trials and seeds follow from it"
    )
    scheduler: Literal["asha", "fifo"] = Field("asha", description="`asha` stops weak trials early, `fifo` none")
    reports: Count = Field(4, description="Evaluations per trial, at most one a step")
    learning_rate: Positive | None = Field(
        None, description="Centre of the searched range (default: short trials of plain LoRA find it)"
    )
    learning_rate_factor: Annotated[float, Field(ge=1)] = Field(
        4.0,
        description="The range is learning rate / factor to learning rate * factor, wider where a best is near its end",
    )
    plain_points: bool = Field(
        True, description="Tell each strategy that has plain LoRA as a point how plain LoRA's two best trials ended"
    )
    seed: Annotated[int, Field(ge=0, le=LARGEST_COUNT)] = Field(
        0, description="Seed of the search, the adapters and the data order"
    )

    @field_validator("strategies", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Take ``baseline,eva`` for two names."""
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list | tuple):
            return value
        return [part for name in names for part in (name.split(",") if isinstance(name, str) else [name])]

    @property
    def time_limit_seconds(self) -> float | None:
        """Seconds that the search may take, its report included; None without a limit."""
        if self.time_limit is None:
            return None
        hours, _, minutes = self.time_limit.rpartition("h")
        return 3600 * float(hours or 0) + 60 * float(minutes.removesuffix("m") or 0)

    @field_validator("time_limit")
    @classmethod
    def _check_time_limit(cls, value: str | None) -> str | None:
        if value is not None and not (re.fullmatch(TIME_PATTERN, value) and re.search("[1-9]", value)):
            raise ValueError("must be as 10h, 90m or 2h30m")
        return value

    @field_validator("strategies")
    @classmethod
    def _check_strategies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in STRATEGIES:
                raise ValueError(f"unknown strategy {name!r}; known: {', '.join(STRATEGIES)}")
        if not value or len(set(value)) != len(value):
            raise ValueError(f"name each strategy once, got {', '.join(value) or 'none'}")
        return value


class TrainingChoices(Choices):
    """How a trial trains."""

    epochs: Annotated[float, Field(gt=0, le=1e6)] = Field(3.0, description="Passes over the training split")
    batch_size: Count = Field(8, description="Examples per optimizer step")
    scaling: Literal["constant", "alpha/r", "alpha/sqrt(r)", "search"] = Field(
        "constant", description="How an adapter's scale depends on its rank"
    )
    scale: Positive = Field(2.0, description="The adapter's scale at the mean rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Dropout before A")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="AdamW's weight decay")
    clip_norm: Positive = Field(1.0, description="Largest gradient norm")


class VerdictChoices(Choices):
    """How what was found is confirmed."""

    confirm_seeds: Seeds = Field(
        3,
        description="Fresh seeds from which the best of each strategy is trained again for the verdict; 0 gives none, "
        "`auto` looks at 5, 10, 20 and 40 and stops when nothing is left to tell",
    )
    sizes: bool = Field(
        True,
        description="Train plain LoRA of half and double the budget, too, to say what differences are worth",
    )
    thorough: bool = Field(
        False,
        description="Search the strongest rivals, too, in trials of their own: plain, random and layer_lr; and train "
        "plain LoRA of a quarter to four times the budget",
    )
    margin: Annotated[Positive | Annotated[str, Field(pattern=MARGIN_PATTERN)], BeforeValidator(number_or_word)] = (
        Field(
            f"0.25{DOUBLINGS}",
            description="Difference that does not matter: nats per token, or a share of what doubling plain LoRA gains",
        )
    )


class StorageChoices(Choices):
    """Where results go."""

    mlflow_uri: str | None = Field(
        None, description="MLflow server (default: MLFLOW_TRACKING_URI, else SQLite in the runs folder)"
    )
    runs_dir: str = Field("runs", description="Folder of all runs")
    name: str | None = Field(None, description="Name of the run folder (default: date and time)")

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        if value is not None and not re.match(NAME_PATTERN, value):
            raise ValueError(f"{value!r} must be one folder name: letters, digits, '.', '_', '-', at most 100")
        return value

    @model_validator(mode="after")
    def _check_server(self) -> Self:
        if self.mlflow_uri is not None and not re.match(MLFLOW_URI, self.mlflow_uri):
            raise ValueError(
                f"--mlflow-uri {self.mlflow_uri}: must be as http://HOST:5000, https://..., sqlite:///..., "
                f"postgresql://..., mysql://... or mssql://..., or databricks"
            )
        return self

    @property
    def run_dir(self) -> Path:
        """The folder of this run; the name must be known."""
        if self.name is None:
            raise ValueError("the run has no name yet")
        return Path(self.runs_dir).resolve() / self.name
