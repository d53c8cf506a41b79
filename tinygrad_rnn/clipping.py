"""Gradients that are too long are clipped."""

from __future__ import annotations

import math
from collections.abc import Iterable
from sys import getrefcount
from typing import Any

import numpy as np

from .backend import backend_of, writable
from .backward import rows_of_grad
from .errors import DeviceError, DtypeError, SettingError, described
from .finite import expect_finite
from .sparse import RowGradient
from .tensor import Tensor

__all__ = ["clip_grad_norm_"]

Parameters = Iterable[Tensor] | Iterable[tuple[str, Tensor]]


def clip_grad_norm_(parameters: Parameters, max_norm: float) -> Any:
    """The norm of all gradients as one vector; if it is above ``max_norm``, they are scaled to it.

    PyTorch's factor is ``max_norm / (norm + 1e-6)``; a ``max_norm`` of inf only measures.  The
    parameters may come with their names, from ``named_parameters()``.  Raises NonFiniteError naming
    the first parameter whose gradient is not finite, SettingError unless ``max_norm > 0`` and there
    are parameters; nothing is then changed.

    Where the gradients are on a device nothing waits for it: the norm is a Tensor there, of no
    axes, and if it is not finite nothing is changed, which the step of the optimiser will tell.
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
    norm = _norm_on_host(pairs)
    if norm is None:
        return _clip_on_device([x for _, x in pairs if x.grad is not None], float(max_norm))
    factor = float(max_norm) / (norm + 1e-6)
    if factor < 1:
        for _, x in pairs:
            _scale(x, factor)
    return norm


def entries_of(g: Tensor | RowGradient) -> Any:
    """The array of a gradient; of one that is kept as rows, the rows."""
    return g.values if isinstance(g, RowGradient) else g.array


def expect_beside(caller: str, name: str, x: Tensor, g: Any) -> None:
    """Raise DeviceError if ``g``, the entries of the gradient of ``x``, is on another device."""
    if g is not None and type(g) is not type(x.array):  # an array may be of a subclass, too
        its, own = backend_of(g).device, backend_of(x.array).device
        if its != own:
            raise DeviceError(
                f"{caller}: the gradient of {name} is on {its}\n"
                f"  expected: {described(x)} has it on {own}, where it is itself; nothing has been"
                " changed\n  hint: does the VJP of an operation of one's own make an array with"
                " np.ones(shape)? np.ones_like(g) makes one where g is"
            )


def _entries(x: Tensor) -> Any:
    """The entries of the gradient of ``x``; None if there is none."""
    grad = rows_of_grad(x) or x.grad
    return None if grad is None else entries_of(grad)


def _norm_on_host(pairs: list[tuple[str, Tensor]]) -> float | None:
    """The norm of all gradients as one vector; None if all that there are are on a device."""
    grads = [(name, x, _entries(x)) for name, x in pairs]
    for name, x, g in grads:
        expect_beside("clip_grad_norm_", name, x, g)
    there = [g for _, _, g in grads if g is not None]
    if there and not any(isinstance(g, np.ndarray) for g in there):
        return None
    return math.hypot(*[_finite_norm(name, g) for name, _, g in grads])


def _finite_norm(name: str, g: Any) -> float:
    """The length of a gradient, in float64, where squares of float32 cannot overflow; 0 of None."""
    if g is None:
        return 0.0
    flat, squares = g.reshape(-1), 0.0
    for block in backend_of(flat).blocks(flat):
        x = flat[block].astype(np.result_type(flat, np.float64), copy=False)
        squares += float(abs(np.vdot(x, x)))
    if not math.isfinite(squares):
        expect_finite("clip_grad_norm_", name, g)
    return math.sqrt(squares)


def _scale(x: Tensor, factor: float) -> None:
    """Multiply the gradient of ``x``; an array that anybody else holds is left as it is."""
    g = _own_entries(x)
    if g is not None:
        g *= factor


def _own_entries(x: Tensor) -> Any:
    """The entries of the gradient of ``x`` that nobody else holds; None if there is no gradient."""
    rows = rows_of_grad(x)
    if rows is not None:
        values = rows.values.copy()
        x.grad = RowGradient(values, rows.ids, rows.shape, once=True)
        return values
    if x.grad is None:
        return None
    held = getrefcount(x.grad) > 2  # by x and the call, and by somebody else
    g = x.grad.array.copy() if held else writable(x.grad)
    x.grad = Tensor(g)
    return g


# ---- on a device -------------------------------------------------------------------------------


PARTS = 1024
"""So many parts of a gradient are added up at the same time, at most."""


def _clip_on_device(parameters: list[Tensor], max_norm: float) -> Tensor:
    """The norm, a Tensor: a launch for all gradients to add up squares, one to scale, and two."""
    gs = [_entries(x) for x in parameters]
    backend = backend_of(gs[0])
    squares = backend.zeros((len(gs), PARTS), np.float64)
    backend.fused(_squares)(squares, gs)
    norm = np.sqrt(np.sum(squares))
    del gs  # or nobody's entries were its own
    backend.fused(_scaled)([_own_entries(x) for x in parameters], norm, max_norm)
    return Tensor(norm)


def _squares(squares: Any, gs: Any) -> None:
    """Sums of the squares of each gradient, over whatever parts, in a row: in float64, as above."""
    for i, g in enumerate(gs):
        x = g.reshape(-1).astype(np.result_type(g, np.float64), copy=False)
        squares[i, 0] = np.vdot(x, x).real


def _scaled(gs: Any, norm: Any, max_norm: float) -> None:
    """Multiply each of ``gs`` by ``max_norm / norm`` if that is below 1."""
    factor = np.where(np.isfinite(norm), np.minimum(max_norm / (norm + 1e-6), 1.0), 1.0)
    for g in gs:
        g *= factor


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
