import json
import resource
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.results import journal

values = st.dictionaries(
    st.text(max_size=5).filter(lambda name: name != journal.CHECKSUM),
    st.recursive(
        st.none() | st.booleans() | st.integers(1 - 2**63, 2**63 - 1) | st.floats(-1e299, 1e299) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "some.jsonl"
    for number in range(3):
        journal.append(path, {"number": number, "text": "naïve\u2028"})
    return path


@pytest.fixture(scope="module")
def emptied(tmp_path_factory):
    """A file that a test empties: a new one for each example takes most of its time."""
    return tmp_path_factory.mktemp("lines") / "some.jsonl"


@given(st.lists(values, max_size=4))
def test_what_is_appended_is_read(emptied, given):
    emptied.write_bytes(b"")
    for value in given:
        journal.append(emptied, value, sync=False)
    assert journal.read(emptied, unsealed=False) == (given, [])


def test_a_line_that_was_cut_off_costs_itself_alone(path):
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    journal.append(path, {"number": 3})
    intact, damage = journal.read(path)
    assert [value["number"] for value in intact] == [0, 1, 3]
    assert [number for number, _ in damage] == [3]
    assert "cut off" in damage[0][1]


def test_a_line_that_has_no_room_leaves_the_file_as_it_was(path):
    """A limit on the size of a file is as a full disk: a part of the line is written, then it fails."""
    content, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            journal.append(path, {"number": 3})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert path.read_bytes() == content


def test_no_byte_can_be_changed_unnoticed(path):
    content = path.read_bytes()
    second_line = content.index(b"\n") + 1, content.index(b"\n", content.index(b"\n") + 1)
    for position in range(*second_line):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        intact, damage = journal.read(path, unsealed=False)
        assert damage, position
        assert {"number": 0, "text": "naïve\u2028"} in intact
        assert len(intact) + len(damage) >= 3


@pytest.mark.parametrize("eighth", range(8))
def test_a_file_cut_at_any_eighth_keeps_the_lines_before(path, eighth):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * eighth // 8])
    intact, damage = journal.read(path)
    assert [value["number"] for value in intact] == list(range(content[: len(content) * eighth // 8].count(b"\n")))
    assert len(damage) <= 1


def test_a_line_without_a_checksum_is_read_where_that_is_allowed(path):
    with path.open("a") as file:
        file.write(json.dumps({"number": 3}) + "\n")
    assert len(journal.read(path)[0]) == 4
    assert journal.read(path, unsealed=False)[1] == [(4, "no checksum")]
