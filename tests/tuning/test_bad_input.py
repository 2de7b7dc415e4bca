"""Every wrong flag, file and name: one line with what is wrong and what would be right, status 2, nothing written."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tuning.plan.search_plan import SearchPlan

ROOT = Path(__file__).parents[2]

FLAGS = [
    (["--strategies", "lineer"], "lineer", "linear_decay"),
    (["--strategies", "baseline", "--strategies", "baseline"], "baseline, baseline", "once"),
    (["--scheduler", "pbt"], "pbt", "asha"),
    (["--num-samples", "0"], "--num-samples", "greater than or equal to 1"),
    (["--num-samples", "many"], "--num-samples", "integer"),
    (["--num-samples", "9" * 30], "--num-samples", "less than or equal to 2147483648"),
    (["--seed", str(2**70)], "--seed", "less than or equal to 2147483648"),
    (["--epochs", "-1"], "--epochs", "greater than 0"),
    (["--epochs", "nan"], "--epochs", "finite"),
    (["--epochs", "1e300"], "--epochs", "less than or equal to 1000000"),
    (["--cpus-per-trial", "1e300"], "--cpus-per-trial", "less than or equal to 10000"),
    (["--learning-rate", "inf"], "--learning-rate", "finite"),
    (["--learning-rate", "30"], "--learning-rate 30", "within 1e-12 to 100"),
    (["--learning-rate-factor", "1e308"], "--learning-rate-factor 1e+308", "within 1e-12 to 100"),
    (["--dropout", "1"], "--dropout", "less than 1"),
    (["--scaling", "r"], "--scaling", "constant"),
    (["--batch-size", "300"], "--batch-size 300", "--train-examples 200"),
    (["--budget", "100", "--budget-rank", "2"], "--budget-rank", "one"),
    (["--budget", "100"], "--budget 100", "at least 256"),
    (["--official", "--budget", "9999"], "--budget 9999", "--official trains five given experiments"),
    (["--official", "--strategies", "eva"], "--strategies eva", "drop one"),
    (["--strategies", "eva", "--strategies", "adalora"], "--strategies eva, adalora", "add --strategies baseline"),
    (["--official", "--num-samples", "4"], "--num-samples 4", "drop one"),
    (["--budget-rank", "4000"], "--budget-rank 4000", "at most 128"),
    (["--name", "../x"], "../x", "folder name"),
    (["--name", ""], "--name", "must not be empty"),
    (["--name", "n" * 300], "--name", "at most 100"),
    (["--name", "a\x1b[31m"], "--name", "printable"),
    (["--name", "a\n"], "--name", "printable"),
    (["--name", "taken"], "--name taken", "another name"),
    (["--name", "a_file"], "--name a_file", "another name"),
    (["--prompt-column", "q"], "--completion-column", "both"),
    (["--text-column", "x"], "--text-column x", "leave it out"),
    (["--max-length", "9999"], "--max-length 9999", "256"),
    (["--no-such-flag"], "--no-such-flag", "option"),
    (["stray"], "stray", "argument"),
    (["--model", ""], "--model", "must not be empty"),
    (["--model", "./missing"], "./missing", "Hugging Face model"),
    (["--model", "{folder}"], "{folder}", "config.json"),
    (["--model", "{folder}/lines.txt"], "lines.txt: not a directory", "Hugging Face model"),
    (["--model", "m" * 300], "mmm", "Hugging Face model"),
    (["--model", "org/absent"], "org/absent", "a hub id"),
    (["--model-revision", "v1"], "--model-revision v1", "leave it out"),
    (["--dataset-revision", "v1"], "--dataset-revision v1", "leave it out"),
    (["--mlflow-uri", "ftp://there"], "--mlflow-uri ftp://there", "http://HOST:5000"),
    (["--mlflow-uri", "mlruns"], "--mlflow-uri mlruns", "http://HOST:5000"),
    (["--mlflow-uri", "http://me:geheim@there"], "--mlflow-uri 'http://***@there'", "MLFLOW_TRACKING_PASSWORD"),
    (["--mlflow-uri", "postgresql://me:ge/he@im@there/db"], "'postgresql://***@there/db'", "PGPASSWORD"),
    (["--mlflow-uri", "postgresql://there/db?user=me&password=geheim"], "password=***", "PGPASSWORD"),
    (["--dataset", "https://me:geheim@there/x.jsonl"], "https://***@there", "HF_TOKEN"),
    (["--scheduler", "ray://me:geheim@there"], "ray://***@there", "RAY_AUTH_TOKEN"),
    (["--corpus-sha256", "0" * 64], "--corpus-sha256 0000", "the texts of pydoc have"),
    (["--config", "{folder}/missing.yaml"], "missing.yaml", "YAML"),
    (["--config", "{folder}"], "--config {folder}: not a file", "YAML"),
    (["--config", "/dev/zero"], "--config /dev/zero: not a file", "YAML"),
    (["--config", "a\0b"], "--config a\\x00b", "null"),
    (["--config", "{folder}/50mb.yaml"], "50,000,000 bytes", "at most 1,000,000"),
]


@pytest.mark.parametrize(("arguments", "culprit", "right"), FLAGS)
def test_a_wrong_flag_is_one_line_that_names_it_and_what_would_be_right(arguments, culprit, right, wrong, given):
    line = wrong(*arguments)
    assert culprit.format(folder=given) in line
    assert right in line
    assert "geheim" not in line
    assert "he@im" not in line


def test_a_password_in_mlflows_own_variable_is_refused_as_in_the_flag(wrong, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:geheim@there")
    line = wrong()
    assert "MLFLOW_TRACKING_URI: a password" in line
    assert "MLFLOW_TRACKING_PASSWORD" in line
    assert "geheim" not in line


PLANS = [
    ("ranck: 8", "ranck", "known: model"),
    ("- 1", "plan.yaml", "mapping"),
    ("", "plan.yaml: nothing in it", "mapping"),
    ("a: [", "plan.yaml", "line 1"),
    ("seed: 1\nseed: 2", "'seed'", "give it once"),
    ("seed: 1\n\tepochs: 2", "'\\t'", "line 2"),
    ("seed: 1\n---\nseed: 2", "plan.yaml", "single document"),
    ("? [seed]\n: 1", "key", "must be a name"),
    ("1: 2", "plan.yaml", "mapping from names"),
    ("seed: yes", "--seed True", "number"),
    ("epochs: no", "--epochs False", "number"),
    ("seed: 1.5", "--seed 1.5", "integer"),
    ("seed: 1" + "0" * 5000, "plan.yaml", "limit"),
    ("model: [a, b]", "--model ['a', 'b']", "string"),
    ("model: 5", "--model 5", "string"),
    ("model: null", "--model None", "string"),
    ("dataset: {a: 1}", "--dataset {'a': 1}", "string"),
    ("strategies: 3", "--strategies 3", "list"),
    ("strategies: [[a]]", "--strategies", "string"),
    ("strategies: []", "--strategies", "name each strategy once"),
    ('model: "a\\x07b"', "'\\x07'", "printable"),
    ('model: "a\\0b"', "'\\x00'", "printable"),
    ('model: "\\ud800"', "'\\ud800'", "printable"),
    ("name: 2026-01-01", "--name datetime.date(2026, 1, 1)", "string"),
    ("name: 2026-99-99", "plan.yaml", "month"),
    ("official: maybe", "--official 'maybe'", "boolean"),
    ("model: !!python/object/apply:os.system ['touch owned']", "python/object/apply", "constructor"),
    ("model: &a [*a]", "aliases", "write the value out"),
    ("mlflow_uri: http://me:geheim@there", "http://***@there", "MLFLOW_TRACKING_PASSWORD"),
    ("model: " + "m" * 5000, "5,000 characters", "at most 4,096"),
    ("model: " + "[" * 600 + "]" * 600, "nested", "mapping"),
    pytest.param("model: " + "[" * 5000 + "]" * 5000, "nested", "mapping", marks=pytest.mark.thorough),
    ("\xff\xfe", "plan.yaml", "YAML"),
]


@pytest.mark.parametrize(("text", "culprit", "right"), PLANS)
def test_a_wrong_plan_file_is_one_line_that_names_it_and_what_would_be_right(text, culprit, right, tmp_path, wrong):
    config = tmp_path / "plan.yaml"
    config.write_bytes(text.encode("latin-1"))
    line = wrong("--config", config)
    assert culprit in line
    assert right in line
    assert "geheim" not in line
    assert len(line) < 1000


@pytest.mark.parametrize("key", ["model", "unknown"])
def test_a_bomb_of_aliases_is_refused_before_it_goes_off(key, tmp_path, wrong):
    config = tmp_path / "plan.yaml"
    levels = ["x0: &x0 [l, l, l, l, l, l, l, l, l]"]
    levels += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 12)]
    config.write_text("\n".join([*levels, f"{key}: *x11"]))
    began = time.monotonic()
    assert "aliases" in wrong("--config", config)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nothing", "/dev/full", "long"])
def test_a_runs_folder_that_cannot_be_written_to_is_refused(place, tmp_path, refused):
    (tmp_path / "file").write_text("mine")
    folder = {"long": tmp_path / ("x" * 300)}.get(place, tmp_path / place)
    line = refused("--runs-dir", folder)
    assert f"--runs-dir {folder}" in line
    assert "give" in line or "needs" in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_runs_folder_without_permission_is_refused(tmp_path, refused):
    tmp_path.chmod(0o500)
    assert "Permission denied" in refused("--runs-dir", tmp_path / "runs")


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["--name", "m\udcfcde"], "\\udcfc"),  # a byte that is no UTF-8, as Python passes it
        pytest.param(["--config", "{folder}/binary.txt"], "binary.txt", marks=pytest.mark.thorough),
        pytest.param(["--dataset", "{folder}/late.jsonl"], "line 40,000", marks=pytest.mark.thorough),
        pytest.param(["--model", "{folder}/none"], "{folder}/none", marks=pytest.mark.thorough),
    ],
)
def test_a_real_process_says_one_line_too(arguments, culprit, given, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "tune.py", *(argument.format(folder=given) for argument in arguments)],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert (done.returncode, "Report" in done.stdout) == (2, False)
    assert len(done.stderr.splitlines()) == 1
    assert culprit.format(folder=given) in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_locale_that_reads_no_umlauts_is_named(monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(ValueError, match=r"this locale reads names as ascii: LC_ALL=C.UTF-8"):
        SearchPlan(model="/tmp/\udcc3\udc9c")
