"""The simulator and CuPy are of one mind: what they accept, what comes out, what it costs.

A row of ``calls`` is held to NumPy on the simulator; on host memory and on a device the same row is
made by CuPy itself, beside the simulator.
"""

import contextlib
import sys
import types
from functools import partial

import numpy as np
import pytest

from tinygrad_rnn import backend

from . import programs, simulator
from .calls import (
    DTYPES,
    LAID_OUT_OTHERWISE,
    LET_PASS,
    REJECTED,
    SAME,
    WAITS,
    WRITES,
    arrays,
    rows,
)
from .compared import ROUNDING
from .simulator import counting, namespace, table
from .test_models import built


def run(row, xp):
    """What ``row`` gives with the arrays of ``xp``, and the array A after it."""
    names = arrays(xp)
    try:
        code = compile(row, row, "eval")
    except SyntaxError:
        exec(row, names)
        return names["A"]
    result = eval(code, names)
    return names["A"] if result is None else result


def values(x):
    """A result on the host, with what else it must agree in."""
    if isinstance(x, (tuple, list)):
        return [values(part) for part in x]
    if hasattr(x, "get"):
        layout = x.flags.c_contiguous or x.size < 2
        return "on the device", str(x.dtype), x.shape, layout, np.array(x.get())
    if isinstance(x, (np.ndarray, np.generic)):
        return "on the host", str(x.dtype), np.shape(x), np.array(x)
    return x if isinstance(x, (bool, int, float, str, tuple)) else str(x)


def verdict(row, xp):
    """``values`` of the result, or the error."""
    try:
        return values(run(row, xp))
    except Exception as error:
        return error


def alike(one, other):
    """Whether two ``values`` are the same but for rounding."""
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        tolerance = 10 * ROUNDING.get(str(one.dtype), 0)
        return np.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
    return type(one) is type(other) and one == other


@pytest.fixture
def real(tier):
    """CuPy itself."""
    if tier.name == "simulator":
        pytest.skip("compares the simulator with CuPy: --tier host or --tier gpu")
    import cupy

    return cupy


# ---- on its own ----------------------------------------------------------------------------------


def on_host(x):
    """The same of NumPy: what NumPy gives for the row."""
    return x._payload if isinstance(x, namespace.ndarray) else x


@pytest.mark.parametrize("row", rows(SAME + DTYPES + WRITES))
def test_what_it_accepts_is_what_numpy_gives(row):
    if any(part in row for part in ("flags", "hasattr", ".set(", ".get(", "asnumpy")):
        pytest.skip("NumPy's arrays differ in this")
    got, expected = on_host(run(row, namespace.cupy)), run(row, np)
    if isinstance(expected, (np.ndarray, np.generic)):
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    else:
        assert got == expected


@pytest.mark.parametrize("row", rows(REJECTED))
def test_what_it_rejects(row):
    error = verdict(row, namespace.cupy)
    assert isinstance(error, Exception)
    assert not isinstance(error, simulator.Hazard)  # CuPy rejects it as well


@pytest.mark.parametrize("row", rows(WAITS))
def test_what_makes_the_host_wait(row):
    error = verdict(row, namespace.cupy)
    assert isinstance(error.__cause__ or error, simulator.Sync)  # NumPy may pass it on
    before = counting.COSTS.syncs
    with simulator.hidden_syncs_allowed():
        assert not isinstance(verdict(row, namespace.cupy), Exception)
    assert counting.COSTS.syncs > before


@pytest.mark.parametrize("row", rows(LET_PASS))
def test_what_cupy_lets_pass(row):
    assert isinstance(verdict(row, namespace.cupy), simulator.Hazard)


def test_memory_is_not_empty_by_chance():
    assert np.isnan(namespace.cupy.empty((2, 3), "f").get()).all()
    assert (namespace.cupy.empty(3, "i").get() == -1).all()


def test_what_stood_in_its_place_stands_there_again():
    there = {name: module for name, module in sys.modules.items() if simulator._is_cupy(name)}
    body = backend.CupyBackend.fused
    stand_in = types.ModuleType("cupy")
    kept, simulator._before = simulator._before, {}
    try:
        sys.modules["cupy"] = stand_in
        simulator.install()
        assert sys.modules["cupy"] is namespace.cupy
        simulator.uninstall()
        assert sys.modules["cupy"] is stand_in
        assert backend.CupyBackend.fused is body
    finally:
        simulator._before = kept
        del sys.modules["cupy"]
        sys.modules.update(there)


def test_the_table_is_that_of_the_cupy_installed(tier):
    """But for names that come and go with NumPy, if it is another NumPy."""
    with without_simulator(tier):
        pytest.importorskip("cupy")
        text = table.written()
    found, kept = table.parsed(text), table.read()
    if text.splitlines()[0] == table.FILE.read_text().splitlines()[0]:
        assert found == kept
    for name in found.keys() & kept.keys():
        assert found[name] == kept[name], name


@contextlib.contextmanager
def without_simulator(tier):
    """The context has the CuPy that is installed, if one is."""
    if tier.name != "simulator":
        yield
        return
    tier.stop()
    try:
        yield
    finally:
        tier.start()


# ---- beside CuPy --------------------------------------------------------------------------------


def test_cupy_gives_the_same(real):
    """Dtypes, shapes, values, what is a view and what is laid out in rows."""
    for row in rows(SAME + DTYPES + WRITES):
        ours, theirs = verdict(row, namespace.cupy), verdict(row, real)
        if row in LAID_OUT_OTHERWISE:
            ours, theirs = ours[-1], theirs[-1]
        assert alike(ours, theirs), (row, ours, theirs)


def cost(row, xp, read):
    """What a row costs, by the counts that ``read`` reads."""
    names = arrays(xp)
    before = read()
    exec(row, names)
    after = read()
    return {key: getattr(after, key) - value for key, value in vars(before).items()}


@pytest.mark.costs
def test_it_costs_the_same(real, tier):
    for row in rows(SAME + DTYPES + WRITES):
        cost(row, real, tier.module.costs)  # the first use of a kernel may look around
        expected = cost(row, real, tier.module.costs)
        assert (row, cost(row, namespace.cupy, simulator.costs)) == (row, expected)


def test_cupy_rejects_it_too(real):
    for row in rows(REJECTED):
        assert isinstance(verdict(row, real), Exception), row


def test_cupy_does_let_it_pass(real):
    for row in rows(LET_PASS):
        assert not isinstance(verdict(row, real), Exception), row


@pytest.mark.costs
def test_cupy_waits_there_too(real, tier):
    for row in rows(WAITS):
        assert cost(row, real, tier.module.costs)["syncs"] > 0, row


SPIN = r"""
extern "C" __global__ void spin(long long n) {
    for (long long start = clock64(); clock64() - start < n;) {}
}"""


def test_a_device_is_waited_for(real, tier):
    """What a kernel is busy with, for a tenth of a second, is done once the call returns."""
    if tier.name != "gpu":
        pytest.skip("there is a device to wait for on tier gpu alone")
    for row in rows(WAITS):
        run(row, real)
        names, done = arrays(real), real.cuda.Event()
        real.cuda.Device().synchronize()
        real.RawKernel(SPIN, "spin")((1,), (1,), (np.int64(2e8),))
        done.record()
        exec(row, names)
        assert done.done, row


WHOLE = [
    *"operation embedding unknown_words last_seen decoding greedy running_best windows".split(),
    *"recurrence long_sequence counting_words saved norm".split(),
    *"RNNCell LSTMCell GRUCell LayerNormLSTMCell PeepholeLSTMCell JordanCell".split(),
    "LSTMCell, written out",
]
"""Programs and models whose kernels, if they have any, are one launch each."""


@contextlib.contextmanager
def the_simulator_in_its_place():
    """In the context CuPy is the simulator; it must not meet arrays from before."""
    simulator.install()
    backend._cupy.cache_clear()
    try:
        yield
    finally:
        simulator.uninstall()
        backend._cupy.cache_clear()


def cost_of_program(name, read):
    """What a program, or a loss and its gradients, costs when it is warm."""
    if hasattr(programs, name):
        run = partial(getattr(programs, name), "cuda")
    else:
        model, loss = built(name, "cuda")

        def run():
            for x in model.parameters():
                x.grad = None
            loss().backward()

    run()
    before = read()
    run()
    after = read()
    return {key: getattr(after, key) - value for key, value in vars(before).items()}


@pytest.mark.costs
@pytest.mark.parametrize("name", WHOLE)
def test_whole_programs_cost_the_same(name, real, tier):
    expected = cost_of_program(name, tier.module.costs)
    with the_simulator_in_its_place():
        found = cost_of_program(name, simulator.costs)
    if name == "embedding":  # whose scatter-add is a kernel in more than one launch
        assert found.pop("launches") < expected.pop("launches")
    assert found == expected
