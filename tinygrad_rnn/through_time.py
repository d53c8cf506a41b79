"""Truncated backpropagation through time: long sequences, and a gradient that looks back a little.

By windows, a sequence is cut, and the state that is carried over a cut is detached:

    for window in windows(len(xs), 35):
        h = detach(h)
        for x in xs[window]:
            h = cell(x, h)
        ...

How far an error then looks back depends on where in its window it stands.  ``truncated_bptt`` is
the lecture's form, in which every error looks back equally far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import numpy as np

from .backend import backend_of
from .engine import TensorCore, leaf
from .errors import ShapeError, expect_count

__all__ = ["detach", "truncated_bptt", "windows"]


def detach(state: Any) -> Any:
    """The same values as constants: of a Tensor, or of all Tensors in a nested state.

    A state is a Tensor, an array, None, or a tuple, NamedTuple, list or dict of states.
    """
    return mapped(lambda x: type(x)(x.array), state)


def windows(steps: int, length: int) -> Iterator[slice]:
    """The slices that cut ``steps`` time steps into windows of ``length``, the last may be shorter.

    The same slice cuts all that belongs together: ``xs[window], ys[window]``.  SettingError for
    lengths that are no natural numbers.
    """
    for name, value, least in [("steps", steps, 0), ("length", length, 1)]:
        expect_count("windows(steps, length)", name, value, least)
    return (slice(start, min(start + length, steps)) for start in range(0, steps, length))


def truncated_bptt(
    cell: Callable[[Any, Any], Any],
    loss: Callable[[Any, Any], Any],
    inputs: Iterable[Any],
    targets: Iterable[Any],
    a: int,
    state: Any = None,
) -> tuple[float, Any]:
    """``(E, last state)``, with ``E = sum_t E^t``; adds the truncated dE/dW to each ``W.grad``.

        h^t = cell(x^t, h^{t-1})        E^t = loss(h^t, y^t)        t = 1 .. T

        dE/dW = sum_t dE^t/dW
        dE^t/dW = sum_{k = t-a}^t  dE^t/dh^t  dh^t/dh^k  dh^k/dW

    In dh^k/dW the state h^{k-1} is a constant, and dh^t/dh^k is the product of the k+1-th to the
    t-th Jacobian of the cell: ``a`` of them for the first term, none for the last.  So ``a = 0``
    keeps only what a step does by itself, and ``a >= T`` is all of BPTT.  The sum goes down to
    k = 0, where h^0 = ``state`` may itself depend on weights; steps before that do not exist.  What
    E^t owes to the weights of ``loss`` is exact for every ``a``.

    One E^t costs a + 1 steps backwards, and memory is that of a + 1 steps, however many there are.
    The state may be nested, as for ``detach``; the last one comes back detached.  The weights must
    not change on the way.  SettingError unless ``a`` is a natural number, ValueError if there are
    fewer inputs than targets, or more.
    """
    expect_count("truncated_bptt", "a", a, 0)
    if isinstance(inputs, Sized) and isinstance(targets, Sized) and len(inputs) != len(targets):
        raise ShapeError(
            f"truncated_bptt: {len(inputs)} inputs, {len(targets)} targets\n"
            "  expected: a target for each input\n  hint: zip(inputs, targets) pairs what there is"
        )
    state, cut = _cut(state)
    cuts = deque([cut], maxlen=a + 1)  # those after the steps t-a .. t
    total: Any = 0.0
    for x, y in zip(inputs, targets, strict=True):
        state, cut = _cut(cell(x, state))
        cuts.append(cut)
        error = loss(state, y)
        error.backward(retain_graph=True)
        total = total + error.array.astype(np.float64)  # read at the end: a device need not wait
        for cut in reversed(cuts):
            for before, after in cut:
                if after.grad is not None:
                    before.backward(after.grad, retain_graph=True)
                    after.grad = None
    return float(backend_of(total).to_host(total)), detach(state)


def _cut(state: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """``state`` on leaves of its own, and each tracked Tensor in it with the leaf in its place."""
    cut = []

    def restarted(x: Any) -> Any:
        if x.node is None:
            return x
        cut.append((x, type(x)(x.array, leaf(x.array))))
        return cut[-1][1]

    return mapped(restarted, state), cut


def mapped(function: Callable[[Any], Any], state: Any) -> Any:
    """``state`` with ``function`` of each Tensor in its place; all else is left as it is."""
    if isinstance(state, TensorCore):
        return function(state)
    if isinstance(state, dict):
        return {key: mapped(function, part) for key, part in state.items()}
    if isinstance(state, (tuple, list)):
        parts = [mapped(function, part) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    return state
