"""``python -m analysis.audit``: its exit status, what it prints, and what it does not read."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from analysis.audit.__main__ import main
from analysis.audit.adapter import CONFIG, PICKLE, WEIGHTS
from analysis.results.rows import write_rows
from tests.fakes.rows import PLAIN, run

SITE = "model.layers.0.q_proj"
PLANS = {
    "a mapping": {SITE: 2},
    "with PEFT's prefix": {f"base_model.model.{SITE}": 2},
    "a row": {"trial_id": "a", "ranks": {SITE: 2, "x": 0}, "alphas": {SITE: 4.0}, "trainable_parameters": 14},
    "a verdict": {"verdict": "adaptive", "recommended": {"ranks": {SITE: 2}, "parameters": 14}},
}


def write(folder, tensors=None, **config):
    random = np.random.default_rng(0)
    factors = {f"base_model.model.{SITE}.lora_A.weight": random.normal(size=(2, 3)).astype(np.float32),
               f"base_model.model.{SITE}.lora_B.weight": random.normal(size=(4, 2)).astype(np.float32)}  # fmt: skip
    save_file({**factors, **(tensors or {})}, folder / WEIGHTS)
    values = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], **config}
    (folder / CONFIG).write_text(json.dumps(values))
    return folder


@pytest.fixture
def audit(monkeypatch, capsys):
    """A function that runs the command, and returns its status and what it printed."""

    def run_it(*arguments):
        monkeypatch.setattr(sys, "argv", ["audit", *map(str, arguments)])
        status = main()
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, status, captured.out, captured.err)

    return run_it


def test_a_sound_adapter_ends_with_0_and_a_faulty_one_with_1(audit, tmp_path):
    done = audit(write(tmp_path))
    assert done.returncode == 0
    assert "1 sites, rank 2" in done.stdout
    assert done.stdout.endswith("Found: nothing\n")
    done = audit(write(tmp_path, r=4))
    assert done.returncode == 1
    assert "Found: 1\n- PEFT cannot load tensors of another rank" in done.stdout


def test_as_json_it_has_every_site_and_finding_for_programs(audit, tmp_path):
    printed = json.loads(audit(write(tmp_path, r=4), "--json").stdout)
    assert printed["sites"][SITE]["rank"] == 2
    assert (printed["schema_version"], printed["exit_status"], printed["parameters"]) == (1, 1, 14)
    (finding,) = printed["findings"]
    assert (finding["kind"], finding["sites"]) == ("rank-not-of-config", [SITE])


def test_a_number_that_is_none_is_null_in_json(audit, tmp_path):
    nan = {f"base_model.model.{SITE}.lora_B.weight": np.full((4, 2), np.nan, np.float32)}
    done = audit(write(tmp_path, nan), "--json")
    assert json.loads(done.stdout, parse_constant=pytest.fail)["sites"][SITE]["effective_rank"] is None


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_may_have_many_forms(name, audit, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(PLANS[name]))
    assert audit(write(tmp_path), "--plan", plan).returncode == 0
    plan.write_text(plan.read_text().replace(": 2", ": 3"))
    assert "(2 for 3)" in audit(tmp_path, "--plan", plan).stdout


def test_a_run_folder_is_the_plan_of_its_recommended_run(audit, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text("{}")
    rows = [run("empirical", seed, 1.0 + seed / 10, ranks={SITE: 2}, alphas={SITE: 4.0}, trainable_parameters=14)
            for seed in (1, 2, 3)]  # fmt: skip
    write_rows([*PLAIN, *rows], tmp_path / "run" / "rows.jsonl")
    assert audit(write(tmp_path), "--plan", tmp_path / "run").returncode == 0
    done = audit(write(tmp_path, lora_alpha=2), "--plan", tmp_path / "run")
    assert f"Another scale than was meant at 1 of 1 sites: {SITE} (1 for 2)" in done.stdout


def test_padding_to_one_rank_is_no_rank_and_its_scale_lies_in_b(audit, tmp_path):
    a, b = np.zeros((4, 3), np.float32), np.zeros((4, 4), np.float32)
    a[:2], b[:, :2] = np.eye(2, 3), 2 * np.eye(4, 2)
    factors = {f"base_model.model.{SITE}.lora_A.weight": a, f"base_model.model.{SITE}.lora_B.weight": b}
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(PLANS["a row"]))
    assert audit(write(tmp_path, factors, r=4), "--plan", plan).returncode == 0
    b[:, 2] = 1  # of a direction that A does not have
    assert "(2 of 4)" in audit(write(tmp_path, factors, r=4)).stdout


def test_what_was_meant_and_is_not_there_is_named_and_what_is_there_and_was_not_meant(audit, tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"model.layers.1.q_proj": 2}))
    printed = json.loads(audit(write(tmp_path), "--plan", plan, "--json").stdout)
    assert [(f["kind"], f["sites"]) for f in printed["findings"]] == [
        ("site-missing", ["model.layers.1.q_proj"]), ("site-not-meant", [SITE]),
    ]  # fmt: skip


def _without_weights(folder):
    (folder / WEIGHTS).unlink()


def _pickled(folder):
    (folder / WEIGHTS).unlink()
    (folder / PICKLE).write_bytes(pickle.dumps({}))


def _cut_off(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])


def _configured(**values):
    return lambda folder: write(folder, **values)


def _config_of(text):
    return lambda folder: (folder / CONFIG).write_text(text)


UNREADABLE = {
    "no weights": (_without_weights, f"no {WEIGHTS}"),
    "a pickle": (_pickled, "is a pickle"),
    "cut off": (_cut_off, "cut off"),
    "no LoRA": (_configured(peft_type="IA3"), "peft_type must be LORA or ADALORA, got 'IA3'"),
    "a rank that is none": (_configured(r=0), "r cannot be '0'"),
    "ranks that are none": (_configured(rank_pattern={"q": "8"}), "rank_pattern must map names to ranks"),
    "targets that are none": (_configured(target_modules={"q": 1}), "target_modules cannot be"),
    "no JSON": (_config_of("{"), "no JSON"),
    "a list": (_config_of("[]"), "not a mapping"),
    "a number beyond all": (_config_of('{"peft_type": "LORA", "lora_alpha": 1e400}'), "too large"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_ends_with_2_and_one_line(name, audit, tmp_path):
    spoil, reason = UNREADABLE[name]
    spoil(write(tmp_path))
    done = audit(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert reason in done.stderr


@pytest.mark.parametrize("plan", ["[]", "{}", '{"a": -1}', '{"a": 1.5}', "{", '{"ranks": {"a": 1}, "alphas": 3}'])
def test_a_plan_that_is_none_ends_with_2_and_one_line(plan, audit, tmp_path):
    (tmp_path / "plan.json").write_text(plan)
    done = audit(write(tmp_path), "--plan", tmp_path / "plan.json")
    assert done.returncode == 2
    assert "--plan" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_names_from_the_file_cannot_write_lines_or_signs_of_control(audit, tmp_path):
    name = "evil\n- nothing [sound]\x1b[2J.q_proj"
    tensors = {f"base_model.model.{name}.lora_A.weight": np.ones((1, 3), np.float32)}
    done = audit(write(tmp_path, tensors, base_model_name_or_path="a\x1b[0m\nb", target_modules=["q_proj", "\x1b\n"]))
    assert "\x1b" not in done.stdout
    assert "\n- nothing" not in done.stdout


def test_a_convolutions_factors_are_matrices(audit, tmp_path):
    random, factors = np.random.default_rng(0), {"A": (2, 3, 2, 2), "B": (4, 2, 1, 1)}
    tensors = {
        f"base_model.model.{SITE}.lora_{part}.weight": random.normal(size=shape) for part, shape in factors.items()
    }
    printed = json.loads(audit(write(tmp_path, tensors), "--json").stdout)
    assert (printed["findings"], printed["parameters"]) == ([], 32)


@pytest.mark.process
def test_nothing_of_torch_or_peft_is_imported():
    source = "import analysis.audit.__main__, sys; assert not {'torch', 'peft', 'transformers'} & {*sys.modules}"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


@pytest.mark.parametrize("name", ["rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"])
def test_a_pattern_that_would_be_tried_for_ever_is_named_and_not_tried(name, audit, tmp_path):
    pattern = r"([a-z0-9_.]+)+!"
    done = audit(write(tmp_path, **{name: {pattern: 2} if name.endswith("pattern") else pattern}))
    assert done.returncode == 1
    assert f"{pattern!r} may be tried for ever" in done.stdout
