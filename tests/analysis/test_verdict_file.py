"""The verdict for programs: a file, and an exit status."""

import json
import re
from pathlib import Path

import pytest

from analysis.report.verdict_file import content
from analysis.results.rows import write_rows
from analysis.results.run_info import RunInfo
from tests.fakes.rows import PLAIN, assess, run, runs

BETTER = runs("empirical", 3.95, 4.051, 4.149)
WORSE = runs("eva", 4.05, 4.149, 4.251)
PAGE = Path(__file__).parents[2] / "AGENTS.md"


@pytest.mark.parametrize(
    ("rows", "status", "verdict"),
    [
        ([*PLAIN, *BETTER, *WORSE], 0, "adaptive"),
        ([*PLAIN, *WORSE], 10, "plain"),
        ([*PLAIN, *runs("composite", 4.05, 4.06, 4.2)], 11, "undecided"),
        ([run("empirical", 1, 3.0, phase="search")], 11, "undecided"),
        ([], 11, "undecided"),
    ],
)
def test_the_exit_status_is_the_answer_and_what_is_printed_is_the_file(rows, status, verdict, tmp_path, command):
    write_rows(rows, tmp_path / "rows.jsonl")
    (tmp_path / "plan.json").write_text("{}")
    done = command(tmp_path, "--verdict")
    assert done.returncode == status
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "rows.jsonl"]
    printed = json.loads(done.stdout)
    assert (printed["verdict"], printed["exit_status"], printed["schema_version"]) == (verdict, status, 2)
    assert command(tmp_path).returncode == 0
    assert json.loads((tmp_path / "verdict.json").read_text()) == printed


def test_every_key_of_the_file_is_on_the_page_for_programs_and_no_other():
    verdict = content(assess([*PLAIN, *BETTER]), RunInfo("now"))
    rows = re.findall(r"(?m)^\| (`[a-z_`, ]+`) \| (.*) \|$", PAGE.read_text().partition("## Keys")[2])
    told = {key: text for names, text in rows for key in re.findall("`(.*?)`", names)}
    assert list(told) == list(verdict)
    inner = {
        "recommended": verdict["recommended"],
        "plain_lora": verdict["plain_lora"],
        "strategies": verdict["strategies"][0],
    }
    for name, keys in inner.items():
        assert {key for key in keys if f"`{key}`" not in told[name]} == set(), name


def test_the_numbers_are_those_of_the_rows():
    verdict = content(assess([*PLAIN, *BETTER]), RunInfo("now", search_id="abc"))
    (judged,) = verdict["strategies"]
    assert judged["difference"] == pytest.approx(-0.05)
    assert judged["interval"][0] < -0.05 < judged["interval"][1] < 0
    assert (judged["seeds"], judged["parameters"], judged["answer"]) == (3, 1000, "win")
    assert (judged["test_loss"], verdict["plain_lora"]["test_loss"]) == pytest.approx((4.05, 4.1))
    assert verdict["recommended"]["experiment_name"] == BETTER[0].experiment_name
    assert verdict["search_id"] == "abc"


@pytest.mark.parametrize("others", [("--output", "x.md"), ("--rows", "x.csv")])
def test_a_verdict_is_asked_of_one_run_alone(others, tmp_path, command):
    assert command(tmp_path, "--verdict", *others).returncode == 2
    assert command(tmp_path, tmp_path, "--verdict").returncode == 2
