"""What stands in for a GPU: ``pytest tests/cuda --tier simulator``, the default, ``host``, ``gpu``.

    simulator   a strict double of CuPy's arrays on NumPy's; needs nothing, runs in every test run.
                It rejects what CuPy rejects, and what CuPy does silently wrong.  Fused kernels are
                stood in for by the bodies that define them.
    host        CuPy itself on host memory: its CUDA calls are replaced, and the CUDA C++ that it
                makes is compiled by g++.  In a process of its own: ``make test-cupy``.
    gpu         CuPy on a device.

All three are compared with NumPy, on which derivatives are checked.  The first two count costs.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

from tinygrad_rnn import backend

NAMES = ("simulator", "host", "gpu")


@dataclass
class Costs:
    """What a piece of a program has cost: calls that a device would have made.

    ``launches`` are of kernels, without ``products``, which are cuBLAS's; ``to_device`` and
    ``to_host`` are copies; ``syncs`` are moments at which the host waits for the device.
    """

    launches: int = 0
    products: int = 0
    syncs: int = 0
    to_device: int = 0
    to_host: int = 0


class Tier:
    """One of the three, by name, in force between ``start`` and ``stop``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts = name != "gpu"

    def start(self) -> None:
        """Make ``device="cuda"`` mean this tier."""
        if self.counts:
            self.module = import_module(f"tests.cuda.{self.name}")
            self.module.install()
        backend._cupy.cache_clear()

    def stop(self) -> None:
        """What was before, if the tier can be taken away again: the simulator can."""
        if self.name == "simulator":
            self.module.uninstall()
        backend._cupy.cache_clear()

    @contextmanager
    def counting(self):
        """The ``Costs`` of what is done in the context, there once it is left."""
        costs, before = Costs(), self.module.costs()
        yield costs
        after = self.module.costs()
        for name in vars(costs):
            setattr(costs, name, getattr(after, name) - getattr(before, name))
