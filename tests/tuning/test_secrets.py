import pytest

from tuning.secrets import has_secret, masked

PLANTED = {
    name: f"planted-{name.lower().replace('_', '')}-5f0e"
    for name in (
        "HF_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD",
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY",
    )
}  # fmt: skip


@pytest.mark.slow
def test_no_secret_of_the_environment_is_in_anything_that_a_search_leaves(tune, tmp_path):
    done = tune("--num-samples", 2, "--strategies", "baseline", "--strategies", "empirical", "--confirm-seeds", 1,
                "--runs-dir", tmp_path / "runs", "--name", "first", **PLANTED)  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = {"standard output": done.stdout.encode(), "standard error": done.stderr.encode()}
    left = {str(path): path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    assert any(name.endswith("mlflow.db") for name in left)
    assert any(name.endswith("plan.json") for name in left)
    found = [(name, key) for name, content in (said | left).items() for key, value in PLANTED.items()
             if value.encode() in content]  # fmt: skip
    assert found == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:geheim@there:5000", "http://***@there:5000"),
        ("http://:geheim@there", "http://***@there"),
        ("postgresql+psycopg2://me:ge/he@im@there/db", "postgresql+psycopg2://***@there/db"),
        ("postgresql://there/db?user=me&password=geheim", "postgresql://there/db?user=me&password=***"),
        ("https://there/x?a=1&access_token=geheim&b=2", "https://there/x?a=1&access_token=***&b=2"),
        ("cannot reach http://me:geheim@there now", "cannot reach http://***@there now"),
    ],
)
def test_a_password_in_a_uri_is_seen_and_masked(text, shown):
    assert has_secret(text)
    assert masked(text) == shown


@pytest.mark.parametrize(
    "text",
    ["http://there:5000", "sqlite:////tmp/a@b/mlflow.db", "postgresql://me@there/db", "org/name", "a:b@c", "?x=token"],
)
def test_a_uri_without_a_password_is_left_alone(text):
    assert not has_secret(text)
    assert masked(text) == text
