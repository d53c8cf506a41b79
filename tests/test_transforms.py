"""Products with Jacobians and Hessians against derivatives by the complex step, and each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.registry import ROWS
from tinygrad_rnn.testing import cases

ANALYTIC = [row for row in ROWS if row.analytic]


def moved(row, arrays, keywords, vs, h=1e-30):
    """How NumPy's results move along ``vs``: the complex step, on plain arrays."""
    y = row.function(*[x + 1j * h * v for x, v in zip(arrays, vs, strict=True)], **keywords)
    return [np.imag(one) / h for one in (y if isinstance(y, (tuple, list)) else [y])]


@pytest.mark.parametrize("row", ANALYTIC, ids=lambda row: row.name)
@given(data=st.data())
def test_jvp_is_the_directional_derivative_and_vjp_its_transpose(row, data):
    arrays, keywords = data.draw(cases(row))
    rng = np.random.default_rng(0)
    vs = [rng.standard_normal(x.shape) for x in arrays]

    def func(*xs):
        return row.function(*xs, **keywords)

    y, tangents = tg.jvp(func, arrays, vs)
    many = isinstance(y, (tuple, list))
    ys, tangents = (y, tangents) if many else ([y], [tangents])
    for t, expected in zip(tangents, moved(row, arrays, keywords, vs), strict=True):
        np.testing.assert_allclose(t.array, expected, rtol=1e-10, atol=1e-12)
    us = [rng.standard_normal(one.shape) for one in ys]
    _, pulled = tg.vjp(func, arrays, us)
    left = sum(np.sum(u * t.array) for u, t in zip(us, tangents, strict=True))
    right = sum(np.sum(v * g.array) for v, g in zip(vs, pulled, strict=True))
    np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-11)


def test_hvp_of_a_quadratic_form():
    A = np.array([[2.0, 1.0], [0.0, 3.0]])
    x, v = np.array([1.0, -1.0]), np.array([0.5, 2.0])
    y, Hv = tg.hvp(lambda x: x @ A @ x, x, v)
    np.testing.assert_allclose(y.array, x @ A @ x)
    np.testing.assert_allclose(Hv.array, (A + A.T) @ v)


def test_hvp_of_a_linear_function_is_zero():
    assert tg.hvp(lambda x: (3.0 * x).sum(), np.ones(2), np.ones(2))[1].array.tolist() == [0, 0]


def test_hvp_over_several_inputs():
    x, y = np.array([1.0, 2.0]), np.array(3.0)
    _, (hx, hy) = tg.hvp(lambda x, y: (x * x).sum() * y, [x, y], [np.ones(2), np.array(0.5)])
    np.testing.assert_allclose(hx.array, 2 * y + 2 * x * 0.5)
    np.testing.assert_allclose(hy.array, (2 * x).sum())


def test_v_of_a_wrong_shape_is_refused():
    with pytest.raises(tg.ShapeError, match="expected"):
        tg.jvp(tg.tanh, np.ones(3), np.ones(2))
