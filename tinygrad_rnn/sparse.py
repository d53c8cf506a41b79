"""The gradient of a table as the few rows of it that were looked up.

A vocabulary has 10,000 words and a batch 700: to write out the other rows, all 0, and to go through
them in every step, would take longer than the rest of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NoReturn

import numpy as np

from .backend import backend_of
from .cotangents import Sum, Term
from .errors import DtypeError
from .linear import Placed, to_device


class RowGradient(Placed):
    """A gradient as the rows that have one: ``values`` (n, ...) at ``ids`` (n,), each id once.

    ``dense()`` is the whole of it, an array.
    """

    __slots__ = ()

    @property
    def ids(self) -> Any:
        return self.index

    @property
    def values(self) -> Any:
        return self.g

    def __repr__(self) -> str:
        return f"RowGradient(ids={self.ids}, values={self.values}, shape={self.shape})"

    def detach(self) -> RowGradient:
        return self

    def to(self, device: str) -> RowGradient:
        """These rows on another device."""
        values, ids = (to_device(x, device) for x in (self.values, self.ids))
        return RowGradient(values, ids, self.shape, once=True)

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise DtypeError(
            f"a RowGradient {self.shape} is no array: it is the {len(self.ids)} rows, of a table"
            " with sparse=True, that have a gradient\n"
            "  hint: grad.dense() is all of it, an array; grad.values are its rows, grad.ids their"
            " places"
        )


_OTHERS = "neg abs float getitem add radd sub rsub mul rmul truediv pow matmul array_ufunc"
for _name in _OTHERS.split():  # whoever computes with it is told what it is
    setattr(RowGradient, f"__{_name}__", RowGradient.__array__)


def rows_added_up(terms: Sequence[Placed]) -> RowGradient:
    """The sum of terms at integer ids: ids in ascending order, the rows of equal ones added up.

    How many there are depends on their values: on a device, the host waits for the ids.
    """
    (n, *sides), backend = terms[0].shape, backend_of(terms[0].g)
    indices = [backend.to_host(term.index) for term in terms]
    places = [np.where(index < 0, index + n, index).reshape(-1) for index in indices]
    ids = np.unique(np.concatenate(places))
    dtype = np.result_type(*[term.dtype for term in terms])
    values = backend.zeros((len(ids), *sides), dtype)
    for term, place in zip(terms, places, strict=True):
        g = term.g.reshape((len(place), *sides))
        backend.scatter_add(values, backend.asarray(np.searchsorted(ids, place)), g, term.once)
    return RowGradient(values, backend.asarray(ids), terms[0].shape, once=True)


def rows_in(g: Any) -> RowGradient:
    """``g``, a term or an array, as rows: those that were looked up, or that are not 0."""
    if isinstance(g, RowGradient):
        return g
    if not are_at_ids(g):
        g = g.dense() if isinstance(g, Term) else g
        backend, has_one = backend_of(g), (g != 0).reshape((len(g), prod(g.shape[1:]))).any(axis=1)
        ids = backend.asarray(np.flatnonzero(backend.to_host(has_one)))
        g = Placed(g[ids], ids, g.shape, once=True)
    return rows_added_up(terms_of(g))


def are_at_ids(g: Any) -> bool:
    """Whether ``g`` is terms at integer ids, and nothing else."""
    dtypes = [getattr(getattr(term, "index", None), "dtype", None) for term in terms_of(g)]
    return all(dtype is not None and dtype.kind in "iu" for dtype in dtypes)


def terms_of(g: Any) -> list[Any]:
    """The terms that ``g`` is the sum of; itself, if it has a part that is none."""
    return g.terms() if isinstance(g, Sum) and g.total is None else [g]
