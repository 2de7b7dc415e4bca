"""What a trial takes is known before a weight is loaded, to a tenth of what a process then takes."""

import dataclasses
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GemmaConfig, GraniteConfig

from strategies import RankBudget
from strategies.base import Site
from strategies.baseline import Baseline
from tests.smollm2 import fetched
from trainables.data.splits import DataSource
from trainables.engine import footprint
from trainables.engine.footprint import Fit, Footprint, LiveBytes, base_bytes, fit, footprint_of, row_params
from trainables.engine.pack import Pack
from trainables.models.base_model import load, shape_of
from trainables.models.precision import IN_FLOAT32, Precision
from trainables.spec import TrialSpec, Workload

ROOT = Path(__file__).parents[2]
TRAIN = """
import json, re, sys
import torch
from strategies import RankBudget
from strategies.baseline import Baseline
from trainables.data.splits import DataSource, Example, Splits
from trainables.engine.pack import Pack
from trainables.models.base_model import load
from trainables.models.precision import IN_FLOAT32
from trainables.spec import TrialSpec, Workload

model, trials, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

before = peak()
base = load(model, "cpu", IN_FLOAT32)  # as trials ask for it: another call would load a second one
rows = tuple(Example(ids, ids) for ids in [tuple(range(100, 100 + length))] * 2)
budget, data = RankBudget.like_uniform(8, base.sites), DataSource("pydoc", train_examples=2, max_length=length)
splits = Splits(rows, rows, rows)
workload = Workload(model, data, budget, epochs=1, batch_size=1, reports=1, scale=2.0, pack_size=trials, splits=splits)
pack = Pack.of(workload, 1)
slots = [pack.admit(workload, TrialSpec("baseline", Baseline(), 1e-4, seed=seed)) for seed in range(trials)]
pack.step(slots)
assert all(slot.learner.step == 1 for slot in slots)
print(json.dumps(peak() - before))
"""


@pytest.mark.process
@pytest.mark.smollm2
@pytest.mark.thorough
@pytest.mark.parametrize(("trials", "length"), [(1, 128), (4, 128), (1, 1024), (4, 1024)])
def test_a_process_takes_what_was_said_to_a_tenth(trials, length):
    smollm2 = fetched()
    shape = shape_of(str(smollm2))
    params = RankBudget.like_uniform(8, shape.sites).params
    said = footprint_of(str(smollm2), shape, IN_FLOAT32, "cpu", params, length).total(trials, 1, False)
    command = [sys.executable, "-c", TRAIN, str(smollm2), str(trials), str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert said == pytest.approx(json.loads(done.stdout), rel=0.1)


def test_a_base_takes_its_parameters_in_their_dtype(model_folder):
    shape = shape_of(str(model_folder))
    whole = sum(parameter.numel() for parameter in load(str(model_folder)).model.parameters())
    assert base_bytes(shape, IN_FLOAT32) == 4 * whole
    assert base_bytes(shape, Precision("bfloat16")) == 2 * whole
    matrices = [site.d_in * site.d_out for site in shape.sites]
    four = base_bytes(shape, Precision("bfloat16", "nf4"))
    assert four == int(4.5 / 8 * sum(matrices)) + 2 * (whole - sum(matrices) + max(matrices))


def test_a_checkpoint_that_was_saved_in_four_bits_is_counted_in_four(model_folder, monkeypatch):
    args = str(model_folder), shape_of(str(model_folder)), Precision("bfloat16"), "cpu", 1000, 16
    whole = footprint_of(*args)
    monkeypatch.setattr(footprint, "is_saved_quantized", lambda model: model == str(model_folder))
    four = footprint_of(*args)
    dense, packed = (base_bytes(args[1], Precision("bfloat16", quantize)) for quantize in (None, "nf4"))
    assert whole.base - four.base == dense - packed


def test_a_row_of_a_pack_has_the_largest_rank_of_each_site_as_the_device_pads_it():
    sites = [Site(name, 10, 10 * width, 0, "mlp") for width, name in enumerate("ab", 1)]
    trials = [{"a": 3, "b": 0}, {"a": 1, "b": 9}]
    assert row_params(sites, trials, "cpu") == 3 * 20 + 9 * 30
    assert row_params(sites, trials, "cuda") == 8 * 20 + 16 * 30


def test_on_a_gpu_logits_take_what_a_chunk_of_them_does(model_folder):
    args = str(model_folder), shape_of(str(model_folder))
    small, large = (footprint_of(*args, IN_FLOAT32, "cuda", 1000, length) for length in (16, 64))
    assert (small.head, large.head) == (6 * 16 * 300, 6 * 64 * 300), "in float32 and bfloat16"
    assert large.most_head == 6 * 2**27
    assert large.of_pass(2, False) == 2 * (large.row + large.head)
    assert large.of_pass(10**6, False) == 10**6 * large.row + large.most_head
    assert footprint_of(*args, IN_FLOAT32, "cpu", 1000, 16).head == 0


def test_blocks_that_compute_twice_take_less_and_longer_rows_more(model_folder):
    shape = shape_of(str(model_folder))
    short, long = (footprint_of(str(model_folder), shape, IN_FLOAT32, "cpu", 1000, length) for length in (16, 64))
    assert short.row_recomputed < short.row
    assert 3 < long.row / short.row < 4.5
    assert (long.trial, long.moments) == (16000, 8000)


def test_all_logits_of_a_row_count_where_a_model_caps_or_scales_them(tmp_path):
    sizes = {"vocab_size": 5000, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}  # fmt: skip
    rows = {}
    scaled = CohereConfig(**sizes, logit_scale=0.5), GraniteConfig(**sizes, logits_scaling=2.0)
    for config in (Gemma2Config(**sizes), GemmaConfig(**sizes), *scaled):
        config.architectures = [type(AutoModelForCausalLM.from_config(config)).__name__]
        folder = tmp_path / config.model_type
        config.save_pretrained(folder)
        rows[config.model_type] = footprint_of(str(folder), shape_of(str(folder)), IN_FLOAT32, "cuda", 500, 32)
    logits = 12 * 32 * 5000
    assert rows["gemma"].row < logits / 2
    assert min(rows[kind].row_recomputed for kind in ("gemma2", "cohere", "granite")) > logits


def test_passes_get_smaller_before_blocks_compute_twice():
    footprint = Footprint(base=100, trial=2, moments=2, row=10, row_recomputed=1)
    chosen = [fit(footprint, memory, 8, 2, 8, None) for memory in (268, 267, 127, 124, 109)]
    assert chosen == [Fit(2, 8, False, 268), Fit(2, 4, False, 188), Fit(2, 8, True, 124), Fit(2, 8, True, 124), None]
    assert fit(footprint, 128, 8, 2, 8, None) == Fit(2, 1, False, 128)
    assert fit(footprint, 1000, 8, 2, 8, True) == Fit(2, 8, True, 124)
    assert fit(footprint, 127, 8, 2, 8, False) is None


def test_what_a_pass_without_weights_raises_is_not_logged_as_well(caplog):
    with pytest.raises(ValueError, match="cannot be known before it is loaded"):
        footprint._pass_bytes("no/such/folder", "float32", "cpu", 1, 4)
    log = logging.getLogger("torch._subclasses.fake_tensor")
    with footprint._without_its_log():
        log.error("a traceback")
    assert caplog.messages == []
    log.error("a traceback")
    assert caplog.messages == ["a traceback"]


def peak_of_a_step(ranks):
    """Return the memory of the tensors that are made while trials are let in and do a step, each of a row."""
    data = DataSource(train_examples=1, validation_examples=1, test_examples=1, max_length=64)
    workload = Workload("bundled", data, RankBudget(1), epochs=1, batch_size=1, reports=1, scale=2.0)
    pack = Pack.of(workload, 1)
    with LiveBytes() as live:
        budgets = [RankBudget.like_uniform(rank, pack.base.sites) for rank in ranks]
        trials = [dataclasses.replace(workload, budget=budget) for budget in budgets]
        pack.step([pack.admit(trial, TrialSpec("baseline", Baseline(), 1e-4)) for trial in trials])
    return live.peak


@pytest.mark.search
def test_rank_64_beside_fifteen_of_rank_2_takes_at_most_twice_what_sixteen_of_rank_2_do():
    assert peak_of_a_step([64] + [2] * 15) < 2 * peak_of_a_step([2] * 16)
