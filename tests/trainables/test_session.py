import dataclasses
import json
import math
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from analysis.results.trial_config import TrialConfig
from strategies.baseline import Baseline
from tests.reference import SoloSession
from trainables.data.splits import mean_loss
from trainables.engine.batcher import BatchedExecutor
from trainables.engine.pack import Pack
from trainables.models.base_model import load
from trainables.spec import TrialSpec
from trainables.training.losses import batch_order, learning_rate_factor
from trainables.training.session import Diverged, next_report


@pytest.fixture(params=["solo", "packed"])
def start(request):
    """How a session is made: the same assertions hold for both kinds."""

    def packed(workload, spec):
        return BatchedExecutor(Pack.of(workload, 2)).admit(workload, spec)

    return {"solo": SoloSession, "packed": packed}[request.param]


@pytest.fixture
def session(workload, start, strategy, spec):
    session = start(workload, spec(strategy, learning_rate=0.01))
    yield session
    session.close()


def test_training_lowers_the_loss_and_counts_steps(session):
    first = session.train(0).eval_loss
    report = session.train(100)
    assert session.learner.done
    assert report.step == session.learner.workload.steps == 8
    assert report.eval_loss < first
    assert report.tokens > 0


def test_what_is_reported_as_applied_is_what_was_planned(session, workload):
    learner = session.learner
    planned = learner.spec.allocation(learner.sites, workload.budget, {})
    assert learner.facts["ranks"] == dict(planned.ranks)
    assert learner.facts["trainable_parameters"] == planned.params
    assert set(planned.ranks.values()) != {2}
    session.train(8)
    assert learner.facts["trainable_parameters"] <= workload.budget.params


def test_a_closed_session_leaves_the_base_as_it_was(workload, start, strategy, spec):
    base = load(workload.model).model
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    session = start(workload, spec(strategy, learning_rate=0.1))
    session.train(4)
    session.close()
    after = base.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any("forward" in vars(module) for module in base.modules())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_session_continues_from_its_checkpoint_as_if_unbroken(workload, tmp_path, start, strategy, spec, dropout):
    workload = dataclasses.replace(workload, dropout=dropout)
    unbroken = start(workload, spec(strategy, learning_rate=0.01))
    unbroken.train(4)
    unbroken.save(tmp_path / "saved")
    expected = unbroken.train(4).eval_loss
    unbroken.close()
    torch.manual_seed(1234)
    resumed = start(workload, spec(strategy, learning_rate=0.01))
    resumed.load(tmp_path / "saved")
    assert resumed.learner.step == 4
    assert resumed.train(4).eval_loss == expected
    resumed.close()


def test_a_checkpoint_of_another_allocation_is_refused(workload, session, tmp_path, start):
    session.save(tmp_path / "saved")
    session.close()
    other = start(workload, TrialSpec.from_config(TrialConfig("baseline", learning_rate=0.01)))
    with pytest.raises(ValueError, match="allocation"):
        other.load(tmp_path / "saved")
    other.close()


def test_a_checkpoint_of_another_base_is_refused(workload, session, tmp_path, start, strategy, spec):
    """Its base has the same shapes, and so the trial the same allocation."""
    session.save(tmp_path / "saved")
    session.close()
    model = shutil.copytree(workload.model, tmp_path / "other")
    weights = load_file(model / "model.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in weights.items()}, model / "model.safetensors", {"format": "pt"})
    other = start(dataclasses.replace(workload, model=str(model)), spec(strategy, learning_rate=0.01))
    with pytest.raises(ValueError, match=r"base is .*, this session has"):
        other.load(tmp_path / "saved")
    other.close()


def test_the_same_seed_gives_the_same_losses_and_another_seed_does_not(workload, start, strategy, spec):
    losses = []
    for seed in (0, 0, 1):
        session = start(workload, spec(strategy, learning_rate=0.01, seed=seed))
        losses.append(session.train(8).eval_loss)
        session.close()
    assert losses[0] == losses[1] != losses[2]


def test_a_non_finite_loss_ends_the_session_and_names_step_rate_and_dtype(session):
    with torch.no_grad():
        next(iter(session.learner.parameters)).fill_(math.nan)
    with pytest.raises(Diverged, match=r"step 0 .*learning rate 0\.01.*float32"):
        session.train(1)


def test_a_non_finite_test_loss_is_told_and_decides_nothing_here(session, monkeypatch):
    report = next_report(session)
    monkeypatch.setattr(session, "test_losses", lambda: [math.nan] * len(session.splits.test))
    while not report["done"]:
        report = next_report(session)
    assert (report["status"], math.isfinite(report["eval_loss"])) == ("finished", True)
    assert re.match(r"test loss nan at step \d+ .*learning rate 0\.01", report["error"])


def test_the_evaluation_loss_is_a_mean_over_tokens_not_over_batches(session):
    losses = []
    for size in (1, 3, 8):
        object.__setattr__(session.learner.workload, "batch_size", size)
        losses.append(mean_loss(session.splits.test, session.test_losses()))
    object.__setattr__(session.learner.workload, "batch_size", 4)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_a_finished_trial_reports_the_test_loss_of_each_document(session):
    report = next_report(session)
    assert "test_documents" not in report
    while not report["done"]:
        report = next_report(session)
    documents = json.loads(report["test_documents"])
    test = session.splits.test
    assert len(documents) == len({example.document for example in test}) > 1
    assert sum(tokens for _, tokens in documents) == sum(example.learned_tokens for example in test)
    assert sum(loss for loss, _ in documents) / sum(tokens for _, tokens in documents) == report["test_loss"]


def test_the_schedule_rises_to_one_and_falls_to_nearly_zero():
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1.0
    assert factors[-1] == pytest.approx(1 / 91)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_each_epoch_shows_every_example_once():
    order = batch_order(examples=10, batch_size=4, steps=5, seed=3)
    seen = [index for batch in order for index in batch]
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    assert seen[:10] != seen[10:20]


@pytest.mark.parametrize(("policy", "expected"), [("constant", 2.0), ("alpha/r", 1.0), ("alpha/sqrt(r)", math.sqrt(2))])
def test_scaling_policies_agree_at_the_mean_rank_and_differ_elsewhere(policy, expected, workload, spec):
    sites = load(workload.model).sites
    trial = spec(learning_rate=0.01, scaling=policy)
    allocation = trial.allocation(sites, workload.budget, {})
    alphas = trial.alphas(allocation, sites, workload.scale)
    double = next(name for name, rank in allocation.ranks.items() if rank == 4)
    assert alphas[double] / 4 == pytest.approx(expected, rel=0.02)


def test_a_trial_taken_up_before_its_first_step_trains_to_its_first_report(session):
    assert next_report(session, again=True)["step"] == 4


def test_plain_lora_of_half_and_double_the_budget_trains_beside_the_whole_in_one_pack(workload):
    pack = BatchedExecutor(Pack.of(workload, workload.micro_batch))
    specs = [TrialSpec("baseline", Baseline(), 0.01, budget_share=share) for share in (0.5, 1.0, 2.0)]
    sessions = [pack.admit(workload, spec) for spec in specs]
    reports = [session.train(4) for session in sessions]
    assert all(math.isfinite(report.eval_loss) for report in reports)
    sizes = [session.learner.facts["trainable_parameters"] for session in sessions]
    assert sizes == [workload.budget.params // 2, workload.budget.params, workload.budget.params * 2]
