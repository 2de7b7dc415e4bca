"""What the libraries do not promise is used in one file for each of them, whose contract tests lie beside this one."""

import re
import tomllib
from importlib.metadata import version

import pytest
from ray.tune.search import Searcher

from tests.contract import private_names

COMPAT = {
    "trainables/actors/ray_compat.py", "trainables/adapters/peft_compat.py", "trainables/engine/torch_compat.py",
    "tuning/cluster/ray_compat.py",
    "tuning/tracking/mlflow_compat.py",
}  # fmt: skip


def test_private_names_are_used_in_the_files_that_are_made_for_them_and_in_no_other():
    used = {path: private_names.in_text(source) for path, source in private_names.files().items()}
    assert {path: uses for path, uses in used.items() if uses and path not in COMPAT} == {}
    assert {path for path, uses in used.items() if uses} == COMPAT, "a file that uses none needs no exception"


def test_no_class_of_ours_uses_or_overrides_a_private_name_of_a_base_but_in_these_files():
    classes = {path: private_names.heirs(path, source) for path, source in private_names.files().items()}
    looked_at = {one.__name__ for ones in classes.values() for one in ones}
    assert looked_at >= {"StudySearch", "FixedSearch", "StrategyASHA", "PackedTrainable", "Harvest", "Stop", "Clock"}
    shared = {one.__name__: private_names.in_class(one) for ones in classes.values() for one in ones}
    assert {name: names for name, names in shared.items() if names} == {
        "Importance": ["_combine_ipt", "_element_score", "_set_budget_scheduler"],
        "WideningSampler": ["_search_space_group"],
    }


@pytest.mark.parametrize(
    ("planted", "name"),
    [
        ("import ray._private.utils", "ray._private.utils"),
        ("def f():\n    from ray._private import ray_constants", "ray._private.ray_constants"),
        ("from ray.tune.trainable.trainable import _NAME", "ray.tune.trainable.trainable._NAME"),
        ("from ray.tune.execution.class_cache import NAMES", "ray.tune.execution.class_cache.NAMES"),
        ("from optuna import _hypervolume", "optuna._hypervolume"),
        ("import mlflow.store.db.utils as u", "mlflow.store.db.utils"),
        ("from peft.utils.incremental_pca import IncrementalPCA", "peft.utils.incremental_pca.IncrementalPCA"),
        ("study._storage.get_all_trials()", "study._storage"),
        ("self.search._live_trial_mapping[1]", "self.search._live_trial_mapping"),
        ("scheduler._metric = 'loss'", "scheduler._metric"),
        ("ray.worker._global_node", "ray.worker._global_node"),
        ("setattr(trial, '_state', 1)", "setattr(trial, '_state', 1)"),
        ("ray.init(_temp_dir='/a')", "_temp_dir"),
        ("environ['RAY_SOME_SWITCH'] = '1'", "RAY_SOME_SWITCH"),
        ("x = f'set {a} and _MLFLOW_SOME_SWITCH'", "_MLFLOW_SOME_SWITCH"),
        ("client.set_tag(run, 'mlflow.note.content', '')", "mlflow.note.content"),
    ],
)
def test_a_private_name_is_found_wherever_it_stands(planted, name):
    assert [used for _, used in private_names.in_text(planted)] == [name]


@pytest.mark.parametrize(
    "allowed",
    [
        "import ray\nfrom ray import tune\nfrom ray.tune.schedulers import ASHAScheduler",
        "from ours._private import a",
        "self._a = cls._b = super()._c()",
        "os._exit(1)",
        "a.__class__, getattr(self, '_a'), getattr(a, 'b')",
        "f(a=1, **b)",
        "class Own:\n    pass\nOwn._a()",
        '"""Says something of RAY_SOME_SWITCH."""',
        "environ['MLFLOW_TRACKING_URI'], 'RAYLET', 'see mlflow.db'",
    ],
)
def test_what_is_public_or_ours_is_not_found(allowed):
    assert private_names.in_text(allowed) == []


def test_a_private_name_of_a_base_is_found_whether_it_is_used_or_overridden():
    class Using(Searcher):
        def suggest(self, trial_id):
            return self._metric

    class Overriding(Searcher):
        def __init__(self):
            self._mode = "min"

    class Own(Searcher):
        def suggest(self, trial_id):
            return self._what_it_wants()

    assert [private_names.in_class(one) for one in (Using, Overriding, Own)] == [["_metric"], ["_mode"], []]


@pytest.mark.parametrize("library", private_names.LIBRARIES)
def test_a_library_is_bounded_by_the_minor_version_after_the_one_that_is_tested(library):
    project = tomllib.loads((private_names.ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = [line for line in project["dependencies"] if re.match(rf"{library}\b(?!-)", line)]
    major, minor, *_ = version(library).split(".")
    assert f"\n{library}=={version(library)}\n" in (private_names.ROOT / "constraints.txt").read_text()
    assert wanted.endswith(f",<{major}.{int(minor) + 1}")
