"""The log of a search, ``search.log``: its lines, and what becomes of it when it cannot be written."""

import logging
import re

import pytest

from tuning.lifecycle.search_log import PACKAGES, FileLog, TerminalLog, heard_by
from tuning.tracking.outbox import Outbox, Target
from tuning.tracking.uploader import Sink

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING|ERROR) (tuning|analysis)\.[\w.]+: .*")
FLAGS = ("--num-samples", "4", "--strategies", "baseline", "--strategies", "linear_decay", "--confirm-seeds", "1",
         "--max-concurrent-trials", "1")  # fmt: skip
log = logging.getLogger("tuning.here")


@pytest.fixture
def file_log():
    with heard_by(FileLog()) as handler:
        yield handler


def read(folder):
    return (folder / "search.log").read_text()


def messages(folder):
    return [line.split(": ", 1)[1] for line in read(folder).splitlines()]


def test_what_was_said_before_there_was_a_folder_is_written_first(file_log, tmp_path):
    log.info("early %d", 1)
    log.warning("early %d", 2)
    assert [*tmp_path.iterdir()] == []
    file_log.write_to(tmp_path)
    assert messages(tmp_path) == ["early 1", "early 2"]
    log.info("late")
    assert messages(tmp_path) == ["early 1", "early 2", "late"], "it is there as soon as it is said"


def test_another_run_of_the_search_goes_on_at_the_end(tmp_path):
    for number in range(2):
        with heard_by(FileLog()) as file_log:
            log.info("run %d", number)
            file_log.write_to(tmp_path)
    assert messages(tmp_path) == ["run 0", "run 1"]


def test_a_line_has_utc_time_level_logger_and_message(tmp_path):
    record = logging.LogRecord("tuning.here", logging.WARNING, "", 0, "%s of %d", ("one", 2), None)
    record.created, record.msecs = 86_400 + 3_600 + 0.25, 250.0  # an hour into 2 January 1970
    file_log = FileLog()
    file_log.write_to(tmp_path)
    file_log.handle(record)
    file_log.close()
    assert read(tmp_path) == "1970-01-02T01:00:00.250Z WARNING tuning.here: one of 2\n"


def test_no_secret_is_in_a_line_nor_in_a_traceback(file_log, tmp_path, capsys):
    file_log.write_to(tmp_path)
    with heard_by(TerminalLog()):
        log.info("at %s", "http://me:geheim@there")
        try:
            raise ConnectionError("no answer from http://me:geheim@there")
        except ConnectionError:
            log.exception("away")
    for text in (read(tmp_path), capsys.readouterr().err):
        assert "at http://***@there\n" in text
        assert "ConnectionError: no answer from http://***@there\n" in text
        assert "geheim" not in text


def test_a_message_is_one_line_and_cannot_look_like_another(file_log, tmp_path):
    file_log.write_to(tmp_path)
    message = "a name\n2026-11-28T00:00:00.000Z INFO tuning: all well\x1b[2J\u2028\udcff"
    file_log.emit(logging.makeLogRecord({"msg": message, "levelname": "INFO"}))  # half a character is not for pytest
    (line,) = read(tmp_path).splitlines()
    assert line.endswith(r"a name\n2026-11-28T00:00:00.000Z INFO tuning: all well\x1b[2J\u2028\udcff")


@pytest.mark.parametrize("name", PACKAGES)
def test_all_our_packages_are_heard_and_nobody_else(file_log, tmp_path, name):
    file_log.write_to(tmp_path)
    logging.getLogger(f"{name}.here").info("ours")
    for library in ("ray", "optuna", "mlflow", f"{name}2"):
        logging.getLogger(library).error("theirs")
    assert messages(tmp_path) == ["ours"]


def test_loggers_are_as_before_once_a_search_is_over(tmp_path):
    with heard_by(FileLog()) as file_log, heard_by(TerminalLog()):
        file_log.write_to(tmp_path)
    log.error("too late")
    assert read(tmp_path) == ""
    for logger in map(logging.getLogger, PACKAGES):
        assert (logger.level, logger.propagate) == (logging.NOTSET, True)
        assert not [handler for handler in logger.handlers if isinstance(handler, FileLog | TerminalLog)]


def test_where_nobody_listens_a_warning_is_not_on_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own
    log.warning("unheard")
    assert capsys.readouterr() == ("", "")


def test_a_handler_of_the_roots_has_no_line_of_a_search(file_log, monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler()])
    log.warning("heard by the file")
    assert capsys.readouterr() == ("", "")


def test_a_log_that_cannot_be_opened_is_named_once_and_says_nothing_more(file_log, tmp_path, capsys):
    (tmp_path / "search.log").mkdir()
    log.info("early")
    file_log.write_to(tmp_path)
    log.info("late")
    said = f"{tmp_path / 'search.log'}: Is a directory; the search goes on without its log\n"
    assert capsys.readouterr() == ("", said)


def test_a_log_that_cannot_be_written_any_more_is_named_once(file_log, tmp_path, capsys):
    file_log.write_to(tmp_path)
    file_log._file.close()
    for number in range(3):
        log.info("line %d", number)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / 'search.log'}: ")
    assert "Traceback" not in line


def test_of_a_full_disk_the_log_says_nothing_since_the_search_does(file_log, tmp_path, capsys):
    file_log.write_to(tmp_path)
    whole = file_log._file

    class Full:
        def write(self, line):
            raise OSError(28, "No space left on device")

    file_log._file = Full()
    log.info("late")
    file_log._file = whole
    assert capsys.readouterr() == ("", "")


def test_a_full_disk_under_the_log_alone_is_named_since_the_search_goes_on(file_log, tmp_path, capsys):
    """A device that is always full stands for a log that lies elsewhere than the run."""
    (tmp_path / "search.log").symlink_to("/dev/full")
    log.info("early")
    file_log.write_to(tmp_path)
    log.info("late")
    said = f"{tmp_path / 'search.log'}: No space left on device; the search goes on without its log\n"
    assert capsys.readouterr() == ("", said)


def test_a_line_that_a_full_disk_has_cut_off_is_followed_by_whole_ones(file_log, tmp_path):
    file_log.write_to(tmp_path)
    whole = file_log._file

    class Full:
        def write(self, line):
            if whole.tell():
                raise OSError(28, "No space left on device")
            return whole.write(line[:40])

    file_log._file = Full()
    log.info("cut off")
    file_log._file = whole
    log.info("whole %d", 1)
    log.info("whole %d", 2)
    first, *rest = read(tmp_path).splitlines()
    assert len(first) == 40
    assert [line.split(": ", 1)[1] for line in rest] == ["whole 1", "whole 2"]


def test_a_message_that_does_not_fit_its_values_ends_nothing(file_log, tmp_path, capsys):
    file_log.write_to(tmp_path)
    file_log.handle(logging.LogRecord("tuning.here", logging.INFO, "", 0, "%d trials", ("no number",), None))
    log.info("goes on")
    assert messages(tmp_path) == ["goes on"]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_mlflow_that_is_away_and_comes_back_is_logged_once_each(file_log, tmp_path, wait_for, monkeypatch):
    monkeypatch.setattr("tuning.tracking.uploader.FIRST_WAIT_SECONDS", 0.01)
    file_log.write_to(tmp_path)

    class Carrier:
        calls = 0

        def apply(self, event):
            Carrier.calls += 1
            if Carrier.calls <= 4:
                raise ConnectionRefusedError(111, "Connection refused")

        def refusal(self, error):
            return None

        def reconcile(self):
            pass

    sink = Sink(Outbox(tmp_path, Target("http://me:geheim@there", None, "abc")), Carrier)
    sink.put("start", "t1", name="t1", params={}, tags={}, time_ms=1)
    wait_for(lambda: Carrier.calls > 4, seconds=20)
    assert sink.close(most_seconds=20)
    away, back, closed = messages(tmp_path)
    assert (
        away == "MLflow at http://***@there cannot be reached (ConnectionRefusedError: [Errno 111] Connection refused)"
    )
    assert back == "MLflow at http://***@there can be reached again"
    assert closed.startswith("MLflow lacks 0 events")
