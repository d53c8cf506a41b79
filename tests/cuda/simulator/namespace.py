"""The modules: ``cupy`` as an object, with the names of the table and the doors of its own."""

from __future__ import annotations

from functools import cache, reduce
from types import ModuleType, SimpleNamespace

import numpy as np

from . import counting, operators, table  # noqa: F401  operators completes the array
from .array import ndarray
from .functions import Function, arrays_in
from .generator import Generator
from .ufuncs import Ufunc


@cache
def function(full_name: str):
    """The function or ufunc of that name of CuPy; AttributeError if it has none."""
    module, _, name = full_name.rpartition(".")
    if full_name not in table.read():
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    ours = reduce(getattr, full_name.split(".")[1:], np)
    if table.read()[full_name].startswith("("):
        return Function(full_name, ours)
    return Ufunc(name, ours) if isinstance(ours, np.ufunc) else ours


class Module(ModuleType):
    """A module that has what the table has under its name, made when it is asked for."""

    def __getattr__(self, name):
        if f"{self.__name__}.{name}" not in table.read():
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        found = function(f"{self.__name__}.{name}")
        setattr(self, name, found)
        return found


def _asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    """The door to the device: a host array is copied; a scalar is written by a kernel."""
    if isinstance(a, ndarray):
        same = dtype is None or a.dtype == dtype
        return a if same and not copy else a.astype(dtype or a.dtype)
    if isinstance(a, (list, tuple)) and next(arrays_in(a), None) is not None:
        return cupy.stack([_asarray(part) for part in a])
    values = np.array(a, dtype, order=order or "K")
    if values.ndim == 0:
        counting.launch()
    elif values.size:
        counting.uploaded()
    return ndarray(values)


def _array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    return _asarray(obj, dtype, order, copy=copy)


def _asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    """The door to the host."""
    return a.get(order=order, out=out) if isinstance(a, ndarray) else np.asarray(a)


def _empty(shape, dtype=float, order="C"):
    """Memory as it comes: NaN, or -1, so that it is seen where it is read."""
    values = np.empty(shape, dtype, order)
    return ndarray(_poisoned(values))


def _empty_like(a, dtype=None, order="K", subok=None, shape=None):
    return ndarray(_poisoned(np.empty_like(a._payload, dtype, order, shape=shape)))


def _poisoned(values):
    values.ravel("K").view(np.uint8)[...] = 0xFF
    return values


def _get_array_module(*args):
    return cupy if next(arrays_in(args), None) is not None else np


class Kernel:
    """A kernel can be made here as in CuPy, which compiles it when it is called; not called."""

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __call__(self, *args, **kwargs):
        raise NotImplementedError("a kernel is run on host memory or on a device, not simulated")


class _Synchronizable:
    """A stream or a device, for which one may wait in so many words."""

    def synchronize(self):
        counting.COSTS.syncs += 1


cupy = Module("cupy")
cupy.__version__ = table.FILE.read_text().split()[2]
cupy.__path__ = []
cupy.ndarray, ndarray.home = ndarray, cupy
cupy.newaxis = None
cupy.is_available = lambda: True
cupy.asarray = cupy.asanyarray = _asarray
cupy.array = _array
cupy.asnumpy = _asnumpy
cupy.empty, cupy.empty_like = _empty, _empty_like
cupy.get_array_module = _get_array_module
cupy.ElementwiseKernel = cupy.ReductionKernel = cupy.RawKernel = cupy.RawModule = Kernel
cupy.linalg = Module("cupy.linalg")
cupy.lib = SimpleNamespace(stride_tricks=Module("cupy.lib.stride_tricks"))
cupy.random = Module("cupy.random")
cupy.random.Generator = cupy.random.default_rng = Generator
cupy.cuda = SimpleNamespace(
    Device=lambda *_: _Synchronizable(),
    Stream=SimpleNamespace(null=_Synchronizable()),
    is_available=lambda: True,
    runtime=SimpleNamespace(getDevice=lambda: 0),
)
