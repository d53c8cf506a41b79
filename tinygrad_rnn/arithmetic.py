"""Entry by entry: arithmetic, elementary functions, and choices between two values.

Each VJP is the derivative of the function, times ``g``.  At kinks, where there is no derivative, it
takes the value that ``registry.py`` lists.
"""

from __future__ import annotations

import numpy as np

from .engine import op

__all__ = [
    "abs",
    "add",
    "clip",
    "cos",
    "divide",
    "exp",
    "expm1",
    "gelu",
    "log",
    "log1p",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "power",
    "relu",
    "sigmoid",
    "sign",
    "sin",
    "softplus",
    "sqrt",
    "subtract",
    "tanh",
    "where",
]

# ---- arithmetic --------------------------------------------------------------------------------


@op(a=lambda g: g, b=lambda g: g)
def add(a, b):
    """``a + b``."""
    return np.add(a, b)


@op(a=lambda g: g, b=lambda g: -g)
def subtract(a, b):
    """``a - b``."""
    return np.subtract(a, b)


@op(a=lambda g, b: g * b, b=lambda g, a: g * a)
def multiply(a, b):
    """``a * b``, entry by entry."""
    return np.multiply(a, b)


@op(a=lambda g, b: g / b, b=lambda g, b, y: -g * y / b)
def divide(a, b):
    """``a / b``."""
    return np.divide(a, b)


@op(x=lambda g: -g)
def negative(x):
    """``-x``."""
    return np.negative(x)


# Where b = 0 the power is constant, and 0 * a**0 says so even at a = 0; where a = 0, log(1) stands
# for log(0), since 0**b does not change with b > 0.
@op(
    a=lambda g, a, b: g * b * a ** (b - (b != 0)),
    b=lambda g, a, y: g * y * log(a + (a == 0)),
)
def power(a, b):
    """``a ** b``."""
    return np.power(a, b)


# ---- elementary functions ----------------------------------------------------------------------


@op(x=lambda g, y: g * y)
def exp(x):
    """e to the power of ``x``."""
    return np.exp(x)


@op(x=lambda g, y: g * (y + 1))
def expm1(x):
    """``exp(x) - 1``, exact for small ``x`` too."""
    return np.expm1(x)


@op(x=lambda g, x: g / x)
def log(x):
    """The natural logarithm."""
    return np.log(x)


@op(x=lambda g, x: g / (1 + x))
def log1p(x):
    """``log(1 + x)``, exact for small ``x`` too."""
    return np.log1p(x)


@op(x=lambda g, y: g / (2 * y))
def sqrt(x):
    """The square root."""
    return np.sqrt(x)


@op(x=lambda g, x: g * cos(x))
def sin(x):
    """The sine of ``x`` radians."""
    return np.sin(x)


@op(x=lambda g, x: -g * sin(x))
def cos(x):
    """The cosine of ``x`` radians."""
    return np.cos(x)


@op(x=lambda g, y: g - g * y * y)
def tanh(x):
    """The hyperbolic tangent."""
    return np.tanh(x)


@op(x=lambda g, y: g * (y * (1 - y)))
def sigmoid(x):
    """``1 / (1 + exp(-x))``, written ``(1 + tanh(x / 2)) / 2``, which cannot overflow."""
    y = np.tanh(0.5 * x)
    y *= 0.5
    y += 0.5
    return y


@op(x=lambda g, x: g * sigmoid(x))
def softplus(x):
    """``log(1 + exp(x))``, written so that no exponent is positive."""
    positive = np.where(x > 0, x, 0.0)
    return positive + np.log1p(np.exp(x - positive - positive))


@op(x=lambda g, x: where(x > 0, g, 0.0))
def relu(x):
    """``x`` where it is positive, 0 elsewhere."""
    return np.where(x > 0, x, 0.0)


@op(x=lambda g, x: g * sign(x))
def abs(x):
    """The absolute value."""
    return np.abs(x)


@op(x=lambda g: g * 0.0)
def sign(x):
    """-1, 0 or 1."""
    return np.sign(x)


def gelu(x):
    """``x`` times the normal distribution function of ``x``, in its tanh form (Hendrycks 2016)."""
    return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))


# ---- one value or the other --------------------------------------------------------------------


@op(
    a=lambda g, condition: where(condition, g, 0.0),
    b=lambda g, condition: where(condition, 0.0, g),
)
def where(condition, a, b):
    """``a`` where the condition holds, ``b`` elsewhere."""
    try:
        return np.where(condition, a, b)
    except AttributeError:  # CuPy's takes no condition that is one number
        return np.where(np.full_like(a + b, condition, bool), a, b)


def _share(g, wins, ties):
    """What one of two rivals gets of ``g``: all where it wins, half where they tie."""
    return where(wins, g, where(ties, 0.5 * g, 0.0))


@op(
    a=lambda g, a, b: _share(g, a > b, a == b),
    b=lambda g, a, b: _share(g, b > a, a == b),
)
def maximum(a, b):
    """The larger of ``a`` and ``b``."""
    return np.maximum(a, b)


@op(
    a=lambda g, a, b: _share(g, a < b, a == b),
    b=lambda g, a, b: _share(g, b < a, a == b),
)
def minimum(a, b):
    """The smaller of ``a`` and ``b``."""
    return np.minimum(a, b)


def clip(x, low=None, high=None):
    """``x`` kept between ``low`` and ``high``; at the bounds it still moves with ``x``."""
    if low is not None:
        x = where(x < low, low, x)
    return x if high is None else where(x > high, high, x)
