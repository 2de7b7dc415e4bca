"""A plan is checked by a host where this process has no torch yet: nothing else about it is different."""

import logging
import os
import sys

import pytest

from tests.fakes.observers import Lines
from tuning.cluster import hosting
from tuning.lifecycle import process
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import asking, checking, preflight, preview


@pytest.fixture
def plan(tiny_gpt2, tiny_text, tmp_path):
    return SearchPlan(
        model=str(tiny_gpt2), dataset=str(tiny_text), train_examples=16, validation_examples=8, test_examples=8,
        max_length=32, gpus_per_trial=0, runs_dir=str(tmp_path), base_dtype="bfloat16",
    )  # fmt: skip


@pytest.fixture
def host(monkeypatch):
    """Have this process be the host; return the calls."""
    called = []

    def call(plan, hosts, function, *arguments):
        called.append(function)
        return function(*arguments)

    monkeypatch.setattr(hosting, "call", call)
    return called


def test_a_host_finds_what_this_process_would(plan, host, monkeypatch):
    monkeypatch.setattr(preview, "_operations_a_second", lambda: 1e9)
    observer = Lines()
    checked = asking.by_host(plan, None, observer)
    assert host == [checking.checked_here]
    here = preflight.check(plan)
    assert (checked.plan, checked.preflight) == checking.fitted(plan, here, None, Lines())
    assert checked.size == preview.size(plan, here)
    assert observer.heard[:1] == ["sized"]


def test_what_a_host_notes_and_logs_is_noted_and_logged_here(plan, host, monkeypatch, caplog):
    def decided(plan, checked, observer):
        observer.noted("it is so")
        return plan

    monkeypatch.setattr(checking.base_dtype, "decided", decided)
    observer = Lines()
    with caplog.at_level(logging.INFO):
        asking.by_host(plan, None, observer)
    assert observer.noted_lines == ["it is so"]
    assert any(
        name == "tuning.preflight.preflight" and "steps a trial" in line for name, _, line in caplog.record_tuples
    )


def test_paths_lead_from_where_the_search_was_started(plan, host, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("\n".join(f"line {number} of the text that is here" for number in range(60)))
    there = os.getcwd()
    checked = checking.checked_here(plan.model_copy(update={"dataset": "mine.txt"}), str(tmp_path), 1)
    assert checked.preflight.data["rows"] == 60
    assert os.getcwd() == there


@pytest.mark.parametrize(
    ("what", "asks"), [("nothing", True), ("a program", False), ("torch", False), ("a Ray", False)]
)
def test_a_host_is_asked_where_a_command_has_no_torch_and_begins_its_own_ray(plan, monkeypatch, what, asks):
    monkeypatch.setattr(process, "_counts_from_its_start", what != "a program")
    monkeypatch.setattr(asking.ray, "is_initialized", lambda: what == "a Ray")
    modules = {name: module for name, module in sys.modules.items() if name != "torch" or what == "torch"}
    monkeypatch.setattr(sys, "modules", {**modules, **({"torch": os} if what == "torch" else {})})
    assert asking.asks_a_host(plan) is (what == "nothing")
    assert not asking.asks_a_host(plan.model_copy(update={"ray_address": "auto"}))


def test_a_model_without_weights_is_refused_before_a_ray_is_started(plan, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no weights in it"):
        asking.check_at_once(plan.model_copy(update={"model": str(folder)}))
