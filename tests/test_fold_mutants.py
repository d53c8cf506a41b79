"""The laws of fold and deferred can fail: each part of them is spoiled, and a law has to see it.

A mutant that dies of an error of its own does not count as caught: the law has to find another
value, another gradient, or another number of calls.
"""

import types
from importlib import import_module

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import backend, rows
from tinygrad_rnn.cotangents import Sum
from tinygrad_rnn.linear import Placed

from .test_deferred import by_calls, counting, stacked, undeferred
from .test_fold import (
    D,
    H,
    Net,
    Structure,
    assert_close,
    assert_same_run,
    leaf,
    loss_of,
    node_by_node,
)

deferred, fold = (import_module(f"tinygrad_rnn.{name}") for name in ("deferred", "fold"))

GRAPHS = [
    [[]],
    [[], [], [0, 1], [2, 0], [3], []],
    [[3, 1, 4], [], [5, 5], [1], [2], []],
    [[], [0], [1], [2]],
    [[1], [2], [4], [4, 4, 2], []],
    [[], [0], [0], [1, 2], [2, 1], [3, 4, 3]],
    [[], [], [], [2, 0], [1, 2], [0], [5, 3]],
]


def fold_laws():
    """Against one node at a time: values, gradients, gradients that are recorded."""
    for seed, children in enumerate(GRAPHS):
        for begin in (False, True):
            net = Net(seed)
            x, structure = leaf(net.rng, len(children), D), Structure.dag(children)
            initial = leaf(net.rng, len(structure.leaves), H)
            state = (initial, initial) if begin else None
            leaves = [x, *net.weights(), *([initial] if begin else [])]
            one = tg.fold(net.two, structure, x, state)
            other = node_by_node(net.two, children, x, state)
            assert_same_run(one, other, leaves)
            recorded = [
                tg.grad(loss_of(run), [x, net.U], create_graph=True)
                for run in (
                    tg.fold(net.two, structure, x, state),
                    node_by_node(net.two, children, x, state),
                )
            ]
            assert_close(*recorded)
        counts = [len(own) for own in children]
        words = leaf(net.rng, counts.count(0), D)
        cells = {0: net.one, 1: lambda x, h: h * 0.5, 2: net.pair, 3: lambda x, a, b, c: a - b * c}
        one = tg.fold(cells, structure, {0: words})
        padded = tg.scatter(words, structure.leaves, (len(children), D))
        assert_same_run(one, node_by_node(cells, children, padded), [words, net.U, net.R])
    single = {0: lambda x: x.astype("f"), 1: lambda x, h: x + h}
    h = tg.fold(single, Structure.chains([2]), np.full((2, 1), 1 / 3))
    assert h.dtype == np.float64 and h[1] == np.float64(np.float32(1 / 3)) + 1 / 3


def pair(self, x, a, b):
    return tg.tanh(a @ self.R - b)


Net.pair = pair


class Program:
    """Deferred calls with words, numbers, lists, parts, several runs, and calls under no_grad."""

    def __init__(self, how):
        self.net, self.how = Net(3), how
        self.x = leaf(self.net.rng, 6, H)

    def run(self):
        add = self.how(
            lambda word, xs, k: (
                {"a": 1, "b": 2}[word] * k[:, None] * sum(j * x for j, x in enumerate(xs, 1))
            )
        )
        two = self.how(lambda a, b: (tg.tanh(a @ self.net.R + b), a - b))
        shift = np.ones(H)
        first = [two(self.x[i], shift) for i in range(6)]
        shift[:] = 100.0
        hs = [first[i % 6] for i in (5, 0, 3, 3, 1)]
        early = add("b", [h[i % 2] for i, h in enumerate(hs)], 3)
        _ = getattr(early, "value", early)
        xs = [first[4][1], first[2][0]]
        late = [add(word, xs, k) for word, k in (("a", 0.5), ("b", 2.0), ("b", 7), ("a", 1.5))]
        xs.reverse()
        with tg.no_grad():
            quiet = two(first[2][1], first[1][0])
        last = [two(late[1], early), two(early, late[0]), two(quiet[0], late[3]), quiet, first[0]]
        return *stacked(last), tg.stack([late[2], early, early, late[0], first[3][1]], axis=1)


def deferred_laws():
    one, other = Program(tg.deferred), Program(undeferred)
    assert [x.requires_grad for x in one.run()] == [True] * 3
    assert_same_run(one.run(), other.run(), [])
    leaves = [[program.x, program.net.R] for program in (one, other)]
    assert_close(
        *[tg.grad(loss_of(p.run()), xs) for p, xs in zip((one, other), leaves, strict=True)]
    )
    for children in GRAPHS:
        net, calls = Net(1), []
        x, structure = leaf(net.rng, len(children), D), Structure.dag(children)
        handles = by_calls(tg.deferred(counting(net.two, calls)), children, x)
        assert_same_run(tg.stack(handles), tg.fold(net.two, structure, x), [x, *net.weights()])
        assert len(calls) == len(structure.schedule)


# ---- what is spoiled -----------------------------------------------------------------------------

SCHEDULE = Structure.__dict__["schedule"].func
WRITTEN = rows.fill.operation.joint.vjp
KIND = deferred._likeness


def scheduled(change):
    """The schedule with something changed in each group."""
    return property(lambda self: [group._replace(**change(group)) for group in SCHEDULE(self)])


def assigned(self, out, index, values, once=False):
    out[index] = values


def without_older(g, rows_shape, start):
    return None, WRITTEN(g, rows_shape, start)[1], None


def without_rows(g, rows_shape, start):
    return WRITTEN(g, rows_shape, start)[0], None, None


def next_rows(g, rows_shape, start):
    older, _, _ = WRITTEN(g, rows_shape, start)
    before = max(start - 1, 0)
    return older, older.dense()[before : before + rows_shape[0]], None


def first_reader_alone(g, rows_shape, start):
    """The rows get what came of one reader, when it should be all."""
    if isinstance(g, Sum) and len(g.terms()) > 1:
        alone = Sum(g.shape, g.dtype).include(g.terms()[0])
        return g, alone.dense()[start : start + rows_shape[0]], None
    return WRITTEN(g, rows_shape, start)


def without_terms_of_total(self, x):
    if isinstance(x, Placed) and self.total is not None and len(self.terms()) > 0:
        return self
    return INCLUDE(self, x)


INCLUDE = Sum.include


class Unpromoted(rows.Rows):
    def _with(self, array, part, name):
        return rows.fill(array, part, self.filled)


FOLD = {
    "children in the wrong order": (
        Structure, "schedule", scheduled(lambda group: {"children": group.children[::-1]})
    ),
    "the first child for each": (
        Structure, "schedule",
        scheduled(lambda group: {"children": group.children[:1] * len(group.children)}),
    ),
    "rows of inputs by schedule": (
        Structure, "schedule", scheduled(lambda group: {"nodes": slice(group.start, group.stop)})
    ),
    "states left in the order of the schedule": (
        Structure, "rows", property(lambda self: np.arange(len(self)))
    ),
    "places at random": (
        Structure, "places",
        property(lambda self: np.arange(len(self)) % min(self.population.values())),
    ),
    "shared children said to be read once": (Structure, "shares", False),
    "initial states the wrong way round": (
        fold, "_initial_of",
        lambda *args, get=fold._initial_of: tuple([part[::-1] for part in get(*args)]),
    ),
    "cotangents overwritten": (backend.Backend, "scatter_add", assigned),
    "no cotangent for older rows": (rows.fill.operation.joint, "vjp", without_older),
    "no cotangent for the rows": (rows.fill.operation.joint, "vjp", without_rows),
    "the rows before": (rows.fill.operation.joint, "vjp", next_rows),
    "one reader alone": (rows.fill.operation.joint, "vjp", first_reader_alone),
    "a reader forgotten": (Sum, "include", without_terms_of_total),
    "rounded to the first precision": (fold, "Rows", Unpromoted),
}  # fmt: skip


TAKE, BATCH, BATCHES = rows.Rows.take, deferred._batch, deferred._batches
UNTURNED = types.SimpleNamespace(**{**vars(np), "argsort": lambda x: x})

DEFERRED = {
    "recorded whatever was asked": (deferred, "is_recording", lambda: True),
    "never recorded": (deferred, "is_recording", lambda: False),
    "repeated handles said to be one": (
        deferred.Rows, "take",
        lambda self, index, once=True, part=None: TAKE(self, index, True, part),
    ),
    "the first part for every part": (
        deferred.Rows, "take",
        lambda self, index, once=True, part=None: TAKE(self, index, once, part and 0),
    ),
    "put back the wrong way": (deferred, "np", UNTURNED),
    "words not told apart": (
        deferred, "_likeness", lambda arg: str if isinstance(arg, str) else KIND(arg)
    ),
    "numbers cut off": (
        deferred, "_batch",
        lambda column: BATCH([int(x) for x in column] if isinstance(column[0], float) else column),
    ),
    "arguments seen late": (deferred, "_kept", lambda args: args),
    "lists the wrong way round": (
        deferred, "_batch",
        lambda column: BATCH([x[::-1] for x in column] if isinstance(column[0], list) else column),
    ),
    "the first call for all": (
        deferred, "_batch", lambda column: BATCH(column[:1] * len(column))
    ),
    "each call by itself": (
        deferred, "_batches",
        lambda calls: ([call] for batch in BATCHES(calls) for call in batch),
    ),
}  # fmt: skip


def test_the_laws_hold():
    fold_laws()
    deferred_laws()


@pytest.mark.parametrize("name", FOLD)
def test_every_spoiled_fold_is_caught(name, monkeypatch):
    monkeypatch.setattr(*FOLD[name])
    with pytest.raises(AssertionError):
        fold_laws()


@pytest.mark.parametrize("name", DEFERRED)
def test_every_spoiled_deferred_is_caught(name, monkeypatch):
    monkeypatch.setattr(*DEFERRED[name])
    with pytest.raises(AssertionError):
        deferred_laws()
