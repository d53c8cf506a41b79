"""Where arrays live: NumPy on the host, CuPy on a GPU; the few things that the two do differently.

Operations call NumPy's functions, and these dispatch on the array that they are given, so one body
serves both.  What does not dispatch goes through a ``Backend``: creation, the two doors between
host and device, the scatter-add, and the test of ids; and so does what pays on one of them alone.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from sys import getrefcount
from typing import Any

import numpy as np

from .errors import DeviceError, IndexRangeError

__all__ = ["Backend", "CupyBackend", "backend_for", "backend_of", "is_array", "writable"]

_CACHED = 2**18
"""Bytes of each of a few arrays that are gone through together: all fit into a core's cache."""


class Backend:
    """NumPy on the host: the readable reference."""

    device = "cpu"

    def asarray(self, values: Any) -> Any:
        """``values`` as an array of this backend: the only door from the host to the device."""
        return np.asarray(values)

    def to_host(self, x: Any) -> np.ndarray:
        """``x`` as a NumPy array: the only door from the device to the host."""
        return x

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array of zeros."""
        return np.zeros(shape, dtype)

    def scatter_add(self, out: Any, index: Any, values: Any, once: bool = False) -> None:
        """Add ``values`` to ``out[index]`` in place; an entry that is named twice gets both.

        ``once`` promises that none is, which saves looking.
        """
        if once or _names_each_entry_once(index):
            out[index] += values
        elif isinstance(index, np.ndarray) and index.ndim and index.size and out.ndim > 1:
            _add_rows(out, index, values)
        else:
            np.add.at(out, index, values)

    def scatter(self, x: Any, index: Any, shape: tuple[int, ...], once: bool = False) -> Any:
        """Zeros with ``x`` added at ``index``."""
        out = self.zeros(shape, x.dtype)
        if once or _names_each_entry_once(index):
            out[index] = x
        else:
            self.scatter_add(out, index, x)
        return out

    def fused(self, body: Any) -> Any:
        """``body``, or the kernel of that name that does the same in one launch: see ``cuda``."""
        return body

    def blocks(self, x: Any) -> list[slice]:
        """Slices of the first axis of ``x``, of as many rows as stay in the cache beside others."""
        rows = max(1, _CACHED // max(1, x[:1].nbytes))
        return [slice(i, i + rows) for i in range(0, len(x), rows)]

    def check_ids(self, name: str, ids: Any, size: int) -> None:
        """Raise IndexRangeError unless every id is in ``0 .. size - 1``."""
        ids = self.to_host(ids)
        wrong = (ids < 0) | (ids >= size)
        if np.count_nonzero(wrong):  # faster than any() where ids are few
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise IndexRangeError(
                f"{name}: id {int(ids[where])} at position {where} is out of range\n"
                f"  expected: 0 <= id < {size}\n"
                f"  hint: {int(wrong.sum())} of {ids.size} ids are outside; does the vocabulary"
                " that made them belong to this table?"
            )


def _names_each_entry_once(index: Any) -> bool:
    """Whether no entry can be named twice: integers, slices, ``...``, None, or one boolean mask."""
    if isinstance(index, np.ndarray):
        return index.dtype == bool
    parts = index if isinstance(index, tuple) else (index,)
    return not any(isinstance(part, np.ndarray) and part.ndim for part in parts)


def _add_rows(out: Any, rows: Any, values: Any) -> None:
    """``np.add.at(out, rows, values)`` for whole rows: sort the ids, add up each run, add once.

    Several times faster than ``add.at`` when a row is long, as in the table of an embedding.
    """
    values = np.broadcast_to(values, rows.shape + out.shape[1:])
    values = values.reshape(rows.size, *out.shape[1:])
    rows = rows.astype(np.intp).ravel()
    rows = np.where(rows < 0, rows + len(out), rows)
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    out[ordered[starts]] += np.add.reduceat(values[order], starts, axis=0)


class CupyBackend(Backend):
    """CuPy on a CUDA device; overrides only what must differ."""

    device = "cuda"

    def __init__(self) -> None:
        try:
            import cupy

            if not cupy.is_available():
                raise RuntimeError("no CUDA device")
            ones = cupy.ones((2, 2), "f")
            if float((ones @ ones + 1).sum()) != 12:  # runs NVRTC, cuBLAS and a reduction once
                raise RuntimeError("a test product came out wrong")
        except Exception as error:
            raise DeviceError(
                f"device 'cuda' cannot be used: {type(error).__name__}: {error}\n"
                "  hint: install the extra that matches the driver, tinygrad_rnn[cuda12] or"
                " tinygrad_rnn[cuda13], or leave device out to stay on the CPU"
            ) from error
        self.cupy = cupy
        self.kernels = import_module(".cuda", __package__)  # read later: it needs what it speeds up

    def asarray(self, values: Any) -> Any:
        return self.cupy.asarray(values)

    def to_host(self, x: Any) -> np.ndarray:
        return self.cupy.asnumpy(x)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.cupy.zeros(shape, dtype)

    def scatter_add(self, out: Any, index: Any, values: Any, once: bool = False) -> None:
        if once or _names_each_entry_once(index):
            out[index] += values
        else:
            self.cupy.add.at(out, index, values)

    def fused(self, body: Any) -> Any:
        return getattr(self.kernels, body.__name__, body)

    def blocks(self, x: Any) -> list[slice]:
        return [slice(None)]


_NUMPY = Backend()


@cache
def _cupy() -> CupyBackend:
    return CupyBackend()


def writable(x: Any) -> Any:
    """The array of ``x``, in rows without gaps, if nobody but ``x`` holds it; or else a copy."""
    # 2 are the Tensor and the call.  A view, and what a graph keeps, hold on to it as well.
    alone = getrefcount(x.array) == 2 and x.array.flags.owndata and x.array.flags.c_contiguous
    writes = getattr(x.array.flags, "writeable", True)  # CuPy cannot lock an array
    return x.array if alone and writes else x.array.copy()


def is_array(x: Any) -> bool:
    """Whether ``x`` is an array of either backend."""
    return isinstance(x, np.ndarray) or hasattr(x, "__cuda_array_interface__")


def backend_of(x: Any) -> Backend:
    """The backend of an array: a type test, so that no state has to be looked up."""
    if isinstance(x, (np.ndarray, np.generic)) or not type(x).__module__.startswith("cupy"):
        return _NUMPY
    return _cupy()


def backend_for(device: str | None) -> Backend:
    """The backend of device ``"cpu"`` or ``"cuda"``; DeviceError with the reason if absent."""
    if device in (None, "cpu"):
        return _NUMPY
    if device == "cuda":
        return _cupy()
    raise DeviceError(
        f"unknown device {device!r}\n  expected: 'cpu' or 'cuda'\n"
        "  hint: leave device out to stay on the CPU; x.astype(dtype) changes the dtype"
    )
