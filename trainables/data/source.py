"""What was asked for: where examples come from, how many, how long, and what of them is learned."""

from dataclasses import dataclass, fields
from typing import Literal

from trainables.data.text_files import kind_of

Format = Literal["text", "pairs", "messages", "alpaca", "sharegpt"]
Learned = Literal["assistant", "last", "all"]
BUNDLED = "pydoc"
FORMATS: dict[str, tuple[Format, ...]] = {
    "--text-column": ("text",),
    "--prompt-column": ("pairs",),
    "--messages-column": ("messages", "sharegpt"),
}
"""Flag that names a column -> the formats that have it."""


@dataclass(frozen=True, slots=True)
class DataSource:
    """The source of the examples, and their number.

    Args:
        dataset: ``pydoc`` (Python's language reference), a file, a folder or pattern of files, or a hub id.
        dataset_config: Configuration of a hub data set.
        dataset_split: Split of a hub data set.
        validation_dataset: Where validation examples come from; None deals them out of ``dataset``.
        test_dataset: Likewise for test examples.
        data_format: What the columns mean; None has it recognised by their names.
        text_column: The column to learn, for tables without prompts.
        prompt_column: Column that is read but not learned; needs ``completion_column``.
        completion_column: Column that is learned.
        messages_column: Column with conversations.
        template: ``auto`` puts pairs into the model's chat template, ``none`` takes them as they are.
        chat_template: File with a template in place of the model's own.
        learn: Which turns of a conversation are learned.
        train_examples: Examples of the training split, at most; likewise the other two.
        train_share: Share of all examples that the training split is to have; None goes by the number. 1 takes all that
            validation and test leave.
        keeps_quarters: Where there is too little for all, validation and test get a quarter each.
        max_length: Tokens per example. Longer texts are cut into several examples, longer completions are cut off. Of a
            text of millions of characters, only as much as all splits together could use is read.
        fits_length: Whether ``max_length`` is a limit only, and the length follows from the data.
        split_seed: Seed of the split.
    """

    dataset: str = BUNDLED
    text_column: str | None = None
    prompt_column: str | None = None
    completion_column: str | None = None
    train_examples: int = 200
    validation_examples: int = 100
    test_examples: int = 100
    max_length: int = 128
    split_seed: int = 0
    dataset_config: str | None = None
    dataset_split: str | None = None
    validation_dataset: str | None = None
    test_dataset: str | None = None
    data_format: Format | None = None
    messages_column: str | None = None
    template: Literal["auto", "none"] = "auto"
    chat_template: str | None = None
    learn: Learned = "assistant"
    train_share: float | None = None
    keeps_quarters: bool = False
    fits_length: bool = False

    def __post_init__(self) -> None:
        if (self.prompt_column is None) != (self.completion_column is None):
            raise ValueError("--prompt-column and --completion-column go together; give both or neither")
        if self.template == "none" and self.chat_template is not None:
            raise ValueError(f"--chat-template {self.chat_template}: --template none uses none; give one of them")
        self._check_one_format()
        if self.is_bundled or kind_of(self.dataset) == ".txt":
            self._check_no_columns()
        if self.is_bundled:
            self._check_bundled()

    def _check_one_format(self) -> None:
        """Check that flags name one format; ``text`` beside prompts is what plans were saved with."""
        flags = self._columns
        if len(flags) > 1 and self.text_column == "text":
            del flags["--text-column"]
        if len(flags) > 1:
            first, second = list(flags)[:2]
            raise ValueError(f"{first} and {second}: each names a format of its own; give one of them")
        for flag in flags if self.data_format else ():
            if self.data_format not in FORMATS[flag]:
                raise ValueError(f"{flag} and --data-format {self.data_format}: two formats; give one of them")

    @property
    def _columns(self) -> dict[str, str]:
        """Flag -> the column that it names."""
        columns = {
            "--text-column": self.text_column,
            "--prompt-column": self.prompt_column,
            "--messages-column": self.messages_column,
        }
        return {flag: column for flag, column in columns.items() if column is not None}

    def _check_no_columns(self) -> None:
        if self.for_columns is not None:
            raise ValueError(f"{self.for_columns}: --dataset {self.dataset} has no columns; leave it out")

    @property
    def for_columns(self) -> str | None:
        """A flag and its value that only tables heed; None if there is none. Plans have the column ``text`` without."""
        flags = {flag: column for flag, column in self._columns.items() if column != "text"}
        if self.data_format not in {None, "text"} and not self.is_bundled:
            flags["--data-format"] = str(self.data_format)
        return next((f"{flag} {value}" for flag, value in flags.items()), None)

    def _check_bundled(self) -> None:
        for item in fields(self):
            if item.name in FOR_FILES and getattr(self, item.name) != item.default:
                flag = f"--{item.name.replace('_', '-')} {getattr(self, item.name)}"
                raise ValueError(f"{flag}: --dataset {self.dataset} has plain texts of its own; leave it out")

    @property
    def is_bundled(self) -> bool:
        """Whether the texts are Python's own."""
        return self.dataset == BUNDLED

    @property
    def others(self) -> dict[str, str]:
        """Split -> the data set that it has for itself."""
        datasets = {"validation": self.validation_dataset, "test": self.test_dataset}
        return {split: dataset for split, dataset in datasets.items() if dataset is not None}


FOR_FILES = (
    "dataset_config", "dataset_split", "validation_dataset", "test_dataset", "data_format", "template", "chat_template",
    "learn",
)  # fmt: skip
