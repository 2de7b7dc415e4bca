"""The learner that a trial's strategy asks for."""

from strategies import AdaLora
from trainables.adalora import AdaLoraLearner
from trainables.adapters import Adapter
from trainables.base_model import BaseModel
from trainables.learner import Learner
from trainables.spec import TrialSpec, Workload


def learner_of(workload: Workload, spec: TrialSpec, base: BaseModel, adapter: Adapter, examples: int) -> Learner:
    """Return what is a trial's own, as ``Learner``."""
    if isinstance(spec.allocator, AdaLora):
        return AdaLoraLearner(workload, spec, base, adapter, examples)
    return Learner(workload, spec, base, adapter, examples)
