"""Steps of cells in one operation each, beside the formulas that define them.

A gate is a dozen small operations, and each costs more to record than to compute.  Here they are
one, with a VJP written out by hand; a law holds it equal to the formula, to any order.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import sigmoid, tanh
from .engine import op
from .linear import concatenate, split

__all__ = ["lstm_gates", "lstm_gates_defined"]


def lstm_gates_defined(a, c):
    """``(h', c')`` of an LSTM from ``a`` (..., 4H), its gates i, f, g, o before they are squashed.

    ``c' = sigmoid(f) * c + sigmoid(i) * tanh(g)`` and ``h' = sigmoid(o) * tanh(c')``.
    """
    i, f, g, o = split(a, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def lstm_gates(a, c):
    """What ``lstm_gates_defined`` gives, in one operation."""
    h, c, _, _ = _lstm_gates(a, c)
    return h, c


def _quarters(x):
    H = x.shape[-1] // 4
    return [x[..., k * H : (k + 1) * H] for k in range(4)]


def _pulled_back(gs, y, c):
    """The cotangents of ``a`` and ``c``: h' = o t, t = tanh(c'), c' = f c + i g, each in turn.

    The squashed gates and t are results as well, so that higher derivatives can flow into them.
    """
    gh, gc, g_gates, gt = gs
    _, _, gates, t = y
    i, f, g, o = _quarters(gates)
    if gh is not None:
        gt = gh * o if gt is None else gt + gh * o
    if gt is not None:
        gc = gt * (1 - t * t) if gc is None else gc + gt * (1 - t * t)
    if gc is None:
        gc = 0.0 * t
    parts = [gc * g, gc * c, gc * i, 0.0 * t if gh is None else gh * t]
    if g_gates is not None:
        parts = [mine + other for mine, other in zip(parts, _quarters(g_gates), strict=True)]
    gi, gf, gg, go = parts
    parts = [gi * (i * (1 - i)), gf * (f * (1 - f)), gg * (1 - g * g), go * (o * (1 - o))]
    return concatenate(parts, axis=-1), gc * f


@op(_pulled_back)
def _lstm_gates(a, c):
    gates = np.tanh(0.5 * a)  # sigmoid(a) = (tanh(a / 2) + 1) / 2
    gates *= 0.5
    gates += 0.5
    i, f, g, o = _quarters(gates)
    g[...] = np.tanh(_quarters(a)[2])
    c = f * c + i * g
    t = np.tanh(c)
    return o * t, c, gates, t
