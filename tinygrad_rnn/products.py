"""Products of matrices and of tensors, and the outer products that they leave to a weight."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from string import ascii_letters
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from .backend import backend_of
from .cotangents import Term
from .engine import TensorCore, formula, op
from .errors import DtypeError, ShapeError, described, expect_one_device
from .linear import broadcast_to, getitem, pad, reshape, swapaxes, transpose

__all__ = ["conv1d", "einsum", "matmul", "outer", "tensordot"]


class OuterProduct(Term):
    """``sum_n x[n] g[n]^T``: what N rows of input and of cotangent say about a weight matrix."""

    __slots__ = ("g", "x")

    def __init__(self, x: Any, g: Any) -> None:
        self.x, self.g = x, g
        self.shape = (x.shape[1], g.shape[1])
        self.dtype = g.dtype
        self.nbytes = x.shape[0] * (x.shape[1] + g.shape[1]) * g.dtype.itemsize

    @property
    def T(self) -> OuterProduct:
        return OuterProduct(self.g, self.x)

    def dense(self) -> Any:
        x, g = self.x.T, self.g
        recorded = isinstance(x, TensorCore) or isinstance(g, TensorCore)
        return x @ g if recorded else product(x, g)

    @staticmethod
    def add_up(terms: Sequence[OuterProduct], total: Any) -> Any:
        x, g = terms[0].x, terms[0].g
        if len(terms) > 1:
            x = np.concatenate([term.x for term in terms])
            g = np.concatenate([term.g for term in terms])
        y = product(x.T, g)
        return y if total is None else total + y


def rows_of(x):
    """``x`` as a matrix: all its axes but the last in one."""
    return x if x.ndim == 2 else x.reshape((prod(x.shape[:-1]), x.shape[-1]))


def left_cotangent(g, b):
    """``g b^T``; as outer products where they are few, or less to hold than it: of ``W @ x``."""
    if g.ndim == 2 == b.ndim:
        sides, n = (g.shape[0], b.shape[0]), b.shape[1]
        few = n * sum(sides) < max(prod(sides), 4096)
        return OuterProduct(g.T, b.T) if few else (b @ g.T).T  # BLAS is slower at g @ b.T
    if b.ndim == 2:
        return (rows_of(g) @ b.T).reshape((*g.shape[:-1], b.shape[0]))
    return g @ swapaxes(b, -1, -2)


def _right_cotangent(g, a, b_shape):
    """``a^T g``, summed over the axes that a weight ``b`` does not have: outer products."""
    return OuterProduct(rows_of(a), rows_of(g)) if len(b_shape) == 2 else swapaxes(a, -1, -2) @ g


@op(a=left_cotangent, b=_right_cotangent)
def _matmul(a, b):
    try:
        if a.ndim > b.ndim == 2:  # one product of all rows; NumPy makes one for each matrix of a
            return product(rows_of(a), b).reshape((*a.shape[:-1], b.shape[1]))
        return product(a, b) if a.ndim == 2 == b.ndim else np.matmul(a, b)
    except ValueError as error:
        raise _misfit(a, b) from error


def product(a, b):
    """The product of two matrices; of few rows with a weight in blocks of 64 columns.

    ``dot`` begins sooner than ``matmul``, which counts where the product is small, and gives BLAS a
    column times a row too.  OpenBLAS copies a matrix to a layout of its own before it multiplies,
    unless the product is small: for up to 16 rows the blocks together take a half to a tenth of the
    time.  The limits are where that was measured to end.
    """
    if b.size < 65536 or len(a) == 1:
        try:
            return a.dot(b)
        except DeprecationWarning:  # what NumPy says before it asks an array of CuPy's, in vain
            return np.matmul(a, b)
    if a.dtype != b.dtype or not isinstance(a, np.ndarray):
        return np.matmul(a, b)
    (n, k), m = a.shape, b.shape[1]
    few = n * k <= 4096 or (n <= 16 and n * k <= 8192)
    small = n * b.size < 2**20 and b.flags.c_contiguous
    if n == 0 or small or not few:
        return np.matmul(a, b)
    y, whole = np.empty((n, m), a.dtype), m - m % 64
    blocks, results = (x[:, :whole].reshape((len(x), -1, 64)).transpose((1, 0, 2)) for x in (b, y))
    np.matmul(a, blocks, out=results)
    np.matmul(a, b[:, whole:], out=y[:, whole:])
    return y


def _misfit(a, b):
    """The error for matrices whose sides do not meet."""
    (n, k), (m, p) = a.shape[-2:], b.shape[-2:]
    what, hint = f"a has {k} columns, b has {m} rows", "(n, k) @ (k, m) is (n, m)"
    if k == m:
        what = f"the axes before the last two, {a.shape[:-2]} and {b.shape[:-2]}, do not broadcast"
        hint = "sides must be equal, or 1, counted from the last but two"
    elif k == p:
        hint = "a @ b.T would fit" if b.ndim == 2 else "a @ swapaxes(b, -1, -2) would fit"
    elif n == m:
        hint = "a.T @ b would fit" if a.ndim == 2 else "swapaxes(a, -1, -2) @ b would fit"
    return ShapeError(
        f"matmul(a, b): {what}\n  a: {described(a)}\n  b: {described(b)}\n  hint: {hint}"
    )


def matmul(a, b):
    """``a @ b``: the last axis of ``a`` against the last but one of ``b``, the others broadcast.

    A vector counts as one row on the left and as one column on the right.
    """
    m, n = getattr(a, "ndim", 0), getattr(b, "ndim", 0)
    if m > 1 < n:
        return _matmul(a, b)
    if isinstance(a, (list, tuple)) or isinstance(b, (list, tuple)):
        a, b = (np.array(x) if isinstance(x, (list, tuple)) else x for x in (a, b))
        return matmul(a, b)
    if m == 0 or n == 0:
        raise ShapeError(
            "matmul(a, b): a number is no matrix\n"
            f"  a: {described(getattr(a, 'array', a))}\n  b: {described(getattr(b, 'array', b))}\n"
            "  hint: a * b scales"
        )
    if a.shape[-1] != b.shape[max(n - 2, 0)]:
        raise ShapeError(
            f"matmul(a, b): a {a.shape}, b {b.shape}\n"
            "  expected: a vector as long as the side of the matrix that it meets\n"
            "  hint: outer(a, b) is the product of every entry with every entry"
        )
    if m == 1:
        y = matmul(reshape(a, (1, -1)), b)
        return reshape(y, (*y.shape[:-2], *y.shape[-1:])) if n > 1 else reshape(y, ())
    y = _matmul(a, reshape(b, (-1, 1)))
    return reshape(y, y.shape[:-1])


@formula
def outer(a, b):
    """The product of every entry of ``a`` with every entry of ``b``."""
    return reshape(a, (-1, 1)) * reshape(b, (1, -1))


@formula
def tensordot(a, b, axes=2):
    """The sum over pairs of axes: the last ``axes`` of ``a``, the first of ``b``; or two lists."""
    if isinstance(axes, int):
        left, right = list(range(a.ndim - axes, a.ndim)), list(range(axes))
    else:
        left, right = ([i] if isinstance(i, int) else list(i) for i in axes)
    left = list(normalize_axis_tuple(left, a.ndim))
    right = list(normalize_axis_tuple(right, b.ndim))
    if [a.shape[i] for i in left] != [b.shape[i] for i in right]:
        raise ShapeError(
            f"tensordot(a, b, axes): the paired axes differ\n  a: {a.shape}, axes {left}\n"
            f"  b: {b.shape}, axes {right}\n"
            "  hint: axes=([axes of a], [axes of b]) pairs them one by one"
        )
    rows = [i for i in range(a.ndim) if i not in left]
    columns = [i for i in range(b.ndim) if i not in right]
    summed = prod(a.shape[i] for i in left)
    a_matrix = reshape(transpose(a, rows + left), (prod(a.shape[i] for i in rows), summed))
    b_matrix = reshape(transpose(b, right + columns), (summed, prod(b.shape[i] for i in columns)))
    return reshape(
        a_matrix @ b_matrix,
        (*[a.shape[i] for i in rows], *[b.shape[i] for i in columns]),
    )


# ---- einsum ------------------------------------------------------------------------------------


@op(lambda g, subscripts, operands: (None, *_einsum_cotangents(g, subscripts, operands)))
def _einsum(subscripts, *operands):
    return np.einsum(subscripts, *operands)


def _einsum_cotangents(g, subscripts, operands):
    """For each operand: the einsum of ``g`` with the others, repeated where it was summed alone."""
    terms, result = subscripts.split("->")
    terms = terms.split(",")
    sides: dict[str, int] = {}
    for term, x in zip(terms, operands, strict=True):
        for letter, n in zip(term, x.shape, strict=True):
            sides[letter] = n if n != 1 else sides.get(letter, 1)
    g = broadcast_to(g, tuple(sides[letter] for letter in result))
    for i, term in enumerate(terms):
        others = [result, *terms[:i], *terms[i + 1 :]]
        known = "".join(letter for letter in term if any(letter in other for other in others))
        part = _einsum(f"{','.join(others)}->{known}", g, *operands[:i], *operands[i + 1 :])
        alone = tuple(sides[letter] if letter in known else 1 for letter in term)
        yield broadcast_to(reshape(part, alone), tuple(sides[letter] for letter in term))


@formula
def einsum(subscripts, *operands):
    """The sum of products that ``subscripts`` spell: ``"bi,kij,bj->bk"`` is a bilinear form.

    NumPy's notation, with ``...`` and with the implied result; a letter may repeat in one operand.
    """
    if not isinstance(subscripts, str):
        raise DtypeError(
            f"einsum: subscripts is {described(getattr(subscripts, 'array', subscripts))}\n"
            "  expected: a string\n  hint: einsum('ij,jk->ik', a, b)"
        )
    left, arrow, result = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise ShapeError(
            f"einsum({subscripts!r}): {len(operands)} operands\n  expected: {len(terms)}\n"
            "  hint: one term for each operand, with commas between them"
        )
    if not arrow:  # NumPy's rule: the letters that occur once, in alphabetical order
        letters = sorted(set(left) - set(",."))
        once = "".join(letter for letter in letters if left.count(letter) == 1)
        result = ("..." if "..." in left else "") + once
    free = [letter for letter in ascii_letters if letter not in left]
    spread = [
        np.ndim(x) - len(term.replace("...", "")) for term, x in zip(terms, operands, strict=True)
    ]
    widest = max((n for n, term in zip(spread, terms, strict=True) if "..." in term), default=0)
    names = "".join(free[:widest])
    terms = [
        term.replace("...", names[widest - n :]) for term, n in zip(terms, spread, strict=True)
    ]
    pairs = [_diagonal(subscripts, term, x) for term, x in zip(terms, operands, strict=True)]
    expect_one_device("einsum", **{f"operands[{i}]": x for i, x in enumerate(operands)})
    spelled = ",".join(term for term, _ in pairs) + "->" + result.replace("...", names)
    return _einsum(spelled, *[x for _, x in pairs])


def _diagonal(subscripts, term, x):
    """The operand with each letter once: ``ii`` becomes the diagonal, named ``i``."""
    for letter in dict.fromkeys(term):
        while term.count(letter) > 1:
            i = term.index(letter)
            j = term.index(letter, i + 1)
            if x.shape[i] != x.shape[j]:
                raise ShapeError(
                    f"einsum({subscripts!r}): {letter!r} stands for two sides of an operand of"
                    f" shape {x.shape}\n  expected: equal sides for one letter\n"
                    "  hint: two letters for two axes; one twice takes the diagonal"
                )
            index = backend_of(getattr(x, "array", x)).arange(x.shape[i])
            rest = [k for k in range(x.ndim) if k not in (i, j)]
            x = getitem(transpose(x, [i, j, *rest]), (index, index))
            term = letter + "".join(term[k] for k in rest)
    return term, x


# ---- convolution -------------------------------------------------------------------------------


@formula
def conv1d(x, weight, bias=None, stride=1, padding=0, dilation=1):
    """The slide's ``S(t) = sum_m I(t - m) K(m)``, as a window that slides along time.

    ``x`` is (B, C, T), ``weight`` (C_out, C, K), ``bias`` (C_out,); the result (B, C_out, T_out).
    PyTorch's layout and, like it, a correlation: the kernel is not reversed.
    """
    if x.ndim != 3 or weight.ndim != 3 or x.shape[1] != weight.shape[1]:
        hint = "x[None] is a batch of one"
        if x.ndim == 3 == weight.ndim:
            hint = f"weight reads {weight.shape[1]} channels, x has {x.shape[1]}"
            if x.shape[2] == weight.shape[1]:
                hint = "axes 1 and 2 of x look swapped, pass swapaxes(x, 1, 2)"
        raise ShapeError(
            f"conv1d(x, weight): x {x.shape}, weight {weight.shape}\n"
            "  expected: x (batch, channels, time), weight (channels out, channels, width)\n"
            f"  hint: {hint}"
        )
    if min(stride, dilation) < 1 or padding < 0:
        raise ShapeError(
            f"conv1d(x, weight): stride {stride}, padding {padding}, dilation {dilation}\n"
            "  expected: stride and dilation at least 1, padding at least 0\n"
            "  hint: stride=1, padding=0, dilation=1 are the defaults"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(
            f"conv1d(x, weight, bias): bias {bias.shape}, weight {weight.shape}\n"
            f"  expected: bias {weight.shape[:1]}, one for each channel out\n"
            "  hint: conv1d(x, weight) has none"
        )
    x = pad(x, [(0, 0), (0, 0), (padding, padding)]) if padding else x
    width = weight.shape[2]
    steps = (x.shape[2] - dilation * (width - 1) - 1) // stride + 1
    if steps < 1:
        raise ShapeError(
            f"conv1d(x, weight): {x.shape[2]} time steps are fewer than the window of"
            f" {dilation * (width - 1) + 1}\n  hint: padding=n adds n steps of zeros on either side"
        )
    arange = backend_of(getattr(x, "array", x)).arange
    places = stride * arange(steps)[:, None] + dilation * arange(width)
    windows = transpose(getitem(x, (slice(None), slice(None), places)), (0, 2, 1, 3))
    y = reshape(windows, (*windows.shape[:2], -1)) @ transpose(
        reshape(weight, (weight.shape[0], -1))
    )
    return swapaxes(y if bias is None else y + bias, 1, 2)
