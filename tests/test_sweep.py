"""Laws of the sweep: each node once, newest first, and all that comes to it added up."""

import functools
import weakref
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tinygrad_rnn as tg

from .leaves import assert_apart, counting, leaf, ones

# ---- order ---------------------------------------------------------------------------------------


def test_each_node_is_swept_once_with_its_whole_cotangent():
    # b = a + a, c = b + b: naive recursion goes through b twice, with half of its cotangent.
    calls = Counter()
    step = counting(calls)
    a = ones()
    b = step(a + a)
    c = step(b + b)
    c.backward()
    assert calls["step"] == 2
    assert a.grad.item() == 4


def test_sixty_doublings():
    # An engine that follows paths instead of nodes needs 2**60 steps.
    x = y = ones()
    for _ in range(60):
        y = y + y
    y.backward()
    assert x.grad.item() == 2**60


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 99), st.integers(-3, 3)), min_size=1, max_size=4),
        min_size=1,
        max_size=20,
    )
)
@example([[(0, 2)], [(0, 3), (1, 1)], [(2, 1), (1, 1)]])  # arms of unequal length
def test_gradient_counts_paths_in_any_acyclic_graph(recipe):
    # Each node is a sum of multiples of earlier ones.  Forward mode on whole numbers is the oracle.
    calls = Counter()
    step = counting(calls)
    x = ones()
    tensors, slopes = [x], [1]
    for terms in recipe:
        terms = [(i % len(tensors), k) for i, k in terms]
        total = sum(tensors[i] * float(k) for i, k in terms)
        tensors.append(step(total))
        slopes.append(sum(slopes[i] * k for i, k in terms))
    tensors[-1].backward()
    assert x.grad.item() == slopes[-1]
    assert calls["step"] <= len(recipe)  # once for each node that the result depends on


def test_births_do_not_follow_the_order_of_use():
    # The branch that is built last is used first; an engine that goes by use would be wrong.
    x = ones()
    late_used = x * 2.0
    early_used = x * 3.0
    y = tg.exp(early_used - 3.0) * early_used + late_used * late_used
    y.backward()
    assert x.grad.item() == pytest.approx(3 * 3 + 3 + 2 * 2 * 2)


def test_fan_out_and_fan_in_of_ten_thousand():
    x = ones()
    y = tg.sum(tg.stack([x * float(i) for i in range(10_000)]))
    y.backward()
    assert x.grad.item() == 9999 * 10_000 / 2
    x = z = ones()
    for _ in range(10_000):
        z = z + x
    z.backward()
    assert x.grad.item() == 10_001


@pytest.mark.unwatched
def test_a_million_steps_deep(no_collector):
    # Backward, printing and deallocation: recursion in any of them overflows the stack.
    @tg.op(x=lambda g: g)
    def step(x):
        return x

    x = y = ones()
    for _ in range(1_000_000):
        y = step(y)
    assert "step" in repr(y)
    y.backward(retain_graph=True)
    assert x.grad.item() == 1
    first = tg.exp(x)
    gone = weakref.ref(first.array)
    y = y * first
    del first, y  # a million nodes let go at once
    assert gone() is None


def test_deep_chain_of_several_results_and_of_recorded_backward():
    @tg.op(lambda gs: gs)
    def both(a, b):
        return a, b

    x = ones()
    a = b = x
    for _ in range(20_000):
        a, b = both(a, b)
    (g,) = tg.grad(a * a + b, [x], create_graph=True)
    assert g.item() == 3
    (h,) = tg.grad(g, [x])
    assert h.item() == 2


# ---- accumulation --------------------------------------------------------------------------------


def test_leaf_gradients_add_up_and_interior_ones_are_not_kept():
    x = leaf(3)
    h = x * x
    assert x.grad is None
    h.sum().backward()
    np.testing.assert_array_equal(x.grad.array, 2 * x.array)
    tg.sum(x * 5.0).backward()
    np.testing.assert_allclose(x.grad.array, 2 * x.array + 5)
    assert h.grad is None
    x.grad = None
    tg.sum(x * 5.0).backward()
    np.testing.assert_array_equal(x.grad.array, np.full(3, 5.0))


def test_retain_graph_doubles_exactly():
    x = leaf(4, 3)
    y = tg.sum(tg.tanh(x @ x.T))
    y.backward(retain_graph=True)
    once = x.grad.numpy()
    y.backward()
    np.testing.assert_array_equal(x.grad.array, 2 * once)


def test_retain_grad_keeps_the_whole_cotangent_of_an_interior_tensor():
    x = leaf(3)
    h = x * 2.0
    h.retain_grad()
    tg.sum(h * h + h).backward()
    np.testing.assert_allclose(h.grad.array, 2 * h.array + 1)
    np.testing.assert_allclose(x.grad.array, 2 * (2 * h.array + 1))


def test_a_leaf_may_be_the_output():
    x = ones()
    x.backward()
    x.backward(3.0)
    assert x.grad.item() == 4
    assert tg.grad(x, x).item() == 1


PASSING = {  # calls whose VJPs may hand on the very array that they were given, or a view of it
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "same twice": lambda a, b: a + a + b,
    "reshape": lambda a, b: tg.reshape(a, -1) + tg.reshape(b, -1),
    "T": lambda a, b: a.T + b.T,
    "getitem": lambda a, b: a[1:] + b[:-1],
    "stack": lambda a, b: tg.stack([a, a, b]),
    "concatenate": lambda a, b: tg.concatenate([a, b, a]),
    "unstack": lambda a, b: sum(tg.unstack(a)) + tg.unstack(b)[0],
    "broadcast": lambda a, b: tg.broadcast_to(a, (2, 3, 3)) + b,
    "sum": lambda a, b: tg.sum(a) + tg.sum(b),
    "where": lambda a, b: tg.where(True, a, b),
    "astype": lambda a, b: a.astype(np.float64) + b,
    "permute": lambda a, b: tg.stack([a, b]).transpose(2, 0, 1),
    "scatter": lambda a, b: tg.scatter(a, slice(1, 4), (5, 3)) + tg.scatter(b, slice(3), (5, 3)),
    "matmul": lambda a, b: a @ b.T,
    "einsum": lambda a, b: tg.einsum("ij,ij->ij", a, b),
    "identity": lambda a, b: a,
}


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("program", PASSING.values(), ids=PASSING)
def test_no_gradient_shares_memory_with_anything(program, create_graph):
    a, b = leaf(3, 3), leaf(3, 3, seed=1)
    y = program(a, b)
    y.retain_grad()
    cotangent = np.ones(y.shape)
    y.backward(cotangent, retain_graph=True, create_graph=create_graph)
    kept = [x for x in (a, b, y) if x.grad is not None]
    kept = kept[:1] if y is a else kept
    assert_apart(cotangent, a.array, b.array, *[x.grad.array for x in kept])

    before = [x.grad.numpy() for x in kept]
    for x in kept:
        assert x.grad.array.flags.writeable
        x.grad.array[...] = np.nan  # whoever still looks at it sees it
        x.grad = None
    assert np.all(cotangent == 1)
    assert np.isfinite(a.array).all() and np.isfinite(b.array).all()
    y.backward(cotangent, create_graph=create_graph)
    for x, old in zip(kept, before, strict=True):
        np.testing.assert_array_equal(x.grad.array, old)


@pytest.mark.parametrize("times", [1, 2])
def test_a_gradient_that_is_kept_as_rows_shares_memory_with_nothing(times):
    @tg.op(x=lambda g, weights: weights)
    def weighed(x, weights):
        return np.sum(x * weights)

    table, weights, ids = leaf(50, 2), np.ones((3, 2)), np.array([4, 1, 4])
    sum(weighed(table[ids], weights) for _ in range(times)).backward()
    weights[...] = np.nan
    expected = np.zeros((50, 2))
    expected[[1, 4]] = [[times], [2 * times]]
    np.testing.assert_array_equal(table.grad.array, expected)


def test_gradients_from_grad_are_apart_even_for_one_input_given_twice():
    x = leaf(3)
    y = x + 0.0
    seed = tg.tensor(np.ones(3))
    found = tg.grad([y, x], [x, x, y], [seed, seed])
    assert_apart(seed.array, x.array, *[g.array for g in found])


@pytest.mark.parametrize("uses", [2, 3, 4, 5])
def test_a_sum_of_cotangents_is_written_into_no_array_of_others(uses):
    seen = []

    @tg.op(x=lambda g: seen.append((g, g.copy())) or g)
    def step(x):
        return x * 1

    x, g = leaf(3), np.array([1.0, -2.0, 0.5])
    (functools.reduce(lambda y, _: y + step(x), range(uses), 0.0)).backward(g)
    np.testing.assert_array_equal(x.grad.array, uses * g)
    assert len(seen) == uses
    for shown, before in seen:
        np.testing.assert_array_equal(shown, before)


def test_a_sum_of_cotangents_of_two_precisions_is_rounded_in_the_end():
    x = tg.tensor(np.ones(2, np.float32), requires_grad=True)
    little = np.full(2, 2.0**-25)  # float64: three are more than half of the last digit of 1
    littles = [tg.sum(x * little) for _ in range(3)]
    halves = [tg.sum(x * np.float32(0.5)) for _ in range(2)]  # newer, and so the first to arrive
    sum(littles + halves).backward()
    np.testing.assert_array_equal(x.grad.array, np.float32(1 + 3 * 2.0**-25))
    assert x.grad.array[0] > 1


def test_accumulating_leaves_the_earlier_gradient_object_alone():
    # An engine that adds in place changes what the user kept from the first call.
    x = ones(3)
    tg.sum(x * 2.0).backward()
    first = x.grad
    tg.sum(x * 3.0).backward()
    assert (first.array == 2).all() and (x.grad.array == 5).all()
