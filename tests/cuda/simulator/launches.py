"""How many kernels CuPy launches for a call; ``test_simulator`` has CuPy itself counted beside it.

What follows are numbers of launches, unless it is said that something is counted.
"""

from __future__ import annotations

import numpy as np

from . import counting

SEVERAL = {
    "allclose": 2,
    "argsort": 2,
    "array_equal": 2,
    "linspace": 2,
    "nan_to_num": 3,
    "norm": 3,
    "ptp": 3,
    "roll": 2,
    "sort": 2,
    "std": 4,
    "take_along_axis": 4,
    "tril": 2,
    "triu": 2,
    "var": 3,
    "zeros": 0,  # set as memory
    "zeros_like": 0,
}
"""Functions that take more or fewer than one."""

IN_PLACE = {"fill_diagonal": 1, "partition": 1, "put": 2, "put_along_axis": 5, "sort": 1}
"""What gives nothing, and changes its argument."""

JOINS = set("concatenate concat stack vstack hstack column_stack".split())
PRODUCTS = set("matmul dot tensordot inner".split())

MANY = 9
"""So many arrays are joined in one launch, for which their addresses are copied to the device."""


def is_array(x) -> bool:
    """Whether ``x`` is an array of the device."""
    return hasattr(x, "_payload")


# ---- copies --------------------------------------------------------------------------------------


def gather(arrays) -> int:
    """To index with these arrays: one, and one for each of several, which are combined first."""
    return 1 if len(arrays) == 1 else 1 + len(arrays)


def cast(value, dtype) -> int:
    """To make ``value`` an array of ``dtype``; zeros are set as memory."""
    return int(value.dtype != dtype if is_array(value) else value != 0)


def copy(target, value) -> int:
    """To copy ``value`` into ``target``, an array of NumPy; none if memory is copied as it is."""
    if not is_array(value):
        return int(not target.flags.c_contiguous or value != 0)
    source = value._payload
    if source.shape == target.shape and source.dtype == target.dtype:
        if is_same(source, target):
            return 0  # ``x[...] += y`` writes its result to where it stands
        if source.flags.c_contiguous and target.flags.c_contiguous:
            return 0
        if source.flags.f_contiguous and target.flags.f_contiguous:
            return 0
    return 1 + np.may_share_memory(source, target)


def is_same(a, b) -> bool:
    """Whether two arrays of NumPy are the same memory, in the same order."""
    return a.ctypes.data == b.ctypes.data and a.shape == b.shape and a.strides == b.strides


def overlap(x, out) -> bool:
    """Whether ``x`` is copied before ``out`` is written, as it shares some of its memory."""
    if out is None or not np.may_share_memory(x._payload, out._payload):
        return False
    return not is_same(x._payload, out._payload)


def scatter(a, arrays, values) -> int:
    """For ``add.at(a, key, values)`` where the key has these arrays."""
    if not arrays:
        return 2
    return (gather(arrays) + cast(values, a.dtype)) if np.size(arrays[0]) else 0


# ---- functions -----------------------------------------------------------------------------------


def count(name, args, kwargs, result) -> None:
    """Count what a call has cost."""
    if name in JOINS:
        _count_joined(args[0], result)
    elif name in PRODUCTS:
        _count_product(name, *args[:2], result, kwargs.get("out"))
    elif name == "einsum":
        counting.launch()
        counting.product(_contracts(args[0]))
    elif name == "fill":
        counting.launch(copy(args[0]._payload, args[1]))
    elif name == "copyto":
        counting.launch(_copied(*args, **kwargs))
    elif result is None:
        counting.launch(IN_PLACE.get(name, 0))
    elif _makes_something(args, result):
        counting.launch(_of_whole(name, args, result))


def _makes_something(args, result) -> bool:
    """Whether there is an array in the result that is neither empty, a view, nor an argument."""
    results = result if isinstance(result, (tuple, list)) else (result,)
    made = [x for x in results if is_array(x) and not any(x is arg for arg in args)]
    return any(x.size and x.base is None for x in made)


def _of_whole(name, args, result) -> int:
    """For a function that goes through all of its argument."""
    if name in ("cumsum", "cumprod"):
        return 2 if result.ndim > 1 else 1
    if name == "meshgrid":
        return len(result)
    if name == "norm" and result.ndim:
        return 1
    if name == "mean" and args[0].dtype.char not in "fd":
        return 2
    return SEVERAL.get(name, 1)


def _copied(dst, src, casting="same_kind", where=None) -> int:
    if not dst.size:
        return 0
    return copy(dst._payload, src) if where is None and is_array(src) else 1


def _count_joined(arrays, result) -> None:
    parts = [x for x in arrays if x.size]
    if len(parts) < MANY or any(x.dtype != result.dtype for x in parts):
        counting.launch(len(parts))
    else:
        counting.launch()
        counting.uploaded()


def _count_product(name, a, b, result, out) -> None:
    """That of cuBLAS, and copies: of what it cannot read, and of its result into a view."""
    if not (result.size and a.size and b.size):
        return
    if a.ndim == b.ndim == 1:
        counting.launch()
        return
    counting.product()
    batched = name == "matmul" and max(a.ndim, b.ndim) > 2
    for x in (a, b):
        readable = x.flags.c_contiguous or (x.flags.f_contiguous and not batched)
        counting.launch(x.dtype != result.dtype or not readable)
    if batched and a.shape[:-2] != b.shape[:-2]:
        counting.launch(3)  # the addresses of the factors and of the result, one array each
    counting.launch(out is not None and not out.flags.c_contiguous)


def _contracts(subscripts) -> bool:
    """Whether two operands share an index that the result has not, so that it is a product."""
    inputs, _, output = subscripts.partition("->")
    a, _, b = inputs.partition(",")
    return bool((set(a) & set(b)) - set(output))
