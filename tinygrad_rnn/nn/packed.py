"""Packed order: the rows of many sequences, step after step.

Sequences stand by decreasing length; the rows are the first step of all, then the second of all
that have one, and so on.  So each step is a slice, and those that go on are the first of it.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np

from ..sequences import Course
from ..structure import Structure

__all__ = ["Packed", "packed_order"]


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

    def direction(self, backward: bool) -> tuple[Structure, np.ndarray]:
        """The chains in one direction, and for each sequence the row with which it ends there."""
        return (self.chains.reversed(), self.first) if backward else (self.chains, self.last)


# So that lengths that come again, as in every epoch, cost nothing.
packed_order = lru_cache(maxsize=64)(Packed)
