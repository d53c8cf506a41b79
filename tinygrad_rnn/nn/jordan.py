"""Cells whose output comes back: the lecture's output-to-hidden recurrence, and teacher forcing.

Its letters: U is input-to-hidden, W hidden-to-hidden, V hidden-to-output, R output-to-hidden.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..arithmetic import sigmoid, tanh
from ..random import given_rng
from ..readout import affine
from ..reductions import softmax
from .cells import Cell
from .layers import expect_sizes, uniform

__all__ = ["ElmanJordanCell", "JordanCell"]

_OUTPUTS = {"identity": lambda o: o, "tanh": tanh, "sigmoid": sigmoid, "softmax": softmax}


class JordanCell(Cell):
    """One step of a net with output-to-hidden recurrence (Jordan 1986): ``y = cell(x, y)``.

        a  = U x + R y + b
        h  = tanh(a)
        o  = V h + b_o
        y' = f(o)              ``output``: "identity" (the lecture's o), tanh, sigmoid or softmax

    The state is the output y itself, (B, O); ``weight_ih`` (H, D) is U, ``weight_oh`` (H, O) R,
    ``weight_ho`` (O, H) V, ``bias_ih`` (H,) b, ``bias_ho`` (O,) b_o.

    Why is it less powerful than a net with W h?  All that a step learns of the past has passed
    through y, a few numbers that were trained to be the answer of the step before.  Where answers
    or targets are fed back, what is not part of them but will matter later is lost; h could have
    kept it.  (Real-valued outputs that are trained through time may hide a little beside the
    answer: ``demos/output_recurrence.py`` measures both.)  In exchange there is *teacher forcing*:
    in training, where the right outputs are known, they take the place of y, nothing is carried,
    and all steps are one call:

        h = cell.hidden(cell.U(x), targets_before)     # the rows of all steps at once
        loss = tg.cross_entropy(cell.V(h), targets)
        y = cell(x_t, y)                               # later, with its own outputs

    The risk: in use it meets its own mistakes, of which it saw none in training.

    Raises ShapeError for an ``x`` or ``y`` that does not fit, SettingError for another output.
    """

    states: ClassVar = {"y": "output_size"}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        bias: bool = True,
        output: str = "identity",
        *,
        learn_initial: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        self._choice("output", output, _OUTPUTS)
        sizes = {"input_size": input_size, "hidden_size": hidden_size}
        expect_sizes(self, **sizes, output_size=output_size)
        rng = given_rng(rng)
        H = hidden_size
        self.input_size, self.hidden_size, self.output_size = input_size, H, output_size
        self.output = output
        self.weight_ih = uniform(rng, H, H, input_size)
        self.weight_oh = uniform(rng, H, H, output_size)
        self.weight_ho = uniform(rng, H, output_size, H)
        self.bias_ih = uniform(rng, H, H) if bias else None
        self.bias_ho = uniform(rng, H, output_size) if bias else None
        if learn_initial:
            self.learn_initial()

    def bias(self) -> Any:
        return self.bias_ih

    def R(self, y: Any) -> Any:
        """R y, (B, O) -> (B, H)."""
        return y @ self.weight_oh.T

    def V(self, h: Any) -> Any:
        """o = V h + b_o, (B, H) -> (B, O): what ``output`` is applied to, the logits say."""
        return affine(h, self.weight_ho, self.bias_ho)

    def hidden(self, u: Any, y: Any) -> Any:
        """h, (B, H), given ``u = U(x)`` and the output, or the target, of the step before."""
        return tanh(u + self.R(y))

    def step(self, u: Any, state: Any = None) -> Any:
        (y,) = self.begun(u, state)
        return _OUTPUTS[self.output](self.V(self.hidden(u, y)))


class ElmanJordanCell(JordanCell):
    """One step of a net conditioned on its previous output: ``h, y = cell(x, (h, y))``.

        a  = U x + W h + R y + b
        h' = tanh(a)
        y' = f(V h' + b_o)

    h carries what y does not say, and y says which of several possible answers was given: a tagger
    that took the last word for a verb goes on from there, and beam search can compare both ways.
    Teacher forcing replaces y alone, ``h, y = cell(x_t, (h, target_before))``, so the steps stay a
    loop.  All parameters are those of ``JordanCell``, and ``weight_hh`` (H, H) is W.
    """

    states: ClassVar = {"h": "hidden_size", "y": "output_size"}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        bias: bool = True,
        output: str = "identity",
        *,
        rng: np.random.Generator | None = None,
        **settings: Any,
    ) -> None:
        rng = given_rng(rng)
        super().__init__(input_size, hidden_size, output_size, bias, output, rng=rng, **settings)
        self.weight_hh = uniform(rng, hidden_size, hidden_size, hidden_size)

    def step(self, u: Any, state: Any = None) -> Any:
        h, y = self.begun(u, state)
        h = self.hidden(u + self.W(h), y)
        return h, _OUTPUTS[self.output](self.V(h))
