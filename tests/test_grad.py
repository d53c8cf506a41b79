"""What ``grad`` returns, for which inputs, and what it leaves alone."""

import re
from collections import Counter

import numpy as np
import pytest

import tinygrad_rnn as tg

from .leaves import counting, leaf, ones


def test_grad_leaves_the_gradients_of_leaves_alone():
    x, w = ones(2), ones(2)
    x.grad = tg.tensor(np.full(2, 7.0))
    g = tg.grad(tg.sum(x * w * 3.0), x)
    assert (g.array == 3).all() and isinstance(g, tg.Tensor) and not g.requires_grad
    assert (x.grad.array == 7).all() and w.grad is None


def test_grad_of_several_outputs_by_several_inputs():
    x, w = leaf(2), leaf(2, seed=1)
    h = x * w
    u = [tg.tensor([2.0, 3.0], dtype=float), None]
    gh, gw, gx = tg.grad([h * h, tg.sum(h)], (h, w, x), u)
    whole = 2 * h.array * np.array([2.0, 3.0]) + 1
    np.testing.assert_allclose(gh.array, whole)
    np.testing.assert_allclose(gw.array, whole * x.array)
    np.testing.assert_allclose(gx.array, whole * w.array)


def test_one_output_given_twice_counts_twice():
    x = ones(2)
    y = tg.sum(x)
    assert (tg.grad([y, y], x).array == 2).all()


def test_grad_of_an_unconnected_input_raises_and_names_it():
    x, w = ones(2), ones(3)
    y = tg.sum(x * 2.0)
    with pytest.raises(tg.NotTrackedError, match=re.compile(r"inputs\[1\].*\(3,\)", re.S)):
        tg.grad(y, [x, w])
    with pytest.raises(tg.NotTrackedError):
        tg.grad(tg.sum(x), [y])  # newer than the output


def test_an_unconnected_input_costs_nothing():
    # The error can be known before a VJP runs, so the graph need not be lost.
    x, w = ones(2), ones(3)
    y = tg.sum(tg.exp(x))
    with pytest.raises(tg.NotTrackedError):
        tg.grad(y, [x, w])
    assert tg.grad(y, [x])[0].shape == (2,)


def test_grad_of_no_inputs_is_empty():
    assert list(tg.grad(tg.sum(ones(2)), [])) == []


def test_vjps_off_the_path_are_never_called():
    calls = Counter()
    on, off = counting(calls, "on"), counting(calls, "off")
    x, w = ones(2), ones(2)
    h = on(x)
    side = off(off(w))
    tg.grad(tg.sum(on(h) * side), [x])
    assert calls == {"on": 2}
    calls.clear()
    h = off(x)
    tg.grad(tg.sum(on(h) * 2.0), [h])
    assert calls == {"on": 1}


def test_the_vjp_of_an_argument_that_nobody_asked_for_is_never_called():
    # x @ W with only x asked for: the product for W would be thrown away.
    calls = Counter()

    @tg.op(
        a=lambda g, b: (calls.update("a"), g * b)[1],
        b=lambda g, a: (calls.update("b"), g * a)[1],
    )
    def times(a, b):
        return a * b

    a, b = ones(2), ones(2)
    tg.grad(tg.sum(times(a, b)), [a])
    assert calls == {"a": 1}
    calls.clear()
    tg.sum(times(a, tg.tensor(np.ones(2)))).backward()  # a constant needs none either
    assert calls == {"a": 1}


@pytest.mark.parametrize("uses", [1, 3])
@pytest.mark.parametrize("keep", ["grad", "retain_grad"])
def test_the_gradient_of_a_transposed_weight_is_an_array(keep, uses):
    w, x = leaf(2, 3), np.ones((4, 3))
    wt = w.T
    y = tg.sum(sum(x @ wt for _ in range(uses)))
    if keep == "grad":
        g = tg.grad(y, wt)
    else:
        wt.retain_grad()
        y.backward()
        g = wt.grad
    np.testing.assert_array_equal(g.array, np.full((3, 2), 4.0 * uses))
