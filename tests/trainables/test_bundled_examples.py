"""The bundled data's examples, byte for byte: searches that were made of them can be repeated."""

import hashlib
import pydoc_data.topics

from trainables.data.preparation import prepare
from trainables.data.splits import SPLITS, DataSource, corpus_sha256, load_splits, read_documents

WORDS = [
    "assignment",
    "expression",
    "statement",
    "of",
    "the",
    "language",
    "reference",
    "evaluates",
    "to",
    "an",
    "object",
    "é",
    "✓",
    "3.10",
]
TOPICS = {
    f"topic{number:04}": " ".join(WORDS[(number * step) % len(WORDS)] for step in range(1, 20 + 37 * (number % 11)))
    for number in range(1300)
}
DIGESTS = {
    "corpus": "7c1e873de58edd342d8a6e055645272060a95fec7fb7c89b8afaf5c9a59a9062",
    "train": "f67d9eb3cfa753c5363fd9ee3a8332e790858ca7772f4bcac0d00dbffc884d59",
    "validation": "8ae60d4cef2192afcad52bc748ba5c2d2581075bc32581ccd9677a4b58cce1aa",
    "test": "1de4b7f5a8461ffbfb4a535d0e1dcdfa6b58178ab585fb035d20cc4a3c96b4e5",
}


def test_examples_of_the_bundled_data_are_what_they_always_were(monkeypatch):
    monkeypatch.setattr(pydoc_data.topics, "topics", TOPICS)
    source = DataSource(split_seed=1)  # no other test's, whose splits may be kept
    splits = load_splits(source, "bundled")
    digests = {
        name: hashlib.sha256(
            repr([(e.input_ids, e.labels, e.document) for e in getattr(splits, name)]).encode()
        ).hexdigest()
        for name in SPLITS
    }
    prepare.cache_clear()
    assert {"corpus": corpus_sha256(read_documents(source)), **digests} == DIGESTS
