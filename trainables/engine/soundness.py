"""Which sites of a model are sound: adapted in a pack, saved, and loaded by plain PEFT, they do the same and learn."""

import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from analysis.results.messages import first_line
from strategies.base import Site
from trainables.adapters import peft_adapter
from trainables.adapters.adapter import Adapter
from trainables.data.splits import Example
from trainables.engine.adapter_store import AdapterStore
from trainables.engine.device_errors import out_of_memory
from trainables.engine.evaluation import lane_losses
from trainables.engine.prefix_cache import FrozenPrefix
from trainables.engine.sequence_packing import Lanes, arrange
from trainables.engine.stacked_adapters import adapted
from trainables.models.base_model import BaseModel, is_saved_quantized, load
from trainables.models.coverage import Coverage
from trainables.models.device import device_of
from trainables.models.frozen_linear import FrozenLinear
from trainables.models.precision import FLOAT32, NF4_BITS
from trainables.models.probes import rounding
from trainables.spec import Workload
from trainables.training.inputs import base_of, splits_of

ROW_TOKENS, JOINED_TOKENS = 64, 512
TOLERANCE = 1e-3
"""Nats of a token's loss, in float32; of a gradient or an output relative to the largest of its matrix.

In bfloat16, for want of memory, it is ``ROUGHLY`` of the whole: two ways to round were seen to part by a third, and
wrong ones part by about all."""
ROUGHLY, ROOM = 0.5, 1.3
MOST_LOOKS = 3
RANK, RELATIVE_SIZE, SAMPLED_ROWS = 2, 0.1, 16
MATRICES = "matrices"
UNREACHED, TUPLES = "no token reaches them", "they return tuples"
REFUSED = "PEFT refuses them"
CONVERTED = "PEFT loads them as something else"
OTHERWISE = "they do something else in a pack"


def sound_coverage(base: BaseModel, examples: Sequence[Example]) -> Coverage:
    """Return what of the base can be adapted, looked at with two rows in at most ten passes.

    One finds what is reached, ``MOST_LOOKS`` pairs what a pack does otherwise, two whether blocks may be skipped (one
    of them in halves), and one whether rows may be joined.

    A site that PEFT refuses or loads as something else, that returns no tensor, that no token reaches, or that does
    something else in a pack is left out. So are skipping and joining where they change a row.

    Args:
        base: The frozen base.
        examples: Of all splits, at least one.

    Raises:
        ValueError: Nothing remains, or what remains still differs between a pack and plain PEFT, or cannot be omitted.
    """
    longest = sorted(examples, key=lambda example: -len(example.input_ids))
    rows = [longest[0], longest[min(1, len(longest) - 1)]]
    check = Check(base, [_learned(row, ROW_TOKENS) for row in rows], [_learned(row, JOINED_TOKENS) for row in rows])
    coverage = check.omitted(check.alike(check.loaded(check.reached(base.coverage))))
    middle = (1 + max(site.depth for site in coverage.sites)) // 2
    prefix = FrozenPrefix(base.model, coverage.blocks, base.pad_id, base.device)
    skips = prefix.is_sound(min(middle, len(coverage.blocks) - 1), check.rows)
    return replace(coverage, skips=skips, joins=base.joining is not None and check.joins())


def sound_coverage_of(workload: Workload) -> Coverage:
    """Return what of a workload's base can be adapted, as ``sound_coverage``.

    Raises:
        ValueError: Its adapters cannot be trusted. The message names the model.
    """
    looked_at = _in_float32(workload)
    try:
        splits = splits_of(workload)
        return sound_coverage(base_of(looked_at), [*splits.train, *splits.validation, *splits.test])
    except Exception as error:  # a model's code can raise anything for an adapter at an unusual place
        if out_of_memory(error):
            raise ValueError(
                f"--model {workload.model}: memory does not suffice to look at its matrices in "
                f"{looked_at.precision.dtype} ({first_line(error)}); try --quantize nf4, or another device"
            ) from None  # what it holds of the base is given back
        raise ValueError(f"--model {workload.model}: {first_line(error)}; give another, or --target-modules") from error
    finally:
        if looked_at is not workload:
            load.cache_clear()  # else it would lie beside the one that is trained over while that loads


def _in_float32(workload: Workload) -> Workload:
    """Return a workload whose base is looked at in float32, if that fits: in bfloat16 much passes for rounding."""
    precision = workload.precision
    in_four_bits = precision.quantize is not None or is_saved_quantized(workload.model)
    needed = ROOM * (NF4_BITS / 8 if in_four_bits else 4) * base_of(workload).params
    if precision.dtype == FLOAT32 or needed > device_of(workload.device).available_bytes():
        return workload
    load.cache_clear()  # for the same reason
    return replace(workload, precision=replace(precision, dtype=FLOAT32))


def _learned(example: Example, tokens: int) -> Example:
    """Return the beginning of an example, all of it learned."""
    ids = example.input_ids[:tokens]
    return replace(example, input_ids=ids, labels=ids)


@dataclass(frozen=True, slots=True)
class Pass:
    """What one trial's rows gave in a pass.

    Args:
        losses: Of each token, in nats.
        gradients: Site -> gradients of A and B.
        outputs: For each call of a site, in order: its name, and a number for each vector that it returned.
    """

    losses: torch.Tensor
    gradients: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    outputs: Sequence[tuple[str, torch.Tensor]]


class Check:
    """Passes of two rows through one base.

    Args:
        base: The frozen base.
        rows: All of their tokens are learned.
        long_rows: The same, of more tokens, as rows are laid end to end.
    """

    def __init__(self, base: BaseModel, rows: Sequence[Example], long_rows: Sequence[Example]) -> None:
        self.base, self.rows = base, rows
        self.long_rows = rows if base.joining is None else long_rows
        self._apart: torch.Tensor | None = None  # losses of the long rows, each alone
        self.tolerance = rounding(base.model, TOLERANCE, ROUGHLY)

    def reached(self, coverage: Coverage) -> Coverage:
        """Leave out sites that no token reaches, and those that return something else than a tensor."""
        kinds: dict[str, bool] = {}
        hooks = [
            self.base.model.get_submodule(site.name).register_forward_hook(
                lambda module, args, output, name=site.name: kinds.update({name: isinstance(output, torch.Tensor)})
            )
            for site in coverage.sites
        ]
        try:
            lanes = arrange([[len(row.input_ids) for row in self.long_rows]], 1, False, self.base.device)
            with torch.no_grad():
                self._apart = lane_losses(self.base, self.long_rows, lanes)[0]
        finally:
            for hook in hooks:
                hook.remove()
        coverage = coverage.without((s.name for s in coverage.sites if s.name not in kinds), MATRICES, UNREACHED)
        return coverage.without((name for name, is_tensor in kinds.items() if not is_tensor), MATRICES, TUPLES)

    def loaded(self, coverage: Coverage) -> Coverage:
        """Leave out sites that PEFT refuses, or that it loads as something else than was saved.

        Raises:
            ValueError: None is left.
        """
        if self._misloaded(coverage.sites) is None:
            return coverage
        for sites in _alike_by_name(coverage.sites):
            if (why := self._misloaded(sites)) is not None:
                coverage = coverage.without((site.name for site in sites), MATRICES, why)
        if not coverage.sites:
            raise ValueError(f"PEFT adapts none of its matrices ({coverage})")
        if (why := self._misloaded(coverage.sites)) is not None:
            raise ValueError(f"PEFT adapts its matrices one kind at a time, but not together ({why})")
        return coverage

    def omitted(self, coverage: Coverage) -> Coverage:
        """Return the coverage if PEFT leaves alone the sites that an adapter omits, as those of rank 0.

        Raises:
            ValueError: It does not.
        """
        some = [site for sites in _alike_by_name(coverage.sites) for site in sites[::2]]
        if (why := self._misloaded(some)) is not None:
            raise ValueError(f"PEFT adapts all of its matrices, but not some of them ({why})")
        return coverage

    def alike(self, coverage: Coverage) -> Coverage:
        """Leave out sites that do not learn, and those that do something else in a pack than in plain PEFT.

        Raises:
            ValueError: What is left does something else, too.
        """
        for _ in range(MOST_LOOKS):
            adapters = [_random(self.base, coverage.sites, seed) for seed in (0, 1)]
            plain = self._plain(adapters[0], coverage.sites)
            others = self._otherwise(plain, adapters, coverage.sites)
            unreached = [site.name for site in coverage.sites if site.name not in plain.gradients]
            coverage = coverage.without(unreached, MATRICES, UNREACHED).without(others, MATRICES, OTHERWISE)
            if not coverage.sites:
                raise ValueError(f"none of its matrices can be trained ({coverage})")
            if not others:
                return replace(coverage, silent=sum(not any(map(torch.any, g)) for g in plain.gradients.values()))
        raise ValueError(f"its adapters do something else in a pack than in plain PEFT ({coverage})")

    def joins(self) -> bool:
        """Return True if rows end to end have the losses that they had each alone, in ``reached``."""
        assert self._apart is not None
        first, second = (len(row.input_ids) for row in self.long_rows)
        together = Lanes(1, first + second, ((0, 0), (0, first)), ((first, second),), self.base.device)
        with torch.no_grad():
            joined = lane_losses(self.base, self.long_rows, together)[0]
        return bool((joined - self._apart).abs().max() <= self.tolerance)

    def _misloaded(self, sites: Sequence[Site]) -> str | None:
        """Return why PEFT does not load an adapter of some sites as it was saved; None if it does."""
        adapter = _random(self.base, sites, 0)
        try:
            with self._in_peft(adapter) as model:
                there = peft_adapter.read(model).factors
        except Exception as error:  # PEFT raises anything for a module that it cannot adapt
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return REFUSED
        if there.keys() != adapter.factors.keys():
            return CONVERTED
        same = (torch.equal(x, y) for name in there for x, y in zip(there[name], adapter.factors[name], strict=True))
        return None if all(same) else CONVERTED

    @contextmanager
    def _in_peft(self, adapter: Adapter) -> Iterator[Any]:
        """Save an adapter, and load it as anybody would; the base is as before at the end, whatever happens."""
        with warnings.catch_warnings(), peft_adapter.restored(self.base.model), tempfile.TemporaryDirectory() as folder:
            adapter.save(Path(folder))
            warnings.simplefilter("ignore")  # what it warns of is looked at
            yield peft_adapter.loaded(self.base.model, Path(folder))

    def _plain(self, adapter: Adapter, sites: Sequence[Site]) -> Pass:
        with self._in_peft(adapter) as model, self._listening(sites) as outputs:
            losses = self._losses(1)
            losses.sum().backward()  # type: ignore[no-untyped-call]
            factors = peft_adapter.read(model).factors
            return Pass(losses.detach(), _gradients(factors), outputs)

    def _packed(self, adapters: Sequence[Adapter], sites: Sequence[Site]) -> Pass:
        """Return what the first of two trials gave in a pack."""
        factors = AdapterStore.of(adapters, planes=2).factors(slice(0, len(adapters)))
        with adapted(self.base.model, factors), self._listening(sites) as outputs:
            losses = self._losses(len(adapters))
            losses.sum().backward()  # type: ignore[no-untyped-call]
        share = [(name, output.view(len(adapters), -1)[0]) for name, output in outputs]
        return Pass(losses.detach().view(len(adapters), -1)[0], _gradients(adapters[0].factors), share)

    def _otherwise(self, plain: Pass, adapters: Sequence[Adapter], sites: Sequence[Site]) -> list[str]:
        """Return the sites at which a pack parts from plain PEFT.

        Raises:
            ValueError: It does, and at none of them.
        """
        try:
            packed = self._packed(adapters, sites)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            if out_of_memory(error):
                raise
            raise ValueError(f"it cannot be trained in a pack ({first_line(error)})") from error
        for (name, there), (_, here) in zip(plain.outputs, packed.outputs, strict=False):
            if there.shape != here.shape or self._differ(there, here):
                return _like(name, sites)
        wrong = [n for n, parts in plain.gradients.items() if any(map(self._differ, parts, packed.gradients[n]))]
        if not wrong and (packed.losses - plain.losses).abs().max() > self.tolerance:
            raise ValueError("its loss is another in a pack than in plain PEFT")
        return wrong

    def _differ(self, there: torch.Tensor, here: torch.Tensor) -> bool:
        if self.tolerance == ROUGHLY:
            return bool((there - here).norm() > self.tolerance * there.norm())
        return bool((there - here).abs().max() > self.tolerance * there.abs().max())

    def _losses(self, trials: int) -> torch.Tensor:
        """Return the loss of each token of each trial's rows, in nats."""
        lengths = [[len(row.input_ids) for row in self.rows]] * trials
        lanes = arrange(lengths, 1, False, self.base.device)
        return lane_losses(self.base, [*self.rows] * trials, lanes)[0]

    @contextmanager
    def _listening(self, sites: Sequence[Site]) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """Note a number for each vector that a site returns: its product with a random one."""
        outputs: list[tuple[str, torch.Tensor]] = []
        generator = torch.Generator().manual_seed(0)

        def note(name: str, direction: torch.Tensor) -> Any:
            def hook(module: Any, args: Any, output: torch.Tensor) -> None:
                outputs.append((name, output.detach().float().reshape(-1, len(direction)) @ direction))

            return hook

        hooks = []
        for site in sites:
            direction = torch.randn(site.d_out, generator=generator).to(self.base.device)
            hooks.append(self.base.model.get_submodule(site.name).register_forward_hook(note(site.name, direction)))
        try:
            yield outputs
        finally:
            for hook in hooks:
                hook.remove()


def _random(base: BaseModel, sites: Sequence[Site], seed: int) -> Adapter:
    """Return an adapter of random factors that changes each weight by about a tenth."""
    ranks = {site.name: min(RANK, site.max_rank) for site in sites}
    adapter = peft_adapter.blank(base.model, sites, ranks)
    generator = torch.Generator().manual_seed(seed)
    for site in sites:
        a, b = adapter.factors[site.name]
        size = RELATIVE_SIZE * float(FrozenLinear(base.model.get_submodule(site.name)).stored()[:SAMPLED_ROWS].std())
        a.copy_(torch.randn(a.shape, generator=generator) / a.shape[1] ** 0.5)
        b.copy_(torch.randn(b.shape, generator=generator) * size * (a.shape[1] / len(a)) ** 0.5)
    return adapter


def _gradients(
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return site -> gradients of A and B, of those that the loss depends on."""
    return {n: (a.grad, b.grad) for n, (a, b) in factors.items() if a.grad is not None and b.grad is not None}


def _alike_by_name(sites: Sequence[Site]) -> list[list[Site]]:
    """Return the sites in groups: those of one name, whatever the number of the block."""
    groups: dict[str, list[Site]] = {}
    for site in sites:
        groups.setdefault(_pattern(site.name), []).append(site)
    return list(groups.values())


def _like(name: str, sites: Sequence[Site]) -> list[str]:
    return [site.name for site in sites if _pattern(site.name) == _pattern(name)]


def _pattern(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "N", name)
