"""EVA and AdaLoRA in real searches, beside the rest."""

import json
from collections import Counter

import pytest

from analysis.results.rows import read_rows
from analysis.results.trial_config import TrialConfig
from strategies import RankBudget
from strategies.base import Site
from trainables import export
from trainables.data.splits import DataSource
from trainables.models.context import Context
from trainables.models.coverage import Coverage
from trainables.models.precision import IN_FLOAT32
from trainables.spec import Workload
from tuning.cli import main
from tuning.preflight import preflight
from tuning.trials import tuner

PEERS = [word for name in ("baseline", "eva", "adalora") for word in ("--strategies", name)]


def key(strategy, learning_rate=0.01, **params):
    sites = tuple(Site(name, 8, 8, 0, "mlp") for name in "ab")
    evidence = {f"explained_variance/{k}": {"a": 1 / k, "b": 1 / k} for k in range(1, 7)}
    workload = Workload("any", DataSource(), RankBudget.like_uniform(2, sites), 1.0, 4, 1, 2.0, evidence=evidence)
    checked = preflight.Preflight(preflight.Shape(Coverage(sites), 0, Context(None), 0), workload, "", {})
    return tuner._key(workload, checked, TrialConfig(strategy, params=params, learning_rate=learning_rate))


def test_a_configuration_is_new_if_it_begins_or_is_pruned_otherwise():
    assert key("eva", rho=1.0) != key("baseline")  # the same ranks
    assert key("eva", rho=1.0) == key("eva", rho=1.0001) != key("eva", rho=1.0, learning_rate=0.02)
    assert key("adalora", initial=1.1) == key("adalora", initial=1.4) != key("adalora", initial=1.6)
    assert len({key("adalora"), key("adalora", orthogonal=0.1), key("adalora", start=0.2), key("baseline")}) == 4


@pytest.mark.process
def test_each_is_searched_confirmed_and_judged_like_any_other(finished):
    names = PEERS[1::2]
    rows = read_rows(finished.folder / "rows.jsonl")
    for phase in ("search", "confirm"):
        counts = Counter(row.strategy for row in rows if row.phase == phase)
        assert {name: counts[name] for name in names} == dict.fromkeys(names, 2)
    for row in rows:
        assert row.status in {"finished", "stopped"}
        assert row.status == "stopped" or row.trainable_parameters <= (2048 if row.phase == "sizes" else 1024)
    cached = list((finished.folder.parent / ".evidence").iterdir())
    assert sorted(path.suffix for path in cached) == [".json", ".json", ".safetensors"]  # coverage is a .json, too
    report = (finished.folder / "report.md").read_text()
    for name in ("eva", "adalora"):
        assert f"- **{name}: " in report
        assert f"{name}: " in finished.done.stdout


@pytest.mark.search
@pytest.mark.thorough
def test_alone_in_its_process_each_trains_as_packed(shared_ray, small, tmp_path):
    rows = {}
    for isolation in ("packed", "process"):
        named = ["--isolation", isolation, "--runs-dir", str(tmp_path), "--name", isolation]
        assert main([*small, *PEERS[2:], "--num-samples", "2", *named]) == 0
        rows[isolation] = sorted(read_rows(tmp_path / isolation / "rows.jsonl"), key=lambda row: row.trial_id)
    for packed, alone in zip(*rows.values(), strict=True):
        assert packed.ranks == alone.ranks
        assert packed.test_loss == pytest.approx(alone.test_loss, abs=1e-5)


@pytest.mark.search
@pytest.mark.thorough
def test_the_best_of_adalora_is_an_ordinary_adapter(shared_ray, small, tmp_path):
    named = ["--runs-dir", str(tmp_path), "--name", "alone"]
    assert main([*small, "--strategies", "adalora", "--num-samples", "1", *named]) == 0
    (row,) = read_rows(tmp_path / "alone" / "rows.jsonl")
    facts = json.loads((tmp_path / "alone" / "facts.json").read_text())
    # measured again from the saved folder, by plain LoRA of the reported ranks and alphas
    assert facts["shrink"][0]["params"] == row.trainable_parameters
    assert facts["shrink"][0]["test_loss"] == pytest.approx(row.test_loss, abs=1e-5)
    model = json.loads((tmp_path / "alone" / "plan.json").read_text())["model"]
    for form, write in export.FORMS.items():
        write(model, IN_FLOAT32, tmp_path / "alone" / "best_adapter", tmp_path / form)
        assert any((tmp_path / form).iterdir())
    assert "which plain LoRA of this configuration does not do" in (tmp_path / "alone" / "report.md").read_text()
