"""What is handed out is loaded by Transformers and PEFT alone, and measured again."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from analysis.results import journal
from analysis.results.rows import read_rows, write_rows
from strategies import RankAllocation
from trainables import export
from trainables.adapters import WEIGHTS, peft_adapter
from trainables.adapters.saved_config import read_folder
from trainables.data.preparation import prepare
from trainables.data.source import DataSource
from trainables.data.splits import IGNORED, Example, mean_loss
from trainables.models.base_model import load
from trainables.models.identity import identity
from trainables.models.precision import IN_FLOAT32
from trainables.postprocess import forms
from trainables.postprocess.verification import SCRIPT, NotReloaded, agree, reloaded
from trainables.training.losses import evaluate

pytestmark = pytest.mark.process
ROWS = [Example((5, 6, 7, 8, 9), (IGNORED, IGNORED, 7, 8, 9)), Example((11, 12, 13), (11, 12, 13))]


@pytest.fixture
def handed_out(tiny_gpt2, tmp_path):
    """(base, saved in bfloat16, folder of an adapter in short form, its loss as measured here, over float32)"""
    model = str(shutil.copytree(tiny_gpt2, tmp_path / "halved"))
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(model)
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
    export.uniform(model, IN_FLOAT32, adapter, tmp_path / "uniform")
    export.merged(model, IN_FLOAT32, adapter, tmp_path / "merged")
    losses = reloaded(model, [adapter, tmp_path / "uniform", None], ROWS, "cpu")
    losses += reloaded(str(tmp_path / "merged"), [None], ROWS, "cpu")
    assert [agree(measured, loss) for loss in losses] == [True, True, False, True]


def test_a_weight_that_is_another_is_noticed_and_one_that_does_not_load_keeps_no_other_from_it(handed_out, tmp_path):
    model, adapter, measured = handed_out
    broken = shutil.copytree(adapter, tmp_path / "broken")
    (broken / WEIGHTS).write_bytes(b"nothing")
    tensors = load_file(adapter / WEIGHTS)
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] * 2}, adapter / WEIGHTS, metadata={"format": "pt"})
    unread, loss = reloaded(model, [broken, adapter], ROWS, "cpu")
    assert isinstance(unread, NotReloaded)
    assert "Safetensor" in str(unread)
    assert "\n" not in str(unread)
    assert isinstance(loss, float)
    assert not agree(measured, unread)
    assert not agree(measured, loss)


def test_nothing_of_ours_can_be_imported_there():
    code = f"import runpy, sys; sys.meta_path.insert(0, runpy.run_path({str(SCRIPT)!r})['OursAreNotThere']()); import "
    for package in ("trainables.spec", "strategies", "json"):
        done = subprocess.run([sys.executable, "-P", "-c", code + package], capture_output=True, text=True, check=False)
        assert bool(done.returncode) == (package != "json")
        assert ("not to be imported" in done.stderr) == (package != "json")


def test_what_is_installed_on_the_python_path_alone_is_imported_there(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('this one is on the path')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (error,) = reloaded("bundled", [None], ROWS, "cpu")
    assert "this one is on the path" in str(error)


@pytest.mark.parametrize(("loss", "same"), [(4.00009, True), (4.00011, False), (float("nan"), False)])
def test_losses_agree_within_a_ten_thousandth(loss, same):
    assert agree(4.0, loss) is same


@pytest.fixture
def run(handed_out, tiny_text, tmp_path):
    """Folder of a run that was stopped: an adapter that nobody has verified, its plan and its rows."""
    model, adapter, _ = handed_out
    model = str(shutil.copytree(model, tmp_path / "base"))
    folder = tmp_path / "run"
    shutil.copytree(adapter, folder / "best_adapter_unverified")
    (folder / "best_adapter_unverified" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (tmp_path / "mine.jinja").write_text("of somebody else")
    plan = {"chat_template": str(tmp_path / "mine.jinja"), "model": model,
            "dataset": str(tiny_text), "train_examples": 8, "validation_examples": 4,
            "test_examples": 4, "max_length": 32}  # fmt: skip
    chosen = {name: value for name, value in plan.items() if name != "model"}
    chosen["chat_template"] = str(folder / "best_adapter_unverified" / "chat_template.jinja")
    prepared = prepare(DataSource(**chosen), model)
    (folder / "plan.json").write_text(json.dumps({**plan, "corpus_sha256": prepared.corpus_sha256}))
    facts = {"base_sha256": identity(model), "handed_out": {"best_adapter_unverified": "not verified"}}
    (folder / "facts.json").write_text(json.dumps(facts))
    measured = export.exact_loss(load(model, "cpu"), read_folder(adapter), prepared.splits.validation, 4)
    row = {"trial_id": "t001", "experiment_name": "a", "strategy": "baseline", "status": "finished",
           "final_eval_loss": measured, "ranks": {"h.0.q": 1}, "alphas": {"h.0.q": 2.0}}  # fmt: skip
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def exported(run, form, output, monkeypatch, capsys):
    """Return exit status, what was printed, and what on standard error."""
    monkeypatch.setattr(sys, "argv", ["export", str(run), "--form", form, "--output", str(output)])
    return export.main(), *capsys.readouterr()


def test_what_a_stopped_search_left_is_verified_and_gets_its_name(run, monkeypatch, capsys):
    status, out, errors = exported(run, "adapter", run / "best_adapter", monkeypatch, capsys)
    assert (status, errors) == (0, "")
    assert "nats per token on the validation rows, as the search did" in out
    assert {path.name for path in run.iterdir()} == {"best_adapter", "plan.json", "facts.json", "rows.jsonl"}
    text = (run / "best_adapter" / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    outcome: dict = {}
    exec(code, outcome)  # as the card says
    assert outcome["model"].peft_config["default"].peft_type == "LORA"
    assert outcome["tokenizer"]("one two").input_ids
    assert outcome["tokenizer"].chat_template == "{{ messages[0].content }}"
    assert outcome["base"].dtype == torch.float32  # as it was measured, whatever the checkpoint is saved in
    choices = json.loads((run / "plan.json").read_text())
    names = ("dataset", "train_examples", "validation_examples", "test_examples", "max_length")
    validation = prepare(DataSource(**{name: choices[name] for name in names}), choices["model"]).splits.validation
    rows = [(row.input_ids, row.labels) for row in validation]
    loss = runpy.run_path(str(SCRIPT))["mean_loss"](outcome["model"].eval(), rows)
    assert agree(json.loads((run / "rows.jsonl").read_text())["final_eval_loss"], loss)
    status, _, errors = exported(run, "adapter", run / "best_adapter", monkeypatch, capsys)
    assert (status, errors.count("exists; give a folder that does not")) == (2, 1)


@pytest.mark.thorough
@pytest.mark.parametrize("form", ["uniform", "merged"])
def test_a_form_that_is_another_adapter_does_not_get_the_name(form, run, monkeypatch, capsys, tmp_path):
    write = export.FORMS[form]

    def other(model, precision, adapter, output):
        write(model, precision, adapter, output)
        name = WEIGHTS if form == "uniform" else "model.safetensors"
        tensors = load_file(output / name)
        save_file({key: 1.1 * value for key, value in tensors.items()}, output / name, metadata={"format": "pt"})

    monkeypatch.setitem(export.FORMS, form, other)
    status, out, errors = exported(run, form, tmp_path / "form", monkeypatch, capsys)
    assert (status, out) == (6, "")
    assert len(set(re.findall(r"\d+\.\d{5}", errors))) == 2
    assert not (tmp_path / "form").exists()
    assert (tmp_path / "form_unverified").is_dir()


def test_without_its_data_a_form_is_not_verified(run, monkeypatch, capsys, tmp_path):
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps({**plan, "dataset": str(tmp_path / "gone.txt")}))
    status, out, errors = exported(run, "uniform", tmp_path / "form", monkeypatch, capsys)
    assert (status, out) == (6, "")
    assert "its validation rows are not to be had" in errors
    assert [path.name for path in tmp_path.glob("*form*")] == ["form_unverified"]


def test_a_file_that_a_plan_calls_its_template_does_not_get_into_an_export(run, monkeypatch, capsys, tmp_path):
    (run / "best_adapter_unverified" / "chat_template.jinja").unlink()
    status, out, errors = exported(run, "uniform", tmp_path / "form", monkeypatch, capsys)
    assert (status, out, len(errors.splitlines())) == (2, "", 1)
    assert "no chat_template.jinja in it; copy the search's --chat-template there" in errors
    assert not list(tmp_path.glob("*form*"))


@pytest.mark.parametrize("noted", ["by its row", "of another trial", "of an earlier winner"])
def test_what_its_trial_did_not_report_gets_no_name_by_another_export(noted, run, monkeypatch, capsys, tmp_path):
    """A search has ended with status 6: the adapter is whole, and loads, and is not what its trial had."""
    monkeypatch.setattr(export, "exact_loss", lambda *_: 4.0)
    monkeypatch.setattr(export, "reloaded", lambda *_: [4.0])
    (row,) = read_rows(run / "rows.jsonl")
    best, other = replace(row, final_eval_loss=3.5), replace(row, trial_id="t002", final_eval_loss=4.0)
    write_rows([best, other], run / "rows.jsonl")
    if noted != "by its row":
        folders = {"best_adapter": 4.0}
        if noted == "of another trial":
            folders = json.loads((run / "facts.json").read_text())["handed_out"]
        journal.append(run / "record.jsonl", {"event": "handed_out", "trial_id": "t002", "folders": folders})
    before = {path.name for path in run.iterdir()}
    status, out, errors = exported(run, "adapter", run / "best_adapter", monkeypatch, capsys)
    if noted == "of another trial":
        assert (status, (run / "best_adapter").is_dir(), errors) == (0, True, "")
        return
    assert (status, out) == (6, "")
    assert "the search measured 3.50000" in errors
    assert {path.name for path in run.iterdir()} == before


def test_an_export_that_fails_leaves_what_nobody_has_verified_as_it_was(run, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(export, "exact_loss", lambda *_: 4.0)
    monkeypatch.setattr(export, "reloaded", lambda *_: [4.0])

    def full(path, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(Path, "replace", full)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert exported(run, "adapter", run / "best_adapter", monkeypatch, capsys)[0] == 2
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "tokenizer.json"])
def test_a_run_that_a_link_leads_out_of_is_not_exported(name, run, monkeypatch, capsys, tmp_path):
    path = run / "best_adapter_unverified" / name
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path / "mine.jinja")
    status, out, errors = exported(run, "merged", tmp_path / "form", monkeypatch, capsys)
    assert (status, out, len(errors.splitlines())) == (2, "", 1)
    assert f"{path}: a link that leads out of {run}" in errors
    assert not list(tmp_path.glob("*form*"))


def test_rows_that_a_program_handed_over_are_exported_with_from_where_the_run_is_now(
    run, tiny_text, monkeypatch, capsys, tmp_path
):
    plan = json.loads((run / "plan.json").read_text())
    (run / "given").mkdir()
    lines = [json.dumps({"text": line}) for line in tiny_text.read_text().splitlines() if line.strip()]
    (run / "given" / "dataset.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (run / "plan.json").write_text(
        json.dumps({**plan, "corpus_sha256": None, "dataset": "/moved/since/run/given/dataset.jsonl"})
    )
    monkeypatch.setattr(export, "exact_loss", lambda *_: 4.0)
    monkeypatch.setattr(export, "reloaded", lambda *_: [4.0])
    write_rows([replace(row, final_eval_loss=4.0) for row in read_rows(run / "rows.jsonl")], run / "rows.jsonl")
    status, out, errors = exported(run, "uniform", tmp_path / "form", monkeypatch, capsys)
    assert (status, errors) == (0, "")
    assert "4.00000 nats per token on the validation rows" in out


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_an_export_over_a_base_that_was_changed_is_refused(form, run, monkeypatch, capsys, tmp_path):
    weights = tmp_path / "base" / "model.safetensors"
    save_file({name: 1.1 * tensor for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    identity.cache_clear()  # as in a process of its own
    status, out, errors = exported(run, form, tmp_path / "form", monkeypatch, capsys)
    assert (status, out, len(errors.splitlines())) == (2, "", 1)
    assert f"--model {tmp_path / 'base'}: its files have changed since the search" in errors
    assert not list(tmp_path.glob("*form*"))


def test_an_export_with_other_texts_than_the_search_had_is_refused(run, monkeypatch, capsys, tmp_path):
    plan = json.loads((run / "plan.json").read_text())
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"{number} other texts of {number}" for number in range(60)))
    (run / "plan.json").write_text(json.dumps({**plan, "dataset": str(texts)}))
    status, out, errors = exported(run, "uniform", tmp_path / "form", monkeypatch, capsys)
    assert (status, out, len(errors.splitlines())) == (2, "", 1)
    assert f"--dataset {texts}: its texts have changed since the search" in errors
    assert not list(tmp_path.glob("*form*"))


@pytest.mark.parametrize(("noted", "name"), [(3.0, "form_unverified"), (4.0, "form")])
def test_a_form_is_compared_with_the_loss_that_the_search_noted(noted, name, run, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(export, "exact_loss", lambda *_: 4.0)
    monkeypatch.setattr(export, "reloaded", lambda *_: [4.0])
    (run / "best_adapter_unverified").rename(run / "best_adapter")
    facts = {**json.loads((run / "facts.json").read_text()), "handed_out": {"best_adapter": noted}}
    (run / "facts.json").write_text(json.dumps(facts))
    _, out, errors = exported(run, "uniform", tmp_path / "form", monkeypatch, capsys)
    assert [path.name for path in tmp_path.glob("*form*")] == [name]
    assert ("the search measured 3.00000" in errors) == (noted == 3.0)
    assert ("as the search did" in out) == (noted == 4.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_length": "x"}, "max_length: Input should be a valid integer"),
        ({"learn": ["all"]}, "learn: Input should be"),
        ({"dataset": {"a": 1}}, "dataset: Input should be a valid string"),
        (None, "cut off, or no JSON"),
    ],
)
def test_a_plan_that_no_search_writes_is_one_line(run, monkeypatch, capsys, change, said):
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text("[" * 100_000 if change is None else json.dumps(plan | change))
    status, out, errors = exported(run, "adapter", run / "best_adapter", monkeypatch, capsys)
    assert (status, out, len(errors.splitlines())) == (2, "", 1)
    assert f"{run / 'plan.json'}: no plan that can be read ({said}" in errors
