"""Fused steps of cells beyond the law in test_operations: dtypes, layouts, broadcasts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import fused
from tinygrad_rnn.errors import ShapeError

H, n = 3, 4
ROUNDING = {"float16": 1e-2, "float32": 1e-5, "float64": 1e-12, "complex128": 1e-12}
LAYOUTS = {
    "contiguous": lambda x: x.copy(),
    "by columns": lambda x: np.asfortranarray(x),
    "every other": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
}


def lstm_arguments(rng):
    """Gates and memories of 0 to 3 children."""
    N = int(rng.integers(4))
    return [rng.standard_normal((n, k * H)) for k in [N + 3, *[1] * N]]


def gru_arguments(rng):
    """What the input says, what the state says, and the state."""
    return [rng.standard_normal((n, k * H)) for k in (3, 3, 1)]


STEPS = {
    "lstm_gates": (fused.lstm_gates, fused.lstm_gates_defined, lstm_arguments),
    "gru_gates": (fused.gru_gates, fused.gru_gates_defined, gru_arguments),
}


def with_gradients(function, arrays, seed, create_graph=False):
    """The results, and the gradients of a sum of some of their entries, each with its weight."""
    xs = [tg.tensor(x) if x.dtype.kind == "c" else tg.tensor(x, requires_grad=True) for x in arrays]
    rng = np.random.default_rng(seed)
    ys = function(*xs)
    parts = [y for y in (ys if isinstance(ys, tuple) else (ys,)) if y.requires_grad]
    chosen = parts[: int(rng.integers(1, len(parts) + 1))][:: rng.choice([1, -1])] if parts else []
    loss = sum((tg.sum(y * rng.standard_normal(y.shape).astype(y.dtype)) for y in chosen), 0.0)
    tracked = [x for x in xs if x.requires_grad]
    return ys, tg.grad(loss, tracked, create_graph=create_graph) if chosen else []


def assert_alike(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a.array, b.array, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", STEPS)
@given(
    st.integers(0, 999),
    st.lists(st.sampled_from(list(ROUNDING)), min_size=4, max_size=4),
    st.sampled_from(list(LAYOUTS)),
    st.booleans(),
)
def test_any_mixture_of_dtypes_in_any_layout(name, seed, dtypes, layout, create_graph):
    """Values and gradients are those of the definition, in its dtypes, and arguments stay."""
    function, definition, arguments = STEPS[name]
    arrays = [
        LAYOUTS[layout](x.astype(dtype))
        for x, dtype in zip(arguments(np.random.default_rng(seed)), dtypes, strict=False)
    ]
    before = [x.copy() for x in arrays]
    ys, gs = with_gradients(function, arrays, seed, create_graph)
    expected_ys, expected_gs = with_gradients(definition, arrays, seed)
    tolerance = max(ROUNDING[dtype] for dtype in dtypes[: len(arrays)])
    assert_alike(
        ys if isinstance(ys, tuple) else [ys],
        expected_ys if isinstance(ys, tuple) else [expected_ys],
        tolerance,
    )
    assert_alike(gs, expected_gs, tolerance)
    for x, y in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    "shapes", [((12,), (4, 3)), ((1, 12), (4, 3)), ((4, 12), (3,)), ((4, 12), (1, 3))]
)
def test_gates_and_memories_may_be_broadcast(shapes):
    arrays = [np.random.default_rng(0).standard_normal(shape) for shape in shapes]
    runs = [with_gradients(f, arrays, 2) for f in (fused.lstm_gates, fused.lstm_gates_defined)]
    for one, other in zip(*runs, strict=True):
        assert_alike(one, other, 1e-12)


@pytest.mark.parametrize("shapes", [((4, 9), (4, 6), (4, 3)), ((4, 9), (4, 9), (4, 2))])
def test_gates_of_a_gru_that_do_not_fit_are_refused(shapes):
    with pytest.raises(ShapeError, match=r"gru_gates: u .*\n  expected: u and w .*3H"):
        fused.gru_gates(*map(np.ones, shapes))


@pytest.mark.parametrize("wrong", [None, 3.0, (1.0, 2.0), np.ones(())], ids=repr)
def test_what_has_no_last_axis_is_refused_as_gates_and_as_a_state(wrong):
    a, h = np.ones((1, 6)), np.ones((1, 2))
    for place in range(3):
        arguments = [a, a, h]
        arguments[place] = wrong
        with pytest.raises(ShapeError, match=r"gru_gates: u .*, w .*, h "):
            fused.gru_gates(*arguments)
    for arguments in ([wrong], [wrong, h], [np.ones((1, 8)), wrong]):
        with pytest.raises(ShapeError, match=r"lstm_gates: a .*, memories"):
            fused.lstm_gates(*arguments)


@pytest.mark.parametrize("shapes", [((4, 13), (4, 3)), ((4, 12), (4, 2)), ((4, 12), (4, 1))])
def test_gates_that_do_not_fit_the_memories_are_refused(shapes):
    with pytest.raises(ShapeError, match=r"lstm_gates: a .*\n  expected: a .*4H"):
        fused.lstm_gates(*map(np.ones, shapes))
