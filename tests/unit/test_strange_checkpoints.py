"""Whatever a checkpoint says of itself, sealed or not: it has a progress that can be used, or none."""

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from trainables.training import checkpoint
from trainables.training.checkpoint import META, Progress

PROGRESS = Progress(step=4, tokens=400, seconds=2.5, base="base", allocation="digest", recent={"loss": 1.5})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
RELAXED = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def folder(tmp_path):
    """A whole checkpoint of four steps."""

    def tensors(aside):
        (aside / checkpoint.ADAPTER).mkdir()
        for name in (checkpoint.STATE, "adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
            (aside / name).write_text("any")

    checkpoint.write(tmp_path / "session", PROGRESS, tensors)
    return tmp_path / "session"


def resealed(folder, changes):
    """Change what a checkpoint says of itself, and make its digest fit, as anybody can."""
    values = {name: getattr(PROGRESS, name) for name in Progress.__slots__} | changes
    (folder / META).write_text(json.dumps({**values, "sha256": checkpoint._digest(folder, values)}))


@RELAXED
@given(st.sampled_from([*Progress.__slots__, "more"]), JSON)
@example("step", "4")
@example("step", None)
@example("step", -1)
@example("tokens", 10**400)
@example("recent", [])
@example("recent", {"loss": "x"})
@example("seconds", float("nan"))
@example("base", 5)
def test_a_progress_that_is_none_is_passed_over_and_any_other_can_be_compared(folder, name, value):
    resealed(folder, {name: value})
    progress = checkpoint.progress_of(folder)
    assert checkpoint.newest([folder, folder]) == (None if progress is None else folder)
    if progress is not None:
        assert progress.step + progress.tokens + progress.seconds >= 0
        assert isinstance(sum(progress.recent.values()), int | float)
        assert isinstance(progress.base + progress.allocation, str)


@RELAXED
@given(st.binary(max_size=100))
@example(b"[" * 100_000)
@example(b'{"step": 1' + b"0" * 5000 + b"}")
def test_any_bytes_are_a_progress_or_none(folder, content):
    (folder / META).write_bytes(content)
    assert checkpoint.progress_of(folder) is None


def test_what_a_trial_wrote_is_its_progress(folder):
    assert checkpoint.progress_of(folder) == PROGRESS
