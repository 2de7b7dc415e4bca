"""Vectors of tokens, whatever form a model passes them in; and evidence on models that pass them otherwise."""

import pytest
import torch

from strategies import RankBudget
from tests.zoo import built
from trainables.data.collate import collate
from trainables.data.splits import Example
from trainables.engine.soundness import sound_coverage
from trainables.evidence import importance, input_pca
from trainables.evidence.site_inputs import vectors_of_tokens
from trainables.models.base_model import BaseModel
from trainables.models.matrices import coverage_of

WANTED = torch.tensor([[True, True, False], [False, True, False]])
GIVEN = torch.arange(12.0).view(2, 3, 2)
VECTORS = [[0, 1], [2, 3], [8, 9]]


@pytest.mark.parametrize(
    "given",
    [GIVEN, GIVEN.view(6, 2), GIVEN[None], GIVEN[:, None], GIVEN[:, :, None]],
    ids=lambda given: str(given.ndim),
)
def test_the_wanted_tokens_vectors_come_in_the_tokens_order(given):
    assert vectors_of_tokens(given, WANTED).tolist() == VECTORS


def test_a_token_has_a_vector_for_each_stream():
    vectors = vectors_of_tokens(torch.stack([GIVEN, -GIVEN]), WANTED)
    assert vectors.tolist() == [[0, 1], [0, -1], [2, 3], [-2, -3], [8, 9], [-8, -9]]


def test_an_input_without_the_tokens_is_refused():
    with pytest.raises(ValueError, match=r"\(5, 2\) for 2 rows of 3 tokens"):
        vectors_of_tokens(torch.zeros(5, 2), WANTED)


@pytest.mark.parametrize("kind", ["opt", "minicpm3", "gemma3n", "zamba2", "mamba", "qwen2-moe", "bart", "gemma3"])
def test_what_strategies_score_from_is_measured_on_every_kind_of_model(kind, tiny_tokenizer):
    model = built(kind).requires_grad_(False)
    model.config.use_cache = False
    rows = [Example(tuple(range(1 + n, 200 + n, 13)), tuple(range(1 + n, 200 + n, 13))) for n in range(8)]
    base = BaseModel(model, tiny_tokenizer, coverage_of(model), 0, "cpu", False, None)
    base = BaseModel(model, tiny_tokenizer, sound_coverage(base, rows), 0, "cpu", False, None)
    names, batches = {site.name for site in base.sites}, [collate(rows, 0, "cpu")]
    budget = RankBudget.like_uniform(1, base.sites)
    evidence = importance.measure(base, iter(batches), budget).evidence
    assert all(values.keys() == names for values in evidence.values())
    silent = sum(value == 0 for value in evidence["gradient"].values())
    assert silent == (9 if kind == "gemma3n" else 0)
    assert input_pca.measure(base, iter(batches), budget).tensors.keys() == names
