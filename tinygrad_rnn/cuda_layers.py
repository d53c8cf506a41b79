"""Whole layers on a GPU: the algorithm of ``sequences``, with one product and one kernel in a step.

States stand as rows, (B, H), so that what a step reads and writes is in one piece: rows ``start``
to ``start + n`` of x, outputs and whatever has a row for each, and the first n rows of the buffers
of B states.  A kernel is given whole arrays, ``start`` and H.  ``at`` counts the n H units of a
step, which is their place in such a buffer; ``here`` is that among all N H, (N, H).

Where a step of NumPy's squashes its gates in place, so does a kernel, in the place of U x + b.
Nothing in a loop is uploaded or waited for.
"""

from __future__ import annotations

import numpy as np

from . import sequences
from .backend import backend_of
from .cuda import (
    GRU_FORMULA,
    GRU_SLOPES,
    Kernel,
    empty,
    in_place_of,
    lstm_formula,
    lstm_slopes,
    packed,
)

# ---- what the three have in common -------------------------------------------------------------

PLACE = """
    const index b = at / H, j = at % H, row = start + b, here = row * H + j;"""


FACTORS = {char: np.array([0, 1], char) for char in "fd"}
"""The factors of products, where cuBLAS finds them: by their addresses."""


def projected(x, weight, bias, u):
    """``U x + b`` into ``u`` (N, kH)."""
    np.matmul(x, weight.T, out=u)
    if bias is not None:
        u += bias


def parts(kept, k, N, H):
    """Of what is kept, what has k and one and one blocks of (N, H); None for one that has not."""
    u, one, other = (kept[a * N * H : b * N * H] for a, b in [(0, k), (k, k + 1), (k + 1, k + 2)])
    return u.reshape(N, k * H), one if one.size else None, other if other.size else None


def buffer(g, like):
    """A copy of the cotangent ``g``, to be written to; zeros if it is None."""
    return np.zeros_like(like, order="C") if g is None else g.copy()


def product(weight, transposed=False, beta=0):
    """``f(a, i, c, j, n)`` puts ``a[i : i + n] W + beta c[j : j + n]`` there, for rows of a and c.

    W^T instead of W if ``transposed``.  It is cuBLAS's own function, which has every matrix stored
    column by column, the transpose of ours: a call costs the host a fifth of what ``matmul`` and
    views for it do.
    """
    from cupy.cuda.device import get_cublas_handle
    from cupy_backends.cuda.libs import cublas

    weight, size = packed(weight), weight.itemsize
    rows, columns = weight.shape
    M, K = (rows, columns) if transposed else (columns, rows)
    gemm, handle = (cublas.sgemm if size == 4 else cublas.dgemm), get_cublas_handle()
    zero, one = (FACTORS[weight.dtype.char].ctypes.data + i * size for i in (0, 1))
    scale = one if beta else zero

    def call(a, i, c, j, n):
        a, c = a.data.ptr + i * K * size, c.data.ptr + j * M * size
        W = weight.data.ptr
        gemm(handle, int(transposed), 0, M, n, K, one, W, columns, a, K, scale, c, M)

    return call


def swept(step, course, dw, of_h, weight_hh, beta=0):
    """Go back through the steps: ``of_h`` becomes the cotangent of the initial h.

    ``step(start, n)`` reads that of the h that a step makes, and writes those of U x and of W h;
    what it leaves in the place of the first counts ``beta`` times.
    """
    back = product(weight_hh, beta=beta)
    for rows, n in reversed(course.steps):
        step(rows.start, n)
        back(dw, rows.start, of_h, 0, n)


def found(du, dw, x, weight_ih, outputs, h, course, x_is_tracked):
    """The cotangent of x; those of U x and W h, with the h before each step; those of biases."""
    before = np.concatenate([h, outputs])[backend_of(x).kept(course.before)]
    of_bias = du.sum(0)
    of_biases = of_bias, of_bias if dw is du else dw.sum(0)
    return du @ weight_ih if x_is_tracked else None, du, dw, before, *of_biases


# ---- LSTM --------------------------------------------------------------------------------------

LSTM_PLACES = f"""{PLACE}
    #define A(k) u[(row * 4 + k) * H + j]
    #define S(k) u[(row * 4 + k) * H + j]
    #define DA(k) da[(row * 4 + k) * H + j]"""

LSTM_STEP = Kernel(
    "lstm_step",
    "index start, index H, T* u, T* states_h, T* states_c, T* outputs, T* before, T* tanh_c",
    f"""{LSTM_PLACES}
    const T c_1 = states_c[at];{lstm_formula(1)}
    if (before) {{ before[here] = c_1; tanh_c[here] = t; }}
    states_c[at] = c; states_h[at] = outputs[here] = o * t;
""",
)

LSTM_STEP_BACK = Kernel(
    "lstm_step_back",
    "index start, index H, const T* u, const T* before, const T* tanh_c, const T* g_outputs,"
    " const T* of_h, T* of_c, T* da",
    f"""{LSTM_PLACES}
    const T c_1 = before[here], t = tanh_c[here], dc_others = of_c[at];
    const T dh = of_h[at] + (g_outputs ? g_outputs[here] : T(0));{lstm_slopes(1)}
    of_c[at] = dc * f_1;
""",
)


@in_place_of(sequences._lstm_forward)
def _lstm_forward(x, weight_ih, weight_hh, bias, h, c, course, keeps):
    """Outputs, h, c; and of all rows i, f, g, o, (N, 4H), the c before, and tanh(c')."""
    (_, H), N, dtype = h.shape, len(x), x.dtype
    h, c, outputs = h.copy(), c.copy(), empty((N, H), dtype)
    kept = empty((6 if keeps else 4) * N * H, dtype)
    u, before, t = parts(kept, 4, N, H)
    projected(x, weight_ih, bias, u)
    add_Wh = product(weight_hh, transposed=True, beta=1)
    for rows, n in course.steps:
        add_Wh(h, 0, u, rows.start, n)
        LSTM_STEP(dtype, n * H, rows.start, H, u, h, c, outputs, before, t)
    return outputs, h, c, kept if keeps else empty(0, dtype)


@in_place_of(sequences._lstm_backward)
def _lstm_backward(
    g_outputs, g_h, g_c, outputs, kept, x, weight_ih, weight_hh, h, course, x_is_tracked
):
    (_, H), N, dtype = h.shape, len(x), x.dtype
    u, before, t = parts(kept, 4, N, H)
    of_h, of_c, g_outputs = buffer(g_h, h), buffer(g_c, h), packed(g_outputs)
    da = empty(u.shape, dtype)

    def step(start, n):
        LSTM_STEP_BACK(dtype, n * H, start, H, u, before, t, g_outputs, of_h, of_c, da)

    swept(step, course, da, of_h, weight_hh)
    cotangents = found(da, da, x, weight_ih, outputs, h, course, x_is_tracked)
    return *cotangents[:5], of_h, of_c


# ---- GRU ---------------------------------------------------------------------------------------

GRU_PLACES = f"""{PLACE}
    #define U(k) u[(row * 3 + k) * H + j]
    #define DU(k) du[(row * 3 + k) * H + j]
    #define DW(k) dw[(row * 3 + k) * H + j]"""

GRU_STEP = Kernel(
    "gru_step",
    "index start, index H, T* u, const T* w, const T* bias, T* states, T* outputs, T* before,"
    " T* w_n_",
    f"""{GRU_PLACES}
    #define W(k) (w[(b * 3 + k) * H + j] + (bias ? bias[k * H + j] : T(0)))
    const T h = states[at];{GRU_FORMULA}
    if (before) {{
        U(0) = r; U(1) = z; U(2) = n;
        before[here] = h; w_n_[here] = w_n;
    }}
    states[at] = outputs[here] = n + z * (h - n);
""",
)

GRU_STEP_BACK = Kernel(
    "gru_step_back",
    "index start, index H, const T* u, const T* before, const T* w_n_, const T* g_outputs,"
    " T* of_h, T* du, T* dw",
    f"""{GRU_PLACES}
    const T r = U(0), z = U(1), n = U(2), h = before[here], w_n = w_n_[here];
    const T dh = of_h[at] + (g_outputs ? g_outputs[here] : T(0));{GRU_SLOPES}
    of_h[at] = dh * z;
""",
)


@in_place_of(sequences._gru_forward)
def _gru_forward(x, weight_ih, weight_hh, bias_ih, bias_hh, h, course, keeps):
    """Outputs, h; and of all rows r, z, n, (N, 3H), the h before, and W_n h + b_hn."""
    (B, H), N, dtype = h.shape, len(x), x.dtype
    h, bias_hh = h.copy(), packed(bias_hh)
    outputs, w = empty((N, H), dtype), empty((B, 3 * H), dtype)
    kept = empty((5 if keeps else 3) * N * H, dtype)
    u, before, w_n = parts(kept, 3, N, H)
    projected(x, weight_ih, bias_ih, u)
    Wh = product(weight_hh, transposed=True)
    for rows, n in course.steps:
        Wh(h, 0, w, 0, n)
        GRU_STEP(dtype, n * H, rows.start, H, u, w, bias_hh, h, outputs, before, w_n)
    return outputs, h, kept if keeps else empty(0, dtype)


@in_place_of(sequences._gru_backward)
def _gru_backward(g_outputs, g_h, outputs, kept, x, weight_ih, weight_hh, h, course, x_is_tracked):
    (_, H), N, dtype = h.shape, len(x), x.dtype
    u, before, w_n = parts(kept, 3, N, H)
    of_h, g_outputs = buffer(g_h, h), packed(g_outputs)
    du, dw = empty(u.shape, dtype), empty(u.shape, dtype)

    def step(start, n):
        GRU_STEP_BACK(dtype, n * H, start, H, u, before, w_n, g_outputs, of_h, du, dw)

    swept(step, course, dw, of_h, weight_hh, beta=1)
    return *found(du, dw, x, weight_ih, outputs, h, course, x_is_tracked), of_h


# ---- the simple recurrent net ------------------------------------------------------------------

ELMAN = {
    "tanh": ("tanh(a)", "1 - y * y"),
    "relu": ("a > 0 || a != a ? a : T(0)", "y > 0 ? T(1) : T(0)"),
    "sigmoid": ("sigmoid(a)", "y * (1 - y)"),
}
"""f(a), and its slope where f(a) is y."""

ELMAN_STEPS = {
    name: Kernel(
        f"elman_step_{name}",
        "index start, index H, const T* a_, T* states, T* outputs",
        f"""{PLACE}
    const T a = a_[here];
    states[at] = outputs[here] = {f};
""",
    )
    for name, (f, _) in ELMAN.items()
}

ELMAN_STEPS_BACK = {
    name: Kernel(
        f"elman_step_back_{name}",
        "index start, index H, const T* outputs, const T* g_outputs, const T* of_h, T* da",
        f"""{PLACE}
    const T y = outputs[here];
    const T dh = of_h[at] + (g_outputs ? g_outputs[here] : T(0));
    da[here] = dh * ({slope});
""",
    )
    for name, (_, slope) in ELMAN.items()
}


@in_place_of(sequences._elman_forward)
def _elman_forward(x, weight_ih, weight_hh, bias, h, course, nonlinearity):
    (_, H), N, dtype = h.shape, len(x), x.dtype
    h, outputs, u = h.copy(), empty((N, H), dtype), empty((N, H), dtype)
    projected(x, weight_ih, bias, u)
    add_Wh = product(weight_hh, transposed=True, beta=1)
    for rows, n in course.steps:
        add_Wh(h, 0, u, rows.start, n)
        ELMAN_STEPS[nonlinearity](dtype, n * H, rows.start, H, u, h, outputs)
    return outputs, h


@in_place_of(sequences._elman_backward)
def _elman_backward(
    g_outputs, g_h, outputs, x, weight_ih, weight_hh, h, course, nonlinearity, x_is_tracked
):
    (_, H), dtype = h.shape, x.dtype
    of_h, da = buffer(g_h, h), empty(outputs.shape, dtype)
    outputs, g_outputs = packed(outputs), packed(g_outputs)

    def step(start, n):
        kernel = ELMAN_STEPS_BACK[nonlinearity]
        kernel(dtype, n * H, start, H, outputs, g_outputs, of_h, da)

    swept(step, course, da, of_h, weight_hh)
    cotangents = found(da, da, x, weight_ih, outputs, h, course, x_is_tracked)
    return *cotangents[:5], of_h
