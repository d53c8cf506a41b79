"""The array: one of NumPy that is reached through the doors alone, and indexed as CuPy's are."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np

from . import counting, launches
from .counting import Hazard, hidden_sync, launch


class ndarray:
    """A double of ``cupy.ndarray`` around ``payload``; ``base`` is the array that it looks into.

    Operators, methods and NumPy's functions are given to it in ``operators``; they look for what
    they need in ``home``, the module ``cupy``.
    """

    __module__ = "cupy"  # which is how ``backend_of`` knows it
    __array_priority__ = 100

    def __init__(self, payload: np.ndarray, base: ndarray | None = None) -> None:
        self._payload = payload
        self.base = base

    shape = property(lambda self: self._payload.shape)
    dtype = property(lambda self: self._payload.dtype)
    ndim = property(lambda self: self._payload.ndim)
    size = property(lambda self: self._payload.size)
    strides = property(lambda self: self._payload.strides)
    nbytes = property(lambda self: self._payload.nbytes)
    itemsize = property(lambda self: self._payload.itemsize)
    T = property(lambda self: self.view_of(self._payload.T))
    mT = property(lambda self: self.view_of(self._payload.mT))
    real = property(lambda self: self.view_of(self._payload.real))
    imag = property(lambda self: self.view_of(self._payload.imag))
    device = property(lambda self: "<CUDA Device 0>")

    @property
    def flags(self):
        """What CuPy tells of the layout; an array cannot be locked."""
        flags = self._payload.flags
        return SimpleNamespace(
            c_contiguous=flags.c_contiguous,
            f_contiguous=flags.f_contiguous,
            owndata=self.base is None,
        )

    @property
    def __cuda_array_interface__(self):
        return {**self._payload.__array_interface__, "version": 3}

    def view_of(self, payload: np.ndarray) -> ndarray:
        """An array that looks into this one."""
        return ndarray(payload, self if self.base is None else self.base)

    # ---- the doors -----------------------------------------------------------------------------

    def get(self, stream=None, order="C", out=None, blocking=True):
        """The values on the host: the door for which the host waits."""
        if self.size:
            launch(order == "C" and not self._payload.flags.c_contiguous)
            counting.downloaded()
        if out is None:
            return np.array(self._payload, order=order)
        out[...] = self._payload
        return out

    def set(self, arr, stream=None):
        """Take over the values of an array of the host."""
        if not isinstance(arr, np.ndarray) or arr.dtype != self.dtype or arr.shape != self.shape:
            raise TypeError(f"set: a host array of {self.dtype} {self.shape} is expected")
        self._payload[...] = arr
        counting.uploaded()

    def __array__(self, dtype=None):  # and no copy=, of which NumPy warns
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    # ---- what would wait without being asked to --------------------------------------------------

    def _read(self, name, *args):
        hidden_sync(f"{name} of a device array")
        return getattr(self._payload, name)(*args)

    def __bool__(self):
        return self._read("__bool__")

    def __float__(self):
        return self._read("__float__")

    def __int__(self):
        return self._read("__int__")

    def __complex__(self):
        return self._read("__complex__")

    def __contains__(self, value):
        return self._read("__contains__", value)

    def __format__(self, spec):
        return self._read("__format__", spec)

    def __str__(self):
        return self._read("__str__")

    def __reduce__(self):
        hidden_sync("pickling of a device array")
        return ndarray, (self._payload,)

    def item(self):
        return self._read("item")

    def tolist(self):
        return self._read("tolist")

    def tobytes(self, order="C"):
        return self._read("tobytes", order)

    def __repr__(self):
        return f"<array {self.dtype} {self.shape} on a simulated device>"  # debuggers ask for it

    __hash__ = None

    # ---- indices ---------------------------------------------------------------------------------

    def __len__(self):
        return len(self._payload)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key):
        key, arrays = self.checked_key(key)
        if not arrays:
            return self.view_of(self._payload[key])
        with in_range():
            payload = np.array(self._payload[key], order="C")
        if payload.size:
            launch(launches.gather(arrays))
        return ndarray(payload)

    def __setitem__(self, key, value):
        key, arrays = self.checked_key(key)
        with in_range() if arrays else nullcontext():
            target = self._payload[key]
        if isinstance(value, (np.ndarray, list, tuple)):
            if arrays:
                raise Hazard("host values for a scatter: CuPy copies them to the device each time")
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        values = value._payload if isinstance(value, ndarray) else value
        if target.size:
            if arrays:
                if np.size(values) > 1:
                    self.refuse_duplicates(key)
                launch(launches.gather(arrays) + launches.cast(value, self.dtype))
            else:
                launch(launches.copy(target, value))
        self._payload[key] = values

    def checked_key(self, key):
        """``key`` for the payload, so that an integer gives a view, and its arrays of indices."""
        parts = key if isinstance(key, tuple) else (key,)
        for part in parts:
            _check_part(part)
        parts = [_part(part) for part in parts]
        arrays = [part for part in parts if isinstance(part, np.ndarray)]
        if not arrays and not any(part is Ellipsis for part in parts):
            parts.append(Ellipsis)
        return tuple(parts), arrays

    def refuse_duplicates(self, key):
        """CuPy keeps any of the values that are written to an entry twice."""
        entries = np.arange(self.size).reshape(self.shape)[key].ravel()
        if len(np.unique(entries)) < len(entries):
            raise Hazard("duplicate indices in an assignment: which value stays is undefined")


@contextmanager
def in_range():
    """What is out of range is wrapped by CuPy, and nobody hears of it."""
    try:
        yield
    except IndexError as error:
        if "out of bounds" in str(error):
            raise Hazard(f"{error}: CuPy takes another entry, without a word") from None
        raise


def _check_part(part):
    """Raise if CuPy rejects this part of an index, copies it at each use, or waits for it."""
    if isinstance(part, (np.ndarray, list, range)):
        raise Hazard(f"index of type {type(part).__name__}: CuPy copies it to the device each time")
    if isinstance(part, (bool, np.bool_)):
        raise Hazard("a truth value as an index makes the host wait for the device")
    if isinstance(part, ndarray):
        if part.dtype == bool:
            hidden_sync("a boolean mask as an index")
        elif part.dtype.kind not in "iu":
            raise IndexError("arrays used as indices must be of integer or boolean type")


def _part(part):
    """This part of an index for the payload."""
    if isinstance(part, slice):
        return slice(*(_bound(x) for x in (part.start, part.stop, part.step)))
    return part._payload if isinstance(part, ndarray) else part


def _bound(x):
    """The bound of a slice; one on the device is read."""
    if not isinstance(x, ndarray):
        return x
    hidden_sync("a device array as the bound of a slice")
    return int(x._payload)
