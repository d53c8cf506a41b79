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

__all__ = [
    "arrays",
    "broadcastable_shapes",
    "cases",
    "forests",
    "laid_out",
    "shapes",
    "tensors",
    "trees",
]


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
    dtype = np.result_type(x, np.float16)  # which holds NaN
    room = np.full([2 * n + 4 for n in x.shape], np.nan, dtype)
    if layout == "reversed":
        room = np.empty(x.shape, dtype)
    window = tuple(slice(start, None if start is None else start + n * step, step) for n in x.shape)
    room[window] = x
    return np.asarray(room[window])


# ---- forests -----------------------------------------------------------------------------------


@st.composite
def forests(
    draw: Any, max_nodes: int = 10, max_children: int = 3, shared: bool = False
) -> list[list[int]]:
    """Lists of children for ``Structure.dag``, the nodes numbered in any order.

    Trees, chains and single nodes, one or several, none with more than ``max_children``.  If
    ``shared``, a node may be the child of several others, or of one twice.
    """
    n = draw(st.integers(1, max_nodes))
    children: list[list[int]] = [[] for _ in range(n)]
    for i in range(n - 1, 0, -1):  # children are older than their parents, until all are renamed
        if shared:
            children[i] = draw(st.lists(st.integers(0, i - 1), max_size=max_children))
            continue
        parent = draw(st.integers(i, n))  # n: a root, and so is a child for which there is no room
        if parent < n and len(children[parent]) < max_children:
            children[parent].append(i - 1)
    names = draw(st.permutations(range(n)))
    renamed: list[list[int]] = [[] for _ in range(n)]
    for i, own in enumerate(children):
        renamed[names[i]] = [names[j] for j in own]
    return renamed


def trees(leaves: Any, max_leaves: int = 8, arity: int | None = None) -> Any:
    """Trees as nested tuples: a leaf, or a tuple of ``arity`` trees; of 1 to 3 if that is None."""
    least, most = (1, 3) if arity is None else (arity, arity)

    def above(below: Any) -> Any:
        return st.lists(below, min_size=least, max_size=most).map(tuple)

    return st.recursive(leaves, above, max_leaves=max_leaves)
