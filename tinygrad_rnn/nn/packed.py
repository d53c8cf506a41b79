"""Packed order: the rows of many sequences, step after step.

Sequences stand by decreasing length; the rows are the first step of all, then the second of all
that have one, and so on.  So each step is a slice, and those that go on are the first of it.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..sequences import Course
from ..structure import Structure, as_index

__all__ = ["Layout", "Packed", "laid_out", "packed_order"]


class Packed:
    """Sequences of decreasing ``lengths`` in packed order: what depends on the lengths alone.

    Row i is step ``steps[i]`` of sequence ``ranks[i]``; step t begins at row ``starts[t]``.  Rows
    ``first`` and ``last`` are where the sequences begin and end; ``courses`` are the steps forward,
    and backward in time.
    """

    def __init__(self, lengths: tuple[int, ...]) -> None:
        ends = np.array(lengths)
        going = len(ends) - np.cumsum(np.bincount(ends))[:-1]  # at each step, how many there are
        starts = np.cumsum(going) - going
        self.steps = np.repeat(np.arange(len(going)), going)
        self.ranks = np.arange(len(self.steps)) - starts[self.steps]
        self.starts = starts
        self.first, self.last = np.arange(len(ends)), starts[ends - 1] + np.arange(len(ends))
        self.courses = [Course(going, backward) for backward in (False, True)]

    @cached_property
    def chains(self) -> Structure:
        """The sequences, forward in time."""
        inner = self.steps > 0
        before = (self.starts[self.steps - 1] + self.ranks)[inner]
        return Structure(inner.astype(np.intp), before, heights=self.steps)

    def direction(self, backward: bool) -> tuple[Structure, Any, Any]:
        """The chains in one direction; which sequence each leaf begins, which row ends each one."""
        return self._directions[backward]

    @cached_property
    def _directions(self) -> list[tuple[Structure, Any, Any]]:
        pairs = (self.chains, self.last), (self.chains.reversed(), self.first)
        return [
            (chains, as_index(self.ranks[chains.leaves]), as_index(last)) for chains, last in pairs
        ]


class Layout(NamedTuple):
    """Where the rows and the states of sequences, as they came, go in packed order.

    Row i there is row ``place[i]`` of the matrix, and belongs to sequence ``sequence[i]``; its k-th
    sequence is number ``to_packed[k]``, and sequence b the one of rank ``from_packed[b]``.
    """

    packed: Packed
    place: Any
    to_packed: Any
    from_packed: Any
    sequence: np.ndarray


# So that lengths that come again, as in every epoch, cost nothing.
packed_order = lru_cache(maxsize=64)(Packed)


@lru_cache(maxsize=64)
def laid_out(lengths: tuple[int, ...], padded: bool) -> Layout:
    """The Layout of sequences of any ``lengths``: padded, (T, B) rows, or one after the other."""
    steps = np.array(lengths)
    order = np.argsort(-steps, kind="stable")
    packed = packed_order(tuple(steps[order].tolist()))
    first, stride = np.cumsum(steps) - steps, 1
    if padded:
        first, stride = np.arange(len(steps)), len(steps)
    place = first[order[packed.ranks]] + stride * packed.steps
    back = np.argsort(order)
    return Layout(packed, as_index(place), as_index(order), as_index(back), order[packed.ranks])
