"""Hypothesis strategies for tests of your own functions, and of ours.

>>> from hypothesis import given
>>> import tinygrad_rnn as tg
>>> from tinygrad_rnn.testing import arrays, shapes
>>> @given(arrays(shapes()))
... def test_my_function(x):
...     tg.gradcheck(lambda x: tg.sum(tg.tanh(x) * x), [x])

Needs hypothesis, which the extra ``test`` installs.  Structure is drawn by hypothesis, so that it
shrinks; values are expanded from a drawn seed, for hypothesis' own floats cluster on 0, 1 and
powers of two, where ties and kinks are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from .registry import Case, Draw, Row
from .tensor import Tensor, tensor

__all__ = ["arrays", "broadcastable_shapes", "cases", "laid_out", "shapes", "tensors"]


class HypothesisDraw(Draw):
    """Choices made by hypothesis, values by a generator whose seed hypothesis draws."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))


@st.composite
def shapes(draw: Any, min_dims: int = 0, max_dims: int = 3, min_side: int = 1) -> tuple[int, ...]:
    """Shapes with sides up to 3, all sides equal half of the time."""
    return HypothesisDraw(draw).shape(min_dims, max_dims, min_side)


@st.composite
def broadcastable_shapes(draw: Any, n: int = 2) -> list[tuple[int, ...]]:
    """Lists of ``n`` shapes that broadcast to a common one."""
    return HypothesisDraw(draw).broadcastable(n)


@st.composite
def arrays(draw: Any, shape: Any = None, values: str = "normal") -> np.ndarray:
    """float64 arrays of a shape, or of drawn shapes.

    ``values``: ``"normal"`` (both signs, at least 0.1 from 0), ``"positive"`` (0.3 to 3) or
    ``"distinct"`` (any two entries at least 0.1 apart, for what compares entries).
    """
    if shape is None or isinstance(shape, st.SearchStrategy):
        shape = draw(shapes() if shape is None else shape)
    return getattr(HypothesisDraw(draw), values)(shape)


@st.composite
def tensors(draw: Any, shape: Any = None, values: str = "normal") -> Tensor:
    """Leaves that gather gradients: see ``arrays``."""
    return tensor(draw(arrays(shape, values)), requires_grad=True)


@st.composite
def cases(draw: Any, row: Row) -> Case:
    """Arguments of one operation of the registry: arrays, and keywords that are not checked."""
    return row.case(HypothesisDraw(draw))


@st.composite
def laid_out(draw: Any, x: np.ndarray) -> np.ndarray:
    """Arrays equal to ``x`` in another memory layout.

    C or Fortran order, every other entry of a larger array, reversed, read-only, or a window into
    an array of NaN, which a read outside the window would show.
    """
    layout = draw(st.sampled_from(["C", "F", "strided", "reversed", "read-only", "window"]))
    if layout in "CF":
        return np.array(x, order=layout)
    if layout == "read-only":
        x = x.copy()
        x.flags.writeable = False
        return x
    step, start = {"strided": (2, 0), "reversed": (-1, None), "window": (1, 2)}[layout]
    room = np.full([2 * n + 4 for n in x.shape], np.nan)
    if layout == "reversed":
        room = np.empty(x.shape)
    window = tuple(slice(start, None if start is None else start + n * step, step) for n in x.shape)
    room[window] = x
    return np.asarray(room[window])
