"""Recurrent layers: a cell folded over time, in one direction or in both, layer upon layer.

However the sequences come, padded, as a list, or one alone, a layer sees one matrix with a row for
each step that there is, and a forest of chains; it runs ``fold(cell.step, chains, cell.U(rows))``.
The backward direction is the fold over the reversed chains.  Padding never enters the matrix, so
nothing has to be masked.

The rows are in packed order, so a step is a slice.  Where it can, all of it is one operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..backend import backend_of
from ..errors import DtypeError, ShapeError, described, expect_count, expect_number
from ..fold import fold
from ..functional import dropout
from ..linear import concatenate, reshape, split, stack, swapaxes
from ..observer import OBSERVER
from ..rows import read, spread
from ..sequences import elman, fits, gru, lstm
from ..structure import Structure
from ..tensor import Tensor
from .cells import Cell, GRUCell, LSTMCell, RNNCell, parts_of_state
from .layers import expect_sizes, hint_for_rows
from .module import Module
from .packed import Layout, laid_out

__all__ = ["GRU", "LSTM", "RNN", "Recurrent"]


class Recurrent(Module):
    """Layers of a cell over time: ``output, state = layer(x, state=None, lengths=None)``.

    ``cell_class`` is the cell; ``settings`` go to it: ``forget_bias=1.0``, ``learn_initial=True``,
    ``reset_after=False``.  Another cell makes another layer:

        class PeepholeLSTM(nn.Recurrent):
            cell_class = nn.PeepholeLSTMCell

    T, B, D, H are the numbers of steps, sequences, inputs and hidden units, ``K = num_layers *
    directions``, where there are 2 directions if ``bidirectional``, else 1:

        x        (T, B, D)              output   (T, B, directions * H), h of the last layer
        lengths  (B,)                   state    h (K, B, H); an LSTM's is a pair (h, c) of such

    With ``batch_first``, x and output are (B, T, ...), the state as it is.  One sequence may come
    without B: x (T, D), state (K, H).  A list of B sequences, (T_i, D) each, gives a list of
    outputs, (T_i, directions * H) each.  With ``lengths``, in any order, what lies beyond the end
    of a sequence is never read: output and gradient are exactly 0 there.

    Of the last axis of output, ``[:H]`` belongs to the forward and ``[H:]`` to the backward
    direction.  Both are at step t the state after reading x[t]; the forward one has then read x[0]
    to x[t], the backward one x[t] to the end.  So the last step of the forward direction is
    ``output[lengths[b] - 1, b, :H]``, and that of the backward direction ``output[0, b, H:]``:

        x        x[0]      x[1]      x[2]  (the end)
        [:H]     h0 -----> h1 -----> h2    final: h2, row K - 2 of the state
        [H:]     h0 <----- h1 <----- h2    final: h0, row K - 1 of the state

    Row k of a state, given or returned, is layer k // directions, direction k % directions.  A
    state that is left out is zeros, or learned.  Every layer above the first reads the outputs,
    both directions, of the one below.

    ``dropout`` acts in training alone, on the input of every layer above the first, anew at every
    step.  If ``variational`` (Gal and Ghahramani 2016), a mask is drawn for each sequence and holds
    at all its steps: one for the input of each layer, the first too, shared by both directions, and
    one for each layer and direction for the h that W is applied to.  What a state keeps, c and what
    a GRU carries over, is never dropped.

    On arrays of one dtype all steps are one operation; on a device, of float32 or float64.  Under
    ``detect_anomaly``, in training with ``variational``, or where the cell has methods of its own
    or ``reset_after=False``, it is the fold: the same but for rounding.

    Parameters are PyTorch's: ``weight_ih_l0``, ``bias_hh_l1_reverse``.  Raises ShapeError for what
    does not fit, DtypeError for lengths that are not integers, SettingError for a wrong setting.
    """

    cell_class: ClassVar[type[Cell]]
    loops_over_time = False  # a profile counts calls of a layer as steps, none of its directions

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        variational: bool = False,
        rng: np.random.Generator | None = None,
        **settings: Any,
    ) -> None:
        expect_sizes(self, input_size=input_size, hidden_size=hidden_size)
        name = type(self).__name__
        expect_count(name, "num_layers", num_layers)
        expect_number(name, "dropout", dropout, 1.0, "dropout is the part that is dropped")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.bidirectional = batch_first, bidirectional
        self.dropout, self.variational, self.rng = dropout, variational, rng
        directions = ["", "_reverse"] if bidirectional else [""]
        cells: dict[str, Cell] = {}
        for layer in range(num_layers):
            size = len(directions) * hidden_size if layer else input_size
            for direction in directions:
                place = f"l{layer}{direction}"
                cells[place] = self.cell_class(size, hidden_size, bias, rng=rng, **settings)
                for name, x in vars(cells[place]).items():
                    if isinstance(x, Tensor):
                        setattr(self, f"{name}_{place}", x)
        self.cells = cells  # last, so that the Tensors bear the names that were set before

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute: a parameter in the cell that uses it, too, so that weights tie."""
        super().__setattr__(name, value)
        for place, cell in vars(self).get("cells", {}).items():
            if name.endswith(f"_{place}"):
                setattr(cell, name.removesuffix(f"_{place}"), value)

    def forward(self, x: Any, state: Any = None, lengths: Any = None) -> tuple[Any, Any]:
        if isinstance(x, (list, tuple)):
            return self._of_list(x, state, lengths)
        self._check_input(x)
        if x.ndim == 2:
            return self._of_one(x, state, lengths)
        if self.batch_first:
            x = swapaxes(x, 0, 1)
        T, B, D = x.shape
        steps = (T,) * B if lengths is None else self._checked_lengths(lengths, T, B)
        state = self._checked_state(state, B)
        rows, state = self._run(reshape(x, (T * B, D)), laid_out(steps, padded=True), state)
        output = reshape(rows, (T, B, rows.shape[-1]))
        return swapaxes(output, 0, 1) if self.batch_first else output, state

    def _of_one(self, x: Any, state: Any, lengths: Any) -> tuple[Any, Any]:
        """The layer of one sequence (T, D): a batch of one."""
        if lengths is not None:
            raise self._misfit(
                "lengths", lengths, "None with x (time, input_size)", "cut x instead"
            )
        parts = self._checked_state(state)
        if parts is not None:
            parts = tuple([reshape(h, (h.shape[0], 1, h.shape[1])) for h in parts])
        rows, state = self._run(x, laid_out((len(x),), padded=False), parts)
        return rows, _state([reshape(h, (h.shape[0], h.shape[2])) for h in _parts(state)])

    def _of_list(self, x: Sequence[Any], state: Any, lengths: Any) -> tuple[list[Any], Any]:
        """The layer of a list of sequences (T_i, D)."""
        if lengths is not None:
            raise self._misfit("lengths", lengths, "None with a list", "each sequence has its own")
        expected = f"a list of sequences, each (time >= 1, input_size={self.input_size})"
        for i, one in enumerate(x):
            shape: tuple[int, ...] = getattr(one, "shape", ())
            if len(shape) != 2 or shape[-1] != self.input_size or not shape[0]:
                hint = "an array or a Tensor for each sequence; ids are embedded first"
                if shape[:1] == (0,):
                    hint = "leave empty sequences out"
                hint = hint_for_rows(one, self.input_size, hint)
                raise self._misfit(f"x[{i}]", one, expected, hint)
        if not x:
            raise self._misfit("x", x, expected, "there should be one at least")
        steps = tuple([one.shape[0] for one in x])
        state = self._checked_state(state, len(x))
        rows, state = self._run(concatenate(list(x)), laid_out(steps, padded=False), state)
        return split(rows, np.cumsum(steps)[:-1].tolist()), state

    # ---- the fold ----

    def _run(self, x: Any, layout: Layout, initial: Any) -> tuple[Any, Any]:
        """Outputs in the places of their inputs in ``x``, 0 elsewhere, and the final state."""
        finals: list[list[Any]] = []
        rows, cells = _taken(x, layout.place), list(self.cells.values())
        for layer in range(self.num_layers):
            rows, outputs = self._dropped(rows, layer, layout), []
            for backward in [False, True][: 1 + self.bidirectional]:
                cell, begin = cells[len(finals)], None
                if initial is not None:
                    begin = [_taken(h[len(finals)], layout.to_packed) for h in initial]
                output, *ends = self._over(cell, layout, backward, rows, begin)
                finals.append([_taken(h, layout.from_packed) for h in ends])
                outputs.append(output)
            rows = concatenate(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
        if not _is_all(layout.place, x.shape[0]):
            rows = spread(rows, layout.place, x.shape[0])
        return rows, _state([_stacked(parts) for parts in zip(*finals, strict=True)])

    @property
    def _masked(self) -> bool:
        """Whether a mask is drawn for each sequence."""
        return bool(self.variational and self.dropout and self.training)

    def _over(
        self, cell: Cell, layout: Layout, backward: bool, rows: Any, begin: Any
    ) -> tuple[Any, ...]:
        """One layer in one direction: outputs in packed order, and the parts of the final state."""
        packed = layout.packed
        operation = None if self._masked else _operation(cell, rows, begin)
        if operation:
            states = begin or [cell.initial(name, (len(packed.first),)) for name in cell.states]
            return operation(cell, rows, states, packed.courses[backward])
        chains, first, last = packed.direction(backward)
        if begin is not None:
            begin = _state([_taken(h, first) for h in begin])
        states = _parts(self._folded(cell, chains, rows, begin, layout))
        return states[0], *[_taken(h, last) for h in states]

    def _folded(self, cell: Cell, chains: Structure, rows: Any, begin: Any, layout: Layout) -> Any:
        """The states of all steps of one layer in one direction."""
        u = cell.U(rows)
        if not self._masked:
            return fold(cell.step, chains, u, begin)

        def masked(inputs: Any, state: Any = None) -> Any:
            u, mask = inputs
            return cell.step(u, state, mask)

        return fold(masked, chains, (u, self._masks(u, self.hidden_size, layout)), begin)

    def _dropped(self, rows: Any, layer: int, layout: Layout) -> Any:
        """The input of a layer, with dropout in training."""
        if self._masked:
            return rows * self._masks(rows, rows.shape[-1], layout)
        between = layer and self.dropout and self.training
        return dropout(rows, self.dropout, self.rng) if between else rows

    def _masks(self, rows: Any, size: int, layout: Layout) -> Any:
        """For each row the mask, ``size`` numbers, of the sequence that it belongs to."""
        array = getattr(rows, "array", rows)
        ones = 1.0 + backend_of(array).zeros((len(layout.packed.first), size), array.dtype)
        return read(dropout(ones, self.dropout, self.rng), layout.sequence, False)

    # ---- what does not fit ----

    def _check_input(self, x: Any) -> None:
        """ShapeError unless ``x`` is (T, B, D), (B, T, D) if ``batch_first``, or (T, D)."""
        shape: tuple[int, ...] = getattr(x, "shape", ())
        if len(shape) in (2, 3) and shape[-1] == self.input_size and min(shape[:-1]):
            return
        axes = "batch, time" if self.batch_first else "time, batch"
        hint = "a list of sequences, or one sequence (time, input_size), will do as well"
        if len(shape) in (2, 3) and shape[-1] == self.input_size:
            hint = "there should be at least one step and one sequence"
        elif self.input_size in shape:
            hint = f"the input is the last axis, not axis {shape.index(self.input_size)}"
        hint = hint_for_rows(x, self.input_size, hint)
        raise self._misfit("x", x, f"({axes}, input_size={self.input_size})", hint)

    def _checked_lengths(self, lengths: Any, T: int, B: int) -> tuple[int, ...]:
        """``lengths`` as ints, if it is one length from 1 to T for each of B sequences."""
        lengths = getattr(lengths, "array", lengths)
        steps = np.asarray(backend_of(lengths).to_host(lengths))
        if steps.dtype.kind not in "iu":
            hint = "lengths count steps; use .astype(int)"
            if steps.ndim == 2:
                hint = f"a mask has to be counted, mask.sum({steps.shape[0] == B:d})"
            raise DtypeError(
                f"{type(self).__name__}: lengths is {described(steps)}\n"
                f"  expected: integers (batch={B},)\n  hint: {hint}"
            )
        if steps.shape != (B,):
            hint = "one length for each sequence"
            if steps.shape == (T,):
                hint = f"axes 0 and 1 of x look swapped, see batch_first={self.batch_first}"
            raise self._misfit("lengths", steps, f"(batch={B},)", hint)
        for b in np.flatnonzero((steps < 1) | (steps > T)):
            hint = "leave empty sequences out" if steps[b] < 1 else f"x has {T} steps"
            raise self._misfit(f"lengths[{b}]", int(steps[b]), f"1 <= length <= time={T}", hint)
        return tuple(steps.tolist())

    def _checked_state(self, state: Any, B: int | None = None) -> tuple[Any, ...] | None:
        """The parts of a state, each (K, B, H), or (K, H) where B is None; None if left out."""
        if state is None:
            return None
        K, H = len(self.cells), self.hidden_size
        expected = (K, H) if B is None else (K, B, H)
        batch = "" if B is None else f"batch={B}, "
        states = parts_of_state(type(self).__name__, list(self.cell_class.states), state)
        for name, h in zip(self.cell_class.states, states, strict=True):
            got: tuple[int, ...] = getattr(h, "shape", ())
            if got != expected:
                hint = f"{name} is left out together with all of the state, or not at all"
                if isinstance(h, tuple) and len(states) == 1:
                    hint = f"pass {name} alone; only the state of an LSTM is a pair (h, c)"
                elif got == (B, K, H):
                    hint = "axes 0 and 1 look swapped; the batch is axis 1, also with batch_first"
                elif B is None and len(got) == 3:
                    hint = f"one sequence has no batch, and nor has its state: {name}[:, 0]"
                elif len(got) == 3 and (got[0], got[2]) == (K, H):
                    hint = f"the batch changed from {got[1]} to {B}; begin with None, or cut it"
                elif len(got) == 3 and got[1:] == expected[1:]:
                    each = "a layer and direction" if self.bidirectional else "a layer"
                    hint = f"{name} has a row for {each}, of which there are {K}"
                elif got == expected[1:]:
                    hint = f"a state has an axis of layers, {name}[None]"
                axes = f"(layers*directions={K}, {batch}hidden={H})"
                raise self._misfit(name, h, axes, hint)
        return tuple(states)

    def _misfit(self, argument: str, value: Any, expected: str, hint: str) -> ShapeError:
        return ShapeError(
            f"{type(self).__name__}: {argument} is {described(getattr(value, 'array', value))}\n"
            f"  expected: {expected}\n  hint: {hint}"
        )


class RNN(Recurrent):
    """Layers of ``RNNCell``, with its ``nonlinearity``: ``output, h = rnn(x, h)``.

    All else is in ``Recurrent``.
    """

    cell_class = RNNCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *args: Any,
        **settings: Any,
    ) -> None:
        settings["nonlinearity"] = nonlinearity
        super().__init__(input_size, hidden_size, num_layers, *args, **settings)


class LSTM(Recurrent):
    """Layers of ``LSTMCell``: ``output, (h, c) = lstm(x, (h, c))``; all else in ``Recurrent``."""

    cell_class = LSTMCell


class GRU(Recurrent):
    """Layers of ``GRUCell``: ``output, h = gru(x, h)``; all else in ``Recurrent``."""

    cell_class = GRUCell


# ---- whole sequences in one operation ----------------------------------------------------------


def _operation(cell: Cell, rows: Any, begin: Any) -> Any:
    """The operation that is ``cell`` over whole sequences; None where the fold has to run."""
    observer = OBSERVER.get()
    seen = observer is not None and observer.sees_steps
    if seen or not fits(rows, *[getattr(cell, name, None) for name in _WEIGHTS], *(begin or [])):
        return None
    for kind, operation in _OPERATIONS.items():
        if isinstance(cell, kind) and getattr(cell, "reset_after", True):
            methods = [(getattr(cell, name), getattr(kind, name)) for name in _METHODS]
            if all(getattr(mine, "__func__", None) is its for mine, its in methods):
                return operation
    return None


_METHODS = ("U", "W", "bias", "begun", "initial", "parts", "step")
_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_OPERATIONS: dict[type[Cell], Any] = {
    LSTMCell: lambda cell, x, states, course: lstm(
        x, cell.weight_ih, cell.weight_hh, cell.bias(), states[0], states[1], course
    ),
    GRUCell: lambda cell, x, states, course: gru(
        x, cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh, states[0], course
    ),
    RNNCell: lambda cell, x, states, course: elman(
        x, cell.weight_ih, cell.weight_hh, cell.bias(), states[0], course, cell.nonlinearity
    ),
}


def _taken(x: Any, rows: Any) -> Any:
    """``x[rows]``, each row once; ``x`` itself if that is all of it."""
    return x if _is_all(rows, x.shape[0]) else read(x, rows, True)


def _stacked(parts: tuple[Any, ...]) -> Any:
    """What ``stack`` gives, in half the time where there is one layer."""
    return stack(parts) if len(parts) > 1 else reshape(parts[0], (1, *parts[0].shape))


def _is_all(rows: Any, n: int) -> bool:
    """Whether ``rows`` are 0 .. n - 1 in this order."""
    return isinstance(rows, slice) and rows == slice(0, n)


def _parts(state: Any) -> tuple[Any, ...]:
    """The parts of a state: itself alone, or those of a tuple."""
    return state if isinstance(state, tuple) else (state,)


def _state(parts: list[Any]) -> Any:
    """The state of these parts: the one there is, or a tuple."""
    return tuple(parts) if len(parts) > 1 else parts[0]
