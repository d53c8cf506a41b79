"""Steps of cells in one operation each, beside the formulas that define them.

The gates are a dozen small operations, and each costs more to record than to compute.  Here they
are one, with a VJP written out by hand; a law holds it equal to the formula, to any order.  It is
pointwise, so a cell of one's own makes its products as it likes and calls it at the end:

    h, c = fused.lstm_gates(x @ U + h @ W + b, c)             # an LSTM
    h, c = fused.lstm_gates(x @ U + b)                        # the leaf of a tree
    h, c = fused.lstm_gates(h_l @ U + h_r @ W + b, c_l, c_r)  # a node over two children
    h = fused.gru_gates(x @ U + b, h @ W + a, h)              # a GRU

What is computed on arrays, forward and backward, is a function of arrays on its own: ``cuda`` has a
kernel in place of each.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import sigmoid, tanh
from .backend import backend_of
from .engine import TensorCore, op
from .errors import ShapeError, described
from .linear import concatenate, split

__all__ = ["gru_gates", "gru_gates_defined", "lstm_gates", "lstm_gates_defined"]


def _side(x):
    """The length of the last axis of ``x``, -1 if it has none."""
    return (getattr(x, "shape", ()) or (-1,))[-1]


# ---- the gates of an LSTM ----------------------------------------------------------------------


def lstm_gates_defined(a, *cs):
    """``(h', c')`` of an LSTM from its gates before they are squashed and from memories ``cs``.

    ``a`` (..., (N + 3)H) has blocks i, f_1 .. f_N, g, o for N memories (..., H): one for a step of
    a sequence, one for each child in a tree, none for its leaves.
    ``c' = sigmoid(i) * tanh(g) + sum_k sigmoid(f_k) * c_k`` and ``h' = sigmoid(o) * tanh(c')``.
    """
    i, *fs, g, o = split(a, len(cs) + 3, axis=-1)
    c = sigmoid(i) * tanh(g)
    for f, c_k in zip(fs, cs, strict=True):
        c = c + sigmoid(f) * c_k
    return sigmoid(o) * tanh(c), c


def lstm_gates(a, *cs):
    """What ``lstm_gates_defined`` gives, in one operation."""
    h, c, _, _ = _lstm_gates(a, *cs)
    return h, c


def _pulled_back(gs, y, cs):
    """The cotangents of ``a`` and ``cs``: h' = o t, t = tanh(c'), c' = i g + sum_k f_k c_k.

        dt   = dh' o         dc' += dt (1 - t^2)     do    = dh' t
        di   = dc' g         dg   = dc' i            df_k  = dc' c_k       dc_k = dc' f_k
        da_g = dg (1 - g^2)  da_s = ds s (1 - s)     for s = i, f_k, o

    The squashed gates and t are results as well, so that higher derivatives can flow into them.
    """
    gh, gc, g_gates, gt = gs
    _, _, gates, t = y
    if g_gates is gt is None and not isinstance(t, TensorCore) and gates.shape[:-1] == t.shape[:-1]:
        return backend_of(t).fused(_lstm_gates_backward)(gh, gc, gates, t, *cs)
    i, *fs, g, o = _blocks(gates, cs)
    if gh is not None:
        gt = gh * o if gt is None else gt + gh * o
    if gt is not None:
        gc = gt * (1 - t * t) if gc is None else gc + gt * (1 - t * t)
    if gc is None:
        gc = 0.0 * t
    parts = [gc * g, *[gc * c for c in cs], gc * i, 0.0 * t if gh is None else gh * t]
    if g_gates is not None:
        parts = [mine + other for mine, other in zip(parts, _blocks(g_gates, cs), strict=True)]
    *sigmoids, gg, go = zip(parts, [i, *fs, g, o], strict=True)
    slopes = [part * (s * (1 - s)) for part, s in (*sigmoids, go)]
    slopes.insert(-1, gg[0] * (1 - g * g))
    return concatenate(slopes, axis=-1), *[gc * f for f in fs]


def _lstm_gates_backward(gh, gc, gates, t, *cs):
    """The same on arrays: the slopes of all gates in one pass, and multiplied where they stand."""
    i, *fs, g, o = _blocks(gates, cs)
    if gh is not None:
        from_h = gh * o * (1 - t * t)
        gc = from_h if gc is None else from_h + gc
    a = (1 - gates).astype(np.result_type(gates, gc), copy=False)
    a *= gates
    ai, *af, ag, ao = _blocks(a, cs)
    np.subtract(1, np.multiply(g, g, out=ag), out=ag)
    for slope, other in zip([ai, *af, ag], [g, *cs, i], strict=True):
        slope *= gc
        slope *= other
    ao *= 0.0 if gh is None else gh
    ao *= t
    return a, *[gc * f for f in fs]


def _blocks(a, cs):
    """The blocks i, f_1 .. f_N, g, o of ``a`` for N memories ``cs``: views."""
    H = a.shape[-1] // (len(cs) + 3)
    return [a[..., k * H : (k + 1) * H] for k in range(len(cs) + 3)]


@op(_pulled_back)
def _lstm_gates(a, *cs):
    H, rest = divmod(_side(a), len(cs) + 3)
    if rest or [c for c in cs if _side(c) != H]:
        hint = "the blocks of a are i, an f for each memory, g and o"
        if any(isinstance(c, (tuple, list)) for c in cs):
            hint = "of a state (h, c) pass c alone"
        raise ShapeError(
            f"lstm_gates: a {described(a)}, memories {', '.join(map(described, cs)) or 'none'}\n"
            f"  expected: a (..., {len(cs) + 3}H), memories (..., H)\n  hint: {hint}"
        )
    return backend_of(a).fused(_lstm_gates_forward)(a, *cs)


def _lstm_gates_forward(a, *cs):
    """h', c', the gates i, f_1 .. f_N, g, o, squashed, and tanh(c')."""
    H = a.shape[-1] // (len(cs) + 3)
    gates = np.tanh(0.5 * a)  # sigmoid(a) = (tanh(a / 2) + 1) / 2
    gates *= 0.5
    gates += 0.5
    i, *fs, g, o = _blocks(gates, cs)
    np.tanh(a[..., -2 * H : -H], out=g)  # in place of the sigmoid
    c = i * g
    for f, c_k in zip(fs, cs, strict=True):
        c = c + f * c_k
    t = np.tanh(c)
    return o * t, c, gates, t


# ---- the gates of a GRU ------------------------------------------------------------------------


def gru_gates_defined(u, w, h):
    """``h'`` of a GRU from ``u``, what the input says of its gates, ``w``, what ``h`` says, and h.

    ``u`` and ``w`` (..., 3H) have blocks r, z, n, and ``h`` is (..., H).
    ``r = sigmoid(u_r + w_r)``, ``z = sigmoid(u_z + w_z)``, ``n = tanh(u_n + r * w_n)`` and
    ``h' = (1 - z) * n + z * h``.
    """
    (u_r, u_z, u_n), (w_r, w_z, w_n) = split(u, 3, axis=-1), split(w, 3, axis=-1)
    r, z = sigmoid(u_r + w_r), sigmoid(u_z + w_z)
    n = tanh(u_n + r * w_n)
    return (1.0 - z) * n + z * h


def gru_gates(u, w, h):
    """What ``gru_gates_defined`` gives, in one operation."""
    return _gru_gates(u, w, h)[0]


def _gru_pulled_back(gs, y, w, h):
    """The cotangents of ``u``, ``w`` and ``h``: h' = n + z (h - n), n = tanh(u_n + r w_n).

        dz   = dh' (h - n)   dn   = dh' (1 - z)      du_n  = dn (1 - n^2)  dh   = dh' z
        dr   = du_n w_n      dw_n = du_n r           da_s  = ds s (1 - s)  for s = r, z

    r, z and n are results too, as the gates above.
    """
    g, gr, gz, gn = gs
    _, r, z, n = y
    if gr is gz is gn is None and not isinstance(n, TensorCore):
        return backend_of(n).fused(_gru_gates_backward)(g, r, z, n, w, h)
    return _gru_gates_backward(g, r, z, n, w, h, gr, gz, gn)


def _gru_gates_backward(g, r, z, n, w, h, gr=None, gz=None, gn=None):
    """The same, of arrays or of Tensors."""
    if g is None:
        g = 0.0 * n
    w_n = w[..., 2 * n.shape[-1] :]
    of_n = (g * (1 - z) if gn is None else g * (1 - z) + gn) * (1 - n * n)
    of_r = (of_n * w_n if gr is None else of_n * w_n + gr) * (r * (1 - r))
    of_z = (g * (h - n) if gz is None else g * (h - n) + gz) * (z * (1 - z))
    u = concatenate([of_r, of_z, of_n], axis=-1)
    return u, concatenate([of_r, of_z, of_n * r], axis=-1), g * z


@op(_gru_pulled_back)
def _gru_gates(u, w, h):
    H = _side(h)
    if not _side(u) == _side(w) == 3 * H:
        raise ShapeError(
            f"gru_gates: u {described(u)}, w {described(w)}, h {described(h)}\n"
            "  expected: u and w (..., 3H), h (..., H)\n"
            "  hint: the blocks of u and w are r, z and n"
        )
    return backend_of(h).fused(_gru_gates_forward)(u, w, h)


def _gru_gates_forward(u, w, h):
    """h', and r, z, n."""
    H = h.shape[-1]
    rz = np.tanh(0.5 * (u[..., : 2 * H] + w[..., : 2 * H]))
    rz *= 0.5
    rz += 0.5
    r, z = rz[..., :H], rz[..., H:]
    n = np.tanh(u[..., 2 * H :] + r * w[..., 2 * H :])
    return n + z * (h - n), r, z, n
