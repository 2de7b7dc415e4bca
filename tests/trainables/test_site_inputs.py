"""Vectors of tokens, whatever form a model passes them in; and evidence on models that pass them otherwise."""

import pytest
import torch

from strategies import RankBudget
from strategies.measurement import NotMeasurable
from tests.zoo import built
from trainables.data.collate import collate
from trainables.data.splits import Example
from trainables.engine.soundness import sound_coverage
from trainables.evidence import importance, input_pca
from trainables.evidence.site_inputs import vectors_of_tokens
from trainables.models.base_model import BaseModel
from trainables.models.coverage import Coverage
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
    with pytest.raises(NotMeasurable, match=r"\(5, 2\) for 2 rows of 3 tokens"):
        vectors_of_tokens(torch.zeros(5, 2), WANTED)


KINDS = ("opt", "minicpm3", "gemma3n", "zamba2", "mamba", "qwen2-moe", "bart", "gemma3", "ctrl", "zaya")
SILENT = {"gemma3n": 9, "zaya": 8}
"""Sites that have no gradient as long as what they are multiplied by is zero."""


@pytest.mark.parametrize("kind", KINDS)
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
    assert silent == SILENT.get(kind, 0)
    components = input_pca.measure(base, iter(batches), budget)
    assert components.tensors.keys() == names
    assert all(0 <= share <= 1 for shares in components.evidence.values() for share in shares.values())


def test_a_site_that_is_never_given_tokens_is_named_by_both_measurements(tiny_tokenizer, monkeypatch):
    model = built("llama").requires_grad_(False)
    model.config.use_cache = False
    mlp = type(model.model.layers[0].mlp)
    monkeypatch.setattr(mlp, "forward", lambda self, x: self.down_proj(self.up_proj(x).mean(1)).unsqueeze(1) + x)
    sites = tuple(site for site in coverage_of(model).sites if "gate_proj" not in site.name)
    base = BaseModel(model, tiny_tokenizer, Coverage(sites), 0, "cpu", False, None)
    rows = [Example(tuple(range(1 + n, 200 + n, 13)), tuple(range(1 + n, 200 + n, 13))) for n in range(8)]
    for measurement in (importance, input_pca):
        with pytest.raises(NotMeasurable, match=r"layers\.0\.mlp\.down_proj: a layer is given \(8, 48\) for 8 rows"):
            measurement.measure(base, iter([collate(rows, 0, "cpu")]), RankBudget.like_uniform(1, sites))
