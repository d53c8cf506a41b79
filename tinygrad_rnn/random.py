"""The one source of randomness: a NumPy generator on the host; a seed means the same everywhere."""

from __future__ import annotations

import numpy as np

__all__ = ["default_rng", "manual_seed"]

_generator = np.random.default_rng()


def manual_seed(seed: int) -> np.random.Generator:
    """The default generator, started anew from ``seed``: for layers and dropout given none."""
    global _generator
    _generator = np.random.default_rng(seed)
    return _generator


def default_rng() -> np.random.Generator:
    """The generator used where none is passed."""
    return _generator
