"""Who trains, and with what: the group of a plan's choices about processes, devices and packs."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from trainables.models.device import MPS, given_by
from tuning.plan.choices import LARGEST_COUNT, Choices, Count, number_or_word


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
    cuda_graphs: Literal["auto", "off"] = Field(
        "auto", description="Steps and evaluations of a pack as CUDA graphs, on a GPU of CUDA and without dropout"
    )
    cpus_per_trial: Annotated[float, Field(gt=0, le=10_000)] = Field(
        1.0, description="CPUs per trial, or of a pack; PyTorch gets as many threads"
    )
    gpus_per_trial: Annotated[
        Annotated[float, Field(ge=0, le=10_000)] | Literal["auto", "mps"], BeforeValidator(number_or_word)
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
