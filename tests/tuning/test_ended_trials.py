"""What is kept of trials that have ended: adapters that may be handed out, and nothing to go on with."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from analysis.results.rows import ResultRow
from tests.fakes.rows import run
from trainables.training import checkpoint
from trainables.training.checkpoint import ADAPTER, META, STATE, Progress
from tuning.plan.search_plan import SearchPlan
from tuning.preflight import disk_space
from tuning.state.checkpoints import EndedTrials, newest_checkpoint
from tuning.trials import confirmation

ROW = run("baseline", 1, 4.0, history=({"step": 4, "eval_loss": 4.0},))
SMOLLM2_RANK_8 = 8 * 30 * (2 * 1152 + 2 * 768 + 3 * 2112)
"""Parameters of rank 8 at each matrix of SmolLM2-135M: 30 blocks of width 576, 192 for keys, 1,536 within an MLP."""


@pytest.fixture
def plan(tmp_path):
    return SearchPlan(name="search", runs_dir=str(tmp_path))


@pytest.fixture
def sessions(plan):
    """A function that writes checkpoints of some steps of the trial of a row, and returns their folders."""

    def tensors(aside):
        (aside / ADAPTER).mkdir()
        for name in (STATE, f"{ADAPTER}/adapter_model.safetensors", f"{ADAPTER}/adapter_config.json"):
            (aside / name).write_text("any")

    def write(row, *steps):
        trial = plan.run_dir / "ray" / "search-1" / row.experiment_name
        folders = [trial / f"checkpoint_{number:06d}" / "session" for number in range(len(steps))]
        for folder, step in zip(folders, steps, strict=True):
            folder.parent.mkdir(parents=True)
            checkpoint.write(folder, Progress(step, 10 * step, 0.5, "base", "ranks"), tensors)
        return folders

    return write


def test_of_the_last_report_the_adapter_is_kept_and_of_earlier_ones_nothing(plan, sessions):
    earlier, last = sessions(ROW, 2, 4)
    EndedTrials(plan, [ROW]).make_room()
    assert (earlier.exists(), earlier.parent.exists()) == (False, True), "Ray removes its own folder"
    assert sorted(path.name for path in last.iterdir()) == [ADAPTER, META]
    assert newest_checkpoint(plan, ROW.experiment_name) == last.parent
    assert newest_checkpoint(plan, ROW.experiment_name, to_continue=True) is None


def test_nothing_goes_on_from_an_adapter_alone(plan, sessions):
    (last,) = sessions(ROW, 4)
    EndedTrials(plan, [ROW]).make_room()
    with pytest.raises(ValueError, match="its trial has ended, and only the adapter was kept"):
        checkpoint.fitting(last, {"base": "base", "allocation": "ranks"})


def test_a_kept_adapter_that_is_damaged_is_none(plan, sessions):
    (last,) = sessions(ROW, 4)
    EndedTrials(plan, [ROW]).make_room()
    (last / ADAPTER / "adapter_model.safetensors").write_text("other")
    assert newest_checkpoint(plan, ROW.experiment_name) is None


def test_where_the_last_report_is_not_kept_everything_is(plan, sessions):
    folders = sessions(ROW, 1, 2)
    EndedTrials(plan, [ROW]).make_room()
    assert all((folder / STATE).exists() for folder in folders)


def test_room_is_made_once_the_next_trial_ends_and_of_what_is_still_written_later(plan, sessions):
    after = replace(ROW, trial_id="next", experiment_name="next")
    earlier, last, unfinished = sessions(ROW, 2, 4, 4)
    (unfinished / META).unlink()
    trials = EndedTrials(plan, [])
    trials.ended(ROW)
    assert (earlier.exists(), (last / STATE).exists()) == (True, True)
    trials.ended(after)
    assert (earlier.exists(), (last / STATE).exists(), unfinished.exists()) == (False, False, True)
    trials.make_room()
    assert not unfinished.exists()


@pytest.mark.parametrize("changes", [{"control_of": "linear_decay"}, {"phase": "sizes"}, {"status": "diverged"}])
def test_what_nobody_hands_out_is_not_kept(plan, sessions, changes):
    row = replace(ROW, **changes)
    folders = sessions(row, 2, 4)
    EndedTrials(plan, [row]).make_room()
    assert not any(folder.exists() for folder in folders)


def test_a_removal_that_is_cut_off_leaves_a_whole_adapter_and_is_done_again(plan, sessions, monkeypatch):
    (last,) = sessions(ROW, 4)
    with monkeypatch.context() as patch:
        patch.setattr(type(last), "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            EndedTrials(plan, [ROW]).make_room()
    assert (last / STATE).exists()
    assert newest_checkpoint(plan, ROW.experiment_name) == last.parent
    EndedTrials(plan, [ROW]).make_room()
    assert not (last / STATE).exists()


def test_what_cannot_be_removed_ends_no_search(plan, sessions, monkeypatch):
    sessions(ROW, 2, 4)
    monkeypatch.setattr(checkpoint, "drop_state", lambda folder: (_ for _ in ()).throw(PermissionError("no")))
    EndedTrials(plan, [ROW]).make_room()
    assert newest_checkpoint(plan, ROW.experiment_name, to_continue=True) is not None


def test_a_search_of_twenty_trials_on_smollm2_asks_for_less_than_a_gigabyte(monkeypatch):
    monkeypatch.setattr(disk_space.os, "cpu_count", lambda: 2)
    workload = SimpleNamespace(budget=SimpleNamespace(params=SMOLLM2_RANK_8), pack_size=1)
    asked = disk_space.needed_bytes(SearchPlan(num_samples=20), SimpleNamespace(workload=workload))
    assert 35 * 4 * SMOLLM2_RANK_8 < asked < 1e9


def test_as_many_confirmation_runs_may_be_handed_out_as_there_are(plan):
    strategies = SearchPlan.model_fields["strategies"].default
    rows = [
        ResultRow(name, name, name, "finished", final_eval_loss=4.0, config={"learning_rate": 0.01}, ranks={"a": 2})
        for name in strategies
    ]
    assert len(confirmation.confirmations(plan, rows)) == plan.most_handed_out
