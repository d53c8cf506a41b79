"""Attention: for every query a context of its own, a weighted mean of the source states.

An encoder that hands over one vector has to squeeze a source of any length into it.  Attention
leaves the states of all S source steps, the *keys* k_1 .. k_S, and lets each query q, a state of
the decoder, say how much of each it wants.  The classes differ in the score e_s of a key:

    a_s     = exp(e_s) / sum_r exp(e_r)       the weights, a distribution over the source
    context = sum_s a_s k_s

B, S, T, Q, K, A are the numbers of examples, source steps, queries of an example, and the sizes of
query, key and hidden layer.

A call is cut in two, ``attention(query, keys, lengths) == attention.step(query,
attention.memory(keys, lengths))``: what needs the source alone is done once, and only ``step``
stays in the loop of a decoder.  A ``Memory`` has a row for each example, so it can stand in the
state of a beam search as it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..arithmetic import tanh, where
from ..backend import backend_of
from ..errors import DtypeError, ShapeError, described
from ..linear import swapaxes
from ..random import given_rng
from ..reductions import softmax
from .layers import expect_sizes, uniform
from .module import Module

__all__ = ["AdditiveAttention", "Attention", "DotAttention", "Memory", "MultiplicativeAttention"]


class Memory(NamedTuple):
    """The source as attention reads it, (B, S, ...) each.

    ``keys`` are 0 in the padding, ``projected`` is what the scores need of them, and ``mask`` (B,
    S) tells what is no padding, None if there is none.
    """

    keys: Any
    projected: Any
    mask: Any


class Attention(Module):
    """What they share: ``context, weights = attention(query, keys, lengths=None)``.

        query    (B, Q)       context  (B, K)         or  (B, T, Q), (B, T, K), (B, T, S):
        keys     (B, S, K)    weights  (B, S)         all queries of an example at once
        lengths  (B,)

    ``keys`` are the output of a layer with ``batch_first``.  With ``lengths`` the keys from
    ``lengths[b]`` on are padding: their weight and their gradient are exactly 0 and what stands
    there, be it NaN, changes nothing.  ShapeError for what does not fit, DtypeError for lengths
    that are not integers.

    Another score makes another attention: a subclass defines ``U`` and ``scores``.
    """

    def __init__(self, query_size: int, key_size: int) -> None:
        expect_sizes(self, query_size=query_size, key_size=key_size)
        self.query_size, self.key_size = query_size, key_size

    def forward(self, query: Any, keys: Any, lengths: Any = None) -> tuple[Any, Any]:
        return self.step(query, self.memory(keys, lengths))

    def memory(self, keys: Any, lengths: Any = None) -> Memory:
        """What all queries share, made of the source alone."""
        shape: tuple[int, ...] = getattr(keys, "shape", ())
        if len(shape) != 3 or shape[2] != self.key_size or not shape[1]:
            hint = "the output of a layer with batch_first=True; one source is a batch of one"
            raise self._misfit("keys", keys, f"(batch, steps, key_size={self.key_size})", hint)
        mask = None
        if lengths is not None:
            steps = self._checked_lengths(lengths, *shape[:2])
            backend = backend_of(getattr(keys, "array", keys))
            mask = backend.asarray(np.arange(shape[1]) < steps[:, None])
            # Masking the scores alone would let NaN into the products, and into all gradients.
            keys = where(mask[:, :, None], keys, 0.0)
        return Memory(keys, self.U(keys), mask)

    def step(self, query: Any, memory: Memory) -> tuple[Any, Any]:
        """The context and the weights of ``query``."""
        keys, projected, mask = memory
        shape: tuple[int, ...] = getattr(query, "shape", ())
        if len(shape) not in (2, 3) or (shape[0], shape[-1]) != (keys.shape[0], self.query_size):
            B, Q = keys.shape[0], self.query_size
            expected = f"(batch={B}, query_size={Q}) or (batch={B}, queries, query_size={Q})"
            raise self._misfit("query", query, expected, "one row for each row of the keys")
        e = self.scores(query if len(shape) == 3 else query[:, None], projected)
        weights = softmax(e if mask is None else where(mask[:, None], e, -np.inf))
        context = weights @ keys
        return (context, weights) if len(shape) == 3 else (context[:, 0], weights[:, 0])

    def U(self, keys: Any) -> Any:
        """What the scores need of the keys, (B, S, K) -> (B, S, ...)."""
        return keys

    def scores(self, query: Any, projected: Any) -> Any:
        """The scores e (B, T, S) of queries (B, T, Q), given ``projected = U(keys)``."""
        raise NotImplementedError(
            f"{type(self).__name__} has no method scores\n"
            "  hint: def scores(self, query, projected): what another attention has to define"
        )

    def _checked_lengths(self, lengths: Any, B: int, S: int) -> np.ndarray:
        """``lengths`` on the host, if it is one length from 1 to S for each of B sources."""
        lengths = getattr(lengths, "array", lengths)
        steps = np.asarray(backend_of(lengths).to_host(lengths))
        if steps.shape != (B,):
            hint = "one length for each source"
            if steps.dtype.kind == "b":
                hint = "a mask has to be counted, mask.sum(1)"
            raise self._misfit("lengths", steps, f"(batch={B},)", hint)
        if steps.dtype.kind not in "iu":
            name = type(self).__name__
            raise DtypeError(
                f"{name}: lengths is {described(steps)}\n  expected: integers (batch={B},)\n"
                "  hint: lengths count steps; use .astype(int)"
            )
        for b in np.flatnonzero((steps < 1) | (steps > S)):
            hint = f"keys have {S} steps" if steps[b] > 1 else "a mean of no keys is no context"
            raise self._misfit(f"lengths[{b}]", int(steps[b]), f"1 <= length <= steps={S}", hint)
        return steps

    def _misfit(self, argument: str, value: Any, expected: str, hint: str) -> ShapeError:
        return ShapeError(
            f"{type(self).__name__}: {argument} is {described(getattr(value, 'array', value))}\n"
            f"  expected: {expected}\n  hint: {hint}"
        )


class AdditiveAttention(Attention):
    """Attention whose score is a net with one hidden layer (Bahdanau et al. 2015).

        e_s = v . tanh(W q + U k_s)

    ``weight_query`` is W (A, Q), ``weight_key`` U (A, K), ``weight_score`` v (A,); A is
    ``hidden_size``.  Query and keys may differ in size.  It holds B T S A numbers.
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        hidden_size: int,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(query_size, key_size)
        expect_sizes(self, hidden_size=hidden_size)
        rng = given_rng(rng)
        self.hidden_size = hidden_size
        self.weight_query = uniform(rng, query_size, hidden_size, query_size)
        self.weight_key = uniform(rng, key_size, hidden_size, key_size)
        self.weight_score = uniform(rng, hidden_size, hidden_size)

    def U(self, keys: Any) -> Any:
        return keys @ self.weight_key.T

    def scores(self, query: Any, projected: Any) -> Any:
        q = query @ self.weight_query.T
        hidden = tanh(q[:, :, None] + projected[:, None])  # (B, T, S, A)
        return hidden @ self.weight_score


class DotAttention(Attention):
    """Attention whose score is the product of query and key (Luong et al. 2015, "dot").

        e_s = q . k_s

    No parameters; query and keys have one size.
    """

    def __init__(self, size: int) -> None:
        expect_sizes(self, size=size)
        super().__init__(size, size)

    def scores(self, query: Any, projected: Any) -> Any:
        return query @ swapaxes(projected, 1, 2)


class MultiplicativeAttention(Attention):
    """Attention whose score is a bilinear form (Luong et al. 2015, "general").

        e_s = q . (W k_s) = (W^T q) . k_s

    ``weight`` is W (Q, K).  Query and keys may differ in size.
    """

    def __init__(
        self, query_size: int, key_size: int, rng: np.random.Generator | None = None
    ) -> None:
        super().__init__(query_size, key_size)
        self.weight = uniform(given_rng(rng), key_size, query_size, key_size)

    def scores(self, query: Any, projected: Any) -> Any:
        return query @ self.weight @ swapaxes(projected, 1, 2)
