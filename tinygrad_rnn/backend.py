"""Where arrays live: NumPy on the host, CuPy on a GPU; the few things that the two do differently.

Operations call NumPy's functions, and these dispatch on the array that they are given, so one body
serves both.  What does not dispatch goes through a ``Backend``: creation, the two doors between
host and device, indices, the scatter-add, and the test of ids; and so does what pays on one of them
alone.  Nothing here is imported from CuPy before somebody asks for ``"cuda"``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from sys import getrefcount
from typing import Any
from weakref import ref

import numpy as np

from .errors import DeviceError, IndexRangeError

__all__ = [
    "Backend",
    "CupyBackend",
    "backend_for",
    "backend_of",
    "is_array",
    "is_device_array",
    "on_device",
    "use_device",
    "writable",
]

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

    def arange(self, n: int) -> Any:
        """The integers 0 .. n - 1."""
        return np.arange(n)

    def index(self, index: Any, shape: tuple[int, ...]) -> Any:
        """``index`` as it can point into an array of this backend, of this shape."""
        return index

    def kept(self, rows: np.ndarray) -> Any:
        """``rows`` here, and for as long as they are there; nobody may write to them."""
        return rows

    def scatter_add(self, out: Any, index: Any, values: Any, once: bool = False) -> None:
        """Add ``values`` to ``out[index]`` in place; an entry that is named twice gets both.

        ``once`` promises that none is, which saves looking.
        """
        if once or _names_each_entry_once(index):
            out[index] += values
        elif isinstance(index, np.ndarray) and index.ndim and out.ndim > 1:
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
    if is_array(index):
        return index.dtype == bool
    parts = index if isinstance(index, tuple) else (index,)
    return not any(getattr(part, "ndim", 0) for part in parts)


def _add_distinct_rows(out: Any, rows: Any, values: Any) -> None:
    """Add ``values`` to ``out[rows]``, which names none twice."""
    out[rows] += values


def _add_rows(out: Any, rows: Any, values: Any) -> None:
    """``np.add.at(out, rows, values)`` for whole rows: sort the ids, add up each run, add once.

    Several times faster than ``add.at`` when a row is long, as in the table of an embedding.
    """
    if not rows.size:
        return
    values = np.broadcast_to(values, rows.shape + out.shape[1:])
    values = values.reshape(rows.size, *out.shape[1:])
    rows = rows.astype(np.intp).ravel()
    rows = np.where(rows < 0, rows + len(out), rows)
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    out[ordered[starts]] += np.add.reduceat(values[order], starts, axis=0)


_REMEDIES = {
    "No module named 'cupy": "pip install 'tinygrad_rnn[cuda13]', or [cuda12]; see nvidia-smi",
    "InsufficientDriver": "nvidia-smi must list a GPU; [cuda12] runs on older drivers",
    "NoDevice": "nvidia-smi must list a GPU, and CUDA_VISIBLE_DEVICES must not hide it",
    "lib": "the extras [cuda12] and [cuda13] of tinygrad_rnn bring CUDA's libraries with them",
    "": "python -c 'import cupy; cupy.show_config()' tells what CuPy finds",
}
"""Words in an error on the way to a first result of CuPy's, and what mends it."""


def _cupy_that_works() -> Any:
    """CuPy, once it has got a product, a sum and a compiled kernel right; or else DeviceError."""
    try:
        import cupy

        if not cupy.is_available():
            cupy.cuda.runtime.getDeviceCount()  # raises, and says why
        ones = cupy.ones((2, 2), "f")
        twelve = float(cupy.asnumpy((ones @ ones + 1).sum()))
        if twelve != 12:
            raise ArithmeticError(f"a first product came out as {twelve}, not 12")
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip("= ")), "")
        remedy = next(remedy for words, remedy in _REMEDIES.items() if words in reason)
        raise DeviceError(
            f"device 'cuda' cannot be used: {type(error).__name__}: {reason}\n"
            f"  hint: {remedy}; leave device out to stay on the CPU"
        ) from error
    return cupy


class CupyBackend(Backend):
    """CuPy on a CUDA device; overrides only what must differ."""

    device = "cuda"

    def __init__(self) -> None:
        self.cupy = _cupy_that_works()
        # Read when they are needed, as they themselves need what they speed up.
        modules = [import_module(f".{name}", __package__) for name in _KERNELS]
        self.kernels = {name: f for module in modules for name, f in vars(module).items()}
        # By the id of an array, while it is there, and the number of the GPU.
        self.uploaded: dict[tuple[int, int], tuple[Any, Any]] = {}

    def asarray(self, values: Any) -> Any:
        return self.cupy.asarray(values)

    def to_host(self, x: Any) -> np.ndarray:
        return self.cupy.asnumpy(x)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.cupy.zeros(shape, dtype)

    def arange(self, n: int) -> Any:
        return self.cupy.arange(n)

    def index(self, index: Any, shape: tuple[int, ...]) -> Any:
        """The same with its arrays on the device, and masks as the places where they hold.

        CuPy would upload arrays at every use, and wrap what is out of range without a word: so that
        is looked for here, on the host, if all of the index is there.
        """
        many = isinstance(index, tuple)
        parts = index if many else (index,)
        if not any(map(is_device_array, parts)):
            sides = shape if many or index.dtype == bool else shape[:1]
            np.broadcast_to(np.empty((), "V0"), sides)[index]  # IndexError, or no bytes at all
        found: list[Any] = []
        for part in parts:
            if not is_array(part):
                found.append(part)
            elif part.dtype == bool and part.ndim:
                found.extend(map(self.asarray, self.to_host(part).nonzero()))
            else:
                found.append(self.asarray(part))
        return tuple(found) if many or len(found) > 1 else found[0]

    def kept(self, rows: np.ndarray) -> Any:
        """The same; so those of a structure or a layout, which come again, are uploaded once.

        A part of an array goes there with the whole of it.  Of several GPUs each has its own.
        """
        key, whole = (id(rows), self.cupy.cuda.runtime.getDevice()), rows.base
        if key not in self.uploaded:
            if isinstance(whole, np.ndarray) and whole.strides == rows.strides:
                start = (_address(rows) - _address(whole)) // rows.itemsize
                there = self.kept(whole)[start : start + len(rows)]
            else:
                there = self.asarray(rows)
            self.uploaded[key] = (ref(rows, lambda _: self.uploaded.pop(key)), there)
        return self.uploaded[key][1]

    def scatter_add(self, out: Any, index: Any, values: Any, once: bool = False) -> None:
        """The same, always in the same order; CuPy's ``add.at``, which has none, is for integers.

        An index that is more than ids of rows is spelled out, as a number for each entry.
        """
        if once and is_array(index) and index.dtype != bool and out.flags.c_contiguous:
            self.fused(_add_distinct_rows)(out, index, values)
        elif once or _names_each_entry_once(index):
            out[index] += values
        elif out.dtype.kind != "f":
            self.cupy.add.at(out, self.index(index, out.shape), values)
        elif out.dtype == np.float16 or not out.flags.c_contiguous:
            total = self.zeros(out.shape, np.result_type(out.dtype, np.float32))
            self.scatter_add(total, index, values)
            out += total.astype(out.dtype, copy=False)
        else:
            rows, index = out, self.index(index, out.shape)
            if not is_array(index) or index.dtype == bool:
                index = self.arange(out.size).reshape(out.shape)[index]
                rows = out.reshape(-1)
            self.fused(_add_rows)(rows, index, values.astype(out.dtype, copy=False))

    def fused(self, body: Any) -> Any:
        return self.kernels.get(body.__name__, body)

    def blocks(self, x: Any) -> list[slice]:
        return [slice(None)]


_KERNELS = ("cuda", "cuda_layers", "cuda_optim")
"""The modules in which kernels are looked up by name."""

_NUMPY = Backend()
_HERE: ContextVar[str] = ContextVar("device", default="cpu")


@cache
def _cupy() -> CupyBackend:
    return CupyBackend()


@contextmanager
def use_device(device: str) -> Iterator[None]:
    """A context in which what is created without ``device=`` is created on ``"cpu"`` or ``"cuda"``.

    That is what ``tensor`` makes of numbers and NumPy arrays, and so the parameters of modules.
    What is on a device already, and what is computed from it, stays there.  Of several GPUs it is
    CuPy's current one.  DeviceError with the reason if the device cannot be used.
    """
    before = _HERE.set(backend_for(device).device)
    try:
        yield
    finally:
        _HERE.reset(before)


def on_device(x: Any, device: str | None) -> Any:
    """The array ``x`` on ``device``; itself if it is there."""
    target, source = backend_for(device), backend_of(x)
    return x if source is target else target.asarray(source.to_host(x))


def writable(x: Any) -> Any:
    """The array of ``x``, in rows without gaps, if nobody but ``x`` holds it; or else a copy."""
    # 2 are the Tensor and the call.  A view, and what a graph keeps, hold on to it as well.
    alone = getrefcount(x.array) == 2 and x.array.flags.owndata and x.array.flags.c_contiguous
    writes = getattr(x.array.flags, "writeable", True)  # CuPy cannot lock an array
    return x.array if alone and writes else x.array.copy()


def _address(x: np.ndarray) -> int:
    return x.__array_interface__["data"][0]


def is_array(x: Any) -> bool:
    """Whether ``x`` is an array of either backend."""
    return isinstance(x, np.ndarray) or is_device_array(x)


def is_device_array(x: Any) -> bool:
    """Whether ``x`` is an array on a CUDA device."""
    return hasattr(x, "__cuda_array_interface__")


def backend_of(x: Any) -> Backend:
    """The backend of an array: a type test, so that no state has to be looked up."""
    if isinstance(x, (np.ndarray, np.generic)) or not type(x).__module__.startswith("cupy"):
        return _NUMPY
    return _cupy()


def backend_for(device: str | None) -> Backend:
    """The backend of ``"cpu"`` or ``"cuda"``, of that in use if None; DeviceError if absent."""
    if device is None:
        device = _HERE.get()
    if device == "cpu":
        return _NUMPY
    if device == "cuda":
        return _cupy()
    raise DeviceError(
        f"unknown device {device!r}\n  expected: 'cpu' or 'cuda'\n"
        "  hint: leave device out to stay on the CPU; x.astype(dtype) changes the dtype"
    )
