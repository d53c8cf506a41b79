"""Which dtype a result and a gradient have, and that single numbers are arrays."""

import numpy as np
import pytest

import tinygrad_rnn as tg

from .leaves import leaf, ones

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
    "unpacking": lambda x: next(iter(x)),
    "unstack": lambda x: tg.unstack(x)[1],
}


@pytest.mark.parametrize("call", SCALARS.values(), ids=SCALARS)
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
