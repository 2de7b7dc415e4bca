"""The page's strategy that measures and initialises: one file and one line, from the measurement to the report."""

import ast
import dataclasses
import importlib
import json
import sys

import pytest
import torch
from safetensors import SafetensorError
from transformers import GPT2LMHeadModel

import strategies
from analysis.results.rows import read_rows
from analysis.results.trial_config import TrialConfig
from strategies import STRATEGIES, RankBudget
from strategies.measurement import Measured
from tests import readme
from tests.reference import SoloSession
from trainables.adapters import peft_adapter
from trainables.adapters.adapter import AllocationMismatch
from trainables.data.splits import DataSource
from trainables.engine.pack import Pack
from trainables.evidence.kept import MeasuredFile, format_of, keep
from trainables.evidence.measurements import measure
from trainables.models.base_model import load
from trainables.spec import TrialSpec, Workload
from tuning.cli import main

NAME = "weight_norm"
CODE = readme.strategies()[NAME]
MEASUREMENT = f"strategies.{NAME}:measure"
LOWER, UPPER = "transformer.h.0.attn.c_proj", "transformer.h.1.attn.c_proj"


@pytest.fixture
def file(monkeypatch, tmp_path):
    """The strategy's file, which is in the folder of strategies as far as Python knows."""
    path = tmp_path / "strategies" / f"{NAME}.py"
    path.parent.mkdir()
    path.write_text(CODE)
    monkeypatch.setattr(strategies, "__path__", [*strategies.__path__, str(path.parent)])
    yield path
    sys.modules.pop(f"strategies.{NAME}", None)


@pytest.fixture
def registered(file, monkeypatch):
    """The strategy's class, among all others by one line."""
    module = importlib.import_module(f"strategies.{NAME}")
    monkeypatch.setitem(STRATEGIES, NAME, module.WeightNorm)
    return module.WeightNorm


@pytest.fixture
def base(tiny_gpt2, tiny_tokenizer, tmp_path):
    """A folder of a GPT-2 whose weights are 0 but for two matrices, of norm 2 and 1."""
    network = GPT2LMHeadModel.from_pretrained(tiny_gpt2)
    lower, upper = (network.get_submodule(name).weight for name in (LOWER, UPPER))  # (d_in, d_out), as Conv1D has them
    with torch.no_grad():
        for block in network.transformer.h:
            for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
                layer.weight.zero_()
            block.attn.c_attn.bias.normal_()  # so that something reaches what is adapted
        lower[3, 0], lower[5, 1] = 1.6, -1.2
        upper[2, 7] = 1.0
    network.save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def workload(base, tiny_text, registered):
    """Three units of rank at the two matrices, which cost 32 each."""
    source = DataSource(str(tiny_text), train_examples=16, validation_examples=8, test_examples=8, max_length=24)
    plain = Workload(str(base), source, RankBudget(96), epochs=1, batch_size=4, reports=1, scale=2.0)
    measured = measure(plain, MEASUREMENT)
    return dataclasses.replace(plain, evidence=measured.evidence, tensors={MEASUREMENT: measured.tensors})


def trial(strategy=NAME, **chosen):
    return TrialSpec.from_config(TrialConfig(strategy, learning_rate=0.01, seed=1, **chosen))


def imported(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_its_file_imports_no_more_than_strategies_may():
    packages = {name.partition(".")[0] for name in imported(CODE)}
    assert packages - sys.stdlib_module_names == {"numpy", "strategies"}


def test_norms_decide_its_ranks_and_directions_what_its_adapters_begin_as(workload):
    assert {name: norm for name, norm in workload.evidence[NAME].items() if norm} == pytest.approx({LOWER: 2, UPPER: 1})
    session = SoloSession(workload, trial())
    pack = Pack.of(workload, 4)
    slot = pack.admit(workload, trial())
    for adapter in (session.learner.adapter, slot.learner.adapter):
        assert adapter.ranks == {LOWER: 2, UPPER: 1}
        # what 1.6 and 1.2 are at comes in at features 3 and 5, what 1.0 is at comes in at feature 2
        assert torch.allclose(adapter.factors[LOWER][0].abs(), torch.eye(16)[[3, 5]], atol=1e-6)
        assert torch.allclose(adapter.factors[UPPER][0].abs(), torch.eye(16)[[2]], atol=1e-6)
        assert not any(b.any() for _, b in adapter.factors.values())
    session.close()
    pack.step([slot])
    assert all(b.any() for _, b in slot.learner.adapter.factors.values())


@pytest.mark.parametrize("control", ["shuffled", "inverted"])
def test_its_controls_begin_as_the_directions_of_the_matrix_that_they_are_at(workload, control):
    spec = trial(control, control_of=NAME)
    adapter = peft_adapter.fresh_planned(load(workload.model), workload, spec)
    assert adapter.ranks.keys() - {LOWER, UPPER}
    for name, (a, _) in adapter.factors.items():
        assert torch.equal(a.detach(), workload.tensors[MEASUREMENT][name][: len(a)])
    assert spec.training == trial().training != trial("baseline").training


def test_a_beginning_of_another_shape_is_no_trial(workload):
    few = {name: rows[:1] for name, rows in workload.tensors[MEASUREMENT].items()}
    workload = dataclasses.replace(workload, tensors={MEASUREMENT: few})
    with pytest.raises(AllocationMismatch, match=r"A is \(2, 16\), what it is to begin as is \(1, 16\)"):
        peft_adapter.fresh_planned(load(workload.model), workload, trial())


@pytest.mark.search
def test_a_search_measures_it_once_and_again_where_its_file_has_changed(
    simulated, file, registered, base, small, tmp_path
):
    flags = [*small, "--model", str(base), "--strategies", NAME, "--strategies", "baseline", "--num-samples", "4",
             "--budget", "96", "--confirm-seeds", "1", "--runs-dir", str(tmp_path / "runs")]  # fmt: skip
    assert main([*flags, "--name", "first"]) == 0
    folder = tmp_path / "runs" / "first"
    evidence = json.loads((folder / "evidence.json").read_text())
    assert {name: norm for name, norm in evidence[NAME].items() if norm} == pytest.approx({LOWER: 2, UPPER: 1})
    rows = read_rows(folder / "rows.jsonl")
    ranks = [{site: rank for site, rank in row.ranks.items() if rank} for row in rows if row.strategy == NAME]
    assert ranks == [{LOWER: 2, UPPER: 1}] * 3  # two trials and a confirmation run
    assert f"- **{NAME}: " in (folder / "report.md").read_text()
    (kept,) = (tmp_path / "runs" / ".evidence").glob("*.safetensors")
    written = kept.stat().st_mtime_ns
    assert main([*flags, "--name", "second"]) == 0
    assert [path.stat().st_mtime_ns for path in kept.parent.glob("*.safetensors")] == [written]
    file.write_text(CODE + "\n# measured otherwise\n")
    assert main([*flags, "--name", "third"]) == 0
    assert len([*kept.parent.glob("*.safetensors")]) == 2


@pytest.mark.search
def test_evidence_of_a_name_that_another_measurement_has_is_refused(
    simulated, file, registered, base, small, tmp_path, capsys
):
    text = CODE.replace(f'"{NAME}": norms', '"fisher": norms')
    file.write_text(text)
    sys.modules.pop(f"strategies.{NAME}")
    importlib.invalidate_caches()
    flags = [
        *small,
        "--model",
        str(base),
        "--strategies",
        NAME,
        "--strategies",
        "empirical",
        "--strategies",
        "baseline",
    ]
    assert main([*flags, "--runs-dir", str(tmp_path / "runs"), "--name", "both"]) == 2
    assert f"{MEASUREMENT}: another strategy's evidence is called 'fisher', too" in capsys.readouterr().err


def test_what_is_measured_survives_a_file_of_which_no_byte_can_be_changed_unnoticed(file, tmp_path):
    path = tmp_path / "kept" / "key.safetensors"
    form = format_of(MEASUREMENT)
    assert form == MeasuredFile(MEASUREMENT)
    measured = Measured({"norm": {"a": 0.1, "b": 0.0}}, {"a": torch.eye(2), "b": torch.zeros(1, 3)})
    keep(measured, path, form)
    again = form.read(path)
    assert again.evidence == measured.evidence
    assert again.tensors.keys() == measured.tensors.keys()
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in measured.tensors.items())
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises((ValueError, SafetensorError)):
            form.read(path)


def sharing(base, batches, budget):
    """Measure nothing: one tensor twice, and once transposed."""
    one = torch.arange(6.0).view(2, 3)
    return Measured({"rows": {"a": float(sum(1 for _ in batches))}}, {"a": one, "b": one, "c": one.t()})


def test_tensors_that_share_memory_can_be_kept(workload, tmp_path):
    named = f"{__name__}:sharing"
    keep(measure(workload, named), tmp_path / "key.safetensors", format_of(named))
    again = format_of(named).read(tmp_path / "key.safetensors")
    assert again.evidence == {"rows": {"a": 4.0}}  # 16 examples in batches of 4
    assert again.tensors["a"].tolist() == again.tensors["b"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert again.tensors["c"].tolist() == [[0, 3], [1, 4], [2, 5]]
