"""What can be known before anything is trained or written: sizes, splits, first allocations."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from strategies import STRATEGIES, RankAllocation, RankBudget, allocate
from strategies.base import Site
from strategies.official import OFFICIAL
from trainables.data import lengths
from trainables.data.preparation import prepare
from trainables.data.source import DataSource
from trainables.models import files, hub
from trainables.models.coverage import Coverage, Shape
from trainables.models.device import CPU, here
from trainables.models.free_memory import free_bytes
from trainables.models.identity import identity
from trainables.spec import Workload
from tuning.plan.places import check_places
from tuning.plan.search_plan import SearchPlan
from tuning.plan.search_space import SMALLEST_SHARE

log = logging.getLogger(__name__)
RESOLVED = ("train_examples", "validation_examples", "test_examples", "max_length")
FLOAT_BYTES, SHORTEST = 4, 128


@dataclass(frozen=True, slots=True)
class Preflight:
    """A plan that has met its model and data.

    Args:
        shape: Sites and sizes of the base model.
        workload: What all trials share, evidence still missing.
        corpus_sha256: Digest of all texts of the data set.
        allocations: Strategy or experiment name -> its first allocation; None where it is not known beforehand.
        data: What is said of the data; see ``trainables.data.lengths``.
        has_verdict: Whether there are test documents enough for one.
        base_losses: As ``RunInfo.base_losses``, as far as the untouched base has been measured.
        has_weights: Whether the base model has any.
        bracket: As ``RunInfo.bracket``.
        looked_at: Whether its sites are those that were tried, and not all that its modules tell of.
    """

    shape: Shape
    workload: Workload
    corpus_sha256: str
    allocations: dict[str, RankAllocation | None]
    data: Mapping[str, Any] = field(default_factory=dict)
    has_verdict: bool = True
    base_losses: Mapping[str, float] = field(default_factory=dict)
    has_weights: bool = True
    bracket: Sequence[Mapping[str, float | None]] = ()
    looked_at: bool = False

    @property
    def measurements(self) -> tuple[str, ...]:
        """What must be measured before the first trial, each once, as strategies name it."""
        named = [cls.measurement for name, cls in STRATEGIES.items() if name in self.allocations]
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def pinned(self) -> dict[str, Any]:
        """What a saved plan adds to the choices, so that the same model and texts are used when it is repeated."""
        source = self.workload.data
        return {
            **{name: getattr(source, name) for name in RESOLVED},
            **({} if self.has_verdict else {"confirm_seeds": 0}),
            "corpus_sha256": self.corpus_sha256,
            "model_revision": hub.commit_of(self.workload.model),
            "dataset_revision": hub.commit_of(self.workload.data.dataset),
            **{f"{split}_dataset": name for split, name in source.others.items() if hub.commit_of(name)},
        }

    def token_estimate(self, trials: float) -> int:
        """Tokens computed at most by as many trials, evaluations included, if none stops early."""
        source, workload = self.workload.data, self.workload
        trained = workload.steps * workload.batch_size
        evaluated = source.validation_examples * workload.reports + source.test_examples
        return round(trials * (trained + evaluated) * source.max_length)


def check(plan: SearchPlan, needs_weights: bool = True) -> Preflight:
    """Check a plan against its model and data without training or writing anything.

    Args:
        plan: The search.
        needs_weights: Whether a model without any is refused; of one, sizes and memory can be said.

    Raises:
        ValueError: Names what is wrong with the model, the data or the budget.
    """
    from trainables.models.base_model import shape_of

    prepare.cache_clear()  # files may have changed under their names since another search of this process
    check_places(plan)
    model = hub.pinned("model", plan.model, plan.model_revision)
    dataset = hub.pinned("dataset", plan.dataset, plan.dataset_revision)
    shape = shape_of(model)
    shape = replace(shape, coverage=plan.targets.among(shape.coverage))
    has_weights = _check_weights(model, needs_weights)
    if shape.context.tokens is not None and isinstance(plan.max_length, int) and plan.max_length > shape.context.tokens:
        raise ValueError(f"--max-length {plan.max_length}: give at most {shape.context.tokens}, {shape.context.why}")
    workload = plan.workload(_budget(plan, shape))
    source = replace(workload.data, dataset=dataset, **_pinned_others(workload.data))
    longest, note = _longest(plan, shape, source)
    prepared = prepare(source, model, longest)
    workload = replace(workload, model=model, data=prepared.source, coverage=shape.coverage)
    digest = prepared.corpus_sha256
    if plan.corpus_sha256 not in {None, digest}:
        raise ValueError(f"--corpus-sha256 {plan.corpus_sha256}: the texts of {plan.dataset} have {digest}")
    if plan.batch_size > prepared.source.train_examples:
        raise ValueError(
            f"--batch-size {plan.batch_size}: more than the {prepared.source.train_examples} training examples that "
            f"{plan.dataset} has; lower it"
        )
    splits = prepared.splits
    largest = max(max(e.input_ids) for split in (splits.train, splits.validation, splits.test) for e in split)
    if largest >= shape.vocabulary:
        raise ValueError(
            f"--model {plan.model}: its tokenizer makes id {largest}, its embedding has {shape.vocabulary}; "
            f"give the tokenizer that belongs to the model"
        )
    # a process elsewhere may have another working directory, other files, or none
    here = model if model == "bundled" or hub.is_hub_id(model) else files.resolve(model)
    workload = replace(workload, model=here, base=identity(here), splits=splits)
    log.info("base %s of %d parameters, %d sites; texts %s", workload.base, shape.params, len(shape.sites), digest)
    log.info("%s, %d steps a trial", workload.budget, workload.steps)
    data = lengths.data_facts(prepared)
    if note and prepared.source.max_length == longest:
        data = {**data, "words": [*data["words"], note]}
    for line in data["words"]:
        log.info("%s", line)
    enough = lengths.enough_to_test(prepared)
    return Preflight(
        shape, workload, digest, _allocations(plan, shape, workload), data, enough, has_weights=has_weights
    )


def _check_weights(model: str, needed: bool) -> bool:
    """Check a model's weights as far as they are here, and return whether it has any."""
    from trainables.models.base_model import check_fit, is_saved_quantized

    try:
        if files.check_weights(model) and not is_saved_quantized(model):
            check_fit(model)
    except files.NoWeights:
        if needed:
            raise
        return False
    return True


def _pinned_others(source: DataSource) -> dict[str, Any]:
    names = {f"{split}_dataset": name for split, name in source.others.items()}
    return {name: hub.pinned("dataset", repo, None, name.replace("_", "-")) for name, repo in names.items()}


def _longest(plan: SearchPlan, shape: Shape, source: DataSource) -> tuple[int, str]:
    """Return the most tokens that an example may have if the data are to decide, and what to say if it has as many.

    That is the model's context; less only where one row does not fit whose blocks compute twice. Of a GPU, or another
    machine, that is not known yet: where nothing fits on it, the search is refused before a weight is loaded.
    """
    if not source.fits_length:
        return source.max_length, ""
    within = shape.context.tokens or source.max_length
    if plan.ray_address is not None or plan.device != CPU or (plan.gpus_per_trial == "auto" and here().name != CPU):
        return within, ""
    left = free_bytes() - FLOAT_BYTES * shape.params
    fitting = max(int(left) // _recomputed_token_bytes(shape), SHORTEST)
    if fitting >= within:
        return within, ""
    return fitting, f"--max-length auto: {fitting:,} tokens, for one longer row does not fit into memory"


def _recomputed_token_bytes(shape: Shape) -> int:
    """Return about how much memory a token takes if blocks compute twice: the inputs of all, and all of the largest."""
    blocks: dict[int, list[Site]] = {}
    for site in shape.sites:
        blocks.setdefault(site.depth, []).append(site)
    inputs = sum(max(site.d_in for site in block) for block in blocks.values())
    largest = max(2 * sum(site.d_in + site.d_out for site in block) for block in blocks.values())
    return FLOAT_BYTES * (inputs + largest)


def token_bytes(shape: Shape) -> int:
    """Return about how much memory a token takes in training: inputs and outputs of all matrices, and its logits."""
    return FLOAT_BYTES * (2 * sum(site.d_in + site.d_out for site in shape.sites) + shape.vocabulary)


def with_coverage(plan: SearchPlan, checked: Preflight, coverage: Coverage) -> Preflight:
    """Return the same with what can be adapted for certain; budget and first allocations follow from that.

    Raises:
        ValueError: The budget does not suit what is left.
    """
    shape = replace(checked.shape, coverage=coverage)
    workload = replace(checked.workload, budget=_budget(plan, shape), coverage=coverage)
    allocations = _allocations(plan, shape, workload)
    return replace(checked, shape=shape, workload=workload, allocations=allocations, looked_at=True)


def _budget(plan: SearchPlan, shape: Shape) -> RankBudget:
    budget = plan.rank_budget(shape.sites)
    if plan.searches_budget:
        _check_smallest(plan, budget, shape)
    return budget


def _allocations(plan: SearchPlan, shape: Shape, workload: Workload) -> dict[str, RankAllocation | None]:
    if plan.official:
        return {item.name: item.allocation(shape.sites) for item in OFFICIAL}
    return {name: _first(name, shape, workload) for name in plan.strategies}


def _check_smallest(plan: SearchPlan, budget: RankBudget, shape: Shape) -> None:
    smallest, cheapest = budget.share(SMALLEST_SHARE).params, min(site.cost for site in shape.sites)
    if smallest < cheapest:
        raise ValueError(
            f"--objective {plan.objective}: trials go down to {smallest} of {budget.params} parameters, and one unit "
            f"of rank costs at least {cheapest}; give a budget of at least {math.ceil(cheapest / SMALLEST_SHARE)}"
        )


def _first(name: str, shape: Shape, workload: Workload) -> RankAllocation | None:
    if STRATEGIES[name].decided():
        return None
    strategy = STRATEGIES[name](**STRATEGIES[name].known_good)
    return allocate(strategy.scores(shape.sites, {}), shape.sites, workload.budget)
