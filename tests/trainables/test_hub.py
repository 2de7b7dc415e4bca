"""Hub ids on a cache of the hub's own layout, as a machine without a network has it."""

import json
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from trainables.data.locations import HUB_FILES
from trainables.data.splits import DataSource, read_documents
from trainables.models import files, hub
from trainables.models.base_model import load, shape_of
from trainables.models.identity import identity

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with two commits of a data set; ``main`` is the newer, the tag ``v1`` the older."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for commit in (OLD, NEW):
        folder = tmp_path / "datasets--org--texts" / "snapshots" / commit
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_text(json.dumps({"text": f"text of {commit[0]}"}))
    refer(tmp_path / "datasets--org--texts", main=NEW, v1=OLD)
    return tmp_path


def refer(repo: Path, **commits: str) -> None:
    (repo / "refs").mkdir(exist_ok=True)
    for name, commit in commits.items():
        (repo / "refs" / name).write_text(commit)


def save(cache: Path, name: str, commit: str, model: Path) -> Path:
    repo = cache / f"models--org--{name}"
    shutil.copytree(model, repo / "snapshots" / commit)
    refer(repo, main=commit)
    return repo / "snapshots" / commit


def test_a_revision_is_looked_up_once_and_its_commit_used_whatever_becomes_of_it(cache):
    assert hub.pinned("dataset", "org/texts", None) == f"org/texts@{NEW}"
    old = hub.pinned("dataset", "org/texts", "v1")
    assert old == f"org/texts@{OLD}"
    refer(cache / "datasets--org--texts", v1=NEW)
    assert [document.text for document in read_documents(DataSource(dataset=old))] == ["text of a"]
    assert hub.pinned("dataset", "org/texts", OLD) == old
    assert hub.pinned("dataset", old, None) == old, "as a saved plan has it of a data set for one split"
    with pytest.raises(ValueError, match="--test-dataset org/none: nothing of that name"):
        hub.pinned("dataset", "org/none", None, "test-dataset")


def test_what_is_on_disk_or_built_in_has_no_revision(tiny_gpt2):
    assert hub.pinned("model", "bundled", None) == "bundled"
    assert hub.pinned("model", str(tiny_gpt2), None) == str(tiny_gpt2)
    for name in ("bundled", str(tiny_gpt2), "x/y/z", "table.jsonl"):
        with pytest.raises(ValueError, match=r"--model-revision v1: .* leave it out"):
            hub.pinned("model", name, "v1")


def test_an_at_sign_in_a_path_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jane@corp").mkdir()
    for name in ("jane@corp", str(tmp_path / "jane@corp")):
        assert hub.commit_of(name) is None
    assert hub.commit_of(f"org/texts@{OLD}") == OLD


def test_a_revision_that_does_not_exist_is_named(cache):
    with pytest.raises(ValueError, match="--dataset org/texts --dataset-revision v2: nothing of that name"):
        hub.pinned("dataset", "org/texts", "v2")


def test_a_hub_model_loads_from_its_commit_and_an_adapter_names_it(cache, tiny_gpt2):
    save(cache, "tiny", OLD, tiny_gpt2)
    model = hub.pinned("model", "org/tiny", None)
    assert model == f"org/tiny@{OLD}"
    assert files.check_weights(model)
    assert shape_of(model) == shape_of(str(tiny_gpt2))
    network = load(model).model
    assert (network.name_or_path, network.hub_commit) == ("org/tiny", OLD)
    assert identity(model) == model


def test_a_hub_model_of_pickles_is_refused_and_nothing_is_converted(cache, tiny_gpt2):
    folder = save(cache, "old", OLD, tiny_gpt2)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is a pickle"):
        files.check_weights(f"org/old@{OLD}")
    with pytest.raises(ValueError, match="do not load"):
        load(f"org/old@{OLD}")


def test_of_a_hub_data_set_nothing_is_fetched_that_could_run(cache):
    assert not [name for name in ("data.pkl", "load.py", "x.tar", "x.npy") for p in HUB_FILES if fnmatch(name, p)]
    with pytest.raises(ValueError, match="org/absent"):
        read_documents(DataSource(dataset=f"org/absent@{OLD}"))


def test_a_configuration_and_a_split_are_read_as_the_card_says_and_others_are_named(cache):
    folder = cache / "datasets--org--texts" / "snapshots" / NEW
    for name in ("a-train", "a-test", "b-train"):
        (folder / f"{name}.csv").write_text(f"text\n00{name}\n")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files:\n  - {split: train, path: a-train.csv}\n"
        "  - {split: test, path: a-test.csv}\n- config_name: b\n  data_files: b-train.csv\n---\n"
    )

    def texts(**choices):
        source = DataSource(dataset=f"org/texts@{NEW}", **choices)
        return [document.text for document in read_documents(source)]

    assert texts(dataset_config="a") == ["00a-train"]
    assert texts(dataset_config="a", dataset_split="test") == ["00a-test"]
    assert texts(dataset_config="b") == ["00b-train"]
    with pytest.raises(ValueError, match="no split 'dev'; it has train, test: give --dataset-split"):
        texts(dataset_config="a", dataset_split="dev")
    with pytest.raises(ValueError, match="with --dataset-config"):
        texts()


@pytest.fixture
def fetched(cache, monkeypatch):
    """Names that were asked for, of a data set with files that are not here."""
    folder = cache / "datasets--org--texts" / "snapshots" / NEW
    (folder / "data").mkdir()
    (folder / "data" / "train-00000-of-00001.jsonl").write_text('{"text": "0"}')
    (folder / "train.jsonl").unlink()
    splits = {f"data/{split}-00000-of-00001.jsonl" for split in ("train", "test")}
    patterns = []

    def fetch(kind, name, asked):
        patterns.extend(asked)
        return folder

    monkeypatch.setattr(hub, "file_names", lambda *_: {*splits, "dataset_infos.json", "huge.bin", "../x.csv"})
    monkeypatch.setattr(hub, "folder", fetch)
    (cache / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(cache / "temporary"))
    return patterns


def test_of_a_hub_data_set_the_files_of_one_split_are_fetched(fetched, cache):
    source = DataSource(dataset=f"org/texts@{NEW}")
    assert [document.text for document in read_documents(source)] == ["0"]
    assert fetched == ["data/train-00000-of-00001.jsonl"]
    assert list((cache / "temporary").iterdir()) == [], "a name that leads out of its folder is not laid out"


def test_a_hub_data_set_for_a_split_that_it_does_not_have_is_refused_with_what_can_be_done(fetched):
    source = DataSource(dataset=f"org/texts@{NEW}", validation_dataset=f"org/texts@{NEW}")
    advice = "no split 'validation'; it has train, test: give one that has, or leave --validation-dataset out"
    with pytest.raises(ValueError, match=f"^--validation-dataset org/texts@{NEW}: {advice}"):
        read_documents(source)


def test_a_configuration_is_of_its_own_data_set_alone(cache, monkeypatch):
    asked = []
    monkeypatch.setattr("trainables.data.locations._hub_files", lambda *given: asked.append(given) or [])
    for other in (f"org/texts@{OLD}", "org/more"):
        source = DataSource(dataset=f"org/texts@{NEW}", dataset_config="a", test_dataset=other)
        with pytest.raises(ValueError, match="no text"):
            read_documents(source)
    assert [given[2:] for given in asked] == [("a", "test"), (None, "test")]


def test_a_card_that_names_files_elsewhere_is_refused(cache, tmp_path):
    (tmp_path / "secret.csv").write_text("text\nx\n")
    folder = cache / "datasets--org--texts" / "snapshots" / NEW
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files: {tmp_path / 'secret.csv'}\n---\n"
    )
    with pytest.raises(ValueError, match="its card names files that are not its own; download them"):
        read_documents(DataSource(dataset=f"org/texts@{NEW}"))


def test_without_the_package_that_reads_them_a_hub_data_set_names_it(cache, monkeypatch):
    folder = cache / "datasets--org--texts" / "snapshots" / NEW
    (folder / "a.csv").write_text("text\na\n")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="needs the package `datasets`: pip install datasets"):
        read_documents(DataSource(dataset=f"org/texts@{NEW}"))
