"""What hooks see and change on the way back, and when they are removed."""

import numpy as np
import pytest

import tinygrad_rnn as tg

from .leaves import leaf, ones


def test_hooks_see_the_whole_cotangent_once_in_order_and_can_be_removed():
    seen = []
    x = leaf(3)
    h = x * 2.0
    h.register_hook(lambda g: seen.append(("first", g.numpy())))
    remove = h.register_hook(lambda g: seen.append(("second", g.numpy())))
    tg.sum(h * h).backward(retain_graph=True)
    assert [name for name, _ in seen] == ["first", "second"]
    for _, g in seen:
        np.testing.assert_allclose(g, 2 * h.array)
    remove()
    seen.clear()
    tg.sum(h * h).backward()
    assert [name for name, _ in seen] == ["first"]


def test_what_a_hook_returns_flows_on_through_the_next_hook():
    x = ones(2)
    h = x * 1.0
    h.register_hook(lambda g: g * 10.0)
    h.register_hook(lambda g: g + 1.0)
    h.retain_grad()
    tg.sum(h).backward()
    assert (h.grad.array == 11).all() and (x.grad.array == 11).all()


def test_a_hook_on_a_leaf_changes_what_is_gathered():
    x = ones(2)
    x.register_hook(lambda g: -g)
    tg.sum(x * 3.0).backward()
    tg.sum(x * 3.0).backward()
    assert (x.grad.array == -6).all()


@pytest.mark.parametrize("uses", [1, 3])
def test_hooks_on_a_weight_and_on_its_transpose_see_arrays(uses):
    # The cotangent of W.T is kept as outer products; a hook must not meet them.
    w, x = leaf(2, 3), np.ones((4, 3))
    wt = w.T
    seen = {}
    w.register_hook(lambda g: seen.update(w=g.numpy()))
    wt.register_hook(lambda g: seen.update(wt=g.numpy()))
    tg.sum(sum(x @ wt for _ in range(uses))).backward()
    np.testing.assert_array_equal(seen["wt"], np.full((3, 2), 4.0 * uses))
    np.testing.assert_array_equal(seen["w"], np.full((2, 3), 4.0 * uses))


def test_hooks_under_create_graph_take_part_in_the_derivative():
    x = leaf(3)
    h = x * x
    remove = h.register_hook(lambda g: g * g)
    (g,) = tg.grad(tg.sum(h * h), [x], create_graph=True)  # (2 x^2)^2 * 2 x
    remove()  # or it would square the cotangent of the second pass too
    np.testing.assert_allclose(g.array, 8 * x.array**5)
    (second,) = tg.grad(tg.sum(g), [x])
    np.testing.assert_allclose(second.array, 40 * x.array**4)


def test_removing_a_hook_twice_leaves_the_others():
    for _ in range(20):  # a key made from an address is soon used again
        x, seen = ones(1), []
        remove = x.register_hook(lambda g: None)
        remove()
        x.register_hook(lambda g, seen=seen: seen.append(1))
        remove()
        x.sum().backward()
        assert seen == [1]


def test_a_hook_cannot_change_the_dtype_of_a_gradient():
    x = leaf(2, dtype=np.float32)
    x.register_hook(lambda g: tg.tensor(np.ones(2)))
    tg.sum(x * 2.0).backward()
    assert x.grad.dtype == np.float32


def test_what_a_hook_keeps_stays_as_it_was():
    kept = []
    a, b = ones(3), ones(3)
    for x in (a, b):
        x.register_hook(kept.append)
    tg.sum(a + b).backward()
    a.grad.array[...] = np.nan
    b.grad.array[...] = np.nan
    assert all((g.array == 1).all() for g in kept)


def test_the_cotangent_of_a_single_number_is_an_array():
    x, seen = tg.tensor(2.0, requires_grad=True), []
    h = x * 3.0
    h.register_hook(lambda g: seen.append(g.array))
    (h * 2.0).backward()
    assert type(x.grad.array) is type(seen[0]) is np.ndarray  # NumPy's product is a scalar
    assert type(tg.grad(x * 3.0, x).array) is np.ndarray
