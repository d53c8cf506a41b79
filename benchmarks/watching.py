"""What it costs that somebody may watch: the engine against a copy of it without its guards.

The copy has no place for an observer, asks no leaf for its version, and its optimisers take any
gradient.  Both run the same programs in turns.  A third figure is the price of `detect_anomaly`.
"""

import shutil
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from benchmarks._timing import interleaved, machine, print_table, spread

ROUNDS, REPEATS = 60, 5
TARGET = 1.05  # of the time without guards
BARE = "bare_rnn"

GUARDS = {  # what is cut out of the copy, line by line
    "engine.py": {
        "        self.origin: Any = None  # what an observer has written down of the call\n": "",
        "        observer = OBSERVER.get()\n"
        "        body = forward if observer is None else observer.body(operation)\n": "",
        "y = body(": "y = forward(",
        "        if observer is not None:\n"
        "            observer.recorded(node, operation, values, y)\n": "",
    },
    "sweep.py": {
        "        if node.watch is not None and is_changed(node, source):\n"
        "            raise changed(node, source)\n": "",
        "observer, settle = OBSERVER.get(), settled if": "settle = settled if",
        "    if observer is not None:\n"
        "        arrive, settle = observer.watching(arrive), observer.settling(settle)\n": "",
        "        if observer is not None:\n            edges = observer.edges(node)\n": "",
    },
    "optim.py": {"        if check_finite:\n": "        if False:\n"},
}


def main():
    """Print, for each program, milliseconds and what guards and watching add to them."""
    print("watching: the engine and a copy without its guards")
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        bare = without_guards(Path(folder))
        rows = [row_of(name, program, bare) for name, program in PROGRAMS.items()]
    print(f"ms, median of {ROUNDS} rounds; of the ratios, median [quartiles]")
    print_table(["", "ms", "with guards / without", "watched / not"], rows)
    print(f"target: with guards / without at most {TARGET}")


def without_guards(folder):
    """The package under another name, with all in `GUARDS` cut out."""
    copy = folder / BARE
    shutil.copytree(Path(tg.__file__).parent, copy)
    for name, cuts in GUARDS.items():
        source = (copy / name).read_text(encoding="utf-8")
        for guard, instead in cuts.items():
            assert guard in source, f"{name} should have:\n{guard}"
            source = source.replace(guard, instead)
        (copy / name).write_text(source, encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        return import_module(BARE)
    finally:
        sys.path.remove(str(folder))


def row_of(name, program, bare):
    """The row of the table for one program."""
    guarded, unguarded = program(tg), program(bare)

    def watched():
        with tg.detect_anomaly():
            guarded()

    samplers = {"guarded": guarded, "bare": unguarded, "watched": watched}
    ms = interleaved({key: sampler(run) for key, run in samplers.items()}, ROUNDS)
    guards, watch = ms["guarded"] / ms["bare"], ms["watched"] / ms["guarded"]
    return name, f"{np.median(ms['guarded']):.2f}", spread(guards, "{:.3f}"), spread(watch)


def sampler(run):
    """A function that times `run`: milliseconds."""

    def sample():
        begun = time.perf_counter()
        for _ in range(REPEATS):
            run()
        return (time.perf_counter() - begun) * 1e3 / REPEATS

    return sample


# ---- the programs: a training step each --------------------------------------------------------


def chain(library):
    """200 operations on 32x32 in a row: nothing but recording, and going back."""
    x = np.random.default_rng(0).standard_normal((32, 32), np.float32)

    def run():
        h = library.tensor(x, requires_grad=True)
        for _ in range(200):
            h = library.tanh(h)
        library.sum(h).backward()

    return run


def layer(library):
    """An LSTM layer, T=16, B=8, D=H=32, with Adam."""
    rng = np.random.default_rng(0)
    lstm, x = library.nn.LSTM(32, 32, rng=rng), rng.standard_normal((16, 8, 32), np.float32)
    optimizer = library.optim.Adam(lstm.parameters())

    def run():
        output, _ = lstm(x)
        optimizer.zero_grad()
        library.mean(output * output).backward()
        optimizer.step()

    return run


def trees(library):
    """A Tree-LSTM over ten trees of 32 leaves, H=50, with a table of words and SGD."""
    rng = np.random.default_rng(0)
    forest = library.Structure.trees([full(5)] * 10)
    table = library.nn.Embedding(100, 50, rng=rng)
    cell = library.nn.TreeLSTMCell(50, 50, 2, rng=rng)
    ids = rng.integers(0, 100, len(forest))
    optimizer = library.optim.SGD([*table.parameters(), *cell.parameters()], lr=1e-3)

    def run():
        h, _ = library.fold(cell, forest, table(ids))
        optimizer.zero_grad()
        library.mean(h * h).backward()
        optimizer.step()

    return run


def full(depth):
    """A full binary tree of nested tuples."""
    return (full(depth - 1), full(depth - 1)) if depth else "word"


PROGRAMS = {"chain of tanh": chain, "LSTM layer": layer, "Tree-LSTM": trees}


if __name__ == "__main__":
    main()
