"""Calls of ufuncs: CuPy's take less than NumPy's, and have fewer methods."""

from __future__ import annotations

import numpy as np

from . import launches, table
from .array import in_range, ndarray
from .counting import Hazard, launch
from .functions import Function, arrays_in, on_device, payload

SCALARS = (bool, int, float, complex, np.number, np.bool_)

SCATTERS = {
    "add": "e f d i I l L q Q",
    "subtract": "i I",
    "maximum": "f d i I l L q Q",
    "minimum": "f d i I l L q Q",
}
"""The dtypes for which ``ufunc.at`` exists: it is done by atomic operations."""


class Ufunc:
    """A ufunc: arrays of the device and scalars alone, ``out``, ``dtype`` and ``casting`` alone."""

    def __init__(self, name: str, function) -> None:
        self.__name__ = name
        self.function = function
        self.nin, self.nout = (int(n) for n in table.read()[f"cupy.{name}"].split())

    def __call__(self, *args, **kwargs):
        if set(kwargs) - {"out", "dtype", "casting"}:
            raise TypeError(f"Wrong arguments {sorted(kwargs)} of cupy.{self.__name__}")
        for x in args:
            if not isinstance(x, (ndarray, *SCALARS)):
                raise TypeError(f"Unsupported type {type(x)} given to cupy.{self.__name__}")
        out = kwargs.pop("out", None) if len(args) == self.nin else args[self.nin]
        if out is not None and not isinstance(out, ndarray):
            raise TypeError(f"Unsupported type {type(out)} given to cupy.{self.__name__} as out")
        if out is not None:
            kwargs["out"] = out._payload
        inputs = payload(args[: self.nin], self.__name__)
        result = self.function(*inputs, **kwargs)
        result = out if out is not None else on_device(result, ())
        launch(any(part.size for part in arrays_in(result)))
        launch(sum(launches.overlap(x, out) for x in arrays_in(args[: self.nin])))
        return result

    def reduce(self, a, axis=0, dtype=None, out=None, keepdims=False):
        """CuPy reduces sums and products."""
        self._only("reduce", "add", "multiply")
        name = "sum" if self.__name__ == "add" else "prod"
        return _function(name)(a, axis, dtype, out, keepdims)

    def accumulate(self, a, axis=0, dtype=None, out=None):
        self._only("accumulate", "add", "multiply")
        name = "cumsum" if self.__name__ == "add" else "cumprod"
        return _function(name)(a, axis, dtype, out)

    def outer(self, a, b, **kwargs):
        """By two broadcasts."""
        return self(a[(...,) + (None,) * b.ndim], b[(None,) * a.ndim], **kwargs)

    def at(self, a, indices, b):
        """By atomic operations, so in any order."""
        self._only("at", *SCATTERS)
        if a.dtype.char not in SCATTERS[self.__name__]:
            raise TypeError(f"cupy.{self.__name__}.at does not support {a.dtype}")
        key, arrays = a.checked_key(indices)
        values = np.asarray(payload(b, f"{self.__name__}.at")).astype(a.dtype)
        launch(launches.scatter(a, arrays, b))
        with in_range():
            entries = np.arange(a.size).reshape(a.shape)[key]
        order = np.random.default_rng(entries.size).permutation(entries.size)
        values = np.broadcast_to(values, entries.shape).ravel()[order]
        flat = a._payload.ravel()  # a copy if it has to be
        self.function.at(flat, entries.ravel()[order], values)
        a._payload[...] = flat.reshape(a.shape)

    def reduceat(self, *args, **kwargs):
        self._only("reduceat", "add")
        raise Hazard("cupy.add.reduceat takes more than ten launches")

    def _only(self, method, *names):
        if self.__name__ not in names:
            raise NotImplementedError(f"`cupy.{self.__name__}.{method}` is not supported yet")


def _function(name):
    return Function(f"cupy.{name}", getattr(np, name))
