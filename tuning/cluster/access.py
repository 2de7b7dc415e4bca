"""Who reaches a search's Ray: this machine alone, or whoever has the token. ``docs/security.md`` says the rest."""

import contextlib
import ipaddress
import os
import secrets
import stat
from pathlib import Path

from tuning.cluster import ray_compat
from tuning.cluster.ray_compat import TEMPORARY

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
ELSEWHERE = f"set HOME to a folder that can be written, or write a token elsewhere and name its file in {TOKEN_PATH}"
HOW = f"set {MODE}=token and put it into ~/.ray/auth_token, or give {TOKEN_PATH}"


def is_loopback(host: str) -> bool:
    """Return True if only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_dashboard(host: str) -> None:
    """Refuse a dashboard that other machines reach without a token: whoever reaches it runs any code here.

    Raises:
        ValueError: The address is not this machine's own, and there is no token or Ray would not ask for it.
    """
    token = os.environ.get(TOKEN) or _text(_token_file())
    if not is_loopback(host) and not (os.environ.get(MODE, "").lower() == "token" and token):
        raise ValueError(
            f"--dashboard-host {host}: other machines reach it, so it needs a token; run `ray get-auth-token "
            f"--generate` and set {MODE}=token, or keep 127.0.0.1"
        )


def provide_token() -> None:
    """Make a token where Ray would make one, which it would write for all users to read.

    Raises:
        ValueError: It cannot be made or read, or is not where it was said to be.
    """
    path = _token_file()
    if os.environ.get(MODE, "token").lower() != "token" or os.environ.get(TOKEN):
        return
    if os.path.exists(path):
        if not os.access(path, os.R_OK):
            raise ValueError(f"{path}: Ray's token cannot be read; {ELSEWHERE}")
        return
    if os.environ.get(TOKEN_PATH):
        raise ValueError(f"{TOKEN_PATH}={path}: no such file; write a token there, or unset it")
    try:
        _make_token(path)
    except OSError as error:
        raise ValueError(f"{path}: Ray's token cannot be made there ({error.strerror}); {ELSEWHERE}") from error


def _make_token(path: Path) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    with contextlib.suppress(FileExistsError):  # another search was first: its token is as good
        os.link(aside, path)
    aside.unlink()


def tighten_token() -> None:
    """Let nobody but its owner read the file that Ray's token comes from.

    Raises:
        ValueError: Others can read it, and it is not ours to change.
    """
    path = _token_file()
    if os.environ.get(TOKEN) or not os.path.isfile(path) or not path.stat().st_mode & 0o077:
        return
    try:
        path.chmod(0o600)
    except OSError as error:
        raise ValueError(
            f"{path}: other users can read Ray's token, and it cannot be changed ({error.strerror}); "
            f"make it readable by you alone (chmod 600)"
        ) from error


def private_folder() -> Path:
    """Make a folder around that of a Ray of our own, whose sockets, logs and files in passage it opens to everybody.

    Raises:
        ValueError: It cannot be made, or there is one that others may write to.
    """
    path = ray_compat.temporary_folder() / f"ray-{os.getuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700, parents=True)
        status = path.lstat()
    except OSError as error:
        raise ValueError(f"{path}: cannot be made ({error.strerror}); set {TEMPORARY} to a folder of yours") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ValueError(f"{path}: must be a folder of yours that nobody else reaches; remove it, or set {TEMPORARY}")
    return path


def _token_file() -> Path:
    return Path(os.environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def _text(path: Path) -> str:
    return path.read_text().strip() if os.path.isfile(path) else ""  # Path.is_file raises where HOME is closed to us
