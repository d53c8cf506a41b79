"""Laws of deferred calls: plain recursion and loops give what they give undeferred, batched."""

import gc
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.engine import Node
from tinygrad_rnn.testing import forests

from .test_fold import (
    D,
    H,
    Net,
    Structure,
    assert_close,
    assert_same_run,
    each,
    gradients,
    graphs,
    leaf,
    loss_of,
    seeds,
)


def undeferred(cell):
    """A cell whose calls are run at once, each as a batch of one."""

    def batch(arg):
        if isinstance(arg, (list, tuple)):
            return type(arg)(map(batch, arg))
        if isinstance(arg, (bool, str, type(None), nn.Module)):
            return arg
        if isinstance(arg, (int, float)):
            return np.array([arg], np.intp if isinstance(arg, int) else np.float32)
        return arg[None]

    def call(*args):
        return each(cell(*map(batch, args)), lambda part: part[0])

    return call


def counting(cell, counts):
    def counted(*args):
        counts.append([getattr(arg, "shape", None) for arg in args])
        return cell(*args)

    return counted


def value(x):
    return getattr(x, "value", x)


def stacked(states):
    """``stack``, which takes plain tuples apart too."""
    if isinstance(states[0], tuple):
        return tuple(tg.stack(parts) for parts in zip(*states, strict=True))
    return tg.stack(states)


def by_calls(call, children, x):
    """The states of a graph by plain recursion, a call for each node."""
    states = {}

    def state(i):
        if i not in states:
            states[i] = call(x[i], *[state(j) for j in children[i]])
        return states[i]

    return [state(i) for i in range(len(children))]


# ---- value and gradient --------------------------------------------------------------------------


@given(graphs, seeds, st.sampled_from(["one", "two"]))
def test_deferred_is_the_fold_and_is_undeferred(children, seed, which):
    net, counts = Net(seed), []
    cell, x = getattr(net, which), leaf(net.rng, len(children), D)
    leaves = [x, *net.weights()]
    structure = Structure.dag(children)
    deferred = tg.deferred(counting(cell, counts))
    assert_same_run(stacked(by_calls(deferred, children, x)), tg.fold(cell, structure, x), leaves)
    assert len(counts) == len(structure.schedule)  # it finds the schedule of the fold
    assert_same_run(
        stacked(by_calls(deferred, children, x)),
        stacked(by_calls(undeferred(cell), children, x)),
        leaves,
    )


class Tagger(nn.Module):
    """Loops and recursion over sentences and trees, with arguments of every kind."""

    def __init__(self, seed, how):
        net = self.net = Net(seed)
        self.table = leaf(net.rng, 5, D)
        self.how = how

    @property
    def leaves(self):
        return [self.table, *self.net.weights()]

    def step(self, word, state, mode):
        h, c = state if state is not None else (0.0, 0.0)
        a = tg.tanh(self.table[word] @ self.net.U + h @ self.net.R if state else self.first(word))
        return (a, a + c) if mode == "add" else (a * 0.5, a - c)

    def first(self, word):
        return self.table[word] @ self.net.U

    def sum_up(self, scale, states, shift, none):
        assert none is None
        total = shift * 0.0
        for h, W in zip(states, self.net.W * 3, strict=False):
            total = total + h @ W
        return tg.tanh(total * tg.reshape(scale, (-1, 1)) + shift)

    def run(self, sentences, shifts):
        step, sum_up = self.how(type(self).step), self.how(type(self).sum_up)
        finals, every = [], []
        for sentence, shift in zip(sentences, shifts, strict=True):
            state, hs = None, []
            for word in sentence:
                state = step(self, word, state, "add" if word % 2 else "take")
                hs.append(state[0])
            every += [state[1], *hs]
            finals.append(sum_up(self, 0.5, hs, shift, None))
            finals.append(sum_up(self, -2.0, [finals[-1], hs[0]], shift, None))
        return stacked(finals), stacked(every)


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=4), seeds)
def test_loops_over_sentences_with_arguments_of_every_kind(sentences, seed):
    shifts = leaf(np.random.default_rng(seed), len(sentences), H)
    runs, grads = [], []
    for how in (tg.deferred, undeferred):
        tagger = Tagger(seed, how)
        runs.append(tagger.run(sentences, shifts))
        grads.append(gradients(loss_of(runs[-1]), [shifts, *tagger.leaves]))
    assert_close(*runs)
    assert_close(*grads)


@given(graphs, seeds, st.data())
def test_under_no_grad_or_not_call_by_call(children, seed, data):
    """Each call is recorded or not as it was made, whoever asks for it and when."""
    net, n = Net(seed), len(children)
    x = leaf(net.rng, n, D)
    quiet = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))

    def states(call):
        made = iter(quiet)

        def now(*args):
            if not next(made):
                return call(*args)
            with tg.no_grad():
                return call(*args)

        return stacked(by_calls(now, children, x))

    one, other = states(tg.deferred(net.two)), states(undeferred(net.two))
    assert_close(one, other)
    assert [s.requires_grad for s in one] == [s.requires_grad for s in other]
    if not all(quiet):
        leaves = [x, *net.weights()]
        assert_close(gradients(loss_of(one), leaves), gradients(loss_of(other), leaves))


@given(graphs, seeds, st.data())
def test_values_asked_for_on_the_way_change_nothing(children, seed, data):
    """Several runs, results of all of them in one loss."""
    net, n = Net(seed), len(children)
    x = leaf(net.rng, n, D)
    asked = iter(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))

    def impatient(*args):
        handle = tg.deferred(net.two)(*args)
        if next(asked):
            assert handle.value[0].shape == (H,)
        return handle

    one = tg.stack(by_calls(impatient, children, x))
    other = stacked(by_calls(undeferred(net.two), children, x))
    assert_same_run(one, other, [x, *net.weights()])


@given(seeds)
def test_a_loop_whose_end_depends_on_values(seed):
    net = Net(seed)
    starts = [leaf(net.rng, H) for _ in range(4)]

    def run(how):
        step = how(lambda h: h * (1.5 + tg.sigmoid(h @ net.R)))
        ends = []
        for h in starts:
            while abs(value(h).array).max() < 3:
                h = step(h)
            ends.append(h)
        return tg.stack(ends)

    assert_same_run(run(tg.deferred), run(undeferred), [*starts, net.R])


@settings(max_examples=5)
@given(forests(max_nodes=4), seeds)
def test_derivatives_of_derivatives_through_deferred_calls(children, seed):
    net = Net(seed)

    def function(x, U, R):
        net.U, net.R = U, R
        h, c = tg.stack(by_calls(tg.deferred(net.two), children, x))
        return h * c

    inputs = [0.5 * net.rng.standard_normal((len(children), D)), net.U.array, net.R.array]
    tg.gradcheck(function, inputs, order=2, seed=seed)


def test_arrays_in_arrays_out():
    double, ones = tg.deferred(lambda x: 2 * x), np.ones(1)
    assert type(double(np.ones(2)).value) is np.ndarray
    h = tg.stack([double(double(np.ones(2))), double(np.zeros(2))])
    assert type(h) is np.ndarray and h.tolist() == [[4, 4], [0, 0]]
    assert double(tg.tensor([1.0])).value.requires_grad is False
    assert double(3).value == 6 and double(0.5).value.dtype == np.float32
    by = tg.deferred(lambda x, k: x * k)
    assert [by(ones, 1 + 2j).value, by(ones, np.complex128(1 + 2j)).value] == [1 + 2j, 1 + 2j]


# ---- what is batched with what -------------------------------------------------------------------


def test_calls_are_run_together_if_and_only_if_their_arguments_are_alike():
    calls = []
    cell = tg.deferred(counting(lambda x, *rest: x * 1.0, calls))
    alike = [
        (np.ones(2), "a"), (np.ones(2), "a"), (np.ones(2), "b"), (np.ones(3), "a"),
        (np.ones(2, "f"), "a"), (tg.tensor(np.ones(2)), "a"), (np.ones(2), None), (np.ones(2), 1),
        (np.ones(2), 2), (np.ones(2), 1.0), (np.ones(2), True), (np.ones(2),),
        (np.ones(2), [1, 2]), (np.ones(2), [3, 4]), (np.ones(2), [1]), (np.ones(2), (1, 2)),
    ]  # fmt: skip
    handles = [cell(*args) for args in alike]
    for handle, args in zip(handles, alike, strict=True):
        assert_close([handle.value], [args[0]])
    sizes = [shapes[0][0] for shapes in calls]
    assert len(calls) == 13 and sum(sizes) == len(alike) and sorted(sizes)[-3:] == [2, 2, 2]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), seeds)
def test_a_word_that_comes_again_is_computed_once(words, seed):
    """And its gradient is that of every time it comes; the oracle is a table in NumPy."""
    rng, seen = np.random.default_rng(seed), []
    table = tg.tensor(rng.standard_normal((4, H)), requires_grad=True)

    @tg.deferred
    def leaf(word):
        seen.extend(word.tolist())
        return table[word], 2.0 * table[word]

    pair = tg.deferred(lambda left, right: left * right)
    leaves = [leaf(word) for word in words]
    pairs = [pair(a[0], b[1]) for a, b in pairwise(leaves)]
    hs, y = tg.stack([one[0] for one in leaves]), table.array[words]
    assert sorted(seen) == sorted(set(words))
    np.testing.assert_array_equal(hs.array, y)
    loss, g = tg.sum(hs), np.ones_like(y)
    if pairs:
        products = tg.stack(pairs)
        np.testing.assert_array_equal(products.array, 2.0 * y[:-1] * y[1:])
        loss = loss + tg.sum(products)
        g[:-1] += 2.0 * y[1:]
        g[1:] += 2.0 * y[:-1]
    expected = np.zeros_like(table.array)
    np.add.at(expected, words, g)
    np.testing.assert_allclose(tg.grad(loss, table).array, expected, rtol=1e-12, atol=1e-12)


def test_numbers_that_only_look_equal_are_told_apart():
    """0.0 is not -0.0, and a whole number beside an array does not make two calls one."""
    sign = tg.deferred(lambda x: np.copysign(1.0, x))
    assert [one.value for one in [sign(0.0), sign(-0.0), sign(0.0)]] == [1.0, -1.0, 1.0]
    scaled = tg.deferred(lambda k, x: k[:, None] * x)
    calls = [scaled(2, np.array([1.0])), scaled(2, np.array([3.0]))]
    assert [float(one.value[0]) for one in calls] == [2.0, 6.0]


def test_what_nobody_can_ask_for_is_not_run():
    calls = []
    cell = tg.deferred(counting(lambda x: x + 1, calls))
    cell(1.0)
    kept = cell(cell(2.0))
    dropped = [cell(float(k)) for k in range(5)]
    del dropped
    assert kept.value == 4 and calls == [[(1,)], [(1,)]]


def test_what_has_been_run_is_not_run_again():
    calls = []
    cell = tg.deferred(counting(lambda x: x + 1, calls))
    h = cell(1.0)
    assert h.value == h.value == 2
    assert cell(h).value == 3 and len(calls) == 2


def test_a_cell_inside_a_cell_gets_the_batch():
    calls = []
    inner = tg.deferred(counting(lambda x: x * x, calls))
    outer = tg.deferred(lambda x: inner(x) + inner(x + 1))
    assert tg.stack([outer(1.0), outer(2.0)]).tolist() == [5, 13]
    assert calls == [[(2,)], [(2,)]]


def test_a_method_and_an_object_of_any_class_are_handed_on():
    class Scale:
        shape = "round"  # not an array, whatever it has

        def __init__(self, by):
            self.by = by

        @tg.deferred
        def times(self, x):
            return x * self.by

    two, three = Scale(2.0), Scale(3.0)
    handles = [one.times(np.ones(1)) for one in (two, three, two)]
    assert tg.stack(handles).tolist() == [[2], [3], [2]]


def test_a_named_tuple_stays_one():
    class State(NamedTuple):
        h: Any
        c: Any

    add = tg.deferred(lambda state: state.h + state.c)
    assert add(State(np.ones(1), same(np.ones(1)))).value.tolist() == [2]


def test_later_changes_to_an_argument_do_not_reach_the_cell():
    cell = tg.deferred(lambda x, ids, deep: x + ids[0] + deep[0][0] + deep[1][0])
    x, ids, deep = np.ones(2), [1, 2], ([np.ones(2)], [7])
    h = cell(x, ids, deep)
    x[:], ids[0], deep[0][0][:], deep[1][0] = 50, 50, 50, 50
    ids.append(3)
    deep[0].clear()
    assert h.value.tolist() == [10, 10]


# ---- results -------------------------------------------------------------------------------------

pair = tg.deferred(lambda x: (x, 10 * x))
same = tg.deferred(lambda x: x * 1.0)


def test_parts_of_a_state():
    state = pair(np.ones(2))
    assert [state[i].value.tolist() for i in (0, 1, -1)] == [[1, 1], [10, 10], [10, 10]]
    assert same(state[1]).value.tolist() == [10, 10]
    assert tg.stack([state[0], state[1], same(state[0])]).tolist() == [[1, 1], [10, 10], [1, 1]]
    h, c = state.value
    assert h.tolist() == [1, 1] and c.tolist() == [10, 10]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=8), seeds)
def test_stack_puts_what_comes_from_many_runs_in_its_place(picks, seed):
    """Handles of three runs, of two dtypes, in any order and again and again."""
    x = leaf(np.random.default_rng(seed), 6, H)
    runs = []
    for scale in (1.0, 2.0, 3.0):
        runs.append([same(x[i] * scale if i % 2 else x[i].astype("f") * scale) for i in range(6)])
        _ = runs[-1][0].value
    one = tg.stack([runs[run][i] for i, run in picks])
    other = tg.stack([x[i] * (run + 1.0) for i, run in picks])
    assert_close([one], [other], 1e-6)
    assert_close(*[gradients(loss_of(h), [x]) for h in (one, other)], 1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_stack_has_an_axis(axis):
    xs = np.random.default_rng(0).standard_normal((3, 2, 4))
    expected = np.stack(list(xs), axis)
    assert_close([tg.stack([same(x) for x in xs], axis)], [expected])
    assert_close([tg.stack([same(xs[0]), xs[1], tg.tensor(xs[2])], axis)], [expected])
    assert_close(tg.stack([pair(x) for x in xs], axis), [expected, 10 * expected])
    assert_close([tg.stack(list(xs), axis)], [expected])


# ---- depth and memory ----------------------------------------------------------------------------

DEEP = 100_000


@pytest.mark.unwatched
def test_a_chain_of_calls_as_long_as_it_may_be(no_collector):
    cell = tg.deferred(lambda h: h + 1.0)
    h = cell(0.0)
    for _ in range(DEEP):
        h = cell(h)
    del h  # without having been run
    with tg.no_grad():
        h = cell(0.0)
        for _ in range(DEEP):
            h = cell(h)
        assert h.value == DEEP + 1


def test_nothing_is_left_without_the_collector(no_collector):
    def nodes_alive():
        return sum(isinstance(x, Node) for x in gc.get_objects())

    net, x = Net(), leaf(np.random.default_rng(0), 4, D)
    before = nodes_alive()
    cell, handles = tg.deferred(net.two), []
    for i, own in enumerate([[], [0], [1, 0], [2]]):
        handles.append(cell(x[i], *[handles[j] for j in own]))
    loss = tg.sum(tg.stack(handles)[0])
    loss.backward()
    del handles, loss
    assert nodes_alive() == before
