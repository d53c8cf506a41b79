"""Cells: one step of a recurrent net each, ``state = cell(x, state)``.

The letters are the lecture's: U is input-to-hidden, W hidden-to-hidden.  A step is cut in two,
``cell(x, state) == cell.step(cell.U(x), state)``: the product with the input needs no state, so
``U`` takes the inputs of all steps at once and only ``step`` stays in the loop over time, which is
``fold(cell.step, structure, cell.U(x))``.  A step may be given a ``mask`` for the h that W is
applied to: variational dropout.

The names, shapes and order of the parameters, and their initial distribution, are PyTorch's, so
that a ``state_dict`` moves both ways.  B, D, H are the sizes of batch, input and hidden state; k is
the number of blocks, one block of H rows for each gate:

    weight_ih (kH, D)   U, the blocks one under the other        bias_ih (kH,)
    weight_hh (kH, H)   W                                        bias_hh (kH,)

A cell takes a batch, ``x`` (B, D) and states (B, H), or one example, (D,) and (H,).  A state that
is left out is zeros; with ``learn_initial`` it is a parameter, ``initial_h`` (H,) and of an LSTM
``initial_c`` too, which begins at zero.  States are values: a cell holds none, and truncation is
``h = h.detach()``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..arithmetic import sigmoid, tanh
from ..backend import backend_of
from ..errors import DtypeError, SettingError, ShapeError, described
from ..fused import gru_gates, lstm_gates
from ..linear import broadcast_to, split
from ..random import given_rng
from ..readout import affine
from ..sequences import NONLINEARITIES
from .layers import constant, expect_sizes, hint_for_rows, normalised, uniform
from .module import Module

__all__ = [
    "Cell",
    "GRUCell",
    "LSTMCell",
    "LayerNormLSTMCell",
    "PeepholeLSTMCell",
    "RNNCell",
]

_SWAPPED = "axes 0 and 1 look swapped, pass {}.T; the batch comes first"


class Cell(Module):
    """What the cells share: parameters, U x and W h, states that are left out, and tests of shapes.

    ``states`` names the parts of a state, each with the setting that is its size.
    """

    blocks: ClassVar[int]
    states: ClassVar[dict[str, str]] = {"h": "hidden_size"}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        learn_initial: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        expect_sizes(self, input_size=input_size, hidden_size=hidden_size)
        rng = given_rng(rng)
        H, rows = hidden_size, self.blocks * hidden_size
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = uniform(rng, H, rows, input_size)
        self.weight_hh = uniform(rng, H, rows, H)
        self.bias_ih = uniform(rng, H, rows) if bias else None
        self.bias_hh = uniform(rng, H, rows) if bias else None
        if learn_initial:
            self.learn_initial()

    def learn_initial(self) -> None:
        """Make parameters of the states with which a sequence begins: zeros, for now."""
        for name, size in self.states.items():
            setattr(self, f"initial_{name}", constant(0.0, getattr(self, size)))

    # ---- one step ----

    def forward(self, x: Any, state: Any = None) -> Any:
        self.check(x, state)
        return self.step(self.U(x), state)

    def U(self, x: Any) -> Any:
        """U x, and the biases that are merely added to it: (..., D) -> (..., kH)."""
        return affine(x, self.weight_ih, self.bias())

    def bias(self) -> Any:
        """The sum of the two biases: as a rule no more than that sum matters."""
        return None if self.bias_ih is None else self.bias_ih + self.bias_hh

    def W(self, h: Any, mask: Any = None) -> Any:
        """W h, (B, H) -> (B, kH); of ``mask * h`` if there is a mask, (B, H)."""
        return (h if mask is None else h * mask) @ self.weight_hh.T

    def step(self, *arguments: Any, **keywords: Any) -> Any:
        """The next state, given ``u = U(x)`` and the state before; every cell defines its own."""
        raise NotImplementedError(
            f"{type(self).__name__} has no method step\n"
            "  hint: def step(self, u, state=None): what every cell has to define"
        )

    # ---- states ----

    def parts(self, state: Any) -> list[Any]:
        """The parts of a state, all None of one that is left out."""
        return parts_of_state(type(self).__name__, list(self.states), state)

    def begun(self, u: Any, state: Any) -> list[Any]:
        """The parts of a state, those that are left out as at the beginning of a sequence."""
        return [
            self.initial(name, u.shape[:-1]) if part is None else part
            for name, part in zip(self.states, self.parts(state), strict=True)
        ]

    def initial(self, name: str, lead: tuple[int, ...]) -> Any:
        """The part ``name`` of the state before the first step, (*lead, H)."""
        shape = (*lead, getattr(self, self.states[name]))
        learned = getattr(self, f"initial_{name}", None)
        if learned is not None:
            return broadcast_to(learned, shape)
        weight = getattr(self.weight_ih, "array", self.weight_ih)
        return backend_of(weight).zeros(shape, weight.dtype)

    def check(self, x: Any, state: Any) -> None:
        """Raise ShapeError unless ``x`` and the parts of ``state`` fit the cell and each other."""
        shape: tuple[int, ...] = getattr(x, "shape", ())
        if len(shape) not in (1, 2) or shape[-1] != self.input_size:
            hint = f"one row of {self.input_size} numbers for each example, an array or a Tensor"
            hint = hint_for_rows(x, self.input_size, hint)
            if len(shape) == 2 and shape[0] == self.input_size:
                hint = _SWAPPED.format("x")
            elif len(shape) == 3:
                hint = "a cell takes one step; for a sequence, call it on each x[t] in turn"
            raise self._misfit("x", x, f"(batch, input_size={self.input_size})", hint)
        for (name, size), part in zip(self.states.items(), self.parts(state), strict=True):
            got: tuple[int, ...] = getattr(part, "shape", ())
            expected = (*shape[:-1], getattr(self, size))
            if part is not None and got != expected:
                batch = "".join(f"batch={n}, " for n in shape[:-1])
                swapped = got == expected[::-1]
                default = "learned" if hasattr(self, f"initial_{name}") else "zeros"
                hint = _SWAPPED.format(name) if swapped else f"{name} left out is {default}"
                if isinstance(part, tuple) and len(self.states) == 1:
                    hint = f"pass {name} alone; only the state of an LSTM is a pair (h, c)"
                elif len(got) == 3:
                    hint = f"a state of a layer has an axis of layers, {name}[k] is that of layer k"
                elif len(got) == 2 and got[1:] == expected[1:]:
                    hint = f"x has {shape[0]} rows, {name} has {got[0]}: a row for each is needed"
                raise self._misfit(name, part, f"({batch}{size}={expected[-1]})", hint)

    def _misfit(self, argument: str, value: Any, expected: str, hint: str) -> ShapeError:
        return ShapeError(
            f"{type(self).__name__}: {argument} is {described(getattr(value, 'array', value))}\n"
            f"  expected: {expected}\n  hint: {hint}"
        )

    def _choice(self, setting: str, value: str, options: dict[str, Any]) -> None:
        """Raise SettingError unless ``value`` is among the options."""
        if value not in options:
            raise SettingError(
                f"{type(self).__name__}: {setting} {value!r}\n  expected: {' or '.join(options)}\n"
                f"  hint: {setting}={next(iter(options))!r} is the default"
            )


def parts_of_state(owner: str, names: list[str], state: Any) -> list[Any]:
    """The parts of a state, all None of one that is left out; DtypeError unless it has them."""
    if len(names) == 1:
        return [state]
    if state is None:
        return [None] * len(names)
    if not isinstance(state, (tuple, list)) or len(state) != len(names):
        pair = f"({', '.join(names)})"
        raise DtypeError(
            f"{owner}: the state is {described(getattr(state, 'array', state))}\n"
            f"  expected: a pair {pair}\n  hint: pass x, {pair}"
        )
    return list(state)


class RNNCell(Cell):
    """One step of the simple recurrent net (Elman 1990): ``h = cell(x, h)``.

        a  = U x + W h + b
        h' = tanh(a)                          or relu(a), sigmoid(a), by ``nonlinearity``

    One block (k = 1); b is ``bias_ih + bias_hh``.  Raises ShapeError for an ``x`` or ``h`` that
    does not fit, SettingError for another nonlinearity.
    """

    blocks = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        learn_initial: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        self._choice("nonlinearity", nonlinearity, NONLINEARITIES)
        super().__init__(input_size, hidden_size, bias, learn_initial=learn_initial, rng=rng)
        self.nonlinearity = nonlinearity

    def step(self, u: Any, state: Any = None, mask: Any = None) -> Any:
        (h,) = self.begun(u, state)
        return NONLINEARITIES[self.nonlinearity](u + self.W(h, mask))


class LSTMCell(Cell):
    """One step of a long short-term memory: ``h, c = cell(x, (h, c))``.

        i  = sigmoid(U_i x + W_i h + b_i)     input gate: what is let in
        f  = sigmoid(U_f x + W_f h + b_f)     forget gate: what is kept
        g  =    tanh(U_g x + W_g h + b_g)     what is offered
        o  = sigmoid(U_o x + W_o h + b_o)     output gate: what is shown
        c' = f * c + i * g
        h' = o * tanh(c')

    Four blocks (k = 4), in the order i, f, g, o; each b is the sum of its blocks of ``bias_ih`` and
    ``bias_hh``.  Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.

    b_f begins as all biases do, near 0, where half of c is forgotten at each step; ``forget_bias``
    is another beginning, 1 say (Jozefowicz et al. 2015): all of it in block f of ``bias_ih``, and 0
    in that of ``bias_hh``.

    Raises ShapeError for an ``x``, ``h`` or ``c`` that does not fit, DtypeError for a state that is
    no pair, SettingError for a ``forget_bias`` without biases.
    """

    blocks = 4
    states: ClassVar = {"h": "hidden_size", "c": "hidden_size"}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        forget_bias: float | None = None,
        learn_initial: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, learn_initial=learn_initial, rng=rng)
        if forget_bias is not None:
            if self.bias_ih is None or self.bias_hh is None:
                raise SettingError(
                    f"{type(self).__name__}: forget_bias {forget_bias}, but bias=False\n"
                    "  expected: a cell with biases\n  hint: leave bias=False out"
                )
            f = slice(hidden_size, 2 * hidden_size)
            self.bias_ih.array[f], self.bias_hh.array[f] = forget_bias, 0.0

    def step(self, u: Any, state: Any = None, mask: Any = None) -> Any:
        h, c = self.begun(u, state)
        return lstm_gates(u + self.W(h, mask), c)


class PeepholeLSTMCell(LSTMCell):
    """One step of an LSTM whose gates look at the cell state: ``h, c = cell(x, (h, c))``.

        i  = sigmoid(U_i x + W_i h + p_i * c  + b_i)
        f  = sigmoid(U_f x + W_f h + p_f * c  + b_f)
        g  =    tanh(U_g x + W_g h + b_g)
        c' = f * c + i * g
        o  = sigmoid(U_o x + W_o h + p_o * c' + b_o)
        h' = o * tanh(c')

    The peepholes are diagonal: ``peephole_i``, ``peephole_f`` and ``peephole_o`` (H,), drawn as the
    other parameters are.  Gers and Schmidhuber 2000.  All else is as in ``LSTMCell``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        rng: np.random.Generator | None = None,
        **settings: Any,
    ) -> None:
        rng = given_rng(rng)
        super().__init__(input_size, hidden_size, bias, rng=rng, **settings)
        self.peephole_i, self.peephole_f, self.peephole_o = (
            uniform(rng, hidden_size, hidden_size) for _ in "ifo"
        )

    def step(self, u: Any, state: Any = None, mask: Any = None) -> Any:
        h, c = self.begun(u, state)
        i, f, g, o = split(u + self.W(h, mask), 4, axis=-1)
        i, f, g = sigmoid(i + self.peephole_i * c), sigmoid(f + self.peephole_f * c), tanh(g)
        c = f * c + i * g
        o = sigmoid(o + self.peephole_o * c)
        return o * tanh(c), c


class LayerNormLSTMCell(LSTMCell):
    """One step of an LSTM with layer normalisation: ``h, c = cell(x, (h, c))``.

        [a_i, a_f, a_g, a_o] = gain_ih * N(U x) + gain_hh * N(W h) + b
        c' = sigmoid(a_f) * c + sigmoid(a_i) * tanh(a_g)
        h' = sigmoid(a_o) * tanh(gain_c * N(c') + bias_c)

        N(a) = (a - mean(a)) / sqrt(mean((a - mean(a))^2) + eps)

    U x and W h are normalised each as one vector of 4H numbers, c' as one of H.  Ba et al. 2016,
    supplement, with gates in the order i, f, g, o, and with ``eps`` = 1e-5, which keeps a zero
    state finite.  The gains ``gain_ih``, ``gain_hh`` (4H,) and ``gain_c`` (H,) begin at 1,
    ``bias_c`` (H,) at 0; of the paper's three shifts of the gates only the sum matters, which is b
    = ``bias_ih + bias_hh``.  All else is as in ``LSTMCell``.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, **settings: Any
    ) -> None:
        super().__init__(input_size, hidden_size, bias, **settings)
        sizes = (4 * hidden_size, 4 * hidden_size, hidden_size)
        self.gain_ih, self.gain_hh, self.gain_c = (constant(1.0, size) for size in sizes)
        self.bias_c = constant(0.0, hidden_size) if bias else None

    def U(self, x: Any) -> Any:
        u = self.gain_ih * normalised(x @ self.weight_ih.T)
        return u if self.bias_ih is None else u + self.bias()

    def W(self, h: Any, mask: Any = None) -> Any:
        return self.gain_hh * normalised(super().W(h, mask))

    def step(self, u: Any, state: Any = None, mask: Any = None) -> Any:
        h, c = self.begun(u, state)
        i, f, g, o = split(u + self.W(h, mask), 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        shown = self.gain_c * normalised(c)
        shown = shown if self.bias_c is None else shown + self.bias_c
        return sigmoid(o) * tanh(shown), c


class GRUCell(Cell):
    """One step of a gated recurrent unit: ``h = cell(x, h)``.

        r  = sigmoid(U_r x + W_r h + b_r)                       reset gate: what is looked at
        z  = sigmoid(U_z x + W_z h + b_z)                       update gate: what is kept
        n  =    tanh(U_n x + b_in + r * (W_n h + b_hn))         what is offered
        h' = (1 - z) * n + z * h

    Three blocks (k = 3), in the order r, z, n; b_r and b_z are sums as in the LSTM.  Cho et al.
    2014, in the form of PyTorch and cuDNN, where r multiplies after the product.  The paper resets
    before it, and so does the cell with ``reset_after=False``, of the same parameters:

        n  =    tanh(U_n x + W_n (r * h) + b_in + b_hn)

    Raises ShapeError for an ``x`` or ``h`` that does not fit.
    """

    blocks = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        reset_after: bool = True,
        learn_initial: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, learn_initial=learn_initial, rng=rng)
        self.reset_after = reset_after

    def U(self, x: Any) -> Any:
        return affine(x, self.weight_ih, self.bias_ih) if self.reset_after else super().U(x)

    def W(self, h: Any, mask: Any = None) -> Any:
        Wh = super().W(h, mask)
        return Wh if self.bias_hh is None else Wh + self.bias_hh

    def step(self, u: Any, state: Any = None, mask: Any = None) -> Any:
        (h,) = self.begun(u, state)
        if self.reset_after:
            return gru_gates(u, self.W(h, mask), h)
        cut = [2 * self.hidden_size]  # (B, 3H) -> r and z side by side, (B, 2H), and n, (B, H)
        u_rz, u_n = split(u, cut, axis=-1)
        W_rz, W_n = split(self.weight_hh, cut)
        kept = h if mask is None else h * mask
        r, z = split(sigmoid(u_rz + kept @ W_rz.T), 2, axis=-1)
        n = tanh(u_n + (r * kept) @ W_n.T)
        return n + z * (h - n)  # (1 - z) * n + z * h in one product less
