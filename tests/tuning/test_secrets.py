"""Secrets of a user's environment stay there."""

import pytest


@pytest.mark.process
def test_no_secret_of_the_environment_is_in_anything_that_a_search_leaves(finished, planted):
    """Nor in the logs of its Ray."""
    said = {"standard output": finished.done.stdout.encode(), "standard error": finished.done.stderr.encode()}
    folders = (finished.folder.parent, finished.rays)
    left = {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    for name in ("mlflow.db", "plan.json", "raylet.out"):
        assert any(path.endswith(name) for path in left), name
    leaks = [(name, key) for name, content in (said | left).items() for key, value in planted.items()
             if value.encode() in content]  # fmt: skip
    assert leaks == []
