"""What a report shows of a run and its rows do not have: its choices, and what was found out about them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError
from pydantic.dataclasses import dataclass

from analysis.results import journal
from analysis.results.confinement import HANDED_OUT
from analysis.results.strict_json import parsed

PLAN, FACTS, EVIDENCE, FIGURES = "plan.json", "facts.json", "evidence.json", "figures"
GIVEN = "given"
"""What data and models that a program hands over are called until they are saved, and the folder in that of the run."""
MODEL = "model"
FILES_GIVEN = (MODEL, "dataset", "validation_dataset", "test_dataset")
"""Choices that may be handed over."""
MARGIN = 0.01
"""The difference in loss that does not matter where nothing says which, in nats per token."""
DOUBLINGS = "doublings"
MARGIN_PATTERN = rf"^([0-9]*[.])?[0-9]+{DOUBLINGS}$"
"""Of a margin as a share of what doubling plain LoRA's parameters gains."""


def _planned(default: object = None) -> Any:
    """Return a field that ``plan.json`` has. One that names no file is in ``facts.json``."""
    return field(default=default, metadata={"file": PLAN})


SIZE = {"fraction", "params", "test_loss"}
"""What is said of each size of the winner."""


def _with_sizes(curve: Sequence[Mapping[str, int | float]]) -> Sequence[Mapping[str, int | float]]:
    if not all(point.keys() >= SIZE for point in curve):
        raise ValueError(f"each size must have {', '.join(sorted(SIZE))}")
    return curve


def are_short_trials(trials: Sequence[Mapping[str, float | None]]) -> bool:
    """Return True if each has a learning rate, steps, and a loss, which may be unknown."""
    return all(
        {"learning_rate", "steps", "eval_loss"} <= trial.keys() and None not in (trial["learning_rate"], trial["steps"])
        for trial in trials
    )


def _with_rates(trials: tuple[Mapping[str, float | None], ...]) -> tuple[Mapping[str, float | None], ...]:
    if not are_short_trials(trials):
        raise ValueError("each short trial must have learning_rate, steps, eval_loss")
    return trials


def _with_words(data: Mapping[str, Any]) -> Mapping[str, Any]:
    words = data.get("words", ())
    if not isinstance(words, list | tuple) or not all(isinstance(line, str) for line in words):
        raise ValueError("words must be a list of texts")
    return data


CONTAINING_PLAIN = ("linear_decay", "attention_heavy", "composite", "plain")
"""Of runs that do not say which: strategies that have plain LoRA as one of their points."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a report shows of a run and its rows do not have; every field is named as in its file.

    Args:
        generated: Date and time of the report, as printed; empty as long as there is none.
        train_examples: Training examples.
        epochs: Passes over them.
        margin: Difference in test loss that does not matter, in nats per token or as ``0.25doublings``.
        model: Base model that was adapted.
        dataset: Data that it was trained on.
        corpus_sha256: Digest of all texts.
        model_revision: The model's commit on a hub.
        dataset_revision: That of the data.
        base_dtype: What the base's weights were in while trials trained over it; None is float32.
        quantize: ``nf4`` if the matrices within its blocks were in four bits.
        search_id: Unique among all searches, whatever their names; empty if unknown.
        base_params: Parameters of the base model.
        base_sha256: Digest of the model's files, or its hub id.
        budget_params: Trainable parameters that a trial may spend.
        data: What was used of the data and what was left out: rows, counts, lengths in tokens, shares of rows.
        coverage: Which of the base's matrices were adapted, and why the others were not, in words.
        always_plain: Strategies that could be nothing but plain LoRA on these matrices.
        containing_plain: Strategies that have plain LoRA as one of their points.
        command: Command that started the search.
        versions: Library -> its version; that of this project's code, too.
        engine: How the trials were trained, in words.
        revision: The commit of the code that ran.
        continued: Commands that resumed the search.
        changes: What was allowed to differ then, in words.
        resource_events: What memory, or a time limit, did not allow, in words.
        looks: Number of plans that were judged on the test split, one after the other.
        importance: Strategy -> parameter -> its share of the total importance for the loss.
        base_losses: Loss of the untouched base in nats per token: ``eval_loss`` on the validation split, ``test_loss``
            on the test split; empty if it was not measured.
        bracket: Short trials of plain LoRA by which the centre of all searched learning rates was found:
            ``learning_rate``, ``steps`` and ``eval_loss``, None where it diverged; empty if the rate was given.
        shrink: The winner cut to fewer parameters: ``fraction``, ``params`` and ``test_loss`` of each size.
        samples: Of each of some prompts of the test split, ``prompt`` and who wrote -> the text.
        samples_note: What the prompts are, or why nothing was written; None if nobody was asked to write.
        handed_out: Folder of an adapter -> its loss on the validation split, in nats per token, when plain Transformers
            and PEFT had loaded it, or why there is none.
        seconds: What the search was busy with -> its seconds of wall time, over all of its runs.
        evidence: Kind of evidence -> site -> value, as measured before training: all of ``evidence.json``.
    """

    generated: str = field(default="", metadata={"file": None})
    train_examples: int | None = _planned()
    epochs: float | None = _planned()
    margin: float | Annotated[str, Field(pattern=MARGIN_PATTERN)] = _planned(MARGIN)
    model: str | None = _planned()
    dataset: str | None = _planned()
    corpus_sha256: str | None = _planned()
    model_revision: str | None = _planned()
    dataset_revision: str | None = _planned()
    base_dtype: str | None = _planned()
    quantize: str | None = _planned()
    search_id: str = ""
    base_params: int | None = None
    base_sha256: str | None = None
    budget_params: int | None = None
    data: Annotated[Mapping[str, Any], AfterValidator(_with_words)] = field(default_factory=dict)
    coverage: str | None = None
    always_plain: tuple[str, ...] = ()
    containing_plain: tuple[str, ...] = CONTAINING_PLAIN
    command: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    engine: str | None = None
    revision: str | None = None
    continued: Sequence[str] = ()
    changes: Sequence[str] = ()
    resource_events: Sequence[str] = ()
    looks: int = 0
    importance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    base_losses: Mapping[str, float] = field(default_factory=dict)
    bracket: Annotated[tuple[Mapping[str, float | None], ...], AfterValidator(_with_rates)] = ()
    shrink: Annotated[Sequence[Mapping[str, int | float]], AfterValidator(_with_sizes)] = ()
    samples: tuple[Mapping[str, str], ...] = ()
    samples_note: str | None = None
    handed_out: Mapping[Annotated[str, Field(pattern=HANDED_OUT)], float | str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    evidence: Mapping[str, Mapping[str, float]] = field(default_factory=dict, metadata={"file": EVIDENCE})

    @classmethod
    def of_run(cls, run_dir: Path, generated: str) -> Self:
        """Read ``plan.json`` and, if they are there, ``facts.json`` and ``evidence.json`` of a run.

        Keys that this version does not know are passed over.

        Raises:
            ValueError: There is no plan, or one of the files cannot be read or has a value of a wrong kind.
        """
        plan = _content(run_dir / PLAN, "no plan that can be read; RUN_DIR must be the folder of a run")
        facts, evidence = (_content(run_dir / file) if (run_dir / file).is_file() else {} for file in (FACTS, EVIDENCE))
        try:
            return cls(generated=generated, evidence=evidence, **planned(plan), **_part(FACTS, facts))
        except ValidationError as error:
            problem = error.errors()[0]
            name = str(problem["loc"][0])
            raise ValueError(
                f"{run_dir / FILES[name]}: {name}: {problem['msg']}, got {str(problem['input'])[:40]!r}"
            ) from error

    @property
    def facts(self) -> dict[str, Any]:
        """What ``facts.json`` has of it."""
        return _part(FACTS, asdict(self))


FILES = {item.name: item.metadata.get("file", FACTS) for item in fields(RunInfo)}
"""The file that each field is in; None if it is in none."""


def planned(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of ``RunInfo`` that a plan decides; one that is null there has its default."""
    return {name: value for name, value in _part(PLAN, plan).items() if value is not None}


def in_words(seen: float | str) -> str:
    """Return what became of an adapter that was handed out, a value of ``handed_out``, in words."""
    if isinstance(seen, str):
        return seen
    return f"loaded by plain Transformers and PEFT alone: {seen:.5f} nats per token on the validation split"


def given_in(run_dir: Path, choices: Mapping[str, Any]) -> dict[str, str]:
    """Return choice -> path of what a program handed over and the run folder has, which may have been moved since.

    Args:
        run_dir: Where it is now.
        choices: Those of its plan.
    """
    folder = run_dir.resolve() / GIVEN
    paths = {name: Path(choices[name]) for name in FILES_GIVEN if isinstance(choices.get(name), str)}
    return {
        name: str(folder / path.name)
        for name, path in paths.items()
        if path.parent.name == GIVEN and (folder / path.name).exists()
    }


def _part(file: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name, its_file in FILES.items() if its_file == file and name in values}


def _content(path: Path, complaint: str = "cannot be read") -> dict[str, Any]:
    try:
        content: dict[str, Any] = parsed(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not a mapping")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {complaint} ({error})") from error
    return content


def handed_out_trial(run_dir: Path, handed_out: Mapping[str, float | str] | None = None) -> str | None:
    """Return the id of the trial whose adapter was handed out last; None if a run's record does not say.

    Args:
        run_dir: The folder of the run.
        handed_out: What it is to have been handed out as, as in ``RunInfo``; None for anything.
    """
    path = run_dir / "record.jsonl"
    lines = journal.numbered(path, unsealed=False)[0].values() if path.is_file() else ()
    handouts = [line for line in lines if line.get("event") == "handed_out"]
    if not handouts or handed_out not in (None, handouts[-1].get("folders")):
        return None
    trial = handouts[-1].get("trial_id")
    return trial if isinstance(trial, str) else None
