"""Whole sequences in one operation each: an LSTM, a GRU and a simple recurrent net over time.

A step of a loop costs as much to record as to compute.  Here all steps are one operation, with a
VJP written out by hand.  Beside each stands the loop that defines it, which is what runs where
somebody has to see the steps; a law holds the two equal, to any order.

    x, outputs   (N, D), (N, H)   rows in packed order: sequences by decreasing length, first the
                                  first step of all, then the second of all that have one, ...
    h, c         (B, H)           initial and final states, in the order of the sequences
    weight_ih    (kH, D)          U, a block of H rows for each of k gates; its bias is (kH,)
    weight_hh    (kH, H)          W, the same

A buffer of B states begins as the initial ones.  A step of n sequences reads and writes the first n
of them; the others have ended or, where time runs backward, have not begun.  In the end it holds
the final states.  The way back is the mirror image, with a buffer of cotangents.  So nothing is
padded or masked, and both directions are one loop.

Three things make it fast.  ``U x + b`` of all steps is one product, and so is each cotangent of x,
U and W; only ``W h`` stays in the loop.  States stand there as columns, (H, n): BLAS multiplies
``W`` by few columns faster than few rows by ``W^T``, and each gate of ``W h`` (kH, n) is one block.
And a step allocates little: what it computes goes to where it is kept, or where others have been.

So it is on NumPy.  On a device ``cuda_layers`` stands in for the functions of arrays here,
``_lstm_forward`` and the like: the same algorithm, with one product and one kernel in a step.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from .arithmetic import relu, sigmoid, tanh
from .backend import backend_of, is_device_array
from .backward import cotangents_of
from .engine import TensorCore, leaf, op
from .fused import gru_gates, lstm_gates
from .linear import concatenate, reshape
from .products import OuterProduct
from .readout import affine
from .recording import is_recording, recording
from .tensor import Tensor

__all__ = [
    "Course",
    "elman",
    "elman_defined",
    "fits",
    "gru",
    "gru_defined",
    "lstm",
    "lstm_defined",
]

NONLINEARITIES = {"tanh": tanh, "relu": relu, "sigmoid": sigmoid}

# glibc gives memory back to the system when twice the largest block that was ever freed lies free,
# up to 64 MiB, and the next step has to ask for it page by page: for a third of its time, at worst.
# That ends with a block that is freed unused, so that not even its pages are touched.
np.empty(2**25 - 2**16, np.uint8)


class Course:
    """The steps of packed rows, ``counts[t]`` at time t, as one direction goes through them.

    ``steps`` are of each its rows, and how many they are.
    """

    def __init__(self, counts: Any, backward: bool) -> None:
        times = [slice(*ends) for ends in pairwise([0, *np.cumsum(counts).tolist()])]
        times = times[::-1] if backward else times
        self.steps = [(rows, rows.stop - rows.start) for rows in times]

    @cached_property
    def before(self) -> np.ndarray:
        """For each row, where the h before it is: among B initial ones and, after them, outputs."""
        counts = [n for _, n in self.steps]
        B, before = max(counts), np.empty(sum(counts), np.intp)
        buffer = np.arange(B)
        for rows, n in self.steps:
            before[rows] = buffer[:n]
            buffer[:n] = np.arange(B + rows.start, B + rows.stop)
        return before


def fits(*arguments: Any) -> bool:
    """Whether the payloads are such as the operations here take.

    These are arrays of one real dtype on one device; there, float32 or float64.
    """
    arrays = [getattr(x, "array", x) for x in arguments if x is not None]
    dtype = arrays[0].dtype
    if is_device_array(arrays[0]):
        return dtype.char in "fd" and all(is_device_array(x) and x.dtype == dtype for x in arrays)
    return dtype.kind == "f" and all(isinstance(x, np.ndarray) and x.dtype == dtype for x in arrays)


# ---- the definitions ---------------------------------------------------------------------------


def lstm_defined(x, weight_ih, weight_hh, bias, h, c, course):
    """``(outputs, h, c)`` of an LSTM: at each step ``lstm_gates(U x + b + W h, c)``."""
    return _over(
        course,
        lambda u, h, c: lstm_gates(u + h @ weight_hh.T, c),
        affine(x, weight_ih, bias),
        h,
        c,
    )


def gru_defined(x, weight_ih, weight_hh, bias_ih, bias_hh, h, course):
    """``(outputs, h)`` of a GRU: at each step ``gru_gates(U x + b_ih, W h + b_hh, h)``."""
    return _over(
        course,
        lambda u, h: (gru_gates(u, affine(h, weight_hh, bias_hh), h),),
        affine(x, weight_ih, bias_ih),
        h,
    )


def elman_defined(x, weight_ih, weight_hh, bias, h, course, nonlinearity="tanh"):
    """``(outputs, h)`` of a simple recurrent net: at each step ``f(U x + b + W h)``."""
    f = NONLINEARITIES[nonlinearity]
    return _over(course, lambda u, h: (f(u + h @ weight_hh.T),), affine(x, weight_ih, bias), h)


def _over(course, step, u, *states: Any):
    """The outputs and the final states of ``states = step(u, *states)`` over time."""
    outputs = {}
    for rows, n in course.steps:
        new = step(u[rows], *[state[:n] for state in states])
        outputs[rows.start] = new[0]
        states = tuple([concatenate([a, b[n:]]) for a, b in zip(new, states, strict=True)])
    return concatenate([outputs[start] for start in sorted(outputs)]), *states


def _is_for_the_definition(gs, x):
    """Whether cotangents are recorded, or are not of the dtype of the payload ``x``."""
    return not fits(x, *gs) or any(isinstance(g, TensorCore) for g in gs)


def _by_definition(defined, gs, arguments, *others):
    """The cotangents of ``arguments`` by way of the definition, recorded if the ``gs`` are Tensors.

    One argument may have been computed from another, so each gets a stand-in to end at.
    """
    recorded = any(isinstance(g, TensorCore) for g in gs)
    with recording(True):
        if recorded:
            ends = [reshape(x, x.shape) if hasattr(x, "node") else x for x in arguments]
        else:
            ends = [x if x is None else Tensor(x, leaf(x)) for x in arguments]
        ys = defined(*ends, *others)
        flowing = [i for i, g in enumerate(gs) if g is not None]
        wanted = [x for x in ends if getattr(x, "node", None) is not None]
        found = cotangents_of(
            [ys[i] for i in flowing], wanted, [gs[i] for i in flowing], create_graph=recorded
        )
    by_end = {id(x): g for x, g in zip(wanted, found, strict=True)}
    found = [by_end.get(id(x)) for x in ends]
    return found if recorded else [None if g is None else g.array for g in found]


# ---- what the three have in common -------------------------------------------------------------


def _is_tracked(*arguments):
    """Whether a cotangent will be wanted of one of them."""
    return is_recording() and any(getattr(x, "node", None) is not None for x in arguments)


def _columns(rows):
    """A copy of (B, H) as columns (H, B)."""
    return np.array(rows.T, order="C")


def _buffer(g, shape, dtype):
    """A cotangent (B, H) as columns, zeros if it is None."""
    return np.zeros(shape[::-1], dtype) if g is None else _columns(g)


def _projected(x, weight, bias):
    """``U x + b`` as columns (kH, N)."""
    u = weight @ x.T
    if bias is not None:
        u += bias[:, None]
    return u


# An array, as NumPy spends longer on what to make of a number than on as few products as are here.
_HALF = {np.dtype(kind): np.array(0.5, kind) for kind in np.typecodes["Float"]}


def _sigmoid(a):
    """``sigmoid(a) = (tanh(a / 2) + 1) / 2`` in place."""
    half = _HALF[a.dtype]
    a *= half
    np.tanh(a, out=a)
    a *= half
    a += half


def _swept(step, course, g_outputs, of_h, x, weight_ih, outputs, h, x_is_tracked):
    """The cotangents of x, of U x and W h at each step, with the h before, and of the biases.

    ``of_h`` becomes the cotangent of the initial h.  ``step(rows, dh)`` is given the cotangent of
    the h that a step makes, (H, n); it puts that of the h before in its place, and returns those of
    U x and of W h, (kH, n) each.
    """
    N, dtype = len(x), x.dtype
    before = np.concatenate([h, outputs])[course.before]
    du = dw = np.empty((len(weight_ih), N), dtype)  # one, while the two cotangents are the same
    for rows, n in reversed(course.steps):
        dh = of_h[:, :n]
        if g_outputs is not None:
            dh += g_outputs[rows].T
        of_u, of_w = step(rows, dh)
        du[:, rows] = of_u
        if of_w is not of_u:
            dw = np.empty_like(du) if dw is du else dw
            dw[:, rows] = of_w
    g_x = du.T @ weight_ih if x_is_tracked else None
    ones = np.ones(N, dtype)  # a product adds up faster than a sum
    of_bias = du @ ones
    of_biases = of_bias, of_bias if dw is du else dw @ ones
    return g_x, du.T, dw.T, before, *of_biases


def _of_weights(x, found):
    """What a way back has found, with the cotangents of U and of W as outer products."""
    g_x, du, dw, before, *others = found
    return g_x, OuterProduct(du, x), OuterProduct(dw, before), *others


# ---- LSTM --------------------------------------------------------------------------------------


def lstm(x, weight_ih, weight_hh, bias, h, c, course):
    """What ``lstm_defined`` gives, in one operation."""
    arguments = (x, weight_ih, weight_hh, bias, h, c)
    if not fits(*arguments):
        return lstm_defined(*arguments, course)
    return _lstm(*arguments, course, _is_tracked(*arguments), _is_tracked(x))[:3]


def _lstm_pulled_back(gs, y, x, weight_ih, weight_hh, bias, h, c, course, x_is_tracked):
    if _is_for_the_definition(gs, x):
        arguments = (x, weight_ih, weight_hh, bias, h, c)
        return (*_by_definition(lstm_defined, gs[:3], arguments, course), None, None, None)
    back = backend_of(x).fused(_lstm_backward)
    outputs, _, _, kept = y
    found = back(*gs[:3], outputs, kept, x, weight_ih, weight_hh, h, course, x_is_tracked)
    return *_of_weights(x, found), None, None, None


def _lstm_backward(
    g_outputs, g_h, g_c, outputs, kept, x, weight_ih, weight_hh, h, course, x_is_tracked
):
    """From h' = o t, t = tanh(c'), c' = f c + i g, last step first.

    do   = dh' t            dc' += dh' o (1 - t^2)
    di   = dc' g            df   = dc' c            dg = dc' i            dc = dc' f
    da_s = ds s (1 - s)     da_g = dg (1 - g^2)     dh = W^T da           for s = i, f, o
    """
    (_, H), W_T = h.shape, weight_hh.T
    of_h, of_c = _buffer(g_h, h.shape, x.dtype), _buffer(g_c, h.shape, x.dtype)
    room, one = np.empty(8 * h.size, x.dtype), np.array(1, x.dtype)

    def step(rows, dh):
        n = dh.shape[1]
        block = kept[6 * H * rows.start : 6 * H * rows.stop].reshape(6, H, n)
        i, f, g, o, before, t = block
        of_a, slopes = room[: 8 * H * n].reshape(2, 4, H, n)
        (di, df, dg, do), slope = of_a, slopes[0]
        dc = of_c[:, :n]
        np.multiply(dh, t, out=do)
        np.multiply(t, t, out=slope)
        np.subtract(one, slope, out=slope)
        slope *= o
        slope *= dh
        dc += slope
        np.multiply(dc, g, out=di)
        np.multiply(dc, before, out=df)
        np.multiply(dc, i, out=dg)
        dc *= f
        np.subtract(one, block[:4], out=slopes)  # of a sigmoid s: s (1 - s)
        slopes *= block[:4]
        np.multiply(g, g, out=slopes[2])  # of a tanh g: 1 - g^2
        np.subtract(one, slopes[2], out=slopes[2])
        of_a *= slopes
        of_a = of_a.reshape(4 * H, n)
        np.matmul(W_T, of_a, out=dh)
        return of_a, of_a

    found = _swept(step, course, g_outputs, of_h, x, weight_ih, outputs, h, x_is_tracked)
    return *found[:5], of_h.T, of_c.T


@op(_lstm_pulled_back)
def _lstm(x, weight_ih, weight_hh, bias, h, c, course, keeps, x_is_tracked):
    forward = backend_of(x).fused(_lstm_forward)
    return forward(x, weight_ih, weight_hh, bias, h, c, course, keeps)


def _lstm_forward(x, weight_ih, weight_hh, bias, h, c, course, keeps):
    """Outputs, h, c; and of each step i, f, g, o, the c before, and tanh(c'), (6, H, n).

    These are a result so that the VJP can read them; unless ``keeps``, nobody will.
    """
    (B, H), N, dtype = h.shape, len(x), x.dtype
    u, h, c = _projected(x, weight_ih, bias), _columns(h), _columns(c)
    outputs = np.empty((N, H), dtype)
    kept = np.empty(6 * H * (N if keeps else B), dtype)
    for rows, n in course.steps:
        start = 6 * H * rows.start * keeps  # or each step writes over the one before
        block = kept[start : start + 6 * H * n].reshape(6, H, n)
        i, f, g, o, before, t = block
        a = block[:4].reshape(4 * H, n)
        mine_h, mine_c = h[:, :n], c[:, :n]
        np.matmul(weight_hh, mine_h, out=a)
        a += u[:, rows]
        _sigmoid(block[:2])
        np.tanh(g, out=g)
        _sigmoid(o)
        before[...] = mine_c
        mine_c *= f
        np.multiply(i, g, out=t)
        mine_c += t
        np.tanh(mine_c, out=t)
        np.multiply(o, t, out=mine_h)
        outputs[rows] = mine_h.T
    return outputs, h.T, c.T, kept if keeps else kept[:0].copy()


# ---- GRU ---------------------------------------------------------------------------------------


def gru(x, weight_ih, weight_hh, bias_ih, bias_hh, h, course):
    """What ``gru_defined`` gives, in one operation."""
    arguments = (x, weight_ih, weight_hh, bias_ih, bias_hh, h)
    if not fits(*arguments):
        return gru_defined(*arguments, course)
    return _gru(*arguments, course, _is_tracked(*arguments), _is_tracked(x))[:2]


def _gru_pulled_back(gs, y, x, weight_ih, weight_hh, bias_ih, bias_hh, h, course, x_is_tracked):
    if _is_for_the_definition(gs, x):
        arguments = (x, weight_ih, weight_hh, bias_ih, bias_hh, h)
        return (*_by_definition(gru_defined, gs[:2], arguments, course), None, None, None)
    back = backend_of(x).fused(_gru_backward)
    outputs, _, kept = y
    found = back(*gs[:2], outputs, kept, x, weight_ih, weight_hh, h, course, x_is_tracked)
    return *_of_weights(x, found), None, None, None


def _gru_backward(g_outputs, g_h, outputs, kept, x, weight_ih, weight_hh, h, course, x_is_tracked):
    """From h' = n + z (h - n), n = tanh(u_n + r w_n), last step first.

    dz   = dh' (h - n)      du_n = dh' (1 - z) (1 - n^2)
    dr   = du_n w_n         dw_n = du_n r
    da_s = ds s (1 - s)     dh   = dh' z + W^T dw           for s = r, z, and so in du and dw
    """
    (_, H), W_T = h.shape, weight_hh.T
    of_h = _buffer(g_h, h.shape, x.dtype)
    room, one = np.empty(9 * h.size, x.dtype), np.array(1, x.dtype)

    def step(rows, dh):
        n = dh.shape[1]
        block = kept[5 * H * rows.start : 5 * H * rows.stop].reshape(5, H, n)
        r, z, w, offer, before = block
        of_u, of_w, slopes = room[: 9 * H * n].reshape(3, 3, H, n)
        (dr, dz, dn), slope = of_u, slopes[2]
        np.subtract(before, offer, out=dz)
        dz *= dh
        np.subtract(one, z, out=dn)
        dn *= dh
        np.multiply(offer, offer, out=slope)
        np.subtract(one, slope, out=slope)
        dn *= slope
        np.multiply(dn, w, out=dr)
        np.subtract(one, block[:2], out=slopes[:2])
        slopes[:2] *= block[:2]
        of_u[:2] *= slopes[:2]
        of_w[:2] = of_u[:2]
        np.multiply(dn, r, out=of_w[2])
        dh *= z
        of_u, of_w = of_u.reshape(3 * H, n), of_w.reshape(3 * H, n)
        dh += np.matmul(W_T, of_w, out=slope)
        return of_u, of_w

    found = _swept(step, course, g_outputs, of_h, x, weight_ih, outputs, h, x_is_tracked)
    return *found, of_h.T


@op(_gru_pulled_back)
def _gru(x, weight_ih, weight_hh, bias_ih, bias_hh, h, course, keeps, x_is_tracked):
    forward = backend_of(x).fused(_gru_forward)
    return forward(x, weight_ih, weight_hh, bias_ih, bias_hh, h, course, keeps)


def _gru_forward(x, weight_ih, weight_hh, bias_ih, bias_hh, h, course, keeps):
    """Outputs, h; and of each step r, z, W_n h + b_hn, the gate n, and the h before, (5, H, n).

    The gate is what the step has to offer, ``offer``: n counts sequences.
    """
    (B, H), N, dtype = h.shape, len(x), x.dtype
    u, h = _projected(x, weight_ih, bias_ih), _columns(h)
    outputs = np.empty((N, H), dtype)
    kept = np.empty(5 * H * (N if keeps else B), dtype)
    for rows, n in course.steps:
        start = 5 * H * rows.start * keeps
        block = kept[start : start + 5 * H * n].reshape(5, H, n)
        r, z, w, offer, before = block
        rz, rzw = block[:2].reshape(2 * H, n), block[:3].reshape(3 * H, n)
        mine = h[:, :n]
        np.matmul(weight_hh, mine, out=rzw)
        if bias_hh is not None:
            rzw += bias_hh[:, None]
        rz += u[: 2 * H, rows]
        _sigmoid(rz)
        np.multiply(r, w, out=offer)
        offer += u[2 * H :, rows]
        np.tanh(offer, out=offer)
        before[...] = mine
        mine -= offer
        mine *= z
        mine += offer
        outputs[rows] = mine.T
    return outputs, h.T, kept if keeps else kept[:0].copy()


# ---- the simple recurrent net ------------------------------------------------------------------


def elman(x, weight_ih, weight_hh, bias, h, course, nonlinearity="tanh"):
    """What ``elman_defined`` gives, in one operation."""
    arguments = (x, weight_ih, weight_hh, bias, h)
    if not fits(*arguments):
        return elman_defined(*arguments, course, nonlinearity)
    return _elman(*arguments, course, nonlinearity, _is_tracked(x))


def _squash(a, nonlinearity):
    """f(a), in its place."""
    if nonlinearity == "sigmoid":
        _sigmoid(a)
    elif nonlinearity == "tanh":
        np.tanh(a, out=a)
    elif nonlinearity == "relu":
        np.maximum(a, 0, out=a)
    else:
        raise KeyError(nonlinearity)  # one that was set since the cell was made


def _slope(y, nonlinearity):
    """The slope of f where its value is y."""
    if nonlinearity == "relu":
        return y > 0  # y * y could overflow
    return 1 - y * y if nonlinearity == "tanh" else y * (1 - y)


def _elman_pulled_back(gs, y, x, weight_ih, weight_hh, bias, h, course, nonlinearity, x_is_tracked):
    if _is_for_the_definition(gs, x):
        arguments = (x, weight_ih, weight_hh, bias, h)
        found = _by_definition(elman_defined, gs, arguments, course, nonlinearity)
        return (*found, None, None, None)
    back = backend_of(x).fused(_elman_backward)
    found = back(*gs, y[0], x, weight_ih, weight_hh, h, course, nonlinearity, x_is_tracked)
    return *_of_weights(x, found), None, None, None


def _elman_backward(
    g_outputs, g_h, outputs, x, weight_ih, weight_hh, h, course, nonlinearity, x_is_tracked
):
    """From h' = f(a), last step first."""
    W_T = weight_hh.T
    of_h = _buffer(g_h, h.shape, x.dtype)

    def step(rows, dh):
        of_a = dh * _slope(outputs[rows].T, nonlinearity)
        np.matmul(W_T, of_a, out=dh)
        return of_a, of_a

    found = _swept(step, course, g_outputs, of_h, x, weight_ih, outputs, h, x_is_tracked)
    return *found[:5], of_h.T


@op(_elman_pulled_back)
def _elman(x, weight_ih, weight_hh, bias, h, course, nonlinearity, x_is_tracked):
    forward = backend_of(x).fused(_elman_forward)
    return forward(x, weight_ih, weight_hh, bias, h, course, nonlinearity)


def _elman_forward(x, weight_ih, weight_hh, bias, h, course, nonlinearity):
    """Outputs, h."""
    u, h = _projected(x, weight_ih, bias), _columns(h)
    outputs = np.empty((len(x), len(h)), x.dtype)
    room = np.empty(h.size, x.dtype)
    for rows, n in course.steps:
        a = room[: len(h) * n].reshape(len(h), n)
        np.matmul(weight_hh, h[:, :n], out=a)
        a += u[:, rows]
        _squash(a, nonlinearity)
        h[:, :n] = a
        outputs[rows] = a.T
    return outputs, h.T
