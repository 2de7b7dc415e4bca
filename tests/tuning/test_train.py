"""The recommended allocation trained on all rows, and the script that trains the same with TRL and PEFT alone."""

import json
import os
import subprocess
import sys

import pytest
import torch

from analysis.audit.audit import audited
from analysis.audit.plan import read
from analysis.results.rows import read_rows, write_rows
from tests.conftest import ROOT
from tests.fakes.rows import run
from trainables import refit
from trainables.data.preparation import all_examples, prepare
from trainables.models import device
from trainables.models.base_model import shape_of
from trainables.postprocess.verification import NotReloaded
from tuning import train
from tuning.plan.search_plan import SearchPlan
from tuning.preflight.preflight import check
from tuning.state.continuation import save_plan

FORMS = ["best_adapter", "best_adapter_uniform"]


@pytest.fixture
def folder(tiny_gpt2, tiny_text, tmp_path):
    """A run folder: its plan, and a row with mixed ranks, zero among them."""
    plan = SearchPlan(
        model=str(tiny_gpt2), dataset=str(tiny_text), train_examples=16, validation_examples=8, test_examples=8,
        max_length=32, epochs=2, learning_rate=0.01, runs_dir=str(tmp_path), name="x", reports=2,
    )  # fmt: skip
    (tmp_path / "x").mkdir()
    save_plan(plan, tmp_path / "x")
    ranks = {site.name: number % 3 for number, site in enumerate(shape_of(str(tiny_gpt2)).sites)}
    config = {"composite": {"learning_rate": 0.01}, "seed": 3, "scaling": "constant"}
    row = run("composite", 3, 5.0, phase="search", ranks=ranks, config=config, trainable_parameters=None,
              alphas={name: 2.0 * rank for name, rank in ranks.items() if rank})  # fmt: skip
    write_rows([row], tmp_path / "x" / "rows.jsonl")
    return tmp_path / "x"


def command(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train", *map(str, arguments)])
        return train.main()


@pytest.fixture
def reload_as(monkeypatch):
    """A function that has others' code measure, of each form, what is given, or what a function makes of our loss."""
    from trainables.postprocess import forms, verification

    write_all, measured = forms.write_all, []

    def writing(*arguments):
        measured.append(write_all(*arguments))
        return measured[-1]

    def use(*losses):
        monkeypatch.setattr(forms, "write_all", writing)
        monkeypatch.setattr(
            verification,
            "reloaded",
            lambda *_: [loss if isinstance(loss, NotReloaded) else measured[-1] + loss for loss in losses],
        )

    return use


def rows_of(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def splits_of(folder):
    return check(SearchPlan(**json.loads((folder / "plan.json").read_text()))).workload.splits


def test_it_trains_on_all_rows_but_those_of_validation_and_test(folder, reload_as, capsys):
    reload_as(0.0, 0.0)
    assert command(folder) == 0, capsys.readouterr().err
    splits, trained_on = splits_of(folder), rows_of(folder / "trained")
    kept = {example.input_ids for example in (*splits.validation, *splits.test)}
    ids = [tuple(row["input_ids"]) for row in trained_on]
    assert len(ids) == len({*ids}) == 60 - 16 > len(splits.train)
    assert kept.isdisjoint(ids)
    assert {example.input_ids for example in splits.train} <= {*ids}


def test_with_all_data_it_trains_on_these_too_and_claims_no_loss(folder, reload_as):
    reload_as(0.0, 0.0)
    assert command(folder, "--all-data") == 0
    assert len(rows_of(folder / "trained_on_all_data")) == 60
    card = (folder / "trained_on_all_data" / "best_adapter" / "README.md").read_text()
    assert "trained on 60 examples" in card
    assert "Loss on the" not in card
    assert "test_loss" not in json.loads((folder / "trained_on_all_data" / "row.json").read_text())


def test_every_row_has_the_document_that_the_search_gave_it(folder):
    workload = check(SearchPlan(**json.loads((folder / "plan.json").read_text()))).workload
    numbers = {example.input_ids: example.document for example in all_examples(workload.data, workload.model)}
    for example in (*workload.splits.train, *workload.splits.validation, *workload.splits.test):
        assert numbers[example.input_ids] == example.document
    assert len(numbers) == 60 > len(prepare(workload.data, workload.model).splits.train)


def test_what_comes_out_is_what_was_planned_in_both_forms_and_has_cards(folder, reload_as, capsys):
    reload_as(0.0, 0.0)
    assert command(folder) == 0
    out = capsys.readouterr().out
    for form in FORMS:
        assert audited(folder / "trained" / form, read(folder)).findings == ()
        assert str(folder / "trained" / form) in out
        assert f"folder = '{folder / 'trained' / form}'" in (folder / "trained" / form / "README.md").read_text()
    assert sorted(path.name for path in (folder / "trained").iterdir()) == [
        *FORMS, "row.json", "train.jsonl", "train_with_trl.py",
    ]  # fmt: skip
    assert not [path.name for path in folder.iterdir() if "partial" in path.name]


def test_a_form_that_others_measure_otherwise_is_not_called_by_its_name(folder, reload_as, capsys):
    reload_as(1.0, NotReloaded("ValueError: no such thing"))
    assert command(folder) == 6
    assert "do not load it (ValueError: no such thing)" in capsys.readouterr().err
    names = [path.name for path in (folder / "trained").iterdir() if path.is_dir()]
    assert {*names} == {f"{form}_unverified" for form in FORMS}


def test_a_strategy_that_trains_otherwise_is_said_to_be_trained_as_plain_lora(folder, reload_as, capsys):
    reload_as(0.0, 0.0)
    (row,) = read_rows(folder / "rows.jsonl")
    adalora = run("adalora", 1, 4.0, phase="search", ranks=row.ranks, learning_rate=0.01)
    write_rows([adalora], folder / "rows.jsonl")
    assert command(folder) == 0
    assert "Note: its ranks are trained as plain LoRA" in capsys.readouterr().out


def test_it_is_trained_at_the_scales_of_the_search_whatever_its_final_ranks_are(folder, reload_as):
    reload_as(0.0, 0.0)
    (row,) = read_rows(folder / "rows.jsonl")
    alphas = {name: 1.5 * rank for name, rank in row.ranks.items() if rank}
    config = {"adalora": {"learning_rate": 0.01}, "seed": 3, "scaling": "alpha/r"}
    adalora = run("adalora", 3, 4.0, phase="search", ranks=row.ranks, config=config, alphas=alphas,
                  trainable_parameters=None)  # fmt: skip
    write_rows([adalora], folder / "rows.jsonl")
    assert command(folder) == 0
    assert json.loads((folder / "trained" / "row.json").read_text())["alphas"] == alphas
    assert audited(folder / "trained" / "best_adapter", read(folder)).findings == ()


@pytest.mark.parametrize(("file", "text", "culprit"), [
    ("plan.json", "{", "plan.json"),
    ("plan.json", '{"model": 3}', "plan.json"),
    ("rows.jsonl", "", "no run in it can be recommended"),
])  # fmt: skip
def test_a_folder_that_says_too_little_is_refused_in_one_line(file, text, culprit, folder, capsys):
    (folder / file).write_text(text)
    assert command(folder) == 2
    error = capsys.readouterr().err
    assert culprit in error
    assert len(error.splitlines()) == 1
    assert not (folder / "trained").exists()


@pytest.mark.parametrize("name", ["plan.json", "facts.json", "rows.jsonl"])
def test_what_would_be_waited_for_is_refused_before_it_is_read(name, folder, capsys):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert command(folder) == 2
    assert f"{folder / name}: neither a file nor a folder" in capsys.readouterr().err


def test_a_file_that_a_plan_calls_its_template_does_not_get_into_what_is_handed_out(folder, tmp_path, capsys):
    (tmp_path / "id_rsa").write_text("mine")
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | {"chat_template": str(tmp_path / "id_rsa")}))
    assert command(folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder / 'best_adapter'}: no chat_template.jinja in it; copy the search's --chat-template there" in line
    (folder / "best_adapter").mkdir()
    (folder / "best_adapter" / "chat_template.jinja").write_text("the search's")
    assert train._winner(folder).plan.chat_template == str(folder / "best_adapter" / "chat_template.jinja")


def test_an_output_that_exists_is_refused(folder, capsys):
    (folder / "trained").mkdir()
    assert command(folder) == 2
    assert "exists" in capsys.readouterr().err


def test_other_matrices_than_the_rows_have_are_refused(folder, capsys):
    write_rows([run("composite", 3, 5.0, phase="search", ranks={"h.9": 1}, learning_rate=0.01)], folder / "rows.jsonl")
    assert command(folder) == 2
    assert "its matrices are others" in capsys.readouterr().err


def test_a_training_that_diverges_leaves_nothing_and_one_line(folder, capsys, monkeypatch):
    last = {"status": "diverged", "done": True, "error": "loss nan at step 1", "train_loss": None, "step": 1}
    monkeypatch.setattr(refit, "next_report", lambda session: last)
    assert command(folder) == 1
    assert capsys.readouterr().err == "Error: it diverged: loss nan at step 1\n"
    assert sorted(path.name for path in folder.iterdir()) == ["plan.json", "rows.jsonl"]


def test_a_base_that_is_not_the_one_of_the_search_is_refused(folder, capsys):
    (folder / "facts.json").write_text(json.dumps({"base_sha256": "0" * 64}))
    assert command(folder) == 2
    error = capsys.readouterr().err
    assert "its files have changed since the search" in error
    assert (len(error.splitlines()), (folder / "trained").exists()) == (1, False)


def changed_plan(folder, **choices):
    plan = SearchPlan(**json.loads((folder / "plan.json").read_text()))
    save_plan(plan.model_copy(update=choices), folder)


def test_blocks_compute_twice_where_the_plan_says_so(folder, reload_as, monkeypatch):
    reload_as(0.0, 0.0)
    changed_plan(folder, gradient_checkpointing="on")
    trained, train_alone = [], refit.train
    monkeypatch.setattr(
        refit, "train", lambda workload, *rest: trained.append(workload) or train_alone(workload, *rest)
    )
    assert command(folder) == 0
    assert (trained[0].recomputes, trained[0].pack_size) == (True, 1)


def test_data_that_a_program_handed_over_is_found_where_the_run_was_moved(folder, tiny_text, tmp_path, capsys):
    lines = [json.dumps({"text": line}) for line in tiny_text.read_text().splitlines()]
    (folder / "given").mkdir()
    (folder / "given" / "dataset.jsonl").write_text("\n".join(lines))
    changed_plan(folder, dataset=str(folder / "given" / "dataset.jsonl"))
    moved = folder.rename(tmp_path / "moved")
    write_rows([run("composite", 3, 5.0, phase="search", ranks={"h.9": 1}, learning_rate=0.01)], moved / "rows.jsonl")
    assert command(moved) == 2
    assert "its matrices are others" in capsys.readouterr().err, "which is looked at once the data are read"


def test_a_device_that_is_not_there_is_named_before_anything_else(folder, capsys, monkeypatch):
    monkeypatch.setattr(device, "here", lambda: device.device_of("cpu"))
    changed_plan(folder, gpus_per_trial=1.0)
    assert command(folder) == 2
    error = capsys.readouterr().err
    assert "the search trained on cuda, and this machine has none" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(("problem", "words"), [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "memory does not suffice (CUDA out of memory"),
    (RuntimeError("CUDA error: device-side assert"), "the device cannot be used (CUDA error"),
])  # fmt: skip
def test_a_device_that_fails_is_one_line_and_leaves_nothing(problem, words, folder, capsys, monkeypatch):
    def failing(*_):
        raise problem

    monkeypatch.setattr(refit, "train", failing)
    assert command(folder) == 1
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["plan.json", "rows.jsonl"]


@pytest.mark.process
@pytest.mark.thorough
def test_the_script_trains_the_same_with_trl_alone_and_both_are_loaded_by_others(folder, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "tuning.train", folder], capture_output=True, text=True, check=False,
                          env=environment, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("as the search did") == 2
    script = folder / "trained" / "train_with_trl.py"
    source = script.read_text()
    assert not [name for name in ("trainables", "tuning", "analysis", "strategies") if name in source]
    del environment["PYTHONPATH"]
    theirs = subprocess.run([sys.executable, "-I", script, tmp_path / "trl"], capture_output=True, text=True,
                            check=False, env=environment, cwd=tmp_path)  # fmt: skip
    assert theirs.returncode == 0, theirs.stderr
    assert audited(tmp_path / "trl", read(folder / "trained" / "row.json")).findings == ()
    assert audited(tmp_path / "trl", read(folder)).findings == ()
