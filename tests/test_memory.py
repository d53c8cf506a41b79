"""What a graph keeps, and when it lets it go, without the cyclic collector."""

import weakref

import numpy as np
import pytest

import tinygrad_rnn as tg

from .leaves import leaf


def small_net(x, w):
    """A few kinds of operation; the arrays inside, as weak references, and the loss."""
    h = tg.tanh(x @ w)
    a, b = tg.split(h, 2, axis=1)
    c, *_ = tg.unstack(tg.stack([a * b, tg.exp(a), b]))
    y = tg.softmax(tg.concatenate([c, h], axis=1))
    inside = [weakref.ref(t.array) for t in (h, y)]
    return tg.sum(y * y), inside


def gone(references):
    return all(reference() is None for reference in references)


def test_a_forward_pass_that_is_dropped_leaves_nothing(no_collector):
    loss, inside = small_net(leaf(5, 3), leaf(3, 4))
    assert not gone(inside)  # kept for backward
    del loss
    assert gone(inside)


def test_backward_lets_go_of_kept_values(no_collector):
    loss, inside = small_net(leaf(5, 3), leaf(3, 4))
    loss.backward()
    assert gone(inside)
    assert loss.requires_grad


def test_a_retained_graph_goes_with_its_result(no_collector):
    loss, inside = small_net(leaf(5, 3), leaf(3, 4))
    loss.backward(retain_graph=True)
    assert not gone(inside)
    del loss
    assert gone(inside)


def test_a_recorded_backward_pass_goes_with_its_result(no_collector):
    x, w = leaf(5, 3), leaf(3, 4)
    loss, inside = small_net(x, w)
    g = tg.grad(loss, w, create_graph=True)
    del loss
    assert not gone(inside)  # g has a derivative
    penalty = tg.sum(g * g)
    del g
    penalty.backward()
    del penalty
    assert gone(inside)


def test_a_recorded_backward_pass_that_is_dropped_leaves_nothing(no_collector):
    x, w = leaf(5, 3), leaf(3, 4)
    loss, inside = small_net(x, w)
    g = tg.grad(loss, [x, w], create_graph=True)
    del g, loss
    assert gone(inside)


def test_gradients_with_a_graph_go_when_the_leaf_forgets_them(no_collector):
    x, w = leaf(5, 3), leaf(3, 4)
    loss, inside = small_net(x, w)
    loss.backward(create_graph=True)
    del loss
    x.grad = w.grad = None  # until then they hold the graph, which ends in their own leaf
    assert gone(inside)


def test_an_exception_in_a_vjp_keeps_nothing(no_collector):
    @tg.op(x=lambda g, x: 1 // 0)
    def fails(x):
        return x * 1

    def run():
        h = tg.exp(leaf(3))
        inside = weakref.ref(h.array)
        loss = tg.sum(fails(h) * h)
        with pytest.raises(ZeroDivisionError):
            loss.backward()
        return inside

    assert run()() is None


def test_an_exception_in_a_forward_pass_keeps_nothing(no_collector):
    def run():
        h = tg.exp(leaf(3))
        inside = weakref.ref(h.array)
        try:
            h @ h @ np.ones((2, 2))
        except tg.ShapeError:
            return inside

    assert run()() is None


def test_a_hundred_training_steps_leave_no_cycles(no_collector):
    import gc

    w = leaf(3, 3)
    for _ in range(100):
        w.grad = None
        loss, _ = small_net(leaf(5, 3), tg.concatenate([w, w[:, :1]], axis=1))
        loss.backward()
    del loss
    assert gc.collect() == 0


KEEPS_NOTHING = {  # the argument h is not read by the VJP, so its array may go
    "add": lambda h: h + 1.0,
    "subtract": lambda h: 1.0 - h,
    "negative": lambda h: -h,
    "times a constant": lambda h: h * np.full((3, 2), 2.0),
    "divided by a constant": lambda h: h / 3.0,
    "a constant matrix": lambda h: h @ np.ones((2, 2)),
    "sum": lambda h: tg.sum(h, 0),
    "mean": lambda h: tg.mean(h, 1),
    "getitem of rows": lambda h: h[np.array([0, 0])],
    "where": lambda h: tg.where(True, h, 0.0),
    "stack": lambda h: tg.stack([h, h]),
    "concatenate": lambda h: tg.concatenate([h, h]),
    "cumsum": lambda h: tg.cumsum(h, 0),
    "astype": lambda h: h.astype(np.float32),
    "pad": lambda h: tg.pad(h, 1),
    "exp": tg.exp,
    "tanh": tg.tanh,
    "sigmoid": tg.sigmoid,
    "sqrt": tg.sqrt,
    "softmax": tg.softmax,
}


@pytest.mark.parametrize("call", KEEPS_NOTHING.values(), ids=KEEPS_NOTHING)
def test_values_that_no_vjp_names_die_during_the_forward_pass(no_collector, call):
    h = tg.exp(leaf(3, 2)) * np.full((3, 2), 1.0)  # made by an operation that keeps no result
    inside = weakref.ref(h.array)
    y = call(h)
    del h
    assert inside() is None
    assert tg.sum(y).requires_grad


def test_a_vjp_keeps_what_it_names_and_nothing_else(no_collector):
    @tg.op(a=lambda g, b: g * b, b=lambda g, b_shape, y: g * y)
    def odd(a, b, c):
        return a * b * c

    a, b, c = (tg.exp(leaf(2, seed=i)) * np.full(2, 1.0) for i in range(3))
    c = c.detach()
    refs = [weakref.ref(t.array) for t in (a, b, c)]
    y = odd(a, b, c)
    refs.append(weakref.ref(y.array))
    z = y + 0.0
    del a, b, c, y
    assert [ref() is None for ref in refs] == [True, False, True, False]
    z.sum().backward()
    assert gone(refs)


def test_a_changed_index_array_does_not_reach_the_backward_pass():
    x = leaf(4, 2)
    calls = {
        "getitem": (np.array([0, 1]), lambda i: x[i]),
        "tuple": (np.array([0, 1]), lambda i: x[i, i]),
        "mask": (np.array([True, False, True, False]), lambda i: x[i]),
        "take": (np.array([0, 1]), lambda i: tg.take(x, i, 0)),
        "embedding": (np.array([0, 1]), lambda i: tg.embedding(i, x)),
        "take_along_axis": (np.array([[0], [1], [0], [1]]), lambda i: tg.take_along_axis(x, i, 1)),
        "scatter": (np.array([0, 1, 2, 3]), lambda i: tg.scatter(x, i, (9, 2)) ** 2),
        "nll": (np.array([0, 1, 0, 1]), lambda i: tg.nll(x, i)),
    }
    for name, (index, call) in calls.items():
        expected = tg.grad(tg.sum(call(index.copy())), x)
        y = tg.sum(call(index))
        index[:] = index[::-1].copy() if index.dtype == bool else 1 - index.clip(0, 1)
        np.testing.assert_array_equal(tg.grad(y, x).array, expected.array, err_msg=name)
