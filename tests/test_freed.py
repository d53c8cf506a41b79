"""A graph serves once: what is freed, what is not, and what a second pass is told."""

import sys

import numpy as np
import pytest

import tinygrad_rnn as tg

from .leaves import ones


def test_a_freed_graph_says_where_it_was_freed_and_what_to_do():
    x = ones(2)
    h = tg.tanh(x)
    tg.sum(h).backward()
    line = sys._getframe().f_lineno - 1
    for again in (lambda: tg.sum(h).backward(), lambda: tg.grad(tg.sum(h), x)):
        with pytest.raises(tg.GraphFreedError) as caught:
            again()
        text = str(caught.value)
        assert f"{__file__}:{line}" in text
        assert "tanh" in text and "h.detach()" in text and "retain_graph=True" in text


def test_an_error_on_the_way_leaves_no_half_added_gradients():
    x, w = ones(2), ones(2)
    shared = tg.exp(x)
    tg.sum(shared).backward()
    before = x.grad.numpy()
    # w's gradient is complete before the sweep reaches what is freed
    with pytest.raises(tg.GraphFreedError):
        tg.sum(shared * w).backward()
    assert w.grad is None
    np.testing.assert_array_equal(x.grad.array, before)


def test_a_failing_vjp_leaves_no_half_added_gradients():
    @tg.op(x=lambda g: 1 // 0)
    def fails(x):
        return x * 1

    x, w = ones(2), ones(2)
    y = tg.sum(fails(x) * w)
    for backward in (y.backward, lambda: tg.grad(tg.sum(fails(x) * w), [w, x])):
        with pytest.raises(ZeroDivisionError):
            backward()
        assert w.grad is None and x.grad is None


def test_parts_of_a_graph_that_were_not_swept_still_work():
    x = ones(2)
    h = x * 2.0
    a, b = tg.sum(h * 3.0), tg.sum(x * 5.0)
    a.backward()
    b.backward()
    assert (x.grad.array == 11).all()


def test_a_graph_above_a_freed_one_can_be_asked_about_its_own_tensors():
    # h hangs on a freed graph, but d(loss)/dh needs nothing of it
    x = ones(2)
    h = tg.tanh(x)
    tg.sum(h).backward()
    (g,) = tg.grad(tg.sum(h * 3.0), [h])
    assert (g.array == 3).all()


def test_a_path_through_a_freed_graph_is_never_left_out():
    # x is reached past h too, so an answer comes out; without h's part of it, it is wrong.
    x = ones(2)
    h = tg.tanh(x)
    tg.sum(h).backward()
    for inputs in ([x], [h, x]):
        with pytest.raises(tg.GraphFreedError, match="tanh"):
            tg.grad(tg.sum(h * 3.0 + x), inputs)


def test_grad_of_an_interior_tensor_frees_nothing_below_it():
    x = ones(2)
    h = tg.exp(x)
    tg.grad(tg.sum(h * 3.0), [h])
    tg.sum(h).backward()
    np.testing.assert_allclose(x.grad.array, np.exp(1.0))


def test_a_transposed_weight_of_a_freed_graph_is_refused():
    W = tg.tensor(np.ones((3, 2)), requires_grad=True)
    W_T = W.T
    (np.ones((4, 2)) @ W_T).sum().backward()
    with pytest.raises(tg.GraphFreedError):
        (np.ones((4, 2)) @ W_T).sum().backward()
