"""Errors as people read them: one line, printable, without passwords; a command ends with it."""

import re
import sys
from collections.abc import Sequence

import click

USAGE_ERROR, INTERRUPTED = 2, 130
"""Exit statuses of every command."""
SEPARATOR, EQUALS = r"(?:[?&;]|%(?:25)*(?:3F|26|3B))", r"(?:=|%(?:25)*3D)"  # ODBC's are inside a parameter, quoted
NAMES = r"[\w.+-]*(?:password|passwd|pwd|token|secret|credential|signature|(?:api|access)[_-]?key)[\w.-]*|sig|key|auth"
USERINFO = re.compile(r"(?i)://[^\s/:@]*:\S*@|(?<=http)://[^\s/?#@]+@|(?<=https)://[^\s/?#@]+@")
QUERY = re.compile(rf"(?i)({SEPARATOR}(?:{NAMES}){EQUALS})(?:(?!{SEPARATOR})\S)+")


def has_secret(text: str) -> bool:
    """Return True if a URI with a password, or with a token in the place of one or of its user, is in ``text``."""
    return bool(USERINFO.search(text) or QUERY.search(text))


def masked(text: str) -> str:
    """Return ``text`` with ``***`` for whatever ``has_secret`` sees."""
    return QUERY.sub(r"\1***", USERINFO.sub("://***@", text))


def one_line(message: str) -> str:
    """Return ``message`` as one printable line without passwords."""
    line = masked(" ".join(message.split()))
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in line)


def first_line(error: BaseException, most: int = 200) -> str:
    """Return the first line of an error's message, at most ``most`` characters; its type's name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:most]


def to_stderr(line: str) -> None:
    """Print a line on standard error, as it is."""
    print(line, file=sys.stderr)


def run_command(
    command: click.Command,
    arguments: Sequence[str] | None = None,
    name: str | None = None,
    wrong_usage: tuple[type[Exception], ...] = (ValueError, OSError),
    stopped: str = "Stopped",
) -> int:
    """Run a command and return its exit status: what it returns, or 0.

    Args:
        command: A command, or a group of them.
        arguments: Its command line; None takes the process's.
        name: As help shows it; None takes the process's.
        wrong_usage: Errors for which whoever called it can do something: one line and exit status 2.
        stopped: What to say after Ctrl-C.
    """
    try:
        helps = ["-h", "--help"]
        return int(command.main(arguments, prog_name=name, standalone_mode=False, help_option_names=helps) or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print(stopped, file=sys.stderr)
        return INTERRUPTED
    except click.ClickException as error:
        status, message = error.exit_code, error.format_message()
    except wrong_usage as error:
        status, message = USAGE_ERROR, str(error)
    print(f"Error: {one_line(message)}", file=sys.stderr)
    return status
