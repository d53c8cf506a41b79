"""Linear operations come in adjoint pairs: the VJP of each is the other.

``sum_to`` and ``broadcast_to``, ``getitem`` and ``scatter``, ``stack`` and ``unstack``,
``concatenate`` and ``split``; ``reshape`` and ``transpose`` are their own.  For a linear A,
``<A x, g> == <x, A* g>``, and A* is the VJP.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from .backend import backend_of, is_array, is_device_array, on_device
from .cotangents import Sum, Term
from .engine import TensorCore, formula, op
from .errors import DtypeError, ShapeError, described, expect_one_device, explained

__all__ = [
    "broadcast_to",
    "concatenate",
    "cumsum",
    "expand_dims",
    "flip",
    "getitem",
    "moveaxis",
    "pad",
    "repeat",
    "reshape",
    "scatter",
    "scatter_add",
    "split",
    "squeeze",
    "stack",
    "sum_to",
    "swapaxes",
    "take",
    "take_along_axis",
    "tile",
    "to_device",
    "transpose",
    "unstack",
]

# ---- sums and copies along axes ----------------------------------------------------------------


@op(x=lambda g, x_shape: broadcast_to(g, x_shape))
def sum_to(x, shape):
    """``x`` summed to ``shape``, from which it could have been broadcast."""
    lead = x.ndim - len(shape)
    if x.shape[lead:] == shape:  # a bias
        return x.sum(tuple(range(lead))).reshape(shape)
    if lead < 0 or any(n not in (1, m) for n, m in zip(shape, x.shape[lead:], strict=True)):
        raise ValueError(f"{tuple(shape)} cannot be broadcast to {x.shape}")
    axes = tuple(i for i in range(x.ndim) if i < lead or (shape[i - lead] == 1 != x.shape[i]))
    return x.sum(axes, keepdims=True).reshape(shape)


@op(x=lambda g: g)  # still broadcast; the engine sums it
def broadcast_to(x, shape):
    """``x`` repeated along new axes and axes of length 1 until it has ``shape``."""
    return np.broadcast_to(x, shape)


@op(x=lambda g: g)  # the engine casts it back
def _astype(x, dtype):
    return x.astype(dtype)


def astype(x, dtype):
    """``x`` in another dtype; a tracked Tensor only in another floating-point dtype."""
    try:
        dtype = np.dtype(dtype)
    except TypeError as error:
        raise DtypeError(
            f"astype(x, dtype): dtype is {described(dtype)}\n  expected: a dtype of NumPy\n"
            "  hint: np.float32, np.float64 or int"
        ) from error
    if dtype.kind not in "fc" and getattr(x, "node", None) is not None:
        raise DtypeError(
            f"astype(x, dtype): {dtype} has no gradients, and x is tracked\n"
            "  expected: a floating-point dtype, or a constant\n"
            "  hint: x.detach().astype(dtype)"
        )
    return _astype(x, dtype)


@op(x=lambda g, axis: flip(cumsum(flip(g, axis), axis), axis))
def _cumsum(x, axis):
    return np.cumsum(x, axis)


@formula
def cumsum(x, axis=None):
    """The running sum along ``axis``; of the flattened array if ``axis`` is None."""
    return _cumsum(reshape(x, -1), 0) if axis is None else _cumsum(x, axis)


@op(x=lambda g, source: to_device(g, source))
def _to_device(x, source, target):
    return on_device(x, target)


def to_device(x, device):
    """``x`` on another device; its cotangent travels back."""
    source = backend_of(getattr(x, "array", x)).device
    return _to_device(x, source, device)


# ---- the same entries in another shape ---------------------------------------------------------


@op(x=lambda g, x_shape: reshape(g, x_shape))
def reshape(x, shape):
    """The entries of ``x``, in C order, in another shape; one side may be -1."""
    return np.reshape(x, shape)


@op(x=lambda g: g.T)
def _transpose(x):
    return x.T


# So the cotangent of W.T, a sum of outer products, reaches W as one.
_transpose.operation.rules[0][1].takes_terms = True


@op(x=lambda g, axes: _permute(g, [axes.index(i) for i in range(len(axes))]))
def _permute(x, axes):
    return np.transpose(x, axes)


@formula
def transpose(x, axes=None):
    """``x`` with its axes permuted, reversed if ``axes`` is None."""
    if axes is None:
        return _transpose(x)
    given = axes
    axes = list(normalize_axis_tuple(axes, x.ndim))
    if len(axes) != x.ndim:
        raise ShapeError(
            f"transpose(x, axes): axes {given}, x {x.shape}\n"
            f"  expected: each of the {x.ndim} axes once\n"
            "  hint: swapaxes(x, i, j) exchanges two axes, x.T reverses all"
        )
    return _transpose(x) if axes == list(range(x.ndim))[::-1] else _permute(x, axes)


@formula
def swapaxes(x, axis1, axis2):
    """``x`` with two axes exchanged."""
    axes = list(range(x.ndim))
    (axis1,), (axis2,) = (normalize_axis_tuple(axis, x.ndim) for axis in (axis1, axis2))
    axes[axis1], axes[axis2] = axes[axis2], axes[axis1]
    return transpose(x, axes)


@formula
def moveaxis(x, source, destination):
    """``x`` with axis ``source`` moved to ``destination``, the others in their order."""
    axes = list(range(x.ndim))
    (destination,) = normalize_axis_tuple(destination, x.ndim)
    axes.insert(destination, axes.pop(source))
    return transpose(x, axes)


@formula
def expand_dims(x, axis):
    """``x`` with a new axis of length 1 at ``axis``."""
    return reshape(x, np.expand_dims(np.broadcast_to(0, x.shape), axis).shape)


@formula
def squeeze(x, axis=None):
    """``x`` without its axes of length 1, or without the one(s) named."""
    return reshape(x, np.squeeze(np.broadcast_to(0, x.shape), axis).shape)


# ---- some of the entries -----------------------------------------------------------------------


class Placed(Term):
    """Zero but for ``g`` at ``index``: a slice of a sequence, or rows of an embedding table.

    ``once`` is whether ``index`` is known to name no entry twice.
    """

    __slots__ = ("g", "index", "once")
    waits = True

    def __init__(self, g: Any, index: Any, shape: tuple[int, ...], once: bool = False) -> None:
        self.g, self.index, self.once = g, index, once
        self.shape, self.dtype = shape, g.dtype
        self.nbytes = prod(g.shape) * g.dtype.itemsize

    def dense(self) -> Any:
        return _scatter(self.g, self.index, self.shape, self.once)

    @staticmethod
    def add_up(terms: Sequence[Placed], total: Any) -> Any:
        if total is None:
            first, *terms = terms
            total = first.dense()
        dtype = np.result_type(total.dtype, *[term.dtype for term in terms])
        if total.dtype != dtype:
            total = _astype(total, dtype)
        if isinstance(total, TensorCore):  # the backward pass is recorded
            for term in terms:
                total = _scatter_add(total, term.index, term.g, term.once)
            return total
        backend = backend_of(total)
        for term in terms:
            backend.scatter_add(total, term.index, term.g, term.once)
        return total


@op(x=lambda g, index, x_shape: Placed(g, index, x_shape))
def _getitem(x, index):
    return entries(x, index)


def entries(x, index):
    """``x[index]`` of an array; whole rows are taken in half the time."""
    if type(index) is np.ndarray is type(x) and index.dtype == np.intp and x.flags.c_contiguous:
        return x.take(index, 0) if x.ndim else x[index]
    return x[index]


@op(x=lambda g, index: _getitem(g, index))
def _scatter(x, index, shape, once=False):
    return backend_of(x).scatter(x, index, shape, once)


def getitem(x, index):
    """``x[index]``: integers, slices, ``...``, None, integer arrays, masks, and mixtures.

    Into an array of a device, indices of the host are checked on the way there; those of the device
    are not, for the host would have to wait: they wrap round.  For a mask of the device it waits.
    """
    return _getitem(x, _frozen(index, x, x.shape))


def scatter(x, index, shape, once=False):
    """Zeros of ``shape`` with ``x`` added at ``index``; an entry named twice gets both.

    ``once`` promises that none is, which saves looking.
    """
    return _scatter(x, _frozen(index, x, shape), shape, once)


def gathering(g: Any) -> Sum:
    """The cotangent ``g`` as a sum with an array of its own, to which more is added in place."""
    return g if isinstance(g, Sum) else Sum(g.shape, g.dtype).include(g)


def _added(g, index):
    """The cotangents of what was there, in the same array, and of what was added."""
    g = gathering(g)
    return g, None, g.dense()[index], None


@op(_added)
def _scatter_add(x, index, updates, once=False):
    """``x``, which nobody else holds, with ``updates`` added in place."""
    backend_of(x).scatter_add(x, index, updates, once)
    return x


_scatter_add.operation.joint.takes_terms = True


@formula
def scatter_add(x, index, updates):
    """``x`` with ``updates`` added at ``index``; an entry named twice gets both."""
    expect_one_device("scatter_add", x=x, updates=updates)
    own = _astype(x, np.result_type(x.dtype, updates.dtype))
    return _scatter_add(own, _frozen(index, x, x.shape), updates)


def _before(x, axis):
    """Whole slices for the axes before ``axis``."""
    return (slice(None),) * normalize_axis_tuple(axis, x.ndim)[0]


def _frozen(index, x, shape):
    """The index into ``shape`` with copies of its arrays, where ``x`` is: no change reaches them.

    On a device they are uploaded here, once, and checked before, for CuPy would wrap them.
    """
    index, array = _copied(index), getattr(x, "array", x)
    if type(array) is np.ndarray or not (isinstance(index, tuple) or is_array(index)):
        return index
    try:
        return backend_of(array).index(index, shape)
    except IndexError as error:
        raise explained("getitem", {"x": x, "index": index}, error) from error


def _copied(index):
    """The index with copies of its arrays, as integers or masks."""
    if isinstance(index, tuple):
        return tuple(map(_copied, index))
    if isinstance(index, TensorCore):
        if index.node is not None:
            raise DtypeError(
                f"index: {described(index.array)} in a tracked Tensor\n"
                "  expected: integers, a slice or a mask, for an index has no gradient\n"
                "  hint: x.argmax() and comparisons give plain arrays; ids.astype(int) of constants"
            )
        index = index.array
    if isinstance(index, (list, range, np.ndarray)):
        try:
            index = np.array(index)
        except ValueError as error:
            hint = "x[rows, columns] takes an entry for each pair"
            told = f"index: {described(index)}\n  expected: rows of equal lengths"
            raise ShapeError(f"{told}\n  hint: {hint}") from error
        empty = index.size == 0 and index.dtype != bool  # np.array([]) is float
        return index.astype(np.intp, copy=False) if index.dtype.kind in "iu" or empty else index
    return index.copy() if is_device_array(index) else index


@formula
def flip(x, axis=None):
    """``x`` with the order of its entries reversed along ``axis``, along every axis if None."""
    axes = range(x.ndim) if axis is None else normalize_axis_tuple(axis, x.ndim)
    return _getitem(x, tuple(slice(None, None, -1 if i in axes else 1) for i in range(x.ndim)))


@formula
def take(x, indices, axis=None):
    """The entries, or the slices along ``axis``, that ``indices`` name; flattened if None."""
    if axis is None:
        return getitem(reshape(x, -1), indices)
    return getitem(x, (*_before(x, axis), indices))


@formula
def take_along_axis(x, indices, axis):
    """``x[..., indices[..., i, ...], ...]``: one index for each entry of the result."""
    indices = indices if hasattr(indices, "ndim") else np.array(indices)
    if indices.ndim != x.ndim:
        raise ShapeError(
            f"take_along_axis(x, indices, axis): x {x.shape}, indices {indices.shape}\n"
            f"  expected: indices with {x.ndim} axes too\n  hint: expand_dims(indices, axis)"
        )
    (axis,) = normalize_axis_tuple(axis, x.ndim)
    arange, ones = backend_of(getattr(x, "array", x)).arange, [1] * x.ndim
    grid = [arange(n).reshape(*ones[:i], n, *ones[i + 1 :]) for i, n in enumerate(x.shape)]
    grid[axis] = indices
    return getitem(x, tuple(grid))


@formula
def repeat(x, repeats, axis=None):
    """``x`` with each entry along ``axis`` repeated, in NumPy's sense; flattened if None."""
    if axis is None:
        x, axis = reshape(x, -1), 0
    (axis,) = normalize_axis_tuple(axis, x.ndim)
    return take(x, np.repeat(np.arange(x.shape[axis]), repeats), axis)


@formula
def tile(x, reps):
    """``x`` laid side by side ``reps`` times along each axis, in NumPy's sense."""
    reps = (reps,) if isinstance(reps, int) else tuple(reps)
    ndim = max(len(reps), x.ndim)
    reps = (1,) * (ndim - len(reps)) + reps
    shape = (1,) * (ndim - x.ndim) + x.shape
    pairs = [side for n in shape for side in (1, n)]
    copies = [side for k, n in zip(reps, shape, strict=True) for side in (k, n)]
    wide = broadcast_to(reshape(x, pairs), tuple(copies))
    return reshape(wide, tuple(k * n for k, n in zip(reps, shape, strict=True)))


@formula
def pad(x, pad_width, constant_value=0.0):
    """``x`` with a margin of a constant; ``pad_width`` is NumPy's: n, (before, after), or pairs."""
    widths = np.broadcast_to(pad_width, (x.ndim, 2)).tolist()
    inside = tuple(slice(a, a + n) for (a, _), n in zip(widths, x.shape, strict=True))
    shape = tuple(a + n + b for (a, b), n in zip(widths, x.shape, strict=True))
    if constant_value == 0.0:
        return _scatter(x, inside, shape)
    return _scatter(x - constant_value, inside, shape) + constant_value


# ---- several arrays in one ---------------------------------------------------------------------


@op(lambda g, axis, arrays_shape: (None, *_split(g, _ends(arrays_shape, axis), axis)))
def _concatenate(axis, *arrays):
    return np.concatenate(arrays, axis)


@op(lambda gs, axis, y_shape: (_concatenate(axis, *_filled(gs, y_shape)), None, None))
def _split(x, cuts, axis):
    before = _before(x, axis)
    return tuple([x[(*before, slice(a, b))] for a, b in pairwise([0, *cuts, x.shape[axis]])])


def _ends(shapes, axis):
    """Where pieces of these shapes, laid along ``axis``, end; but for the last."""
    return list(accumulate(shape[axis] for shape in shapes[:-1]))


@formula
def concatenate(arrays, axis=0):
    """The arrays one after the other along an axis that they have; flattened first if None."""
    if axis is None:
        return _concatenate(0, *[reshape(x, -1) for x in arrays])
    return _concatenate(axis, *arrays)


@op(lambda g, axis: (None, *unstack(g, axis)))
def _stack(axis, *arrays):
    return np.stack(arrays, axis)


@op(lambda gs, axis, y_shape: (_stack(axis, *_filled(gs, y_shape)), None))
def _unstack(x, axis):
    before = _before(x, axis)
    return tuple([x[(*before, i)] for i in range(x.shape[axis])])


@formula
def stack(arrays, axis=0):
    """The arrays, all of one shape, side by side along a new axis."""
    return _stack(axis, *arrays)


@formula
def unstack(x, axis=0):
    """The tuple of slices of ``x`` along ``axis``: the steps of a sequence, say."""
    return _unstack(x, axis)


def _filled(gs, shapes):
    """The cotangents of results of these shapes: zeros where nothing flowed."""
    like = next(getattr(g, "array", g) for g in gs if g is not None)
    zeros = backend_of(like).zeros
    pairs = zip(gs, shapes, strict=True)
    return [zeros(shape, like.dtype) if g is None else g for g, shape in pairs]


@formula
def split(x, indices_or_sections, axis=0):
    """The list of pieces of ``x`` along ``axis``: so many equal ones, or cut at these indices."""
    before, n = _before(x, axis), x.shape[axis]
    if isinstance(indices_or_sections, (int, np.integer)):
        if indices_or_sections < 1 or n % indices_or_sections:
            raise ShapeError(
                f"split(x, {indices_or_sections}): axis {axis} of length {n} is not divisible\n"
                f"  x: {x.dtype} {x.shape}\n  hint: pass the indices at which to cut instead"
            )
        length, sections = n // indices_or_sections, indices_or_sections
        indices_or_sections = [length * i for i in range(1, sections)]
    cuts = [slice(cut).indices(n)[1] for cut in indices_or_sections]  # from 0 to n
    if cuts == sorted(cuts):
        return list(_split(x, cuts, axis))
    return [_getitem(x, (*before, slice(a, b))) for a, b in pairwise([0, *cuts, n])]  # may overlap
