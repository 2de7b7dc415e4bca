"""The audit of adapters: none of what is sound has a finding, and each planted fault has its own.

Adapters are trained by PEFT alone, a few steps on tiny models, and ours are written as a search hands them out.
"""

import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import analysis.audit
from analysis.audit.adapter import read_folder
from analysis.audit.audit import audited
from analysis.audit.plan import Plan, read
from analysis.audit.spectrum import effective_rank, singular_values
from strategies import RankAllocation
from tests.zoo import built
from trainables.adapters import CONFIG, WEIGHTS, peft_adapter
from trainables.adapters.adapter import Adapter
from trainables.models.base_model import load
from trainables.postprocess import forms

ATTENTION = ["q_proj", "v_proj"]
LAST = "model.layers.3.self_attn.v_proj"
PEFTS = {
    "plain": {"target_modules": ATTENTION, "r": 4, "lora_alpha": 8},
    "by kind and block": {
        "target_modules": [*ATTENTION, "down_proj"], "r": 4, "lora_alpha": 8,
        "rank_pattern": {"layers.0.self_attn.q_proj": 2, "q_proj": 8, r"layers\.(1|2)\..*v_proj": 3},
        "alpha_pattern": {"layers.0.self_attn.q_proj": 4, "q_proj": 16, r"layers\.(1|2)\..*v_proj": 6},
    },
    "rsLoRA": {"target_modules": ATTENTION, "r": 4, "lora_alpha": 4, "use_rslora": True},
    "DoRA": {"target_modules": ATTENTION, "r": 2, "use_dora": True},
    "regex": {"target_modules": r"model\.layers\.1\..*_proj", "r": 3},
    "some layers": {"target_modules": ATTENTION, "r": 3, "layers_to_transform": [1, 2]},
    "everything": {"target_modules": "all-linear", "r": 2},
    "head in full": {"target_modules": ATTENTION, "r": 2, "modules_to_save": ["lm_head"], "bias": "lora_only"},
    "embedding": {"target_modules": ["embed_tokens", "v_proj"], "r": 2},
    "in halves": {"target_modules": ATTENTION, "r": 4},
}  # fmt: skip
OURS = ("as saved", "as handed out", "of one rank")
SOUND = [*PEFTS, "AdaLoRA", *OURS]


def train(config, folder, kind="llama", after=lambda model, step: None):
    """Train an adapter and save it."""
    model = peft.get_peft_model(built(kind), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    torch.manual_seed(0)
    for step in range(8):
        ids = torch.randint(1, 300, (2, 12))
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        after(model, step)
        optimizer.zero_grad()
    model.save_pretrained(folder)


def write_ours(folder, tiny_gpt2):
    base = load(str(tiny_gpt2))
    ranks = {site.name: number % 3 for number, site in enumerate(base.sites)}
    allocation = RankAllocation(ranks, sum(site.cost * ranks[site.name] for site in base.sites))
    alphas = {name: 2.0 * rank for name, rank in allocation.adapted.items()}
    torch.manual_seed(0)
    sizes = {site.name: site for site in base.sites}
    factors = {
        name: (torch.randn(rank, sizes[name].d_in), torch.randn(sizes[name].d_out, rank))
        for name, rank in allocation.adapted.items()
    }
    config = peft_adapter.lora_config(base.model, allocation, alphas, 0.0)
    adapter = Adapter(config, factors, dict.fromkeys(factors, 2.0))
    forms.write(str(tiny_gpt2), adapter, folder / "as saved")
    forms.write(str(tiny_gpt2), forms.named_shortly(base, adapter), folder / "as handed out")
    forms.write(str(tiny_gpt2), forms.uniform(base, adapter), folder / "of one rank")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, tiny_gpt2):
    """The folder that has a folder of each sound adapter."""
    folder = tmp_path_factory.mktemp("adapters")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)  # PEFT's on small ranks and names are not ours
        for name, values in PEFTS.items():
            train(peft.LoraConfig(task_type="CAUSAL_LM", **values), folder / name)
        adalora = peft.AdaLoraConfig(
            task_type="CAUSAL_LM", target_modules=ATTENTION, init_r=4, target_r=2, tinit=1, tfinal=2, total_step=8
        )
        train(adalora, folder / "AdaLoRA", after=lambda model, step: model.base_model.update_and_allocate(step))
    halves = folder / "in halves" / WEIGHTS
    save_file({name: tensor.bfloat16() for name, tensor in load_file(halves).items()}, halves)
    write_ours(folder, tiny_gpt2)
    return folder


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_found_about_a_sound_adapter(name, adapters):
    result = audited(adapters / name)
    assert result.findings == ()
    assert result.exit_status == 0
    assert all(effective > 0 for site, effective in result.effective.items() if result.adapter.sites[site].moved)


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")  # PEFT's on what AdaLoRA itself has written
def test_ranks_scales_and_parameters_are_those_that_peft_loads(adapters):
    for name in [*PEFTS, "AdaLoRA"]:
        result = audited(adapters / name)
        model = peft.PeftModel.from_pretrained(built("llama"), str(adapters / name))
        layers = {
            site: layer
            for site, layer in model.base_model.model.named_modules()
            if isinstance(layer, peft.tuners.lora.LoraLayer)
        }
        scales = {site: layer.scaling["default"] for site, layer in layers.items()}
        if name == "AdaLoRA":
            scales = {site: scales[site] / (layers[site].ranknum["default"].item() + 1e-5) for site in scales}
        there = {site: result.adapter.config.scale_of(site) for site in result.adapter.sites}
        assert there == pytest.approx({site: scales[site] for site in there}), name
        counted = sum(
            p.numel() for key, p in model.named_parameters() if "lora_" in key and "lora_B.default.bias" not in key
        )
        assert result.adapter.params == counted, name


def test_singular_values_are_those_of_the_product(adapters):
    for name in ("plain", "AdaLoRA", "in halves"):
        for factors in read_folder(adapters / name).sites.values():
            product = factors.b.astype(np.float64) @ factors.scaled_a.astype(np.float64)
            wanted = np.linalg.svd(product, compute_uv=False)[: factors.rank]
            assert singular_values(factors) == pytest.approx(wanted, abs=1e-12)
    assert effective_rank(np.array([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3)
    assert effective_rank(np.array([1.0, 0.0])) == pytest.approx(1)


def change_config(**values):
    def change(folder):
        path = folder / CONFIG
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def change_tensors(change):
    def rewrite(folder):
        tensors = load_file(folder / WEIGHTS)
        save_file({name: tensor.contiguous() for name, tensor in change(tensors).items()}, folder / WEIGHTS)

    return rewrite


def with_part(part, change):
    name = f"base_model.model.{LAST}.lora_{part}.weight"
    return change_tensors(lambda tensors: {**tensors, name: change(tensors[name])})


def repeat_a_row(folder):
    with_part("A", lambda a: torch.cat([a[:1], a[:1], a[2:]]))(folder)


FAULTS = {
    "no-site": (change_tensors(lambda tensors: {}), "No site"),
    "never-moved": (with_part("B", torch.zeros_like), LAST),
    "not-finite": (with_part("A", lambda a: a.index_fill(0, torch.tensor([0]), float("nan"))), LAST),
    "rank-unused": (repeat_a_row, f"{LAST} (3 of 4)"),
    "factors": (change_tensors(lambda tensors: {k: v for k, v in tensors.items() if f"{LAST}.lora_B" not in k}),
                f"{LAST} (no lora_B)"),
    "rank-not-of-config": (change_config(r=16), "(4 for 16)"),
    "not-targeted": (change_config(target_modules=["q_proj"]), "v_proj"),
    "target-matches-nothing": (change_config(target_modules=[*ATTENTION, "upproj"]), "'upproj'"),
    "pattern-matches-nothing": (change_config(rank_pattern={"h.0.attn": 4}), "'h.0.attn' matches none"),
    "pattern-unused": (change_config(alpha_pattern={"q_proj": 8, "0.self_attn.q_proj": 4}), "'q_proj' comes first"),
    "pattern-matches-too-much": (change_config(alpha_pattern={r"layers.1.*q_proj": 8}), "block 10, 11 beside 1"),
    "layer-matches-nothing": (change_config(layers_to_transform=[*range(12), 40]), "40"),
    "no-regex": (change_config(alpha_pattern={"(q_proj": 8}), "'(q_proj'"),
    "slow-regex": (change_config(exclude_modules=r"(\w+|\.)+!"), "may be tried for ever"),
    "tensor-names": (change_tensors(lambda tensors: {**tensors, "x.lora_A.default.weight": torch.ones(2, 2)}),
                     "x.lora_A.default.weight"),
    "magnitudes": (change_config(use_dora=True), "missing"),
    "module-missing": (change_config(modules_to_save=["lm_head"]), "'lm_head'"),
    "scale": (change_config(lora_alpha=0), "not above 0"),
}  # fmt: skip


def test_a_module_that_is_excluded_is_no_target(deep, tmp_path):
    for excluded in (["v_proj"], r".*v_proj"):
        shutil.copytree(deep, tmp_path / "adapter", dirs_exist_ok=True)
        change_config(exclude_modules=excluded)(tmp_path / "adapter")
        (finding,) = audited(tmp_path / "adapter").findings
        assert (finding.kind, len(finding.sites)) == ("not-targeted", 12)
    change_config(exclude_modules=["k_proj"])(tmp_path / "adapter")
    assert audited(tmp_path / "adapter").findings == ()


@pytest.fixture(scope="module")
def deep(adapters, tmp_path_factory):
    """A sound adapter of twelve blocks."""
    folder = tmp_path_factory.mktemp("deep") / "adapter"
    shutil.copytree(adapters / "plain", folder)
    tensors = load_file(folder / WEIGHTS)
    more = {name.replace("layers.0", f"layers.{block}"): tensor.clone()
            for block in range(4, 12) for name, tensor in tensors.items() if "layers.0" in name}  # fmt: skip
    save_file({**tensors, **more}, folder / WEIGHTS)
    assert audited(folder).findings == ()
    return folder


@pytest.mark.parametrize("kind", FAULTS)
def test_a_planted_fault_is_named_and_nothing_else(kind, deep, tmp_path):
    plant, named = FAULTS[kind]
    shutil.copytree(deep, tmp_path / "adapter")
    plant(tmp_path / "adapter")
    result = audited(tmp_path / "adapter")
    assert [finding.kind for finding in result.findings] == [kind]
    assert named in result.findings[0].text
    assert result.exit_status == 1


def test_an_a_that_was_never_trained_is_seen_where_others_were(tmp_path):
    wide = {f"base_model.model.layers.{block}.q_proj": torch.nn.Linear(512, 4, bias=False).weight for block in (0, 1)}
    tensors = {f"{name}.lora_A.weight": a.detach() for name, a in wide.items()}
    tensors |= {f"{name}.lora_B.weight": torch.randn(8, 4) for name in wide}
    write(tmp_path, tensors, r=4, target_modules=["q_proj"])
    assert audited(tmp_path).findings == ()  # as of all: A was frozen on purpose
    tensors["base_model.model.layers.1.q_proj.lora_A.weight"] *= 1.05
    write(tmp_path, tensors, r=4, target_modules=["q_proj"])
    assert [(f.kind, f.sites) for f in audited(tmp_path).findings] == [("a-as-drawn", ("layers.0.q_proj",))]


def write(folder, tensors, **config):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 8, **config}))


def test_a_server_that_reads_it_otherwise_is_a_finding_where_it_is_for_that_server(adapters):
    mixed, plain = adapters / "by kind and block", adapters / "plain"
    assert audited(adapters / "as handed out", server="vllm").findings == ()  # the same scale everywhere
    assert [f.kind for f in audited(mixed, server="sglang").findings] == ["served-otherwise"]
    assert audited(plain, server="vllm").findings == audited(plain, server="sglang").findings == ()
    text = audited(adapters / "rsLoRA", server="sglang").findings[0].text
    assert "scales by 1 everywhere, which is wrong at 8 sites" in text
    assert "refuses it: DoRA" in audited(adapters / "DoRA").readings["vllm"].text


def test_the_page_has_every_kind_of_finding():
    table = (Path(__file__).parents[2] / "docs" / "audit.md").read_text().partition("| kind |")[2].partition("\n\n")[0]
    named = {kind for line in table.splitlines() for kind in re.findall("`([a-z-]+)`", line.split("|")[1])}
    code = "".join(path.read_text() for path in (Path(analysis.audit.__file__).parent).glob("*.py"))
    assert named == {kind for kind in named if f'"{kind}"' in code}
    of_plans = {kind for kind in named if kind.endswith(("-meant", "-missing"))}
    assert named == {*FAULTS, "a-as-drawn", "served-otherwise", *of_plans}


# Two public studies that it would have caught


def small_adapter(folder, ranks, **config):
    """Train an adapter of these ranks."""
    model = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=[*ranks], **config)
    train(model, folder)


SITES = [f"model.layers.{block}.self_attn.{name}" for block in range(4) for name in ATTENTION]


def test_ranks_of_4_to_32_that_were_all_trained_at_16_are_found_with_the_plan_and_without(tmp_path):
    planned = {site: (4, 8, 16, 32)[number % 4] for number, site in enumerate(SITES)}
    names_of_another_model = {site.replace("model.layers", "transformer.h"): rank for site, rank in planned.items()}
    with warnings.catch_warnings(action="ignore"):  # so did whoever read no warning
        small_adapter(tmp_path, planned, r=16, lora_alpha=16, rank_pattern=names_of_another_model)
    kinds = [finding.kind for finding in audited(tmp_path).findings]
    assert kinds == ["pattern-matches-nothing"] * 8
    (other, size) = [f for f in audited(tmp_path, Plan(planned)).findings if f.kind not in kinds]
    assert "16 for each, at 6 of 8 sites" in other.text
    assert f"{SITES[0]} (16 for 4)" in other.text
    assert (other.kind, size.kind) == ("rank-not-meant", "parameters-not-meant")


def test_adaptive_runs_with_half_of_uniforms_parameters_are_found(tmp_path):
    small_adapter(tmp_path / "uniform", SITES, r=8)
    ranks = {site: (6, 2)[number // 2 % 2] for number, site in enumerate(SITES)}
    small_adapter(tmp_path / "adaptive", ranks, r=4, rank_pattern=ranks)
    uniform = audited(tmp_path / "uniform").adapter.params
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"ranks": ranks, "parameters": uniform}))
    (finding,) = audited(tmp_path / "adaptive", read(plan)).findings
    assert finding.kind == "parameters-not-meant"
    assert f"{uniform:,} were meant, 50% of it" in finding.text
