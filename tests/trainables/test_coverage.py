"""Which matrices of which kinds of models can carry an adapter, and what is said of the others."""

import pytest
import torch

from tests.zoo import skeleton
from trainables.models.matrices import block_names, coverage_of

ALL = ("llama", "gpt2", "gpt-neox", "qwen2", "qwen3", "opt", "falcon", "bloom", "gemma3n", "minicpm3", "phi3", "gemma3")
ROUTED = {"mixtral": (16, 52), "qwen2-moe": (28, 68), "deepseek-v3": (32, 59), "phimoe": (16, 52)}


def _kinds(kind):
    return {site.name: site.kind for site in coverage_of(skeleton(kind)).sites}


@pytest.mark.parametrize("kind", ALL)
def test_every_linear_layer_of_the_text_model_can_carry_an_adapter(kind):
    model = skeleton(kind)
    coverage = coverage_of(model)
    text = model.get_decoder()
    assert len(coverage.sites) == sum(type(module).__name__.endswith(("Linear", "Conv1D")) for module in text.modules())
    assert (coverage.share, coverage.left_out) == (1, ())


@pytest.mark.parametrize("kind", ROUTED)
def test_routed_experts_and_what_chooses_among_them_are_named_and_are_no_sites(kind):
    coverage, (sites, matrices) = coverage_of(skeleton(kind)), ROUTED[kind]
    assert len(coverage.sites) == sites
    assert str(coverage).startswith(f"adapted: {sites} of {matrices} matrices, ")
    assert not any(
        "expert." in site.name.replace("shared_expert", "") or "gate." in site.name for site in coverage.sites
    )
    assert {item.what for item in coverage.left_out} >= {"routers", "matrices of routed experts"}


def test_what_is_said_of_a_model_with_experts_adds_up():
    """Four blocks of attention (3,072), a shared expert (2,304), four experts (6,144), router (128) and gate (32)."""
    coverage = coverage_of(skeleton("qwen2-moe"))
    assert coverage.share == pytest.approx((3072 + 2304) / (3072 + 2304 + 6144 + 128 + 32))
    assert str(coverage) == (
        "adapted: 28 of 68 matrices, 46% of their parameters; left out: 4 routers (they choose experts), "
        "32 matrices of routed experts (each token meets only some of them), 4 gates (they have one row)"
    )


ROUTED_WITH = "adapted: {} matrices, {} of their parameters; left out: {}"
EXPERTS = "matrices of routed experts (each token meets only some of them)"
ROUTERS = "4 routers (they choose experts)"


@pytest.mark.parametrize(
    ("kind", "adapted", "share", "left_out"),
    [
        # all experts of a layer are one tensor of two axes
        ("dbrx", "8 of 60", "33%", f"{ROUTERS}, 48 {EXPERTS}"),
        # biases of experts are vectors, though there is one for each
        ("gpt_oss", "16 of 52", "14%", f"{ROUTERS}, 32 {EXPERTS}"),
        # routers of four matrices, of which the last has a row more than there are experts
        ("zaya", "20 of 68", "30%", f"16 matrices of routers (they choose experts), 32 {EXPERTS}"),
        # a shared expert that is as wide as there are experts
        ("qwen3_next", "25 of 161", "19%", f"{ROUTERS}, 128 {EXPERTS}, 4 gates (they have one row)"),
        # experts that stand in the block itself, where keys and values have as many rows
        ("gemma4_text", "37 of 169", "25%", f"{ROUTERS}, 128 {EXPERTS}"),
        # shared experts in tensors, which the router weighs, too
        ("inkling_text", "20 of 80", "30%",
         f"{ROUTERS}, 32 {EXPERTS}, 24 matrices of shared experts (they are no linear layers)"),
    ],
)  # fmt: skip
def test_experts_and_routers_are_told_apart_whatever_their_form(kind, adapted, share, left_out):
    assert str(coverage_of(skeleton(kind))) == ROUTED_WITH.format(adapted, share, left_out)


class Routed(torch.nn.Module):
    """Experts, and a layer beside them that has a row for each; nothing is called a router."""

    def __init__(self):
        super().__init__()
        self.experts = torch.nn.ModuleList(torch.nn.Linear(4, 5) for _ in range(3))
        self.choice, self.shared = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)


def test_a_router_that_is_called_otherwise_is_known_by_a_row_for_each_expert():
    model = Model()
    model.layers = torch.nn.ModuleList([Block(Routed())])
    coverage = coverage_of(model)
    assert [site.name for site in coverage.sites] == ["layers.0.mixer.shared"]
    assert [str(item) for item in coverage.left_out] == [
        "3 matrices of routed experts (each token meets only some of them)",
        "1 router (they choose experts)",
    ]


def test_a_vision_tower_has_no_sites_and_is_named():
    coverage = coverage_of(skeleton("gemma3"))
    assert {site.name.split(".")[1] for site in coverage.sites} == {"language_model"}
    assert str(coverage) == (
        "adapted: 28 of 28 matrices, 100% of their parameters; 15 matrices outside the text model are as before"
    )


def test_depth_is_that_of_the_block_and_what_is_in_none_is_at_the_bottom():
    depths = {site.name: site.depth for site in coverage_of(skeleton("gemma3n")).sites}
    assert depths["model.layers.3.mlp.up_proj"] == 3
    assert depths["model.altup_projections.2"] == depths["model.per_layer_model_projection"] == 0
    depths = {site.name: site.depth for site in coverage_of(skeleton("opt")).sites}
    assert depths["model.decoder.project_in"] == 0


def test_a_layer_is_attention_if_the_innermost_that_says_so_is():
    zamba = _kinds("zamba2")
    block = "model.layers.1.shared_transformer"
    assert zamba[f"{block}.self_attn.q_proj"] == "attention"
    assert zamba[f"{block}.feed_forward.down_proj"] == "mlp"
    assert _kinds("gpt2")["transformer.h.0.attn.c_proj"] == "attention"
    assert _kinds("bloom")["transformer.h.0.self_attention.dense"] == "attention"
    assert set(_kinds("mamba").values()) == {"mlp"}


class LatentAttention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = torch.nn.Linear(4, 4)


class Block(torch.nn.Module):
    """Its attention and its MLP go by the same name."""

    def __init__(self, inner):
        super().__init__()
        self.mixer = inner


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        mixers = [
            torch.nn.ModuleList([LatentAttention(), LatentAttention()]),
            torch.nn.Sequential(torch.nn.Linear(4, 4)),
        ]
        self.layers = torch.nn.ModuleList(map(Block, mixers))

    def get_output_embeddings(self):
        return None


def test_a_class_says_what_a_name_does_not():
    sites = {site.name: (site.depth, site.kind) for site in coverage_of(Model()).sites}
    assert sites == {
        "layers.0.mixer.0.q_proj": (0, "attention"),
        "layers.0.mixer.1.q_proj": (0, "attention"),
        "layers.1.mixer.0": (1, "mlp"),
    }


def test_what_is_left_out_later_is_said_too():
    coverage = coverage_of(skeleton("mamba"))
    fewer = coverage.without(
        [f"backbone.layers.{n}.mixer.dt_proj" for n in range(4)], "matrices", "no token reaches them"
    )
    assert len(fewer.sites) == 12
    assert str(fewer).endswith("left out: 4 matrices (no token reaches them)")
    assert fewer.without([], "matrices", "PEFT refuses them") is fewer


def test_a_model_without_linear_layers_is_refused():
    model = Model()
    model.layers = torch.nn.ModuleList()
    with pytest.raises(ValueError, match="Model has no linear or Conv1D layer"):
        coverage_of(model)


def test_blocks_are_in_the_order_of_their_numbers():
    assert block_names(["h.10.a", "h.2.a", "h.2.b", "stem.0.a", "head"]) == ["h.2", "h.10"]
