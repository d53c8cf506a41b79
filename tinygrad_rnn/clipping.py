"""Gradients that are too long are clipped; gradients that are no numbers are refused."""

from __future__ import annotations

import math
from collections.abc import Iterable
from sys import getrefcount
from typing import Any

import numpy as np

from .backend import backend_of, writable
from .backward import rows_of_grad
from .errors import DtypeError, NonFiniteError, SettingError, described
from .sparse import RowGradient
from .tensor import Tensor

__all__ = ["clip_grad_norm_"]

Parameters = Iterable[Tensor] | Iterable[tuple[str, Tensor]]


def clip_grad_norm_(parameters: Parameters, max_norm: float) -> float:
    """The norm of all gradients as one vector; if it is above ``max_norm``, they are scaled to it.

    PyTorch's factor is ``max_norm / (norm + 1e-6)``; a ``max_norm`` of inf only measures.  The
    parameters may come with their names, from ``named_parameters()``.  Raises NonFiniteError naming
    the first parameter whose gradient is not finite, SettingError unless ``max_norm > 0`` and there
    are parameters; nothing is then changed.
    """
    try:
        fits = bool(max_norm > 0)
    except TypeError as error:
        raise DtypeError(
            f"clip_grad_norm_: max_norm is {described(max_norm)}\n  expected: a number above 0\n"
            "  hint: inf measures and clips nothing"
        ) from error
    if not fits:
        raise SettingError(
            f"clip_grad_norm_: max_norm {max_norm}\n  expected: max_norm > 0\n"
            "  hint: a negative norm would turn gradients round; inf measures and clips nothing"
        )
    pairs = named("clip_grad_norm_", parameters)
    norm = math.hypot(*[_finite_norm(name, rows_of_grad(x) or x.grad) for name, x in pairs])
    factor = float(max_norm) / (norm + 1e-6)
    if factor < 1:
        for _, x in pairs:
            _scale(x, factor)
    return norm


def entries_of(g: Tensor | RowGradient) -> Any:
    """The array of a gradient; of one that is kept as rows, the rows."""
    return g.values if isinstance(g, RowGradient) else g.array


def _finite_norm(name: str, grad: Any) -> float:
    """The length of a gradient, in float64, where squares of float32 cannot overflow; 0 of None."""
    if grad is None:
        return 0.0
    flat, squares = entries_of(grad).reshape(-1), 0.0
    for block in backend_of(flat).blocks(flat):
        x = flat[block].astype(np.result_type(flat, np.float64), copy=False)
        squares += float(abs(np.vdot(x, x)))
    if not math.isfinite(squares):
        expect_finite("clip_grad_norm_", name, entries_of(grad))
    return math.sqrt(squares)


def _scale(x: Tensor, factor: float) -> None:
    """Multiply the gradient of ``x``; an array that anybody else holds is left as it is."""
    rows = rows_of_grad(x)
    if rows is not None:
        x.grad = RowGradient(rows.values * factor, rows.ids, rows.shape, once=True)
    elif x.grad is not None:
        held = getrefcount(x.grad) > 2  # by x and the call, and by somebody else
        g = x.grad.array.copy() if held else writable(x.grad)
        g *= factor
        x.grad = Tensor(g)


def expect_finite(caller: str, name: str, g: Any) -> None:
    """Raise NonFiniteError if NaN or infinity is in ``g``, the gradient of parameter ``name``."""
    flat = g.ravel()
    with np.errstate(over="ignore", invalid="ignore"):  # one product; squares may overflow, though
        if math.isfinite(abs(np.vdot(flat, flat))) or np.isfinite(flat).all():
            return
    raise NonFiniteError(
        f"{caller}: the gradient of {name}, {described(g)}, is not finite\n"
        f"  of its {g.size} entries {int(np.isnan(g).sum())} are NaN and"
        f" {int(np.isinf(g).sum())} infinite; nothing has been changed\n"
        "  hint: with detect_anomaly(): around forward and backward names the operation that made"
        " them"
    )


def named(caller: str, parameters: Any) -> list[tuple[str, Tensor]]:
    """The parameters with their names, one at least; one without a name is named by its place."""
    if isinstance(parameters, Tensor):
        raise DtypeError(f"{caller}: the parameters are one Tensor\n  hint: pass [parameter]")
    if not isinstance(parameters, Iterable):
        called = "model.parameters(), with parentheses" if callable(parameters) else "a list"
        raise DtypeError(
            f"{caller}: the parameters are {described(parameters)}\n"
            f"  expected: an iterable of Tensors\n  hint: pass {called}"
        )
    pairs = [x if isinstance(x, tuple) else (f"parameter {i}", x) for i, x in enumerate(parameters)]
    for name, x in pairs:
        if not isinstance(x, Tensor):
            raise DtypeError(
                f"{caller}: {name} is {described(x)}\n  expected: a Tensor, or (name, Tensor)\n"
                "  hint: model.parameters()"
            )
    if not pairs:
        raise SettingError(
            f"{caller}: there are no parameters\n"
            "  hint: Module.parameters() lists the Tensors with requires_grad=True in attributes; a"
            " generator is empty once it has been read, a list is not"
        )
    return pairs
