"""Sums, products, extremes and averages along axes, by NumPy's rules.

``axis`` is None for all axes, an integer, or a tuple; ``()`` reduces nothing.
"""

from __future__ import annotations

from functools import wraps
from math import prod as count_of

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from .arithmetic import exp, sqrt, where
from .engine import formula, op
from .linear import broadcast_to, concatenate, reshape, transpose

__all__ = [
    "log_softmax",
    "logsumexp",
    "max",
    "mean",
    "min",
    "norm",
    "prod",
    "softmax",
    "std",
    "sum",
    "var",
]


def rounded_once(function):
    """``function(x, ...)``, computed in float32 if ``x`` is float16, and then rounded to float16.

    So NumPy's mean does: a square, or a sum of many entries, may be above 65504, or have few
    digits, though the result is a number like any other.
    """

    @wraps(function)
    def call(x, *args, **kwargs):
        if getattr(x, "dtype", None) != np.float16:
            return function(x, *args, **kwargs)
        return function(x.astype(np.float32), *args, **kwargs).astype(np.float16)

    return call


def _kept(y, x_shape, axis):
    """``y``, reduced from ``x_shape`` along ``axis``, with the reduced axes back, of length 1."""
    axes = range(len(x_shape)) if axis is None else normalize_axis_tuple(axis, len(x_shape))
    return reshape(y, tuple(1 if i in axes else n for i, n in enumerate(x_shape)))


@op(x=lambda g, x_shape, axis: broadcast_to(_kept(g, x_shape, axis), x_shape))
def sum(x, axis=None, keepdims=False):
    """The sum along ``axis``."""
    return np.sum(x, axis, keepdims=keepdims)


def _shared(g, winners, axis):
    """``g`` where ``winners`` holds, divided evenly among them where several tie."""
    count = np.maximum(winners.sum(axis, keepdims=True), 1).astype(g.dtype)
    return where(winners, g / count, 0.0)


@op(x=lambda g, x, y, axis: _shared(_kept(g, x.shape, axis), x == _kept(y, x.shape, axis), axis))
def max(x, axis=None, keepdims=False):
    """The largest entry along ``axis``."""
    return np.max(x, axis, keepdims=keepdims)


@formula
def min(x, axis=None, keepdims=False):
    """The smallest entry along ``axis``."""
    return -max(-x, axis, keepdims)


def below_top(x, axis):
    """``x - m`` and ``m``, the largest entry along ``axis``: no exp of ``x - m`` overflows.

    An infinite m is 0 here.  The two stay apart as long as they can: what is left of a small number
    once m was added to it is a matter of m's size, in float32 nothing if that is 1e8.
    """
    top = np.max(x, axis, keepdims=True)
    top = np.where(np.isinf(top), 0.0, top)
    with np.errstate(over="ignore"):  # to -inf, whose exp is 0, as it should be
        return x - top, top


def log_sum_exp(x, axis):
    """``log(sum(exp(x)))`` along ``axis``, which stays, of length 1; -inf if all are -inf."""
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x).sum(axis, keepdims=True))


@rounded_once
@op(x=lambda g, x, axis: _kept(g, x.shape, axis) * softmax(x, axis))
def logsumexp(x, axis=None, keepdims=False):
    """``log(sum(exp(x)))`` along ``axis``, never overflowing; -inf, gradient 0, if all are -inf."""
    below, top = below_top(x, axis)
    y = log_sum_exp(below, axis) + top
    return y if keepdims else y.reshape(np.sum(np.broadcast_to(0, np.shape(x)), axis).shape)


@rounded_once
@op(x=lambda g, y, axis: y * (g - sum(g * y, axis, True)))
def softmax(x, axis=-1):
    """``exp(x) / sum(exp(x))`` along ``axis``; zeros, with gradient 0, if every entry is -inf."""
    e = np.exp(below_top(x, axis)[0])
    total = e.sum(axis, keepdims=True)
    return e / (total + (total == 0))


@rounded_once
@op(x=lambda g, y, axis: g - exp(y) * sum(g, axis, True))
def log_softmax(x, axis=-1):
    """``log(softmax(x))`` along ``axis``, finite where ``softmax`` itself would round to 0."""
    below, _ = below_top(x, axis)
    return below - log_sum_exp(below, axis)


def _count(shape, axis):
    """How many entries of an array of this ``shape`` go into one along ``axis``."""
    axes = range(len(shape)) if axis is None else normalize_axis_tuple(axis, len(shape))
    return count_of(shape[i] for i in axes)


@op(
    x=lambda g, x_shape, axis: broadcast_to(
        _kept(g / _count(x_shape, axis), x_shape, axis), x_shape
    )
)
def mean(x, axis=None, keepdims=False):
    """The mean along ``axis``; that of float16 is rounded to it once, in the end."""
    return np.mean(x, axis, keepdims=keepdims)


@rounded_once
@formula
def var(x, axis=None, ddof=0, keepdims=False):
    """The mean squared distance from the mean along ``axis``; divided by ``n - ddof``."""
    distance = x - mean(x, axis, keepdims=True)
    return sum(distance * distance, axis, keepdims) / (_count(x.shape, axis) - ddof)


def _root(x):
    """The square root, with slope 0 at 0: a norm there has no direction, so none is preferred."""
    zero = x == 0
    return where(zero, 0.0, sqrt(where(zero, 1.0, x)))


@rounded_once
@formula
def std(x, axis=None, ddof=0, keepdims=False):
    """The square root of ``var``; where all entries are equal, its gradient is 0."""
    return _root(var(x, axis, ddof, keepdims))


@rounded_once
@formula
def norm(x, axis=None, keepdims=False):
    """The Euclidean length along ``axis``; at 0 its gradient is 0."""
    return _root(sum(x * x, axis, keepdims))


@formula
def prod(x, axis=None, keepdims=False):
    """The product along ``axis``: pairs of halves, so that zeros among the entries do no harm."""
    axes = tuple(range(x.ndim)) if axis is None else normalize_axis_tuple(axis, x.ndim)
    others = [i for i in range(x.ndim) if i not in axes]
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    sides = (_count(x.shape, axes), *[x.shape[i] for i in others])
    x = reshape(transpose(x, [*axes, *others]), sides)
    if not x.shape[0]:
        x = concatenate([x, np.ones_like(getattr(x, "array", x), shape=(1, *x.shape[1:]))])
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        pairs = x[:half] * x[half : 2 * half]
        x = concatenate([pairs, x[2 * half :]]) if x.shape[0] % 2 else pairs
    return reshape(x, kept if keepdims else x.shape[1:])
