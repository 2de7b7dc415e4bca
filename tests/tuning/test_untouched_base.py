"""The untouched base: measured first, once in a search, and on the test split when the trials are."""

import json

import pytest

from analysis.results.rows import read_rows
from tests.fakes import mlflow, ray_tune
from tests.fakes.trial import BASE_LOSSES
from tuning.cli import main
from tuning.preflight import measuring
from tuning.results import finalize, handout
from tuning.state.record import Record
from tuning.tracking.mlflow_client import PARENT

pytestmark = pytest.mark.search
FLAGS = ("--strategies", "baseline", "--strategies", "linear_decay", "--num-samples", "3", "--confirm-seeds", "0")
MEASURED = {"eval_loss": BASE_LOSSES["validation"], "test_loss": BASE_LOSSES["test"]}


@pytest.fixture
def asked(simulated, monkeypatch, tmp_path):
    """What hosts are asked, with the number of trials that had ended by then."""
    asked = []

    def noting(plan, hosts, what, *arguments, stop=None):
        rows = tmp_path / "x" / "rows.jsonl"
        asked.append((what, arguments, len(read_rows(rows)) if rows.is_file() else 0))
        return ray_tune._answer(plan, hosts, what, *arguments, stop=stop)

    for module in (measuring, finalize, handout):
        monkeypatch.setattr(module, "ask", noting)
    return asked


@pytest.fixture
def search(asked, small, tmp_path):
    """A function that runs a search, or goes on with it, and returns its folder."""

    def run(*flags):
        begun = (tmp_path / "x").exists()
        chosen = ("--resume", "x", *flags) if begun else (*small, *FLAGS, "--name", "x", *flags)
        assert main([*chosen, "--runs-dir", str(tmp_path)]) == 0
        return tmp_path / "x"

    return run


def of_base(asked):
    return [(arguments[0], ended) for what, arguments, ended in asked if what == "base_loss"]


def facts(folder):
    return json.loads((folder / "facts.json").read_text())


def test_it_is_measured_before_the_first_trial_and_on_the_test_split_once_trials_were(search, asked):
    folder = search()
    assert of_base(asked) == [("validation", 0), ("test", 3)]
    assert facts(folder)["base_losses"] == MEASURED
    line = next(line for line in (folder / "report.md").read_text().splitlines() if "| the base, untouched" in line)
    assert "5.5000" in line  # nothing is confirmed, and evaluation losses are compared


def test_the_searchs_own_run_in_mlflow_has_both_losses(search, simulated):
    folder = search()
    (stored,) = simulated.values()
    assert stored[PARENT].metrics == {"base_eval_loss": {0: 5.5}, "base_test_loss": {0: 5.75}}
    search("--extend", "1")
    lines = (folder / "mlflow-outbox.jsonl").read_text().splitlines()
    assert len([line for line in lines if '"base_eval_loss"' in line]) == 2


def test_a_longer_search_does_not_measure_it_again(search, asked):
    search()
    del asked[:]
    assert facts(search("--extend", "1"))["base_losses"] == MEASURED
    assert of_base(asked) == []


def test_a_search_that_was_killed_does_not_measure_it_again(search, asked, small, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        ray_tune.kill_at(patch, lambda harvest: bool(harvest.record.rows))
        with pytest.raises(ray_tune.Killed):
            main([*small, *FLAGS, "--name", "x", "--runs-dir", str(tmp_path)])
    mlflow.cut_off()
    assert facts(tmp_path / "x")["base_losses"] == {"eval_loss": 5.5}
    del asked[:]
    assert facts(search())["base_losses"] == MEASURED
    assert of_base(asked) == [("test", 3)]


def test_it_is_measured_anew_where_changes_may_have_made_it_another(search, asked):
    folder = search()
    del asked[:]
    search("--seed", "4", "--extend", "1", "--allow-changes")
    assert of_base(asked) == [("validation", 3), ("test", 4)]
    assert Record(folder).base_losses == MEASURED


@pytest.mark.parametrize("loss", [float("nan"), None])
def test_a_base_that_cannot_be_measured_is_left_out_and_ends_no_search(search, monkeypatch, capsys, loss):
    from ray.exceptions import RayTaskError

    def answer(plan, hosts, what, *arguments, stop=None):
        if what != "base_loss":
            return ray_tune._answer(plan, hosts, what, *arguments, stop=stop)
        if loss is None:
            raise RayTaskError("base_loss", "traceback", RuntimeError("too large\nfor this machine"))
        return loss

    monkeypatch.setattr(measuring, "ask", answer)
    folder = search()
    assert facts(folder)["base_losses"] == {}
    assert "| the base, untouched" not in (folder / "report.md").read_text()
    said = [line for line in capsys.readouterr().err.splitlines() if "untouched base" in line]
    expected = [f"the untouched base could not be measured on the {name} split: too large" for name in BASE_LOSSES]
    assert said == (expected if loss is None else [])
