"""Truncated BPTT against sums of products of Jacobians that are written out, and checkpointing."""

import gc
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.engine import Node

D, H, M = 2, 3, 2  # input, hidden and output size

seeds = st.integers(0, 2**32 - 1)


class Net:
    """h = tanh(W h + U x), E = |V h - y|^2 / 2, in NumPy, and its derivatives term by term."""

    def __init__(self, seed, T):
        rng = np.random.default_rng(seed)
        self.W, self.U = rng.standard_normal((H, H)), rng.standard_normal((H, D))
        self.V, self.h0 = rng.standard_normal((M, H)), rng.standard_normal(H)
        self.xs, self.ys = rng.standard_normal((T, D)), rng.standard_normal((T, M))
        self.T = T

    def states(self):
        """h^0, h^1, ..., h^T."""
        hs = [self.h0]
        for x in self.xs:
            hs.append(np.tanh(self.W @ hs[-1] + self.U @ x))
        return hs

    def error(self):
        """The sum of all E^t."""
        pairs = zip(self.states()[1:], self.ys, strict=True)
        return sum(0.5 * np.sum((self.V @ h - y) ** 2) for h, y in pairs)

    def gradients(self, first):
        """E's gradients, if the sum over k for dE^t/dW begins at first(t); h^0 belongs to k = 0."""
        hs = self.states()
        J = [None] + [(1 - h * h)[:, None] * self.W for h in hs[1:]]  # J[j] = dh^j / dh^{j-1}
        dW, dU, dV, dh0 = (np.zeros_like(x) for x in (self.W, self.U, self.V, self.h0))
        for t in range(1, self.T + 1):
            residual = self.V @ hs[t] - self.ys[t - 1]
            dV += np.outer(residual, hs[t])
            for k in range(max(first(t), 0), t + 1):
                between = reduce(np.matmul, [J[j] for j in range(t, k, -1)], np.eye(H))
                u = (residual @ self.V) @ between  # dE^t/dh^t dh^t/dh^k
                if k == 0:
                    dh0 += u
                    continue
                dW += np.outer(u * (1 - hs[k] ** 2), hs[k - 1])
                dU += np.outer(u * (1 - hs[k] ** 2), self.xs[k - 1])
        return [dW, dU, dV, dh0]

    def leaves(self):
        """W, U, V and h^0 as leaves."""
        return [tg.tensor(x, requires_grad=True) for x in (self.W, self.U, self.V, self.h0)]


def half_square(x):
    return 0.5 * tg.sum(x * x)


def assert_close(leaves, expected):
    for x, g in zip(leaves, expected, strict=True):
        got = np.zeros(x.shape) if x.grad is None else x.grad.array
        np.testing.assert_allclose(got, g, rtol=1e-9, atol=1e-11 * (1 + np.abs(g).max()))


def slopes_of_error(net, name, eps=1e-6):
    """Central differences of the NumPy error."""
    x = getattr(net, name)
    slopes = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        kept = x[i]
        ends = []
        for moved in (kept + eps, kept - eps):
            x[i] = moved
            ends.append(net.error())
        x[i] = kept
        slopes[i] = (ends[0] - ends[1]) / (2 * eps)
    return slopes


def test_the_written_out_sum_over_all_steps_is_the_slope_of_the_error():
    net = Net(0, 5)
    for name, g in zip("W U V h0".split(), net.gradients(lambda t: 0), strict=True):
        np.testing.assert_allclose(g, slopes_of_error(net, name), rtol=1e-6, atol=1e-7)


# ---- the lecture's form -------------------------------------------------------------------------


@given(seeds, st.integers(1, 7), st.integers(0, 9))
def test_truncated_bptt_is_the_sum_from_t_minus_a(seed, T, a):
    net = Net(seed, T)
    W, U, V, h0 = leaves = net.leaves()
    total, h = tg.truncated_bptt(
        lambda x, h: tg.tanh(W @ h + U @ x),
        lambda h, y: half_square(V @ h - y),
        net.xs,
        net.ys,
        a,
        h0,
    )
    np.testing.assert_allclose(total, net.error(), rtol=1e-12)
    np.testing.assert_allclose(h.array, net.states()[-1], rtol=1e-12)
    assert not h.requires_grad
    assert_close(leaves, net.gradients(lambda t: t - a))


def test_truncated_bptt_goes_through_what_the_loop_shares():
    net = Net(1, 6)
    W, U, V, h0 = leaves = net.leaves()
    WT, UT = W.T, U.T  # computed once, before the loop
    tg.truncated_bptt(
        lambda x, h: tg.tanh(h @ WT + x @ UT),
        lambda h, y: half_square(V @ h - y),
        net.xs,
        net.ys,
        2,
        h0,
    )
    assert_close(leaves, net.gradients(lambda t: t - 2))


@pytest.mark.parametrize("Cell", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_truncated_bptt_over_all_steps_is_bptt_for_any_cell(Cell):
    T, B = 5, 3
    rng = np.random.default_rng(0)
    cell, readout = Cell(D, H, rng=rng), nn.Linear(H, M, rng=rng)
    xs, ys = rng.standard_normal((T, B, D)), rng.integers(0, M, (T, B))

    def loss(state, y):
        return tg.cross_entropy(readout(state[0] if isinstance(state, tuple) else state), y)

    state, total = None, 0.0
    for x, y in zip(xs, ys, strict=True):
        state = cell(x, state)
        total = total + loss(state, y)
    total.backward()
    parameters = cell.parameters() + readout.parameters()
    expected = [x.grad.array for x in parameters]
    for x in parameters:
        x.grad = None
    found, last = tg.truncated_bptt(cell, loss, xs, ys, T)
    np.testing.assert_allclose(found, total.item(), rtol=1e-6)
    for x, y in zip(last, state, strict=True) if isinstance(state, tuple) else [(last, state)]:
        np.testing.assert_array_equal(x.array, y.array)
    for x, g in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(x.grad.array, g, rtol=1e-4, atol=1e-6)


def test_dropout_in_a_cell_draws_once_a_step():
    net = Net(2, 6)
    W, U, V, h0 = leaves = net.leaves()

    def cell(x, h):
        return tg.dropout(tg.tanh(W @ h + U @ x), 0.5, rng)

    def loss(h, y):
        return half_square(V @ h - y)

    rng = np.random.default_rng(7)
    h, total = h0, 0.0
    for x, y in zip(net.xs, net.ys, strict=True):
        h = cell(x, h)
        total = total + loss(h, y)
    expected = tg.grad(total, leaves)
    rng = np.random.default_rng(7)
    tg.truncated_bptt(cell, loss, net.xs, net.ys, net.T, h0)
    assert_close(leaves, [g.array for g in expected])


def live_nodes():
    return sum(type(x) is Node for x in gc.get_objects())


@pytest.mark.parametrize("a", [0, 3])
def test_memory_is_flat(a, no_collector):
    cell = nn.LSTMCell(D, H)
    x, counts = np.ones((1, D), np.float32), []

    def inputs(T):
        for t in range(T):
            if t % 50 == 40:
                counts.append(live_nodes())
            yield x

    tg.truncated_bptt(cell, lambda s, y: tg.sum(s[0]), inputs(1000), range(1000), a)
    assert len(set(counts)) == 1
    assert live_nodes() < counts[0]


@pytest.mark.parametrize("a", [-1, 1.5, "all"])
def test_a_that_is_no_natural_number_is_refused(a):
    with pytest.raises((tg.SettingError, tg.DtypeError), match=r"a is .*\n  expected"):
        tg.truncated_bptt(None, None, [], [], a)


def test_inputs_without_targets_are_refused():
    with pytest.raises(ValueError, match="1 inputs, 0 targets"):
        tg.truncated_bptt(lambda x, h: h, lambda h, y: h, [1.0], [], 1, np.zeros(2))


# ---- windows ------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 8), st.integers(1, 9))
def test_windows_cut_the_sums_where_they_begin(seed, T, length):
    net = Net(seed, T)
    W, U, V, h0 = leaves = net.leaves()
    h, total = h0, 0.0
    for window in tg.windows(T, length):
        h = h if window.start == 0 else tg.detach(h)
        loss = 0.0
        for x, y in zip(net.xs[window], net.ys[window], strict=True):
            h = tg.tanh(W @ h + U @ x)
            loss = loss + half_square(V @ h - y)
        loss.backward()
        total += loss.item()
    np.testing.assert_allclose(total, net.error(), rtol=1e-12)
    expected = net.gradients(lambda t: 0 if t <= length else (t - 1) // length * length + 1)
    assert_close(leaves, expected)


@given(st.integers(0, 30), st.integers(1, 12))
def test_windows_cover_all_steps_in_order(T, length):
    windows = list(tg.windows(T, length))
    assert [t for window in windows for t in range(T)[window]] == list(range(T))
    assert all(window.stop - window.start == length for window in windows[:-1])


def test_windows_of_no_length_are_refused():
    for arguments in [(5, 0), (-1, 2)]:
        with pytest.raises(tg.SettingError, match="expected: at least"):
            tg.windows(*arguments)
    with pytest.raises(tg.DtypeError, match="expected: an integer"):
        tg.windows(np.zeros(3), 2)


class Pair(NamedTuple):
    h: Any
    c: Any


def test_detach_keeps_the_form_and_shares_the_arrays():
    x = tg.tensor([1.0, 2.0], requires_grad=True) * 2.0
    plain = np.ones(2)
    state = {"layers": [Pair(x, None), (x, 3)], "mask": plain}
    found = tg.detach(state)
    assert isinstance(found["layers"][0], Pair) and found["layers"][0].c is None
    assert found["layers"][1][1] == 3 and found["mask"] is plain
    for y in (found["layers"][0].h, found["layers"][1][0]):
        assert y.array is x.array and not y.requires_grad
    assert state["layers"][0].h is x  # untouched
    assert tg.detach(None) is None
