"""How servers read an adapter's configuration, and that ``best_adapter_uniform`` is to them what was trained.

Sources: vLLM's ``vllm/lora/peft_helper.py`` takes ``r``, ``lora_alpha``, ``target_modules``, ``bias``,
``modules_to_save``, ``use_rslora`` and ``use_dora``, and drops all else, ``rank_pattern`` and ``alpha_pattern`` too; it
scales by alpha / r (by alpha / sqrt(r) with rsLoRA), and refuses ``modules_to_save``, DoRA and an r above
``max_lora_rank``. SGLang's ``python/sglang/srt/lora/lora_config.py`` and ``lora.py`` take ``r``, ``lora_alpha`` and
``target_modules``, scale by alpha / r, and refuse what patterns override.
"""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from analysis.audit.adapter import read_folder
from analysis.audit.servers import read_by
from strategies import RankAllocation
from trainables.adapters import CONFIG, WEIGHTS, peft_adapter
from trainables.adapters.adapter import Adapter
from trainables.models.base_model import load
from trainables.postprocess import forms

MAX_RANK = 16
MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Of ``MaxLoRARanks`` in vLLM's ``vllm/config/lora.py``; the default is 16."""


def vllm(config, max_rank=MAX_RANK):
    """Return the scale of every matrix; ValueError for what it refuses."""
    assert max_rank in MAX_RANKS
    if config.get("modules_to_save") or config.get("use_dora"):
        raise ValueError("modules_to_save and DoRA are not served")
    if config["r"] > max_rank:
        raise ValueError("the rank is above max_lora_rank")
    return config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])


def sglang(config):
    for pattern, value in (("rank_pattern", config["r"]), ("alpha_pattern", config["lora_alpha"])):
        if any(other != value for other in (config.get(pattern) or {}).values()):
            raise ValueError(f"{pattern} overrides it")
    return config["lora_alpha"] / config["r"]


@pytest.fixture(params=["mixed", "plain"])
def written(request, tiny_gpt2, tmp_path):
    """(what each site was trained to add to its matrix, folder of both forms, whether ranks are mixed)"""
    base = load(str(tiny_gpt2))
    mixed = request.param == "mixed"
    ranks = {site.name: number % 3 if mixed else 3 for number, site in enumerate(base.sites)}
    alphas = {name: (2.0 + rank if mixed else 6.0) for name, rank in ranks.items() if rank}
    adapter = peft_adapter.blank(base.model, [site for site in base.sites if ranks[site.name]], ranks)
    torch.manual_seed(0)
    factors = {name: (torch.randn_like(a), torch.randn_like(b)) for name, (a, b) in adapter.factors.items()}
    scales = {name: alphas[name] / len(a) for name, (a, _) in factors.items()}
    allocation = RankAllocation(ranks, sum(site.cost * ranks[site.name] for site in base.sites))
    config = peft_adapter.lora_config(base.model, allocation, alphas, 0.0)
    adapter = Adapter(config, factors, scales)
    for name, form in (("best", forms.named_shortly(base, adapter)), ("uniform", forms.uniform(base, adapter))):
        forms.write(str(tiny_gpt2), form, tmp_path / name)
    return {name: scales[name] * b @ a for name, (a, b) in factors.items()}, tmp_path, mixed


def added(folder, server):
    """Return what a server adds to each matrix."""
    scale, tensors = server(json.loads((folder / CONFIG).read_text())), load_file(folder / WEIGHTS)
    down = {name: tensor for name, tensor in tensors.items() if ".lora_A." in name}
    return {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): scale
        * tensors[name.replace(".lora_A.", ".lora_B.")]
        @ a
        for name, a in down.items()
    }


def agrees(there, trained):
    return all(torch.allclose(delta, trained.get(name, torch.zeros(())), atol=1e-4) for name, delta in there.items())


@pytest.mark.parametrize("server", [vllm, sglang])
def test_the_uniform_form_is_served_as_it_was_trained(written, server):
    trained, folder, _ = written
    there = added(folder / "uniform", server)
    assert trained.keys() <= there.keys()
    assert agrees(there, trained)


def test_so_is_plain_lora_as_it_was_trained_and_mixed_ranks_are_not(written):
    trained, folder, mixed = written
    config = json.loads((folder / "best" / CONFIG).read_text())
    assert bool(config["rank_pattern"]) is mixed
    assert agrees(added(folder / "best", vllm), trained) is not mixed
    if mixed:
        with pytest.raises(ValueError, match="overrides"):
            added(folder / "best", sglang)
    else:
        assert (config["r"], config["lora_alpha"], config["alpha_pattern"]) == (3, 6, {})
        assert agrees(added(folder / "best", sglang), trained)


def test_targets_are_single_words_of_which_servers_know_the_names(written):
    _, folder, _ = written
    config = json.loads((folder / "uniform" / CONFIG).read_text())
    assert config["target_modules"] == ["c_attn", "c_fc", "c_proj"]
    assert (config["bias"], config["modules_to_save"], config["use_rslora"], config["use_dora"]) == (
        "none", None, False, False,
    )  # fmt: skip


@pytest.mark.parametrize(("rank", "limit"), [(17, 32), (32, 32), (33, 64), (300, 320)])
def test_a_rank_above_16_is_served_with_the_flag_that_is_named(tiny_gpt2, tmp_path, rank, limit):
    handed_out(tiny_gpt2, tmp_path, rank)
    config = json.loads((tmp_path / CONFIG).read_text())
    with pytest.raises(ValueError, match="above max_lora_rank"):
        vllm(config)
    assert vllm(config, limit) == 1
    assert read_by("vllm", read_folder(tmp_path)).text == f"reads it as it was trained, with --max-lora-rank {limit}"


def test_a_rank_above_512_is_refused(tiny_gpt2, tmp_path):
    handed_out(tiny_gpt2, tmp_path, 513)
    with pytest.raises(ValueError, match="above max_lora_rank"):
        vllm(json.loads((tmp_path / CONFIG).read_text()), MAX_RANKS[-1])
    assert read_by("vllm", read_folder(tmp_path)).text == "refuses it: a rank of 513, above 512"


def handed_out(model, folder, rank):
    """Write the uniform form of an adapter of one matrix."""
    base = load(str(model))
    site = base.sites[0]
    adapter = peft_adapter.blank(base.model, [site], {site.name: rank})
    config = peft_adapter.lora_config(
        base.model, RankAllocation({site.name: rank}, site.cost * rank), {site.name: 2.0}, 0.0
    )
    trained = Adapter(config, adapter.factors, {site.name: 2.0 / rank})
    forms.write(str(model), forms.uniform(base, trained), folder)
