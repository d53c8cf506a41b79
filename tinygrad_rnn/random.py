"""The one source of randomness: a NumPy generator on the host; a seed means the same everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import local
from typing import Any

import numpy as np

from .errors import DeferredError, DtypeError, described, expect_count

__all__ = ["default_rng", "drawing_again", "drawing_refused", "given_rng", "manual_seed"]

_generator = np.random.default_rng()


class _Here(local):
    reason = ""  # why this thread must not draw now
    generator: np.random.Generator | None = None  # what it draws from in place of the common one


_here = _Here()


def manual_seed(seed: int) -> np.random.Generator:
    """The default generator, started anew from ``seed``: for layers and dropout given none."""
    global _generator
    expect_count("manual_seed", "seed", seed, least=0)
    _generator = np.random.default_rng(seed)
    return _generator


def default_rng() -> np.random.Generator:
    """The generator used where none is passed; DeferredError inside a deferred cell."""
    if _here.reason:
        raise DeferredError(
            f"random numbers are drawn, but {_here.reason}\n"
            "  hint: draw outside and pass what was drawn, a dropout mask say, as an argument"
        )
    return _here.generator or _generator


def given_rng(rng: Any) -> np.random.Generator:
    """``rng``, or the default generator if it is None; DtypeError if it is something else."""
    if rng is None:
        return default_rng()
    if not hasattr(rng, "random"):
        raise DtypeError(
            f"rng is {described(rng)}\n  expected: a generator of NumPy, or None\n"
            "  hint: np.random.default_rng(seed) makes one"
        )
    return rng


@contextmanager
def drawing_again(state: Mapping[str, Any]) -> Iterator[None]:
    """A context in which this thread's default generator draws as from ``state``, once more.

    The generator that all threads share is left alone: others may be drawing from it.
    """
    bits = type(_generator.bit_generator)()
    bits.state = state
    before, _here.generator = _here.generator, np.random.Generator(bits)
    try:
        yield
    finally:
        _here.generator = before


@contextmanager
def drawing_refused(reason: str) -> Iterator[None]:
    """A context in which this thread cannot draw from the default generator."""
    _here.reason = reason
    try:
        yield
    finally:
        _here.reason = ""
