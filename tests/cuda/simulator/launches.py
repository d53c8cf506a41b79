"""How many kernels CuPy launches for a call, as ``tests/cuda/test_simulator.py`` has measured."""

from __future__ import annotations

import numpy as np

from . import counting
from .array import _gather, _to_dtype, ndarray

SEVERAL = {
    "argsort": 2,
    "array_equal": 2,
    "linspace": 2,
    "nan_to_num": 3,
    "norm": 3,
    "ptp": 3,
    "put_along_axis": 5,
    "roll": 2,
    "sort": 2,
    "std": 4,
    "take_along_axis": 4,
    "tril": 2,
    "triu": 2,
    "var": 3,
}
"""Functions that take more than one."""

FREE = set("zeros zeros_like empty empty_like".split())
"""Functions that take none: what they make is set as memory, or not at all."""

PRODUCTS = set("matmul dot tensordot inner einsum".split())

MANY = 9
"""So many arrays are joined in one launch, for which their addresses are copied to the device."""


def count(name, args, kwargs, result) -> None:
    """Count what a call has cost."""
    results = result if isinstance(result, (tuple, list)) else (result,)
    out = kwargs.get("out")
    if name == "fill":
        _count_fill(*args)
    elif name in ("concatenate", "concat", "stack", "vstack", "hstack", "column_stack"):
        _count_joined(args[0], result)
    elif name in PRODUCTS:
        _count_product(name, args, result, out)
    elif name == "copyto":
        args[0]._payload.size and counting.launch(_copies(*args, **kwargs))
    elif name == "put_along_axis" or any(
        x.size and x.base is None and x is not arg
        for x in results
        if isinstance(x, ndarray)
        for arg in args[:1] or (None,)
    ):
        counting.launch(_of_whole(name, args, result))


def _of_whole(name, args, result):
    """The launches of a function that goes through its whole argument."""
    if name in FREE:
        return 0
    x = args[0] if args else None
    if name in ("cumsum", "cumprod"):
        return 2 if result.ndim > 1 else 1
    if name == "mean" and x.dtype.kind in "iub":
        return 2
    return SEVERAL.get(name, 1)


def _count_fill(x, value):
    counting.launch(int(not x.flags.c_contiguous or value != 0))


def _copies(dst, src, casting="same_kind", where=None):
    if where is None and isinstance(src, ndarray):
        same = src.dtype == dst.dtype and src.shape == dst.shape
        return int(not (same and src.flags.c_contiguous and dst.flags.c_contiguous))
    return 1


def _count_joined(arrays, result):
    parts = [x for x in arrays if x.size]
    if len(parts) < MANY or any(x.dtype != result.dtype for x in parts):
        counting.launch(len(parts))
    else:
        counting.launch()
        counting.uploaded()


def _count_product(name, args, result, out):
    """Those of ``a @ b``: copies of what cuBLAS cannot read, and of its result into a view."""
    a, b = [x for x in args if isinstance(x, ndarray)][:2] if name != "einsum" else (None, None)
    if name == "einsum":
        counting.launch()
        counting.product(_contracts(args[0]))
        return
    if not (result.size and a.size and b.size):
        return
    if a.ndim == b.ndim == 1:
        counting.launch()
        return
    counting.product()
    casts = sum(x.dtype != result.dtype for x in (a, b))
    batched = name == "matmul" and max(a.ndim, b.ndim) > 2
    copied = 0
    for x in (a, b):
        readable = x.flags.c_contiguous or (x.flags.f_contiguous and not batched)
        copied += not readable and x.dtype == result.dtype
    if batched and a.shape[:-2] != b.shape[:-2]:
        copied += 3  # the addresses of the factors and of the result, one array each
    if out is not None and not out.flags.c_contiguous:
        copied += 1
    counting.launch(casts + copied)


def _contracts(subscripts):
    """Whether two operands share an index that the result has not, so that it is a product."""
    inputs, _, output = subscripts.partition("->")
    a, _, b = inputs.partition(",")
    return bool((set(a) & set(b)) - set(output))


def scatter(a, arrays, values):
    """The launches of ``add.at(a, key, values)`` for a key with these ``arrays``."""
    size = np.size(arrays[0]) if arrays else a.size
    return size and (_gather(arrays) + _to_dtype(values, a.dtype) if arrays else 2)
