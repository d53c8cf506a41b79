"""Laws of recording and of the sweep: order, accumulation, memory, and the cost of both."""

import asyncio
import copy
import functools
import pickle
import re
import sys
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import products
from tinygrad_rnn.backend import Backend

# ---- tools --------------------------------------------------------------------------------------


def leaf(*shape, dtype=float, seed=0):
    """A tracked Tensor of normal entries."""
    values = np.random.default_rng(seed).standard_normal(shape)
    return tg.tensor(values.astype(dtype), requires_grad=True)


def ones(*shape):
    return tg.tensor(np.ones(shape), requires_grad=True)


def counting(calls, name="step"):
    """The identity as an operation that counts how often its VJP is called."""

    def vjp(g):
        calls[name] += 1
        return g

    @tg.op(x=vjp)
    def step(x):
        return x * 1

    return step


def recording():
    """Whether a call on a tracked Tensor is recorded here and now."""
    return (ones(1) * 2).requires_grad


def assert_apart(*arrays):
    """No two of these share memory."""
    for i, a in enumerate(arrays):
        for b in arrays[:i]:
            assert not np.shares_memory(a, b)


class Counted(np.ndarray):
    """An array that counts the matrix products it takes part in."""

    __array_priority__ = 1
    products = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        Counted.products += ufunc is np.matmul
        plain = [x.view(np.ndarray) if isinstance(x, Counted) else x for x in inputs]
        if "out" in kwargs:
            kwargs["out"] = tuple(x.view(np.ndarray) for x in kwargs["out"])
        y = getattr(ufunc, method)(*plain, **kwargs)
        return y.view(Counted) if isinstance(y, np.ndarray) else y


# ---- order --------------------------------------------------------------------------------------


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


# ---- accumulation -------------------------------------------------------------------------------


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


# ---- what is tracked ----------------------------------------------------------------------------


def test_tensor_in_tensor_out_recorded_only_if_tracked():
    array, constant, tracked = np.ones(2), tg.tensor(np.ones(2)), ones(2)
    assert type(tg.tanh(array)) is np.ndarray
    for y in (tg.tanh(constant), constant * array, constant + constant):
        assert type(y) is tg.Tensor and not y.requires_grad
    for y in (tg.tanh(tracked), array * tracked, constant + tracked):
        assert type(y) is tg.Tensor and y.requires_grad and not y.is_leaf
    with tg.no_grad():
        y = tg.tanh(tracked)
        assert type(y) is tg.Tensor and not y.requires_grad


def test_detach_stops_the_gradient_and_keeps_the_value():
    x = leaf(3)
    h = x * 2.0
    d = h.detach()
    assert not d.requires_grad and d.array is h.array
    tg.sum(h * d).backward()
    np.testing.assert_allclose(x.grad.array, 2 * d.array)  # not 4: d is a constant


def test_detached_state_lets_truncated_windows_run_on_and_stops_their_gradients():
    w, h, total = ones(), tg.tensor(1.0, dtype=float), 0.0
    for _ in range(3):
        h = h.detach()
        start = h.item()
        h = h * w * w
        h.backward()
        total += 2 * start * w.item()
    assert w.grad.item() == total


def test_requires_grad_can_be_switched_on_a_leaf_only():
    x = tg.tensor(np.ones(2))
    x.requires_grad = True
    y = x * 2.0
    with pytest.raises(tg.NotTrackedError, match="detach"):
        y.requires_grad = False
    x.requires_grad = False
    assert not (x * 2.0).requires_grad


# ---- no_grad ------------------------------------------------------------------------------------


def test_no_grad_nests_and_ends_with_an_exception():
    with tg.no_grad():
        with tg.no_grad():
            assert not recording()
        assert not recording()
    assert recording()
    with pytest.raises(KeyError), tg.no_grad():
        raise KeyError
    assert recording()


def test_blocks_may_end_in_any_order():
    first, second = tg.no_grad(), tg.no_grad()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not recording()  # saving and restoring a flag would turn it on here
    second.__exit__(None, None, None)
    assert recording()


def test_one_object_may_be_entered_again():
    pause = tg.no_grad()
    with pause, pause:
        assert not recording()
    assert recording()


def test_no_grad_as_a_decorator():
    @tg.no_grad()
    def paused(n):
        assert not recording()
        return paused(n - 1) if n else "done"

    assert paused(3) == "done"
    assert paused.__name__ == "paused"
    assert recording()

    @tg.no_grad()
    def fails():
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert recording()


def test_no_grad_on_a_generator_pauses_its_body_only():
    seen = []

    @tg.no_grad()
    def numbers(n):
        seen.append(recording())
        try:
            for i in range(n):
                try:
                    got = yield i
                except KeyError:
                    got = "caught"
                seen.append((recording(), got))
        finally:
            seen.append(recording())
        return "returned"

    def outer():
        result = yield from numbers(2)
        assert result == "returned"

    for _ in outer():
        assert recording()  # between items
    assert seen == [False, (False, None), (False, None), False]

    seen.clear()
    generator = numbers(9)
    assert next(generator) == 0
    assert generator.send("hello") == 1
    assert recording()
    assert generator.throw(KeyError) == 2
    assert recording()
    generator.close()
    assert seen == [False, (False, "hello"), (False, "caught"), False]
    assert recording()
    with pytest.raises(ZeroDivisionError):
        generator = numbers(9)
        next(generator)
        generator.throw(ZeroDivisionError)
    assert recording()


def test_no_grad_inside_a_generator_ends_with_the_block():
    def generator():
        with tg.no_grad():
            yield

    g = generator()
    next(g)
    assert not recording()
    g.close()
    assert recording()


def test_no_grad_holds_for_its_thread_alone():
    inside, leave = threading.Event(), threading.Event()
    seen = {}

    def pausing():
        with tg.no_grad():
            inside.set()
            leave.wait(5)
            seen["pausing"] = recording()

    thread = threading.Thread(target=pausing)
    thread.start()
    inside.wait(5)
    assert recording()
    with tg.no_grad(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(recording).result()  # a new thread records
    leave.set()
    thread.join()
    assert seen == {"pausing": False}


def test_no_grad_holds_for_its_asyncio_task_alone():
    seen = []

    async def pausing():
        with tg.no_grad():
            await asyncio.sleep(0)
            seen.append(recording())
            await asyncio.sleep(0)
        seen.append(recording())

    async def other():
        for _ in range(4):
            assert recording()
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(pausing(), other(), pausing(), other())

    asyncio.run(main())
    assert seen == [False, False, True, True]


def test_no_grad_as_a_decorator_of_a_coroutine():
    @tg.no_grad()
    async def evaluate():
        await asyncio.sleep(0)
        return recording()

    assert asyncio.run(evaluate()) is False


def test_no_grad_as_a_decorator_of_an_async_generator_is_refused():
    async def items():
        yield recording()

    with pytest.raises(tg.DtypeError, match="with no_grad"):
        tg.no_grad()(items)


def test_no_grad_needs_no_parentheses():
    @tg.no_grad
    def evaluate():
        return recording()

    assert evaluate() is False and recording()


def test_a_transposed_weight_of_a_freed_graph_is_refused():
    W = tg.tensor(np.ones((3, 2)), requires_grad=True)
    W_T = W.T
    (np.ones((4, 2)) @ W_T).sum().backward()
    with pytest.raises(tg.GraphFreedError):
        (np.ones((4, 2)) @ W_T).sum().backward()


class Predictor:
    def __call__(self):
        return recording()


@pytest.mark.parametrize(
    "call", [Predictor(), functools.partial(recording)], ids=["object", "partial"]
)
def test_no_grad_as_a_decorator_of_anything_that_can_be_called(call):
    assert tg.no_grad()(call)() is False


def test_a_block_that_ends_in_another_thread_does_no_harm_there():
    # A half-run generator is closed wherever its last reference goes: the count there goes to -1.
    def generator():
        with tg.no_grad():
            yield

    g = generator()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(next, g).result()
    g.close()
    seen = recording()
    with tg.no_grad():
        paused = not recording()
    if not seen:
        tg.no_grad().__enter__()  # leave no trace of the failure for the tests after this one
    assert seen and paused


# ---- hooks --------------------------------------------------------------------------------------


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


# ---- freed graphs -------------------------------------------------------------------------------


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


# ---- grad ---------------------------------------------------------------------------------------


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


def test_a_product_over_no_entries():
    # Legal in NumPy: (2, 3, 0) @ (0, 4) is all zeros.
    a, b = leaf(2, 3, 0), leaf(0, 4)
    y = a @ b
    assert y.shape == (2, 3, 4) and not y.array.any()
    tg.sum(y).backward()
    assert a.grad.shape == a.shape and b.grad.shape == b.shape


# ---- dtypes -------------------------------------------------------------------------------------

MIXED = {
    "multiply": lambda a, b: a * b,
    "matmul": lambda a, b: a @ b,
    "matmul transposed": lambda a, b: a @ b.T,
    "used twice": lambda a, b: a @ b + a @ b,
    "used twice transposed": lambda a, b: a @ b.T + a @ b.T,
    "transposed, then used twice": lambda a, b: (lambda t: a @ t + a @ t)(b.T),
    "from the left": lambda a, b: b.T @ a,
    "rows": lambda a, b: b[np.array([0, 1, 1])] * a,
    "rows and products": lambda a, b: b[np.array([0, 1, 1])] + a @ b,
    "concatenate": lambda a, b: tg.concatenate([a, b]),
    "stack": lambda a, b: tg.stack([a, b]),
    "einsum": lambda a, b: tg.einsum("ij,jk->ik", a, b),
    "where": lambda a, b: tg.where(np.eye(3) > 0, a, b),
    "maximum": lambda a, b: tg.maximum(a, b),
    "power": lambda a, b: (a * a + 1.0) ** b,
    "steps": lambda a, b: sum(row @ b for row in a),
}


@pytest.mark.parametrize("right", [np.float32, np.float64])
@pytest.mark.parametrize("left", [np.float32, np.float64])
@pytest.mark.parametrize("program", MIXED.values(), ids=MIXED)
def test_a_gradient_has_the_dtype_and_shape_of_its_leaf(program, left, right):
    a, b = leaf(3, 3, dtype=left), leaf(3, 3, dtype=right, seed=1)
    y = program(a, b)
    assert y.dtype == np.result_type(left, right)
    tg.sum(y * y).backward(retain_graph=True)
    A, B = (tg.tensor(x.array, dtype=float, requires_grad=True) for x in (a, b))
    Y = program(A, B)
    tg.sum(Y * Y).backward()
    for x, exact in ((a, A), (b, B)):
        assert x.grad.dtype == x.dtype and x.grad.shape == x.shape
        np.testing.assert_allclose(x.grad.array, exact.grad.array, rtol=1e-4, atol=1e-4)
    recorded = tg.grad(tg.sum(y * y), [a, b], create_graph=True)
    for x, g in ((a, recorded[0]), (b, recorded[1])):
        assert g.dtype == x.dtype and g.shape == x.shape


NUMBERS = [2, 2.0, True, np.float64(2), np.float32(2), np.int64(2), np.bool_(True), np.int8(2)]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: f"{type(n).__name__}")
def test_numbers_on_either_side_keep_float32(number):
    x = tg.tensor([1.5, 2.5], requires_grad=True)
    for y in (x + number, number + x, x * number, number * x, x / number, number / x, x**number):
        assert y.dtype == np.float32
        y.sum().backward()
    assert (number - x).dtype == (x - number).dtype == (number**x).dtype == np.float32
    assert tg.maximum(number, x).dtype == tg.where(x > 2, number, x).dtype == np.float32
    assert x.grad.dtype == np.float32


SCALARS = {  # calls that give single numbers, for which NumPy has a type of its own
    "getitem": lambda x: x[0],
    "sum": tg.sum,
    "max": tg.max,
    "logsumexp": tg.logsumexp,
    "inner product": lambda x: x @ x,
    "arithmetic": lambda x: x[0] + x[1],
    "tensor": lambda x: tg.tensor(np.float32(2)),
}


BROKEN_SCALARS = {"unpacking": lambda x: next(iter(x)), "unstack": lambda x: tg.unstack(x)[1]}


@pytest.mark.parametrize(
    "call",
    [
        *SCALARS.values(),
        *[
            pytest.param(
                call,
            )
            for call in BROKEN_SCALARS.values()
        ],
    ],
    ids=[*SCALARS, *BROKEN_SCALARS],
)
def test_single_numbers_are_arrays_too_and_keep_float32(call):
    # A NumPy scalar counts as a Python float, and so float32 would be lost one operation later.
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = call(x)
    assert type(y.array) is np.ndarray and y.shape == ()
    assert y.dtype == (y * 2.0).dtype == (y * y).dtype == tg.tanh(y).dtype == np.float32


def test_an_array_on_the_left_gives_a_tensor():
    x = leaf(2, 2)
    m = np.ones((2, 2))
    for y in (m * x, m + x, m - x, m / x, m @ x, np.float64(2) * x, np.array(2.0) * x):
        assert type(y) is tg.Tensor and y.requires_grad
    assert type(m < x) is np.ndarray and type(m == x) is np.ndarray


def test_integer_operands_have_no_part_in_gradients():
    x = leaf(3)
    counts = tg.tensor([1, 2, 3])
    tg.sum(x * counts + x * np.array([1, 2, 3]) + x * 2).backward()
    np.testing.assert_array_equal(x.grad.array, [4.0, 6.0, 8.0])


def test_complex_payloads_stay_complex():
    # The complex step goes through the engine: f(x + ih) carries its derivative in Im f / h.
    step = 1e-30
    x, m = np.array([0.3, -0.7]), np.array([[1.0, 2.0], [3.0, -1.0]])
    z = tg.tensor(x + 1j * step * np.array([1.0, 0.0]), requires_grad=True)
    y = tg.sum(tg.tanh(m @ z) * tg.sin(z))
    g = tg.grad(y, z)
    assert g.dtype == complex

    x = tg.tensor(x, requires_grad=True)
    g1 = tg.grad(tg.sum(tg.tanh(m @ x) * tg.sin(x)), x, create_graph=True)
    np.testing.assert_allclose(g.array.real, g1.array, rtol=1e-13)
    np.testing.assert_allclose(g.array.imag / step, tg.grad(g1[0], x).array, rtol=1e-13)


def test_a_leaf_that_another_array_is_assigned_to_keeps_the_dtype_of_its_gradient():
    x = tg.tensor(np.ones(2, np.float32), requires_grad=True)
    x.array = np.array([1.0, 1e-9])
    tg.sum(x * x * x).backward()
    assert x.dtype == np.float64 and x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad.array, np.float32([3.0, 3e-18]))


@pytest.mark.parametrize("cotangent", [np.array(1j), tg.tensor(np.array(1j)), 1j], ids=type)
def test_a_complex_cotangent_is_never_cast_to_real(cotangent):
    x = ones()
    (x * 2.0).backward(cotangent)
    assert x.grad.dtype == complex and x.grad.item() == 2j


# ---- higher order -------------------------------------------------------------------------------


@pytest.mark.parametrize("spelled", ["power", "products", "matmul"])
@given(st.lists(st.integers(-3, 3), min_size=4, max_size=6))
def test_three_derivatives_of_a_polynomial(spelled, coefficients):
    points = np.array([0.5, -1.25, 0.0, 2.0])
    x = tg.tensor(points, requires_grad=True)
    if spelled == "power":
        y = sum(float(c) * x**k for k, c in enumerate(coefficients))
    elif spelled == "products":
        y = x * 0.0
        for c in reversed(coefficients):
            y = y * x + float(c)
    else:
        powers = [x * 0.0 + 1.0]
        for _ in coefficients[1:]:
            powers.append(powers[-1] * x)
        y = tg.stack(powers, 1) @ np.array(coefficients, float)
    exact = np.polynomial.Polynomial(coefficients)
    np.testing.assert_allclose(y.array, exact(points), atol=1e-12)
    for _ in range(3):
        exact = exact.deriv()
        y = tg.grad(tg.sum(y), x, create_graph=True)
        np.testing.assert_allclose(y.array, exact(points), rtol=1e-12, atol=1e-11)


def test_mixed_third_derivatives_of_a_broadcast_product():
    a, b = leaf(2, 1), leaf(3, seed=1)
    by_a = tg.grad(tg.sum(a**2 * b**3), a, create_graph=True)
    by_ab = tg.grad(tg.sum(by_a), b, create_graph=True)
    by_abb = tg.grad(tg.sum(by_ab), b)
    np.testing.assert_allclose(by_a.array, 2 * a.array * np.sum(b.array**3))
    np.testing.assert_allclose(by_ab.array, 2 * np.sum(a.array) * 3 * b.array**2)
    np.testing.assert_allclose(by_abb.array, 2 * np.sum(a.array) * 6 * b.array)


def test_backward_with_create_graph_gathers_gradients_that_have_gradients():
    x = ones()
    (x**3.0).backward(create_graph=True)
    g = x.grad
    assert g.item() == 3 and g.requires_grad
    x.grad = None
    g.backward()
    assert x.grad.item() == 6


def test_gradient_penalty_equals_its_formula():
    # The penalty |dE/dx|^2 of E = sum tanh(x W) by W, against differences of the NumPy formula.
    x, w = leaf(4, 3), leaf(3, 2, seed=1)

    def penalty(w):
        return np.sum(((1 - np.tanh(x.array @ w) ** 2) @ w.T) ** 2)

    g = tg.grad(tg.sum(tg.tanh(x @ w)), x, create_graph=True)
    tg.sum(g * g).backward()
    step, expected = 1e-6, np.zeros((3, 2))
    for i in np.ndindex(3, 2):
        d = np.zeros((3, 2))
        d[i] = step
        expected[i] = (penalty(w.array + d) - penalty(w.array - d)) / (2 * step)
    np.testing.assert_allclose(w.grad.array, expected, rtol=1e-6)


# ---- memory -------------------------------------------------------------------------------------


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


# ---- cost ---------------------------------------------------------------------------------------

SLICINGS = {
    "x[t] of a leaf": lambda x: [x[t] for t in range(len(x))],
    "x[t] of a result": lambda x: (lambda h: [h[t] for t in range(len(h))])(x * 2.0),
    "x[-t]": lambda x: [x[-t] for t in range(1, len(x) + 1)],
    "x[t:t + 1]": lambda x: [x[t : t + 1] for t in range(len(x))],
    "x[:, t]": lambda x: (lambda h: [h[:, t] for t in range(len(x))])(tg.swapaxes(x, 0, 1)),
    "iteration": list,
    "unstack": tg.unstack,
    "split": lambda x: tg.split(x, len(x)),
    "take": lambda x: [tg.take(x, [t], 0) for t in range(len(x))],
    "embedding": lambda x: [tg.embedding(np.array([t, 0]), x) for t in range(len(x))],
}


@pytest.mark.parametrize("steps", SLICINGS.values(), ids=SLICINGS)
def test_backward_through_slices_is_linear_in_their_number(monkeypatch, steps):
    # Bytes that are zeroed and scattered into: with dense cotangents of x[t] they grow as T^2.
    moved = Counter()
    zeros, scatter_add = Backend.zeros, Backend.scatter_add

    def counted_zeros(self, shape, dtype):
        out = zeros(self, shape, dtype)
        moved["bytes"] += out.nbytes
        return out

    def counted_scatter_add(self, out, index, values, once=False):
        moved["calls"] += 1
        moved["bytes"] += np.asarray(values).nbytes
        scatter_add(self, out, index, values, once)

    monkeypatch.setattr(Backend, "zeros", counted_zeros)
    monkeypatch.setattr(Backend, "scatter_add", counted_scatter_add)
    work = {}
    for T in (40, 320):
        x = leaf(T, 2, 3)
        moved.clear()
        h = 0.0
        for step in steps(x):
            h = h + tg.tanh(step)
        tg.sum(h).backward()
        work[T] = moved.copy()
        assert np.isfinite(x.grad.array).all() and x.grad.array[1:].all()
    for what in work[40]:
        assert work[320][what] <= 8 * 1.1 * work[40][what] + 16


SIZES = [  # T, B, D, H
    (1, 1, 1, 1),
    (7, 1, 1, 1),
    (300, 1, 2, 3),
    (50, 5, 4, 4),
    (20, 64, 8, 3),
    (6, 300, 5, 5),
    (40, 20, 64, 1),
    (40, 20, 1, 64),
    (64, 32, 100, 200),
    (300, 1, 300, 300),
    (30, 20, 600, 500),  # the weight holds more than 256 rows
]
USES = {
    "W": lambda w, x: x @ w,
    "W.T each time": lambda w, x: x @ w.T,
    "W.T once": lambda w, x: x @ w,  # the caller passes w.T
    "W of vectors": lambda w, x: tg.stack([row @ w for row in x]) if len(x) < 6 else x @ w,
    "W of sequences": lambda w, x: x[:, None] @ w,
    "from the left": lambda w, x: (w @ x.T).T,
    "W.T from the left": lambda w, x: (w.T @ x.T).T,
}


def count_products(monkeypatch):
    """Count in ``Counted.products``, those too that take the short way, ``dot`` of an array."""
    monkeypatch.setattr(Counted, "products", 0)
    monkeypatch.setattr(products, "product", lambda a, b: np.matmul(a.view(Counted), b))


def products_for(monkeypatch, T, B, D, H, use):
    """The number of matrix products in the backward pass for a weight used T times on constants."""
    count_products(monkeypatch)
    rng = np.random.default_rng(0)
    turned = use in ("W.T each time", "W.T once", "from the left")
    w = leaf(H, D) if turned else leaf(D, H)
    xs = [rng.standard_normal((B, D)) for _ in range(T)]
    gs = [rng.standard_normal((B, H)) for _ in range(T)]
    weight = w.T if use == "W.T once" else w
    ys = [USES[use](weight, x.view(Counted)) for x in xs]
    loss = sum(tg.sum(y * g.reshape(y.shape)) for y, g in zip(ys, gs, strict=True))
    Counted.products = 0
    loss.backward()
    exact = sum(x.T @ g for x, g in zip(xs, gs, strict=True))
    np.testing.assert_allclose(w.grad.array, exact.T if turned else exact, rtol=1e-9, atol=1e-9)
    return Counted.products


@pytest.mark.unwatched  # which would multiply them out one by one
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("use", USES)
def test_a_weight_used_at_every_step_costs_few_products(monkeypatch, use, size):
    T, B, D, H = size
    assert 1 <= products_for(monkeypatch, T, B, D, H, use) <= T * B / 256 + 1


@pytest.mark.unwatched
def test_a_recurrent_weight_costs_few_products_beside_the_chain_itself(monkeypatch):
    T, B, H = 100, 8, 16
    count_products(monkeypatch)
    w = leaf(H, H)
    h = np.zeros((B, H)).view(Counted)
    for _ in range(T):
        h = tg.tanh(h @ w.T + 1.0)
    loss = tg.sum(h)
    Counted.products = 0
    loss.backward()
    assert Counted.products <= (T - 1) + T * B / 256 + 1


# ---- one cannot lose a graph by accident --------------------------------------------------------


def test_copies_of_leaves_are_leaves_and_results_refuse():
    x = leaf(3)
    c = tg.tensor([1, 2])
    for twin in (
        copy.deepcopy(x),
        copy.deepcopy({"x": x})["x"],
        pickle.loads(pickle.dumps(x)),
        copy.copy(x),
    ):
        assert twin.requires_grad and twin.is_leaf and twin.dtype == x.dtype
        np.testing.assert_array_equal(twin.array, x.array)
        assert_apart(twin.array, x.array)
    assert not copy.deepcopy(c).requires_grad and copy.deepcopy(c).dtype == c.dtype
    y = x * 2.0
    for refused in (copy.deepcopy, copy.copy, pickle.dumps, lambda y: copy.deepcopy([y])):
        with pytest.raises(tg.DtypeError, match=r"multiply(.*\n)+.*detach"):
            refused(y)
    y.sum().backward()  # not even when the graph is gone
    with pytest.raises(tg.DtypeError):
        copy.deepcopy(y)


def test_tied_weights_stay_tied_in_a_copy():
    x = leaf(3)
    first, second = copy.deepcopy([x, x])
    assert first is second


def test_a_tensor_does_not_turn_into_an_array_unseen():
    x = leaf(3)
    for turn in (np.asarray, np.array, lambda x: np.concatenate([x]), lambda x: np.stack([x, x])):
        with pytest.raises(tg.DtypeError, match=r"\.numpy\(\)"):
            turn(x)
    copied = x.numpy()
    assert type(copied) is np.ndarray
    assert_apart(copied, x.array)


def test_assignment_refuses_and_names_what_to_use():
    x = leaf(3)
    with pytest.raises(tg.DtypeError, match=r"stack.*where|where.*stack"):
        x[0] = 1.0


def test_iteration_indexing_and_length_agree():
    x = leaf(3, 2)
    rows = list(x)
    assert len(rows) == len(x) == 3
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(row.array, x[i].array)
    a, _, _ = x
    tg.sum(a).backward()
    np.testing.assert_array_equal(x.grad.array, [[1, 1], [0, 0], [0, 0]])
    for scalar in (leaf(), x[0, 0]):
        with pytest.raises(TypeError):
            iter(scalar)
        with pytest.raises(TypeError):
            len(scalar)


def test_numbers_of_single_entries():
    x = tg.tensor([[2.5]], requires_grad=True)
    assert float(x) == x.item() == 2.5 and int(x) == 2 and bool(x)
    assert type(x.item()) is float and not tg.tensor([0.0])
    for convert in (float, int, bool, tg.Tensor.item):
        with pytest.raises(tg.ShapeError, match=r"\(2,\)"):
            convert(tg.tensor([1.0, 2.0]))


def test_identity_hash_and_comparisons_by_value():
    x, y = tg.tensor([1.0, 2.0]), tg.tensor([1.0, 3.0])
    assert (x == y).tolist() == [True, False] and (x != y).tolist() == [False, True]
    assert (x < y).tolist() == [False, True] and (x >= 2).tolist() == [False, True]
    assert len({x, y, x}) == 2 and hash(x) != hash(tg.tensor([1.0, 2.0]))


def test_payloads_of_tensor_are_copies_of_the_data():
    data = np.ones(3)
    x = tg.tensor(data, requires_grad=True)
    y = tg.tensor(x)
    assert_apart(data, x.array, y.array)
    assert not y.requires_grad


# ---- threads ------------------------------------------------------------------------------------


def test_eight_threads_over_shared_constants():
    data = tg.tensor(np.random.default_rng(0).standard_normal((6, 5)))
    start = threading.Barrier(8)

    def work(seed):
        w = leaf(5, 4, seed=seed)
        found = []
        start.wait(10)
        for k in range(30):
            h = tg.tanh(data @ w)
            with tg.no_grad():
                scale = float(k + 1) + 0.0 * tg.sum(h * h).item()
            w.grad = None
            (tg.sum(h * h[:, :1]) * scale).backward()
            found.append(w.grad.array / scale)
        return found

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(work, range(8)))
    start = threading.Barrier(1)
    for seed, found in enumerate(together):
        alone = work(seed)
        for a, b in zip(found, alone, strict=True):
            np.testing.assert_array_equal(a, b)


# ---- operations of one's own --------------------------------------------------------------------


def test_an_operation_with_one_vjp_per_argument():
    @tg.op(a=lambda g, a, b: 2 * g * a * b, b=lambda g, a: g * a * a)
    def square_times(a, b):
        return a * a * b

    a, b = leaf(2, 3), leaf(3, seed=1)
    for args, kwargs in (((a, b), {}), ((a,), {"b": b}), ((), {"b": b, "a": a})):
        y = square_times(*args, **kwargs)
        ga, gb = tg.grad(tg.sum(y), [a, b], create_graph=True)
        np.testing.assert_allclose(ga.array, 2 * a.array * b.array)
        np.testing.assert_allclose(gb.array, (a.array**2).sum(0))  # summed on the edge
        np.testing.assert_allclose(tg.grad(tg.sum(ga), b).array, 2 * a.array.sum(0))
    assert type(square_times(a.array, b.array)) is np.ndarray


def test_an_operation_with_defaults_and_numbers():
    @tg.op(x=lambda g, x, factor, power: g * factor * power * x ** (power - 1))
    def scaled(x, factor=2.0, power=1):
        return factor * x**power

    x = leaf(3)
    calls = [scaled(x), scaled(x, 3.0), scaled(x, power=2), scaled(x, 3.0, power=3)]
    slopes = [2.0 + 0 * x.array, 3.0 + 0 * x.array, 4 * x.array, 9 * x.array**2]
    for y, slope in zip(calls, slopes, strict=True):
        np.testing.assert_allclose(tg.grad(tg.sum(y), x).array, slope)


def test_x_and_a_and_b_have_defaults_like_any_argument():
    @tg.op(a=lambda g, b: g * b, b=lambda g, a: g * a)
    def times(a, b=2.0):
        return np.multiply(a, b)

    @tg.op(x=lambda g: 3.0 * g)
    def thrice(x=1.0):
        return np.multiply(x, 3.0)

    x = leaf(3)
    for y, slope in [(times(x), 2.0), (times(x, 4.0), 4.0), (times(b=5.0, a=x), 5.0)]:
        assert (tg.grad(tg.sum(y), x).array == slope).all()
    assert (thrice(), thrice(2.0)) == (3.0, 6.0)
    assert (tg.grad(tg.sum(thrice(x)), x).array == 3).all()


def test_an_operation_with_one_argument_takes_it_by_name():
    @tg.op(signal=lambda g: g * 2.0)
    def louder(signal):
        return signal * 2.0

    x = ones(2)
    assert (tg.grad(tg.sum(louder(signal=x)), x).array == 2).all()
    with pytest.raises(TypeError, match="louder"):
        louder(sound=x)


def test_a_default_before_any_number_of_arrays():
    @tg.op(lambda g, scale, arrays: (None, *[scale * g for _ in arrays]))
    def scaled_sum(scale=2.0, *arrays):
        return scale * (sum(arrays) + np.zeros(()))

    x = ones(2)
    assert (tg.grad(tg.sum(scaled_sum(3.0, x, x)), x).array == 6).all()
    assert scaled_sum(scale=3.0) == 0


def test_an_operation_with_several_results():
    seen = []

    def vjp(gs, r, angle):
        seen.append(tuple(g is None for g in gs))
        gx, gy = (0.0 * r if g is None else g for g in gs)
        return (
            gx * tg.cos(angle) + gy * tg.sin(angle),
            r * (gy * tg.cos(angle) - gx * tg.sin(angle)),
        )

    @tg.op(vjp)
    def polar(r, angle):
        return r * np.cos(angle), r * np.sin(angle)

    r, angle = leaf(3), leaf(3, seed=1)
    x, y = polar(r, angle)
    gr, ga = tg.grad(tg.sum(x * x + y * y), [r, angle], create_graph=True)  # r^2
    np.testing.assert_allclose(gr.array, 2 * r.array)
    np.testing.assert_allclose(ga.array, 0 * r.array, atol=1e-12)
    np.testing.assert_allclose(tg.grad(tg.sum(gr), r).array, np.full(3, 2.0))
    x, y = polar(r, angle)
    np.testing.assert_allclose(tg.grad(tg.sum(y), r).array, np.sin(angle.array))
    assert seen[-1] == (True, False)  # nothing flowed into x
    x, y = polar(r, 0.5)  # a constant beside it
    np.testing.assert_allclose(tg.grad(tg.sum(x), r).array, np.full(3, np.cos(0.5)))


def test_an_operation_on_any_number_of_arrays():
    @tg.op(lambda g, scale, arrays: (None, *[scale * g * 2 * x for x in arrays]))
    def squares(scale, *arrays):
        return scale * sum(x * x for x in arrays)

    xs = [leaf(3, seed=i) for i in range(4)]
    xs[2] = xs[2].detach()
    y = squares(3.0, *xs)
    found = tg.grad(tg.sum(y), [xs[0], xs[1], xs[3]], create_graph=True)
    for x, g in zip((xs[0], xs[1], xs[3]), found, strict=True):
        np.testing.assert_allclose(g.array, 6 * x.array)
    np.testing.assert_allclose(tg.grad(tg.sum(found[0]), xs[0]).array, np.full(3, 6.0))


def test_a_wrong_call_is_a_type_error_as_of_any_function():
    @tg.op(a=lambda g: g)
    def own(a, b=1.0):
        return a * b

    x = ones(2)
    for args, kwargs in (((), {}), ((x, 1, 2), {}), ((x,), {"c": 1}), ((x,), {"a": x})):
        with pytest.raises(TypeError, match="own"):
            own(*args, **kwargs)


def test_a_cotangent_of_the_wrong_shape_is_refused():
    # Reshaping it to fit would hide a missing transpose, the most common mistake of all.
    @tg.op(x=lambda g: g.T)
    def wrong(x):
        return x * 1

    with pytest.raises(tg.ShapeError, match=re.compile(r"wrong.*\(3, 2\).*\(2, 3\)", re.S)):
        tg.sum(wrong(leaf(2, 3))).backward()


def test_a_tracked_argument_without_a_vjp_is_refused():
    # Otherwise the gradient of b is silently missing.
    @tg.op(a=lambda g, b: g * b)
    def half_done(a, b):
        return a * b

    a, b = ones(2), ones(2)
    with pytest.raises(tg.DtypeError, match="half_done"):
        half_done(a, b)
    assert (tg.grad(tg.sum(half_done(a, b.detach())), a).array == 1).all()


def test_a_tracked_tensor_of_integers_cannot_come_about():
    # Its cotangent would be cast to whole numbers on the way.
    x = leaf(3)
    with pytest.raises(tg.DtypeError, match="astype"):
        x.astype(int)
    assert x.detach().astype(int).dtype == int


def test_an_infinite_cotangent_of_one_result_leaves_the_others_alone():
    x = ones(3)
    a, b, _ = x
    with np.errstate(all="ignore"):
        (a * np.inf + b).backward()
    np.testing.assert_array_equal(x.grad.array, [np.inf, 1.0, 0.0])
