"""Kernels of training: a step of an optimiser, the guard before it, and the clipping of gradients.

Each does what the function of the same name does beside its caller, to all parameters at once: what
a launch costs the host is more than what most parameters cost the device.  A ``Table`` of them, by
address, is an argument of the kernel, and block (x, y) is the x-th of parameter y.

A step is made from the lines of C that stand with the ``move`` of its optimiser; g, w and the
memory are there what they are in ``move``, for one entry, and S is the dtype of the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from . import clipping
from .cuda import THREADS, packed

MOST = 32
"""So many parameters have room in a launch, whose arguments may take 4 KiB."""

ENTRY = np.dtype(
    [("size", "i8"), ("w", "u8"), ("g", "u8"), ("memory", "u8", 2), ("constants", "f8", 8)]
)
TABLE = np.dtype([("of", ENTRY, MOST)])

BLOCKS = clipping.PARTS
"""The most blocks of a parameter, which together go through it."""

Row = tuple[tuple[Any, ...], tuple[float, ...]]
"""Arrays without gaps, ``(w, g, *memory)``, and the constants of a parameter."""

TYPES = {"e": "float16", "f": "float", "d": "double", "F": "complex<float>", "D": "complex<double>"}
INCLUDES = {"e": "cupy/float16.cuh", "F": "cupy/complex.cuh", "D": "cupy/complex.cuh"}

HEADER = """
typedef {W} W; typedef {G} G; typedef {S} S;
struct Entry {{ long long size; W* w; G* g; S* memory[2]; double constants[8]; }};
struct Table {{ Entry of[{MOST}]; }};
enum {{ THREADS = {THREADS} }};
#define EACH(at) long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x; \\
    at < one.size; at += gridDim.x * (long long)blockDim.x
extern "C" __global__ void {name}({parameters}, const Table table) {{
    const Entry& one = table.of[blockIdx.y];
    {text}
}}
"""


@cache
def compiled(name: str, parameters: str, text: str, W: str, G: str) -> Any:
    """The kernel for parameters and gradients of these dtypes."""
    from cupy import RawKernel

    S = "double" if W in "dD" else "float"
    types = {"W": TYPES[W], "G": TYPES[G], "S": S, "MOST": MOST, "THREADS": THREADS}
    body = HEADER.format(name=name, parameters=parameters, text=text, **types)
    includes = [f"#include <{INCLUDES[x]}>\n" for x in sorted({W, G}) if x in INCLUDES]
    return RawKernel("".join(includes) + body, name)


def tables(rows: Sequence[Row]) -> Iterator[tuple[tuple[str, str], Any, int]]:
    """The dtypes, the table and the length of each group of rows that fit into one launch."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        (w, g, *_), _ = row
        if w.size:
            groups.setdefault((w.dtype.char, g.dtype.char), []).append(row)
    for dtypes, group in groups.items():
        for start in range(0, len(group), MOST):
            entries = [entry(*row) for row in group[start : start + MOST]]
            table = np.zeros((), TABLE)
            table["of"][: len(entries)] = entries
            yield dtypes, table, len(entries)


def entry(arrays: tuple[Any, ...], constants: tuple[float, ...]) -> tuple[Any, ...]:
    """A row as an ``ENTRY``: addresses, and 0 where there is nothing."""
    w, g, m, v = [x.data.ptr for x in arrays] + [0] * (4 - len(arrays))
    return arrays[0].size, w, g, (m, v), constants + (0.0,) * (8 - len(constants))


def launch(name: str, parameters: str, text: str, rows: Sequence[Row], *arguments: Any) -> None:
    """Run ``text`` for each of ``rows``."""
    for dtypes, table, n in tables(rows):
        blocks = min(-(-int(table["of"]["size"].max()) // THREADS), BLOCKS)
        kernel = compiled(name, parameters, text, *dtypes)
        kernel((blocks, n), (THREADS,), (*arguments, table))


# ---- a step ------------------------------------------------------------------------------------


@cache
def step_in_c(
    lines: str, constants: tuple[str, ...], remembered: tuple[str, ...], names: tuple[str, ...]
) -> str:
    """The lines of a ``move`` for each entry, with what they read and write by its name."""
    numbers = [f"const double {x} = one.constants[{k}];" for k, x in enumerate(constants)]
    memory = [f"S& {x} = one.memory[{k}][at];" for k, x in enumerate(names)]
    unused = [f"S {x} = 0;" for x in remembered if x not in names]
    return f"""if (flag[1]) return;
    {" ".join(numbers)}
    for (EACH(at)) {{
        S w = S(one.w[at]), g = S(one.g[at]);
        {" ".join([*memory, *unused])}
        {lines}
        one.w[at] = W(w);
    }}"""


def _moved(optimizer: Any, flag: Any, names: Any, ws: Any, gs: Any, memories: Any, ts: Any) -> None:
    constants = {t: optimizer.constants(t) for t in set(ts)}
    code = optimizer.move.__code__
    arguments = code.co_varnames[3 : code.co_argcount]  # all but self, w and g
    remembered = tuple([x for x in arguments if x != "t"])
    text = step_in_c(optimizer.move.in_c, tuple(constants[ts[0]]), remembered, names)
    numbers = {t: tuple(those.values()) for t, those in constants.items()}
    rows = [
        ((w, packed(g), *memory), numbers[t])
        for w, g, memory, t in zip(ws, gs, memories, ts, strict=True)
    ]
    launch(f"step_of_{type(optimizer).__name__}", "const int* flag", text, rows, flag)


# ---- the guard ---------------------------------------------------------------------------------

NOTE = """
    for (EACH(at))
        if (!isfinite(one.g[at]) && (!flag[1] || flag[1] == step)) {
            atomicMax(flag, (int)one.constants[0]);  // of several, the first parameter
            flag[1] = step;  // whoever writes, writes the same
        }"""


def _noted(flag: Any, gs: Any, places: Any, step: int) -> None:
    rows = [((g, g), (place,)) for g, place in zip(map(packed, gs), places, strict=True)]
    launch("note_what_is_not_finite", "int* flag, int step", NOTE, rows, flag, np.int32(step))


# ---- clipping ----------------------------------------------------------------------------------

SQUARES = """
    __shared__ double parts[THREADS];
    double sum = 0;
    for (EACH(at)) sum += double(one.g[at]) * double(one.g[at]);
    const int me = threadIdx.x;
    parts[me] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (me < half) parts[me] += parts[me + half];
        __syncthreads();
    }
    if (me == 0) squares[(int)one.constants[0] * most + blockIdx.x] = parts[0];"""

SCALE = """
    const double factor = max_norm / (norm[0] + 1e-6);
    if (factor < 1 && isfinite(norm[0])) for (EACH(at)) one.g[at] = G(S(one.g[at]) * S(factor));"""


def _squares(squares: Any, gs: Any) -> None:
    if any(g.dtype.kind != "f" for g in gs):
        clipping._squares(squares, gs)
        return
    rows = [((g, g), (i,)) for i, g in enumerate(map(packed, gs))]
    parameters, most = "double* squares, int most", np.int32(squares.shape[1])
    launch("sums_of_squares", parameters, SQUARES, rows, squares, most)


def _scaled(gs: Any, norm: Any, max_norm: float) -> None:
    if any(g.dtype.kind != "f" for g in gs):
        clipping._scaled(gs, norm, max_norm)
        return
    rows = [((g, g), ()) for g in gs]
    parameters = "const double* norm, double max_norm"
    launch("scale_to_norm", parameters, SCALE, rows, norm, np.float64(max_norm))
