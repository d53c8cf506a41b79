"""Seconds that are counted once, though functions call each other; and those of matrix products.

A function's own time is what passes while it runs, less what passes in functions that are metered
themselves, less what the meter takes.  The products inside are found by handing it its arrays as
``TimedArray``: NumPy lets such an array do the work itself, so that it can look at the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from time import perf_counter as clock
from typing import Any

import numpy as np
from numpy import ndarray

from .costs import Use
from .cotangents import Term
from .observer import OBSERVER, Observer
from .products import OuterProduct

__all__: list[str] = []

_CONTRACTIONS = (np.dot, np.inner, np.tensordot, np.vdot)
_IN_BLAS = "fdFD"  # the dtypes that NumPy gives to BLAS; others it multiplies by loops of its own


class Meter(Observer):
    """An observer with a clock."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Since the innermost metered function began: of what it called, and of the meter."""
        self.overhead = 0.0
        """Of the meter alone, in all."""
        self.running: list[str] = []
        self.use = Use()
        """That of the innermost function that runs."""
        self.ended = 0.0
        """When the last metered function did."""
        self.timing = False
        """Whether what arithmetic makes of a TimedArray is one, too."""

    def run(
        self, name: str, use: Use, way: str, begun: float, function: Callable[..., Any], *args: Any
    ) -> Any:
        """``function(*args)``, its time added to ``use``; the meter is at work since ``begun``."""
        seconds, overhead, outer = self.seconds, self.overhead, self.use
        again = name in self.running
        self.running.append(name)
        self.seconds, self.use = 0.0, use
        start = clock()
        try:
            return function(*args)
        finally:
            self.ended = clock()
            passed = self.ended - start
            setattr(use, way, getattr(use, way) + passed - self.seconds)
            if not again:  # or the outer call has it in its total
                use.total += passed - (self.overhead - overhead)
            self.running.pop()
            self.seconds, self.use = seconds + self.ended - begun, outer
            self.overhead += start - begun

    def charge(self, begun: float) -> None:
        """Count the time since ``begun`` as the meter's own."""
        passed = clock() - begun
        self.seconds += passed
        self.overhead += passed


class TimedArray(ndarray):
    """An array whose matrix products tell the Meter who looks on how long they took."""

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        function = getattr(ufunc, method)
        is_product = ufunc.signature is not None and method == "__call__"  # matmul and its like
        y = _timed_call(function, is_product, args, kwargs)
        out = kwargs.get("out")
        return y if out is None else out[0] if len(out) == 1 else out

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function in _CONTRACTIONS:
            return _timed_call(function, True, args, kwargs)
        y = super().__array_function__(function, types, args, kwargs)
        return timed(y) if isinstance(OBSERVER.get(), Meter) else y  # such as a concatenation

    def dot(self, *args: Any, **kwargs: Any) -> Any:
        """As ``np.dot``, which the method of an array does not call."""
        return np.dot(self, *args, **kwargs)


def _timed_call(
    function: Any, is_product: bool, args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    """``function`` of the arrays themselves; its result is a TimedArray again."""
    begun = clock()
    args = [_itself(x) for x in args]
    kwargs = {name: _itself(x) for name, x in kwargs.items()}
    start = clock()
    y = function(*args, **kwargs)
    end = clock()
    meter = OBSERVER.get()
    if isinstance(meter, Meter):
        if is_product and y.dtype.char in _IN_BLAS:
            meter.use.blas += end - start
            meter.use.flops += _flops(function, args[0], args[1], y)
        y = timed(y) if meter.timing else y
        meter.seconds -= end - start  # all but the function's own
        meter.overhead -= end - start
        meter.charge(begun)
    return y


def _itself(x: Any) -> Any:
    """``x``, or the arrays in a tuple, as an array that has no clock."""
    if type(x) is TimedArray:
        return x.view(ndarray)
    return tuple(map(_itself, x)) if type(x) is tuple else x


def _flops(function: Any, a: Any, b: Any, y: Any) -> int:
    """Additions and multiplications of a product: 2 n for each sum of n terms."""
    if function in _CONTRACTIONS:  # of sides (m, n) and (n, k): the root of mn * nk * mk
        terms = round(sqrt(a.size * b.size * y.size))
    else:
        terms = y.size * a.shape[-1]
    return (8 if y.dtype.kind == "c" else 2) * terms


def timed(x: Any) -> Any:
    """``x``, or the arrays in a tuple, as a TimedArray."""
    if type(x) is ndarray and x.dtype.kind in "fc":
        return x.view(TimedArray)
    return tuple(map(timed, x)) if type(x) is tuple else x


def plain(x: Any) -> Any:
    """``x``, or what is in a tuple, a list, a dict or a term of a cotangent, without a clock.

    Outer products get one, to be timed when they are written out: that gives a plain array.
    """
    if type(x) is TimedArray:
        base: Any = x.base  # what ``timed`` was given, but for slices and other views of that
        whole = type(base) is ndarray and (base.shape, base.strides) == (x.shape, x.strides)
        return base if whole and base.dtype == x.dtype else x.view(ndarray)
    if isinstance(x, (tuple, list)):
        return [plain(part) for part in x] if type(x) is list else tuple(map(plain, x))
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    if isinstance(x, OuterProduct):
        x.x, x.g = timed(x.x), timed(x.g)
    elif isinstance(x, Term):
        for name in [name for kind in type(x).__mro__ for name in getattr(kind, "__slots__", ())]:
            if hasattr(x, name):
                setattr(x, name, plain(getattr(x, name)))
    return x
