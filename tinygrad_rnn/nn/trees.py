"""Cells of recursive nets: the state of a node from its input and the states of its children.

``state = cell(x, *children)``: ``x`` (n, D) or None for nodes that have no input, as the inner
nodes of a parse, and one state for each child, (n, H) or a pair of such; so they go into ``fold``
and ``deferred`` as they are:

    h = fold(RecursiveCell(D, H), trees, {0: words})        # words: a row for each leaf

Where every node has an input, as in a dependency tree, one product takes those of all nodes, and
only ``step`` is left to the levels, as in ``cells.py``: ``fold(cell.step, trees, cell.U(words))``.

n, D, H are the numbers of nodes, inputs and hidden units.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arithmetic import tanh
from ..backend import backend_of
from ..errors import DtypeError, ShapeError, described
from ..fused import lstm_gates
from ..linear import concatenate, reshape, transpose
from ..random import given_rng
from ..readout import affine
from ..reductions import sum
from .cells import LSTMCell
from .layers import expect_sizes, uniform
from .module import Module

__all__ = ["ChildSumTreeLSTMCell", "RNTNCell", "RecursiveCell", "TreeLSTMCell"]


class RecursiveCell(Module):
    """A node of the lecture's recursive net, over binary trees: ``h = cell(x, *children)``.

        leaf    h = tanh(V x + b)
        inner   h = tanh(U h_left + W h_right + b)

    The slide asks what V, U and W are: V (H, D) takes the input of a leaf to its state, U (H, H)
    the state of the left child, and W (H, H) that of the right one, to the state of the parent.
    They are the same at every node, as the U and W of a recurrent net are the same at every step;
    along a tree whose right children are all leaves, U is what is recurrent, and depth is time.
    Goodfellow et al. 2016, figure 10.14; Socher et al. 2011.  ShapeError for one child or three.
    """

    def __init__(
        self, input_size: int, hidden_size: int, rng: np.random.Generator | None = None
    ) -> None:
        expect_sizes(self, input_size=input_size, hidden_size=hidden_size)
        rng, D, H = given_rng(rng), input_size, hidden_size
        self.input_size, self.hidden_size = D, H
        self.V, self.U, self.W = (uniform(rng, H, H, n) for n in (D, H, H))
        self.b = uniform(rng, H, H)

    def forward(self, x: Any, *children: Any) -> Any:
        if not children:
            _expect_input(self, x)
            return tanh(x @ self.V.T + self.b)
        left, right = _expect_children(self, children, {2})
        return tanh(left @ self.U.T + right @ self.W.T + self.b)


class RNTNCell(Module):
    """A node of a recursive neural tensor net, over binary trees: ``h = cell(x, *children)``.

        leaf    h = x                                  words have as many numbers as states: D = H
        inner   h_j = tanh(p T_j p^T + W_j p + b_j)    p = [h_left; h_right]

    ``T`` (H, 2H, 2H) lets the children multiply each other, which a sum of two products cannot;
    ``W`` (H, 2H), ``b`` (H,).  Socher et al. 2013, whose V^[j] is T_j here.  ShapeError for one
    child or three.
    """

    def __init__(self, hidden_size: int, rng: np.random.Generator | None = None) -> None:
        expect_sizes(self, hidden_size=hidden_size)
        rng, H = given_rng(rng), hidden_size
        self.input_size = self.hidden_size = H
        self.T = uniform(rng, 4 * H * H, H, 2 * H, 2 * H)
        self.W = uniform(rng, 2 * H, H, 2 * H)
        self.b = uniform(rng, 2 * H, H)

    def forward(self, x: Any, *children: Any) -> Any:
        if not children:
            _expect_input(self, x)
            return x
        p = concatenate(_expect_children(self, children, {2}), axis=-1)  # (n, 2H)
        H = self.hidden_size
        columns = reshape(transpose(self.T, (1, 0, 2)), (2 * H, 2 * H * H))
        pT = reshape(p @ columns, (-1, H, 2 * H))  # p T_j, for all j in one product
        return tanh(sum(pT * reshape(p, (-1, 1, 2 * H)), axis=-1) + affine(p, self.W, self.b))


class TreeLSTMCell(Module):
    """A node of an N-ary Tree-LSTM: ``h, c = cell(x, *children)``, children ``(h_l, c_l)``.

        i   = sigmoid(U_i x + sum_l W_il h_l + b_i)
        f_k = sigmoid(U_f x + sum_l W_fkl h_l + b_f)     one for each child k
        g   =    tanh(U_g x + sum_l W_gl h_l + b_g)
        o   = sigmoid(U_o x + sum_l W_ol h_l + b_o)
        c   = i * g + sum_k f_k * c_k
        h   = o * tanh(c)

    Children are told apart by their place, of which there are N (``arity``); a node may have fewer,
    the first ones.  ``weight_ih`` (4H, D) and ``bias`` (4H,) have blocks i, f, g, o, and
    ``weight_hh`` ((N + 3)H, N H) has rows i, f_1 .. f_N, g, o and columns h_1 .. h_N.  Tai et al.
    2015, equations 9-14.  ShapeError for more children.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        arity: int = 2,
        rng: np.random.Generator | None = None,
    ) -> None:
        expect_sizes(self, input_size=input_size, hidden_size=hidden_size)
        rng, H = given_rng(rng), hidden_size
        if arity < 1:
            raise ShapeError(
                f"TreeLSTMCell: arity {arity}\n  expected: at least 1\n"
                "  hint: arity=2 for binary trees; ChildSumTreeLSTMCell takes any number"
            )
        self.input_size, self.hidden_size, self.arity = input_size, H, arity
        self.weight_ih = uniform(rng, H, 4 * H, input_size)
        self.weight_hh = uniform(rng, H, (arity + 3) * H, arity * H)
        self.bias = uniform(rng, H, 4 * H)

    def forward(self, x: Any, *children: Any) -> tuple[Any, Any]:
        if not children:
            _expect_input(self, x)
        return self.step(self.U(x), *children)

    def U(self, x: Any) -> Any:
        """U x + b, (..., D) -> (..., 4H); b alone where there is no input."""
        if x is None:
            return self.bias
        _expect_input(self, x)
        return affine(x, self.weight_ih, self.bias)

    def step(self, u: Any, *children: Any) -> tuple[Any, Any]:
        """The state, given ``u = U(x)`` and the states of the children."""
        H, k = self.hidden_size, len(children)
        if not children:
            return lstm_gates(concatenate([u[..., :H], u[..., 2 * H :]], axis=-1))
        states = _expect_children(self, children, range(1, self.arity + 1), pairs=True)
        W = self.weight_hh
        if k < self.arity:  # rows and columns of the children that there are
            W = concatenate([W[: (k + 1) * H], W[(self.arity + 1) * H :]])[:, : k * H]
        if k > 1:
            u = concatenate([u[..., : 2 * H], *[u[..., H : 2 * H]] * (k - 1), u[..., 2 * H :]], -1)
        Wh = concatenate([h for h, _ in states], axis=-1) @ W.T
        return lstm_gates(u + Wh, *[c for _, c in states])


class ChildSumTreeLSTMCell(LSTMCell):
    """A node of a Child-Sum Tree-LSTM: ``h, c = cell(x, *children)``, children ``(h_k, c_k)``.

        i   = sigmoid(U_i x + W_i sum_k h_k + b_i)
        f_k = sigmoid(U_f x + W_f h_k + b_f)             one for each child k
        g   =    tanh(U_g x + W_g sum_k h_k + b_g)
        o   = sigmoid(U_o x + W_o sum_k h_k + b_o)
        c   = i * g + sum_k f_k * c_k
        h   = o * tanh(c)

    Any number of children, in whatever order: it fits dependency trees.  The parameters are those
    of ``LSTMCell``, by name, shape and order of gates, and over a chain it *is* the LSTM: with one
    child the sums have one term.  Tai et al. 2015, equations 2-8.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, rng=rng)

    def forward(self, x: Any, *children: Any) -> tuple[Any, Any]:
        if not children:
            _expect_input(self, x)
        return self.step(self.U(x), *children)

    def U(self, x: Any) -> Any:
        """U x + b, (..., D) -> (..., 4H); b alone where there is no input."""
        if x is not None:
            _expect_input(self, x)
            return super().U(x)
        weight = self.weight_ih.array
        zeros = backend_of(weight).zeros((len(weight),), weight.dtype)
        return zeros if self.bias_ih is None else self.bias()

    def step(self, u: Any, *children: Any) -> tuple[Any, Any]:
        """The state, given ``u = U(x)`` and the states of the children."""
        states = _expect_children(self, children, None, pairs=True)
        Wh = [self.W(h) for h, _ in states]  # W of a sum is the sum of these
        total, f = u, slice(self.hidden_size, 2 * self.hidden_size)
        for Wh_k in Wh:
            total = total + Wh_k
        forget = [u[..., f] + Wh_k[..., f] for Wh_k in Wh]
        a = concatenate([total[..., : f.start], *forget, total[..., f.stop :]], axis=-1)
        return lstm_gates(a, *[c for _, c in states])


def _expect_input(cell: Any, x: Any) -> None:
    """Raise unless ``x`` has a row of the cell's inputs for each node."""
    if getattr(x, "shape", ())[-1:] != (cell.input_size,):
        raise ShapeError(
            f"{type(cell).__name__}: x is {described(getattr(x, 'array', x))}\n"
            f"  expected: (n, input_size={cell.input_size})\n"
            "  hint: a leaf needs an input: inputs of fold, or the first argument of the call"
        )


def _expect_children(cell: Any, children: Any, counts: Any, pairs: bool = False) -> Any:
    """``children``, if the cell takes so many and they are states of its size."""
    name, H = type(cell).__name__, cell.hidden_size
    if counts is not None and len(children) not in counts:
        allowed = " or ".join(map(str, counts))
        raise ShapeError(
            f"{name}: a node has {len(children)} children\n  expected: {allowed}\n"
            "  hint: ChildSumTreeLSTMCell takes any number"
        )
    for k, child in enumerate(children):
        parts = child if pairs else (child,)
        if not isinstance(parts, (tuple, list)) or len(parts) != 1 + pairs:
            raise DtypeError(
                f"{name}: child {k} is {described(getattr(child, 'array', child))}\n"
                "  expected: a pair (h, c)\n  hint: a state of this cell is the pair it returns"
            )
        for part in parts:
            if getattr(part, "shape", ())[-1:] != (H,):
                raise ShapeError(
                    f"{name}: a state of child {k} is {described(getattr(part, 'array', part))}\n"
                    f"  expected: (n, hidden_size={H})\n"
                    "  hint: the children come from a cell of the same hidden_size"
                )
    return children
