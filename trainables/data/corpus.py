"""All documents of a search: read, told apart, and counted."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trainables.data.formats import DUPLICATE, EMPTY, Document, documents_of, is_wanted
from trainables.data.locations import located, read_tables
from trainables.data.source import DataSource
from trainables.models import hub


@dataclass(frozen=True, slots=True)
class Corpus:
    """What was read.

    Args:
        documents: Distinct documents of the data set.
        others: Split -> the distinct documents that it has for itself; none of them is in another.
        rows: Rows of the data set's files, those that were left out included.
        left_out: Reason -> rows of all files that give no document.
    """

    documents: list[Document]
    others: Mapping[str, list[Document]]
    rows: int
    left_out: Mapping[str, int]

    @property
    def all_documents(self) -> list[Document]:
        """The documents of all files."""
        return [*self.documents, *(document for documents in self.others.values() for document in documents)]


def read_corpus(source: DataSource) -> Corpus:
    """Read all files. A document that a split has for itself is in no other: the test split's come first.

    Raises:
        ValueError: A file is missing, empty, not UTF-8, of an unknown kind, or lacks a column.
    """
    left_out: Counter[str] = Counter()
    taken: dict[Document, str] = {}
    others = {}
    for split in sorted(source.others):  # test before validation
        documents, _ = _distinct(source, split, taken, left_out)
        others[split] = documents
        taken.update(dict.fromkeys(documents, split))
    documents, rows = _distinct(source, None, taken, left_out)
    return Corpus(documents, others, rows, dict(left_out))


def read_documents(source: DataSource) -> list[Document]:
    """Return the distinct documents of the data set, as ``read_corpus``."""
    return read_corpus(source).documents


def _distinct(
    source: DataSource, split: str | None, taken: Mapping[Document, str], left_out: Counter[str]
) -> tuple[list[Document], int]:
    """Return the documents that no other split has, each once, and the number of rows."""
    flag, dataset = (f"--{split}-dataset", source.others[split]) if split else ("--dataset", source.dataset)
    before = sum(left_out.values())
    read = list(_read(source, flag, dataset, split, left_out))
    rows = len(read) + sum(left_out.values()) - before
    kept: dict[Document, None] = {}
    for document in read:
        if document in taken:
            left_out[f"also in --{taken[document]}-dataset"] += 1
        elif document in kept:
            left_out[DUPLICATE] += 1
        elif not document.text.strip():
            left_out[EMPTY] += 1
        else:
            kept[document] = None
    if not kept:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        raise ValueError(f"{flag} {dataset}: no text in it{f' ({reasons})' if reasons else ''}; give one with some")
    return list(kept), rows


def _read(source: DataSource, flag: str, dataset: str, split: str | None, left_out: Counter[str]) -> Iterator[Document]:
    if dataset == source.dataset and source.is_bundled:
        from pydoc_data.topics import topics

        yield from (Document("", text, "bundled") for _, text in sorted(topics.items()))
        return
    hub_split = source.dataset_split if split is None else split
    is_same = hub.split(dataset)[0] == hub.split(source.dataset)[0]  # another has other configurations
    config = source.dataset_config if is_same else None
    for table in read_tables(flag, dataset, partial(is_wanted, source), config, hub_split):
        with located(table.place):
            yield from documents_of(source, table, left_out)


def sha256_of(source: DataSource, corpus: Corpus) -> str:
    """Return a digest of all texts of a source, and of the template that was given for them."""
    template = source.chat_template
    given = [Document("", Path(template).read_text(encoding="utf-8"))] if template else []
    return corpus_sha256([*corpus.all_documents, *given])


def corpus_sha256(documents: Sequence[Document]) -> str:
    """Return a digest of all texts, in order."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(f"{document.prompt}\0{document.text}\0{document.tools}".encode())
        if document.system:
            digest.update(f"\0{document.system}".encode())
    return digest.hexdigest()
