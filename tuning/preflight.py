"""What can be known before anything is trained or written: sizes, splits, first allocations."""

from dataclasses import dataclass

from strategies import STRATEGIES, RankAllocation, allocate
from strategies.official import OFFICIAL
from trainables import base_model, data
from trainables.base_model import Shape
from trainables.spec import Workload
from tuning.plan import SearchPlan


@dataclass(frozen=True, slots=True)
class Preflight:
    """A plan that has met its model and data.

    Args:
        shape: Sites and sizes of the base model.
        workload: What all trials share, evidence still missing.
        corpus_sha256: Digest of all texts of the data set.
        allocations: Strategy or experiment name -> its first allocation; None where it is not known beforehand.
    """

    shape: Shape
    workload: Workload
    corpus_sha256: str
    allocations: dict[str, RankAllocation | None]

    @property
    def needs_evidence(self) -> bool:
        """Whether the sites' importance must be measured before the first trial."""
        return any(STRATEGIES[name].needs_evidence for name in self.allocations.keys() & STRATEGIES)

    @property
    def needs_components(self) -> bool:
        """Whether the principal components of the sites' inputs must be measured before the first trial."""
        return any(STRATEGIES[name].needs_components for name in self.allocations.keys() & STRATEGIES)

    def token_estimate(self, trials: int) -> int:
        """Tokens computed at most, evaluations included, if no trial stops early."""
        source, workload = self.workload.data, self.workload
        trained = workload.steps * workload.batch_size
        evaluated = source.validation_examples * workload.reports + source.test_examples
        return trials * (trained + evaluated) * source.max_length


def check(plan: SearchPlan) -> Preflight:
    """Check a plan against its model and data without training or writing anything.

    Raises:
        ValueError: Names what is wrong with the model, the data or the budget.
    """
    shape = base_model.shape_of(plan.model)
    base_model.check_weights(plan.model)
    if plan.max_length > shape.context:
        raise ValueError(f"--max-length {plan.max_length}: the model's context is {shape.context} tokens")
    workload = plan.workload(plan.rank_budget(shape.sites))
    digest = data.corpus_sha256(data.read_documents(workload.data))
    if plan.corpus_sha256 not in {None, digest}:
        raise ValueError(f"--corpus-sha256 {plan.corpus_sha256}: the texts of {plan.dataset} have {digest}")
    splits = data.load_splits(workload.data, workload.model)
    largest = max(max(e.input_ids) for split in (splits.train, splits.validation, splits.test) for e in split)
    if largest >= shape.vocabulary:
        raise ValueError(
            f"--model {plan.model}: its tokenizer makes id {largest}, its embedding has {shape.vocabulary}; "
            f"give the tokenizer that belongs to the model"
        )
    if plan.official:
        allocations: dict[str, RankAllocation | None] = {item.name: item.allocation(shape.sites) for item in OFFICIAL}
    else:
        allocations = {name: _first(name, shape, workload) for name in plan.strategies}
    return Preflight(shape, workload, digest, allocations)


def _first(name: str, shape: Shape, workload: Workload) -> RankAllocation | None:
    if STRATEGIES[name].decided():
        return None
    strategy = STRATEGIES[name](**STRATEGIES[name].known_good)
    return allocate(strategy.scores(shape.sites, {}), shape.sites, workload.budget)
