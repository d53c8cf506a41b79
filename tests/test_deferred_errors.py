"""What a deferred call refuses, what is left after an error, threads that keep to themselves."""

import asyncio
import math
import threading
import traceback

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.errors import DeferredError, DtypeError, ShapeError

FILE = "test_deferred_errors.py"

same = tg.deferred(lambda x: x * 1.0)
pair = tg.deferred(lambda x: (x, 10 * x))


@tg.deferred
def failing(x):
    raise KeyError("no such word")


def line_of(function):
    """The line in this file on which the function is defined."""
    return function.__code__.co_firstlineno


# ---- a handle is no array ------------------------------------------------------------------------

ones = np.ones(2)
ARITHMETIC = {
    "h + 1": lambda h: h + 1,
    "1 + h": lambda h: 1 + h,
    "array + h": lambda h: ones + h,
    "Tensor + h": lambda h: tg.tensor(ones) + h,
    "h - h": lambda h: h - h,
    "h * 2": lambda h: h * 2,
    "2 / h": lambda h: 2 / h,
    "h // 2": lambda h: h // 2,
    "h % 2": lambda h: h % 2,
    "h ** 2": lambda h: h**2,
    "h @ array": lambda h: h @ ones,
    "array @ h": lambda h: ones @ h,
    "Tensor @ h": lambda h: tg.tensor(ones) @ h,
    "-h": lambda h: -h,
    "+h": lambda h: +h,
    "abs": abs,
    "round": round,
    "divmod": lambda h: divmod(h, 2),
    "h == h": lambda h: h == same(1.0),
    "h != 0": lambda h: h != 0,
    "h < 0": lambda h: h < 0,
    "h >= 0": lambda h: h >= 0,
    "if h": bool,
    "float": float,
    "int": int,
    "complex": complex,
    "an index": lambda h: [1, 2][h],
    "len": len,
    "h.shape": lambda h: h.shape,
    "h.T": lambda h: h.T,
    "h.sum()": lambda h: h.sum(),
    "h.backward()": lambda h: h.backward(),
    "h.grad": lambda h: h.grad,
    "h[0:1]": lambda h: h[0:1],
    "h[0][1]": lambda h: h[0][1],
    "h['h']": lambda h: h["h"],
    "np.tanh": np.tanh,
    "np.add.reduce": np.add.reduce,
    "np.stack": lambda h: np.stack([h, h]),
    "np.sum": np.sum,
    "np.asarray": np.asarray,
    "np.array of a list": lambda h: np.array([h, h]),
    "tg.tanh": tg.tanh,
    "tg.sum": tg.sum,
    "tg.where": lambda h: tg.where(True, h, 2.0),
    "tg.concatenate": lambda h: tg.concatenate([h, h]),
    "tg.mse": lambda h: tg.mse(h, ones),
    "tg.tensor": tg.tensor,
    "a layer": nn.Linear(2, 2),
    "a cell": nn.RNNCell(2, 2),
}


@pytest.mark.parametrize("name", ARITHMETIC)
@pytest.mark.parametrize("run", [False, True])
def test_arithmetic_on_a_handle_is_refused_with_a_hint(name, run):
    h = same(ones)
    if run:
        assert h.value.tolist() == [1, 1]
    with pytest.raises(
        DeferredError, match=rf"<lambda>, called at .*{FILE}:\d+> .*\n(.*\n)+  hint: gather"
    ):
        ARITHMETIC[name](h)
    assert h.value.tolist() == [1, 1]  # no harm done


@pytest.mark.parametrize("unpack", [list, lambda h: (lambda a, b: a)(*h), lambda h: 1.0 in h])
def test_a_handle_cannot_be_unpacked(unpack):
    with pytest.raises(DeferredError, match=r"hint: h, c = state\[0\], state\[1\]"):
        unpack(pair(ones))


def test_a_handle_may_be_a_key_and_shows_where_it_was_called():
    h = same(ones)
    assert {h: 1}[h] == 1 and h in [h]
    here = line_of(test_a_handle_may_be_a_key_and_shows_where_it_was_called) + 1
    assert repr(h).endswith(f"{FILE}:{here}>") and repr(h[1]).startswith("part 1 of <deferred")
    assert not hasattr(h, "__fspath__")  # what is private to Python is merely absent


# ---- cells and arguments that do not fit ---------------------------------------------------------

REFUSED = {
    "no rows": (lambda: tg.deferred(lambda x: tg.sum(x))(ones).value, ShapeError, "for 1 node"),
    "a number": (lambda: tg.deferred(lambda x: 1.0)(ones).value, DtypeError, "returned float 1.0"),
    "nothing": (lambda: tg.deferred(lambda x: ())(ones).value, DtypeError, "a Tensor or an"),
    "a dict": (lambda: same({"a": 1}).value, DtypeError, "an argument is dict"),
    "a long integer": (lambda: same(2**70).value, DtypeError, r"is int 118\d+\n  expected: whole"),
    "one too many": (lambda: same(2**63).value, DtypeError, "is int 9223372036854775808"),
    "one too few": (lambda: same(-(2**63) - 1).value, DtypeError, "is int -9223372036854775809"),
    "a third part": (lambda: pair(ones)[2].value, DeferredError, "part 2 of .*2 arrays\n"),
    "part of an array": (lambda: same(same(ones)[0]).value, DeferredError, "returned 1 array\n"),
    "shapes that differ": (
        lambda: tg.stack([same(ones), same(np.ones(3))]), ShapeError, "concatenate"
    ),
    "tuples and arrays": (
        lambda: tg.stack([pair(ones), same(ones)]), ShapeError, "some .* tuples, and some .* arrays"
    ),
    "a keyword": (lambda: same(x=ones), TypeError, "keyword"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    run, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        run()
    assert same(2.0).value == 2.0


# ---- after an error ------------------------------------------------------------------------------


def test_an_error_names_the_cell_and_the_call():
    before = same(1.0)
    assert before.value == 1
    waiting = same(5.0)
    calls = [failing(same(2.0)), failing(3.0), failing(4.0)]
    with pytest.raises(KeyError, match="no such word") as caught:
        tg.stack(calls)
    here = line_of(test_an_error_names_the_cell_and_the_call) + 4
    (note,) = caught.value.__notes__
    assert note.startswith("in deferred failing, run for 2 calls, the first at")
    assert note.endswith(f"{FILE}:{here}")
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].name == "failing"
    for handle in (*calls, waiting):  # what waited is dropped
        with pytest.raises(DeferredError, match=r"will not be run\n.*\n  hint: .*was dropped"):
            _ = handle.value
        with pytest.raises(DeferredError, match="will not be run"):
            _ = same(handle).value
    assert before.value == 1 and same(before).value == 1


def test_an_interrupt_leaves_nothing_waiting():
    def interrupted(x):
        raise KeyboardInterrupt

    calls = [tg.deferred(interrupted)(1.0), same(2.0)]
    with pytest.raises(KeyboardInterrupt):
        _ = calls[0].value
    assert same(3.0).value == 3


def test_an_error_under_no_grad_leaves_recording_on():
    with tg.no_grad():
        h = failing(1.0)
    with pytest.raises(KeyError):
        _ = h.value
    assert (same(tg.tensor(1.0, requires_grad=True)).value * 2).requires_grad


def test_the_value_of_what_waits_is_no_business_of_a_cell():
    waits = same(same(1.0))
    with pytest.raises(DeferredError, match="there it has to be an argument"):
        _ = tg.deferred(lambda x: x + waits.value)(2.0).value
    known = same(1.0)
    assert known.value == 1
    assert tg.deferred(lambda x: x + known.value)(2.0).value == 3


@pytest.mark.parametrize(
    "draw",
    [lambda x: x + tg.default_rng().random(), nn.Dropout(0.5), lambda x: tg.dropout(x, 0.5)],
)
def test_random_numbers_are_not_drawn_in_a_cell(draw):
    with pytest.raises(
        DeferredError, match=r"random numbers are drawn, .*\n.*\n.*\n  hint: draw outside"
    ):
        _ = tg.deferred(lambda x: draw(x))(np.ones(3)).value
    mask = tg.default_rng().random(3)
    assert tg.deferred(lambda x, m: x * m)(np.ones(3), mask).value.tolist() == mask.tolist()


# ---- threads and tasks ---------------------------------------------------------------------------


def in_thread(function):
    """The result of ``function`` in another thread, or its error."""
    found = []

    def run():
        try:
            found.append(function())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_runs_its_own_calls_alone():
    calls = []
    cell = tg.deferred(lambda x: calls.append(len(x)) or x + 1)
    mine = [cell(1.0), cell(2.0)]
    assert in_thread(lambda: cell(3.0).value) == 4
    assert calls == [1]
    for wrong in (lambda: mine[0].value, lambda: same(mine[0]).value, lambda: tg.stack(mine)):
        error = in_thread(wrong)
        assert isinstance(error, DeferredError) and "another thread" in str(error)
    assert tg.stack(mine).tolist() == [2, 3] and calls == [1, 2]
    assert in_thread(lambda: mine[0].value) == 2  # a result is a result everywhere
    assert in_thread(lambda: cell(mine[0]).value) == 3
    assert isinstance(in_thread(lambda: failing(1.0).value), KeyError)
    assert cell(1.0).value == 2


def test_threads_at_the_same_time():
    cell = tg.deferred(lambda x, h: tg.tanh(x + h))
    expected = [math.tanh(k + math.tanh(k)) for k in range(4)]
    barrier, found = threading.Barrier(4), [[] for _ in range(4)]

    def work(k):
        barrier.wait()
        for _ in range(20):
            found[k].append(float(cell(float(k), cell(float(k), 0.0)).value))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        np.testing.assert_allclose(found[k], [expected[k]] * 20, rtol=1e-6)


def test_tasks_that_take_turns_keep_their_own_recording():
    x = tg.tensor(1.0, requires_grad=True)

    async def quiet():
        with tg.no_grad():
            h = same(x)
            await asyncio.sleep(0)
            return h

    async def loud():
        h = same(x)
        await asyncio.sleep(0)
        return h

    async def both():
        return await asyncio.gather(quiet(), loud())

    quietly, loudly = asyncio.run(both())
    assert loudly.value.requires_grad and not quietly.value.requires_grad
