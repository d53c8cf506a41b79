"""Layers without a state: a linear map, a table of vectors, dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ShapeError, described
from ..functional import dropout, embedding
from ..random import default_rng
from ..tensor import Tensor, tensor
from .module import Module

__all__ = ["Dropout", "Embedding", "Linear"]


def affine(x: Any, weight: Any, bias: Any) -> Any:
    """``x W^T + b`` for a row, or rows, ``x``; without ``b`` if ``bias`` is None."""
    y = x @ weight.T
    return y if bias is None else y + bias


def uniform(rng: np.random.Generator, fan: int, *shape: int) -> Tensor:
    """A float32 parameter, uniform between -1/sqrt(fan) and 1/sqrt(fan): PyTorch's choice."""
    bound = 1 / max(fan, 1) ** 0.5
    return tensor(rng.uniform(-bound, bound, shape), np.float32, requires_grad=True)


class Linear(Module):
    """``y = x W^T + b``: ``weight`` is W (out, in), ``bias`` b (out,).

    ``x`` is (..., in), ``y`` (..., out).  ShapeError for another last axis.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        rng = rng or default_rng()
        self.in_features, self.out_features = in_features, out_features
        self.weight = uniform(rng, in_features, out_features, in_features)
        self.bias = uniform(rng, in_features, out_features) if bias else None

    def forward(self, x: Any) -> Any:
        shape: tuple[int, ...] = getattr(x, "shape", ())
        if shape[-1:] != (self.in_features,):
            swapped = len(shape) == 2 and shape[0] == self.in_features
            raise ShapeError(
                f"Linear(x): x is {described(x)}\n  expected: (..., in_features={self.in_features})"
                + ("\n  hint: axes 0 and 1 look swapped, pass x.T" if swapped else "")
            )
        return affine(x, self.weight, self.bias)


class Embedding(Module):
    """The rows of a table that ids name: ``weight`` (num_embeddings, embedding_dim), from N(0, 1).

    ``ids`` are integers of any shape; the result is (*ids.shape, embedding_dim).  DtypeError for
    other dtypes, IndexRangeError unless ``0 <= id < num_embeddings``.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, rng: np.random.Generator | None = None
    ) -> None:
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        table = (rng or default_rng()).standard_normal((num_embeddings, embedding_dim))
        self.weight = tensor(table, np.float32, requires_grad=True)

    def forward(self, ids: Any) -> Any:
        return embedding(ids, self.weight)


class Dropout(Module):
    """``x`` with each entry 0 with probability ``p``, the others divided by ``1 - p``.

    After ``eval()`` it is ``x`` itself.  Srivastava et al. 2014.  ValueError unless ``0 <= p < 1``.
    """

    def __init__(self, p: float = 0.5, rng: np.random.Generator | None = None) -> None:
        self.p, self.rng = p, rng

    def forward(self, x: Any) -> Any:
        return dropout(x, self.p, self.rng) if self.training else x
