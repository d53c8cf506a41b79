"""Long runs: many threads, a million steps of truncated BPTT, ten thousand graphs; what is left.

``python -m tests.soak`` runs all in full size, in about ten minutes, and prints the figures;
``test_load.py`` and ``test_reproducible.py`` call the same functions at small size.
"""

import contextlib
import gc
import itertools
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from demos import __main__ as demos
from tests import again, crowd
from tinygrad_rnn import nn

# So many blocks come and go in the caches of Python and NumPy, however long a run is.
SLACK = 500
GROWTH = ("objects", "objects in cycles", "blocks of memory", "bytes in memory")

# ---- what is alive -----------------------------------------------------------------------------


def is_ours(kind):
    """Whether a class is defined in the package."""
    return str(kind.__module__).startswith("tinygrad_rnn")


def census():
    """How many objects of each class of the package are alive: Tensors, Nodes, Terms, Handles."""
    kinds = Counter(type(x) for x in gc.get_objects())
    return {k.__name__: n for k, n in kinds.items() if is_ours(k)}


def blocks():
    """How many blocks of memory Python's own allocator has handed out: each array has one too."""
    return sys.getallocatedblocks()


def resident():
    """The bytes of this process that are in memory; 0 where /proc does not say."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


@contextlib.contextmanager
def collector_off():
    """A context without the cyclic collector: what is in a cycle then stays.

    What is there already is left out, and so is the time to count it: of a suite, millions.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


# ---- long runs of truncated BPTT ---------------------------------------------------------------


class Ledger:
    """What was alive at two instants of a run, between which nothing may have grown."""

    def __init__(self):
        self.pages = []

    def note(self):
        """Write a page: what is alive, what of it lay in cycles, and the memory of the rest.

        The collector is asked last: it also empties the lists in which Python keeps, for later use,
        some thousands of the tuples and numbers that are dropped.
        """
        alive, in_cycles = census(), gc.collect()
        self.pages.append((alive, in_cycles, blocks(), resident()))

    def inputs(self, steps):
        """So many inputs (1, 3), one for each step in time; pages at 10 % and near the end."""
        xs = np.random.default_rng(0).standard_normal((1000, 1, 3))
        for t in range(steps):
            if t in (steps // 10, steps - 10):
                self.note()
            yield xs[t % len(xs)]

    def growth(self):
        """How many more there are: objects of the package, and in cycles any, blocks and bytes."""
        (before, _, *sizes), (after, in_cycles, *sizes_then) = self.pages
        more = Counter(after)
        more.subtract(before)
        found = sum(map(abs, more.values())), in_cycles, *np.subtract(sizes_then, sizes).tolist()
        return dict(zip(GROWTH, found, strict=True))


def by_windows(steps, length=5):
    """What grew in so many time steps of a recurrent net that learns in windows.

    The state is carried from window to window, detached; after each window the optimiser moves.
    """
    ledger, rng, h = Ledger(), np.random.default_rng(0), np.zeros((1, 3))
    U, W, V = (tg.tensor(0.5 * rng.standard_normal((3, 3)), requires_grad=True) for _ in range(3))
    optimizer, inputs = tg.optim.SGD([U, W, V], lr=0.01, momentum=0.9), ledger.inputs(steps)
    while window := list(itertools.islice(inputs, length)):
        loss, h = 0.0, tg.detach(h)
        for x in window:
            h = tg.tanh(x @ U + h @ W)
            loss = loss + ((h @ V - x) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return ledger.growth()


def by_the_lecture(steps, a=3):
    """What grew in so many steps of ``truncated_bptt`` of an LSTM."""
    ledger, cell = Ledger(), nn.LSTMCell(3, 4, rng=np.random.default_rng(0))

    def loss(state, y):
        h, c = state
        return ((h * c).sum() - y) ** 2

    tg.truncated_bptt(cell, loss, ledger.inputs(steps), itertools.repeat(0.5, steps), a)
    return ledger.growth()


# ---- graphs built and dropped ------------------------------------------------------------------


class Wrong(Exception):
    """What a VJP, a hook or a cell raises here, half-way."""


def raising(*_):
    raise Wrong


class Bench(nn.Module):
    """What the graphs are built over: a few weights and cells, and data."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((4, 3)).astype(np.float32)
        self.W = tg.tensor(0.5 * rng.standard_normal((3, 3)), np.float32, requires_grad=True)
        self.cell, self.lstm = nn.RecursiveCell(3, 3, rng=rng), nn.LSTM(3, 4, 2, rng=rng)
        self.table = nn.Embedding(9, 3, rng=rng)
        self.trees = [((1, 2), (3, (4, 5))), (6, (7, 8)), 0]
        self.forest = tg.Structure.trees(self.trees)
        self.words = np.array([item for item in self.forest.items if isinstance(item, int)])
        self.leaf = tg.deferred(lambda word: self.cell(self.table(word)))
        self.compose = tg.deferred(lambda left, right: self.cell(None, left, right))

    def chain(self, steps=12):
        """A recurrent net of the plainest sort: the sum of its last state."""
        h = self.x @ self.W
        for _ in range(steps):
            h = tg.tanh(h @ self.W + self.x)
        return (h * h).sum()

    def tree(self):
        return tg.fold(self.cell, self.forest, {0: self.table(self.words)}).sum()

    def embed(self, tree):
        if isinstance(tree, int):
            return self.leaf(tree)
        return self.compose(*map(self.embed, tree))


GRAPHS = {}


def graph(build):
    """The decorator of a function that builds a graph over a ``Bench``, and forgets it."""
    GRAPHS[build.__name__.replace("_", " ")] = build
    return build


@graph
def chain_dropped(bench):
    bench.chain()


@graph
def chain_and_backward(bench):
    bench.chain().backward()


@graph
def chain_backward_twice(bench):
    y = bench.chain()
    y.backward(retain_graph=True)
    y.backward(retain_graph=True)


@graph
def chain_without_recording(bench):
    with tg.no_grad():
        bench.chain()


@graph
def fold_dropped(bench):
    bench.tree()


@graph
def fold_and_backward(bench):
    bench.tree().backward()


@graph
def layers_and_backward(bench):
    output, (_, c) = bench.lstm([bench.x, bench.x[:2]])
    (output[0].sum() + c.sum()).backward()


@graph
def deferred_and_backward(bench):
    tg.stack([bench.embed(tree) for tree in bench.trees]).sum().backward()


@graph
def handles_never_run(bench):
    [bench.embed(tree) for tree in bench.trees]


@graph
def deferred_cell_that_raises(bench):
    handles = [bench.embed(tree) for tree in bench.trees]
    with contextlib.suppress(Wrong):
        tg.stack([*handles, tg.deferred(raising)(handles[0])])


@graph
def deferred_of_wrong_shapes(bench):
    with contextlib.suppress(tg.ShapeError):
        tg.stack([bench.compose(bench.x[0], bench.x[0, :2]), bench.leaf(1)])


@graph
def call_that_fails(bench):
    h = tg.tanh(bench.x @ bench.W)
    for wrong in (bench.x, np.ones(7)):
        for call in (tg.matmul, tg.add):  # refused by us, and by NumPy
            with contextlib.suppress(tg.ShapeError):
                call(h, wrong[1:])


@graph
def backward_of_backward(bench):
    x = tg.tensor(bench.x, requires_grad=True)
    g = tg.grad(tg.tanh(tg.tanh(x @ bench.W) @ bench.W).sum(), x, create_graph=True)
    (g * g).sum().backward()


@graph
def gradients_kept_as_a_graph(bench):
    bench.tree().backward(create_graph=True)
    bench.chain().backward(create_graph=True)


@graph
def hessian_times_vector(bench):
    tg.hvp(lambda x: (tg.tanh(x) ** 2).sum(), bench.x, bench.x)
    tg.jvp(tg.tanh, bench.x, bench.x)


@graph
def hooks_and_kept_gradients(bench):
    h = tg.tanh(bench.W)
    h.retain_grad()
    seen = []
    h.register_hook(seen.append)
    h.register_hook(lambda g: 2.0 * g)
    (h * h).sum().backward()


@graph
def hook_that_raises(bench):
    h = tg.tanh(bench.W)
    h.register_hook(raising)
    with contextlib.suppress(Wrong):
        (h @ h).sum().backward()


_half_way = tg.op(x=raising)(lambda x: x + 1.0)
tg.engine.OPERATIONS.pop("<lambda>")  # it is none of the package's


@graph
def vjp_that_raises(bench):
    h = _half_way(tg.tanh(bench.W))
    with contextlib.suppress(Wrong):
        (h @ h).sum().backward()
    with contextlib.suppress(Wrong):
        tg.grad((h @ h).sum(), bench.W, create_graph=True)


@graph
def graph_that_was_freed(bench):
    y = bench.chain()
    y.backward()
    with contextlib.suppress(tg.GraphFreedError):
        y.backward()


@graph
def checkpoint_dropped(bench):
    tg.checkpoint(bench.tree)


@graph
def checkpoint_and_backward(bench):
    tg.checkpoint(lambda h: tg.checkpoint(tg.tanh, h @ bench.W), bench.W).sum().backward()


@graph
def checkpoint_that_changes(bench):
    factors = iter([1.0, 2.0])
    y = tg.checkpoint(lambda w: (w * next(factors)).sum(), bench.W)
    with contextlib.suppress(tg.NotTrackedError):
        y.backward()


@graph
def step_of_an_optimiser(bench):
    loss = bench.tree()
    optimizer = tg.optim.Adam(bench.cell.parameters(), lr=0.0)
    loss.backward()
    optimizer.step()


def built_and_dropped(names, bench, times):
    """What grew over so many graphs of each sort, after a few that fill caches."""
    ledger = Ledger()
    for i in range(times + 5):
        if i == 5:
            ledger.note()
        for name in names:
            GRAPHS[name](bench)
            bench.zero_grad()
    ledger.note()
    return ledger.growth()


def deep(bench, depth):
    """Build graphs of that depth, and drop each: a call for each step would exhaust the stack."""
    bench.chain(depth)
    bench.chain(depth).backward()
    h = x = tg.tensor(1.0, requires_grad=True)
    for _ in range(depth):
        h = h * 0.999
    g = tg.grad(h * h, x, create_graph=True)
    del h, g
    h = bench.leaf(0)
    for _ in range(depth):
        h = bench.compose(h, bench.x[0])
    bench.zero_grad()


# ---- the figures -------------------------------------------------------------------------------


def of_threads(full):
    size, rounds, steps = 24, 10 if full else 1, 20 if full else 2
    differing = [name for _ in range(rounds) for name in crowd.differing(size, steps)]
    reads = 50 if full else 2
    return {
        "threads at a time": size,
        "sorts of programs in them": len(crowd.PROGRAMS) + 1,
        "programs run in a crowd": size * rounds,
        "programs that found other bits in a crowd than alone": len(differing),
        "readings of one model by all threads": size * reads,
        "threads that read one model and found other bits than alone": len(
            crowd.misread(size, reads)
        ),
    }


def of_long_runs(full):
    found = {}
    for name, run, steps, length in [
        ("truncated BPTT by windows", by_windows, 2_000_000 if full else 2_000, 2),
        ("truncated BPTT as in the lecture", by_the_lecture, 100_000 if full else 500, 3),
    ]:
        found[f"{name}, steps in time"] = steps
        found |= {f"{name}, more {what}": n for what, n in run(steps, length).items()}
    found["updates of weights in windows of 2"] = (
        found["truncated BPTT by windows, steps in time"] // 2
    )
    return found | {"blocks that may come and go in caches, however long a run is": SLACK}


def of_graphs(full):
    bench, times = Bench(), -(-10_000 // len(GRAPHS)) if full else 5
    growth = built_and_dropped(GRAPHS, bench, times)
    depth = 100_000 if full else 10_000
    deep(bench, depth)
    found = {"sorts of graphs": len(GRAPHS), "graphs built and dropped": times * len(GRAPHS)}
    found |= {f"graphs built and dropped, more {what}": n for what, n in growth.items()}
    return found | {"depth of graphs dropped without recursion": depth}


def of_processes(full):
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        one, two = (again.with_blas_threads(n, folder / f"{n}.npz") for n in (1, 2))
        elsewhere = two.metadata["seconds elsewhere"]
        found["seconds that the second BLAS thread computed"] = f"{elsewhere:.1f}"
        for (dtype, what), (difference, bound) in again.differences(one, two).items():
            found[f"1 and 2 BLAS threads, {what} in {dtype}, relative difference"] = (
                f"{difference:.1e} (bound {bound:.1e})"
            )
        unlike, count = set(), 0
        names = demos.MINUTES if full else again.WITHOUT_FLAGS
        for name in names:
            files, all_of_them = again.unlike(name, folder)
            unlike |= {f"{name}: {file}" for file in files}
            count += all_of_them
    found["demos run twice, with other hashes"] = len(names)
    found["files that they leave"] = count
    found["files that were not the same again"] = ", ".join(sorted(unlike)) or "none"
    return found


PARTS = (of_threads, of_long_runs, of_graphs, of_processes)


def figures(full, parts=PARTS):
    """What was tried and what came of it, by phrase; ``full`` takes about ten minutes."""
    found = {}
    for part in parts:
        began = time.monotonic()
        with collector_off() if part in (of_long_runs, of_graphs) else contextlib.nullcontext():
            found |= part(full)
        found[f"minutes of the runs {part.__name__.replace('_', ' ')}"] = round(
            (time.monotonic() - began) / 60, 1
        )
    return found


def main():
    for phrase, figure in figures(full=True).items():
        print(f"{phrase:<75}{figure:,}" if isinstance(figure, int) else f"{phrase:<75}{figure}")


if __name__ == "__main__":
    main()
