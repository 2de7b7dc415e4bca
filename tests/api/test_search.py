"""A search from a program: what it returns, what it prints, what it does to the process that asked for it."""

import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pandas
import pytest

from tests.fakes import ray_tune
from tests.fakes.observers import Lines
from tuning import SearchObserver, SearchPlan, SearchResult, SearchStopped, resume, search

ROOT = Path(__file__).parents[2]
TEXTS = [{"text": f"the {index} quick foxes jump over {index + 1} lazy dogs"} for index in range(60)]


@pytest.fixture
def plan(tiny_gpt2, tiny_text, tmp_path):
    """A function that makes a plan whose trials take next to nothing."""

    def make(**choices):
        few = {"train_examples": 16, "validation_examples": 8, "test_examples": 20, "max_length": 32}
        what = {"model": str(tiny_gpt2), "dataset": str(tiny_text), "strategies": ("baseline", "linear_decay")}
        return SearchPlan(
            **{**few, **what, "num_samples": 4, "confirm_seeds": 0, "runs_dir": str(tmp_path / "runs"), **choices}
        )

    return make


def test_a_search_returns_what_it_has_found(simulated, plan, tmp_path):
    result = search(plan(name="first", confirm_seeds=2))
    assert (result.status, result.run_dir) == (0, tmp_path / "runs" / "first")
    searched = result.trials[result.trials.phase == "search"]
    assert len(searched) == 4
    assert (searched.learning_rate > 0).all()
    assert searched["linear_decay/slope"].notna().tolist() == (searched.strategy == "linear_decay").tolist()
    assert result.best.final_eval_loss == searched[searched.status == "finished"].final_eval_loss.min()
    assert result.recommended.strategy in {"baseline", "linear_decay"}
    assert [*result.verdicts] == ["linear_decay"]
    assert result.report.read_text().startswith("<!doctype html>")
    assert (result.best_adapter / "adapter_config.json").is_file()


def test_its_folder_alone_says_the_same_later(simulated, plan):
    result = search(plan(name="first"))
    later = SearchResult(result.run_dir)
    pandas.testing.assert_frame_equal(later.trials, result.trials)
    assert later.recommended == result.recommended


def test_a_search_prints_nothing_and_leaves_signals_as_they_were(simulated, plan, capfd):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    search(plan())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert capfd.readouterr() == ("", "")


def test_an_observer_hears_of_everything_in_its_order(simulated, plan, tmp_path):
    heard = Lines()
    search(plan(confirm_seeds=2), heard)
    order = [*dict.fromkeys(name for name in heard.heard if name not in {"noted", "stage_began"})]
    assert order == [
        "planned", "sized", "phase_began", "started", "reported", "ended", "phase_ended", "finished",
    ]  # fmt: skip
    assert heard.heard.count("phase_began") == heard.heard.count("phase_ended") == 3, "search, confirmation, controls"
    assert heard.heard.count("ended") == 4 + 2 * 2 + 2 * 2
    assert any(line.startswith("Report ") for line in heard.noted_lines)
    assert heard.warned_lines == []


def test_an_observer_that_fails_ends_nothing(simulated, plan, capfd):
    class Broken(SearchObserver):
        def __getattribute__(self, name):
            if name in SearchObserver.__dict__ and not name.startswith("_"):
                raise SystemExit(3)
            return super().__getattribute__(name)

    assert search(plan(), Broken()).status == 0
    assert capfd.readouterr() == ("", "")


def test_two_searches_of_one_process_have_nothing_in_common(simulated, plan):
    first, second = search(plan(name="first")), search(plan(name="second", seed=1))
    assert set(first.trials.seed) == {0}
    assert set(second.trials.seed) == {1}
    assert str(first.run_dir) not in (second.run_dir / "search.log").read_text()


def test_off_the_main_thread_a_search_takes_no_signal(simulated, plan, monkeypatch):
    def refuse(number, handler):
        raise AssertionError("a signal handler was set")

    monkeypatch.setattr(signal, "signal", refuse)
    results = []
    thread = threading.Thread(target=lambda: results.append(search(plan())))
    thread.start()
    thread.join()
    assert [result.status for result in results] == [0]


def test_a_signal_raises_and_the_search_goes_on_where_it_was(simulated, plan, monkeypatch):
    with monkeypatch.context() as patch:
        ray_tune.at(patch, lambda harvest: harvest.record.rows, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(SearchStopped, match=r"of 4 trials ended; nothing of them is lost") as stopped:
            search(plan(name="first"))
    assert stopped.value.status == 130
    done = len(stopped.value.result.trials)
    assert 0 < done < 4
    result = resume("first", runs_dir=plan().runs_dir)
    assert len(result.trials) == 4
    again = resume("first", runs_dir=plan().runs_dir, observer=(heard := Lines()))
    assert heard.noted_lines[0] == "first is complete; --extend N would add trials"
    assert again.status == 0


def test_a_second_signal_is_a_keyboard_interrupt_of_the_program(simulated, plan, monkeypatch):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    ray_tune.at(monkeypatch, lambda harvest: harvest.record.reports, twice)
    with pytest.raises(KeyboardInterrupt):
        search(plan())


def test_the_report_of_a_programs_search_has_the_command_that_does_the_same(simulated, plan):
    result = search(plan(name="first"))
    assert "python tune.py --model " in (result.run_dir / "facts.json").read_text()
    choices = f"--confirm-seeds 0 --gpus-per-trial 0.0 --runs-dir {plan().runs_dir} --name first"
    assert f"--num-samples 4 --learning-rate 0.018 {choices}" in (result.run_dir / "report.md").read_text()


@pytest.mark.parametrize("kind", ["list", "frame", "dataset"])
def test_data_of_a_program_are_saved_into_the_run_folder_and_move_with_it(simulated, plan, tmp_path, kind):
    given = {"list": lambda: TEXTS, "frame": lambda: pandas.DataFrame(TEXTS), "dataset": lambda: Split(TEXTS)}[kind]()
    result = search(plan(name="first", dataset=given))
    saved = result.run_dir / "given" / "dataset.jsonl"
    assert saved.read_text().splitlines()[1] == '{"text": "the 1 quick foxes jump over 2 lazy dogs"}'
    assert f'"dataset": "{saved}"' in (result.run_dir / "plan.json").read_text()
    moved = shutil.move(plan().runs_dir, tmp_path / "moved")
    assert len(resume("first", runs_dir=str(moved), extend=2).trials) == 6


class Split:
    """What is asked of a ``datasets.Dataset``."""

    def __init__(self, rows):
        self.rows, self.column_names, self.features = rows, ["text"], {}

    def __iter__(self):
        return iter(self.rows)


def test_a_real_data_set_is_data(tmp_path):
    datasets = pytest.importorskip("datasets")
    plan = SearchPlan(dataset=datasets.Dataset.from_list(TEXTS)).with_given_saved(tmp_path / "given")
    assert Path(plan.dataset).read_text().count("\n") == 60


def test_a_loaded_model_and_its_tokenizer_are_saved_into_the_run_folder(simulated, plan, tiny_gpt2):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(tiny_gpt2), AutoTokenizer.from_pretrained(tiny_gpt2)
    result = search(plan(name="first", model=loaded))
    assert (result.run_dir / "given" / "model" / "model.safetensors").is_file()
    assert (result.run_dir / "given" / "model" / "tokenizer.json").is_file()
    with pytest.raises(ValueError, match=r"model: a loaded model needs its tokenizer; give \(model, tokenizer\)"):
        search(plan(name="second", model=loaded[0]))


def test_of_a_refused_search_no_given_data_stay(simulated, plan, tmp_path):
    with pytest.raises(ValueError, match="row 1, column 'text' cannot be written as JSON"):
        search(plan(name="first", dataset=[{"text": "a"}, {"text": object()}]))
    with pytest.raises(ValueError, match="--max-length 100: give at most 64"):
        search(plan(name="first", dataset=TEXTS, max_length=100))
    assert [*(tmp_path / "runs").iterdir()] == []


def test_what_a_frame_lacks_is_null(tmp_path):
    rows = pandas.DataFrame([{"text": "a", "score": 1}, {"text": None, "score": None}])
    plan = SearchPlan(dataset=rows).with_given_saved(tmp_path / "given")
    lines = Path(plan.dataset).read_text().splitlines()
    assert lines == ['{"text": "a", "score": 1.0}', '{"text": null, "score": null}']


def test_data_that_nobody_has_named_get_a_folder_of_their_own(simulated, plan, monkeypatch):
    clock = SimpleNamespace(now=lambda: datetime.datetime(2026, 1, 2, 3))
    monkeypatch.setattr("tuning.pipeline.datetime", SimpleNamespace(datetime=clock))
    names = [search(plan(dataset=TEXTS, num_samples=2)).run_dir.name for _ in range(2)]
    assert names == ["2026-01-02_03-00-00", "2026-01-02_03-00-00-2"]


@pytest.mark.parametrize(
    ("choices", "why"),
    [({"name": "taken"}, "taken exists"), ({"model": "/none"}, "/none: no such directory"),
     ({"dataset": []}, "dataset")],
)  # fmt: skip
def test_what_cannot_be_searched_is_a_value_error(simulated, plan, tmp_path, choices, why):
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    with pytest.raises(ValueError, match=why):
        search(plan(**choices))


def test_a_search_that_goes_on_takes_no_data(simulated, plan):
    with pytest.raises(ValueError, match="dataset: a search that goes on has its own"):
        resume("first", runs_dir=plan().runs_dir, dataset=TEXTS)


IMPORT = """
import sys, time
began = time.process_time()  # which other work on the machine does not lengthen
import tuning
seconds = time.process_time() - began
assert not {"ray", "torch", "numpy", "pydantic", "pandas", "transformers"} & {*sys.modules}, [*sys.modules]
import json
import os
assert os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] == "1"
from tuning import SearchPlan, SearchObserver, SearchResult
assert not {"ray", "torch", "transformers", "pandas", "scipy"} & {*sys.modules}
print(seconds)
"""


@pytest.mark.process
def test_importing_the_package_takes_no_time_and_neither_ray_nor_torch():
    def seconds():
        done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True, cwd=ROOT)
        return float(done.stdout)

    assert min(seconds() for _ in range(3)) < 0.1


SCRIPT = """
import sys, threading
from tuning import SearchPlan, search
plan = SearchPlan(model=sys.argv[1], dataset=sys.argv[2], train_examples=16, validation_examples=8, test_examples=8,
                  max_length=32, num_samples=2, strategies=("baseline",), confirm_seeds=0, runs_dir=sys.argv[3])
results = []
thread = threading.Thread(target=lambda: results.append(search(plan)))
thread.start()
thread.join()
print(len(results[0].trials), results[0].status, results[0].best_adapter.name)
"""


@pytest.mark.process
@pytest.mark.thorough
def test_a_script_searches_for_real_off_its_main_thread(tiny_gpt2, tiny_text, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, path, tiny_gpt2, tiny_text, tmp_path / "runs"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 0 best_adapter\n", "")


def test_another_margin_of_a_finished_search_is_another_report_without_ray(simulated, plan, monkeypatch):
    first = search(plan(name="first", confirm_seeds=2, margin=0.002))

    def refuse(*_):
        raise AssertionError("Ray was started")

    monkeypatch.setattr("tuning.stages._ray", refuse)
    with pytest.raises(ValueError, match=r"--margin is 0\.002, not 0\.003"):
        resume("first", runs_dir=plan().runs_dir, margin=0.003)
    again = resume("first", runs_dir=plan().runs_dir, margin=0.003, allow_changes=True)
    assert len(again.trials) == len(first.trials)
    assert json.loads((again.run_dir / "verdict.json").read_text())["margin"] == 0.003
    assert "0.003" in (again.run_dir / "report.md").read_text()
    assert "another report, for which nothing was trained: --margin is" in (again.run_dir / "search.log").read_text()
    assert resume("first", runs_dir=plan().runs_dir).status == 0, "it is as complete as before"
