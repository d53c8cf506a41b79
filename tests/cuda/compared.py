"""The same computation on NumPy and on the device, and whether it came out the same."""

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import backend

ROUNDING = {"float16": 4e-3, "float32": 1e-5, "float64": 1e-12}
"""How far results may differ, relative to the largest entry: the order of sums is not ours."""


def normal(*shape, seed=0, dtype=np.float32):
    """Normal numbers, the same whenever they are asked for."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def on_host(x):
    """``x``, a Tensor, an array of either device or a number, as a NumPy array."""
    x = getattr(x, "array", x)
    return np.asarray(backend.backend_of(x).to_host(x))


def close(got, expected):
    """Raise unless ``got`` has the shape, the dtype and, but for rounding, the values expected."""
    got, expected = on_host(got), on_host(expected)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    finite = np.abs(expected[np.isfinite(expected)], dtype=float) if expected.size else expected
    scale = max(1.0, np.max(finite, initial=0.0))
    atol = ROUNDING.get(str(expected.dtype), 0) * scale
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


def is_on(device, x):
    """Whether ``x``, a Tensor or an array, lives on ``device``."""
    x = getattr(x, "array", x)
    return backend.is_array(x) and backend.backend_of(x).device == device


def several(y):
    """The results of a call as a list, be they one or many."""
    return list(y) if isinstance(y, (tuple, list)) else [y]


def differentiated(function, arrays, device):
    """The results of ``function`` on ``device``, and the gradients for standard cotangents there.

    Floating-point arrays become leaves, others go to the function as they are.
    """
    put = [tg.tensor(x, requires_grad=True, device=device) for x in arrays]
    rng = np.random.default_rng(1)
    results = several(function(*put))
    for y in results:
        g = rng.standard_normal(y.shape).astype(y.dtype)
        y.backward(tg.tensor(g, device=device), retain_graph=True)
    return results, [x.grad for x in put]


def same_on_both(function, *arrays):
    """Raise unless results and gradients on the device are there, and are those of NumPy."""
    results, gradients = differentiated(function, arrays, "cuda")
    expected, expected_gradients = differentiated(function, arrays, "cpu")
    for got, wanted in zip([*results, *gradients], [*expected, *expected_gradients], strict=True):
        assert is_on("cuda", got), got
        close(got, wanted)
