"""Laws of gradient checkpointing: the plain run in value and gradient, with less kept."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from .test_through_time import live_nodes

D, H, B = 2, 3, 2

seeds = st.integers(0, 2**32 - 1)


def plain(function, *args):
    return function(*args)


def leaf(rng, *shape):
    return tg.tensor(0.7 * rng.standard_normal(shape), requires_grad=True)


def gradients(loss, leaves):
    """The gradients of ``loss`` by ``backward``, which leaves nothing in ``.grad``."""
    loss.backward()
    found = [None if x.grad is None else x.grad.array for x in leaves]
    for x in leaves:
        x.grad = None
    return found


def assert_equal(found, expected, rtol=1e-12):
    for x, y in zip(found, expected, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * (1 + np.abs(y).max()))


@given(seeds, st.integers(1, 8), st.integers(1, 9))
def test_a_run_in_segments_is_the_plain_run(seed, T, length):
    rng = np.random.default_rng(seed)
    W, U, b, h0 = leaf(rng, H, H), leaf(rng, D, H), leaf(rng, H), leaf(rng, B, H)
    xs = leaf(rng, T, B, D)

    def loss(call):
        h, WT = h0, W.T  # met outside the segments, next to W itself

        def segment(h, window):
            for t in range(window.start, window.stop):
                h = tg.tanh(xs[t] @ U + h @ WT + b) + 0.1 * h @ W
            return h

        for window in tg.windows(T, length):
            h = call(segment, h, window)
        return tg.sum(h * h)

    one, other = loss(tg.checkpoint), loss(plain)
    assert one.item() == other.item()
    leaves = [W, U, b, h0, xs]
    one_g, other_g = gradients(one, leaves), gradients(other, leaves)
    assert_equal(one_g, other_g)
    np.testing.assert_array_equal(one_g[3], other_g[3])  # no sums in another order: bit for bit


def test_parameters_of_a_module_and_nested_states():
    rng = np.random.default_rng(0)
    cell = nn.LSTMCell(D, H, rng=rng)
    xs = rng.standard_normal((5, B, D)).astype("f")

    def loss(call):
        state = None
        for x in xs:
            state = call(cell, x, state)
        return tg.sum(state[0] * state[1])

    assert_equal(
        gradients(loss(tg.checkpoint), cell.parameters()),
        gradients(loss(plain), cell.parameters()),
        rtol=1e-5,
    )


def test_results_may_be_nested_constant_unused_and_the_same_twice():
    rng = np.random.default_rng(0)
    x, y = leaf(rng, 3), leaf(rng, 3)
    constant = tg.tensor([1.0, 2.0, 3.0])

    def function(x, state, n):
        z = tg.exp(x) * state["y"]
        off = y * x
        return {"z": [z, z], "x": x, "y": y, "n": n, "none": None, "c": constant * 2.0, "off": off}

    def loss(call):
        out = call(function, x, {"y": y}, 4)
        assert out["n"] == 4 and out["none"] is None and not out["c"].requires_grad
        parts = [out["z"][0] * 2.0, out["z"][1] * out["x"], out["y"] * out["c"], x]
        return tg.sum(sum(parts, 0.0))

    one, other = loss(tg.checkpoint), loss(plain)
    assert one.item() == other.item()
    assert_equal(gradients(one, [x, y]), gradients(other, [x, y]))


def test_what_needs_no_gradient_is_not_tracked():
    assert not tg.checkpoint(tg.tanh, tg.tensor([1.0])).requires_grad
    assert tg.checkpoint(lambda: 3) == 3
    x = tg.tensor([1.0], requires_grad=True)
    calls = []
    with tg.no_grad():
        assert not tg.checkpoint(lambda x: calls.append(x) or tg.tanh(x), x).requires_grad
    assert calls == [x] and calls[0] is x


def test_an_argument_that_another_was_computed_from_and_that_is_closed_over():
    rng = np.random.default_rng(3)
    x = leaf(rng, 3)
    y = tg.exp(x)

    def loss(call):
        return tg.sum(call(lambda x_, y_: x_ * y_ + tg.sin(x) * y, x, y))

    retained = loss(tg.checkpoint)
    retained.backward(retain_graph=True)
    a = x.array
    expected = np.exp(a) * (1 + a) + np.exp(a) * (np.cos(a) + np.sin(a))
    np.testing.assert_allclose(x.grad.array, expected, rtol=1e-12)


def test_it_may_be_asked_for_some_gradients_only():
    rng = np.random.default_rng(3)
    W, h = leaf(rng, H, H), leaf(rng, B, H)
    y = tg.sum(tg.checkpoint(lambda h: tg.tanh(h @ W), h))
    (g,) = tg.grad(y, [h], retain_graph=True)
    (k,) = tg.grad(y, [W])
    slope = 1 - np.tanh(h.array @ W.array) ** 2
    np.testing.assert_allclose(g.array, slope @ W.array.T, rtol=1e-12)
    np.testing.assert_allclose(k.array, h.array.T @ slope, rtol=1e-12)


def test_the_backward_pass_may_run_where_nothing_is_recorded():
    x = tg.tensor([0.5], requires_grad=True)
    y = tg.checkpoint(tg.sin, x)
    with tg.no_grad():
        y.backward()
    np.testing.assert_allclose(x.grad.array, np.cos([0.5]), rtol=1e-6)


def test_a_fold_inside():
    rng = np.random.default_rng(0)
    structure = tg.Structure(counts=[0, 0, 2, 0, 2], children=[0, 1, 2, 3])
    V, W, x = leaf(rng, D, H), leaf(rng, H, H), leaf(rng, 5, D)

    def embed(x):
        cell = {0: lambda x: tg.tanh(x @ V), 2: lambda x, a, b: tg.tanh((a - b) @ W)}
        return tg.fold(cell, structure, x)

    def loss(call):
        h = call(embed, x)
        return tg.sum(h * h)

    one, other = loss(tg.checkpoint), loss(plain)
    assert one.item() == other.item()
    assert_equal(gradients(one, [V, W, x]), gradients(other, [V, W, x]))


# ---- higher derivatives -------------------------------------------------------------------------


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("method", ["complex", "central"])
def test_higher_derivatives(order, method):
    rng = np.random.default_rng(0)
    W, h, c = leaf(rng, 2, 2), leaf(rng, 1, 2), leaf(rng, 1, 2)

    def run(W, h, c):
        def step(state):
            h, c = state
            c = tg.sigmoid(h @ W) * c + tg.tanh(h @ W.T)
            return tg.tanh(c), c

        state = tg.checkpoint(step, (h, c))
        h1, c1 = tg.checkpoint(lambda s: tg.checkpoint(step, step(s)), state)
        return tg.sum(h1 * c1) + tg.sum(state[0])

    assert tg.gradcheck(run, [W, h, c], order=order, method=method)


def test_derivatives_of_derivatives_are_those_of_the_plain_run():
    rng = np.random.default_rng(0)
    W, h = leaf(rng, H, H), leaf(rng, B, H)

    def second(call):
        y = tg.sum(call(lambda h: tg.tanh(tg.tanh(h @ W) @ W), h))
        g, k = tg.grad(y, [h, W], create_graph=True)
        return tg.grad(tg.sum(g * g) + tg.sum(k * k * k), [h, W])

    one, other = second(tg.checkpoint), second(plain)
    assert_equal([g.array for g in one], [g.array for g in other])


# ---- randomness ---------------------------------------------------------------------------------


def test_dropout_draws_the_same_mask_and_leaves_the_generator_as_the_plain_run_does():
    rng = np.random.default_rng(0)
    W, h0 = leaf(rng, H, H), leaf(rng, 50, H)

    def loss(call):
        tg.manual_seed(5)
        passed = np.random.default_rng(6)
        h = h0
        for _ in range(3):
            h = call(lambda h, r: tg.dropout(tg.dropout(tg.tanh(h @ W), 0.5), 0.2, r), h, passed)
        after = tg.default_rng().random(), passed.random()
        found = gradients(tg.sum(h * h), [W, h0])
        return found, after, (tg.default_rng().random(), passed.random())

    one, other = loss(tg.checkpoint), loss(plain)
    assert_equal(one[0], other[0])
    assert one[1:] == other[1:]


def test_the_mask_is_the_same_even_if_a_new_seed_was_set_in_between():
    x = tg.tensor(np.ones(100), requires_grad=True)
    y = tg.checkpoint(lambda x: tg.dropout(x, 0.5), x)
    tg.manual_seed(11)
    tg.sum(y).backward()
    np.testing.assert_array_equal(x.grad.array, y.array)


@pytest.mark.parametrize("reduce", [tg.exp, tg.mean])
def test_a_generator_that_is_only_closed_over_is_noticed(reduce):
    rng = np.random.default_rng(0)
    x = tg.tensor(np.ones(100_000), requires_grad=True)
    y = tg.sum(tg.checkpoint(lambda x: reduce(tg.dropout(x, 0.5, rng)), x))
    with pytest.raises(tg.NotTrackedError, match="second run"):
        y.backward()


def test_a_parameter_that_was_exchanged_or_changed_in_between_is_noticed():
    cell, x = nn.RNNCell(D, H), np.ones((1, D), "f")
    y = tg.sum(tg.checkpoint(cell, x))
    cell.weight_ih = tg.tensor(cell.weight_ih.array, requires_grad=True)
    with pytest.raises(tg.NotTrackedError, match=r"checkpoint\(RNNCell\)"):
        y.backward()
    y = tg.sum(tg.checkpoint(cell, x))
    cell.weight_ih.array = cell.weight_ih.array + 1.0
    with pytest.raises(tg.NotTrackedError, match="second run"):
        y.backward()


# ---- what is kept -------------------------------------------------------------------------------


def test_a_graph_is_freed_once():
    x = tg.tensor([0.5], requires_grad=True)
    y = tg.checkpoint(tg.sin, x)
    y.backward(retain_graph=True)
    y.backward()
    with pytest.raises(tg.GraphFreedError, match="checkpoint"):
        y.backward()
    np.testing.assert_allclose(x.grad.array, 2 * np.cos([0.5]), rtol=1e-6)


class Peak:
    """The most nodes alive at any step of a run."""

    def __init__(self):
        self.most, self.steps = 0, 0

    def step(self, h):
        self.most = max(self.most, live_nodes())
        self.steps += 1
        return tg.tanh(h)


def peak_of(run):
    """How many nodes live at most, and how many steps are run, in ``run(step, h)`` and back."""
    peak, before = Peak(), live_nodes()
    x = tg.tensor([0.5], requires_grad=True)
    run(peak.step, x).backward()
    return peak.most - before, peak.steps


@pytest.mark.unwatched
def test_segments_keep_the_root_and_nested_halves_the_logarithm(no_collector):
    T = 64

    def steps(step, h, n):
        for _ in range(n):
            h = step(h)
        return h

    def segments(step, h):
        for window in tg.windows(T, math.isqrt(T)):
            h = tg.checkpoint(lambda h, n: steps(step, h, n), h, window.stop - window.start)
        return h

    def halves(step, h, n=T):
        if n == 1:
            return step(h)
        for _ in range(2):
            h = tg.checkpoint(lambda h: halves(step, h, n // 2), h)
        return h

    plain_nodes, plain_steps = peak_of(lambda step, h: steps(step, h, T))
    root_nodes, root_steps = peak_of(segments)
    log_nodes, _ = peak_of(halves)
    assert plain_nodes >= T and plain_steps == T
    assert root_nodes <= 5 * math.isqrt(T) and root_steps == 2 * T
    assert log_nodes <= 8 * math.log2(T)
