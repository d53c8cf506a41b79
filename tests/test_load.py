"""Laws of load: threads keep to themselves, long runs do not grow, a graph goes when it is dropped.

What threads may do at the same time: whatever they like with models, optimisers and files of their
own; and read one model, for ``tg.grad`` returns gradients and leaves ``.grad`` alone.  What they
may not, and nobody checks: ``backward`` through one model, for each adds to the ``.grad`` of the
same parameters and some of the sums are lost; moving parameters while others read them; drawing
from the one default generator, if the numbers are to come again; and going on, in one thread, with
another task of asyncio between deferred calls and their run, for all that waits in a thread is run
as one graph.
"""

import asyncio
import contextlib
import threading

import numpy as np
import pytest

import tinygrad_rnn as tg
from tests import crowd, soak
from tinygrad_rnn import engine

pytestmark = pytest.mark.unwatched  # programs and graphs that are to be watched say so themselves

# ---- threads and tasks -------------------------------------------------------------------------


def test_in_a_crowd_every_thread_finds_what_it_finds_alone():
    assert crowd.differing(24, steps=4) == []


def test_many_threads_read_one_model():
    assert crowd.misread(24, times=2) == []


@pytest.mark.parametrize("program", crowd.PROGRAMS, ids=lambda program: program.__name__)
def test_what_a_program_finds_depends_on_its_seed(program):  # else it would show nothing
    assert crowd.done((program, 1), 1) != crowd.done((program, 2), 1)


def test_tasks_that_take_turns_find_what_they_find_alone():
    seeds = range(8)
    found = asyncio.run(crowd.tasks_at_once(seeds, 3))
    for seed, one in zip(seeds, found, strict=True):
        alone = asyncio.run(crowd.task(np.random.default_rng(seed), 3))
        assert crowd.bits(one) == crowd.bits(alone)


def elsewhere(function):
    """What ``function`` returns in another thread."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_a_checkpoint_that_draws_again_does_not_take_other_threads_back():
    drawn = []

    def dropping(h):
        h = tg.dropout(h, 0.5)
        drawn.append(elsewhere(lambda: tg.default_rng().random()))
        return h

    h = tg.tensor(np.ones(3), requires_grad=True)
    tg.checkpoint(dropping, h).sum().backward()
    drawn.append(tg.default_rng().random())
    rng = tg.manual_seed(0)  # as the test began
    mask = (rng.random(3) >= 0.5) * 2.0
    np.testing.assert_array_equal(h.grad.array, mask)
    assert drawn == rng.random(3).tolist()


def test_a_watched_function_may_run_in_several_threads_at_a_time():
    met = threading.Barrier(2, timeout=10)

    @tg.detect_anomaly()
    def watched(order):
        for _ in range(order):
            met.wait()  # the first to come in is the first to go

    def bare():
        watched(1)
        met.wait()
        return engine.OBSERVER.get()

    def within():
        with tg.detect_anomaly(inf=True):
            outer = engine.OBSERVER.get()
            watched(2)
            return engine.OBSERVER.get() is outer

    assert crowd.together([bare, within]) == [None, True]


# ---- long runs ---------------------------------------------------------------------------------


def assert_flat(growth):
    assert growth["objects"] == growth["objects in cycles"] == 0
    assert growth["blocks of memory"] < soak.SLACK


@pytest.mark.parametrize("run, steps", [(soak.by_windows, 5_000), (soak.by_the_lecture, 1_500)])
def test_a_long_run_of_truncated_bptt_does_not_grow(run, steps):
    with soak.collector_off():
        assert_flat(run(steps))


@pytest.mark.parametrize("watch", [contextlib.nullcontext, tg.detect_anomaly])
def test_graphs_of_every_sort_leave_nothing(watch):
    bench = soak.Bench()
    with watch(), soak.collector_off():
        assert_flat(soak.built_and_dropped(soak.GRAPHS, bench, 25))


def test_handles_that_are_dropped_before_they_run_do_not_add_up():
    cell = tg.deferred(tg.tanh)
    assert cell(0.0).value == 0  # and nothing waits from elsewhere
    kept = [cell(float(i)) for i in range(500)]
    with soak.collector_off():
        before = soak.blocks()
        for _ in range(20_000):
            cell(1.0)
        assert soak.blocks() - before < 2_500  # those of 500 calls that wait, and as many
    assert [one.value.item() for one in kept] == np.tanh(np.arange(500, dtype="f4")).tolist()


def test_deep_graphs_are_dropped_without_recursion():
    with soak.collector_off():
        bench, before = soak.Bench(), soak.census()
        soak.deep(bench, 100_000)
        assert soak.census() == before


def test_the_figures_are_those_of_the_runs():
    with soak.collector_off():
        found = soak.of_long_runs(full=False) | soak.of_graphs(full=False)
    assert found["graphs built and dropped"] == 5 * found["sorts of graphs"] == 5 * len(soak.GRAPHS)
    more = {phrase: n for phrase, n in found.items() if ", more objects" in phrase}
    assert len(more) == 6 and not any(more.values())


def test_a_leak_is_found(monkeypatch):
    """Each of three sorts: what is kept in a list, what lies in a cycle, and arrays."""
    bench, kept = soak.Bench(), []
    monkeypatch.setitem(soak.GRAPHS, "listed", lambda bench: kept.append(bench.chain()))
    monkeypatch.setitem(soak.GRAPHS, "arrays", lambda bench: kept.append(bench.chain().array))

    def in_a_cycle(bench):
        y = bench.chain()
        y.node.watch = engine.Watch()
        y.node.watch.hooks[0] = lambda g: y

    monkeypatch.setitem(soak.GRAPHS, "cycle", in_a_cycle)
    with soak.collector_off():
        listed, cycle = (soak.built_and_dropped([name], bench, 10) for name in ("listed", "cycle"))
        arrays = soak.built_and_dropped(["arrays"], bench, soak.SLACK)
    assert listed["objects"] > 100 and listed["objects in cycles"] == 0
    assert cycle["objects"] > 100 and cycle["objects in cycles"] > 100
    assert arrays["objects"] == 0 and arrays["blocks of memory"] >= soak.SLACK
