"""What is trained again after a search, and that a real search does it."""

import dataclasses
import json
import re
from collections import Counter

import pytest

from analysis.results.rows import ResultRow, read_rows
from analysis.stats import assessment
from strategies import CONTROLS, SEARCHED
from strategies.allocation import RankBudget
from strategies.base import Site
from trainables.spec import TrialSpec
from tuning.cli import main
from tuning.plan.search_plan import SearchPlan
from tuning.tracking.mlflow_client import PARENT
from tuning.trials.confirmation import confirmations, controls, regrouped, sizes


def trial(strategy, loss, number=0, **params):
    config = {"strategy": strategy, strategy: {**params, "learning_rate": 0.01 + number / 1000}, "seed": 7,
              "scaling": "constant"}  # fmt: skip
    return ResultRow(
        f"{strategy}{number}", f"{strategy}{number}", strategy, "finished", config=config, final_eval_loss=loss
    )


ROWS = [
    trial("baseline", 4.0), trial("baseline", 4.1, 1), trial("linear_decay", 3.9, slope=0.5),
    trial("linear_decay", 3.8, 1, slope=-0.5), trial("attention_heavy", 3.95, log_ratio=1.0),
]  # fmt: skip
PLAN = SearchPlan(seed=7, confirm_seeds=2)


def test_the_best_of_every_strategy_is_confirmed_from_the_same_fresh_seeds():
    configs = confirmations(PLAN, ROWS)
    names = ["baseline", "linear_decay", "attention_heavy"]
    assert [(config.strategy, config.seed) for config in configs] == [(n, s) for s in (8, 9) for n in names]
    assert {config.phase for config in configs} == {"confirm"}
    assert (configs[1].params, configs[1].learning_rate) == ({"slope": -0.5}, 0.011)


def confirmed(**losses):
    """Confirmation runs of given (evaluation loss, test loss) by strategy; seeds differ by a trifle."""
    rows = []
    for number, config in enumerate(confirmations(PLAN, ROWS)):
        (loss, test_loss), strategy = losses[config.strategy], config.strategy
        rows.append(
            ResultRow(f"{number}", f"{number}", strategy, "finished", phase="confirm", seed=config.seed,
                      config=config.to_ray(), final_eval_loss=loss, test_loss=test_loss + 1e-6 * number)
        )  # fmt: skip
    return rows


def test_controls_are_the_best_confirmed_allocation_at_the_wrong_matrices():
    none_wins = confirmed(baseline=(3.0, 4.0), linear_decay=(4.0, 5.0), attention_heavy=(3.9, 6.0))
    configs = controls(PLAN, [*ROWS, *none_wins])
    assert [(c.strategy, c.seed, c.phase) for c in configs] == [
        (name, seed, "confirm") for seed in (8, 9) for name in CONTROLS
    ]
    shuffled = configs[0]
    assert (shuffled.control_of, shuffled.params) == ("attention_heavy", {"log_ratio": 1.0})
    assert shuffled.learning_rate == 0.01
    assert "attention_heavy" not in shuffled.to_ray()
    spec = TrialSpec.from_config(shuffled)
    assert (spec.label, spec.learning_rate, spec.allocator.of.log_ratio) == ("shuffled", 0.01, 1.0)
    assert spec.allocator.seed == spec.seed == 8
    assert controls(PLAN, ROWS) == []


def test_every_allocation_that_wins_has_controls_of_its_own():
    one_wins = confirmed(baseline=(3.0, 6.0), linear_decay=(4.0, 5.0), attention_heavy=(3.9, 7.0))
    configs = controls(PLAN, [*ROWS, *one_wins])
    assert [(c.strategy, c.control_of) for c in configs if c.seed == 8] == [
        (name, of) for of in ("attention_heavy", "linear_decay") for name in CONTROLS
    ]
    assert len({c.trial_id for c in configs}) == len(configs) == 8


def test_ranks_found_while_training_are_controlled_as_plain_lora_with_them_and_with_their_shuffle():
    best = dataclasses.replace(trial("adalora", 3.0, 2, initial=1.5), ranks={"a": 3, "b": 0, "c": 1})
    rows = [*ROWS, best, trial("adalora", 3.5, 1, initial=2.0)]
    confirmed = [
        dataclasses.replace(best, trial_id=f"c{seed}", phase="confirm", seed=seed, test_loss=3.0) for seed in (8, 9)
    ]
    configs = controls(PLAN, [*rows, *confirmed])
    assert [(c.strategy, c.seed, c.phase) for c in configs] == [
        (name, seed, "confirm") for seed in (8, 9) for name in ("frozen", "shuffled")
    ]
    assert configs[0].trial_id == "frozen_adalora2_baseline0_seed8", "another of either is another control"
    plain = ({"ranks": "3 0 1"}, 0.01)  # the baseline's rate: what trains is plain LoRA
    assert [(c.control_of, (c.params, c.learning_rate)) for c in configs[:2]] == [("adalora", plain), ("frozen", plain)]
    sites = tuple(Site(name, 8, 8, 0, "mlp") for name in "abc")
    frozen, shuffled = (TrialSpec.from_config(config) for config in configs[:2])
    assert frozen.allocation(sites, RankBudget(64), {}).ranks == {"a": 3, "b": 0, "c": 1}
    assert sorted(shuffled.allocation(sites, RankBudget(64), {}).ranks.values()) == [0, 1, 3]
    assert (frozen.label, shuffled.label, frozen.training) == ("frozen", "shuffled", "")


def test_of_budgets_that_were_searched_the_smallest_that_is_about_as_good_is_confirmed_at_its_own_size():
    def sized(strategy, number, loss, share, params):
        return dataclasses.replace(trial(strategy, loss, number, budget_share=share), trainable_parameters=params)

    rows = [
        sized("baseline", 0, 4.0, 1.0, 1000), sized("baseline", 1, 4.02, 0.5, 500),
        sized("linear_decay", 0, 3.9, 1.0, 990), sized("linear_decay", 1, 3.905, 0.6, 600),
        sized("linear_decay", 2, 3.908, 0.3, 300), sized("linear_decay", 3, 3.95, 0.2, 200),
        sized("attention_heavy", 0, 3.95, 0.98, 980),
    ]  # fmt: skip
    plan = SearchPlan(objective="loss,params", seed=7, confirm_seeds=2)
    configs = confirmations(plan, rows)
    sizes = [(c.trial_id, c.budget_share) for c in configs if c.seed == 8]
    assert sizes == [
        ("baseline_baseline0_seed8", 1.0), ("linear_decay_linear_decay0_seed8", 1.0),
        ("attention_heavy_attention_heavy0_seed8", 1.0), ("linear_decay_linear_decay2-small_seed8", 0.3),
    ]  # fmt: skip
    assert plan.most_confirmations == 2 * (2 + 2 * (len(SEARCHED) - 1) * (1 + len(CONTROLS)) + 2)


def test_a_smaller_one_that_wins_has_controls_of_its_own_size():
    plan = SearchPlan(objective="loss,params", seed=7, confirm_seeds=2)
    rows = [
        trial("baseline", 4.0, budget_share=1.0), dataclasses.replace(trial("baseline", 4.0, 1, budget_share=0.5)),
        trial("linear_decay", 3.9, budget_share=1.0), trial("linear_decay", 3.905, 1, budget_share=0.4),
    ]  # fmt: skip
    rows = [dataclasses.replace(row, trainable_parameters=round(1000 * row.budget_share))
            for row in rows]  # fmt: skip
    losses = {("baseline", 1.0): 4.0, ("baseline", 0.5): 3.9, ("linear_decay", 1.0): 4.0, ("linear_decay", 0.4): 3.9}
    again = [
        ResultRow(str(number), str(number), config.strategy, "finished", phase="confirm", seed=config.seed,
                  config=config.to_ray(), final_eval_loss=4.0,
                  test_loss=losses[config.strategy, config.budget_share] + 1e-6 * number)
        for number, config in enumerate(confirmations(plan, rows))
    ]  # fmt: skip
    configs = [config for config in controls(plan, [*rows, *again]) if config.seed == 8]
    assert [(c.strategy, c.control_of, c.budget_share) for c in configs] == [
        (name, "linear_decay", share) for share in (1.0, 0.4) for name in CONTROLS
    ]
    assert len({c.trial_id for c in configs}) == 4
    assert TrialSpec.from_config(configs[-1]).budget_share == 0.4


@pytest.mark.parametrize(
    ("plan", "rows"),
    [
        (SearchPlan(confirm_seeds=0), ROWS),
        (PLAN, [row for row in ROWS if row.strategy == "baseline"]),
        (PLAN, [row for row in ROWS if row.strategy != "baseline"]),
        (SearchPlan(official=True), ROWS),
    ],
)
def test_nothing_is_confirmed_where_nothing_can_be_compared(plan, rows):
    assert confirmations(plan, rows) == []


def test_a_plan_knows_how_many_runs_a_confirmation_may_take():
    assert PLAN.most_confirmations == 2 * (1 + (len(SEARCHED) - 1) * (1 + len(CONTROLS)) + 2)
    assert SearchPlan(seed=7, confirm_seeds=2, sizes=False).most_confirmations == PLAN.most_confirmations - 4
    assert SearchPlan(strategies=("baseline",)).most_confirmations == 0


def test_plain_lora_is_trained_at_half_and_double_the_budget_at_its_best_rate_from_the_same_seeds():
    configs = sizes(PLAN, ROWS)
    assert [(config.seed, config.budget_share) for config in configs] == [(8, 0.5), (8, 2.0), (9, 0.5), (9, 2.0)]
    assert {(c.strategy, c.learning_rate, c.phase) for c in configs} == {("baseline", 0.01, "sizes")}
    assert configs[1].name == configs[1].trial_id == "baseline_baseline0-double_seed8"
    sites = tuple(Site(name, 8, 8, 0, "mlp") for name in "abc")
    allocation = TrialSpec.from_config(configs[1]).allocation(sites, RankBudget.like_uniform(2, sites), {})
    assert allocation.ranks == {"a": 4, "b": 4, "c": 4}


def test_a_thorough_search_trains_plain_lora_at_a_quarter_to_four_times_the_budget():
    best = dataclasses.replace(ROWS[0], ranks={"a": 4, "b": 4})
    plan = SearchPlan(seed=7, confirm_seeds=2, thorough=True)
    shares = [config.budget_share for config in sizes(plan, [best, *ROWS[1:]]) if config.seed == 8]
    assert shares == [0.25, 0.5, 2.0, 4.0]
    assert plan.likely_confirmations == 2 * (len(SEARCHED) + 3) + 2 * 4
    assert {config.budget_share for config in sizes(plan, [dataclasses.replace(best, ranks={"a": 3}), *ROWS[1:]])} == {
        0.5, 2.0, 4.0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("choices", "strategies", "trials"),
    [
        (
            {"strategies": ("baseline", "eva"), "num_samples": 20},
            ("baseline", "eva", "plain", "random", "layer_lr"),
            50,
        ),
        ({"strategies": ("random", "baseline"), "num_samples": 5}, ("random", "baseline", "plain", "layer_lr"), 10),
        ({}, (*SEARCHED, "plain", "random", "layer_lr"), 32),
        ({"strategies": "baseline,eva", "num_samples": "20"}, ("baseline", "eva", "plain", "random", "layer_lr"), 50),
        (
            {"strategies": ("baseline,linear_decay,attention_heavy,composite",), "num_samples": 40},
            ("baseline", "linear_decay", "attention_heavy", "composite", "plain", "random", "layer_lr"),
            70,
        ),
        (
            {"strategies": ["baseline,eva,plain"], "num_samples": 3},
            ("baseline", "eva", "plain", "random", "layer_lr"),
            5,
        ),
    ],
)
def test_a_thorough_search_has_all_rivals_and_takes_no_trial_from_the_others(choices, strategies, trials):
    plan = SearchPlan(**choices, thorough=True)
    assert (plan.strategies, plan.num_samples) == (strategies, trials)
    assert SearchPlan(**plan.model_dump()) == plan, "a saved plan is read as it was"


@pytest.mark.parametrize("yes", [1, "true", "yes"])
def test_a_search_is_thorough_whatever_way_a_file_says_so(yes):
    assert SearchPlan(strategies="baseline", thorough=yes).strategies == ("baseline", "plain", "random", "layer_lr")


def test_the_five_experiments_have_no_rivals():
    with pytest.raises(ValueError, match="--thorough True: --official"):
        SearchPlan(official=True, thorough=True, confirm_seeds=0)


def test_half_of_rank_1_is_no_plain_lora_and_without_a_verdict_or_the_choice_there_are_no_sizes():
    best = dataclasses.replace(ROWS[0], ranks={"a": 1, "b": 1})
    assert {config.budget_share for config in sizes(PLAN, [best, *ROWS[1:]])} == {2.0}
    assert sizes(SearchPlan(seed=7, confirm_seeds=2, sizes=False), ROWS) == []
    assert sizes(PLAN, ROWS[:2]) == []


@pytest.mark.parametrize(
    ("choices", "seeds"),
    [
        ({"confirm_seeds": 3}, 3),
        # (8 / 2 + 10 * (2 + 2)) * .3 / 2 = 6.6 seeds of half and double
        ({"confirm_seeds": 10, "num_samples": 8, "strategies": ("baseline", "eva")}, 6),
        ({"confirm_seeds": 10, "num_samples": 8, "strategies": ("baseline", "eva"), "scheduler": "fifo"}, 7),
        ({"confirm_seeds": 2, "num_samples": 2, "strategies": ("baseline", "eva")}, 0),
        ({"confirm_seeds": 10, "num_samples": 8, "strategies": ("baseline", "eva"), "thorough": True}, 10),
        ({"strategies": ("baseline",)}, 0),
        ({"official": True}, 0),
    ],
)
def test_other_sizes_make_a_search_at_most_a_third_longer(choices, seeds):
    assert SearchPlan(**choices).size_seeds == seeds


def test_sizes_of_what_a_longer_search_no_longer_finds_best_are_superseded():
    before = [
        ResultRow(c.trial_id, c.name, c.strategy, "finished", phase=c.phase, seed=c.seed, config=c.to_ray())
        for c in sizes(PLAN, ROWS)
    ]
    after = [*ROWS, trial("baseline", 3.9, 2)]
    assert [row.phase for row in regrouped(before, sizes(PLAN, after))] == ["superseded"] * 4
    again = regrouped([dataclasses.replace(row, phase="superseded") for row in before], sizes(PLAN, ROWS))
    assert [row.phase for row in again] == ["sizes"] * 4


@pytest.mark.search
def test_a_search_trains_plain_lora_of_other_sizes_beside_the_confirmation_runs(simulated, small, four, tmp_path):
    flags = [*small, *four, "--num-samples", "4", "--confirm-seeds", "2", "--runs-dir", str(tmp_path)]
    assert main([*flags, "--name", "sized"]) == 0
    rows = read_rows(tmp_path / "sized" / "rows.jsonl")
    sized = [row for row in rows if row.phase == "sizes"]
    plain = next(row for row in rows if row.phase == "confirm" and row.strategy == "baseline")
    assert Counter((row.seed, row.trainable_parameters / plain.trainable_parameters) for row in sized) == Counter(
        [(seed, size) for seed in (1, 2) for size in (0.5, 2)]
    )
    assert {row.status for row in sized} == {"finished"}
    assert all(row.test_documents and row.test_loss for row in sized)
    assert main([*flags, "--name", "unsized", "--no-sizes"]) == 0
    without = read_rows(tmp_path / "unsized" / "rows.jsonl")
    assert [row.trial_id for row in without] == [row.trial_id for row in rows if row.phase != "sizes"]
    (stored, _) = simulated.values()
    assert {stored[row.trial_id].parent for row in sized} == {"confirm"}


@pytest.mark.search
def test_a_search_is_judged_once_for_its_controls_and_once_at_its_end(
    simulated, small, four, tmp_path, monkeypatch, capsys
):
    verdicts, judged = assessment.verdicts, []
    monkeypatch.setattr(assessment, "verdicts", lambda *given: judged.append(verdicts(*given)) or judged[-1])
    flags = [*small, *four, "--num-samples", "4", "--confirm-seeds", "2", "--runs-dir", str(tmp_path)]
    assert main([*flags, "--name", "judged"]) == 0
    _, last = judged
    assert len(last) > 1
    (stored,) = simulated.values()
    out, card = capsys.readouterr().out, (tmp_path / "judged" / "best_adapter" / "README.md").read_text()
    verdict = json.loads((tmp_path / "judged" / "verdict.json").read_text())
    assert stored[PARENT].tags["verdict"] == verdict["verdict"]
    assert stored[PARENT].tags["answer"] == " ".join(verdict["sentences"])
    reads = {item["strategy"]: item["reads"] for item in verdict["strategies"]}
    for item in last:
        assert stored[PARENT].tags[f"verdict {item.strategy}"] == item.answer
        assert f"  {item.strategy}: {reads[item.strategy]}. " in out
        assert f"- **{item.strategy}: {reads[item.strategy]}.** " in card


@pytest.mark.search
def test_a_thorough_search_tries_what_wins_against_all_rivals(simulated, small, tmp_path):
    flags = [*small, "--strategies", "baseline", "--strategies", "linear_decay", "--num-samples", "4", "--thorough"]
    assert main([*flags, "--confirm-seeds", "2", "--runs-dir", str(tmp_path), "--name", "thorough"]) == 0
    rows = read_rows(tmp_path / "thorough" / "rows.jsonl")
    names = ("baseline", "linear_decay", "plain", "random", "layer_lr")
    assert Counter(row.strategy for row in rows if row.phase == "search") == dict.fromkeys(names, 2)
    assert {row.budget_share for row in rows if row.phase == "sizes"} == {0.5, 2.0, 4.0}
    verdict = json.loads((tmp_path / "thorough" / "verdict.json").read_text())
    assert len(verdict["strategies"]) == 4
    wins = [item for item in verdict["strategies"] if item["answer"] == "win"]
    assert wins
    assert {item["reads"] for item in wins} == {"win"}
    assert {*wins[0]["beats"], *wins[0]["does_not_beat"]} >= {"random", "layer_lr"} - {wins[0]["strategy"]}
    facts = json.loads((tmp_path / "thorough" / "facts.json").read_text())
    assert set(facts["containing_plain"]) >= {"layer_lr", "plain"}


@pytest.mark.process
def test_a_search_confirms_in_full_and_says_its_verdict(finished):
    done, folder, *_ = finished
    rows = read_rows(folder / "rows.jsonl")
    searched, confirmed, sizes = (
        [row for row in rows if row.phase == phase] for phase in ("search", "confirm", "sizes")
    )
    assert len(rows) == len(searched) + len(confirmed) + len(sizes)
    assert Counter(row.strategy for row in sizes) == {"baseline": 4}, "half and double, from two seeds"
    names = {row.strategy for row in searched}
    assert names == {"baseline", "linear_decay", "attention_heavy", "empirical", "eva", "adalora"}
    by_strategy = {}
    for row in confirmed:
        by_strategy.setdefault(row.strategy, []).append(row)
    assert Counter(row.strategy for row in confirmed if row.strategy in names) == dict.fromkeys(names, 2)
    checked = {row.config[row.strategy]["of"] for row in confirmed if row.strategy not in names}
    assert checked
    for of in checked - {"frozen"}:
        checks = [row for row in confirmed if row.strategy not in names and row.config[row.strategy]["of"] == of]
        controls = ("frozen",) if of == "adalora" else ("shuffled", "inverted")
        assert Counter(row.strategy for row in checks) == dict.fromkeys(controls, 2)
    assert {(row.seed, row.status) for row in confirmed} == {(1, "finished"), (2, "finished")}
    for row in confirmed:
        total, tokens = map(sum, zip(*row.test_documents, strict=True))
        assert row.test_loss == pytest.approx(total / tokens)
    assert {row.test_documents for row in searched} == {None}
    assert len({row.trial_id for row in rows}) == len(rows)
    for name in names:
        best = min((row for row in searched if row.strategy == name and row.status == "finished"),
                   key=lambda row: row.final_eval_loss)  # fmt: skip
        for again in by_strategy[name]:
            assert again.config[name] == best.config[name]
            assert again.ranks == best.ranks or name == "adalora"
    report = (folder / "report.md").read_text()
    assert "## Verdict" in report
    assert re.search(r"\| baseline +\| reference", report)
    assert "other seeds and other test texts: the 20 documents of the split" in report
    assert "Verdict on each strategy against plain LoRA" in done.stdout
    page = (folder / "report.html").read_text()
    assert page.count('class="figure"') == report.count("](figures/") >= 5
    for section in ("## Shrinking the Winner", "## Trials and Cost", "## How to Reproduce"):
        assert section in report
    used = next(row for row in rows if f"`{row.experiment_name}` is the run to use" in report)
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["looks"] == 1
    assert facts["shrink"][0] == {
        "fraction": 1.0, "params": used.trainable_parameters, "test_loss": pytest.approx(used.test_loss, abs=1e-5),
    }  # fmt: skip
    card = (folder / "best_adapter" / "README.md").read_text()
    assert f"{used.test_loss:.4f} nats per token" in card
    assert "linear_decay: " in card
    assert (folder / "best_adapter" / "adapter_model.safetensors").is_file()


def test_nulls_have_no_controls_for_they_are_some():
    rows = [*ROWS, trial("layer_lr", 3.0, slope=0.5), trial("random", 3.1, draw=0.5, spread=0.5)]
    again = [
        ResultRow(str(number), str(number), config.strategy, "finished", phase="confirm", seed=config.seed,
                  config=config.to_ray(), final_eval_loss=4.0 - (config.strategy == "layer_lr"), test_loss=4.0)
        for number, config in enumerate(confirmations(PLAN, rows))
    ]  # fmt: skip
    assert {"layer_lr", "random"} <= {row.strategy for row in again}
    assert {config.control_of for config in controls(PLAN, [*rows, *again])} == {"linear_decay"}
