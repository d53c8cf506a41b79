"""Calls: their names and arguments are checked against CuPy's, NumPy does them on the payloads."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache, partial, reduce

import numpy as np

from . import launches, table
from .array import in_range, ndarray
from .counting import Hazard, hidden_sync, launch

GATHERS = ("take", "take_along_axis", "put_along_axis")
"""Functions that read indices."""

SCALARS = (bool, int, float, complex, np.number, np.bool_)

SYNCS = set(
    "argpartition argwhere array2string array_repr array_str bincount compress extract flatnonzero"
    " histogram histogram2d histogramdd intersect1d nonzero save savetxt savez savez_compressed"
    " setdiff1d setxor1d shares_memory sliding_window_view trim_zeros union1d unique unique_all"
    " unique_counts unique_inverse unique_values unravel_index".split()
)
"""Functions that make the host wait: mostly since the shape of what they give depends on values."""

ON_HOST = set(
    "broadcast_shapes can_cast get_array_module isscalar issubdtype promote_types result_type"
    " may_share_memory shares_memory ndim shape size iscomplexobj isrealobj min_scalar_type".split()
)
"""Functions that tell of arrays what the host knows."""

KEEPS_ORDER = set("array asarray astype copy empty_like full_like ones_like zeros_like".split())
"""Functions whose result may be in Fortran's order; all others give rows without gaps."""

BINARY = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
}
"""The ufuncs of the operators that there are also swapped and in place."""

COMPARED = {
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
}

SCATTERS = {
    "add": "e f d i I l L q Q",
    "subtract": "i I",
    "maximum": "f d i I l L q Q",
    "minimum": "f d i I l L q Q",
}
"""The dtypes for which ``ufunc.at`` exists: it is done by atomic operations."""


def payload(x, where: str):
    """``x`` for NumPy, also inside tuples and lists; a host array is refused."""
    if isinstance(x, ndarray):
        return x._payload
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}: a host array given to {where}")
    if isinstance(x, (tuple, list)):
        return type(x)(payload(part, where) for part in x)
    return x


def arrays_in(*values):
    """The device arrays in ``values``, also in tuples and lists."""
    for value in values:
        if isinstance(value, ndarray):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from arrays_in(*value)


def on_device(result, sources, name=""):
    """``result`` of NumPy as arrays of the device; one that looks into a source is a view of it."""
    if isinstance(result, (tuple, list)):
        return type(result)(on_device(part, sources, name) for part in result)
    if not isinstance(result, (np.ndarray, np.generic, bool, int)):
        return result
    result = np.asarray(result)
    for source in sources:
        if result is source._payload:
            return source
    for source in sources:
        if result.size and np.may_share_memory(result, source._payload):
            return source.view_of(result)
    if name not in KEEPS_ORDER and not result.flags.c_contiguous:
        result = np.array(result, order="C")
    return ndarray(result)


class Function:
    """``cupy.sum`` and the like: CuPy's signature, NumPy's function, and a count of launches."""

    def __init__(self, full_name: str, function) -> None:
        self.full_name = full_name
        self.__name__ = full_name.rpartition(".")[2]
        self.function = function
        self.signature = table.signature(table.read()[full_name])

    def __call__(self, *args, **kwargs):
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.full_name}{self.signature}: {error}") from None
        return self.run(args, kwargs)

    def run(self, args, kwargs):
        """The result, with what it costs."""
        name = self.__name__
        self.refuse(args, kwargs)
        payloads = payload(args, self.full_name)
        named = {key: payload(value, self.full_name) for key, value in kwargs.items()}
        with in_range() if name in GATHERS else nullcontext():
            result = self.function(*payloads, **named)
        if name in ON_HOST:
            return result
        out, sources = kwargs.get("out"), list(arrays_in(args))
        result = out if out is not None else on_device(result, sources, name)
        launches.count(name, args, kwargs, result)
        return result

    def refuse(self, args, kwargs):
        """Raise where CuPy waits or copies without saying so."""
        name = self.__name__
        if (
            name in SYNCS
            or (name == "where" and len(args) + len(kwargs) == 1)
            or (name == "repeat" and next(arrays_in(*args[1:], *kwargs.values()), None) is not None)
        ):
            hidden_sync(self.full_name)
        if name == "where" and any(isinstance(x, (list, tuple)) for x in args):
            raise TypeError(f"Unsupported type {list} given to {self.full_name}")
        if name in GATHERS:
            index = kwargs.get("indices", args[1] if len(args) > 1 else None)
            if isinstance(index, (list, tuple, np.ndarray)):
                raise Hazard(f"{self.full_name}: CuPy copies host indices to the device each time")


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
        result = self.function(*inputs, order="C", **kwargs)
        result = out if out is not None else on_device(result, ())
        launch(any(part.size for part in arrays_in((result,))))
        launch(sum(_overlap(x, out) for x in arrays_in(args[: self.nin])))
        return result

    def reduce(self, a, axis=0, dtype=None, out=None, keepdims=False):
        """CuPy reduces sums and products."""
        self._only("reduce", "add", "multiply")
        name = "sum" if self.__name__ == "add" else "prod"
        return function(f"cupy.{name}")(a, axis, dtype, out, keepdims)

    def accumulate(self, a, axis=0, dtype=None, out=None):
        self._only("accumulate", "add", "multiply")
        name = "cumsum" if self.__name__ == "add" else "cumprod"
        return function(f"cupy.{name}")(a, axis, dtype, out)

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


def _overlap(x, out):
    """Whether ``x`` has to be copied before ``out`` is written: they share some memory, not all."""
    if out is None or not np.may_share_memory(x._payload, out._payload):
        return False
    same = x._payload.ctypes.data == out._payload.ctypes.data
    return not (same and x.shape == out.shape and x.strides == out.strides)


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


# ---- what an array is given --------------------------------------------------------------------


def _array_ufunc(self, ufunc, method, *args, **kwargs):
    """NumPy's ufuncs on device arrays are CuPy's."""
    if any(isinstance(x, (tuple, list, str, type(None))) for x in args):
        return NotImplemented
    if kwargs.get("out"):
        (kwargs["out"],) = kwargs["out"]
    try:
        ours = _named(ufunc.__name__)
    except AttributeError:
        return NotImplemented
    return (ours if method == "__call__" else getattr(ours, method))(*args, **kwargs)


def _array_function(self, func, types, args, kwargs):
    """NumPy's functions on device arrays are CuPy's of the same module and name."""
    module = (func.__module__ or "numpy").split(".")[1:]
    if not all(issubclass(kind, (ndarray, np.ndarray)) for kind in types):
        return NotImplemented
    try:
        ours = _named(".".join([*module, func.__name__]))
    except AttributeError:
        return NotImplemented
    return ours(*args, **kwargs)


def _named(name):
    """What the module has under that name, its own functions first."""
    from .namespace import cupy

    return reduce(getattr, name.split("."), cupy)


class _Method(Function):
    """A method by its name in the table: that of the payload."""

    def __init__(self, name: str) -> None:
        super().__init__(f"cupy.ndarray.{name}", None)

    def __get__(self, array, kind=None):
        return self if array is None else partial(self._on, array)

    def _on(self, array, *args, **kwargs):
        self.function = lambda x, *rest, **named: getattr(x, self.__name__)(*rest, **named)
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.full_name}{self.signature}: {error}") from None
        return self.run((array, *args), kwargs)


def _operator(name, swapped=False, in_place=False):
    def operate(self, other):
        if not isinstance(other, (ndarray, np.ndarray, *SCALARS)):
            return NotImplemented
        args = (other, self) if swapped else (self, other)
        return _named(name)(*args, **({"out": self} if in_place else {}))

    return operate


def _no_matmul_in_place(self, other):
    raise Hazard("CuPy has no @=: Python would make a new array and bind the name to it")


def _complete_array():
    """Give ``ndarray`` what it has by name: operators, methods, NumPy's functions."""
    ndarray.__array_ufunc__ = _array_ufunc
    ndarray.__array_function__ = _array_function
    for short, name in BINARY.items():
        setattr(ndarray, f"__{short}__", _operator(name))
        setattr(ndarray, f"__r{short}__", _operator(name, swapped=True))
        setattr(ndarray, f"__i{short}__", _operator(name, in_place=True))
    ndarray.__matmul__ = _operator("matmul")
    ndarray.__rmatmul__ = _operator("matmul", swapped=True)
    ndarray.__imatmul__ = _no_matmul_in_place
    for short, name in COMPARED.items():
        setattr(ndarray, f"__{short}__", _operator(name))
    ndarray.__hash__ = None
    ndarray.__neg__ = lambda self: _named("negative")(self)
    ndarray.__pos__ = lambda self: _named("positive")(self)
    ndarray.__abs__ = lambda self: _named("absolute")(self)
    ndarray.__invert__ = lambda self: _named("invert")(self)
    ndarray.__divmod__ = lambda self, other: _named("divmod")(self, other)
    ndarray.__copy__ = lambda self: self.copy()
    ndarray.__deepcopy__ = lambda self, memo: self.copy()
    for full_name, text in table.read().items():
        part, _, name = full_name.rpartition(".")
        if part == "cupy.ndarray" and text and not hasattr(ndarray, name):
            setattr(ndarray, name, _Method(name))


_complete_array()
