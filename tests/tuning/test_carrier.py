"""A local MLflow's database is there whole or not at all; what makes its tables stands in for MLflow."""

import errno
import os
from pathlib import Path

import mlflow
import pytest

from tests.fakes.ray_tune import Killed
from tuning.tracking.mlflow_client import _make_database


class Making:
    """Makes tables, which are a file's content here."""

    def __init__(self, tracking_uri):
        self.path = Path(tracking_uri.removeprefix("sqlite:///"))

    def search_experiments(self, max_results):
        self.path.write_text("tables")


class Dying(Making):
    def search_experiments(self, max_results):
        self.path.write_text("half of them")
        raise Killed


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow, "MlflowClient", Making)
    return tmp_path / "runs" / "mlflow.db"


def make(database):
    _make_database(f"sqlite:///{database}")


def test_a_search_that_is_killed_while_tables_are_made_leaves_no_half_of_them(database, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "MlflowClient", Dying)
        with pytest.raises(Killed):
            make(database)
    assert not database.exists()
    make(database)
    assert database.read_text() == "tables"
    assert [path.name for path in database.parent.iterdir()] == ["mlflow.db"]


def test_as_long_as_tables_are_made_there_is_no_database(database, monkeypatch):
    """A SIGKILL, which nothing cleans up after, is then as harmless as what the test above has."""
    seen = []

    class Looking(Making):
        def search_experiments(self, max_results):
            super().search_experiments(max_results)
            seen.append(database.exists())

    monkeypatch.setattr(mlflow, "MlflowClient", Looking)
    make(database)
    assert seen == [False]
    assert database.exists()


def test_one_that_is_there_is_left_alone(database):
    database.parent.mkdir()
    database.write_text("mine")
    make(database)
    assert database.read_text() == "mine"


def test_of_two_searches_that_make_it_at_once_both_use_that_of_the_first(database, monkeypatch):
    def late(aside, path):
        path.write_text("of the first")
        link(aside, path)

    link = os.link
    monkeypatch.setattr(os, "link", late)
    make(database)
    assert database.read_text() == "of the first"
    assert [path.name for path in database.parent.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSPC])
def test_where_files_cannot_be_linked_mlflow_makes_it_in_place_and_a_full_disk_is_told(database, monkeypatch, error):
    def refused(aside, path):
        raise OSError(error, os.strerror(error), path)

    monkeypatch.setattr(os, "link", refused)
    if error == errno.ENOSPC:
        with pytest.raises(OSError, match="No space left"):
            make(database)
    else:
        make(database)
    assert [*database.parent.iterdir()] == []


def test_a_server_needs_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _make_database("http://there:5000")
    assert [*tmp_path.iterdir()] == []
