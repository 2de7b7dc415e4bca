"""Hosts that measure, train and end, on a real Ray."""

import dataclasses
import logging
import math
import shutil
import time
from pathlib import Path

import pytest
import ray

from strategies.empirical import IMPORTANCE
from tests.fakes.hosts import FakeHost, FakeHosts
from tests.fakes.observers import Lines
from trainables.actors.liveness import Lease
from tuning.cli import resolve_plan
from tuning.cluster import connection, hosting
from tuning.cluster.connection import ray_for
from tuning.preflight import preflight
from tuning.preflight.measuring import measured

pytestmark = pytest.mark.search


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.thorough)])
def kind(request, monkeypatch):
    """Whether hosts measure, or say what they would."""
    if request.param == "fake":
        monkeypatch.setattr(hosting, "Hosts", FakeHosts)
    return request.param


@pytest.fixture(scope="module")
def plan(tiny_gpt2, tiny_text, tmp_path_factory):
    return resolve_plan(None, {
        "model": str(tiny_gpt2), "dataset": str(tiny_text), "train_examples": 16, "validation_examples": 8,
        "test_examples": 8, "max_length": 32, "runs_dir": str(tmp_path_factory.mktemp("runs")), "name": "hosted",
    })  # fmt: skip


@pytest.fixture(scope="module")
def checked(plan, shared_ray):
    """What a search is known to be before anything is measured."""
    with ray_for(plan):
        yield preflight.check(plan)


def names():
    return sorted(name.rpartition("-")[2] for name in ray.util.list_named_actors())


def processes(name):
    return [ray.get_actor(actor_name) for actor_name in ray.util.list_named_actors() if actor_name.endswith(name)]


def test_a_host_that_has_no_base_yet_answers_what_a_function_does_and_raises_what_it_raises(plan, checked, monkeypatch):
    monkeypatch.setattr(hosting, "Hosts", FakeHosts)
    with hosting.hosts_for(plan, None) as hosts:
        begun = names()
        assert begun[0] == "cpu0"
        assert hosting.call(plan, hosts, math.hypot, 3.0, 4.0) == 5.0
        with pytest.raises(ValueError, match="math domain error"):
            hosting.call(plan, hosts, math.sqrt, -1.0)
        assert names() == begun
    assert names() == []


def test_they_measure_until_it_is_kept_whole_and_are_there_for_the_trials_until_the_end(plan, checked, kind):
    shutil.rmtree(Path(plan.runs_dir) / ".evidence", ignore_errors=True)  # the other kind's
    with hosting.hosts_for(plan, checked.workload) as hosts:
        before = names()
        assert before[0] == "cpu0"
        _, complete = measured(plan, checked, hosts, Lines())
        assert complete.workload.evidence["gradient"].keys() == {site.name for site in checked.shape.sites}
        assert all(math.isfinite(value) for value in complete.workload.evidence["gradient"].values())
        assert names() == before
        kept = sorted((Path(plan.runs_dir) / ".evidence").iterdir())
        assert len(kept) == 2  # what can be adapted, and the importance of that
        for cached in kept:
            whole = cached.read_bytes()
            place = whole.index(b".") + 1
            changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
            for damaged in (whole[: len(whole) // 2], changed):
                cached.write_bytes(damaged)
                again = measured(plan, checked, hosts, Lines())[1].workload
                assert (again.evidence, again.coverage) == (complete.workload.evidence, complete.workload.coverage)
                assert cached.read_bytes() == whole
        hosting.release(plan, hosts)
        assert names() == before
    assert names() == []


def test_where_trials_load_the_base_themselves_none_is_left_once_it_has_answered(plan, checked, kind):
    plan = plan.model_copy(update={"isolation": "process"})
    with hosting.hosts_for(plan, checked.workload) as hosts:
        assert names() == []
        assert hosting.ask(plan, hosts, "slots_that_fit") >= 1
        assert names() == ["cpu0"], "it stays for the next question"
        hosting.release(plan, hosts)
        assert names() == []


@pytest.mark.thorough
def test_one_that_dies_while_it_measures_is_replaced(plan, checked, kind, tmp_path, wait_for):
    mark = tmp_path / "asked"

    def hang(host):
        def unpack(reference):
            mark.touch()
            time.sleep(600)

        host._unpack = unpack

    with hosting.hosts_for(plan, checked.workload) as hosts:
        (first,) = processes("cpu0")
        ray.get(first.__ray_call__.remote(hang))
        asked = ray.remote(num_cpus=0.5)(lambda: hosting.ask(plan, hosts, "measure", IMPORTANCE)).remote()
        wait_for(mark.exists)
        ray.kill(first)
        assert ray.get(asked).evidence["gradient"].keys() == {site.name for site in checked.shape.sites}


@pytest.mark.parametrize("end", [hosting.end, lambda hosts: connection.end_what_is_left()])
def test_ending_them_does_not_mind_one_that_has_just_died(plan, checked, monkeypatch, end):
    gone, here = (f"of-it-{name}" for name in ("gone", "left"))
    left = ray.remote(Lease).options(name=here, num_cpus=0).remote()
    ray.get(left.__ray_ready__.remote())
    monkeypatch.setattr(ray.util, "list_named_actors", lambda: [gone, here])
    end(FakeHosts("of-it", [], 1))
    with pytest.raises(ValueError, match="left"):
        ray.get_actor(here)


def test_an_actor_of_the_program_itself_is_none_of_them(plan, checked):
    mine = ray.remote(Lease).options(name="mine", num_cpus=0).remote()
    ray.get(mine.__ray_ready__.remote())
    hosts = FakeHosts("of-it", [], 1)
    hosting.save_all(hosts, Path("nowhere"), 1)
    hosting.end(hosts)
    ray.get(mine.__ray_ready__.remote())
    ray.kill(mine)


def test_those_of_two_searches_of_one_name_are_apart_and_end_each_with_its_own(plan, checked, monkeypatch):
    """Two that nobody has named begin in one second: a number follows the name of one once it has its folder."""
    monkeypatch.setattr(hosting, "Hosts", FakeHosts)
    with hosting.hosts_for(plan, None) as hosts:
        begun = set(ray.util.list_named_actors())
        with hosting.hosts_for(plan, None) as others:
            of_others = {*ray.util.list_named_actors()} - begun
            assert of_others == {*hosting._names(others)}
            assert of_others
        assert {*ray.util.list_named_actors()} == begun == {*hosting._names(hosts)}


def test_a_joined_ray_that_stays_too_small_is_refused_after_a_while(plan, checked, monkeypatch):
    monkeypatch.setattr(connection, "PATIENCE_SECONDS", 0.6)
    monkeypatch.setattr(connection, "LOOK_SECONDS", 0.1)
    large = plan.model_copy(update={"ray_address": "auto", "cpus_per_trial": 999})
    with pytest.raises(ValueError, match="--cpus-per-trial 999: no node has more than") as refusal:
        connection.await_resources(large, observer := Lines())
    assert observer.noted_lines == [f"Waiting for a node, for 0.01 minutes at most. {refusal.value}"]
    assert {group["state"] for group in ray.util.placement_group_table().values()} == {"REMOVED"}


@pytest.fixture
def said(monkeypatch):
    """What Ray logs."""
    said = []
    monkeypatch.setattr(logging.getLogger("ray"), "handlers", [handler := logging.Handler()])
    handler.emit = lambda entry: said.append(entry.getMessage())
    return said


def refusing():
    class Refusing(FakeHost):  # local, so that it travels to its process by value
        def _unpack(self, reference):
            raise ValueError("this node has another model there")

    class Hosts(FakeHosts):
        actor = Refusing

    return Hosts


@pytest.mark.thorough
def test_a_base_that_does_not_load_is_refused_with_its_reason_alone(plan, checked, monkeypatch, said):
    monkeypatch.setattr(hosting, "Hosts", refusing())
    shutil.rmtree(plan.runs_dir, ignore_errors=True)
    with (
        hosting.hosts_for(plan, checked.workload) as hosts,
        pytest.raises(ValueError, match="this node has") as refusal,
    ):
        measured(plan, checked, hosts, Lines())
    assert str(refusal.value) == "this node has another model there"
    assert said == []


@pytest.mark.thorough
def test_a_base_that_is_another_is_refused_with_its_reason_alone(plan, checked, tiny_gpt2, tmp_path, said):
    other = shutil.copytree(tiny_gpt2, tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text().replace("{", '{"note": 1,', 1))
    shutil.rmtree(plan.runs_dir, ignore_errors=True)
    wrong = dataclasses.replace(checked, workload=dataclasses.replace(checked.workload, model=str(other)))
    with hosting.hosts_for(plan, wrong.workload) as hosts:
        for host in processes(""):
            with pytest.raises(ValueError, match="this node has"):  # as when they tried by themselves
                ray.get(host.load.remote(hosts.workload))
        with pytest.raises(ValueError, match=r"this node has \w{12} there, the search was planned with \w{12}"):
            measured(plan, wrong, hosts, Lines())
    assert said == []
