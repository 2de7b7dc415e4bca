"""The wheel: what is in it, and its command in an empty folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("strategies", "trainables", "tuning", "analysis", "pyproject.toml", "README.md")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, made from a copy of what git has, since making it leaves files."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    flags = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(source)]
    subprocess.run([*PIP, "wheel", *flags], check=True)
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs the installed command in an empty folder, with the suite's packages beside it."""
    site, empty = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)

    def run(*arguments):
        return subprocess.run(
            [site / "bin" / "lora-rank-search", *map(str, arguments)], cwd=empty, capture_output=True, text=True,
            check=False, env={**os.environ, "PYTHONPATH": str(site)},
        )  # fmt: skip

    return run


@pytest.mark.process
def test_the_wheel_has_types_page_and_model_and_nothing_of_the_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("analysis/report/page.html", "trainables/models/bundled/model.safetensors"):
        assert name in names
    for package in ("strategies", "trainables", "tuning", "analysis"):
        assert f"{package}/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "examples"))]


@pytest.mark.process
@pytest.mark.thorough
def test_in_an_empty_folder_the_command_plans_a_search_of_the_bundled_model(installed):
    done = installed("--dry-run", "--num-samples", 6)
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 trials and 45 confirmation runs" in done.stdout
    assert installed("--version").stdout.startswith("lora-rank-search ")
    assert "lora-rank-search --resume latest" in installed("-h").stdout


@pytest.mark.process
@pytest.mark.thorough
def test_there_its_report_is_a_page(installed, tmp_path):
    run = shutil.copytree(ROOT / "tests" / "data" / "run-2026-11-27", tmp_path / "run")
    done = installed("report", run)
    assert (done.returncode, done.stdout) == (0, f"{run}/report.md\n"), done.stderr
    assert (run / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.process
@pytest.mark.thorough
def test_there_a_search_says_how_the_installed_command_goes_on(installed, small, tmp_path):
    done = installed(*small, "--num-samples", 2, "--strategies", "baseline", "--runs-dir", tmp_path, "--name", "first")
    assert (done.returncode, done.stderr) == (0, "")
    again = installed("--resume", "latest", "--runs-dir", tmp_path)
    assert "\nfirst is complete; " in again.stdout
