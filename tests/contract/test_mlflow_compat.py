"""MLflow still has the texts and limits that are relied on, and its pages read what they are given.

What the pages make of it, a browser sees in ``tests/tuning/test_mlflow_page.py``; here their code is read.
"""

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Dataset
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as databases
from mlflow.utils.rest_utils import verify_rest_response
from mlflow.utils.validation import _validate_dataset

from tuning.tracking import mlflow_compat


@pytest.mark.parametrize("status", [401, 418, 429, 502])
def test_the_status_of_an_answer_that_is_no_json_is_in_the_text_of_the_error(status):
    with pytest.raises(MlflowException) as raised:
        verify_rest_response(SimpleNamespace(status_code=status, text="<html>"), "/api/2.0/mlflow/runs/create")
    assert mlflow_compat.status_in(raised.value.message) == status
    assert mlflow_compat.status_in("RESOURCE_ALREADY_EXISTS: 404") is None


def test_an_errors_own_status_is_not_that_of_the_answer():
    with pytest.raises(MlflowException) as raised:
        verify_rest_response(SimpleNamespace(status_code=418, text="<html>"), "/api")
    assert raised.value.get_http_status_code() != 418, "the status is there now: status_in can go"


def test_a_databases_error_is_logged_as_well_as_raised_unless_it_is_silenced(tmp_path, monkeypatch, caplog):
    session = sqlalchemy.orm.sessionmaker(sqlalchemy.create_engine(f"sqlite:///{tmp_path}/no/such.db"))
    monkeypatch.setattr(logging.getLogger("mlflow"), "propagate", True)
    caplog.set_level(logging.ERROR, logger=databases.__name__)  # another test may have silenced it

    def fail():
        with (
            pytest.raises(MlflowException, match="unable to open database file"),
            databases._get_managed_session_maker(session, "sqlite")(),
        ):
            raise AssertionError("it was opened")
        logged, _ = caplog.text, caplog.clear()
        return logged

    assert "unable to open database file" in fail()
    mlflow_compat.silence_raised_errors()
    assert fail() == ""


@pytest.mark.parametrize("more", [0, 1])
def test_a_digest_of_the_longest_length_is_taken_and_a_longer_one_is_not(more):
    dataset = Dataset("name", "0" * (mlflow_compat.DIGEST_LENGTH + more), "local", "source")
    if more:
        with pytest.raises(MlflowException, match="digest"):
            _validate_dataset(dataset)
    else:
        _validate_dataset(dataset)


@pytest.fixture(scope="module")
def code():
    """The code of MLflow's pages."""
    files = sorted((Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js").glob("*.js"))
    assert files, "this MLflow has no pages where they were"
    return "".join(path.read_text() for path in files)


def test_mlflows_pages_know_the_tag_and_the_columns_of_a_shared_view(code):
    key, value = mlflow_compat.shared_view("mine", "tags.a = 'b'", "metrics.`loss`", ("metrics.`loss`", "tags.`a`"))
    view = json.loads(value)
    assert (view["searchFilter"], view["orderByKey"]) == ("tags.a = 'b'", "metrics.`loss`")
    assert view["selectedColumns"] == ["metrics.`loss`", "tags.`a`"]
    assert f'"{key.removesuffix("mine")}"' in code
    for name in view:
        assert f"{name}:" in code, f"no page reads {name}"


def test_mlflows_pages_know_the_kind_of_an_experiment_that_shows_its_runs(code):
    for name, value in mlflow_compat.MODEL_DEVELOPMENT.items():
        assert f'"{name}"' in code
        assert f'"{value}"' in code


def test_mlflows_pages_know_the_address_of_a_view(code):
    path, _, query = mlflow_compat.runs_page("7", "mine").partition("?")
    assert f'"{path.removeprefix("/#").replace("7", ":experimentId")}"' in code
    asked = dict(part.split("=") for part in query.split("&"))
    assert asked["viewStateShareKey"] == "mine"
    for name in asked:
        assert f'"{name}"' in code, f"no page reads {name}"
    assert f'"{asked["workflowType"]}"' in code


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")  # of MLflow's
def test_a_table_is_the_file_and_the_tag_that_mlflows_own_function_makes(tmp_path, empty_mlflow):
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    run = client.create_run(client.create_experiment("tables", (tmp_path / "files").as_uri())).info.run_id
    table = {"prompt": ["a", "ü\n"], "plain LoRA": ["b", None]}
    client.log_table(run, table, "samples.json")
    (file,) = tmp_path.glob("files/**/samples.json")
    written = json.loads(file.read_text())
    assert written == {"columns": [*table], "data": [["a", "b"], ["ü\n", None]]}
    tag = client.get_run(run).data.tags[mlflow_compat.TABLES]
    assert mlflow_compat.with_table(None, "samples.json") == tag
    assert mlflow_compat.with_table(tag, "samples.json") == tag
    assert [item["path"] for item in json.loads(mlflow_compat.with_table(tag, "b.json"))] == ["samples.json", "b.json"]
