"""Every choice a user makes. Flags, YAML and plan.json all come from ``SearchPlan``."""

import re
import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from analysis.results.messages import has_secret
from strategies import CONTROLS, SEARCHED, STRATEGIES, RankBudget, Site
from strategies.baseline import Baseline
from strategies.official import OFFICIAL
from trainables.data.splits import DataSource
from trainables.spec import Workload

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
BUNDLED_LEARNING_RATE = 1e-2
USUAL_LEARNING_RATE = 2e-4

LOWEST_LEARNING_RATE, HIGHEST_LEARNING_RATE = 1e-12, 100.0
MLFLOW_URI = r"^(https?://[^/\s]+|(sqlite|postgresql|mysql|mssql)(\+\w+)?:///?[^\s]+|databricks(-uc)?(://\S+)?$)"
LONGEST_TEXT = 4096
LARGEST_COUNT = 2**31  # confirmation seeds follow the search's, and NumPy takes none above 2**32
SEARCH_ONLY = ("budget", "budget_rank", "objective", "strategies", "num_samples", "confirm_seeds")

Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Positive = Annotated[float, Field(gt=0)]


def _check_text(text: str) -> None:
    if has_secret(text):
        raise ValueError(
            "a password in a URI would be saved and logged; leave it out and set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN, PGPASSWORD, RAY_AUTH_TOKEN or HF_TOKEN"
        )
    hidden = next((sign for sign in text if unicodedata.category(sign) in {"Cc", "Cs", "Zl", "Zp"}), None)
    if hidden is not None:
        raise ValueError(f"must be printable UTF-8 text, has the character {hidden!r}")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"has {len(text):,} characters; at most {LONGEST_TEXT:,} are taken")


class SearchPlan(BaseModel):
    """What is searched, on what, with what. Unknown keys are refused; every default is in one place, here."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = Field("bundled", description="`bundled`, a local model directory or a hub id")
    model_revision: str | None = Field(
        None, description="Branch, tag or commit of a hub model; the commit is saved (default: the main branch)"
    )
    dataset: str = Field("pydoc", description="`pydoc`, a .txt, .jsonl, .csv or .parquet file, or a hub id")
    dataset_revision: str | None = Field(None, description="The same of a hub data set")
    corpus_sha256: str | None = Field(None, description="Digest of all texts; a search on other texts is refused")
    text_column: str = Field("text", description="Column with the text to learn")
    prompt_column: str | None = Field(None, description="Column that is read but not learned")
    completion_column: str | None = Field(None, description="Column that is learned after the prompt")
    train_examples: Count = Field(200, description="Examples of the training split")
    validation_examples: Count = Field(100, description="Examples that the search compares on")
    test_examples: Count = Field(100, description="Examples that the search never decides by")
    max_length: Annotated[int, Field(ge=2)] = Field(128, description="Tokens per example")
    epochs: Annotated[float, Field(gt=0, le=1e6)] = Field(3.0, description="Passes over the training split")
    batch_size: Count = Field(8, description="Examples per optimizer step")
    budget: Count | None = Field(None, description="Trainable parameters a trial may spend")
    budget_rank: Count | None = Field(None, description="Budget as the rank of plain LoRA of the same cost (default 2)")
    objective: Literal["loss", "loss,params"] = Field(
        "loss", description="`loss`, or `loss,params`: the Pareto front of loss and parameters up to the budget"
    )
    strategies: tuple[str, ...] = Field(SEARCHED, description="Strategies to compare; repeat the flag")
    official: bool = Field(False, description="Train the five experiments of the seed report instead of searching")
    num_samples: Count = Field(20, description="Trials, the same number for every strategy, give or take one")
    confirm_seeds: Annotated[int, Field(ge=0, le=1000)] = Field(
        3, description="Fresh seeds from which the best of each strategy is trained again for the verdict; 0 gives none"
    )
    margin: Positive = Field(0.01, description="Difference in test loss that does not matter, in nats per token")
    scheduler: Literal["asha", "fifo"] = Field("asha", description="`asha` stops weak trials early, `fifo` none")
    reports: Count = Field(4, description="Evaluations per trial, at most one a step")
    learning_rate: Positive | None = Field(
        None, description="Centre of the searched range (default 0.01 for the bundled model, else 0.0002)"
    )
    learning_rate_factor: Annotated[float, Field(ge=1)] = Field(
        5.0, description="The range is learning rate / factor to learning rate * factor"
    )
    scaling: Literal["constant", "alpha/r", "alpha/sqrt(r)", "search"] = Field(
        "constant", description="How an adapter's scale depends on its rank"
    )
    scale: Positive = Field(2.0, description="The adapter's scale at the mean rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Dropout before A")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="AdamW's weight decay")
    clip_norm: Positive = Field(1.0, description="Largest gradient norm")
    seed: Annotated[int, Field(ge=0, le=LARGEST_COUNT)] = Field(
        0, description="Seed of the search, the adapters and the data order"
    )
    isolation: Literal["process", "packed"] = Field(
        "packed", description="`packed`: trials of a device share one base; `process`: a model for each trial"
    )
    pack_size: Count | None = Field(
        None, description="Trials that share a base (default: 1 on CPU; on a GPU what fits, measured, at most 16)"
    )
    cpus_per_trial: Annotated[float, Field(gt=0, le=10_000)] = Field(
        1.0, description="CPUs per trial, or of a pack; PyTorch gets as many threads"
    )
    gpus_per_trial: Annotated[float, Field(ge=0, le=10_000)] = Field(
        0.0, description="GPUs per trial, fractions allowed; packed, 1 is a GPU for each pack"
    )
    max_concurrent_trials: Count | None = Field(None, description="Trials at once (default: what the resources allow)")
    max_failures: Annotated[int, Field(ge=0, le=LARGEST_COUNT)] = Field(
        2, description="Restarts of a trial whose process dies"
    )
    ray_address: str | None = Field(None, description="Ray to join (default: start one for this search)")
    dashboard_host: str = Field(
        "127.0.0.1", description="Where a Ray that this search starts has its dashboard; beyond this machine: by token"
    )
    mlflow_uri: str | None = Field(
        None, description="MLflow server (default: MLFLOW_TRACKING_URI, else SQLite in the runs folder)"
    )
    runs_dir: str = Field("runs", description="Folder of all runs")
    name: str | None = Field(None, description="Name of the run folder (default: date and time)")

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what would pass for something else: yes for 1, a password in a URI, characters that do not show."""
        if isinstance(value, bool) and info.field_name != "official":
            raise ValueError("must be a number or text, not yes or no")
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str):
                _check_text(text)
                if not text.strip():
                    raise ValueError("must not be empty; leave it out for its default")
        return value

    @field_validator("strategies")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in STRATEGIES:
                raise ValueError(f"unknown strategy {name!r}; known: {', '.join(STRATEGIES)}")
        if not value or len(set(value)) != len(value):
            raise ValueError(f"name each strategy once, got {', '.join(value) or 'none'}")
        return value

    @field_validator("name")
    @classmethod
    def _one_folder(cls, value: str | None) -> str | None:
        if value is not None and not re.match(NAME_PATTERN, value):
            raise ValueError(f"{value!r} must be one folder name: letters, digits, '.', '_', '-', at most 100")
        return value

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.budget is not None and self.budget_rank is not None:
            raise ValueError("--budget and --budget-rank are two ways to say one thing; give one")
        self._check_official()
        if self.confirm_seeds and len(self.strategies) > 1 and Baseline.name not in self.strategies:
            raise ValueError(
                f"--strategies {', '.join(self.strategies)}: the verdict compares with plain LoRA; add --strategies "
                f"{Baseline.name}, or give --confirm-seeds 0"
            )
        self.data_source()
        self._check_ranges()
        if self.isolation == "packed" and self.gpus_per_trial > 1:
            raise ValueError(f"--gpus-per-trial {self.gpus_per_trial:g}: a pack trains on one GPU; give at most 1")
        share = self.gpus_per_trial if 0 < self.gpus_per_trial < 1 else None
        if self.pack_size and share and abs(self.pack_size * share - 1) > 0.01:
            raise ValueError(
                f"--pack-size {self.pack_size} with --gpus-per-trial {share:g}: a pack fills one GPU, so their product "
                f"must be 1; give one of them"
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

    def _check_ranges(self) -> None:
        low = self.centre_learning_rate / self.learning_rate_factor
        high = self.centre_learning_rate * self.learning_rate_factor
        if not (low >= LOWEST_LEARNING_RATE and high < HIGHEST_LEARNING_RATE):
            raise ValueError(
                f"--learning-rate {self.centre_learning_rate:g} with --learning-rate-factor "
                f"{self.learning_rate_factor:g}: the range is {low:g} to {high:g}; keep it within "
                f"{LOWEST_LEARNING_RATE:g} to {HIGHEST_LEARNING_RATE:g}"
            )
        if self.batch_size > self.train_examples:
            raise ValueError(
                f"--batch-size {self.batch_size}: more than --train-examples {self.train_examples}; lower it"
            )
        if self.mlflow_uri is not None and not re.match(MLFLOW_URI, self.mlflow_uri):
            raise ValueError(
                f"--mlflow-uri {self.mlflow_uri}: must be as http://HOST:5000, https://..., sqlite:///..., "
                f"postgresql://..., mysql://... or mssql://..., or databricks"
            )

    @property
    def centre_learning_rate(self) -> float:
        """The learning rate that is tried first for every strategy."""
        if self.learning_rate is not None:
            return self.learning_rate
        return BUNDLED_LEARNING_RATE if self.model == "bundled" else USUAL_LEARNING_RATE

    @property
    def searches_budget(self) -> bool:
        """Whether trials have budgets of their own, up to the one that is given."""
        return self.objective == "loss,params"

    @property
    def most_confirmations(self) -> int:
        """How many confirmation runs there can be, those of controls included."""
        if self.official or Baseline.name not in self.strategies or len(self.strategies) < 2:
            return 0
        rivals = len(self.strategies) - 1
        sizes, smaller_plain = (2, 1) if self.searches_budget else (1, 0)
        return self.confirm_seeds * (1 + smaller_plain + sizes * rivals * (1 + len(CONTROLS)))

    @property
    def trials(self) -> int:
        """How many trials are trained."""
        return len(OFFICIAL) if self.official else self.num_samples

    @property
    def pack_size_is_open(self) -> bool:
        """Whether the number of trials that share a GPU is to be measured."""
        return self.isolation == "packed" and self.pack_size is None and self.gpus_per_trial == 1

    @property
    def trials_per_pack(self) -> int:
        """How many trials share a process and its base."""
        if self.isolation == "process":
            return 1
        return self.pack_size or (max(1, round(1 / self.gpus_per_trial)) if self.gpus_per_trial else 1)

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
            "gpu": self.gpus_per_trial / (together if self.gpus_per_trial == 1 else 1),
        }

    @property
    def run_dir(self) -> Path:
        """The folder of this run; the name must be known."""
        if self.name is None:
            raise ValueError("the run has no name yet")
        return Path(self.runs_dir).resolve() / self.name

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
        return RankBudget(self.budget, high=min(max(s.d_in for s in sites), max(s.d_out for s in sites)))

    def data_source(self) -> DataSource:
        """Return what the trials read."""
        return DataSource(**{name: getattr(self, name) for name in DataSource.__slots__ if name != "split_seed"})

    def workload(self, budget: RankBudget) -> Workload:
        """Return what all trials share; evidence is added once it is measured."""
        shared = ("model", "epochs", "batch_size", "reports", "scale", "dropout", "weight_decay", "clip_norm")
        return Workload(
            data=self.data_source(),
            budget=budget,
            threads=max(1, int(self.cpus_per_trial)),
            device="cuda" if self.gpus_per_trial else "cpu",
            pack_size=self.trials_per_pack,
            **{name: getattr(self, name) for name in shared},
        )
