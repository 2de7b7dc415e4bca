"""EVA's measurement: the principal components of the inputs of every site, on the frozen base before any training."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from strategies import RankBudget, allocate
from strategies.base import Site
from strategies.eva import MOST_RHO
from strategies.measurement import Measured, NotMeasurable
from trainables.adapters.peft_compat import PrincipalComponents
from trainables.data.collate import Batch, Batches
from trainables.data.splits import IGNORED
from trainables.evidence.components import ENOUGH, evidence_of
from trainables.evidence.site_inputs import vectors_of_tokens
from trainables.models.base_model import BaseModel


def measure(base: BaseModel, batches: Iterable[Batch], budget: RankBudget) -> Measured:
    """Decompose the sites' inputs on the training split, in passes of one batch, or of the rows that fit into memory.

    Raises:
        ValueError: The split has too few learned tokens for the rank.
    """
    decomposition = Decomposition(base.sites, budget)
    rows = batches.rows if isinstance(batches, Batches) else None
    with torch.no_grad():
        for batch in batches:
            decomposition.add(base.model, batch, rows)
            if decomposition.converged:
                break
    return decomposition.result()


class Decomposition:
    """Incremental singular value decomposition of every site's input, of learned tokens alone.

    ``MOST_RHO`` times the rank of plain LoRA is kept at each site, since no trial gets more. Sites that are given the
    same tensor one after the other (query, key and value often are) share one decomposition.

    Args:
        sites: The sites.
        budget: What a trial may spend.

    Source:
        EVA (arXiv 2410.07170), section 3; the decomposition is PEFT's, the choice of tokens and the
        criterion of convergence are those of PEFT's ``get_eva_state_dict``, which gives vectors but not their ratios.
    """

    def __init__(self, sites: Sequence[Site], budget: RankBudget) -> None:
        self.sites, self.budget = sites, budget
        most = math.ceil(round(MOST_RHO * budget.params / sum(site.cost for site in sites), 9))
        self.wanted = {site.name: min(max(1, most), site.d_in) for site in sites}
        self._fits: dict[str, PrincipalComponents] = {}
        self._same_as: dict[str, str] = {}
        self._before: dict[str, torch.Tensor] = {}
        self._waiting: dict[str, list[torch.Tensor]] = {}
        self._last: tuple[str, torch.Tensor] | None = None
        self._without_tokens: dict[str, NotMeasurable] = {}

    def add(self, model: Any, batch: Batch, rows: int | None = None) -> None:
        """Run the model on a batch and add its sites' inputs.

        Args:
            model: The frozen base.
            batch: The batch.
            rows: Most rows of one pass; None takes all. Each pass is a step of the decomposition.
        """
        self._before = {name: fit.components.clone() for name, fit in self._fits.items()}
        for part in batch.parts(rows or len(batch.input_ids)):
            self._add(model, part)

    def _add(self, model: Any, batch: Batch) -> None:
        learned = batch.attention_mask.bool() & (batch.labels != IGNORED)

        def hook(name: str) -> Any:
            def record(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
                self._take(name, inputs[0], learned)

            return record

        handles = [model.get_submodule(site.name).register_forward_pre_hook(hook(site.name)) for site in self.sites]
        try:
            model.base_model(**batch.inputs)
        finally:
            self._last = None
            for handle in handles:
                handle.remove()

    def _take(self, name: str, tensor: torch.Tensor, learned: torch.Tensor) -> None:
        if self._last is not None and self._last[1] is tensor:
            self._same_as[name] = self._last[0]
            return
        self._last = None
        try:
            vectors = vectors_of_tokens(tensor, learned).float()
        except NotMeasurable as error:  # some sites are called once more, for what comes before the first token
            self._without_tokens[name] = error
            return
        self._last = (name, tensor)
        self._waiting.setdefault(name, []).append(vectors)
        tokens = torch.cat(self._waiting[name])
        wanted = self.wanted[name]
        if len(tokens) <= wanted:
            return  # a decomposition needs more tokens than components; they come with the next batch
        if name not in self._fits:
            self._fits[name] = PrincipalComponents(wanted, low_rank=4 * wanted < min(tokens.shape))
        self._fits[name].add(tokens)
        self._waiting[name] = []

    @property
    def converged(self) -> bool:
        """Whether the last batch has changed the direction of no component within the budget."""
        if len(self._before) < len(self.sites) - len(self._same_as):
            return False
        ratios = {site.name: tuple(self._fit(site).ratios.tolist()) for site in self.sites}
        ranks = allocate(ratios, self.sites, self.budget).adapted
        leaders = {self._same_as.get(name, name): rank for name, rank in ranks.items()}
        return all(
            torch.cosine_similarity(self._before[name][:rank], self._fits[name].components[:rank]).min() >= ENOUGH
            for name, rank in leaders.items()
        )

    def result(self) -> Measured:
        """Return the components, site -> right-singular vectors of its centred input, the strongest first.

        What each explains of the input's variance is evidence.

        Raises:
            NotMeasurable: No call of a site was given tokens.
            ValueError: There were too few tokens for some site.
        """
        for site in self.sites:
            if site.name in self._without_tokens and site.name not in self._waiting.keys() | self._same_as.keys():
                raise NotMeasurable(f"{site.name}: {self._without_tokens[site.name]}")
            if self._same_as.get(site.name, site.name) not in self._fits:
                raise ValueError(
                    f"--strategies eva: more than {self.wanted[site.name]} learned training tokens are needed for the "
                    f"components of {site.name}; raise --train-examples or lower the budget"
                )
        fits = {site.name: self._fit(site) for site in self.sites}
        ratios = {name: fit.ratios.double().cpu() for name, fit in fits.items()}
        return Measured(evidence_of(ratios), {name: fit.components.float() for name, fit in fits.items()})

    def _fit(self, site: Site) -> PrincipalComponents:
        return self._fits[self._same_as.get(site.name, site.name)]
