"""The way out of a net in two operations, each beside the formula that defines it.

Of a language model with V words the readout is the widest part: the scores (N, V) of N tokens are
more numbers than all else that a step makes, and each time that one goes through them costs as much
as a layer.  So a bias is added in place, and the loss reads the scores once on the way forward and
once on the way back, a few rows at a time, which stay in the cache from one ufunc to the next.
Every other linear layer takes its ``affine`` from here.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import exp, where
from .backend import backend_of, is_array
from .engine import op
from .linear import reshape, scatter, take_along_axis
from .products import OuterProduct, left_cotangent, product, rows_of
from .reductions import log_total, logsumexp

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
    x=lambda g, weight: left_cotangent(g, weight.T),
    weight=lambda g, x: OuterProduct(rows_of(g), rows_of(x)),
    bias=lambda g: g,
)
def _affine(x, weight, bias):
    y = product(rows_of(x), weight.T).reshape((*x.shape[:-1], weight.shape[0]))
    return np.add(y, bias, out=y) if y.dtype == bias.dtype else y + bias


# ---- their loss --------------------------------------------------------------------------------


def softmax_losses_defined(x, ids):
    """``-log softmax(x)[n, ids[n]]`` for each row of scores ``x`` (N, V): (N,)."""
    return logsumexp(x, -1) - reshape(take_along_axis(x, ids[:, None], -1), ids.shape)


def softmax_losses(x, ids):
    """What ``softmax_losses_defined`` gives, in one operation; it keeps of each row one number."""
    return _softmax_losses(x, ids.copy())[0]


def _pulled_back(gs, x, ids, y):
    """The cotangent of ``x``: ``softmax(x)`` times all that came, less ``g`` at ``ids``.

    The totals, ``logsumexp(x)``, are a result too, so that higher derivatives can flow into them.
    """
    g, g_totals = gs
    totals = y[1]
    if g is None:
        g = 0.0 * g_totals
    whole = g if g_totals is None else g + g_totals
    shift = reshape(where(getattr(totals, "array", totals) == -np.inf, 0.0, totals), (-1, 1))
    if is_array(g):
        return _by_blocks(x, ids, g, whole, shift), None
    picked = (np.arange(len(ids)), ids)
    return exp(x - shift) * reshape(whole, (-1, 1)) - scatter(g, picked, x.shape, once=True), None


def _by_blocks(x, ids, g, whole, shift):
    """``exp(x - shift)``, each row times its entry of ``whole``, less that of ``g`` at ``ids``."""
    out = np.empty_like(x, np.result_type(x, whole))
    for rows in backend_of(x).blocks(x):
        block = np.subtract(x[rows], shift[rows], out=out[rows])
        np.exp(block, out=block)
        block *= whole[rows, None]
        block[np.arange(len(block)), ids[rows]] -= g[rows]
    return out


@op(_pulled_back)
def _softmax_losses(x, ids):
    losses, totals = np.empty_like(x, np.result_type(x, 0.0), shape=(2, len(x)))
    for rows in backend_of(x).blocks(x):
        block = x[rows]
        totals[rows] = log_total(block, -1)[:, 0]
        losses[rows] = totals[rows] - block[np.arange(len(block)), ids[rows]]
    return losses, totals
