"""States of many nodes, a row each: what ``fold`` and ``deferred`` write to and read from.

A net over a tree makes a few states at a time, and each is read by whoever is above.  Were the
levels kept apart, a level would be gathered from all those below it, and a deep forest would cost
the square of its depth.  So they share one array.  Every row is written once, and read only after
that, so the array can be filled in place; on the tape each ``fill`` is a new version of it, whose
older rows are those of the version before.

Going back there is one array of cotangents, too: what reads a row adds to it in place, and when the
sweep comes to the filling of a row, all its readers, being younger, have been there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .backend import backend_of
from .engine import TensorCore, op
from .errors import DtypeError, ShapeError, described
from .linear import Placed, astype, entries, gathering

__all__ = ["Rows", "batch_of", "fill", "likeness", "read", "spread"]


@op(array=lambda g, rows, once, array_shape: Placed(g, rows, array_shape, once))
def _read(array, rows, once):
    return entries(array, rows)


def read(array, rows, once):
    """``array[rows]``, for a slice or an array of row numbers, each named ``once`` or not."""
    return _read(array, _there(rows, array), once)


@op(array=lambda g, rows: _read(g, rows, True))
def _spread(array, rows, n):
    return backend_of(array).scatter(array, rows, (n, *array.shape[1:]), True)


def spread(array, rows, n):
    """``n`` rows, those of ``array`` at ``rows`` and zeros."""
    return _spread(array, _there(rows, array), n)


def _there(rows, array):
    """Row numbers on the device of ``array``."""
    if isinstance(rows, np.ndarray):
        return backend_of(getattr(array, "array", array)).kept(rows)
    return rows


def _written(g: Any, rows_shape: Any, start: int) -> Any:
    """The cotangents of the version before, in the same array, and of the rows that are added."""
    g = gathering(g)
    return g, g.dense()[start : start + rows_shape[0]], None


@op(_written)
def fill(array, rows, start):
    """``array`` with ``rows`` from row ``start`` on: the same array, filled in place."""
    array[start : start + len(rows)] = rows
    return array


fill.operation.joint.takes_terms = True


class Rows:
    """Room for the states of ``capacity`` nodes: one array for each part of a state."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.filled = 0
        self.many = False  # whether a state is a tuple
        self.likeness: Any = None
        self.arrays: list[Any] = []

    def write(self, state: Any, name: str) -> int:
        """The first row of ``state``, an array (n, ...) or a tuple of them, once it is written.

        ``name`` is that of the cell, for messages.  ShapeError unless it is like the states before.
        """
        parts = list(state) if isinstance(state, tuple) else [state]
        if not self.arrays:
            self.many, self.likeness = isinstance(state, tuple), likeness(state)
            self.arrays = [self._room(part) for part in parts]
        if isinstance(state, tuple) != self.many or len(parts) != len(self.arrays):
            raise ShapeError(
                f"{name}: the state is {_listed(state)}\n"
                f"  expected: {_listed(self.take(slice(0, self.filled)))}, as of the other nodes\n"
                "  hint: all cells of a fold return states of one form, an array or a tuple"
            )
        for i, part in enumerate(parts):
            self.arrays[i] = self._with(self.arrays[i], part, name)
        start = self.filled
        self.filled += len(parts[0])
        return start

    def _room(self, part: Any) -> Any:
        payload = getattr(part, "array", part)
        room = backend_of(payload).zeros((self.capacity, *payload.shape[1:]), payload.dtype)
        return type(part)(room) if isinstance(part, TensorCore) else room

    def _with(self, array: Any, part: Any, name: str) -> Any:
        """The next version of ``array``, with the rows of ``part``."""
        if part.shape[1:] != array.shape[1:]:
            raise ShapeError(
                f"{name}: a part of the state has shape {part.shape}\n"
                f"  expected: (n, {', '.join(map(str, array.shape[1:]))}), as of the other nodes\n"
                "  hint: a state goes on into the next node, so all have one size"
            )
        dtype = np.result_type(array.dtype, part.dtype)
        if dtype != array.dtype:
            array = astype(array, dtype)
        return fill(array, part, self.filled)

    def take(self, rows: Any, once: bool = True, part: int | None = None) -> Any:
        """The states in ``rows``, a number, a slice or an array of numbers, each named ``once`` or
        not; of a state that is a tuple, only one ``part`` if that is given.
        """
        if part is not None:
            return read(self.arrays[part], rows, once)
        parts = [read(array, rows, once) for array in self.arrays]
        return tuple(parts) if self.many else parts[0]

    def empty(self, rows: Any) -> Any:
        """What ``take`` gives, for the last time: the room of each part goes as it is read."""
        parts = [read(self.arrays.pop(0), rows, True) for _ in range(len(self.arrays))]
        return tuple(parts) if self.many else parts[0]


def likeness(state: Any) -> Any:
    """The shape and the dtype of a row of ``state``, of each part if it is a tuple."""
    if isinstance(state, tuple):
        return tuple([(part.shape[1:], part.dtype) for part in state])
    return state.shape[1:], state.dtype


def batch_of(state: Any, n: int, name: str) -> Any:
    """``state``, if it is an array, or a tuple of arrays, with ``n`` rows; else an error."""
    parts = state if isinstance(state, tuple) else (state,)
    for part in parts or (None,):
        shape = getattr(part, "shape", None)
        if shape is None:
            hint = "does the cell end in return state?"
            if isinstance(state, list):
                hint = "return h, c makes a tuple; a list is no state"
            raise DtypeError(
                f"{name}: the cell returned {described(state)}\n"
                f"  expected: a Tensor or an array, or a tuple of them\n  hint: {hint}"
            )
        if shape[:1] != (n,):
            raise ShapeError(
                f"{name}: the cell returned shape {shape} for {n} node{'s' * (n != 1)}\n"
                f"  expected: ({n}, ...), a row for each node\n"
                "  hint: a cell is written for a batch, every argument has a leading axis of nodes"
            )
    return state


def _listed(state: Any) -> str:
    parts = state if isinstance(state, tuple) else (state,)
    shapes = ", ".join(str(("n", *part.shape[1:])).replace("'", "") for part in parts)
    return f"({shapes})" if isinstance(state, tuple) else shapes
