"""Steps and evaluations as graphs, on a device that stands for a GPU: what was captured is done again as it was."""

import dataclasses
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from torch.utils._pytree import tree_leaves

from benchmarks.operations import READS
from strategies import RankBudget
from tests.trainables.test_standing_memory import as_on_a_gpu as as_on_a_gpu
from trainables.data.splits import DataSource
from trainables.engine.batcher import BatchedExecutor
from trainables.engine.footprint import LiveBytes
from trainables.engine.pack import Pack
from trainables.engine.torch_compat import storage_id
from trainables.models import device
from trainables.models.base_model import load
from trainables.models.device import CUDA, Device, device_of
from trainables.spec import Workload

WAITS = {*READS, "aten::lift_fresh", "aten::equal"}
"""Operators for which a GPU's queue is waited for, since Python gets or gives numbers: no capture survives them."""


class Touched(LiveBytes):
    """Notes where tensors lie that a pass is not the first to have, and what is left of those that it makes."""

    def __init__(self):
        super().__init__()
        self.from_outside = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.name().partition(".")[0] not in WAITS
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor) and storage_id(tensor.untyped_storage()) not in self._sizes:
                self.from_outside.add(tensor.untyped_storage().data_ptr())
                self.leave_out([tensor])
        return super().__torch_dispatch__(func, types, args, kwargs)


class FakeGraphs:
    """Does a captured pass again as a graph would: with what lies in the memory of the first time."""

    def __init__(self):
        self.warmed_up = self.captures = self.replays = self.forgotten = 0

    def forget(self):
        self.forgotten += 1

    def warm_up(self, work):
        self.warmed_up += 1
        return work()

    def capture(self, work):
        self.captures += 1
        results, places = [], []

        def replay():
            self.replays += 1
            with Touched() as touched:
                result = work()
            assert touched.now == result.untyped_storage().nbytes(), "a pass has made something that stays"
            places.append(touched.from_outside)
            assert touched.from_outside == places[0], "a pass has looked where the one that was captured did not"
            results.append(result)
            return results[0].copy_(result)

        return replay


@pytest.fixture
def graphs(monkeypatch, as_on_a_gpu):
    graphs = FakeGraphs()
    monkeypatch.setattr(Device, "graphs", lambda _: graphs)
    return graphs


@pytest.fixture
def long(workload):
    return dataclasses.replace(workload, epochs=30)


def life(workload, spec, strategies=("linear_decay", "adalora"), steps=24, **choices):
    """Return a pack of trials that come, leave and diverge, and all that came of it."""
    pack = Pack.of(workload, 4)
    slots = [
        pack.admit(workload, spec(kind, learning_rate=0.01, seed=n, **choices)) for n, kind in enumerate(strategies * 2)
    ]
    every, measured = list(slots), []
    for step in range(steps):
        if step == steps // 3:
            pack.forget(slots.pop(0))
            every.append(pack.admit(workload, spec("linear_decay", learning_rate=0.02, seed=9, **choices)))
            slots.append(every[-1])
        if step == 2 * steps // 3:
            with torch.no_grad():
                slots[0].learner.parameters[0].fill_(math.nan)
        pack.step([slot for slot in slots if not slot.failure])
        if step % 5 == 4:
            measured += pack.evaluate([slot for slot in slots if not slot.failure], "validation")
    losses = [slot.learner.recent.loss for slot in every]
    return (
        pack,
        every,
        [tensor.detach() for slot in every for tensor in slot.learner.adapter.parameters],
        losses,
        measured,
    )


def same(one, other):
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.search
def test_trials_that_come_leave_and_diverge_are_trained_by_graphs_as_without(long, spec, graphs, monkeypatch):
    pack, slots, tensors, *numbers = life(long, spec)
    assert graphs.captures == pack.passes.captured < graphs.replays == pack.passes.replayed
    assert graphs.replays > 20
    assert [slot.failure is not None for slot in slots] == [False, True, False, False, False]
    assert pack.resource_events == []
    monkeypatch.setattr(Device, "graphs", lambda _: None)
    _, _, expected, *expected_numbers = life(long, spec)
    assert all(map(same, tensors, expected))
    assert numbers == expected_numbers


@pytest.mark.search
def test_blocks_skipped_below_and_blocks_computed_twice_are_captured_with_the_rest(long, spec, graphs, monkeypatch):
    twice = dataclasses.replace(long, recomputes=True)
    upper = {"linear_decay": {"slope": -3.0}}
    _, slots, tensors, *numbers = life(twice, spec, ("linear_decay",), 9, **upper)
    assert slots[-1].prefix
    assert graphs.replays
    monkeypatch.setattr(Device, "graphs", lambda _: None)
    _, _, expected, *expected_numbers = life(twice, spec, ("linear_decay",), 9, **upper)
    assert all(map(same, tensors, expected))
    assert numbers == expected_numbers


def stepped(workload, spec, steps, trials=2):
    pack = Pack.of(workload, 4)
    slots = [pack.admit(workload, spec(learning_rate=0.01, seed=seed)) for seed in range(trials)]
    for _ in range(steps):
        pack.step(slots)
    return pack, slots


def weights(slots):
    return [tensor.detach() for slot in slots for tensor in slot.learner.parameters]


@pytest.mark.search
def test_every_architecture_computes_what_can_be_captured(model_folder, tiny_text, spec, graphs):
    data = DataSource(str(tiny_text), train_examples=16, validation_examples=8, test_examples=8, max_length=4)
    budget = RankBudget.like_uniform(2, load(str(model_folder)).sites)
    workload = Workload(str(model_folder), data, budget, epochs=8, batch_size=4, reports=2, scale=2.0)
    pack, slots = stepped(workload, spec, 6)
    for _ in range(2):
        pack.evaluate(slots, "validation")
    assert graphs.captures > 1
    assert pack.resource_events == []
    assert not any(slot.failure for slot in slots)


def same_lengths(workload):
    """Have all rows be as long, so that there is one shape."""
    return dataclasses.replace(workload, data=dataclasses.replace(workload.data, max_length=4))


def test_a_shape_is_captured_the_third_time_and_trials_that_come_have_others(long, spec, graphs):
    long = same_lengths(long)
    pack, slots = stepped(long, spec, 2)
    assert (graphs.warmed_up, graphs.captures, graphs.replays) == (2, 0, 0)
    pack.step(slots), pack.step(slots)
    assert (graphs.warmed_up, graphs.captures, graphs.replays) == (2, 1, 2)
    pack.step(slots[:1])
    assert graphs.warmed_up == 3
    slots.append(pack.admit(long, spec(learning_rate=0.01)))
    assert not pack.passes._replays, "the memory has moved"
    pack.step(slots)
    assert (graphs.warmed_up, graphs.captures) == (4, 1)
    pack.forget(slots[2])
    pack.step(slots[:2])
    assert graphs.warmed_up == 5


def test_a_pass_is_warmed_up_and_captured_on_one_thread_whoever_asks(long, spec, graphs, monkeypatch):
    """Libraries of a GPU make a handle for each thread, and cannot while a graph is captured."""
    threads = set()
    for name in ("warm_up", "capture"):
        asked = getattr(graphs, name)
        monkeypatch.setattr(graphs, name, lambda work, do=asked: threads.add(threading.get_ident()) or do(work))
    executor = BatchedExecutor(Pack.of(same_lengths(long), 4))
    for seed in range(3):
        session = executor.admit(same_lengths(long), spec(learning_rate=0.01, seed=seed))
        for _ in range(4):
            with ThreadPoolExecutor(1) as pool:
                pool.submit(session.train, 2).result()
        session.close()
    assert graphs.captures > 1
    assert len(threads) == 1


def test_graphs_make_room_for_what_trials_wait_for_and_come_again(long, spec, graphs):
    long = same_lengths(long)
    pack, slots = stepped(long, spec, 3)
    before = graphs.forgotten
    pack.make_room()
    assert not pack.passes._replays
    assert graphs.forgotten == before + 1, "PyTorch refuses memory of graphs that are all gone"
    for _ in range(3):
        pack.step(slots)
    assert (graphs.captures, graphs.warmed_up) == (2, 4)


def test_two_passes_of_one_shape_keep_a_result_each(long, spec, graphs):
    pack, slots = stepped(same_lengths(long), spec, 1)
    first, _, again = (pack.evaluate(slots, "validation") for _ in range(3))
    assert graphs.replays > 2
    assert again == first
    assert again[0][:4] != again[0][4:]


def test_a_pass_that_cannot_be_captured_is_done_as_usual_and_said_once(long, spec, graphs, monkeypatch):
    def fails(work):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(graphs, "capture", fails)
    pack, slots = stepped(long, spec, 8)
    assert pack.resource_events == [
        "passes are no CUDA graphs any more: one could not be captured (operation not permitted when stream is "
        "capturing); memory that it had may stay taken"
    ]
    assert not any(slot.failure for slot in slots)
    monkeypatch.setattr(Device, "graphs", lambda _: None)
    assert all(map(torch.equal, weights(slots), weights(stepped(long, spec, 8)[1])))


def test_graphs_give_way_before_passes_get_smaller(long, spec, graphs, monkeypatch):
    long, full = same_lengths(long), []
    capture = graphs.capture

    def once_full(work):
        replay = capture(work)

        def failing():
            full.append(True)
            raise torch.OutOfMemoryError("there is no more")

        return replay if full else failing

    monkeypatch.setattr(graphs, "capture", once_full)
    pack, slots = stepped(long, spec, 6)
    assert pack.resource_events == ["passes are no CUDA graphs any more: memory did not suffice beside theirs"]
    assert pack.max_trials_per_pass > 2
    assert [slot.learner.step for slot in slots] == [6, 6]
    monkeypatch.setattr(Device, "graphs", lambda _: None)
    assert all(map(torch.equal, weights(slots), weights(stepped(long, spec, 6)[1])))


def test_steps_with_dropout_are_not_captured_and_their_evaluations_are(long, spec, graphs):
    pack, slots = stepped(dataclasses.replace(long, dropout=0.3), spec, 6)
    assert graphs.warmed_up == 0
    for _ in range(3):
        pack.evaluate(slots, "test")
    assert graphs.captures > 0


def test_nothing_is_captured_on_a_cpu_nor_where_it_is_not_wanted(long, spec, graphs, monkeypatch):
    stepped(dataclasses.replace(long, captures=False), spec, 4)
    assert graphs.warmed_up == 0
    monkeypatch.undo()
    assert device_of("cpu").graphs() is None
    assert not Pack.of(long, 4).passes.captures


def test_rows_laid_out_ahead_are_those_that_are_wanted_or_laid_out_anew(long, spec, monkeypatch):
    expected = weights(stepped(long, spec, 6)[1])
    monkeypatch.setattr(Device, "queues", True)
    pack, slots = stepped(long, spec, 6)
    assert pack._layout.used_ahead == 5
    assert all(map(torch.equal, weights(slots), expected))
    pack.step(slots[1:])
    assert pack._layout.used_ahead == 5
    while not slots[0].learner.done:
        pack.step(slots[:1])
    assert pack._layout._ahead is None, "there is no row after the last"


class FakeCuda:
    """Streams and graphs of ``torch.cuda``, of which it is noted what they are asked."""

    def __init__(self, fails):
        self.asked, self.current, self.fails = [], "default", fails

    def stream(self, stream):
        cuda = self

        class Within(nullcontext):
            def __enter__(self):
                self.before, cuda.current = cuda.current, stream

            def __exit__(self, *error):
                cuda.current = self.before

        return Within()

    def graph(self, graph, **options):
        cuda = self

        class Capturing(nullcontext):
            def __enter__(self):
                cuda.asked.append(options)
                self.within = cuda.stream(options["stream"])
                self.within.__enter__()

            def __exit__(self, *error):
                if cuda.fails:  # as PyTorch's, which then leaves the stream the current one
                    raise RuntimeError("operation failed due to a previous error during capture")
                self.within.__exit__(*error)

        return Capturing()


@pytest.fixture
def fake_cuda(monkeypatch):
    """A function that puts a ``FakeCuda`` into PyTorch's place: what captures, and the default stream."""

    def install(fails=False, free=10, peak=30):
        class Stream:
            def wait_stream(self, other):
                cuda.asked.append(("waits for", other))

        class Default(str):
            def wait_stream(self, other):
                cuda.asked.append(("is waited for by", self, other))

        class Graph:
            def replay(self):
                cuda.asked.append("replay")

        cuda, pools = FakeCuda(fails), iter(["pool", "another pool"])
        cuda.current = Default("default")
        replaced = {"Stream": Stream, "CUDAGraph": Graph, "graph_pool_handle": lambda: next(pools), "graph": cuda.graph,
                    "stream": cuda.stream, "current_stream": lambda: cuda.current, "memory_allocated": lambda: 5,
                    "memory_reserved": lambda: 20, "max_memory_allocated": lambda: peak,
                    "mem_get_info": lambda: (free, 100)}  # fmt: skip
        for name, value in replaced.items():
            monkeypatch.setattr(torch.cuda, name, value)
        return cuda, cuda.current

    return install


@pytest.mark.parametrize("fails", [False, True])
def test_a_graph_of_cuda_is_warmed_up_and_captured_on_one_stream_that_is_never_left_the_current_one(fake_cuda, fails):
    cuda, default = fake_cuda(fails)
    graphs = device_of(CUDA).graphs()
    streams = []
    graphs.warm_up(lambda: streams.append(cuda.current))
    assert cuda.asked == [("waits for", default), ("is waited for by", default, streams[0])]
    cuda.asked.clear()
    if fails:
        with pytest.raises(RuntimeError, match="during capture"):
            graphs.capture(lambda: "result")
    else:
        replay = graphs.capture(lambda: streams.append(cuda.current) or "result")
        assert cuda.asked == [{"pool": "pool", "stream": streams[0], "capture_error_mode": "thread_local"}]
        assert (replay(), streams[0], cuda.asked[1:]) == ("result", streams[1], ["replay"])
    assert cuda.current == default
    assert device.CudaGraphs is type(graphs)


def test_what_follows_a_warm_up_that_fails_waits_for_it_as_well(fake_cuda):
    cuda, default = fake_cuda()
    with pytest.raises(ZeroDivisionError):
        device_of(CUDA).graphs().warm_up(lambda: 1 / 0)
    assert [word for word, *_ in cuda.asked] == ["waits for", "is waited for by"]
    assert cuda.current == default


def test_nothing_is_captured_where_less_memory_is_free_than_the_largest_pass_took(fake_cuda):
    cuda, _ = fake_cuda(free=9, peak=30)
    with pytest.raises(RuntimeError, match="MB of memory are free, and it may take"):
        device_of(CUDA).graphs().capture(lambda: "result")
    assert cuda.asked == []


def test_graphs_after_all_others_are_gone_have_memory_of_their_own(fake_cuda):
    cuda, _ = fake_cuda()
    graphs = device_of(CUDA).graphs()
    graphs.forget()
    graphs.capture(lambda: "result")
    assert cuda.asked[0]["pool"] == "another pool"
