"""How long a row may be."""

import pytest
from transformers import CONFIG_MAPPING

from tests.zoo import KINDS
from trainables.models.context import Context


@pytest.mark.parametrize(
    ("model_type", "choices", "tokens"),
    [
        ("gpt2", {"n_positions": 512}, 512),
        ("llama", {"max_position_embeddings": 4096}, 4096),
        ("bloom", {}, None),
        ("mamba", {}, None),
        ("mpt", {"max_seq_len": 2048}, 2048),
        ("gemma3", {"text_config": {"max_position_embeddings": 64}}, 64),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0,
                                       "original_max_position_embeddings": 32}}, 32),
        ("llama", {"max_position_embeddings": 64,
                   "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, 64),
    ],
)  # fmt: skip
def test_the_limit_is_the_configurations_and_none_where_it_has_none(model_type, choices, tokens):
    assert Context.of(CONFIG_MAPPING[model_type](**choices)).tokens == tokens


def test_rows_end_where_a_model_would_compute_their_neighbours_otherwise():
    model_type, choices = KINDS["phi3"]
    context = Context.of(CONFIG_MAPPING[model_type](**choices))
    assert (context.tokens, "longrope" in context.why) == (16, True)
