"""Cotangents that are not written out yet.

The cotangent of an embedding table is a handful of rows, that of a weight used at T time steps is a
sum of T outer products, that of ``x[t]`` is a slice.  Written out at each step they would make
backpropagation through time quadratic; kept as terms, and added up now and then, they are linear.
A VJP may return a ``Term``; the sweep adds, transposes and writes out terms before any other VJP or
hook sees them.  ``Placed`` stands beside ``getitem``, ``OuterProduct`` beside ``matmul``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np


class Term:
    """A cotangent of known shape and dtype that holds ``nbytes``; ``dense()`` writes it out.

    ``waits`` says whether it may wait where the backward pass is recorded, and holds Tensors.
    """

    __slots__ = ("dtype", "nbytes", "shape")
    __array_ufunc__ = None
    waits = False

    shape: Any
    dtype: Any
    nbytes: int

    def dense(self) -> Any:
        raise NotImplementedError

    @property
    def T(self) -> Any:
        return self.dense().T

    @staticmethod
    def add_up(terms: Sequence[Any], total: Any) -> Any:
        """``total``, which is ours to write to, or None for zero, plus these terms of one class."""
        raise NotImplementedError


class Sum(Term):
    """A sum of terms of any kinds, and of arrays.

    Pending terms are added up once they hold more bytes than the total and than 256 rows of an
    outer product: one matrix product per few hundred rows, no second copy of what the graph holds.
    """

    __slots__ = ("patience", "pending", "total")
    waits = True

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype, self.nbytes = shape, dtype, 0
        self.patience = max(prod(shape), 256 * sum(shape)) * dtype.itemsize
        self.pending: dict[type[Term], list[Any]] = {}
        self.total: Any = None

    def include(self, x: Any) -> Sum:
        """This sum, ``x`` included: a term, another sum, or an array."""
        if isinstance(x, Sum):
            for term in x.terms():
                self.include(term)
            x = x.total
        if isinstance(x, Term):
            self.pending.setdefault(type(x), []).append(x)
            self.nbytes += x.nbytes
            if self.nbytes > self.patience:
                self.dense()
        elif x is not None:
            total = 1 * x if self.total is None else self.total + x  # ours to write to
            self.total = np.asarray(total) if isinstance(total, np.generic) else total
        return self

    def terms(self) -> list[Any]:
        """The pending terms of every kind."""
        return [term for terms in self.pending.values() for term in terms]

    def dense(self) -> Any:
        for kind, terms in self.pending.items():
            self.total = kind.add_up(terms, self.total)
        self.pending, self.nbytes = {}, 0
        return self.total

    @property
    def T(self) -> Sum:
        flipped = Sum(self.shape[::-1], self.dtype)
        flipped.total = None if self.total is None else self.total.T
        for term in self.terms():
            flipped.include(term.T)
        return flipped


class Outputs(Term):
    """The cotangents of an operation's several results, as far as they have come, by place."""

    __slots__ = ("count", "parts")
    waits = True

    def __init__(self, count: int, parts: dict[int, Any]) -> None:
        self.count, self.parts = count, parts
        self.shape = self.dtype = None

    def include(self, other: Outputs) -> Outputs:
        """This, with the parts of ``other``; under ``create_graph`` a result may send several."""
        for i, g in other.parts.items():
            self.parts[i] = add(self.parts[i], g) if i in self.parts else g
        return self

    def dense(self) -> tuple[Any, ...]:
        """The tuple that a joint VJP takes: None where nothing flowed."""
        return tuple([self.parts.get(i) for i in range(self.count)])


def add(x: Any, y: Any) -> Any:
    """The sum of two cotangents, arrays or terms; the arrays themselves are left as they are."""
    if type(x) is np.ndarray and type(y) is np.ndarray:
        return x + y
    if isinstance(x, (Sum, Outputs)):
        return x.include(y)
    if isinstance(x, Term) or isinstance(y, Term):
        return Sum(x.shape, x.dtype).include(x).include(y)
    return x + y
