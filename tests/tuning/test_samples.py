"""What base, plain LoRA and winner write: in the report, in MLflow, and never a reason for a search to end."""

import json

import pytest
from ray.exceptions import RayTaskError

from analysis.results.run_info import RunInfo
from analysis.stats import ranking
from tests.fakes import ray_tune
from tests.fakes.rows import PLAIN, assess, runs
from tuning.cli import main
from tuning.results import samples
from tuning.tracking.mlflow_client import PARENT

pytestmark = pytest.mark.search
FLAGS = ("--strategies", "baseline", "--strategies", "linear_decay", "--num-samples", "3", "--confirm-seeds", "0")


@pytest.fixture
def search(simulated, small, tmp_path):
    """A function that runs a search, or goes on with it, and returns its folder."""

    def run(*flags):
        begun = (tmp_path / "x").exists()
        chosen = ("--resume", "x", *flags) if begun else (*small, *FLAGS, "--name", "x", *flags)
        assert main([*chosen, "--runs-dir", str(tmp_path)]) == 0
        return tmp_path / "x"

    return run


def told(folder):
    return RunInfo.of_run(folder, "now").samples


def test_the_report_has_what_base_plain_lora_and_winner_wrote_and_mlflow_has_a_table_of_it(search, simulated):
    folder = search()
    first, second = told(folder)
    assert first == {
        "prompt": "text 0",
        "the base, untouched": "the base, untouched ",
        "plain LoRA": "plain LoRA baseline_lr0.01_t003",
        "linear_decay": "linear_decay linear_decay_lr0.01_t002",
    }
    report = (folder / "report.md").read_text().partition("## What They Wrote\n")[2].partition("\n## ")[0]
    assert report.startswith("\nTwo prompts.\n\n### Prompt 1\n\n**prompt:**\n\n```\n  text 0\n```\n")
    assert all(text in report for text in [*first.values(), *second.values()])
    (stored,) = simulated.values()
    assert stored[PARENT].tables == {"samples.json"}
    assert "samples.json" in stored[PARENT].artifacts
    table = json.loads((folder / "samples.json").read_text())
    assert (table["columns"], table["data"]) == ([*first], [[*first.values()], [*second.values()]])


def test_where_plain_lora_is_the_run_to_use_it_writes_once():
    plain = assess([*PLAIN, *runs("empirical", 4.05, 4.149, 4.251)])
    assert samples.writers(plain) == {"plain LoRA": plain.recommended}
    adaptive = assess([*PLAIN, *runs("empirical", 3.95, 4.051, 4.149)])
    both = {"plain LoRA": ranking.best_run(PLAIN), "empirical": adaptive.recommended}
    assert samples.writers(adaptive) == both


def test_what_was_written_stays_where_there_is_no_time_to_write(search, simulated, monkeypatch):
    folder = search()
    before = told(folder)
    (folder / "facts.json").write_text("{}")
    monkeypatch.setattr(samples, "ask", lambda *_, **__: pytest.fail("it was asked again"))
    record = (folder / "record.jsonl").read_text()
    assert record.count('"wrote"') == 1
    from tuning.results.ending import _leave_so_far
    from tuning.search_result import SearchResult

    with monkeypatch.context() as patch:
        patch.setattr(
            "tuning.results.ending._to_its_end",
            lambda run, dashboard: _leave_so_far(run, None) or SearchResult(run.plan.run_dir, 0),
        )
        search("--extend", "1")
    assert told(folder) == before


def test_whatever_goes_wrong_with_it_is_one_line_and_ends_no_search(search, monkeypatch, capsys):
    def fail(plan, hosts, what, *arguments, stop=None):
        raise RayTaskError("continued", "a traceback", IndexError("index out of *range*\nin self"))

    monkeypatch.setattr(samples, "ask", fail)
    folder = search()
    line = "Nothing could be written: index out of *range*"
    assert line in capsys.readouterr().err.splitlines()
    section = (folder / "report.md").read_text().partition("## What They Wrote\n")[2].partition("\n## ")[0]
    assert section.split("\n") == ["", line.replace("*", r"\*"), ""]
    assert "nothing could be written" in (folder / "search.log").read_text()
    assert not (folder / "samples.json").exists()
    monkeypatch.setattr(samples, "ask", ray_tune._answer)
    assert len(told(search("--extend", "1"))) == 2
