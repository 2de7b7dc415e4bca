"""Secrets of a user's environment stay there, and passwords in addresses are masked."""

import pytest

from tuning.plan.secrets import has_secret, masked


@pytest.mark.process
def test_no_secret_of_the_environment_is_in_anything_that_a_search_leaves(finished, planted):
    """Nor in the logs of its Ray."""
    said = {"standard output": finished.done.stdout.encode(), "standard error": finished.done.stderr.encode()}
    folders = (finished.folder.parent, finished.rays)
    left = {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    for name in ("mlflow.db", "plan.json", "raylet.out"):
        assert any(path.endswith(name) for path in left), name
    found = [(name, key) for name, content in (said | left).items() for key, value in planted.items()
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
        ("https://ghp_geheim@there/x", "https://***@there/x"),
        ("HTTP://geheim@there", "HTTP://***@there"),
        ("https://there/x?api-key=geheim", "https://there/x?api-key=***"),
        ("https://there/x?sv=1&sig=geheim%3D&se=2", "https://there/x?sv=1&sig=***&se=2"),
        ("https://there/x?token=geheim", "https://there/x?token=***"),
        ("https://there/x?key=geheim", "https://there/x?key=***"),
        ("s3://there/x?X-Amz-Signature=geheim", "s3://there/x?X-Amz-Signature=***"),
        (
            "mssql+pyodbc:///?odbc_connect=Driver%3D%7BODBC%7D%3BUid%3Dme%3BPwd%3Dgeheim%3BEncrypt%3Dyes",
            "mssql+pyodbc:///?odbc_connect=Driver%3D%7BODBC%7D%3BUid%3Dme%3BPwd%3D***%3BEncrypt%3Dyes",
        ),
        ("mssql+pyodbc:///?odbc_connect=a%253bPWD%253dgeheim", "mssql+pyodbc:///?odbc_connect=a%253bPWD%253d***"),
        ("mssql+pyodbc:///?odbc_connect=a;Password=geheim;b", "mssql+pyodbc:///?odbc_connect=a;Password=***;b"),
    ],
)
def test_a_password_in_a_uri_is_seen_and_masked(text, shown):
    assert has_secret(text)
    assert masked(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://there:5000",
        "sqlite:////tmp/a@b/mlflow.db",
        "postgresql://me@there/db",
        "org/name",
        "a:b@c",
        "?x=token",
        "https://there/a@b",
        "postgresql://there/db?sslkey=/home/me/key&sslcert=x",
        "/data/my-tokens=3/key.txt",
    ],
)
def test_a_uri_without_a_password_is_left_alone(text):
    assert not has_secret(text)
    assert masked(text) == text
