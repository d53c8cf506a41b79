"""Laws that every operation of the registry obeys."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import (
    arithmetic,
    engine,
    functional,
    fused,
    linear,
    products,
    readout,
    reductions,
)
from tinygrad_rnn.gradcheck import gradcheck
from tinygrad_rnn.registry import ROWS, Draw, RandomDraw, checkable
from tinygrad_rnn.testing import cases, laid_out

NAMED = {row.name: row for row in ROWS}
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
LARGE = {"lstm", "gru", "elman"}  # their higher derivatives are checked in test_sequences
every_small_row = pytest.mark.parametrize(
    "row", [row for row in ROWS if row.name not in LARGE], ids=lambda row: row.name
)


def flat(y):
    """The results of an operation, one or several, as a list of arrays."""
    ys = y if isinstance(y, (tuple, list)) else [y]
    return [np.asarray(getattr(one, "array", one)) for one in ys]


def pulled(row, arrays, keywords, cotangents=None, dtype=float):
    """Values and gradients of a call, for given or standard cotangents."""
    leaves = [tg.tensor(x, dtype=dtype, requires_grad=True) for x in arrays]
    y = row.function(*leaves, **keywords)
    ys = y if isinstance(y, (tuple, list)) else [y]
    if cotangents is None:
        rng = np.random.default_rng(1)
        cotangents = [rng.standard_normal(one.shape) for one in ys]
    for one, g in zip(ys, cotangents, strict=True):
        one.backward(g, retain_graph=True)
    return flat(ys), [x.grad.array for x in leaves]


@every_row
@given(data=st.data())
def test_equals_its_numpy_twin_in_any_layout(row, data):
    arrays, keywords = data.draw(cases(row))
    arrays = [data.draw(laid_out(x)) for x in arrays]
    before = [x.copy() for x in arrays]
    expected = flat(row.numpy(*arrays, **keywords))
    plain = row.function(*arrays, **keywords)
    tensors = row.function(*[tg.Tensor(x) for x in arrays], **keywords)
    for ys in (flat(plain), flat(tensors)):
        assert len(ys) == len(expected)
        for y, e in zip(ys, expected, strict=True):
            assert y.shape == e.shape
            np.testing.assert_allclose(y, e, rtol=1e-12, atol=1e-13)
    for x, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(x, old)
    one = tensors[0] if isinstance(tensors, (tuple, list)) else tensors
    assert isinstance(one, tg.Tensor) and one.node is None  # nothing tracked, nothing recorded
    assert not isinstance(plain, tg.Tensor)


TRIES = settings.default.max_examples  # of the profile; a gradient check is many runs in itself


@every_small_row
@settings(max_examples=TRIES // 5)
@given(data=st.data())
def test_first_and_second_derivatives_equal_numerical_ones(row, data):
    arrays, keywords = data.draw(cases(row))
    assume(any(x.size for x in arrays))
    report = gradcheck(checkable(row, keywords), arrays, order=2)
    if row.analytic:
        assert report.worst_by_order[0] < 1e-10 and report.worst_by_order[1] < 1e-9


@every_small_row
@settings(max_examples=TRIES // 20)
@given(data=st.data())
def test_third_derivatives_equal_numerical_ones(row, data):
    arrays, keywords = data.draw(cases(row))
    assume(0 < sum(x.size for x in arrays) <= 80)  # of scatter_add, x alone has 36
    gradcheck(checkable(row, keywords), arrays, order=3)


@every_row
@given(data=st.data())
def test_float32_stays_float32_and_is_close(row, data):
    arrays, keywords = data.draw(cases(row))
    if row.name == "astype":
        keywords = {"dtype": np.dtype(np.float32)}
    if "targets" in keywords and keywords["targets"].dtype == float:
        keywords = {"targets": keywords["targets"].astype(np.float32)}  # else float64, as in NumPy
    ys, gradients = pulled(row, arrays, keywords)
    ys32, gradients32 = pulled(row, arrays, keywords, dtype=np.float32)
    for a, b in zip(ys + gradients, ys32 + gradients32, strict=True):
        assert b.dtype == np.float32
        np.testing.assert_allclose(
            b, a, rtol=1e-3, atol=1e-4 * max(1, np.max(np.abs(a), initial=0))
        )


@every_row
@given(data=st.data())
def test_gradients_do_not_depend_on_layout_or_share_memory(row, data):
    arrays, keywords = data.draw(cases(row))
    ys, expected = pulled(row, arrays, keywords)
    rng = np.random.default_rng(1)
    cotangents = [data.draw(laid_out(rng.standard_normal(y.shape))) for y in ys]
    moved = [data.draw(laid_out(x)) for x in arrays]
    _, gradients = pulled(row, moved, keywords, cotangents)
    for g, e in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-12, atol=1e-14)
    others = [*moved, *cotangents, *gradients]
    for i, g in enumerate(gradients):
        assert not any(np.shares_memory(g, o) for o in others if o is not g), i


@every_row
def test_a_cotangent_broadcast_with_stride_zero_is_never_written_to(row):
    arrays, keywords = row.case(RandomDraw(3))
    ys, _ = pulled(row, arrays, keywords)
    ones = [np.broadcast_to(1.0, y.shape) for y in ys]
    dense = [np.ones(y.shape) for y in ys]
    for a, b in zip(
        pulled(row, arrays, keywords, ones)[1], pulled(row, arrays, keywords, dense)[1], strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    axis=st.sampled_from([None, 0, -1]),
)
def test_a_mean_of_float16_is_rounded_once(seed, shape, scale, axis):
    x = (scale * np.random.default_rng(seed).uniform(-1, 3, shape)).astype(np.float16)
    wide = x.astype(float)
    exact = wide.mean(axis)
    off = np.abs(tg.mean(tg.tensor(x), axis).array - exact)
    ulp = np.spacing(np.abs(exact).astype(np.float16)).astype(float)
    assert np.all(off <= 0.5 * ulp + 1e-5 * np.abs(wide).mean(axis))  # added up in float32
    assert tg.mean(tg.tensor(x), axis).dtype == np.float16


class Empties(RandomDraw):
    """Draws arrays with a side of length 0, wherever the case asks for shapes."""

    def shape(self, min_dims=0, max_dims=3, min_side=1):
        ndim = max(min_dims, 1)
        sides = [0, *Draw.shape(self, ndim - 1, ndim - 1)]
        return tuple(sides[:ndim])


TAKES_NO_EMPTY = {
    "max": "no largest entry",
    "min": "no smallest entry",
    "softmax": "no largest entry along the axis",
    "log_softmax": "no largest entry along the axis",
    "logsumexp": "no largest entry",
    "mean": "0 / 0",
    "var": "0 / 0",
    "std": "0 / 0",
    "mse": "0 / 0",
    "nll": "0 / 0 in the twin",
    "cross_entropy": "no classes",
    "binary_cross_entropy": "0 / 0",
    "binary_cross_entropy_with_logits": "0 / 0",
    "unstack": "no results",
    "take": "no id to draw",
    "take_along_axis": "no id to draw",
}


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.name not in TAKES_NO_EMPTY], ids=lambda row: row.name
)
def test_empty_arrays_are_arrays_too(row):
    for seed in range(5):
        arrays, keywords = row.case(Empties(seed))
        ys, gradients = pulled(row, arrays, keywords)
        for y, e in zip(ys, flat(row.numpy(*arrays, **keywords)), strict=True):
            assert y.shape == e.shape
        for g, x in zip(gradients, arrays, strict=True):
            assert g.shape == x.shape


LINEAR = """sum mean cumsum sum_to broadcast_to reshape transpose swapaxes moveaxis squeeze
expand_dims concatenate stack unstack split flip tile repeat getitem scatter scatter_add take
take_along_axis embedding dropout""".split()


@pytest.mark.parametrize("name", LINEAR)
@given(data=st.data())
def test_the_vjp_of_a_linear_operation_is_its_adjoint(name, data):
    """<A x, g> == <x, A* g>, with A x from NumPy, so that neither side is the other's echo."""
    row = NAMED[name]
    arrays, keywords = data.draw(cases(row))
    ys = flat(row.numpy(*arrays, **keywords))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    cotangents = [rng.standard_normal(y.shape) for y in ys]
    _, gradients = pulled(row, arrays, keywords, cotangents)
    left = sum(np.sum(y * g) for y, g in zip(ys, cotangents, strict=True))
    right = sum(np.sum(x * g) for x, g in zip(arrays, gradients, strict=True))
    np.testing.assert_allclose(left, right, rtol=1e-11, atol=1e-12)


FUSED = {
    "lstm_gates": fused.lstm_gates_defined,
    "gru_gates": fused.gru_gates_defined,
    "affine": readout.affine_defined,
    "softmax_losses": readout.softmax_losses_defined,
}


@pytest.mark.parametrize("name", FUSED)
@given(data=st.data())
def test_a_fused_operation_is_its_composed_form(name, data):
    """In value and gradient, also of single results; and in the gradient of the gradient."""
    row, composed = NAMED[name], NAMED[name]._replace(function=FUSED[name])
    arrays, keywords = data.draw(cases(row))
    ys, _ = pulled(row, arrays, keywords)
    for i in range(len(ys)):
        alone = [
            np.random.default_rng(i).standard_normal(y.shape) * (i == j) for j, y in enumerate(ys)
        ]
        one, other = pulled(row, arrays, keywords, alone), pulled(composed, arrays, keywords, alone)
        for a, b in zip([*one[0], *one[1]], [*other[0], *other[1]], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    seconds = []
    for function in (row.function, composed.function):
        leaves = [tg.tensor(x, requires_grad=True) for x in arrays]
        loss = sum(tg.sum(y * y) for y in function(*leaves, **keywords))
        first = tg.grad(loss, leaves, create_graph=True)
        seconds.append(flat(tg.grad(sum(tg.sum(g * g) for g in first), leaves)))
    for a, b in zip(*seconds, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


def test_every_fused_operation_stands_beside_its_composed_form():
    assert {f"{name}_defined" for name in FUSED} | set(FUSED) == {*fused.__all__, *readout.__all__}


NOT_DIFFERENTIABLE_HELPERS = {"to_device"}  # the other device is tested with it


def test_every_exported_function_has_a_row():
    for module in (arithmetic, linear, reductions, products, functional):
        missing = set(module.__all__) - set(NAMED) - NOT_DIFFERENTIABLE_HELPERS
        assert not missing, f"{module.__name__}: {sorted(missing)} not in the registry"


def primitives_of(row, draws=12):
    """The names of the operations that a row's cases record."""
    found = set()
    for seed in range(draws):
        arrays, keywords = row.case(RandomDraw(seed))
        leaves = [tg.tensor(x, requires_grad=True) for x in arrays]
        y = row.function(*leaves, **keywords)
        left = [one.node for one in (y if isinstance(y, (tuple, list)) else [y])]
        while left:
            node = left.pop()
            if node is not None:
                found.add(node.name)
                left.extend(node.parents())
    return found


def test_every_operation_is_reached_by_some_row():
    reached = set().union(*map(primitives_of, ROWS))
    assert set(engine.OPERATIONS) - reached - {"to_device"} == set()


@pytest.mark.parametrize("sections", [1, 3])
def test_no_entries_are_split_as_numpy_splits_them(sections):
    x = tg.tensor(np.zeros((0, 2)), requires_grad=True)
    pieces = tg.split(x, sections)
    assert [p.shape for p in pieces] == [p.shape for p in np.split(x.numpy(), sections)]
    tg.sum(pieces[-1]).backward()
    assert x.grad.shape == (0, 2)


@given(
    n=st.integers(1, 5),
    cuts=st.lists(st.integers(-7, 7), max_size=4),
    axis=st.sampled_from([0, 1, -1]),
    data=st.data(),
)
def test_pieces_cut_anywhere_are_numpys_and_send_their_cotangents_back(n, cuts, axis, data):
    """Also where pieces overlap, are empty, or where nothing comes back from some of them."""
    x = tg.tensor(np.arange(float(n * n)).reshape(n, n), requires_grad=True)
    pieces, expected = tg.split(x, cuts, axis), np.split(x.numpy(), cuts, axis)
    assert all(np.array_equal(p.array, e) for p, e in zip(pieces, expected, strict=True))
    used = data.draw(st.sets(st.integers(0, len(cuts)), min_size=1))
    sum(tg.sum(pieces[i] * float(i + 1)) for i in used).backward()
    gradient = np.zeros(n * n)
    for i in used:  # an entry of x is its own place
        np.add.at(gradient, expected[i].astype(int).ravel(), i + 1)
    assert np.array_equal(x.grad.numpy().ravel(), gradient)
