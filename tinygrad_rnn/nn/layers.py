"""Layers without a state: a linear map, a window, a table of vectors, normalisation, dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arithmetic import sqrt
from ..errors import ShapeError, described, expect_bool, expect_count, expect_number
from ..functional import dropout, embedding
from ..products import conv1d
from ..random import given_rng
from ..readout import affine
from ..reductions import mean, rounded_once
from ..tensor import Tensor, tensor
from .module import Module

__all__ = ["Conv1d", "Dropout", "Embedding", "LayerNorm", "Linear"]


def expect_sizes(layer: Module, **sizes: Any) -> None:
    """Raise DtypeError or SettingError unless the sizes of a layer are integers, 0 at least."""
    for argument, size in sizes.items():
        expect_count(type(layer).__name__, argument, size, 0)


def hint_for_rows(x: Any, size: int, otherwise: str) -> str:
    """What mends an ``x`` whose last axis is not the ``size`` that a layer was made for."""
    shape, dtype = getattr(x, "shape", ()), getattr(x, "dtype", None)
    if dtype is not None and dtype.kind in "iu":
        return "integers: embed them first, nn.Embedding makes a row of numbers of each id"
    if shape and shape[-1] != size and size not in shape:
        return f"made for {size} input{'s' * (size != 1)}, x has {shape[-1]}"
    return otherwise


@rounded_once
def normalised(x: Any, eps: float = 1e-5) -> Any:
    """``x`` with mean 0 and, but for ``eps``, variance 1 along its last axis."""
    distance = x - mean(x, -1, keepdims=True)
    return distance / sqrt(mean(distance * distance, -1, keepdims=True) + eps)


def uniform(rng: np.random.Generator, fan: int, *shape: int) -> Tensor:
    """A float32 parameter, uniform between -1/sqrt(fan) and 1/sqrt(fan): PyTorch's choice."""
    bound = 1 / max(fan, 1) ** 0.5
    return tensor(rng.uniform(-bound, bound, shape), np.float32, requires_grad=True)


def constant(value: float, size: int) -> Tensor:
    """A float32 parameter of so many equal numbers."""
    return tensor(np.full(size, value, np.float32), requires_grad=True)


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
        expect_sizes(self, in_features=in_features, out_features=out_features)
        rng = given_rng(rng)
        self.in_features, self.out_features = in_features, out_features
        self.weight = uniform(rng, in_features, out_features, in_features)
        self.bias = uniform(rng, in_features, out_features) if bias else None

    def forward(self, x: Any) -> Any:
        shape: tuple[int, ...] = getattr(x, "shape", ())
        if shape[-1:] != (self.in_features,):
            hint = f"this layer was made for rows of {self.in_features} numbers"
            hint = hint_for_rows(x, self.in_features, hint)
            if isinstance(x, tuple):
                hint = "a state (h, c) or a pair (output, state) is no Tensor, pass its first part"
            elif len(shape) == 2 and shape[0] == self.in_features:
                hint = "axes 0 and 1 look swapped, pass x.T"
            raise ShapeError(
                f"Linear(x): x is {described(getattr(x, 'array', x))}\n"
                f"  expected: (..., in_features={self.in_features})\n  hint: {hint}"
            )
        return affine(x, self.weight, self.bias)


class Embedding(Module):
    """The rows of a table that ids name: ``weight`` (num_embeddings, embedding_dim), from N(0, 1).

    ``ids`` are integers of any shape; the result is (*ids.shape, embedding_dim).  DtypeError for
    other dtypes, IndexRangeError unless ``0 <= id < num_embeddings``.

    With ``sparse``, ``weight.grad`` is no table but the rows that have a gradient, ``values`` at
    ``ids``, each id once; ``dense()`` writes it out.  Only optimisers that move nothing else take
    it: SGD without momentum, and Adagrad, both without weight decay.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        rng: np.random.Generator | None = None,
        sparse: bool = False,
    ) -> None:
        expect_sizes(self, num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        expect_bool("Embedding", "sparse", sparse, "sparse=True keeps the gradient as rows")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.sparse = sparse
        table = given_rng(rng).standard_normal((num_embeddings, embedding_dim))
        self.weight = tensor(table, np.float32, requires_grad=True)

    def forward(self, ids: Any) -> Any:
        watch = getattr(self.weight.node, "watch", None)
        if self.sparse and watch is not None:
            watch.sparse = True
        return embedding(ids, self.weight)


class Conv1d(Module):
    """The lecture's ``S(t) = sum_m I(t - m) K(m)``: one window of weights that slides along time.

    ``x`` is (B, in_channels, T), the result (B, out_channels, T'); ``weight`` is (out_channels,
    in_channels, kernel_size), ``bias`` (out_channels,).  PyTorch's layout; see ``conv1d``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        sizes = {"in_channels": in_channels, "out_channels": out_channels}
        expect_sizes(self, **sizes, kernel_size=kernel_size)
        rng = given_rng(rng)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        fan = in_channels * kernel_size
        self.weight = uniform(rng, fan, out_channels, in_channels, kernel_size)
        self.bias = uniform(rng, fan, out_channels) if bias else None

    def forward(self, x: Any) -> Any:
        return conv1d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)


class LayerNorm(Module):
    """``weight * (x - mean) / sqrt(variance + eps) + bias`` along the last axis (Ba et al. 2016).

    The variance is the mean squared distance from the mean.  ``weight`` (size,) begins at 1,
    ``bias`` (size,) at 0.  ``x`` is (..., size); ShapeError for another last axis.
    """

    def __init__(self, size: int, eps: float = 1e-5, bias: bool = True) -> None:
        expect_sizes(self, size=size)
        self.size, self.eps = size, eps
        self.weight = constant(1.0, size)
        self.bias = constant(0.0, size) if bias else None

    def forward(self, x: Any) -> Any:
        if getattr(x, "shape", ())[-1:] != (self.size,):
            raise ShapeError(
                f"LayerNorm(x): x is {described(getattr(x, 'array', x))}\n"
                f"  expected: (..., size={self.size})\n"
                "  hint: it normalises along the last axis; swapaxes brings another one there"
            )
        y = self.weight * normalised(x, self.eps)
        return y if self.bias is None else y + self.bias


class Dropout(Module):
    """``x`` with each entry 0 with probability ``p``, the others divided by ``1 - p``.

    After ``eval()`` it is ``x`` itself.  Srivastava et al. 2014.  SettingError unless
    ``0 <= p < 1``.
    """

    def __init__(self, p: float = 0.5, rng: np.random.Generator | None = None) -> None:
        self.p, self.rng = expect_number("Dropout", "p", p, 1.0, "p is what is dropped"), rng

    def forward(self, x: Any) -> Any:
        return dropout(x, self.p, self.rng) if self.training else x
