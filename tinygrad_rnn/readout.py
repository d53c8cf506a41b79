"""The way out of a net in two operations, each beside the formula that defines it.

Of a language model with V words the readout is the widest part: the scores (N, V) of N tokens are
more numbers than all else that a step makes, and each time that one goes through them costs as much
as a layer.  So a bias is added in place, and the loss reads the scores once on the way forward and
once on the way back, a few rows at a time, which stay in the cache from one ufunc to the next.
Every other linear layer takes its ``affine`` from here.
"""

from __future__ import annotations

import numpy as np

from .backend import backend_of, is_array, on_device
from .engine import op
from .linear import reshape, scatter, take_along_axis
from .products import OuterProduct, product, rows_of
from .reductions import below_top, log_softmax, softmax

__all__ = ["affine", "affine_defined", "softmax_losses", "softmax_losses_defined"]

# ---- scores ------------------------------------------------------------------------------------


def affine_defined(x, weight, bias):
    """``x W^T + b`` for rows ``x`` (..., D), ``weight`` W (V, D) and ``bias`` b (V,): (..., V)."""
    return x @ weight.T + bias


def affine(x, weight, bias):
    """``x W^T + b`` for a row, or rows, ``x``; without ``b`` if ``bias`` is None."""
    if bias is None:
        return x @ weight.T
    return _affine(x, weight, bias) if x.ndim > 1 else affine_defined(x, weight, bias)


@op(
    x=lambda g, weight: (rows_of(g) @ weight).reshape((*g.shape[:-1], weight.shape[1])),
    weight=lambda g, x: OuterProduct(rows_of(g), rows_of(x)),
    bias=lambda g: g,
)
def _affine(x, weight, bias):
    y = product(rows_of(x), weight.T)
    y = np.add(y, bias, out=y) if y.dtype == bias.dtype else y + bias
    return y if x.ndim == 2 else y.reshape((*x.shape[:-1], weight.shape[0]))


# ---- their loss --------------------------------------------------------------------------------


def softmax_losses_defined(x, ids):
    """``-log softmax(x)[n, ids[n]]`` for each row of scores ``x`` (N, V): (N,)."""
    return -reshape(take_along_axis(log_softmax(x), ids[:, None], -1), ids.shape)


def softmax_losses(x, ids):
    """What ``softmax_losses_defined`` gives, in one operation; it keeps of each row two numbers."""
    device = backend_of(getattr(x, "array", x)).device
    return _softmax_losses(x, on_device(ids.copy(), device))[0]


def _pulled_back(gs, x, ids, y):
    """The cotangent of ``x``: ``softmax(x)`` times ``g``, less ``g`` at ``ids``."""
    g, _, _ = gs
    if is_array(g):
        return backend_of(x).fused(_losses_backward)(g, x, ids, *y[1:]), None
    picked = (backend_of(ids).arange(len(ids)), ids)
    return softmax(x) * reshape(g, (-1, 1)) - scatter(g, picked, x.shape, once=True), None


def _losses_backward(g, x, ids, tops, sums):
    """The same of arrays, where the top and the sum of each row are known."""
    each, tops = (g / (sums + (sums == 0)))[:, None], tops[:, None]  # 0 / 1 of a row of -inf
    out = np.empty_like(x, np.result_type(x, each))
    backend = backend_of(x)
    for rows in backend.blocks(x):
        with np.errstate(over="ignore"):
            block = np.subtract(x[rows], tops[rows], out=out[rows])
        np.exp(block, out=block)
        block *= each[rows]
        block[backend.arange(len(block)), ids[rows]] -= g[rows]
    return out


@op(_pulled_back)
def _softmax_losses(x, ids):
    return backend_of(x).fused(_losses_forward)(x, ids)


def _losses_forward(x, ids):
    """The losses; and of each row its largest score, and the sum of exp of the scores less that."""
    losses, tops, sums = np.empty_like(x, np.result_type(x, 0.0), shape=(3, len(x)))
    backend = backend_of(x)
    for rows in backend.blocks(x):
        block, top = below_top(x[rows], -1)
        losses[rows] = block[backend.arange(len(block)), ids[rows]]
        tops[rows], sums[rows] = top[:, 0], np.sum(np.exp(block, out=block), -1)
    with np.errstate(divide="ignore"):
        losses = np.log(sums) - losses
    return losses, tops, sums
