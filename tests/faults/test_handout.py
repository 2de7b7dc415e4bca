"""What a search hands out, and under which name: with a host and others' code that say what the test wants."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import ray

from analysis.results.rows import ResultRow, append_row
from tests.fakes import ray_tune, trial
from tests.fakes.trial import reloaded_of
from trainables.postprocess.verification import NotReloaded
from tuning.results import finalize, handout
from tuning.search_result import SearchResult
from tuning.state.record import Record

FLAGS = ("--strategies", "baseline", "--strategies", "linear_decay", "--num-samples", 3, "--confirm-seeds", 0)
FORMS = ["best_adapter", "best_adapter_uniform"]


@pytest.fixture
def search(simulated, small, told, tmp_path):
    """A function that runs a search, or goes on with it, and returns its status, what it printed, and its folder."""

    def run(*flags):
        begun = (tmp_path / "x").exists()
        chosen = ("--resume", "x", *flags) if begun else (*small, *FLAGS, "--name", "x", *flags)
        return *told(*chosen, "--runs-dir", tmp_path), tmp_path / "x"

    return run


def adapters(folder):
    return sorted(path.name for path in folder.glob("best_adapter*"))


def facts(folder):
    return json.loads((folder / "facts.json").read_text())


def losses(monkeypatch, *others):
    """Have others' code measure so much more of the two forms than the search did, or not load them."""

    def reloaded(_, workload, adapters, examples):
        pairs = zip(adapters, others, strict=True)
        return [other if isinstance(other, NotReloaded) else reloaded_of(path) + other for path, other in pairs]

    monkeypatch.setattr(ray_tune.NoHosts, "reloaded_here", reloaded)


def best_loss(folder):
    """What the winner's trial reported."""
    return SearchResult(folder).recommended.final_eval_loss


def test_both_forms_are_there_with_a_card_that_says_what_each_is_for(search):
    status, out, errors, folder = search()
    assert (status, errors) == (0, "")
    assert adapters(folder) == FORMS
    assert facts(folder)["handed_out"] == dict.fromkeys(FORMS, best_loss(folder))
    for form in FORMS:
        assert f"{folder}/{form}" in out
        assert f"folder = '{folder / form}'" in (folder / form / "README.md").read_text()
    assert "vLLM" in next(
        line for line in out.splitlines() if line.endswith("best_adapter_uniform") or FORMS[1] in line
    )
    assert not (folder / handout.ASIDE).exists()


def test_a_form_that_others_measure_otherwise_is_not_called_by_its_name(search, monkeypatch):
    losses(monkeypatch, 1.1e-4, 0.9e-4)
    status, _, errors, folder = search()
    assert status == 6
    assert adapters(folder) == ["best_adapter_uniform", "best_adapter_unverified"]
    (line,) = errors.splitlines()
    assert "best_adapter_unverified" in line
    assert f"measure {best_loss(folder) + 1.1e-4:.5f} nats" in line
    assert f"the search measured {best_loss(folder):.5f}" in line
    assert line.partition("not to be used, ")[2] in (folder / "best_adapter_unverified" / "README.md").read_text()
    assert search()[0] == 6, "a complete search is left as it is, and so is its status"


def test_a_base_that_was_changed_under_a_search_is_said(search, monkeypatch, tiny_gpt2, tmp_path):
    model = shutil.copytree(tiny_gpt2, tmp_path / "model")

    def changed(_, workload, adapters, examples):
        with (model / "model.safetensors").open("ab") as file:
            file.write(b"\0")
        return [reloaded_of(adapters[0]) + 1, reloaded_of(adapters[1])]

    monkeypatch.setattr(ray_tune.NoHosts, "reloaded_here", changed)
    status, _, errors, _ = search("--model", model)
    assert status == 6
    assert errors.splitlines()[-1] == f"Error: --model {model}: its files have changed since the search began"


def test_what_is_whole_but_not_what_its_trial_reported_is_not_called_by_its_name(search, monkeypatch):
    """Such as a checkpoint with a neighbour's tensors: host and others agree on it."""
    write = ray_tune.forms_of
    monkeypatch.setattr(ray_tune, "forms_of", lambda *paths: write(*paths) + 0.01)
    losses(monkeypatch, 0.01, 0.01)
    status, _, errors, folder = search()
    assert status == 6
    assert adapters(folder) == ["best_adapter_uniform_unverified", "best_adapter_unverified"]
    assert f"the search measured {best_loss(folder):.5f}" in errors


def test_one_that_does_not_load_is_named_with_the_reason(search, monkeypatch):
    losses(monkeypatch, 0, NotReloaded("ValueError: no such thing"))
    status, _, errors, folder = search()
    assert status == 6
    assert adapters(folder) == ["best_adapter", "best_adapter_uniform_unverified"]
    assert "do not load it (ValueError: no such thing)" in errors
    assert facts(folder)["handed_out"]["best_adapter_uniform_unverified"] == "ValueError: no such thing"


def test_what_can_be_verified_in_the_end_takes_the_place_of_what_could_not(search, monkeypatch):
    with monkeypatch.context() as patch:
        losses(patch, 1, 1)
        assert search()[0] == 6
    status, _, errors, folder = search("--extend", 1)
    assert (status, errors) == (0, "")
    assert adapters(folder) == FORMS


def test_where_no_host_can_write_them_the_adapter_is_handed_out_as_it_was_saved(search, monkeypatch):
    def fail(*arguments, **options):
        raise ray.exceptions.RayActorError

    monkeypatch.setattr(handout, "ask", fail)
    status, out, errors, folder = search()
    assert status == 6
    assert adapters(folder) == ["best_adapter_unverified"]
    assert "could not be verified" in errors
    assert f"--form adapter --output {folder}/best_adapter" in out
    assert (folder / "best_adapter_unverified" / "adapter_model.safetensors").is_file()


def test_a_search_that_is_stopped_hands_out_what_nobody_has_verified_and_says_how_to(search, monkeypatch):
    with monkeypatch.context() as patch:
        ray_tune.at(patch, lambda harvest: harvest.record.rows, lambda: os.kill(os.getpid(), signal.SIGTERM))
        status, out, _, folder = search()
    assert status == 143
    assert adapters(folder) == ["best_adapter_unverified"]
    command = f"python -m trainables.export {folder} --form adapter --output {folder}/best_adapter"
    assert command in out
    assert command in (folder / "best_adapter_unverified" / "README.md").read_text()
    assert (folder / "best_adapter_unverified" / "tokenizer.json").is_file()
    assert search()[0] == 0
    assert adapters(folder) == FORMS


def test_a_search_that_is_extended_and_stopped_keeps_what_was_verified_and_lays_nothing_beside_it(search, monkeypatch):
    _, _, _, folder = search()
    before = facts(folder)["handed_out"]
    monkeypatch.setattr(trial, "loss_of", lambda *_: 9.0)
    with monkeypatch.context() as patch:
        ray_tune.at(patch, lambda harvest: len(harvest.record.rows) > 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        status, out, _, _ = search("--extend", 2)
    assert status == 143
    assert adapters(folder) == FORMS
    assert facts(folder)["handed_out"] == before
    assert "to verify it" not in out


@pytest.mark.parametrize("changed", [True, False])
def test_what_was_handed_out_stays_when_the_winners_checkpoint_is_gone(search, monkeypatch, changed):
    """The trial that is added is the new winner, or it is not."""
    _, _, _, folder = search()
    before = {path: path.read_bytes() for path in folder.glob("best_adapter*/*")}
    before_loss = best_loss(folder)
    shutil.rmtree(folder / "ray")
    monkeypatch.setattr(finalize, "newest_checkpoint", lambda plan, name: None)
    monkeypatch.setattr(trial, "loss_of", lambda *_: 1.0 if changed else 9.0)
    status, _, errors, _ = search("--extend", 1)
    name, handed_out = ("{}_of_t002", None) if changed else ("{}", folder / "best_adapter")
    stayed = {folder / name.format(path.parent.name) / path.name: content for path, content in before.items()}
    now = {path: path.read_bytes() for path in folder.glob("best_adapter*/*")}
    assert {path: now.get(path) for path in stayed} == stayed
    assert ("best_adapter was that of t002" in errors) is changed
    assert ("best_adapter stays as it was" in errors) is not changed
    assert SearchResult(folder).best_adapter == handed_out
    assert (status, facts(folder)["handed_out"]) == (
        (6, {"best_adapter_unverified": "its checkpoint is gone"}) if changed
        else (0, dict.fromkeys(FORMS, before_loss))
    )  # fmt: skip


def test_what_was_set_apart_has_its_name_again_once_its_trial_wins_again(search):
    _, _, _, folder = search()
    record = Record(folder)
    winner, _ = record.handout
    other, same = (ResultRow(trial_id, trial_id, "baseline", "finished") for trial_id in ("t009", winner))
    (line, _) = handout.set_apart(folder, record, other, {})
    assert "best_adapter_of_t00" in line
    assert adapters(folder) == [f"{form}_of_{winner}" for form in FORMS]
    assert handout.set_apart(folder, record, same, {}) == []
    assert adapters(folder) == FORMS
    assert handout.set_apart(folder, record, other, dict.fromkeys(FORMS)) == [], "they are about to be replaced"
    assert adapters(folder) == FORMS


def test_a_killed_search_does_not_call_an_earlier_winners_adapter_that_of_its_best(search):
    _, _, _, folder = search()
    assert SearchResult(folder).best_adapter == folder / "best_adapter"
    row = SearchResult(folder).recommended
    append_row(replace(row, trial_id="t009", experiment_name="t009", final_eval_loss=0.1), folder / "rows.jsonl")
    assert SearchResult(folder).best_adapter is None
