"""What people read of an error, and how a command ends with one."""

import click
import pytest

from analysis.results.messages import first_line, has_secret, masked, one_line, run_command


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


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no room\nat all"), "no room"),
        (ValueError("\n  no room"), "no room"),
        (ValueError(), "ValueError"),
        (OSError(28, "No space left on device", "a.txt"), "[Errno 28] No space left on device: 'a.txt'"),
        (ValueError("x" * 300), "x" * 200),
    ],
)
def test_the_first_line_of_an_error_says_what_it_is(error, line):
    assert first_line(error) == line


def test_a_message_is_one_line_without_what_cannot_be_seen():
    assert one_line("http://me:geheim@there\n said\x1b[2J  no") == "http://***@there said\\x1b[2J no"


def _ends(error=None, status=None):
    """Return the exit status of a command that raises or returns something."""

    @click.command()
    @click.option("--number", type=int)
    def command(number):
        if error is not None:
            raise error
        return status

    return command


@pytest.mark.parametrize(
    ("command", "arguments", "status", "line"),
    [
        (_ends(), [], 0, ""),
        (_ends(status=3), [], 3, ""),
        (_ends(ValueError("--number 1:\ntoo small")), [], 2, "Error: --number 1: too small"),
        (_ends(OSError(2, "No such file", "a")), [], 2, "Error: [Errno 2] No such file: 'a'"),
        (_ends(click.UsageError("wrong")), [], 2, "Error: wrong"),
        (_ends(click.ClickException("away")), [], 1, "Error: away"),
        (_ends(KeyboardInterrupt()), [], 130, "Stopped"),
        (_ends(), ["--number", "x"], 2, "Error: Invalid value for '--number': 'x' is not a valid integer."),
    ],
)
def test_a_command_ends_with_one_line_and_its_status(command, arguments, status, line, capsys):
    assert run_command(command, arguments, "command") == status
    captured = capsys.readouterr()
    assert (captured.out, captured.err.strip()) == ("", line)


def test_help_is_no_error(capsys):
    assert run_command(_ends(), ["--help"], "command") == 0
    assert "--number" in capsys.readouterr().out


def test_a_fault_of_ours_is_no_wrong_usage():
    with pytest.raises(KeyError):
        run_command(_ends(KeyError("x")), [], "command")
    with pytest.raises(ValueError, match="ours"):
        run_command(_ends(ValueError("ours")), [], "command", wrong_usage=())
