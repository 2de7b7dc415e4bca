"""A trial as Ray sees it: a small process that calls its host. Imports no torch; takes no pickle from a checkpoint."""

import os
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ray
from ray import tune as ray_tune

from analysis.results.trial_config import TrialConfig
from trainables.actors import ray_compat
from trainables.actors.host import TrialHandle
from trainables.actors.host_registry import Hosts


class PackedTrainable(ray_tune.Trainable):  # type: ignore[misc]
    """Setup, step, save and load, each a call to the host."""

    def setup(
        self,
        config: dict[str, Any],
        hosts: Hosts | None = None,
        checkpoints: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Store the trial's config. It is admitted at its first step: Ray may set up more trials than it runs.

        Args:
            config: Ray's.
            hosts: The search's hosts.
            checkpoints: Trial id -> checkpoint folder from an earlier run of the search.
        """
        if hosts is None:
            raise ValueError("PackedTrainable needs hosts; wrap it with ray.tune.with_parameters")
        self.hosts, self.checkpoints = hosts, checkpoints
        self.key: str | None = None
        self.host: Any = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take over the next trial in the same process."""
        self._free()
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next report, together with the host's other trials."""
        again = False
        if self.key is None:
            checkpoint = self.checkpoints.get(TrialConfig.from_ray(self.config).trial_id)
            self._admit(checkpoint)
            again = checkpoint is not None
        # the task's name is the only place where Ray's dashboard shows which trial trains
        report: dict[str, Any] = ray.get(self.host.step.options(name=self.trial_name).remote(self.key, again))
        return report

    def restore(self, checkpoint_path: Any) -> None:
        """Continue from a checkpoint.

        Args:
            checkpoint_path: As Ray passes it: a folder, a ``Checkpoint``, or a result with one.

        Raises:
            ValueError: It contains a pickle.
        """
        pickle = ray_compat.pickle_in(ray_compat.folder_of(checkpoint_path))
        if pickle.exists():
            raise ValueError(f"{pickle}: a pickle, which no trial of this search has written; not loaded")
        super().restore(checkpoint_path)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the trial's state; the host is on this node."""
        ray.get(self.host.save.remote(self.key, checkpoint_dir))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Continue from ``save_checkpoint``'s folder."""
        self._free()
        self._admit(checkpoint_dir)

    def cleanup(self) -> None:
        """Leave the host; one of this process's own ends with it, before it has to notice."""
        self._free()
        if self.hosts.alone and self.host is not None:
            ray.kill(self.host)

    def _admit(self, checkpoint: str | None) -> None:
        handle = TrialHandle(uuid.uuid4().hex, os.getpid())
        self.host, self.key = self.hosts.host_of(handle), handle.key
        # held, since asking for it later would start another if it has ended
        self.assigner = self.host if self.hosts.alone else self.hosts.local_host()
        ray.get(
            self.host.admit.remote(
                handle, self.hosts.workload, self.trial_name, TrialConfig.from_ray(self.config), checkpoint
            )
        )

    def _free(self) -> None:
        if self.key is not None:
            self.host.free.remote(self.key)
            self.assigner.leave.remote(self.key)
            self.key = None
