"""What is recorded, and when: tracked arguments, detached ones, no_grad, threads."""

import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tinygrad_rnn as tg

from .leaves import leaf, ones


def recording():
    """Whether a call on a tracked Tensor is recorded here and now."""
    return (ones(1) * 2).requires_grad


# ---- what is tracked -----------------------------------------------------------------------------


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


# ---- no_grad -------------------------------------------------------------------------------------


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


# ---- threads -------------------------------------------------------------------------------------


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
