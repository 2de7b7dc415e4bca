"""What models of Transformers would read back from a device in every pass, and are told instead."""

import pytest
import torch
from transformers import masking_utils

from tests.zoo import built
from trainables.models import transformers_compat
from trainables.models.transformers_compat import rows_known, without_warning_of_padding

ONE = torch.arange(5).repeat(2, 1)
SEVERAL = torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 0]])


def test_rows_are_numbered_as_transformers_numbers_them():
    itself = getattr(masking_utils, transformers_compat.PACKED)
    assert itself(ONE) is None
    with rows_known(joined=False):
        assert masking_utils.find_packed_sequence_indices(ONE) is None
    with rows_known(joined=True):
        assert torch.equal(masking_utils.find_packed_sequence_indices(SEVERAL), itself(SEVERAL))
    assert masking_utils.find_packed_sequence_indices is itself


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_model_asks_for_it_and_computes_the_same(kind):
    model = built(kind)
    model.config.use_cache = False
    ids = torch.arange(10).view(2, 5)
    for joined, positions in ((False, ONE), (True, SEVERAL)):
        expected = model(ids, position_ids=positions).logits
        with rows_known(joined):
            assert torch.equal(model(ids, position_ids=positions).logits, expected)
    with rows_known(joined=False):
        assert not torch.equal(model(ids, position_ids=SEVERAL).logits, expected), "it does not ask"


def test_gpt2_looks_for_padding_until_it_is_told_not_to(monkeypatch):
    model, looked = built("gpt2"), []
    monkeypatch.setattr(
        type(model.base_model), transformers_compat.WARNING, lambda *arguments: looked.append(arguments)
    )
    model(torch.arange(4)[None])
    assert looked
    looked.clear()
    without_warning_of_padding(model)
    model(torch.arange(4)[None])
    assert not looked
