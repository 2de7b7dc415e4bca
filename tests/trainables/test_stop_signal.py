"""Trials in processes of their own, told by a file that the search stops."""

import dataclasses
import threading
import time

import pytest

from analysis.results.trial_config import TrialConfig
from trainables.spec import TrialSpec
from trainables.training import checkpoint
from trainables.training.checkpoint import LAST, SESSION
from trainables.training.session import next_report
from trainables.training.solo import SoloSession
from trainables.training.stop_signal import NOW, Listener, keep_all

PLACE = f"one/{LAST}/{SESSION}"


@pytest.fixture
def workload(workload):
    """Dropout draws random numbers at each step, which a checkpoint must know."""
    return dataclasses.replace(workload, epochs=4, dropout=0.3)


@pytest.fixture
def session(workload):
    session = SoloSession(workload, TrialSpec.from_config(TrialConfig("baseline", learning_rate=0.01)))
    yield session
    session.close()


def test_a_trial_is_saved_once_at_the_step_where_it_hears_of_it_and_goes_on_as_if_unbroken(workload, session, tmp_path):
    listener = Listener(str(tmp_path))

    def after_step():
        if session.learner.step == 3:
            (tmp_path / NOW).touch()
        listener.listen("one", session, at_once=True)

    session.after_step = after_step
    expected = [next_report(session), next_report(session)]
    session.close()
    assert checkpoint.progress_of(tmp_path / PLACE).step == 3
    again = SoloSession(workload, session.learner.spec)
    again.load(tmp_path / PLACE)
    found = [next_report(again, again=True), next_report(again)]
    for name in ("step", "tokens", "train_loss", "eval_loss", "test_loss"):
        assert [report.get(name) for report in found] == [report.get(name) for report in expected], name


def test_what_a_killed_search_left_does_not_keep_a_trial_from_being_saved_later(session, tmp_path):
    (tmp_path / NOW).touch()
    listener = Listener(str(tmp_path))
    for steps in (1, 2):
        session.train(1)
        listener.listen("one", session, at_once=True)
        assert checkpoint.progress_of(tmp_path / PLACE).step == steps
        time.sleep(0.01)
        (tmp_path / NOW).touch()


def test_a_trial_that_nobody_wants_saved_is_not(session, tmp_path):
    listener = Listener(str(tmp_path))
    session.after_step = lambda: listener.listen("one", session, at_once=True)
    next_report(session)
    assert list(tmp_path.iterdir()) == []


def test_the_search_waits_until_all_have_kept_how_they_stand(session, tmp_path):
    (tmp_path / PLACE).mkdir(parents=True)  # of an earlier stop
    (tmp_path / PLACE.replace("one", "two")).mkdir(parents=True)
    time.sleep(0.01)
    listener, heard = Listener(str(tmp_path)), threading.Event()
    session.train(1)

    def trial():
        while not (tmp_path / NOW).exists():
            time.sleep(0.001)
        heard.set()
        listener.listen("two", session, at_once=True)
        time.sleep(0.2)
        listener.listen("one", session, at_once=True)

    threading.Thread(target=trial).start()
    began = time.monotonic()
    keep_all(tmp_path, ["one", "two"], 30)
    assert heard.is_set()
    assert 0.2 <= time.monotonic() - began < 20
    assert checkpoint.progress_of(tmp_path / PLACE).step == 1
    assert not (tmp_path / NOW).exists()


def test_one_that_does_not_answer_is_not_waited_for_long(tmp_path):
    began = time.monotonic()
    keep_all(tmp_path, ["one"], 0.2)
    assert 0.2 <= time.monotonic() - began < 5
    assert not (tmp_path / NOW).exists()
