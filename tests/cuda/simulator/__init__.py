"""CuPy as it is where there is none: its arrays on NumPy's, stricter than they are.

``install`` puts it where ``import cupy`` finds it, ``uninstall`` takes it away; ``namespace.cupy``
is the module as an object, to be held beside the real one.  In reading order:

    counting    what a program costs; the errors of what CuPy would do in silence
    table       the names and signatures of CuPy
    launches    how many kernels a call takes
    array       the array: its doors, what would wait for the device, its indices
    functions   calls of functions: CuPy's arguments, NumPy's results
    ufuncs      calls of ufuncs, and the scatter-add
    operators   operators and methods of the array; NumPy's functions, which come back to it
    generator   random numbers
    namespace   the modules

What CuPy rejects is rejected with the same kind of error; what it accepts and gets wrong, or does
slowly without saying so, is a ``Hazard``; a wait for the device that nobody wrote is a ``Sync``.
Kernels are not run: the NumPy body that defines each is run on the payloads, as one launch, even if
its function launches several.  All else costs what it costs CuPy, call by call; ``test_simulator``
has the two counted side by side.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from tinygrad_rnn import backend

from ..tiers import Costs
from . import counting
from .counting import Hazard, Sync, hidden_syncs_allowed
from .functions import arrays_in, on_device, payload
from .namespace import cupy

__all__ = ["Hazard", "Sync", "costs", "cupy", "hidden_syncs_allowed", "install", "uninstall"]

_before: dict = {}
"""The modules that stood where ours stand, and the method that ours replaces."""


def install() -> None:
    """Make ``import cupy`` find the simulator, and every fused kernel its NumPy body."""
    _before["modules"] = {name: sys.modules.pop(name) for name in [*sys.modules] if _is_cupy(name)}
    _before["fused"] = backend.CupyBackend.fused
    sys.modules["cupy"] = cupy
    backend.CupyBackend.fused = _fused


def uninstall() -> None:
    """Put everything back."""
    for name in [name for name in sys.modules if _is_cupy(name)]:
        del sys.modules[name]
    sys.modules.update(_before.pop("modules"))
    backend.CupyBackend.fused = _before.pop("fused")


def costs() -> Costs:
    """What all calls so far have cost."""
    return replace(counting.COSTS)


def _is_cupy(name: str) -> bool:
    return name.partition(".")[0] in ("cupy", "cupyx")


def _fused(self, body):
    """``body`` run on the payloads, in place of the kernel of that name."""
    kernel = self.kernels.get(body.__name__)
    if kernel is None:
        return body

    def stand_in(*args):
        sources = list(arrays_in(args))
        floats = {x.dtype.char for x in sources if x.dtype.kind in "fc"}
        if hasattr(kernel, "body") and floats not in ({"f"}, {"d"}):
            return body(*args)  # as ``cuda.in_place_of`` does
        result = body(*payload(args, body.__name__))
        counting.launch()
        return on_device(result, sources)

    return stand_in
