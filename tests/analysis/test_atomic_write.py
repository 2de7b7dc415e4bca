"""Files and folders are the old ones or the new ones."""

import pytest

from analysis.results.atomic_write import replace_text, replacing_file, replacing_folder


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with replacing_file(path) as aside:
        aside.write_text("ne")
        assert path.read_text() == "old"
        aside.write_text("new")
    assert path.read_text() == "new"
    assert _names(tmp_path) == ["a.json"]


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(IsADirectoryError), replacing_file(path) as aside:
        tmp_path.write_text(f"{aside.write_text('ne')}")
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["a.json"]


def test_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a.json"
    with replacing_file(path, "1") as one, replacing_file(path, "2") as two:
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one"
    assert _names(tmp_path) == ["a.json"]


def test_text_is_utf_8(tmp_path):
    replace_text(tmp_path / "a", "ü")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xbc"


def test_a_folder_takes_the_place_of_another_with_all_that_is_in_it(tmp_path):
    path = tmp_path / "there" / "best"
    for content in ("one", "two"):
        with replacing_folder(path) as aside:
            (aside / content).write_text(content)
        assert _names(path) == [content]
    assert _names(path.parent) == ["best"]


def test_a_folder_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "best"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(IsADirectoryError), replacing_folder(path) as aside:
        aside.write_text(f"{(aside / 'new').touch()}")
    assert _names(path) == ["old"]
    assert _names(tmp_path) == ["best"]


def test_what_a_killed_process_left_is_not_in_the_new_folder(tmp_path):
    for left in (".best.partial", ".best.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "left").touch()
    with replacing_folder(tmp_path / "best") as aside:
        (aside / "new").touch()
    assert _names(tmp_path) == ["best"]
    assert _names(tmp_path / "best") == ["new"]


def test_a_folder_that_somebody_has_called_old_stays(tmp_path):
    for mine in ("best", "best.old", "best.partial"):
        (tmp_path / mine).mkdir()
        (tmp_path / mine / "mine").touch()
    with replacing_folder(tmp_path / "best") as aside:
        (aside / "new").touch()
    assert _names(tmp_path / "best") == ["new"]
    assert _names(tmp_path / "best.old") == _names(tmp_path / "best.partial") == ["mine"]
