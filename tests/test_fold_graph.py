"""What a fold leaves behind, what it costs, and what it says of cells that do not fit."""

import gc
import weakref
from unittest.mock import patch

import numpy as np
import pytest

import tinygrad_rnn as tg
from benchmarks.bptt import Metered, counted
from tinygrad_rnn import nn
from tinygrad_rnn.engine import Node
from tinygrad_rnn.errors import DeferredError, DtypeError, GraphFreedError, ShapeError
from tinygrad_rnn.rows import Rows

from .test_fold import D, H, Net, Structure, assert_close, gradients, leaf, loss_of, row

FAN = [[], [0], [1, 0], [2], []]  # a shared leaf, a chain above it, and a node alone

# ---- the graph that it leaves --------------------------------------------------------------------


def test_the_graph_is_freed_once_unless_it_is_kept():
    net, x = Net(), leaf(np.random.default_rng(0), 5, D)
    h = tg.fold(net.one, Structure.dag(FAN), x)
    once = gradients(tg.sum(h), [x], retain_graph=True)
    assert_close(gradients(tg.sum(h), [x]), once)
    with pytest.raises(GraphFreedError, match="test_fold"):
        tg.sum(h).backward()


def test_gradients_of_states_inside_are_kept_and_hooked():
    """A cell's result gets its own cotangent, not a window into the common one."""
    net, x, inside, seen = Net(), leaf(np.random.default_rng(0), 3, D), [], []

    def watched(h):
        h.retain_grad()
        h.register_hook(lambda g: seen.append(g) or g * 1.0)
        inside.append(h)
        return h

    loss_of(tg.fold(lambda *args: watched(net.one(*args)), Structure.chains([3]), x)).backward()
    found = [x.grad, *[h.grad for h in inside]]
    assert len(seen) == 3
    for i, g in enumerate(found):
        assert not any(np.shares_memory(g.array, other.array) for other in found[:i])
    x.grad, states = None, []
    inside.clear()
    for t in range(3):
        states.append(watched(net.one(row(x, t), *states[-1:])))
    loss_of(tg.concatenate(states)).backward()
    assert_close(found, [x.grad, *[h.grad for h in inside]])


def test_a_state_that_a_cell_hands_on_as_it_is():
    """A leaf of the graph that is a state, and one that is two states at once."""
    table = leaf(np.random.default_rng(0), 2, H)
    cells = {0: lambda x: table, 1: lambda x, h: h, 2: lambda x, h, k: (h + k) * h}
    h = tg.fold(cells, Structure.dag([[], [], [0], [1], [2, 3]]))
    kept = table.array.copy()
    loss_of(h).backward()
    expected = tg.grad(
        loss_of(tg.concatenate([table, table, (table[:1] + table[1:]) * table[:1]])), table
    )
    assert_close([table.grad, table], [expected, kept])
    again = table.grad.array.copy()
    table.grad.array[:] = 0.0  # nobody else's
    loss_of(tg.fold(cells, Structure.dag([[], [], [0], [1], [2, 3]]))).backward()
    assert_close([table.grad], [again])


def nodes_alive():
    return sum(isinstance(x, Node) for x in gc.get_objects())


def test_nothing_is_left_of_a_fold_without_the_collector(no_collector):
    net, structure, x = Net(), Structure.dag(FAN), leaf(np.random.default_rng(0), 5, D)
    before = nodes_alive()
    h = tg.fold(net.two, structure, x)
    assert nodes_alive() > before
    del h
    assert nodes_alive() == before
    tg.sum(tg.fold(net.one, structure, x)).backward()
    for g in tg.grad(tg.sum(tg.fold(net.one, structure, x)), [x, *net.W[:2]], create_graph=True):
        tg.sum(g * g)
    del g
    assert nodes_alive() == before


def test_the_room_for_the_states_goes_when_the_result_is_no_view_of_it(no_collector):
    rooms, make = [], Rows._room

    def noted(self, part):
        room = make(self, part)
        rooms.append(weakref.ref(room.array))
        return room

    net, x = Net(), leaf(np.random.default_rng(0), 5, D)
    with patch.object(Rows, "_room", noted), tg.no_grad():
        h, _ = tg.fold(net.two, Structure.dag(FAN), x)
    assert [one() for one in rooms] == [None, None]
    assert h.shape == (5, H)


# ---- what it costs -------------------------------------------------------------------------------


def work_of(structure, order):
    """Entries touched by a fold and operations recorded; or, for derivatives up to an ``order``,
    entries and scatter-adds.
    """
    n, rng = len(structure), np.random.default_rng(0)
    x, W = (
        tg.tensor(0.1 * rng.standard_normal(shape).view(Metered), requires_grad=True)
        for shape in ((n, H), (H, H))
    )

    def cell(x, *hs):
        return tg.tanh(x + sum([h @ W for h in hs], 0.0))

    before = nodes_alive()
    with counted() as work:
        loss = tg.sum(tg.fold(cell, structure, x))
    if order == 0:
        return work.entries, nodes_alive() - before
    with counted() as work:
        for _ in range(order - 1):
            g = tg.grad(loss, x, create_graph=True)
            loss = tg.sum(g * g)
        loss.backward()
    return work.entries, work.scatters


GROWING = {
    "a chain": lambda n: Structure.chains([n]),
    "a deep tree": lambda n: Structure.dag(
        [[] if i % 2 == 0 else [i - 1, i - 2][:i] for i in range(n)]
    ),
    "each node twice": lambda n: Structure.dag([[], *[[i - 1, i - 1] for i in range(1, n)]]),
    "many chains": lambda n: Structure.chains([n // 10] * 10),
    "reversed": lambda n: Structure.chains([n // 10] * 10).reversed(),
    "one leaf below all": lambda n: Structure.dag([[], *[[0, i - 1] for i in range(1, n)]]),
}


@pytest.mark.unwatched
@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_it_costs_as_much_per_node_whatever_the_size(name, order):
    few, many = (work_of(GROWING[name](n), order) for n in (100, 400))
    for a, b in zip(few, many, strict=True):
        assert 2 * a < b <= 4.3 * a + 20


@pytest.mark.unwatched
@pytest.mark.parametrize("runs", ["one", "many"])
def test_deferred_calls_cost_as_much_each_however_many(runs):
    """Run all together, or each as soon as it is made."""

    def work(n):
        rng = np.random.default_rng(0)
        x, W = (
            tg.tensor(0.1 * rng.standard_normal(shape).view(Metered), requires_grad=True)
            for shape in ((n, H), (H, H))
        )
        cell = tg.deferred(lambda x, *hs: tg.tanh(x + sum([h @ W for h in hs], 0.0)))
        with counted() as forward:
            handles = []
            for t in range(n):
                handles.append(cell(x[t], *handles[-1:]))
                assert runs == "one" or handles[-1].value.shape == (H,)
            loss = tg.sum(tg.stack(handles))
        with counted() as backward:
            loss.backward()
        return forward.entries, backward.entries, backward.scatters

    for few, many in zip(work(100), work(400), strict=True):
        assert 2 * few < many <= 4.3 * few + 20


def test_a_cell_is_called_once_a_group():
    calls = []

    def cell(x, *hs):
        calls.append((len(x), len(hs)))
        return sum(hs, x)

    structure = Structure.dag([[], [], [0, 1], [0], [3, 2], [2, 3]])
    tg.fold(cell, structure, np.ones((6, 1)))
    assert calls == [(2, 0), (1, 1), (1, 2), (2, 2)]


# ---- refusals ------------------------------------------------------------------------------------

x = np.ones((3, D))
chain = Structure.chains([3])
W_x, W_h = np.ones((D, H)), np.ones((H, H))


def plain(x, *hs):
    return tg.tanh(x @ W_x + sum(hs, 0.0))


REFUSED = {
    "lengths": (lambda: tg.fold(plain, [2, 1], x), DtypeError, r"list \[2, 1\]\n  expected: a Str"),
    "no nodes": (lambda: tg.fold(plain, Structure.dag([])), ShapeError, r"fold\(plain\): .* no"),
    "a row for the batch": (
        lambda: tg.fold(lambda x, *hs: tg.sum(x, 0), chain, x), ShapeError,
        r"lambda.*: the cell returned shape \(2,\) for 1 node\n  expected: \(1, \.\.\.\)",
    ),
    "a number": (lambda: tg.fold(lambda x, *hs: 1.0, chain, x), DtypeError, "returned float 1.0"),
    "None": (lambda: tg.fold(lambda x, *hs: None, chain, x), DtypeError, "returned NoneType None"),
    "a list": (lambda: tg.fold(lambda x, *hs: [x, x], chain, x), DtypeError, "or a tuple of them"),
    "an empty tuple": (lambda: tg.fold(lambda x, *hs: (), chain, x), DtypeError, "a Tensor or an"),
    "a tuple of a tuple": (
        lambda: tg.fold(lambda x, *hs: (x, (x, x)), chain, x), DtypeError, "returned tuple"
    ),
    "one part short of rows": (
        lambda: tg.fold(lambda x, *hs: (x, x[0]), chain, x), ShapeError, r"returned shape \(2,\)"
    ),
    "another width further up": (
        lambda: tg.fold({0: lambda x: x, 1: lambda x, h: h @ W_x}, chain, x), ShapeError,
        r"fold\(\{0: .*, 1: .*\}\): a part of the state has shape \(1, 3\)\n  expected: \(n, 2\)",
    ),
    "a tuple further up": (
        lambda: tg.fold({0: lambda x: x, 1: lambda x, h: (h, h)}, chain, x), ShapeError,
        r"the state is \(\(n, 2\), \(n, 2\)\)\n  expected: \(n, 2\), as of the other nodes",
    ),
    "fewer parts further up": (
        lambda: tg.fold({0: lambda x: (x, x), 1: lambda x, h: (h[0],)}, chain, x), ShapeError,
        r"the state is \(\(n, 2\)\)\n  expected: \(\(n, 2\), \(n, 2\)\)",
    ),
    "a kind without a cell": (
        lambda: tg.fold({0: plain, 2: plain}, chain, x), DtypeError,
        "no cell for nodes of kind 1\n  expected: one of 0, 2(\n.*){2}\n  hint: the kind of a node",
    ),
    "inputs of a misspelt kind": (
        lambda: tg.fold(plain, chain, {"0": x}), DtypeError,
        "inputs has rows for nodes of kind '0', of which there is none\n  expected: one of 0, 1",
    ),
    "too few inputs": (
        lambda: tg.fold(plain, chain, x[:2]), ShapeError,
        r"fold\(plain\): inputs is float64 \(2, 2\)\n  expected: \(3, \.\.\.\)",
    ),
    "one of two inputs": (
        lambda: tg.fold(plain, chain, (x, x[:2])), ShapeError, r"inputs is float64 \(2, 2\)"
    ),
    "inputs of a kind": (
        lambda: tg.fold(plain, chain, {0: x, 1: x}), ShapeError, r"inputs is .*\n  expected: \(1, "
    ),
    "a list of inputs": (lambda: tg.fold(plain, chain, [x, x]), ShapeError, "inputs is list"),
    "a number for inputs": (lambda: tg.fold(plain, chain, 1.0), ShapeError, "inputs is float 1.0"),
    "too many initial states": (
        lambda: tg.fold(plain, chain, x, np.ones((3, H))), ShapeError,
        r"initial is float64 \(3, 3\)\n  expected: \(1, \.\.\.\)",
    ),
    "a number for a state": (lambda: tg.fold(plain, chain, x, 0.0), ShapeError, "initial is float"),
    "a pair too much": (
        lambda: tg.fold(nn.LSTMCell(D, H), chain, x.astype("f"), np.zeros(H, "f")), DtypeError,
        r"LSTMCell: the state is .*\n  expected: a pair \(h, c\)",
    ),
    "a deferred cell": (lambda: tg.fold(tg.deferred(plain), chain, x), DeferredError, "handle"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    run, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        run()


def test_an_error_in_a_cell_is_its_own():
    with pytest.raises(ZeroDivisionError):
        tg.fold(lambda x, *hs: 1 / 0, chain, x)
