"""A profile changes nothing, counts each second once, and says whose it was.

Times are told by a clock that the operations of these tests move themselves, so they are exact.
"""

import contextlib
import importlib
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from benchmarks import memory
from tinygrad_rnn import engine, meter, readout
from tinygrad_rnn.cotangents import Sum
from tinygrad_rnn.linear import Placed
from tinygrad_rnn.observer import OBSERVER, Observer, observing
from tinygrad_rnn.registry import ROWS
from tinygrad_rnn.testing import cases, laid_out

pytestmark = pytest.mark.unwatched

profile = importlib.import_module("tinygrad_rnn.profile")
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)

# ---- nothing changes -----------------------------------------------------------------------------


def pulled_back(row, arrays, keywords, order):
    """The results of a row, and what comes back to its arguments: cotangents, or theirs again."""
    xs = [tg.tensor(x, requires_grad=True) for x in arrays]
    y = row.function(*xs, **keywords)
    ys = [one for one in (y if isinstance(y, (tuple, list)) else [y]) if one.requires_grad]
    rng = np.random.default_rng(1)
    total = tg.tensor(0.0)
    for one in ys:
        total = total + tg.sum(one * rng.standard_normal(one.shape))
    if order == 2 and ys:
        found = tg.grad(total, xs, create_graph=True)
        total = sum((tg.sum(g * g) for g in found), tg.tensor(0.0))
    if total.requires_grad:
        total.backward()
    return [one.array for one in ys] + [x.grad.array for x in xs if x.grad is not None]


@every_row
@settings(max_examples=15)
@given(data=st.data(), order=st.integers(1, 2), dtype=st.sampled_from("fd"))
def test_values_and_gradients_are_those_without_bit_for_bit(row, data, order, dtype):
    arrays, keywords = data.draw(cases(row))
    arrays = [data.draw(laid_out(x)).astype(dtype, order="K") for x in arrays]
    with np.errstate(all="ignore"):
        expected = pulled_back(row, arrays, keywords, order)
        with tg.profile() as p:
            found = pulled_back(row, arrays, keywords, order)
    assert p.operations
    for x, y in zip(found, expected, strict=True):
        assert type(x) is np.ndarray and x.dtype == y.dtype and x.strides == y.strides
        np.testing.assert_array_equal(x, y)


def deferred_trees(net):
    leaf, compose = tg.deferred(lambda x: net(x)), tg.deferred(lambda a, b: net(None, a, b))
    a, b, c = map(leaf, np.random.default_rng(2).standard_normal((3, 4), np.float32))
    return tg.stack([compose(compose(a, b), c), compose(a, c)])


X = np.random.default_rng(0).standard_normal((60, 3, 8), np.float32)
FOREST = tg.Structure.trees([(("a", "b"), "c"), ("d", "e")])
PROGRAMS = {  # by name, a Module and what is done with it
    "LSTM": (lambda: tg.nn.LSTM(8, 5, num_layers=2, bidirectional=True), lambda net: net(X)[0]),
    "GRU": (lambda: tg.nn.GRU(8, 5), lambda net: net(X, None, np.array([6, 2, 5]))[0]),
    "long RNN": (lambda: tg.nn.RNN(8, 5), lambda net: net(np.tile(X, (20, 1, 1)))[0]),
    "Tree-LSTM": (
        lambda: tg.nn.TreeLSTMCell(8, 5, 2),
        lambda net: tg.fold(net, FOREST, X[: len(FOREST), 0])[0],
    ),
    "table": (lambda: tg.nn.Embedding(9, 5), lambda net: net(np.array([1, 3, 3])) ** 2),
    "checkpoint": (
        lambda: tg.nn.LSTMCell(8, 5),
        lambda net: tg.checkpoint(lambda x: net(x, net(x))[0], X[0]),
    ),
    "loss": (
        lambda: tg.nn.Linear(8, 9),
        lambda net: tg.cross_entropy(net(X[:6]), np.arange(18).reshape(6, 3) % 9),
    ),
    "deferred": (lambda: tg.nn.RecursiveCell(4, 5), deferred_trees),
}


def trained(name, look):
    """Results and gradients of a program, in the context ``look``, and what that gave."""
    tg.manual_seed(0)
    make, run = PROGRAMS[name]
    net = make()
    with look as seen:
        y = run(net)
        tg.sum(y * y).backward()
    gradients = [x.node.watch.grad for x in net.parameters()]
    kinds = [type(g) for g in gradients]  # rows of a table stay rows
    parts = [part for g in gradients for part in (g.terms() if isinstance(g, Sum) else [g])]
    assert all(type(part.g) is np.ndarray for part in parts if isinstance(part, Placed))
    return [y.array, *[x.grad.array for x in net.parameters() if x.grad is not None]], kinds, seen


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_find_the_same_bits_and_the_parts_are_no_more_than_the_whole(name, steps):
    alone = observing(Observer()) if steps else contextlib.nullcontext()  # who sees steps
    expected, kinds, _ = trained(name, alone)
    found, others, p = trained(name, tg.profile(steps))
    assert kinds == others
    for x, y in zip(found, expected, strict=True):
        assert type(x) is np.ndarray
        np.testing.assert_array_equal(x, y)
    uses = p.operations.values()
    assert p.python >= 0 <= p.overhead and all(use.own >= use.blas >= 0 for use in uses)
    whole = sum(use.own for use in uses)
    assert whole + p.python + p.overhead == pytest.approx(p.wall)
    assert sum(use.own for use in p.modules.values()) == pytest.approx(whole)
    assert sum(use.own for use in p.steps.values()) <= whole * (1 + 1e-9)


# ---- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_call_is_counted_once(name, monkeypatch):
    calls = dict.fromkeys(engine.OPERATIONS, 0)

    def counting(name, forward):
        def counted(*args):
            calls[name] += 1
            return forward(*args)

        return counted

    for key, function in engine.OPERATIONS.items():
        operation = function.operation
        monkeypatch.setattr(operation, "forward", counting(key, operation.forward))
    p = trained(name, tg.profile())[-1]
    assert not any("[" in name for name in p.operations)  # results of one operation are no others
    counted = {name: use.calls for name, use in p.operations.items() if use.calls}
    assert counted == {name: n for name, n in calls.items() if n}


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("T", [1, 3, 40])
@pytest.mark.parametrize("kind, G", [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_no_product_of_a_layer_is_missed(kind, G, T, steps):
    B, D, H = 8, 16, 24
    rng = np.random.default_rng(0)
    net = getattr(tg.nn, kind)(D, H, rng=rng)
    x, h = (tg.tensor(rng.standard_normal(n), requires_grad=True) for n in [(T, B, D), (1, B, H)])
    with tg.profile(steps) as p:
        tg.sum(net(x, (h, h) if kind == "LSTM" else h)[0] ** 2).backward()
    products = T * B * G * H * (D + H)  # of the way forward; back, one for each of their factors
    assert sum(use.flops for use in p.operations.values()) == 3 * 2 * products
    assert p.modules[kind].flops == 3 * 2 * products


@given(
    n=st.integers(1, 20),
    k=st.sampled_from([128, 512]),
    m=st.sampled_from([256, 300]),
    dtype=st.sampled_from("fd"),
)
def test_a_product_of_few_rows_is_counted_once_whether_in_blocks_or_not(n, k, m, dtype):
    """Of the flops, all; and no bit differs, so the blocks are those that there are without."""
    rng = np.random.default_rng(n)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in [(n, k), (m, k), (m,)]]

    def pulled():
        x, weight, bias = (tg.tensor(x, requires_grad=True) for x in arrays)
        y = readout.affine(x, weight, bias)
        tg.sum(y * y).backward()
        return [y.array, *[one.grad.array for one in (x, weight, bias)]]

    expected = pulled()
    with tg.profile() as p:
        found = pulled()
    assert sum(use.flops for use in p.operations.values()) == 3 * 2 * n * k * m
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.sampled_from("fdFDgei"))
def test_products_are_counted_where_blas_makes_them(m, n, k, dtype):
    a, b = np.ones((m, n), dtype), np.ones((n, k), dtype)
    by = [
        lambda a, b: a @ b,
        lambda a, b: np.matmul(a[None], b)[0],
        lambda a, b: np.dot(a, b),
        lambda a, b: a.dot(b),
        lambda a, b: np.inner(a, b.T),
        lambda a, b: np.tensordot(a, b, 1),
        lambda a, b: np.matmul(a, b, out=np.empty((m, k), dtype)),
        lambda a, b: (a + 1) @ np.tanh(b.T).T.copy(),
    ]
    for product in by:

        @tg.op()
        def multiplied(a, b):
            return product(np.concatenate([a]), b) * 1  # noqa: B023

        with tg.profile() as p:
            y = multiplied(a, b)
        assert type(y) is np.ndarray
        expected = {"f": 2, "d": 2, "F": 8, "D": 8}.get(dtype, 0) * m * n * k
        assert p.operations["multiplied"].flops == expected
        assert (p.operations["multiplied"].blas > 0) == (expected > 0)


def test_what_is_no_product_is_not_in_blas():
    with tg.profile() as p:
        tg.outer(tg.tanh(np.ones(3)), np.ones(3))
    assert {name: use.blas for name, use in p.operations.items()} == dict.fromkeys(
        ["tanh", "reshape"], 0
    )


# ---- seconds -------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A function that lets so many seconds pass; else the clock stands still."""
    now = 0.0

    def let_pass(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(meter, "clock", lambda: now)
    return let_pass


def slow(clock):
    """Operations of known duration: ``inner``, and ``outer``, which calls it both ways."""

    def passing(seconds, g):
        clock(seconds)
        return g

    @tg.op(x=lambda g: passing(10, g))
    def inner(x):
        clock(1)
        return x + 1

    @tg.op(x=lambda g: passing(1000, inner(g) - 1))
    def outer(x):
        clock(100)
        return inner(x) * 2

    return inner, outer


def test_each_second_is_counted_once_and_written_to_who_spent_it(clock):
    inner, outer = slow(clock)
    x = tg.tensor(np.ones(3), requires_grad=True)
    with tg.profile() as p:
        y = tg.sum(inner(outer(x)))
        clock(50_000)  # somebody's own Python
        y.backward()
    found = {
        name: (use.calls, use.forward, use.backward, use.total)
        for name, use in p.operations.items()
        if use.own
    }
    assert found == {
        "outer": (1, 100, 1000, 1102),
        "inner": (3, 2, 11, 13),
    }
    assert (p.wall, p.python, p.overhead) == (51_113, 50_000, 0)


def test_a_second_derivative_is_backward(clock):
    inner, _ = slow(clock)
    x = tg.tensor(np.ones(3), requires_grad=True)
    with tg.profile() as p:
        g = tg.grad(tg.sum(inner(x) ** 2), x, create_graph=True)
        tg.sum(g * g).backward()
    use = p.operations["inner"]
    assert (use.calls, use.forward, use.backward) == (1, 1, 20)


def test_a_hook_is_backward(clock):
    x = tg.tensor(np.ones(3), requires_grad=True)
    with tg.profile() as p:
        h = tg.tanh(x)
        h.register_hook(lambda g: (clock(7), g)[1])
        tg.sum(h).backward()
    assert p.wall == p.operations["tanh"].backward == p.operations["tanh"].total == 7


def test_a_joint_vjp_may_be_a_generator(clock):
    def back(g, x):
        clock(5)
        yield g

    @tg.op(back)
    def slow_identity(x):
        return x * 1

    with tg.profile() as p:
        tg.sum(slow_identity(tg.tensor(np.ones(3), requires_grad=True))).backward()
    assert p.operations["slow_identity"].backward == 5 == p.wall


def test_an_operation_in_itself_is_in_its_total_once(clock):
    @tg.op()
    def nested(x, depth):
        clock(1)
        return nested(x, depth - 1) if depth else x + 1

    with tg.profile() as p:
        nested(np.ones(3), 3)
    use = p.operations["nested"]
    assert (use.calls, use.own, use.total) == (4, 4, 4)


def test_what_the_meter_takes_is_in_no_other_figure(monkeypatch):
    now = 0

    def reading():
        nonlocal now
        now += 1
        return now

    monkeypatch.setattr(meter, "clock", reading)  # time passes by looking at the clock alone

    @tg.op()
    def inner(x):
        return np.exp(x)

    @tg.op()
    def outer(x):
        return inner(x)

    with tg.profile() as p:
        for _ in range(5):
            inner(np.ones(3))
        outer(np.ones(3))
    # Of a call that is timed itself one tick passes before, one inside, and one after.
    inner, outer = p.operations["inner"], p.operations["outer"]
    assert (inner.own, inner.total, outer.own, outer.total) == (6 * 3, 6 * 3, 2, 2 + 3)
    assert p.python == 6 + 1  # between the calls, before the first and after the last
    assert p.overhead == p.wall - 6 * 3 - 2 - 7


@given(st.integers(1, 4))
def test_seconds_in_blas_are_those_of_the_products(n):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meter, "clock", iter(range(10**6)).__next__)
        x = np.ones((3, 3))
        with tg.profile() as p:
            for _ in range(n):
                tg.tanh(tg.matmul(x, x))
        assert {name: use.blas for name, use in p.operations.items()} == {"matmul": n, "tanh": 0}


class Two(tg.nn.Module):
    """One Module in another, called twice, and an operation of its own."""

    def __init__(self, inner, outer):
        self.parts, self.outer = [One(inner)], outer

    def forward(self, x):
        return self.parts[0](self.outer(self.parts[0](x)))


class One(tg.nn.Module):
    def __init__(self, inner):
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def test_forward_and_backward_belong_to_the_module_that_made_the_call(clock):
    inner, outer = slow(clock)
    two, x = Two(inner, outer), tg.tensor(np.ones(3), requires_grad=True)
    with tg.profile() as p:
        tg.sum(outer(two(x))).backward()
    found = {
        name: (use.calls, use.forward, use.backward, use.total) for name, use in p.modules.items()
    }
    assert found == {
        "Two": (1, 101, 1001, 1124),
        "": (0, 101, 1001, 1102),
        "Two.parts.0": (2, 2, 20, 22),
    }


def test_modules_of_one_class_are_told_apart():
    first, second = tg.nn.Linear(2, 2), tg.nn.Linear(2, 2)
    with tg.profile() as p:
        for _ in range(2):
            second(first(np.ones((1, 2))))
    assert {name: use.calls for name, use in p.modules.items()} == {"Linear": 2, "Linear (2)": 2}


def test_a_module_that_calls_itself_is_one():
    class Down(tg.nn.Module):
        def forward(self, x, n):
            return self(tg.tanh(x), n - 1) if n else x

    with tg.profile() as p:
        Down()(np.ones(3), 4)
    assert {name: use.calls for name, use in p.modules.items()} == {"Down": 5}


def loop(inner, x, T):
    for _ in range(T):
        x = inner(x)
    return x


def chain_of(inner, x, T):
    return tg.fold(lambda x, h: inner(h), tg.Structure.chains([T]), None, x[None])[-1]


@pytest.mark.parametrize("unrolled", [loop, chain_of])
@given(T=st.integers(2, 6))
def test_forward_and_backward_belong_to_the_step_that_made_the_call(unrolled, T):
    ticks = [float(10**k) for k in range(T)]
    now, t = 0.0, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meter, "clock", lambda: now)

        @tg.op()
        def spent(g, x):  # called on the way back, so last step first
            nonlocal now
            now += 3 * float(x.ravel()[0])
            return g * 1

        def back(g, x):
            return spent(g, x)

        @tg.op(x=lambda g: g)
        def once(x):
            nonlocal now
            now += 0.5
            return x * 1

        @tg.op(x=back)
        def step(x):
            nonlocal now, t
            now += ticks[t]
            t += 1
            return x * 10

        h = tg.tensor(np.ones(1), requires_grad=True)
        with tg.profile() as p:
            for _ in range(2):
                t = 0
                tg.sum(once(unrolled(step, once(h), T))).backward()
    found = {t: (use.forward, use.backward) for t, use in p.steps.items()}
    assert found == {t: (2 * tick, 6 * tick) for t, tick in enumerate(ticks)}


def test_a_function_that_a_step_calls_twice_makes_no_two_steps():
    def function(x):
        return tg.tanh(x)

    with tg.profile() as p:
        x = np.ones(3)
        for _ in range(4):
            x = function(function(x))
        tg.exp(x)
    assert {t: use.calls for t, use in p.steps.items()} == dict.fromkeys(range(4), 2)


def test_a_module_in_a_fold_is_in_its_step():
    class Squashing(tg.nn.Module):
        def forward(self, x, h):
            return tg.tanh(x + h)

    cell, x = Squashing(), np.ones((3, 2))
    with tg.profile() as p:
        for _ in range(2):
            tg.fold(cell, tg.Structure.chains([3]), x, np.ones(2))
    calls = {key: use.calls for key, use in p.uses.items() if key[0] == "tanh"}
    assert [*p.steps] == [0, 1, 2] and [*calls.values()] == [2, 2, 2]


def test_the_gradient_of_a_weight_is_of_its_module_and_of_no_step():
    T, B, H = 5, 3, 4
    layer, h = tg.nn.Linear(H, H, bias=False), tg.tensor(np.ones((B, H), "f"), requires_grad=True)
    with tg.profile() as p:
        tg.sum(loop(layer, h, T)).backward()
    product = 2 * T * B * H * H
    assert p.modules["Linear"].flops == 3 * product
    assert sum(use.flops for use in p.steps.values()) == 2 * product


def test_layers_run_step_by_step_if_asked():
    lstm = tg.nn.LSTM(3, 4)
    for steps in (False, True):
        with tg.profile(steps) as p:
            assert OBSERVER.get().sees_steps is steps
            tg.sum(lstm(np.ones((5, 2, 3)))[0]).backward()
    assert [*p.steps] == [0, 1, 2, 3, 4] and all(use.backward > 0 for use in p.steps.values())


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_layers_and_directions_are_no_steps(kind):
    net = getattr(tg.nn, kind)(3, 4, num_layers=2, bidirectional=True)
    x = np.ones((5, 2, 3), np.float32)
    with tg.profile() as p:
        tg.sum(net(x)[0]).backward()
    assert p.steps == {}
    with tg.profile() as p:
        tg.sum(net(x)[0]).backward()
    assert p.operations["add"].calls > 4 and p.steps == {}  # gradients, to those there were
    with tg.profile() as p:
        state = None
        for t in range(5):
            y, state = net(x[t : t + 1], state)
        tg.sum(y).backward()
    assert [*p.steps] == [0, 1, 2, 3, 4]
    calls = [use.calls for use in p.steps.values()]
    assert len({*calls[1:-1]}) == 1 and calls[0] > 4
    with tg.profile(steps=True) as p:
        tg.sum(net(x)[0]).backward()
    assert [*p.steps] == [0, 1, 2, 3, 4]


# ---- bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1, 5])
def test_an_lstm_keeps_seven_arrays_a_step(T):
    B, D, H = 8, 16, 24
    forward = memory.forward_of(T, B, D, H)
    with tg.profile() as p:
        loss = forward()
        loss.backward()
    # i, f, g, o, tanh(c), c and h; but nobody reads the last c and h again.
    assert p.peak == 4 * (7 * T - 2) * B * H
    assert sum(use.kept for use in p.operations.values()) == p.peak


def test_results_are_counted_once_and_views_not_at_all():
    x = tg.tensor(np.ones((4, 5)), requires_grad=True)
    with tg.profile() as p:
        y = tg.tanh(x)  # kept by three nodes
        z = tg.sum((y * y).T * y.T + y.T)
        z.backward()
        assert tg.sum(x * x).requires_grad  # a leaf is nobody's result
    made = {name: use.made for name, use in p.operations.items()}
    assert p.operations["tanh"].sent == 160  # to x
    assert made["tanh"] == 160 and made["transpose"] == 0 and made["multiply"] == 3 * 160
    assert p.peak == 2 * 160 and p.operations["multiply"].kept == 160  # y, and y * y


def test_what_is_let_go_is_not_kept():
    x = tg.tensor(np.ones(100), requires_grad=True)
    with tg.profile() as p:
        for _ in range(5):
            tg.sum(tg.exp(x)).backward()
    assert p.peak == 800 and p.operations["exp"].kept == 5 * 800


# ---- the block -----------------------------------------------------------------------------------


def test_nothing_is_left_behind(no_collector):
    net, x = tg.nn.LSTM(3, 4), np.ones((5, 2, 3), np.float32)
    with tg.profile() as p:
        y = net(x)[0]
        loss = tg.sum(y)
        loss.backward()
    gone = [weakref.ref(one) for one in (net, x, y.array, loss.array, net.weight_hh_l0.array)]
    assert OBSERVER.get() is None
    del net, x, y, loss
    assert [one() for one in gone] == [None] * 5
    assert "LSTM" in str(p)


def test_an_exception_ends_the_block_and_the_report_is_there():
    x = tg.tensor(np.ones(3), requires_grad=True)
    with pytest.raises(tg.ShapeError), tg.profile() as p:
        tg.tanh(x) + np.ones(4)
    assert OBSERVER.get() is None
    assert {name: use.calls for name, use in p.operations.items()} == {"tanh": 1, "add": 0}
    assert "tanh" in str(p)


def test_figures_are_refused_inside_the_block():
    with tg.profile() as p:
        for read in (str, lambda p: p.operations, lambda p: p.modules, lambda p: p.steps):
            with pytest.raises(tg.NotTrackedError, match="hint: print"):
                read(p)
    assert "0.00 in operations" in str(p) and p.operations == p.modules == p.steps == {}


def test_the_inner_of_two_looks_on_alone():
    x = np.ones(3)
    with tg.profile() as outer:
        tg.exp(x)
        with tg.profile() as inner:
            tg.tanh(x)
        tg.log(x)
    assert {*outer.operations} == {"exp", "log"} and {*inner.operations} == {"tanh"}


def test_not_together_with_detect_anomaly():
    for first, second in [(tg.profile, tg.detect_anomaly), (tg.detect_anomaly, tg.profile)]:
        with first(), pytest.raises(tg.SettingError, match="one of the two"), second():
            pass
    with pytest.raises(tg.DtypeError, match=r"hint: with tg\.profile"), tg.profile(np.ones(3)):
        pass


def test_detect_anomaly_goes_through_a_graph_made_in_a_profile_and_the_other_way_round():
    x = tg.tensor(np.zeros(3), requires_grad=True)
    with tg.profile():
        y = tg.sum(tg.sqrt(x) * 0.0)
    with (
        np.errstate(all="ignore"),
        tg.detect_anomaly(),
        pytest.raises(tg.NonFiniteError, match="outside of detect_anomaly"),
    ):
        y.backward()
    with tg.detect_anomaly():
        y = tg.sum(tg.exp(x))
    with tg.profile() as p:
        y.backward()
    assert {*p.operations} >= {"exp", "sum"} and {*p.modules} == {""} and "exp" in str(p)


def test_it_holds_for_its_thread_alone():
    with tg.profile() as p:
        thread = threading.Thread(target=lambda: tg.tanh(np.ones(3)))
        thread.start()
        thread.join()
    assert p.operations == {}


def test_a_table_has_few_rows_and_says_what_is_left_out():
    x = tg.tensor(np.ones(2), requires_grad=True)
    with tg.profile() as p:
        tg.sum(loop(tg.tanh, x, 100)).backward()
    text = str(p)
    rows = text[text.index("step ") :].splitlines()[2:]
    assert [row.split()[0] for row in rows][::24] == ["0", "99"] and rows[-1] == "(75 more)"
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("size", "shown"), [(20, "0.16 kB"), (10**6, "8000.00 kB"), (2 * 10**6, "16.00 MB")]
)
def test_bytes_are_told_in_a_unit_that_shows_digits(size, shown):
    x = tg.tensor(np.ones(size), requires_grad=True)
    with tg.profile() as p:
        tg.sum(tg.exp(x)).backward()
    number, unit = shown.split()
    rows = [line.split() for line in str(p).splitlines()]
    (row,) = [row for row in rows if row[:1] == ["exp"]]
    assert row[-3:] == [number] * 3  # made, sent and kept
    assert f"at most {shown} of results" in str(p)
    assert [unit] * 3 in [row[-3:] for row in rows]
