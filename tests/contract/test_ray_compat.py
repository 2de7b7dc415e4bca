"""Ray still has the private names, settings and texts that are relied on, and means the same by them."""

import contextlib
import importlib.util
import logging
import os
import pickle
import signal
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import ray
from pyarrow.fs import LocalFileSystem
from ray import tune as ray_tune
from ray._private import ray_constants, services
from ray._private import utils as ray_utils
from ray._private import worker as ray_worker
from ray._private.worker import Worker
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train._internal.session import _TrainingResult
from ray.tune.error import TuneError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from trainables.actors.ray_compat import DEVICES_STAY_VISIBLE, UNHANDLED_STAY_QUIET, folder_of, pickle_in
from trainables.training.session import Diverged
from tuning.cluster import ray_compat
from tuning.lifecycle.stop import cause_of


def begin_ray(**options):
    """Have Ray begin, and refuse an option at the last moment before it looks for another Ray or starts one."""
    with pytest.raises(RuntimeError) as refused:
        ray.init(address="local", configure_logging=False, no_such_option=1, **options)
    return str(refused.value)


def failing(error):
    """Return what a driver hears of an error in a trial's process."""
    try:
        raise error
    except Exception as caught:
        return RayTaskError("Trainable.train", traceback.format_exc(), caught)


@pytest.fixture
def trial(tmp_path):
    """A trial of Ray Tune, as its loop has it."""
    folder = {"trial_driver_staging_path": str(tmp_path), "trial_fs_path": str(tmp_path)}
    storage = SimpleNamespace(**folder, storage_filesystem=LocalFileSystem())
    return Trial("train", stub=True, storage=storage, _setup_default_resource=False)


@pytest.fixture
def propagated(monkeypatch):
    """Have Ray's log reach pytest, which a Ray that has begun keeps to itself."""
    monkeypatch.setattr(logging.getLogger("ray"), "propagate", True)


# A Ray that begins


def test_ray_puts_its_files_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "other"))
    monkeypatch.setenv(ray_compat.TEMPORARY, str(tmp_path))
    assert ray_compat.temporary_folder() == tmp_path
    monkeypatch.delenv(ray_compat.TEMPORARY)
    assert ray_compat.temporary_folder() == tmp_path / "other"


def test_ray_takes_a_folder_for_its_files(tmp_path):
    with ray_compat.keeping_handlers():
        refused = begin_ray(**ray_compat.in_folder(tmp_path))
    assert refused == "Unknown keyword argument(s): no_such_option"


def test_a_path_that_is_too_long_for_a_socket_is_known_by_rays_text():
    with pytest.raises(OSError, match="cannot exceed") as refused:
        ray_utils.validate_socket_filepath("/tmp/" + 200 * "a")
    assert ray_compat.is_too_long_for_sockets(refused.value)
    assert not ray_compat.is_too_long_for_sockets(OSError("No space left on device"))


def test_ray_takes_the_address_of_this_machine_where_it_is_told_to(monkeypatch):
    monkeypatch.setattr(ray._private.worker, "_global_node", None)
    monkeypatch.setattr(services, "node_ip_address_from_perspective", lambda address: "10.0.0.7")
    assert services.get_node_ip_address() == "10.0.0.7"
    with ray_compat.on_loopback():
        assert services.get_node_ip_address() in {"127.0.0.1", "::1"}
        # what a process that is started now makes of the variable
        assert not ray_constants.env_bool(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, True)
    assert services.get_node_ip_address() == "10.0.0.7"
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR not in os.environ


def test_ray_takes_over_the_signal_by_the_function_that_is_put_out_of_action():
    ours = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ray_compat.keeping_handlers():
            begin_ray()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        begin_ray()
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_IGN, "Ray leaves it alone: keeping_handlers can go"
    finally:
        signal.signal(signal.SIGTERM, ours)


def test_an_error_that_nobody_waits_for_is_not_logged(monkeypatch, propagated, caplog):
    worker = SimpleNamespace(deserialize_objects=lambda *objects: [ValueError("unheard")])
    for name in UNHANDLED_STAY_QUIET:
        monkeypatch.delenv(name, raising=False)
    Worker.raise_errors(worker, [], [])
    assert "unheard" in caplog.text
    caplog.clear()
    for name, value in UNHANDLED_STAY_QUIET.items():
        monkeypatch.setenv(name, value)
    Worker.raise_errors(worker, [], [])
    assert caplog.text == ""


@pytest.mark.parametrize("override", ["0", "1"])
def test_a_process_without_a_gpu_of_its_own_sees_those_of_its_machine(monkeypatch, override):
    (setting,) = DEVICES_STAY_VISIBLE
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv(setting, override)
    context = SimpleNamespace(get_accelerator_ids=lambda: {"GPU": []})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    ray_utils.set_visible_accelerator_ids()
    visible = os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert visible == (override == DEVICES_STAY_VISIBLE[setting])


@pytest.mark.search
def test_the_raylet_of_this_machine_is_found(shared_ray):
    raylet = ray_compat.raylet()
    assert raylet.name() == "raylet"
    assert raylet.ppid() == os.getpid()


@pytest.mark.search
def test_the_gcs_of_this_machine_is_found(shared_ray):
    gcs = ray_compat.gcs()
    assert gcs.name() == "gcs_server"
    assert gcs.ppid() == os.getpid()


@pytest.mark.search
def test_a_process_is_at_work_while_it_runs_a_task_and_rays_agents_never_are(shared_ray, wait_for):
    title, worker = ray.get(ray.remote(lambda: (psutil.Process().cmdline()[0], os.getpid())).remote())
    assert ray_compat.is_at_work(title)
    wait_for(lambda: not ray_compat.is_at_work(psutil.Process(worker).cmdline()[0]), 60)
    titles = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            titles += process.cmdline()[:1]
    agents = [title for title in titles if title.startswith("ray::") and "Agent" in title]
    assert agents
    assert not any(map(ray_compat.is_at_work, agents))


# Trials


def test_ray_tune_gives_trials_the_variables_of_the_set_that_has_awss_keys(monkeypatch):
    spec = importlib.util.find_spec("ray.tune.execution.class_cache")
    fresh = importlib.util.module_from_spec(spec)  # a search in this process may have taken the keys from the other
    spec.loader.exec_module(fresh)
    monkeypatch.setitem(sys.modules, spec.name, fresh)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    def given():
        made = fresh._ActorClassCache().get(type("Trainable", (), {}))
        return made._default_options["runtime_env"]["env_vars"]

    assert given()["AWS_SECRET_ACCESS_KEY"] == "secret", "Ray keeps it to itself: send_no_cloud_keys can go"
    ray_compat.send_no_cloud_keys()
    assert "AWS_SECRET_ACCESS_KEY" not in given()


def test_ray_tunes_averages_are_where_they_are_forgotten(trial):
    trial.run_metadata.update_metric("eval_loss", 2.0)
    assert trial.metric_analysis["eval_loss"]["avg"] == 2.0
    ray_compat.forget_averages(trial)
    assert trial.metric_analysis == trial.metric_n_steps == {}
    assert "eval_loss" not in trial.run_metadata.get_json_state()
    trial.run_metadata.update_metric("eval_loss", 3.0)
    assert trial.metric_analysis["eval_loss"]["avg"] == 3.0


def test_ray_tune_loads_the_error_that_it_has_pickled_unless_it_forgets_where(trial):
    trial.handle_error(failing(RuntimeError("no luck")))
    assert isinstance(trial.get_pickled_error(), RayTaskError), "Ray loads it no more: forget_pickled_error can go"
    ray_compat.forget_pickled_error(trial)
    assert trial.get_pickled_error() is None
    assert "no luck" in trial.get_error()


DIED_AT_ITS_START = ActorDiedError(failing(ValueError("--model m")))


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (failing(Diverged("at step 4")), "Diverged: at step 4"),
        (failing(OSError('no model\n  File "there"')), "OSError: no model"),
        (ActorDiedError(), "ActorDiedError: The actor died unexpectedly before finishing this task."),
        (DIED_AT_ITS_START, "ActorDiedError: ValueError: --model m"),
        (TuneError("no placement group\n"), "no placement group"),
    ],
)
def test_the_text_that_ray_tune_writes_of_an_error_tells_its_type_and_first_line(trial, error, cause):
    trial.handle_error(failing(KeyError("before")))
    trial.handle_error(error)
    assert ray_compat.cause_in(Path(trial.error_file).read_text()) == cause


@pytest.mark.search
def test_a_process_that_is_killed_is_told_from_one_that_raises(shared_ray, trial):
    def end_at_once(_):
        os.kill(os.getpid(), signal.SIGKILL)

    killed = ray.remote(type("Killed", (), {"end_at_once": end_at_once})).remote()
    with pytest.raises(ActorDiedError) as raised:
        ray.get(killed.end_at_once.remote())
    trial.handle_error(raised.value)
    cause = ray_compat.cause_in(Path(trial.error_file).read_text())
    assert cause == "ActorDiedError: its process was killed or crashed; the kernel does so if memory runs out"


def test_what_ray_tunes_loop_came_upon_is_the_context_of_its_error():
    """``tuning.lifecycle.stop.cause_of`` goes by that; Ray says no more of it than a traceback in the text."""
    actor, one, scheduled = object(), object(), {}
    controller = TuneController.__new__(TuneController)
    controller._trial_to_actor, controller._actor_to_trial, controller._fail_fast = {one: actor}, {actor: one}, False
    controller._actor_manager = SimpleNamespace(schedule_actor_task=lambda **given: scheduled.update(given))

    def write(trial, result):
        raise OSError(5, "Input/output error", "/a/b")

    controller._schedule_trial_task(one, "train", on_result=write)
    with pytest.raises(TuneError) as raised:
        scheduled["on_result"](actor, {})
    assert cause_of(raised.value, "/a").text == "/a/b: Input/output error"


def test_ashas_rungs_need_no_more_of_a_trial_than_its_id():
    asha = ASHAScheduler(time_attr="report", metric="loss", mode="min", max_t=4, grace_period=1, reduction_factor=2)
    decisions = []
    for number, loss in enumerate((2.0, 1.0, 3.0)):
        entry = ray_compat.RungEntry(f"t{number}")
        asha.on_trial_add(None, entry)
        decisions.append(asha.on_trial_result(None, entry, {"report": 1, "loss": loss}))
    assert decisions == [TrialScheduler.CONTINUE, TrialScheduler.CONTINUE, TrialScheduler.STOP]
    asha.on_trial_complete(None, ray_compat.RungEntry("t0"), {"report": 2, "loss": 2.0})
    asha.on_trial_remove(None, ray_compat.RungEntry("t1"))


# Checkpoints


class Restored(ray_tune.Trainable):
    """Notes what it is given to go on from."""

    def load_checkpoint(self, checkpoint):
        self.given = checkpoint


def restore(checkpoint):
    trainable = Restored.__new__(Restored)
    trainable._local_ip = "127.0.0.1"
    trainable.restore(checkpoint)
    return trainable.given


@pytest.mark.parametrize(
    "given",
    [
        str,
        ray_tune.Checkpoint.from_directory,
        lambda folder: _TrainingResult(ray_tune.Checkpoint.from_directory(folder), {}),
    ],
    ids=["path", "checkpoint", "result"],
)
def test_ray_loads_the_file_of_a_checkpoint_that_is_refused_as_a_pickle(given, tmp_path):
    checkpoint = given(str(tmp_path))
    assert folder_of(checkpoint) == tmp_path
    assert restore(checkpoint) == str(tmp_path)
    pickle_in(tmp_path).write_bytes(pickle.dumps({"a": 1}))
    assert restore(checkpoint) == {"a": 1}, "Ray loads it no more: the check in PackedTrainable.restore can go"


def test_the_node_of_a_ray_that_began_here_is_its_head(shared_ray, monkeypatch):
    assert ray_compat.began_here()
    monkeypatch.setattr(ray_worker._global_node, "head", False)  # as of one that was joined
    assert not ray_compat.began_here()
