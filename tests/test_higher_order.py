"""Derivatives of derivatives, beside formulas and numerical ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg

from .leaves import leaf, ones


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
