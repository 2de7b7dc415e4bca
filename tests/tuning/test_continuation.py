"""What may be changed about a search that is taken up again, before anything is trained."""

import json
import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.results.rows import ResultRow
from analysis.results.run_info import FACTS
from analysis.results.trial_config import Phase, TrialConfig
from tests.fakes.observers import Lines
from tests.reference import SoloSession
from trainables.data.corpus import read_corpus, sha256_of
from trainables.spec import TrialSpec
from tuning.cli import main, resolve_plan
from tuning.plan.places import absolute
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import preflight
from tuning.resuming import resume
from tuning.state.checkpoints import checkpoints, discard_incompatible, newest_checkpoint
from tuning.state.continuation import (
    changed_plan,
    check_pairs,
    folder_of,
    origin,
    other_circumstances,
    save_plan,
    saved_plan,
)
from tuning.state.facts import versions
from tuning.state.record import EVENTS, Record

PLAN = SearchPlan(name="x", strategies=("baseline", "linear_decay"))


@pytest.mark.parametrize(
    ("plan", "given", "extend", "culprit"),
    [
        (SearchPlan(name="x", official=True), {}, 5, "--extend 5"),
        (PLAN, {"objective": "loss,params"}, 0, "--objective loss,params"),
        (SearchPlan(name="x", official=True), {"official": False}, 0, "--no-official"),
        (PLAN, {"strategies": ("baseline", "eva")}, 0, "trials of linear_decay"),
    ],
)
def test_what_no_search_could_go_on_with_is_refused_whatever_is_allowed(plan, given, extend, culprit):
    with pytest.raises(ValueError, match=culprit):
        changed_plan(plan, given, extend)


def test_a_strategy_may_be_added_and_trials_may_be():
    wanted, changes = changed_plan(PLAN, {"strategies": ("baseline", "linear_decay", "eva")}, 4)
    assert (wanted.num_samples, len(changes)) == (PLAN.num_samples + 4, 1)


@pytest.mark.parametrize(
    "flags",
    [
        {"strategies": ("baseline,linear_decay",), "num_samples": 20},
        {"strategies": ("baseline,linear_decay",)},
        {"num_samples": 30},
        {},
    ],
)
def test_a_thorough_search_goes_on_with_the_flags_that_it_began_with(flags):
    plan = SearchPlan(name="x", thorough=True, **flags)
    assert changed_plan(plan, {**flags, "thorough": True}, 0) == (plan, [])
    assert changed_plan(plan, {}, 0) == (plan, [])
    assert changed_plan(plan, {**flags, "thorough": True}, 7)[0].num_samples == plan.num_samples + 7


def test_a_search_that_becomes_thorough_has_trials_for_its_rivals():
    wanted, changes = changed_plan(PLAN, {"thorough": True}, 0)
    assert (wanted.num_samples, len(wanted.strategies), len(changes)) == (50, 5, 3)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--batch-size", "256"], "--batch-size is 8, not 256; go on as it began"),
        (["--batch-size", "2000"], "--batch-size 2000: more than --train-examples 1000"),
        (["--num-samples", "0"], "--num-samples 0: must be greater than or equal to 1"),
    ],
)
def test_choices_are_held_against_the_search_and_not_against_defaults(flags, said, refused, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "plan.json").write_text(json.dumps({"train_examples": 1000}))
    assert said in refused("--resume", "x", "--runs-dir", tmp_path, *flags)


@pytest.mark.parametrize("phase", [Phase.SEARCH, Phase.CONFIRM])
def test_confirmation_runs_are_paired_with_none_that_are_trained_otherwise(tmp_path, phase):
    record = Record(tmp_path)
    record.ended(ResultRow("a", "a", "baseline", "finished", phase=phase))
    harmless = ["--margin is 0.01, not 0.02", "--num-samples is 8, not 9", "torch was 1.0, is 2.0"]
    check_pairs(record, harmless)
    for change in ("--epochs is 3.0, not 6.0", "--dataset is a, not b", "the texts had SHA-256 1, now 2"):
        with pytest.raises(ValueError, match="start another search") if phase == Phase.CONFIRM else nullcontext():
            check_pairs(record, [*harmless, change])


def test_latest_is_no_folder_that_a_killed_search_was_about_to_make(tmp_path):
    for name in ("first", ".first.abc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / EVENTS).touch()
        os.utime(tmp_path / name / EVENTS, (len(name), len(name)))
    assert folder_of("latest", str(tmp_path)) == tmp_path / "first"


def test_a_choice_that_there_is_not_is_one_line(extended):
    with pytest.raises(ValueError, match=r"^unknown key 'num_sample'; known: [\w, ]+$"):
        resume("x", runs_dir=str(extended.parent), num_sample=3)


def test_only_a_finished_search_is_extended(refused, tmp_path):
    (tmp_path / "x").mkdir()
    save_plan(PLAN, tmp_path / "x")
    Record(tmp_path / "x").planned(plan=PLAN.model_dump(mode="json"), versions={}, changes=[], command="")
    before = (tmp_path / "x" / EVENTS).read_bytes()
    line = refused("--resume", "x", "--runs-dir", tmp_path, "--extend", 5)
    assert "--extend 5: only a finished search is extended, and x is not" in line
    assert f"python tune.py --resume x --runs-dir {tmp_path}" in line
    assert (tmp_path / "x" / EVENTS).read_bytes() == before


def test_a_search_that_is_not_finished_for_its_record_is_damaged_says_so(extended, capsys):
    path = extended / EVENTS
    path.write_bytes(path.read_bytes().replace(b'"completed"', b'"kompleted"', 1))
    assert main(["--resume", "x", "--runs-dir", str(extended.parent), "--extend", "5"]) == 2
    damage, refusal = capsys.readouterr().err.splitlines()
    assert damage.startswith(f"{path}, line 2: ")
    assert "--extend 5: only a finished search is extended" in refusal


@pytest.fixture
def extended(tmp_path):
    """The folder of a search that was extended from 8 trials to 12."""
    folder = tmp_path / "x"
    folder.mkdir()
    record = Record(folder)
    for trials in (8, 12):
        plan = PLAN.model_copy(update={"num_samples": trials})
        save_plan(plan, folder)
        record.planned(plan=plan.model_dump(mode="json"), search_id="abc", command="", versions={}, changes=[])
        record.completed(0)
    return folder


def test_a_damaged_line_of_the_record_undoes_no_extension(extended):
    path = extended / EVENTS
    whole = path.read_bytes()
    first, second, third, _ = whole.splitlines(keepends=True)
    begin = len(first + second)
    for place in range(begin, begin + len(third), 31):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        record = Record(extended)
        assert saved_plan(record).num_samples == 12
        (line,) = record.damage
        assert f"{path}, line 3: " in line
        assert record.exit_status is None


@pytest.fixture
def run_dir(extended):
    """The folder of a search of which base, texts and versions are known, twice: in the record, and in files."""
    record = Record(extended)
    plan = PLAN.model_copy(update={"num_samples": 12, "corpus_sha256": "c" * 64})
    save_plan(plan, extended)
    facts = {"search_id": "abc", "base_sha256": "b" * 64, "versions": {**versions(), "torch": "1.0"}}
    (extended / FACTS).write_text(json.dumps(facts))
    (extended / EVENTS).write_bytes(b"")
    record.planned(plan=plan.model_dump(mode="json"), command="", changes=[], **facts)
    return extended


CONFIG = TrialConfig("linear_decay", params={"slope": 0.5}, learning_rate=0.01, seed=0)


def kept_by_three(tmp_path, tiny_gpt2, tiny_text):
    """Return plan, what is known of it, and its record; of three trials the second ended, the last has other ranks."""
    plan = SearchPlan(
        model=str(tiny_gpt2), dataset=str(tiny_text), train_examples=16, validation_examples=8, test_examples=8,
        max_length=32, budget_rank=2, runs_dir=str(tmp_path), name="x", strategies=("baseline", "linear_decay"),
    )  # fmt: skip
    checked, more = preflight.check(plan), preflight.check(plan.model_copy(update={"budget_rank": 4}))
    plan.run_dir.mkdir()
    record = Record(plan.run_dir)
    for number, workload in enumerate((checked.workload, checked.workload, more.workload)):
        config = replace(CONFIG, trial_id=f"t{number}")
        record.began(config)
        record.reported(config.trial_id, {"step": 0, "eval_loss": 1.0})
        folder = plan.run_dir / "ray" / "search-1" / config.name / "checkpoint_000000"
        session = SoloSession(workload, TrialSpec.from_config(config))
        session.save(folder / "session")
        session.close()
    record.ended(ResultRow("t1", "linear_decay_t1", "linear_decay", "finished"))
    return plan, checked, record


def test_a_trial_begins_anew_whose_checkpoint_is_of_another_base_or_other_ranks(tmp_path, tiny_gpt2, tiny_text):
    plan, checked, record = kept_by_three(tmp_path, tiny_gpt2, tiny_text)
    assert checkpoints(plan, record).keys() == {"t0", "t2"}
    discard_incompatible(plan, checked, record)
    assert checkpoints(plan, record).keys() == record.reports.keys() == Record(plan.run_dir).reports.keys() == {"t0"}
    discard_incompatible(plan, replace(checked, workload=replace(checked.workload, base="another")), record)
    assert checkpoints(plan, record) == record.reports == {}
    assert newest_checkpoint(plan, replace(CONFIG, trial_id="t1").name), "a trial that ended keeps its own"


def test_a_trial_whose_incompatible_checkpoints_are_only_begun_to_be_removed_begins_anew_all_the_same(
    tmp_path, tiny_gpt2, tiny_text, monkeypatch
):
    plan, checked, record = kept_by_three(tmp_path, tiny_gpt2, tiny_text)

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("tuning.state.checkpoints.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        discard_incompatible(plan, checked, record, observer := Lines())
    assert Record(plan.run_dir).reports.keys() == {"t0"}
    assert observer.noted_lines == [
        "linear_decay_lr0.01_t2 begins anew: what it has kept is of another base or other ranks"
    ]


def circumstances(folder, base, corpus):
    record = Record(folder)
    return other_circumstances(origin(record, saved_plan(record)), base, corpus)


@pytest.mark.parametrize("lost", [False, True])
def test_a_damaged_plan_in_the_record_hides_no_other_base_texts_or_versions(run_dir, lost):
    if lost:
        (run_dir / EVENTS).write_bytes((run_dir / EVENTS).read_bytes().replace(b"torch", b"torsh"))
    torch = f"torch was 1.0, is {versions()['torch']}"
    assert circumstances(run_dir, "b" * 64, "c" * 64) == [torch]
    assert circumstances(run_dir, "0" * 64, "1" * 64) == [
        torch,
        "the base model had SHA-256 bbbbbbbbbbbb, now 000000000000",
        "the texts had SHA-256 cccccccccccc, now 111111111111",
    ]
    record = Record(run_dir)
    assert origin(record, saved_plan(record))["search_id"] == "abc"


@pytest.mark.parametrize("facts", [b"", b"[]", b"{}", b'{"versions": "torch", "base_sha256": 3}'])
def test_what_nobody_knows_any_more_may_differ(run_dir, facts):
    (run_dir / EVENTS).write_bytes(b"{")
    (run_dir / FACTS).write_bytes(facts)
    save_plan(PLAN, run_dir)
    assert circumstances(run_dir, "b" * 64, "c" * 64) == [
        "no file says any more which versions of libraries it had",
        "no file says any more which base model it had",
        "no file says any more which texts it had",
    ]


def test_a_plan_that_was_changed_does_not_win_over_the_record(extended):
    save_plan(PLAN.model_copy(update={"num_samples": 9}), extended)
    path = extended / EVENTS
    for damaged in (path.read_bytes(), b"{" + path.read_bytes()):
        path.write_bytes(damaged)
        record = Record(extended)
        assert saved_plan(record).num_samples == 12
        assert "plan.json: it was changed; the record's plan is used" in record.damage[-1]
        assert record.exit_status is None


def test_a_version_that_the_search_does_not_state_is_another_one(run_dir):
    path = run_dir / EVENTS
    path.write_bytes(b"")
    stated = {name: version for name, version in versions().items() if name not in ("torch", "lora-rank-search")}
    plan = json.loads((run_dir / "plan.json").read_text())
    facts = {"search_id": "abc", "base_sha256": "b" * 64, "versions": stated}
    Record(run_dir).planned(plan=plan, command="", changes=[], **facts)
    said = [
        f"{name} was of a version that no file says, is {versions()[name]}" for name in ("lora-rank-search", "torch")
    ]
    assert circumstances(run_dir, "b" * 64, "c" * 64) == said


def test_texts_are_the_same_wherever_their_file_lies(simulated, small, tmp_path, tiny_text, monkeypatch, capsys):
    """A plan saves an absolute path, and what has the same digest is no change."""
    flags = ["--num-samples", "1", "--strategies", "baseline", "--runs-dir", str(tmp_path / "runs"), "--name", "x"]
    shutil.copy(tiny_text, tmp_path / "here.txt")
    monkeypatch.chdir(tmp_path)
    assert main([*small, *flags, "--dataset", "here.txt"]) == 0
    plan = json.loads((tmp_path / "runs" / "x" / "plan.json").read_text())
    assert (plan["dataset"], plan["runs_dir"]) == (str(tmp_path / "here.txt"), str(tmp_path / "runs"))
    (tmp_path / "there").mkdir()
    (tmp_path / "here.txt").rename(tmp_path / "there" / "moved.txt")
    monkeypatch.chdir(tmp_path / "there")
    resumed = ["--resume", "x", "--runs-dir", "../runs", "--extend", "1"]
    capsys.readouterr()
    assert main([*resumed, "--dataset", "moved.txt"]) == 0, capsys.readouterr().err
    assert saved_plan(Record(tmp_path / "runs" / "x")).dataset == str(tmp_path / "there" / "moved.txt")
    (tmp_path / "there" / "other.txt").write_text("Other texts\n" * 5 + "".join(f"line {n}\n" for n in range(60)))
    assert main([*resumed, "--dataset", "other.txt"]) == 2
    assert "--dataset is " in capsys.readouterr().err


def test_a_base_is_the_same_wherever_its_folder_lies(simulated, small, tmp_path, tiny_gpt2, capsys):
    here, there, other = (tmp_path / name for name in ("here", "there", "other"))
    shutil.copytree(tiny_gpt2, here)
    flags = ["--num-samples", "1", "--strategies", "baseline", "--runs-dir", str(tmp_path / "runs"), "--name", "x"]
    assert main([*small, *flags, "--model", str(here)]) == 0
    here.rename(there)
    resumed = ["--resume", "x", "--runs-dir", str(tmp_path / "runs"), "--extend", "1"]
    capsys.readouterr()
    assert main([*resumed, "--model", str(there)]) == 0, capsys.readouterr().err
    assert saved_plan(Record(tmp_path / "runs" / "x")).model == str(there)
    shutil.copytree(there, other)
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    assert main([*resumed, "--model", str(other)]) == 2
    assert f"--model is {there}, not {other}" in capsys.readouterr().err


@pytest.fixture
def with_own_files(tmp_path):
    """A plan with a split and a template of its own, and a function that gives another with its files elsewhere."""
    (tmp_path / "a").mkdir()
    names = {"dataset": "all.jsonl", "test_dataset": "test.jsonl", "chat_template": "own.jinja"}
    for name in names.values():
        (tmp_path / "a" / name).write_text('{"text": "' + name + '"}\n')
    plan = SearchPlan(**{choice: str(tmp_path / "a" / name) for choice, name in names.items()})
    source = plan.data_source()
    plan = plan.model_copy(update={"corpus_sha256": sha256_of(source, read_corpus(source))})

    def elsewhere(changed=None):
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        if changed:
            (tmp_path / "b" / names[changed]).write_text('{"text": "another"}\n')
        return {choice: str(tmp_path / "b" / name) for choice, name in names.items()}

    return plan, elsewhere


def test_own_splits_and_a_template_are_the_same_wherever_their_files_lie(with_own_files):
    plan, elsewhere = with_own_files
    assert changed_plan(plan, elsewhere(), 0)[1] == []


@pytest.mark.parametrize("choice", ["dataset", "test_dataset", "chat_template"])
def test_another_split_or_template_is_a_change(with_own_files, choice):
    plan, elsewhere = with_own_files
    changes = changed_plan(plan, elsewhere(changed=choice), 0)[1]
    assert f"--{choice.replace('_', '-')} is " in " ".join(changes)


def test_a_template_that_is_gone_is_a_change(with_own_files, tmp_path):
    plan, _ = with_own_files
    assert changed_plan(plan, {"chat_template": str(tmp_path / "gone.jinja")}, 0)[1][0].startswith("--chat-template is")


def test_a_server_in_a_file_is_named_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = absolute(SearchPlan(mlflow_uri="sqlite:///own.db", runs_dir="mine", model="bundled", dataset="pydoc"))
    assert (plan.mlflow_uri, plan.runs_dir) == (f"sqlite:///{tmp_path}/own.db", f"{tmp_path}/mine")
    assert (plan.model, plan.dataset) == ("bundled", "pydoc")


def test_every_file_of_a_plan_is_named_from_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl", "c.jinja"):
        (tmp_path / name).write_text("{}")
    files = {
        "dataset": "*.jsonl",
        "validation_dataset": "b.jsonl",
        "test_dataset": "a.jsonl",
        "chat_template": "c.jinja",
    }
    plan = absolute(SearchPlan(**files))
    assert {name: getattr(plan, name) for name in files} == {name: f"{tmp_path}/{path}" for name, path in files.items()}


SERVERS = {"mlflow_uri": "http://theirs:5000", "ray_address": "theirs:6379", "dashboard_host": "0.0.0.0"}


@pytest.mark.parametrize("whose", ["mine", "moved", "of another user", "no run's"])
def test_of_another_persons_plan_the_choices_are_taken_and_not_the_servers(tmp_path, capsys, monkeypatch, whose):
    folder = tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    plan = SearchPlan(name="x", runs_dir=str(tmp_path / "runs"), corpus_sha256="c" * 64, epochs=7, **SERVERS)
    save_plan(plan, folder)
    config = folder / "plan.json"
    if whose == "moved":
        config = shutil.move(config, tmp_path / "plan.json")
    if whose == "of another user":
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    if whose == "no run's":
        config = tmp_path / "plan.yaml"
        config.write_text(json.dumps({"epochs": 7, "runs_dir": str(tmp_path / "runs"), **SERVERS}))
    taken = resolve_plan(str(config), {"ray_address": "mine:6379"})
    assert (taken.epochs, taken.ray_address) == (7, "mine:6379")
    theirs = whose in ("moved", "of another user")
    expected = ("runs", None, "127.0.0.1") if theirs else (plan.runs_dir, plan.mlflow_uri, plan.dashboard_host)
    assert (taken.runs_dir, taken.mlflow_uri, taken.dashboard_host) == expected
    said = f"--config {config}: of another run, whose runs_dir, mlflow_uri, dashboard_host are not taken\n"
    assert capsys.readouterr().err == (said if theirs else "")


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("plan.json", {}),
        ("plan.json", {"corpus_sha256": None, "name": "x"}),
        ("plan.json", {"corpus_sha256": "c" * 64, "name": "x", "runs_dir": "runs"}),
        ("plan.json", {"corpus_sha256": "c" * 64, "name": "x", "runs_dir": "/proc/self/cwd/runs"}),
        ("plan.json", {"corpus_sha256": "c" * 64, "name": "x", "runs_dir": 5}),
        ("search.yaml", {"corpus_sha256": None}),
        ("beside_a_record/search.yaml", {}),
    ],
)
def test_no_plan_of_a_run_that_was_unpacked_here_has_its_servers_taken(tmp_path, capsys, monkeypatch, file, values):
    monkeypatch.chdir(tmp_path)
    config = Path("runs", "x", file)
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps(values | {"epochs": 7, "mlflow_uri": "http://theirs:5000"}))
    if "record" in file:
        (config.parent / "record.jsonl").touch()
    taken = resolve_plan(str(config), {"runs_dir": "mine"})
    assert (taken.epochs, taken.mlflow_uri) == (7, None)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"--config {config}: of another run, whose ")
    assert "mlflow_uri" in line
