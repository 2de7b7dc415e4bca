import contextlib
import functools
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from trainables.spec import Workload
from tuning.cli import main
from tuning.cluster import access, node_check
from tuning.cluster.connection import ray_for
from tuning.plan.search_plan import SearchPlan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without a token, and an environment that says nothing of one."""
    for name in (access.MODE, access.TOKEN, access.TOKEN_PATH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.10", "head.example.org"])
def test_a_dashboard_beyond_this_machine_needs_a_token(host, home, monkeypatch):
    with pytest.raises(ValueError, match=f"--dashboard-host {host}: .* needs a token"):
        access.check_dashboard(host)
    monkeypatch.setenv(access.TOKEN, "secret")
    with pytest.raises(ValueError, match="needs a token"):  # Ray would not ask for it
        access.check_dashboard(host)
    monkeypatch.setenv(access.MODE, "token")
    access.check_dashboard(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_dashboard_on_this_machine_needs_none(host, home):
    access.check_dashboard(host)


def test_an_open_dashboard_is_refused_before_anything_is_written(home, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert main(["--dashboard-host", "0.0.0.0", "--runs-dir", str(runs)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: --dashboard-host 0.0.0.0: ")
    assert not runs.exists()


def test_a_dashboard_of_a_ray_that_is_joined_cannot_be_moved(home):
    plan = SearchPlan(ray_address="10.0.0.1:6379", dashboard_host="::1")
    with (
        pytest.raises(ValueError, match=r"--dashboard-host ::1: the Ray at --ray-address 10\.0\.0\.1:6379"),
        ray_for(plan),
    ):
        pass


def test_a_new_token_is_for_its_owner_alone(home):
    before = os.umask(0)
    try:
        access.provide_token()
    finally:
        os.umask(before)
    token = home / ".ray" / "auth_token"
    assert (mode(token), mode(token.parent), len(token.read_text())) == (0o600, 0o700, 64)
    text = token.read_text()
    access.provide_token()
    assert token.read_text() == text
    assert list(token.parent.iterdir()) == [token]


def test_no_token_is_made_where_one_is_given_or_none_is_wanted(home, monkeypatch):
    monkeypatch.setenv(access.MODE, "disabled")
    access.provide_token()
    monkeypatch.setenv(access.MODE, "token")
    monkeypatch.setenv(access.TOKEN, "secret")
    access.provide_token()
    assert list(home.iterdir()) == []


def test_a_token_file_that_is_named_must_be_there(home, monkeypatch):
    monkeypatch.setenv(access.TOKEN_PATH, str(home / "gone"))
    with pytest.raises(ValueError, match=r"RAY_AUTH_TOKEN_PATH=.*gone: no such file"):
        access.provide_token()


def test_a_home_that_cannot_be_written_is_named_with_what_mends_it(tmp_path, monkeypatch):
    (tmp_path / "home").touch()  # whoever runs tests may be root, who can write to every folder
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ValueError, match=r"set HOME to a folder that can be written.* RAY_AUTH_TOKEN_PATH") as caught:
        access.provide_token()
    assert str(caught.value).startswith(
        f"{tmp_path / 'home' / '.ray' / 'auth_token'}: Ray's token cannot be made there"
    )


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_a_home_that_lets_nobody_in_is_named_with_what_mends_it(home, monkeypatch, mode):
    """Such as HOME=/root in a container that runs as somebody else."""

    def closed(path, *arguments, before, **options):
        if str(path).startswith(str(home)):
            raise PermissionError(13, "Permission denied", str(path))
        return before(path, *arguments, **options)

    monkeypatch.setenv(access.MODE, mode)
    for name in ("stat", "mkdir"):
        monkeypatch.setattr(os, name, functools.partial(closed, before=getattr(os, name)))
    access.check_dashboard("127.0.0.1")
    access.tighten_token()
    refusal = pytest.raises(ValueError, match=r"\(Permission denied\); set HOME to .* RAY_AUTH_TOKEN_PATH")
    with refusal if mode == "token" else contextlib.nullcontext():
        access.provide_token()


def test_a_token_that_nobody_may_read_is_refused(home, monkeypatch):
    (home / "token").touch(mode=0o600)
    monkeypatch.setenv(access.TOKEN_PATH, str(home / "token"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match=f"{home / 'token'}: Ray's token cannot be read; set HOME to a folder"):
        access.provide_token()


def test_a_token_that_others_can_read_is_closed_to_them(home):
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    access.tighten_token()
    assert mode(token) == 0o600


def test_a_token_that_others_can_read_and_that_is_not_ours_is_refused(home, monkeypatch):
    token = home / "token"
    token.write_text("secret")
    token.chmod(0o644)
    monkeypatch.setenv(access.TOKEN_PATH, str(token))

    def forbidden(self, mode):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", forbidden)
    with pytest.raises(ValueError, match="other users can read Ray's token"):
        access.tighten_token()


LISTENERS = """
import contextlib, psutil, ray, time
from tuning.plan.search_plan import SearchPlan
from tuning.cluster.connection import ray_for

with ray_for(SearchPlan()):
    ray.get(ray.remote(num_cpus=0)(lambda: 0).remote())
    deadline, found = time.monotonic() + 60, set()
    while time.monotonic() < deadline and not {"dashboard", "ray::DashboardAgent"} <= {name for name, _ in found}:
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                name = "dashboard" if "dashboard/dashboard.py" in " ".join(process.cmdline()) else process.name()
                sockets = process.net_connections("inet")
                found |= {(name, socket.laddr.ip) for socket in sockets if socket.status == psutil.CONN_LISTEN}
    for name, address in found:
        print(name, address)
"""


@pytest.mark.parametrize("wrong", ["open", "file", "link", "someone else's"])
def test_a_folder_that_others_reach_is_refused_for_rays_files(wrong, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    before = os.umask(0)
    try:
        path = access.private_folder()
    finally:
        os.umask(before)
    assert (path.parent, mode(path)) == (tmp_path, 0o700)
    assert access.private_folder() == path
    if wrong == "open":
        path.chmod(0o770)
    elif wrong == "someone else's":
        other = os.getuid() + 1
        path = tmp_path / f"ray-{other}"
        path.mkdir(mode=0o700)
        monkeypatch.setattr(os, "getuid", lambda: other)
    else:
        path.rmdir()
        path.touch(mode=0o700) if wrong == "file" else path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{path}: must be a folder of yours"):
        access.private_folder()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file" / "in"))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be made \(Not a directory\)"):
        access.private_folder()


@pytest.mark.process
def test_nothing_of_a_search_listens_beyond_this_machine_and_others_reach_no_file_of_its_ray(finished):
    check_listeners(finished.listeners)
    (folder,) = finished.rays.iterdir()
    check_folder(folder)


def check_listeners(listeners):
    assert {name for name, _ in listeners} >= {"gcs_server", "raylet", "dashboard", "ray::DashboardAgent"}
    assert {address.removeprefix("::ffff:") for _, address in listeners} <= {"127.0.0.1", "::1"}


def check_folder(folder):
    assert (folder.name, mode(folder)) == (f"ray-{os.getuid()}", 0o700)
    assert any(folder.glob("ray/session_*/sockets"))


@pytest.mark.process
@pytest.mark.thorough
def test_nothing_of_a_ray_of_our_own_listens_beyond_this_machine_and_its_token_is_for_its_owner(home, monkeypatch):
    # Ray's sockets lie below it, and their paths must be short; its agents may still write there when all is over
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        done = subprocess.run(
            [sys.executable, "-c", LISTENERS], cwd=ROOT, capture_output=True, text=True, check=True, timeout=200
        )
        (folder,) = Path(short).iterdir()
        check_folder(folder)
    check_listeners([line.rsplit(maxsplit=1) for line in done.stdout.splitlines()])
    assert mode(home / ".ray" / "auth_token") == 0o600


def judged(address, **seen):
    plan, view = (
        SearchPlan(ray_address="auto", runs_dir="/mnt/runs"),
        {"shared": True, "base": "b", "token": True} | seen,
    )
    workload = Workload.__new__(Workload)
    object.__setattr__(workload, "model", "/models/m")
    object.__setattr__(workload, "base", "b")
    return node_check.judge(plan, workload, address, node_check.View(**view))


def test_a_ray_that_others_reach_and_that_wants_no_token_is_not_joined():
    with pytest.raises(ValueError, match=r"--ray-address auto: node 10\.0\.0\.7 .* asks for no token"):
        judged("10.0.0.7", token=False)
    judged("127.0.0.1", token=False)
    judged("10.0.0.7")


def test_a_node_without_the_base_is_told_from_one_with_another():
    with pytest.raises(ValueError, match=r"--model bundled: node 10\.0\.0\.7 has no model at /models/m"):
        judged("10.0.0.7", base="")
    with pytest.raises(ValueError, match=r"--model bundled: node 10\.0\.0\.7 has another model at /models/m"):
        judged("10.0.0.7", base="c")
