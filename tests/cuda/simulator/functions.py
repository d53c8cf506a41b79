"""Calls of functions: checked against CuPy's signatures, done by NumPy on the payloads, counted."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np

from . import launches, table
from .array import in_range, ndarray
from .counting import Hazard, hidden_sync

GATHERS = ("take", "take_along_axis", "put_along_axis")
"""Functions that read indices."""

SYNCS = set(
    "argpartition argwhere array2string array_repr array_str bincount compress delete extract"
    " flatnonzero histogram histogram2d histogramdd intersect1d nanmax nanmin nonzero place putmask"
    " save savetxt savez savez_compressed setdiff1d setxor1d shares_memory sliding_window_view"
    " trim_zeros union1d unique unique_all unique_counts unique_inverse unique_values"
    " unravel_index".split()
)
"""Functions that make the host wait: mostly since the shape of what they give depends on values."""

COSTLY = set(
    "append apply_along_axis apply_over_axes cross cumulative_prod cumulative_sum insert interp"
    " isin median nanmedian percentile quantile ravel_multi_index select trapezoid".split()
)
"""Functions that take several launches, of which nobody has said how many: they are refused."""

NOT_ON_DEVICE = set("axes axis axis1 axis2 destination newshape reps shape source".split())
"""Arguments that have to be integers of the host."""

READ = set("decimals num start step stop".split())
"""Arguments that are read, if they are on the device."""

ON_HOST = set(
    "broadcast_shapes can_cast get_array_module isscalar issubdtype promote_types result_type"
    " may_share_memory shares_memory ndim shape size iscomplexobj isrealobj min_scalar_type".split()
)
"""Functions that tell of arrays what the host knows."""

KEEPS_ORDER = set("array asarray astype copy empty_like full_like ones_like zeros_like".split())
"""Functions whose result may be in Fortran's order; all others give rows without gaps."""


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
        self.expect_fitting(*args, **kwargs)
        return self.run(args, kwargs)

    def expect_fitting(self, *args, **kwargs):
        """Raise TypeError unless CuPy's function takes such arguments."""
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.full_name}{self.signature}: {error}") from None
        for name, value in bound.arguments.items():
            if name in NOT_ON_DEVICE and next(arrays_in(value), None) is not None:
                raise TypeError("'ndarray' object cannot be interpreted as an integer")
            if name in READ and isinstance(value, ndarray):
                hidden_sync(f"{name} of {self.full_name} on the device")

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
        name, more = self.__name__, [*args[1:], *kwargs.values()]
        counts = name == "repeat" and any(isinstance(x, ndarray) for x in more)
        if name in SYNCS or (name == "where" and not more) or counts:
            hidden_sync(self.full_name)
        if name in COSTLY:
            raise Hazard(f"{self.full_name} takes several launches; say how many in launches.py")
        if name == "where" and any(isinstance(x, (list, tuple)) for x in args):
            raise TypeError(f"Unsupported type {list} given to {self.full_name}")
        if name in GATHERS:
            index = kwargs.get("indices", args[1] if len(args) > 1 else None)
            if isinstance(index, (list, tuple, np.ndarray)):
                raise Hazard(f"{self.full_name}: CuPy copies host indices to the device each time")
