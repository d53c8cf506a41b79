"""Gradients that are no numbers are refused; on a device, without waiting for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .backend import backend_of
from .errors import NonFiniteError, described

__all__ = ["Guard", "expect_finite"]

HINT = "with detect_anomaly(): around forward and backward names the operation that made them"


def expect_finite(caller: str, name: str, g: Any) -> None:
    """Raise NonFiniteError if NaN or infinity is in ``g``, the gradient of parameter ``name``."""
    flat = g.ravel()
    with np.errstate(over="ignore", invalid="ignore"):  # one product; squares may overflow, though
        if math.isfinite(abs(np.vdot(flat, flat))) or np.isfinite(flat).all():
            return
    raise NonFiniteError(
        f"{caller}: the gradient of {name}, {described(g)}, is not finite\n"
        f"  of its {g.size} entries {int(np.isnan(g).sum())} are NaN and"
        f" {int(np.isinf(g).sum())} infinite; nothing has been changed\n  hint: {HINT}"
    )


class Guard:
    """A flag on the device that the kernels of an optimiser look at before they move anything.

    To ask the device whether a gradient is finite is to wait for all that it has to do before.  So
    it writes the answer into a flag, ``(place, step)``, zeros while all is well, with a place that
    is highest for the first parameter; while it is set nothing moves, and the host reads it every
    ``patience`` steps.  ``before`` holds, for each step that it was not read after, what the
    memories were: the arrays in them are those that nothing has moved in.
    """

    patience = 32

    def __init__(self) -> None:
        self.flag: Any = None
        self.step = 0
        self.before: list[list[dict[str, Any]]] = []

    def flag_for(self, x: Any) -> Any:
        """The flag, on the device of ``x``."""
        if self.flag is None:
            self.flag = backend_of(x).zeros((2,), np.int32)
        return self.flag

    def watch(self, grads: Sequence[tuple[int, Any]], memories: list[dict[str, Any]]) -> None:
        """Have the device look at the gradients of a step, each with its parameter's number."""
        self.step += 1
        self.before.append([dict(memory) for memory in memories])
        gs, places = [g for _, g in grads], [_HIGHEST - number for number, _ in grads]
        backend_of(gs[0]).fused(_noted)(self.flag_for(gs[0]), gs, places, self.step)

    def is_due(self) -> bool:
        """Whether the flag should be read again."""
        return len(self.before) >= self.patience

    def read(self) -> Any:
        """None; or the number, the step, and the memories before it, of what was not finite."""
        before, self.before = self.before, []
        if not before:
            return None
        place, step = backend_of(self.flag).to_host(self.flag).tolist()
        if not step:
            return None
        self.flag = None
        return _HIGHEST - place, step, before[step - self.step - 1]


_HIGHEST = 2**31 - 1


def _noted(flag: Any, gs: Any, places: Any, step: int) -> None:
    """Set the flag, unless it is, if one of ``gs`` is not finite: to the place of the first."""
    for g, place in zip(gs, places, strict=True):
        if not flag[1] and not np.isfinite(g).all():
            flag[:] = place, step
