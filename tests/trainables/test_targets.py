"""Choosing among a model's matrices, as PEFT does."""

import peft
import pytest
from peft.tuners.tuners_utils import check_target_module_exists

from tests.zoo import skeleton
from trainables.models.matrices import coverage_of
from trainables.models.targets import Targets

COVERAGE = coverage_of(skeleton("llama"))
NAMES = [site.name for site in COVERAGE.sites]


def chosen(**choices):
    return [site.name for site in Targets(**choices).among(COVERAGE).sites]


def test_all_are_chosen_by_default():
    assert Targets().among(COVERAGE) is COVERAGE


@pytest.mark.parametrize(
    ("modules", "exclude"),
    [
        (["q_proj", "v_proj"], None),
        (["self_attn.q_proj", "up_proj"], ["1.mlp.up_proj"]),
        (r".*\.(q|k)_proj", None),
        (["down_proj"], r".*\.[02]\..*"),
        (["model.layers.1.mlp.down_proj"], None),
    ],
)
def test_names_and_regexes_mean_what_they_mean_to_peft(modules, exclude):
    config = peft.LoraConfig(target_modules=modules, exclude_modules=exclude)
    expected = [name for name in NAMES if bool(check_target_module_exists(config, name))]
    assert expected
    given = {"modules": modules, "exclude": exclude or ()}
    assert chosen(**{n: (v,) if isinstance(v, str) else tuple(v) for n, v in given.items()}) == expected


def test_layers_are_numbers_and_ranges_of_them():
    assert {name.split(".")[2] for name in chosen(layers="0,2-3")} == {"0", "2", "3"}
    assert chosen(layers="1", modules=("o_proj",)) == ["model.layers.1.self_attn.o_proj"]


def test_what_was_not_chosen_is_named():
    coverage = Targets(modules=("q_proj",)).among(COVERAGE)
    assert str(coverage).endswith("left out: 24 matrices (not chosen)")


@pytest.mark.parametrize(
    ("choices", "culprit"),
    [
        ({"modules": ("c_attn",)}, "--target-modules c_attn: no such matrix can be adapted; there are down_proj, "),
        ({"exclude": ("lm_head",)}, "--exclude-modules lm_head"),
        ({"modules": ("(",)}, r"--target-modules \(: no regex"),
        ({"layers": "4"}, "--layers 4: the model's blocks are 0 to 3"),
        ({"layers": "x"}, "--layers x"),
        ({"layers": "1-"}, "--layers 1-"),
        ({"layers": "3-1"}, "--layers 3-1: 3-1 runs backwards; give 1-3"),
        ({"layers": "3-2,1"}, "--layers 3-2,1: 3-2 runs backwards; give 2-3"),
        ({"modules": ("q_proj",), "exclude": ("q_proj",)}, "leave no matrix"),
    ],
)
def test_a_choice_that_means_nothing_is_refused(choices, culprit):
    with pytest.raises(ValueError, match=culprit):
        chosen(**choices)
