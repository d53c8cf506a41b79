"""Kernels for a GPU: each function does in one launch what the body of its name does on NumPy.

A body stands beside its VJP and its definition, in ``fused``, ``readout`` or ``backend``, and is
the text to read first; a law holds the two equal.  A kernel is for payloads of one dtype, float32
or float64.  Whatever else comes, complex numbers, float16, two dtypes, ``in_place_of(body)`` leaves
to the body, whose calls of NumPy dispatch on the arrays.

All are ``RawKernel``s, of which a call costs the host 2 us, and get whole arrays, in which they
find their places: each view would cost as much again.  They read rows without gaps, so arrays in
other layouts are copied first.  One text, in which ``T`` is the dtype, serves both; it is compiled
when it is first called for, and nothing here needs CuPy before.  Indices have 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import numpy as np

from . import backend, fused, readout

__all__ = ["Kernel", "empty", "in_place_of", "packed"]

TYPES = {"f": "float", "d": "double"}
"""What C calls the dtypes that kernels are made for."""

THREADS = 256
"""How many threads a block has."""

HEADER = """
typedef {T} T;
typedef long long index;
enum {{ THREADS = {threads} }};
__device__ T sigmoid(T a) {{ return (tanh(a / 2) + 1) / 2; }}
__device__ T larger(T a, T b) {{ return a < b || b != b ? b : a; }}  // NaN if there is one
__device__ index within(index id, index n) {{ return (id % n + n) % n; }}  // -1 is n - 1
"""

AT = """
    const index at = blockIdx.x * (index)blockDim.x + threadIdx.x;
    if (at >= size) return;"""


@cache
def compiled(name: str, parameters: str, text: str, T: str) -> Any:
    """The kernel of this C text."""
    from cupy import RawKernel

    signature = f'extern "C" __global__ void {name}({parameters})'
    return RawKernel(f"{HEADER.format(T=T, threads=THREADS)}{signature} {{{text}}}\n", name)


class Kernel:
    """C text that is run for each ``at`` from 0 to ``size - 1``, by a thread of its own."""

    def __init__(self, name: str, parameters: str, text: str) -> None:
        self.name, self.parameters, self.text = name, f"index size, {parameters}", f"{AT}{text}"

    def __call__(self, dtype: Any, size: int, *arguments: Any) -> None:
        """Run it; an array that there is not is 0, a pointer to nothing."""
        self.launch(dtype, -(-size // THREADS), size, *arguments)

    def launch(self, dtype: Any, blocks: int, *arguments: Any) -> None:
        """Run so many blocks of threads."""
        if blocks:
            arguments = tuple([0 if x is None else x for x in arguments])
            made = compiled(self.name, self.parameters, self.text, TYPES[dtype.char])
            made((blocks,), (THREADS,), arguments)


class RowKernel(Kernel):
    """C text that is run by a block of threads for each of ``rows`` rows."""

    def __init__(self, name: str, parameters: str, text: str) -> None:
        self.name, self.parameters, self.text = name, parameters, text

    def __call__(self, dtype: Any, rows: int, *arguments: Any) -> None:
        self.launch(dtype, rows, *arguments)


def in_place_of(body: Callable) -> Callable:
    """A function with a kernel, for payloads of one dtype that has kernels; ``body`` for others.

    An array of the host, whose address means nothing on the device, is for the body to refuse.
    """

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def call(*arguments: Any) -> Any:
            arrays = [x for x in arguments if hasattr(x, "dtype")]
            chars = {x.dtype.char for x in arrays if x.dtype.kind in "fc"}
            fit = len(chars) == 1 and chars <= TYPES.keys()
            fit = fit and not any(isinstance(x, np.ndarray) for x in arrays)
            return function(*arguments) if fit else body(*arguments)

        call.body = body  # type: ignore[attr-defined]
        return call

    return decorate


def empty(shape: Any, dtype: Any) -> Any:
    """An array of no values in particular."""
    from cupy import empty

    return empty(shape, dtype)


def packed(x: Any) -> Any:
    """``x`` in rows without gaps; None if there is none."""
    return x if x is None or x.flags.c_contiguous else x.copy()


def as_index(ids: Any) -> Any:
    """Ids as kernels read them."""
    return packed(ids.astype(np.int64, copy=False))


# ---- the gates of an LSTM ----------------------------------------------------------------------

# What the kernels of gates and of whole layers share.  A(k) is block k of the gates before they
# are squashed, S(k) of the squashed ones, DA(k) of the cotangents.


def each(text: str, N: int, between: str = " ") -> str:
    """``text`` for each of N memories; @ stands for its number, from 1."""
    return between.join(text.replace("@", str(k)) for k in range(1, N + 1))


def lstm_formula(N: int) -> str:
    """Gates i, f_1 .. f_N, g, o; and c', t = tanh(c'), of memories c_1 .. c_N."""
    return f"""
    const T i = sigmoid(A(0)), g = tanh(A({N + 1})), o = sigmoid(A({N + 2}));
    {each("const T f_@ = sigmoid(A(@));", N)}
    const T c = i * g {each("+ f_@ * c_@", N)}, t = tanh(c);
    S(0) = i; {each("S(@) = f_@;", N)} S({N + 1}) = g; S({N + 2}) = o;"""


def lstm_slopes(N: int) -> str:
    """The cotangents of what ``lstm_formula`` reads, from dh' and from dc' by way of the others."""
    return f"""
    const T i = S(0), g = S({N + 1}), o = S({N + 2});
    {each("const T f_@ = S(@);", N)}
    const T dc = dc_others + dh * o * (1 - t * t);
    DA(0) = dc * g * (i * (1 - i));
    {each("DA(@) = dc * c_@ * (f_@ * (1 - f_@));", N)}
    DA({N + 1}) = dc * i * (1 - g * g);
    DA({N + 2}) = dh * t * (o * (1 - o));"""


@cache
def lstm_gates_kernels(N: int) -> tuple[Kernel, Kernel]:
    """The kernels, forward and backward, for N memories."""
    memories = each("const T* memory_@,", N)
    first = f"""
    const index first = at / H * {N + 3} * H + at % H;  // of the row, in block 0
    {each("const T c_@ = memory_@[at];", N)}
    #define A(k) a[first + (k) * H]
    #define S(k) gates[first + (k) * H]
    #define DA(k) da[first + (k) * H]"""
    forward = Kernel(
        f"lstm_gates_forward_{N}",
        f"index H, const T* a, {memories} T* new_h, T* new_c, T* gates, T* tanh_c",
        f"""{first}{lstm_formula(N)}
    new_h[at] = o * t; new_c[at] = c; tanh_c[at] = t;
""",
    )
    backward = Kernel(
        f"lstm_gates_backward_{N}",
        f"index H, const T* gh, const T* gc, const T* gates, const T* tanh_c, {memories} T* da"
        + each(", T* dc_@", N, ""),
        f"""{first}
    const T t = tanh_c[at], dh = gh ? gh[at] : T(0), dc_others = gc ? gc[at] : T(0);
    {lstm_slopes(N)}
    {each("dc_@[at] = dc * f_@;", N)}
""",
    )
    return forward, backward


@in_place_of(fused._lstm_gates_forward)
def _lstm_gates_forward(a, *cs):
    H = a.shape[-1] // (len(cs) + 3)
    shape = (*a.shape[:-1], H)
    if any(c.shape != shape for c in cs):  # they are broadcast
        return fused._lstm_gates_forward(a, *cs)
    h, c, t = (empty(shape, a.dtype) for _ in range(3))
    gates, kernel = empty(a.shape, a.dtype), lstm_gates_kernels(len(cs))[0]
    kernel(a.dtype, h.size, H, packed(a), *map(packed, cs), h, c, gates, t)
    return h, c, gates, t


@in_place_of(fused._lstm_gates_backward)
def _lstm_gates_backward(gh, gc, gates, t, *cs):
    if any(c.shape != t.shape for c in cs):
        return fused._lstm_gates_backward(gh, gc, gates, t, *cs)
    da, dcs = empty(gates.shape, t.dtype), [empty(t.shape, t.dtype) for _ in cs]
    arguments = map(packed, (gh, gc, gates, t, *cs))
    lstm_gates_kernels(len(cs))[1](t.dtype, t.size, t.shape[-1], *arguments, da, *dcs)
    return da, *dcs


# ---- the gates of a GRU ------------------------------------------------------------------------

# U(k) and W(k) are block k of what the input and the state say, DU(k) and DW(k) their cotangents.

GRU_FORMULA = """
    const T r = sigmoid(U(0) + W(0)), z = sigmoid(U(1) + W(1)), w_n = W(2);
    const T n = tanh(U(2) + r * w_n);"""

GRU_SLOPES = """
    const T du_n = dh * (1 - z) * (1 - n * n);
    DU(0) = DW(0) = du_n * w_n * (r * (1 - r));
    DU(1) = DW(1) = dh * (h - n) * (z * (1 - z));
    DU(2) = du_n; DW(2) = du_n * r;"""

GRU_BLOCKS = """
    const index first = at / H * 3 * H + at % H;  // of the row, in block 0
    #define U(k) u[first + (k) * H]
    #define W(k) w[first + (k) * H]
    #define DU(k) du[first + (k) * H]
    #define DW(k) dw[first + (k) * H]"""

GRU_GATES_FORWARD = Kernel(
    "gru_gates_forward",
    "index H, const T* u, const T* w, const T* old_h, T* new_h, T* r_, T* z_, T* n_",
    f"""{GRU_BLOCKS}{GRU_FORMULA}
    new_h[at] = n + z * (old_h[at] - n); r_[at] = r; z_[at] = z; n_[at] = n;
""",
)

GRU_GATES_BACKWARD = Kernel(
    "gru_gates_backward",
    "index H, const T* g, const T* r_, const T* z_, const T* n_, const T* w, const T* old_h,"
    " T* du, T* dw, T* dh_",
    f"""{GRU_BLOCKS}
    const T dh = g ? g[at] : T(0), h = old_h[at];
    const T r = r_[at], z = z_[at], n = n_[at], w_n = W(2);{GRU_SLOPES}
    dh_[at] = dh * z;
""",
)


@in_place_of(fused._gru_gates_forward)
def _gru_gates_forward(u, w, h):
    if not u.shape == w.shape == (*h.shape[:-1], 3 * h.shape[-1]):
        return fused._gru_gates_forward(u, w, h)
    new = [empty(h.shape, h.dtype) for _ in range(4)]
    GRU_GATES_FORWARD(h.dtype, h.size, h.shape[-1], *map(packed, (u, w, h)), *new)
    return tuple(new)


@in_place_of(fused._gru_gates_backward)
def _gru_gates_backward(g, r, z, n, w, h):
    if not (n.shape == h.shape and w.shape == (*h.shape[:-1], 3 * h.shape[-1])):
        return fused._gru_gates_backward(g, r, z, n, w, h)
    du, dw, dh = empty(w.shape, w.dtype), empty(w.shape, w.dtype), empty(h.shape, h.dtype)
    arguments = map(packed, (g, r, z, n, w, h))
    GRU_GATES_BACKWARD(h.dtype, h.size, h.shape[-1], *arguments, du, dw, dh)
    return du, dw, dh


# ---- the loss of scores ------------------------------------------------------------------------

LOSSES_FORWARD = RowKernel(
    "losses_forward",
    "index V, const T* x, const index* ids, T* losses, T* tops, T* sums",
    """
    __shared__ T parts[THREADS];
    const index row = blockIdx.x;
    const T* scores = x + row * V;
    const int me = threadIdx.x;

    T top = scores[0];
    for (index k = me; k < V; k += blockDim.x) top = larger(top, scores[k]);
    parts[me] = top;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (me < half) parts[me] = larger(parts[me], parts[me + half]);
        __syncthreads();
    }
    top = isinf(parts[0]) ? T(0) : parts[0];
    __syncthreads();  // before anybody writes there again

    T sum = 0;
    for (index k = me; k < V; k += blockDim.x) sum += exp(scores[k] - top);
    parts[me] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (me < half) parts[me] += parts[me + half];
        __syncthreads();
    }

    if (me == 0) {
        tops[row] = top; sums[row] = parts[0];
        losses[row] = log(parts[0]) - (scores[within(ids[row], V)] - top);
    }
""",
)

LOSSES_BACKWARD = RowKernel(
    "losses_backward",
    "index V, const T* g, const T* x, const index* ids, const T* tops, const T* sums, T* dx",
    """
    const index row = blockIdx.x, id = within(ids[row], V);
    const T top = tops[row], sum = sums[row];
    const T each = g[row] / (sum == 0 ? T(1) : sum);  // 0 / 1 of a row of -inf
    for (index k = threadIdx.x; k < V; k += blockDim.x) {
        const T picked = k == id ? g[row] : T(0);
        dx[row * V + k] = exp(x[row * V + k] - top) * each - picked;
    }
""",
)


@in_place_of(readout._losses_forward)
def _losses_forward(x, ids):
    results = tuple([empty(len(x), x.dtype) for _ in range(3)])
    LOSSES_FORWARD(x.dtype, len(x), x.shape[1], packed(x), as_index(ids), *results)
    return results


@in_place_of(readout._losses_backward)
def _losses_backward(g, x, ids, tops, sums):
    dx = empty(x.shape, x.dtype)
    g, x, tops, sums = map(packed, (g, x, tops, sums))
    LOSSES_BACKWARD(x.dtype, len(x), x.shape[1], g, x, as_index(ids), tops, sums, dx)
    return dx


# ---- rows added up -----------------------------------------------------------------------------

ADD_ROWS = Kernel(
    "add_rows",
    "index N, index D, const index* ids, const index* order, const T* values, T* out",
    """
    const index p = at / D, d = at % D, id = ids[order[p]];
    if (p > 0 && ids[order[p - 1]] == id) return;  // the thread of the first adds up all of a run
    T sum = 0;
    for (index q = p; q < N && ids[order[q]] == id; q++) sum += values[order[q] * D + d];
    out[id * D + d] += sum;
""",
)


ADD_DISTINCT_ROWS = Kernel(
    "add_distinct_rows",
    "index V, index D, const index* ids, const T* values, T* out",
    "out[within(ids[at / D], V) * D + at % D] += values[at];",
)


@in_place_of(backend._add_distinct_rows)
def _add_distinct_rows(out, rows, values):
    values = packed(np.broadcast_to(values, rows.shape + out.shape[1:]))
    if values.size:
        D = values.size // rows.size
        ADD_DISTINCT_ROWS(out.dtype, values.size, len(out), D, as_index(rows), values, out)


@in_place_of(backend._add_rows)
def _add_rows(out, rows, values):
    """In an order that is always the same, as none of atomic additions would be."""
    values = packed(np.broadcast_to(values, rows.shape + out.shape[1:]))
    if values.size:
        ids = as_index(rows).ravel() % len(out)
        D, order = values.size // ids.size, ids.argsort()  # stable
        ADD_ROWS(out.dtype, values.size, ids.size, D, ids, order, values, out)
