"""The choices of a plan, by group: each with its flag's name, its default, and what it may be."""

import re
import sys
import unicodedata
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from analysis.results.messages import has_secret
from analysis.results.run_info import DOUBLINGS, MARGIN_PATTERN
from strategies import SEARCHED, STRATEGIES, RankBudget, Site
from trainables.data.source import BUNDLED, DataSource, Format, Learned
from trainables.models.device import MPS, given_by
from trainables.models.precision import FLOAT32, Precision
from trainables.models.targets import ALL, Targets

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
MLFLOW_URI = r"^(https?://[^/\s]+|(sqlite|postgresql|mysql|mssql)(\+\w+)?:///?[^\s]+|databricks(-uc)?(://\S+)?$)"
LONGEST_TEXT = 4096
YES_OR_NO = ("official", "plain_points", "sizes")
LARGEST_COUNT = 2**31  # confirmation seeds follow the search's, and NumPy takes none above 2**32

Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
BUNDLED_EXAMPLES, MOST_EXAMPLES, BUNDLED_LENGTH = 200, 2000, 128


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


def _number(value: Any) -> Any:
    """Return what text stands for, of a choice that is a number or a word."""
    for kind in (int, float) if isinstance(value, str) else ():
        try:
            return kind(value)
        except ValueError:
            pass
    return value


class Choices(BaseModel):
    """A group of choices. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what would pass for something else: yes for 1, a password in a URI, characters that do not show."""
        if isinstance(value, bool) and info.field_name not in YES_OR_NO:
            raise ValueError("must be a number or text, not yes or no")
        for text in value if isinstance(value, list | tuple) else [value]:
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


class DataChoices(Choices):
    """What is trained on, and how many examples of it."""

    dataset: str = Field(
        BUNDLED,
        description="`pydoc`; a .txt, .json, .jsonl, .csv, .tsv or .parquet file; a folder or pattern; a hub id",
    )
    dataset_revision: str | None = Field(None, description="The same of a hub data set")
    dataset_config: str | None = Field(None, description="Configuration of a hub data set")
    dataset_split: str | None = Field(None, description="Split of a hub data set (default: train)")
    validation_dataset: str | None = Field(None, description="Data to validate on (default: dealt out of --dataset)")
    test_dataset: str | None = Field(None, description="Data to test on (default: dealt out of --dataset)")
    corpus_sha256: str | None = Field(None, description="Digest of all texts; a search on other texts is refused")
    data_format: Format | None = Field(
        None, description="What the columns mean: text, pairs, messages, alpaca or sharegpt (default: by their names)"
    )
    text_column: str | None = Field(None, description="Column with the text to learn (default: `text`)")
    prompt_column: str | None = Field(None, description="Column that is read but not learned")
    completion_column: str | None = Field(None, description="Column that is learned after the prompt")
    messages_column: str | None = Field(None, description="Column with conversations (default: `messages`)")
    template: Literal["auto", "none"] = Field(
        "auto", description="`auto` puts prompts into the model's chat template, `none` takes them as they are"
    )
    chat_template: str | None = Field(None, description="File with a chat template in place of the model's own")
    learn: Learned = Field("assistant", description="What is learned: `assistant`'s turns, its `last` one, or `all`")
    train_examples: Annotated[Count | Share | Literal["all"] | None, BeforeValidator(_number)] = Field(
        None, description="Training examples: a number, a share or `all` (default: 200 of pydoc, else at most 2,000)"
    )
    validation_examples: Count = Field(100, description="Examples that the search compares on")
    test_examples: Count = Field(100, description="Examples that the search never decides by")
    max_length: Annotated[Annotated[int, Field(ge=2)] | Literal["auto"] | None, BeforeValidator(_number)] = Field(
        None, description="Tokens per example, or `auto`: what 99 % of the rows have (default: 128 of pydoc, else auto)"
    )

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        self.data_source()
        return self

    def data_source(self) -> DataSource:
        """Return what the trials read."""
        wanted = self.train_examples
        if wanted is None and self.dataset == BUNDLED:
            wanted = BUNDLED_EXAMPLES
        length = BUNDLED_LENGTH if self.max_length is None and self.dataset == BUNDLED else self.max_length
        names = {item.name for item in fields(DataSource)} & DataChoices.model_fields.keys()
        same = names - {"train_examples", "max_length"}
        return DataSource(
            **{name: getattr(self, name) for name in same},
            train_examples=wanted if isinstance(wanted, int) else MOST_EXAMPLES,
            train_share=1.0 if wanted == "all" else wanted if isinstance(wanted, float) else None,
            keeps_quarters=not isinstance(wanted, int),
            max_length=length if isinstance(length, int) else LARGEST_COUNT,
            fits_length=not isinstance(length, int),
        )


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
    scheduler: Literal["asha", "fifo"] = Field("asha", description="`asha` stops weak trials early, `fifo` none")
    reports: Count = Field(4, description="Evaluations per trial, at most one a step")
    learning_rate: Positive | None = Field(
        None, description="Centre of the searched range (default 0.01 for the bundled model, else 0.0002)"
    )
    learning_rate_factor: Annotated[float, Field(ge=1)] = Field(
        5.0, description="The range is learning rate / factor to learning rate * factor"
    )
    plain_points: bool = Field(
        True, description="Tell each strategy that has plain LoRA as a point how plain LoRA's two best trials ended"
    )
    seed: Annotated[int, Field(ge=0, le=LARGEST_COUNT)] = Field(
        0, description="Seed of the search, the adapters and the data order"
    )

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

    confirm_seeds: Annotated[int, Field(ge=0, le=1000)] = Field(
        3, description="Fresh seeds from which the best of each strategy is trained again for the verdict; 0 gives none"
    )
    sizes: bool = Field(
        True,
        description="Train plain LoRA of half and double the budget, too, to say what differences are worth",
    )
    margin: Annotated[Positive | Annotated[str, Field(pattern=MARGIN_PATTERN)], BeforeValidator(_number)] = Field(
        f"0.25{DOUBLINGS}",
        description="Difference that does not matter: nats per token, or a share of what doubling plain LoRA gains",
    )


class EngineChoices(Choices):
    """Who trains, and with what."""

    isolation: Literal["process", "packed"] = Field(
        "packed", description="`packed`: trials of a device share one base; `process`: a model for each trial"
    )
    pack_size: Count | None = Field(
        None, description="Trials that share a base (default: 1 on CPU; on a GPU what fits, measured, at most 16)"
    )
    gradient_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto", description="Blocks computed twice to save memory; `auto` where it would not suffice otherwise"
    )
    cpus_per_trial: Annotated[float, Field(gt=0, le=10_000)] = Field(
        1.0, description="CPUs per trial, or of a pack; PyTorch gets as many threads"
    )
    gpus_per_trial: Annotated[
        Annotated[float, Field(ge=0, le=10_000)] | Literal["auto", "mps"], BeforeValidator(_number)
    ] = Field(
        "auto",
        description="GPUs per trial, or a share of one; packed, 1 is a GPU for each pack; `auto` takes all there are",
    )
    max_concurrent_trials: Count | None = Field(None, description="Trials at once (default: what the resources allow)")
    max_failures: Annotated[int, Field(ge=0, le=LARGEST_COUNT)] = Field(
        2, description="Restarts of a trial whose process dies"
    )
    ray_address: str | None = Field(None, description="Ray to join (default: start one for this search)")
    dashboard_host: str = Field(
        "127.0.0.1", description="Where a Ray that this search starts has its dashboard; beyond this machine: by token"
    )

    @model_validator(mode="after")
    def _check_packs(self) -> Self:
        if self.gpus > 1:
            whose = "pack" if self.isolation == "packed" else "trial"
            raise ValueError(f"--gpus-per-trial {self.gpus:g}: a {whose} trains on one GPU; give at most 1")
        share = self.gpus if 0 < self.gpus < 1 else None
        if self.pack_size and share and abs(self.pack_size * share - 1) > 0.01:
            raise ValueError(
                f"--pack-size {self.pack_size} with --gpus-per-trial {share:g}: a pack fills one GPU, so their product "
                f"must be 1; give one of them"
            )
        return self

    @property
    def gpus(self) -> float:
        """Ray's GPUs that a trial takes; none as long as ``auto`` is not decided, and none of an Apple chip's."""
        return 0.0 if isinstance(self.gpus_per_trial, str) else self.gpus_per_trial

    @property
    def device(self) -> str:
        """Name of the device that trials train on; CPU as long as ``auto`` is not decided."""
        return given_by(self.gpus_per_trial if self.gpus_per_trial == MPS else self.gpus)

    @property
    def pack_size_is_open(self) -> bool:
        """Whether the number of trials that share a GPU is to be measured."""
        return self.isolation == "packed" and self.pack_size is None and self.gpus == 1

    @property
    def trials_per_pack(self) -> int:
        """How many trials share a process and its base."""
        if self.isolation == "process":
            return 1
        return self.pack_size or (max(1, round(1 / self.gpus)) if self.gpus else 1)

    @property
    def engine(self) -> str:
        """How trials are trained, in words."""
        if self.isolation == "process":
            return "process, a model for each trial"
        if self.trials_per_pack == 1:
            return "packed, one trial after another over the frozen base of each process"
        return f"packed, up to {self.trials_per_pack} trials at once over one frozen base"

    @property
    def trial_resources(self) -> dict[str, float]:
        """What one trial takes of Ray's CPUs and GPUs; a pack's process takes nothing besides."""
        together = self.trials_per_pack
        return {
            "cpu": self.cpus_per_trial / together,
            "gpu": self.gpus / (together if self.gpus == 1 else 1),
        }


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
