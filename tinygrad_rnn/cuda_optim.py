"""Kernels of training: a step of an optimiser, the guard before it, and the clipping of gradients.

Each does in one launch what the function of the same name does beside its caller.  That of a step
is made from the lines of C that stand with the ``move`` of its optimiser; g, w and the memory are
there what they are in ``move``, for one entry, and S is the dtype of the step.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from . import clipping


@cache
def _step(name: str, lines: str, constants: Any, remembered: Any, unused: Any, S: str) -> Any:
    """The kernel of a step."""
    import cupy

    return cupy.ElementwiseKernel(
        ", ".join(["raw int32 flag", "G gradient", *[f"float64 {x}" for x in constants]]),
        ", ".join(["W parameter", *[f"{S} {x}" for x in remembered]]),
        "if (!flag[1]) { S g = S(gradient), w = S(parameter); "
        + "".join(f"S {x} = 0; " for x in unused)
        + lines
        + " parameter = w; }",
        name,
        preamble=f"typedef {'float' if S == 'float32' else 'double'} S;",
    )


def _moved(optimizer: Any, flag: Any, w: Any, g: Any, names: tuple[str, ...], *memory: Any) -> None:
    given = dict(zip(names, memory, strict=True))
    constants = optimizer.constants(int(given.pop("t", 0)))
    S = str(np.result_type(w.dtype, np.float32))
    unused = tuple([x for x in optimizer.remembered(w[:0]) if x not in names])
    name = f"step_of_{type(optimizer).__name__}"
    kernel = _step(name, optimizer.move.in_c, tuple(constants), tuple(given), unused, S)
    kernel(flag, g, *constants.values(), w, *given.values())


@cache
def _noting() -> Any:
    import cupy

    return cupy.ElementwiseKernel(
        "G g, int32 number, int32 step",
        "raw int32 flag",
        "if (!isfinite(g) && !flag[1]) { flag[0] = number; flag[1] = step; }",
        "note_what_is_not_finite",
    )


def _noted(flag: Any, g: Any, number: int, step: int) -> None:
    # All threads that write, write the same; those of a later launch find the flag set.
    _noting()(g, number, step, flag)


@cache
def _summing() -> Any:
    import cupy

    return cupy.ReductionKernel(
        "G g", "float64 y", "double(g) * double(g)", "a + b", "y = a", "0", "sum_of_squares"
    )


def _squares(squares: Any, i: int, g: Any) -> None:
    if g.dtype.kind == "f":
        _summing()(g, squares[i])
    else:
        clipping._squares(squares, i, g)


@cache
def _scaling() -> Any:
    import cupy

    return cupy.ElementwiseKernel(
        "raw float64 norm, float64 max_norm",
        "G g",
        "const double factor = max_norm / (norm[0] + 1e-6);"
        " if (factor < 1 && isfinite(norm[0])) g = g * G(factor);",
        "scale_to_norm",
    )


def _scaled(g: Any, norm: Any, max_norm: float) -> None:
    if g.dtype.kind == "f":
        _scaling()(norm, max_norm, g)
    else:
        clipping._scaled(g, norm, max_norm)
