"""What is handed out is loaded by Transformers and PEFT alone, and measured again."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from strategies import RankAllocation
from trainables import export
from trainables.adapters import WEIGHTS, peft_adapter
from trainables.data.splits import IGNORED, Example, mean_loss
from trainables.models.base_model import load
from trainables.postprocess import forms
from trainables.postprocess.verification import SCRIPT, NotReloaded, agree, reloaded_loss
from trainables.training.losses import evaluate

pytestmark = pytest.mark.process
ROWS = [Example((5, 6, 7, 8, 9), (IGNORED, IGNORED, 7, 8, 9)), Example((11, 12, 13), (11, 12, 13))]


@pytest.fixture
def handed_out(tiny_gpt2, tmp_path):
    """(base, folder of an adapter in short form, its loss as measured here)"""
    model = str(tiny_gpt2)
    base = load(model)
    ranks = {site.name: 1 + number % 3 for number, site in enumerate(base.sites)}
    params = sum(site.cost * ranks[site.name] for site in base.sites)
    wrapped = peft_adapter.attach(base.model, RankAllocation(ranks, params), dict.fromkeys(ranks, 4.0))
    adapter = peft_adapter.read(wrapped)
    torch.manual_seed(0)
    with torch.no_grad():
        for _, b in adapter.factors.values():
            b.normal_(std=0.1)
    measured = mean_loss(ROWS, evaluate(base, ROWS, 2))
    peft_adapter.detach(wrapped)
    forms.write(model, forms.named_shortly(base, adapter), tmp_path / "adapter")
    return model, tmp_path / "adapter", measured


@pytest.mark.thorough
def test_every_form_has_the_loss_that_was_measured(handed_out, tmp_path):
    model, adapter, measured = handed_out
    export.uniform(model, adapter, tmp_path / "uniform")
    export.merged(model, adapter, tmp_path / "merged")
    assert agree(reloaded_loss(model, adapter, ROWS, "cpu"), measured)
    assert agree(reloaded_loss(model, tmp_path / "uniform", ROWS, "cpu"), measured)
    assert agree(reloaded_loss(str(tmp_path / "merged"), None, ROWS, "cpu"), measured)
    assert not agree(reloaded_loss(model, None, ROWS, "cpu"), measured)


def test_a_weight_that_is_another_is_noticed(handed_out):
    model, adapter, measured = handed_out
    tensors = load_file(adapter / WEIGHTS)
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] * 2}, adapter / WEIGHTS, metadata={"format": "pt"})
    assert not agree(reloaded_loss(model, adapter, ROWS, "cpu"), measured)


@pytest.mark.thorough
def test_what_does_not_load_is_one_line(handed_out):
    model, adapter, _ = handed_out
    (adapter / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(NotReloaded) as raised:
        reloaded_loss(model, adapter, ROWS, "cpu")
    assert "Safetensor" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_nothing_of_ours_can_be_imported_there():
    code = f"import runpy, sys; sys.meta_path.insert(0, runpy.run_path({str(SCRIPT)!r})['OursAreNotThere']()); import "
    for package in ("trainables.spec", "strategies", "json"):
        done = subprocess.run([sys.executable, "-I", "-c", code + package], capture_output=True, text=True, check=False)
        assert bool(done.returncode) == (package != "json")
        assert ("not to be imported" in done.stderr) == (package != "json")


@pytest.mark.parametrize(("loss", "same"), [(4.00009, True), (4.00011, False), (float("nan"), False)])
def test_losses_agree_within_a_ten_thousandth(loss, same):
    assert agree(4.0, loss) is same
