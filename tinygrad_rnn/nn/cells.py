"""Cells: one step of a recurrent net each, ``state = cell(x, state)``.

The letters are the lecture's: U is input-to-hidden, W hidden-to-hidden.  The names, shapes and
order of the parameters, and their initial distribution, are PyTorch's, so that a ``state_dict``
moves both ways.  B, D, H are the sizes of batch, input and hidden state; k is the number of blocks,
one block of H rows for each gate:

    weight_ih (kH, D)   U, the blocks one under the other        bias_ih (kH,)
    weight_hh (kH, H)   W                                        bias_hh (kH,)

A step takes a batch, ``x`` (B, D) and states (B, H), or one example, (D,) and (H,).  A state that
is left out is zeros.  States are values: a cell holds none, and truncation is ``h = h.detach()``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arithmetic import relu, sigmoid, tanh
from ..backend import backend_of
from ..errors import DtypeError, ShapeError, described
from ..linear import split
from ..random import default_rng
from .layers import affine, uniform
from .module import Module

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]

_NONLINEARITIES = {"tanh": tanh, "relu": relu}
_SWAPPED = "axes 0 and 1 look swapped, pass {}.T; the batch comes first"


class Cell(Module):
    """What the cells share: parameters, U x and W h with their biases, and the test of shapes."""

    blocks: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        rng = rng or default_rng()
        H, rows = hidden_size, self.blocks * hidden_size
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = uniform(rng, H, rows, input_size)
        self.weight_hh = uniform(rng, H, rows, H)
        self.bias_ih = uniform(rng, H, rows) if bias else None
        self.bias_hh = uniform(rng, H, rows) if bias else None

    def U(self, x: Any) -> Any:
        """U x with its bias, (B, kH)."""
        return affine(x, self.weight_ih, self.bias_ih)

    def W(self, h: Any) -> Any:
        """W h with its bias, (B, kH)."""
        return affine(h, self.weight_hh, self.bias_hh)

    def states(self, x: Any, **states: Any) -> list[Any]:
        """The states, zeros for None; ShapeError unless ``x`` and they fit cell and each other."""
        shape: tuple[int, ...] = getattr(x, "shape", ())
        if len(shape) not in (1, 2) or shape[-1] != self.input_size:
            hint = f"one row of {self.input_size} numbers for each example, an array or a Tensor"
            if len(shape) == 2 and shape[0] == self.input_size:
                hint = _SWAPPED.format("x")
            elif len(shape) == 3:
                hint = "a cell takes one step; for a sequence, call it on each x[t] in turn"
            raise self._misfit("x", x, f"(batch, input_size={self.input_size})", hint)
        expected = (*shape[:-1], self.hidden_size)
        for name, state in states.items():
            got = getattr(state, "shape", ())
            if state is not None and got != expected:
                batch = "".join(f"batch={size}, " for size in shape[:-1])
                swapped = got == expected[::-1]
                hint = _SWAPPED.format(name) if swapped else f"{name} left out is zeros"
                axes = f"({batch}hidden_size={self.hidden_size})"
                raise self._misfit(name, state, axes, hint)
        weight = getattr(self.weight_hh, "array", self.weight_hh)
        zeros = backend_of(weight).zeros(expected, weight.dtype)
        return [zeros if state is None else state for state in states.values()]

    def _misfit(self, argument: str, value: Any, expected: str, hint: str) -> ShapeError:
        return ShapeError(
            f"{type(self).__name__}: {argument} is {described(value)}\n"
            f"  expected: {expected}\n  hint: {hint}"
        )


class RNNCell(Cell):
    """One step of the simple recurrent net (Elman 1990): ``h = cell(x, h)``.

        a  = U x + b_ih + W h + b_hh
        h' = tanh(a)                          or relu(a), by ``nonlinearity``

    One block (k = 1).  Raises ShapeError for an ``x`` or ``h`` that does not fit, ValueError for
    another nonlinearity.
    """

    blocks = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        rng: np.random.Generator | None = None,
    ) -> None:
        if nonlinearity not in _NONLINEARITIES:
            raise ValueError(
                f"RNNCell: nonlinearity {nonlinearity!r}\n"
                f"  expected: {' or '.join(_NONLINEARITIES)}"
            )
        super().__init__(input_size, hidden_size, bias, rng)
        self.nonlinearity = nonlinearity

    def forward(self, x: Any, h: Any = None) -> Any:
        (h,) = self.states(x, h=h)
        return _NONLINEARITIES[self.nonlinearity](self.U(x) + self.W(h))


class LSTMCell(Cell):
    """One step of a long short-term memory: ``h, c = cell(x, (h, c))``.

        i  = sigmoid(U_i x + W_i h + b_i)     input gate: what is let in
        f  = sigmoid(U_f x + W_f h + b_f)     forget gate: what is kept
        g  =    tanh(U_g x + W_g h + b_g)     what is offered
        o  = sigmoid(U_o x + W_o h + b_o)     output gate: what is shown
        c' = f * c + i * g
        h' = o * tanh(c')

    Four blocks (k = 4), in the order i, f, g, o; each b is the sum of its blocks of ``bias_ih`` and
    ``bias_hh``.  Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000, whose
    bias begins as all others do, not at 1.  Raises ShapeError for an ``x``, ``h`` or ``c`` that
    does not fit, DtypeError for a state that is no pair.
    """

    blocks = 4

    def forward(self, x: Any, state: Any = None) -> tuple[Any, Any]:
        h, c = self.states(x, **_pair(state))
        i, f, g, o = split(self.U(x) + self.W(h), 4, axis=-1)  # (B, 4H) -> 4 of (B, H)
        i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
        c = f * c + i * g
        h = o * tanh(c)
        return h, c


def _pair(state: Any) -> dict[str, Any]:
    """``h`` and ``c`` of an LSTM's state."""
    if state is None:
        return {"h": None, "c": None}
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        raise DtypeError(
            f"LSTMCell: the state is {described(state)}\n  expected: a pair (h, c)\n"
            "  hint: h, c = cell(x, (h, c))"
        )
    return {"h": state[0], "c": state[1]}


class GRUCell(Cell):
    """One step of a gated recurrent unit: ``h = cell(x, h)``.

        r  = sigmoid(U_r x + W_r h + b_r)                       reset gate: what is looked at
        z  = sigmoid(U_z x + W_z h + b_z)                       update gate: what is kept
        n  =    tanh(U_n x + b_in + r * (W_n h + b_hn))         what is offered
        h' = (1 - z) * n + z * h

    Three blocks (k = 3), in the order r, z, n; b_r and b_z are sums as in the LSTM.  Cho et al.
    2014, in the form of PyTorch and cuDNN: r multiplies W_n h + b_hn, after the product, where the
    paper has W_n (r * h).  Raises ShapeError for an ``x`` or ``h`` that does not fit.
    """

    blocks = 3

    def forward(self, x: Any, h: Any = None) -> Any:
        (h,) = self.states(x, h=h)
        U_r, U_z, U_n = split(self.U(x), 3, axis=-1)  # (B, 3H) -> 3 of (B, H), biases included
        W_r, W_z, W_n = split(self.W(h), 3, axis=-1)
        r = sigmoid(U_r + W_r)
        z = sigmoid(U_z + W_z)
        n = tanh(U_n + r * W_n)
        return (1 - z) * n + z * h
