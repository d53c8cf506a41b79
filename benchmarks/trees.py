"""Training steps of a Tree-LSTM over batches of trees: recursion, fold, and three peers.

A step is forward, a loss at every node, backward and plain SGD; what a program makes of the trees
to batch them is part of it.  The cell is the binary Tree-LSTM of Tai et al. (2015), written out in
the operations of each library, of which ours has one for all gates.  First, all programs must agree
in the loss, in the norm of every gradient and in the loss after a step.  JAX is not among them:
what it compiles is compiled for one shape of tree.
"""

import argparse
import gc
import time
import tracemalloc
from pathlib import Path

import numpy as np

from benchmarks import _tree_data, _tree_ours
from benchmarks._timing import interleaved, machine, print_table, spread
from benchmarks._workers import check_equal, sampler, started

D, H, TREES = 300, 150, 25
LR = 0.05
ROUNDS, A_ROUND = 20, 2  # rounds, and training steps in each
NODES = [1_000, 10_000, 100_000, 1_000_000]
SMALL, FEW = 8, 100  # D and H, and words, where only the growth or the structure matters
JOINED = [1, 10, 40]  # batches in a step whose memory is measured

PROGRAMS = {
    "recursion, deferred": ("_tree_ours", "Deferred", {}),
    "fold": ("_tree_ours", "Fold", {}),
    "eager, a call a node": ("_tree_ours", "Eager", {}),
    "PyTorch, batched by hand": ("_tree_torch", "ByHand", {}),
    "PyTorch, a call a node": ("_tree_torch", "PerNode", {}),
    "PyTorch, and a loss a node": ("_tree_torch", "AllPerNode", {}),
    "DyNet, autobatching": ("_tree_dynet", "TreeLSTM", {"autobatch": 1}),
    "DyNet, no batching": ("_tree_dynet", "TreeLSTM", {"autobatch": 0}),
}
OURS = list(PROGRAMS)[:2]
TARGETS = {  # how many times as many trees in a second, at least, and hoped for
    "PyTorch, batched by hand": (None, 1),
    "PyTorch, a call a node": (20, 30),
    "PyTorch, and a loss a node": (20, 30),
    "DyNet, autobatching": (1.5, 2.5),
}


def main(flags=()):
    """Print trees a second and ratios; then how cost and memory grow with the nodes."""
    args = parser().parse_args(flags)
    print(f"trees: training steps of a Tree-LSTM, H={H}, D={D}, {TREES} trees a step, float32")
    print(machine())
    batches, V, K = _tree_data.read(args.data, TREES)
    nodes = np.mean([len(postfix) for batch in batches for postfix, _ in batch])
    print(
        f"{args.data or 'expressions of the standard library'}: {len(batches)} batches, "
        f"{nodes:.1f} nodes a tree, {V} words, {K} labels"
    )
    compare(batches, _tree_data.parameters(V, D, H, K), 1 if args.quick else args.rounds)
    growth(NODES[:2] if args.quick else NODES)
    memory(batches, K, JOINED[:1] if args.quick else JOINED)


def parser():
    """The flags."""
    p = argparse.ArgumentParser("python -m benchmarks trees", description=__doc__.splitlines()[0])
    p.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="a file of bracketed trees such as `(3 (2 It) (4 works))`, or Python sources; "
        "without it, expressions of the standard library",
    )
    p.add_argument("--rounds", type=int, default=ROUNDS, help=f"how often each is timed, {ROUNDS}")
    p.add_argument("--quick", action="store_true", help="only see that it works, in seconds")
    return p


# ---- side by side ------------------------------------------------------------------------------


def compare(batches, arrays, rounds):
    """Print what each program does in a second, and what ours do for each tree of a peer's."""
    batches = batches[: A_ROUND * (rounds + 1)]
    nodes = np.mean([sum(len(postfix) for postfix, _ in batch) for batch in batches])
    with started(PROGRAMS, batches, arrays, LR, A_ROUND) as workers:
        check_equal(workers)
        seconds = interleaved({name: sampler(w) for name, w in workers.items()}, rounds)
    rows = []
    for name, times in seconds.items():
        us = 1e6 * np.median(times) / (A_ROUND * nodes)
        row = [name, f"{A_ROUND * TREES / np.median(times):.0f}", f"{us:.1f}"]
        rows.append([*row, *[spread(times / seconds[mine]) for mine in OURS]])
    print(f"medians of {rounds} rounds of {A_ROUND} steps; of the ratios, median [quartiles]")
    print_table(["", "trees/s", "us a node", *[f"{mine} is faster" for mine in OURS]], rows)
    for name, (least, hoped) in TARGETS.items():
        if name in seconds:
            reached = np.median(seconds[name] / seconds[OURS[0]])
            target = f"target: {least} times " if least else "aim: as fast as "
            print(f"{target}{name}, aim {hoped}; reached: {reached:.2f}")


# ---- growth ------------------------------------------------------------------------------------


def growth(nodes):
    """Print microseconds for each node of forests of more and more random trees."""
    print(f"cost for each node of random trees of up to 49 nodes, H={SMALL}, D={SMALL}, in us")
    rows = []
    for n in nodes:
        examples = _tree_data.random_examples(n, FEW, np.random.default_rng(0))
        row = [n]
        for kind in (_tree_ours.Fold, _tree_ours.Deferred):
            program = kind([examples], _tree_data.parameters(FEW, SMALL, SMALL, 2), LR, 1)
            row += [f"{us:.2f}" for us in there_and_back(program, n)]
        rows.append(row)
    ways = [f"{kind}, {way}" for kind in ("fold", "deferred") for way in ("forward", "backward")]
    print_table(["nodes", *ways], rows)
    most, before = (float(row[1]) + float(row[2]) for row in (rows[-1], rows[-2]))
    print(f"target: linear; a node of {nodes[-1]} costs {most / before:.2f} of one of {nodes[-2]}")


def there_and_back(program, n):
    """The microseconds for each of `n` nodes, forward and backward: the least of three."""
    best = [np.inf, np.inf]
    for _ in range(3):
        begun = time.perf_counter()
        loss = program.loss(program.batches[0])
        turned = time.perf_counter()
        program.backward(loss)
        del loss
        best = np.minimum(best, np.diff([begun, turned, time.perf_counter()]))
    return 1e6 * best / n


# ---- memory ------------------------------------------------------------------------------------


def memory(batches, K, joined):
    """Print the peak of a step in bytes of the values that its VJPs name.

    The words are numbered modulo a few, so that the table of words is not most of it.
    """
    print("memory of a step, by tracemalloc, in units of the bytes that its VJPs name")
    rows, peaks = [], []
    for count in joined:
        examples = [
            ([min(word, word % FEW) for word in postfix], label)
            for batch in batches[:count]
            for postfix, label in batch
        ]
        for name, kind in zip(OURS, (_tree_ours.Deferred, _tree_ours.Fold), strict=True):
            program = kind([examples], _tree_data.parameters(FEW, D, H, K), LR, 1)
            named, *found = memory_of_step(program)
            peaks.append(found[-1] / named)
            units = [f"{size / named:.3f}" for size in found]
            rows.append([f"{name}, {len(examples)} trees", f"{named / 1e6:.1f}", *units])
    stages = ["parameters' gradients", "kept for the way back", "peak"]
    print_table(["", "unit [MB]", *stages], rows)
    print(f"target: a peak of at most 1.3; reached: {', '.join(f'{x:.3f}' for x in peaks)}")


def memory_of_step(program):
    """Bytes: named by the VJPs, of the parameters' gradients, kept for the way back, the peak."""
    program.step(program.batches[0])  # so that what is made once is there
    gradients = sum(x.grad.array.nbytes for x in program.parameters.values())
    program.optimizer.zero_grad()
    gc.collect()
    tracemalloc.start()
    loss = program.loss(program.batches[0])
    kept, forward_peak = tracemalloc.get_traced_memory()
    named = named_bytes(loss.node, program.parameters.values())
    tracemalloc.reset_peak()  # the marks do not count
    program.backward(loss)
    peak = max(forward_peak, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    return named, gradients, kept, peak


def named_bytes(node, parameters):
    """How many bytes the VJPs of all that `node` was computed from name, each byte once.

    The parameters do not count.
    """
    marks, seen, todo = {}, {node}, [node]
    while todo:
        node = todo.pop()
        for _, _, values in node.edges:
            for value in values:
                if isinstance(value, np.ndarray):
                    mark(marks, value)
        todo += [parent for parent in node.parents() if parent not in seen]
        seen.update(todo)
    for x in parameters:
        marks.pop(owner(x.array).__array_interface__["data"][0], None)
    return sum(int(named.sum()) for named in marks.values())


def mark(marks, view):
    """Mark in `marks`, arrays of a truth value a byte by address, the bytes that `view` shows."""
    whole = owner(view)
    begin = whole.__array_interface__["data"][0]
    named = marks.setdefault(begin, np.zeros(whole.nbytes, bool))
    offset = view.__array_interface__["data"][0] - begin
    shape, strides = (*view.shape, view.itemsize), (*view.strides, 1)
    np.ndarray(shape, bool, named, offset, strides)[...] = True


def owner(array):
    """The array whose memory `array` shows."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
