"""CuPy's random generator: fewer methods than NumPy's, and other numbers from the same seed."""

from __future__ import annotations

import numpy as np

from . import table
from .functions import Function


class Generator:
    """``cupy.random.default_rng(seed)``: there is no ``choice``, no ``normal``, no ``shuffle``."""

    def __init__(self, seed=None) -> None:
        self._numbers = np.random.default_rng([1, 0 if seed is None else seed])

    def __getattr__(self, name):
        full_name = f"cupy.random.Generator.{name}"
        if name.startswith("_") or full_name not in table.read():
            raise AttributeError(f"'cupy.random.Generator' object has no attribute {name!r}")
        return Function(full_name, getattr(self._numbers, name))
