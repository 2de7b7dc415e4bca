"""Of every kind of model, what is handed out has the loss that was measured, for plain Transformers and PEFT."""

import pytest

from tests.handed_out import differing, saved, trained
from tests.zoo import KINDS, MORE

REFUSED = {"xlnet": "its tokens see later ones"}
NOT_MERGED = {"zamba2"}
"""They use a block twice; a merged model of them is noticed to be another."""


@pytest.mark.parametrize("kind", [*KINDS, *(pytest.param(kind, marks=pytest.mark.thorough) for kind in MORE)])
def test_every_form_is_what_was_measured(kind, tiny_tokenizer, tmp_path):
    if kind in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[kind]):
            saved(kind, tiny_tokenizer, tmp_path / "model")
        return
    base = saved(kind, tiny_tokenizer, tmp_path / "model")
    others = differing(str(tmp_path / "model"), base, trained(base), tmp_path)
    assert others == (("merged",) if kind in NOT_MERGED else ())
