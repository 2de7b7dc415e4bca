"""What is trained on: the group of a plan's choices about data."""

from dataclasses import fields
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from trainables.data.source import BUNDLED, DataSource, Format, Learned
from tuning.plan.choices import LARGEST_COUNT, Choices, Count, Share, number_or_word

BUNDLED_EXAMPLES, MOST_EXAMPLES, BUNDLED_LENGTH = 200, 2000, 128
TEST_EXAMPLES, MOST_OF_OWN_FILE = 100, 1000  # a verdict is surer with more, and a test is once per trial


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
    train_examples: Annotated[Count | Share | Literal["all"] | None, BeforeValidator(number_or_word)] = Field(
        None, description="Training examples: a number, a share or `all` (default: 200 of pydoc, else at most 2,000)"
    )
    validation_examples: Count = Field(100, description="Examples that the search compares on")
    test_examples: Count | None = Field(
        None,
        description="Examples that the search never decides by (default: 100; of --test-dataset all, at most 1,000)",
    )
    max_length: Annotated[Annotated[int, Field(ge=2)] | Literal["auto"] | None, BeforeValidator(number_or_word)] = (
        Field(
            None,
            description="Tokens per example, or `auto`: what 99 % of the rows have (default: 128 of pydoc, else auto)",
        )
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
        same = names - {"train_examples", "test_examples", "max_length"}
        tested = TEST_EXAMPLES if self.test_dataset is None else MOST_OF_OWN_FILE
        return DataSource(
            **{name: getattr(self, name) for name in same},
            train_examples=wanted if isinstance(wanted, int) else MOST_EXAMPLES,
            test_examples=self.test_examples or tested,
            train_share=1.0 if wanted == "all" else wanted if isinstance(wanted, float) else None,
            keeps_quarters=not isinstance(wanted, int),
            max_length=length if isinstance(length, int) else LARGEST_COUNT,
            fits_length=not isinstance(length, int),
        )
