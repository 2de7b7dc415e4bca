"""Of every kind of model, what a search of the default strategies does before and in its first step goes well."""

import math
from dataclasses import replace

import pytest

from strategies import SEARCHED, STRATEGIES, RankBudget
from strategies.eva import Eva
from tests.zoo import KINDS, MORE, built
from trainables.data.splits import DataSource
from trainables.engine.pack import Pack
from trainables.engine.soundness import sound_coverage_of
from trainables.evidence.measurements import measure
from trainables.models.base_model import load
from trainables.spec import TrialSpec, Workload

REFUSED = {"xlnet"}
NAMES = (*SEARCHED, Eva.name)


def looked_at(model, text):
    """Return a workload whose sites were tried, as a search's first call of a host does."""
    data = DataSource(str(text), train_examples=8, validation_examples=4, test_examples=4, max_length=32)
    budget = RankBudget.like_uniform(1, load(model).sites)
    workload = Workload(model, data, budget, epochs=1, batch_size=4, reports=1, scale=2.0, pack_size=len(NAMES))
    coverage = sound_coverage_of(workload)
    return replace(workload, coverage=coverage, budget=RankBudget.like_uniform(1, coverage.sites))


def measured(workload):
    """Return the same with what its strategies score from."""
    for name in dict.fromkeys(cls.measurement for cls in map(STRATEGIES.get, NAMES) if cls.measurement):
        evidence = measure(workload, name)
        workload = replace(
            workload,
            evidence={**workload.evidence, **evidence.evidence},
            tensors={**workload.tensors, name: evidence.tensors},
        )
    return workload


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [kind for kind in (*KINDS, *MORE) if kind not in REFUSED])
def test_evidence_is_measured_and_every_strategy_takes_a_step(kind, tiny_tokenizer, tiny_text, tmp_path):
    built(kind).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    workload = measured(looked_at(str(tmp_path), tiny_text))
    names = {site.name for site in workload.coverage.sites}
    for values in workload.evidence.values():
        assert values.keys() == names
        assert all(value >= 0 and math.isfinite(value) for value in values.values())
    pack = Pack.of(workload, workload.micro_batch)
    specs = [TrialSpec(name, STRATEGIES[name](**STRATEGIES[name].known_good), 0.01) for name in NAMES]
    slots = [pack.admit(workload, spec) for spec in specs]
    pack.step(slots)
    losses = pack.evaluate(slots, "validation")
    assert all(rows is not None and all(map(math.isfinite, rows)) for rows in losses)
