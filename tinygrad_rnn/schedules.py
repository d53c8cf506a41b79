"""Rates that change over time: ``optimizer.lr = lr * schedule(t)`` for t = 0, 1, 2, ..."""

from __future__ import annotations

import math
from collections.abc import Callable

from .errors import expect_count

__all__ = ["cosine", "decay", "linear", "warmup"]


def warmup(steps: int) -> Callable[[float], float]:
    """The schedule that grows from ``1 / steps`` to 1 in so many steps, and stays there."""
    expect_count("warmup", "steps", steps)
    return lambda t: min(1.0, (t + 1) / steps)


def linear(steps: int, floor: float = 0.0) -> Callable[[float], float]:
    """The schedule that falls from 1 to ``floor`` in so many steps along a line."""
    expect_count("linear", "steps", steps)
    return lambda t: 1 + (floor - 1) * min(1.0, t / steps)


def cosine(steps: int, floor: float = 0.0) -> Callable[[float], float]:
    """The schedule that falls from 1 to ``floor`` in so many steps along half a cosine."""
    expect_count("cosine", "steps", steps)
    return lambda t: floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, t / steps))) / 2


def decay(start: int, factor: float) -> Callable[[float], float]:
    """The schedule that is 1 before ``start`` and is multiplied by ``factor`` at each step from it.

    With t counting epochs, ``decay(4, 0.5)`` is the schedule of Zaremba et al. 2014.
    """
    expect_count("decay", "start", start, least=0)
    return lambda t: factor ** max(0, math.floor(t) - start + 1)
