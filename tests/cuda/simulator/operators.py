"""What an array is given by name: operators, methods, the way from NumPy's functions to CuPy's."""

from __future__ import annotations

from functools import partial, reduce

import numpy as np

from . import table
from .array import ndarray
from .counting import Hazard
from .functions import Function
from .ufuncs import SCALARS

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
    """What ``cupy`` has under that name."""
    return reduce(getattr, name.split("."), ndarray.home)


class _Method(Function):
    """A method by its name in the table: that of the payload."""

    def __init__(self, name: str) -> None:
        super().__init__(f"cupy.ndarray.{name}", getattr(np.ndarray, name))

    def __get__(self, array, kind=None):
        return self if array is None else partial(self._on, array)

    def _on(self, array, *args, **kwargs):
        self.expect_fitting(*args, **kwargs)
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
    for full_name in table.read():
        part, _, name = full_name.rpartition(".")
        if part == "cupy.ndarray" and hasattr(np.ndarray, name) and not hasattr(ndarray, name):
            setattr(ndarray, name, _Method(name))


_complete_array()
