"""A linear-chain conditional random field: tags that know their neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import DtypeError, IndexRangeError, ShapeError, described
from ..fold import fold
from ..linear import getitem, scatter
from ..random import given_rng
from ..reductions import below_top, logsumexp
from ..saving import host_array
from ..structure import Structure
from .layers import expect_sizes, uniform
from .module import Module

__all__ = ["CRF"]


class CRF(Module):
    """The probability of a whole sequence of tags, given a score for each tag at each step.

        s(y)   = start[y_1] + sum_t x_t[y_t] + sum_{t>1} transitions[y_{t-1}, y_t] + end[y_T]
        p(y|x) = exp(s(y)) / Z,        Z = sum of exp(s(y')) over all y'

    Where each step's tags are normalised by themselves, a branch that was entered must hand on all
    of its probability, whatever comes later (label bias); here only the whole is normalised.  K is
    the number of tags; ``start``, ``end`` (K,), ``transitions`` (K, K).  Sequences come one after
    the other: scores ``x`` (N, K), tags (N,), ``lengths`` (B,) that sum to N.  Lafferty et al.
    2001.
    """

    def __init__(self, tags: int, rng: np.random.Generator | None = None) -> None:
        expect_sizes(self, tags=tags)
        rng = given_rng(rng)
        self.start, self.end = uniform(rng, tags, tags), uniform(rng, tags, tags)
        self.transitions = uniform(rng, tags, tags, tags)

    def forward(self, x: Any, tags: Any, lengths: Sequence[int]) -> Any:
        """``log p(tags | x)`` of each sequence, (B,), in nats."""
        chains = self._chains(x, lengths)
        # p is the same, whatever is added to all scores of a step; and where those are large, their
        # sums have no digits left for its logarithm.
        x = x - below_top(getattr(x, "array", x), -1)[1]
        return self.score(x, tags, chains) - self.log_z(x, chains)

    def log_z(self, x: Any, chains: Structure) -> Any:
        """``log Z`` of each sequence (B,): the forward algorithm, which is a fold over chains.

        a_1 = start + x_1        a_t = logsumexp_i(a_{t-1}[i] + transitions[i, :]) + x_t
        """

        def step(x: Any, a: Any = None) -> Any:
            if a is None:
                return self.start + x
            return logsumexp(a[:, :, None] + self.transitions, axis=1) + x  # (n, K, K) -> (n, K)

        return logsumexp(fold(step, chains, x)[chains.roots] + self.end, axis=-1)

    def score(self, x: Any, tags: Any, chains: Structure) -> Any:
        """``s(tags)`` of each sequence (B,)."""
        tags = self._checked(tags, x)
        later = np.flatnonzero(chains.counts)
        parts = getitem(x, (np.arange(len(tags)), tags))  # (N,)
        moves = getitem(self.transitions, (tags[later - 1], tags[later]))
        sequence = np.cumsum(chains.counts == 0) - 1  # of each step
        B = len(chains.roots)
        total = scatter(parts, sequence, (B,)) + scatter(moves, sequence[later], (B,))
        return total + self.start[tags[chains.leaves]] + self.end[tags[chains.roots]]

    def decode(self, x: Any, lengths: Sequence[int]) -> list[np.ndarray]:
        """The most probable tags of each sequence, by Viterbi; of equal ones the lower tag."""
        chains = self._chains(x, lengths)
        host = host_array(x)
        start, end, moves = (p.numpy() for p in (self.start, self.end, self.transitions))
        found = []
        for first, last in zip(chains.leaves, chains.roots, strict=True):
            best, back = start + host[first], []
            for t in range(first + 1, last + 1):
                reached = best[:, None] + moves  # (K before, K now)
                back.append(reached.argmax(0))
                best = reached.max(0) + host[t]
            path = [int((best + end).argmax())]
            for before in reversed(back):
                path.append(int(before[path[-1]]))
            found.append(np.array(path[::-1]))
        return found

    def _chains(self, x: Any, lengths: Sequence[int]) -> Structure:
        chains, K = Structure.chains(lengths), self.start.size
        shape: tuple[int, ...] = getattr(x, "shape", ())
        if shape != (len(chains), K):
            hint = f"the lengths add up to {len(chains)} steps, and there are {K} tags"
            if len(shape) == 3:
                hint = "sequences come one after the other, without padding: concatenate them"
            raise ShapeError(
                f"CRF: x is {described(getattr(x, 'array', x))}\n"
                f"  expected: (steps={len(chains)}, tags={K})\n  hint: {hint}"
            )
        return chains

    def _checked(self, tags: Any, x: Any) -> np.ndarray:
        """``tags`` as an array of ids, one for each row of ``x``."""
        ids, K = host_array(tags), self.start.size
        if ids.dtype.kind not in "iu" or ids.shape != x.shape[:1]:
            raise DtypeError(
                f"CRF: tags is {described(ids)}\n  expected: integers (steps={x.shape[0]},)\n"
                "  hint: one tag for each row of x, all sequences in one array"
            )
        if (ids < 0).any() or (ids >= K).any():
            raise IndexRangeError(
                f"CRF: tags from {ids.min()} to {ids.max()}\n  expected: 0 <= tag < {K}\n"
                "  hint: CRF(tags) is made for so many; does the vocabulary belong to it?"
            )
        return ids
