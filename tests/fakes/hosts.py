"""Hosts on a real Ray whose trials train nothing: everything but the training is as in a real search."""

from pathlib import Path
from typing import Any, ClassVar

import ray

from strategies.measurement import Measured
from tests.fakes.trial import (
    BASE_LOSSES,
    Rounds,
    bracket_of,
    continued_by,
    coverage_of,
    forms_of,
    measured_of,
    reloaded_of,
    shrink_curve_of,
)
from trainables.actors.host import Host
from trainables.actors.host_registry import Hosts
from trainables.learning_rates import Bracket
from trainables.models.coverage import Coverage
from trainables.spec import Workload


class FakeHost(Host):
    """A host that imports no torch and loads no base, unless it measures more than importance."""

    work: ClassVar[tuple[str, ...]] = ()

    def coverage(self, reference: list[Any]) -> Coverage:
        return coverage_of(self._unpack(reference))

    def slots_that_fit(self, reference: list[Any]) -> int:
        return 4

    def measure(self, reference: list[Any], measurement: str) -> Measured:
        return measured_of(self._unpack(reference), measurement)

    def base_loss(self, reference: list[Any], split: str) -> float:
        return BASE_LOSSES[split]

    def learning_rates(self, reference: list[Any], usual: float, seed: int) -> Bracket:
        return bracket_of(self._unpack(reference), usual, seed)

    def continued(self, reference: list[Any], adapters: dict[str, Path | None]) -> Any:
        return continued_by(adapters)

    def hand_out(self, reference: list[Any], adapter: Path, output: Path) -> float:
        return forms_of(adapter, output)

    def shrink_curve(self, reference: list[Any], adapter: Path) -> list[dict[str, float]]:
        return shrink_curve_of(adapter)

    def _unpack(self, reference: list[Any]) -> Workload:
        with self.lock:
            if self.unpacked is None or self.unpacked[0] != reference:
                self.unpacked = (reference, ray.get(reference[0]))
            return self.unpacked[1]

    def _executing(self, workload: Workload) -> Any:
        with self.lock:
            self.executor = self.executor or Rounds()  # type: ignore[assignment]
            return self.executor


class FakeHosts(Hosts):
    """Hosts that are fakes; proxies get this class by value, and with it their host's."""

    actor: ClassVar[type] = FakeHost

    def reloaded_here(self, workload: Workload, adapters: Any, examples: Any) -> list[Any]:
        return [reloaded_of(adapter) for adapter in adapters]
