"""A trained adapter made smaller, and in other forms: the same logits, or the closest there are."""

import json
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from strategies import RankAllocation, RankBudget
from strategies.base import Site
from trainables import export
from trainables.adapters import peft_adapter
from trainables.adapters.saved_config import read_folder
from trainables.data.splits import DataSource
from trainables.models.base_model import load
from trainables.models.precision import IN_FLOAT32
from trainables.postprocess import forms, truncation
from trainables.spec import Workload

SITES = (Site("a", 6, 5, 0, "attention"), Site("b", 4, 8, 1, "mlp"))


def test_within_its_own_size_an_adapter_stays_what_it_is():
    factors = {"a": (torch.randn(3, 6), torch.randn(5, 3)), "b": (torch.randn(2, 4), torch.randn(8, 2))}
    kept = truncation.shrunk(factors, SITES, 3 * 11 + 2 * 12)
    for name, (a, b) in factors.items():
        assert torch.allclose(kept[name][1] @ kept[name][0], b @ a, atol=1e-5)


def test_the_largest_singular_values_per_parameter_stay_wherever_they_are():
    # a: values 3 and 1 at 11 parameters each; b: 2 and 0.5 at 12. Squared over cost: 9/11 > 4/12 > 1/11 > 0.25/12
    a = (torch.eye(6)[:2], torch.eye(5)[:, :2] * torch.tensor([3.0, 1.0]))
    b = (torch.eye(4)[:2], torch.eye(8)[:, :2] * torch.tensor([2.0, 0.5]))
    kept = truncation.shrunk({"a": a, "b": b}, SITES, 11 + 12)
    assert {name: len(small) for name, (small, _) in kept.items()} == {"a": 1, "b": 1}
    expected = torch.zeros(5, 6)
    expected[0, 0] = 3.0
    torch.testing.assert_close(kept["a"][1] @ kept["a"][0], expected, atol=1e-6, rtol=0)
    assert list(truncation.shrunk({"a": a, "b": b}, SITES, 11)) == ["a"]
    assert truncation.shrunk({"a": a, "b": b}, SITES, 10) == {}


@pytest.fixture
def trained(model_folder, tmp_path):
    """(model, ranks, alphas, adapter folder) with ranks from 0 to 3, scales that differ, and B that is not zero."""
    model = str(model_folder)
    base = load(model)
    ranks = {site.name: number % 4 for number, site in enumerate(base.sites)}
    alphas = {name: 2.0 + rank for name, rank in ranks.items() if rank}
    params = sum(site.cost * ranks[site.name] for site in base.sites)
    wrapped = peft_adapter.attach(base.model, RankAllocation(ranks, params), alphas)
    adapter = peft_adapter.read(wrapped)
    torch.manual_seed(0)
    with torch.no_grad():
        for _, b in adapter.factors.values():
            b.normal_(std=0.05)
    adapter.save(tmp_path / "best_adapter")
    peft_adapter.detach(wrapped)
    return model, ranks, alphas, tmp_path / "best_adapter"


def logits(model, adapter=None):
    network = AutoModelForCausalLM.from_pretrained(model)
    if adapter is not None:
        network = PeftModel.from_pretrained(network, adapter)
    with torch.no_grad():
        return network.eval()(input_ids=torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])).logits


def test_one_rank_and_one_scale_give_the_same_logits(trained, tmp_path):
    model, _, _, adapter = trained
    export.uniform(model, IN_FLOAT32, adapter, tmp_path / "uniform")
    config = json.loads((tmp_path / "uniform" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"], config["alpha_pattern"]) == (3, 3, {}, {})
    plain = {"bias": "none", "modules_to_save": None, "use_rslora": False, "use_dora": False}
    assert {name: config[name] for name in plain} == plain
    torch.testing.assert_close(logits(model, tmp_path / "uniform"), logits(model, adapter), atol=1e-5, rtol=0)
    assert not torch.allclose(logits(model), logits(model, adapter), atol=1e-3)


def test_short_names_give_the_same_logits(trained, tmp_path):
    model, ranks, alphas, adapter = trained
    forms.write(model, forms.named_shortly(load(model), read_folder(adapter)), tmp_path / "short")
    torch.testing.assert_close(logits(model, tmp_path / "short"), logits(model, adapter), atol=1e-6, rtol=0)
    again = read_folder(tmp_path / "short")
    assert again.ranks == {name: rank for name, rank in ranks.items() if rank}
    assert again.scales == pytest.approx({name: alpha / ranks[name] for name, alpha in alphas.items()})


@pytest.mark.parametrize("form", [export.uniform, export.merged])
def test_the_tokenizer_goes_with_every_form_as_it_came(form, trained, tmp_path, tiny_tokenizer):
    model, _, _, adapter = trained
    form(model, IN_FLOAT32, adapter, tmp_path / "form")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "form")
    assert tokenizer("one two").input_ids == tiny_tokenizer("one two").input_ids
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(model).chat_template
    assert tokenizer.pad_token == AutoTokenizer.from_pretrained(model).pad_token


def test_a_merged_model_needs_no_adapter(trained, tmp_path):
    model, _, _, adapter = trained
    export.merged(model, IN_FLOAT32, adapter, tmp_path / "merged")
    assert torch.allclose(logits(tmp_path / "merged"), logits(model, adapter), atol=1e-5, rtol=0)


def test_the_curve_starts_at_the_adapter_itself_and_falls_in_parameters(trained, tiny_text):
    model, _, _, adapter = trained
    source = DataSource(str(tiny_text), train_examples=8, validation_examples=4, test_examples=8, max_length=32)
    workload = Workload(model, source, RankBudget(10_000), epochs=1, batch_size=4, reports=1, scale=2.0)
    before = load(model).model.state_dict().keys()
    curve = truncation.shrink_curve(workload, adapter)
    assert [point["fraction"] for point in curve] == list(truncation.FRACTIONS)
    for point in curve:
        assert point["params"] <= point["fraction"] * curve[0]["params"]
    assert len({point["test_loss"] for point in curve}) == len(curve)
    assert load(model).model.state_dict().keys() == before


@pytest.mark.process
@pytest.mark.thorough
def test_wrong_usage_of_export_is_one_line_and_status_2():
    done = subprocess.run(
        [sys.executable, "-m", "trainables.export", "missing", "--output", "x"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "missing" in done.stderr
