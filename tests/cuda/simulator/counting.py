"""What a program has cost, and what CuPy would do in silence that it should not do at all."""

from __future__ import annotations

from contextlib import contextmanager

from ..tiers import Costs

COSTS = Costs()
"""Of all calls so far."""

_allowed = 0


class Hazard(Exception):
    """CuPy would have let this pass: a silent copy, a wrapped index, a winner that is undefined."""


class Sync(Hazard):
    """The host would have waited for the device, where nobody wrote so."""


def launch(n: int = 1) -> None:
    """``n`` kernels more."""
    COSTS.launches += n


def product(n: int = 1) -> None:
    """``n`` calls of cuBLAS more."""
    COSTS.products += n


def uploaded() -> None:
    """One copy to the device more."""
    COSTS.to_device += 1


def downloaded() -> None:
    """One copy to the host more, for which the host waits."""
    COSTS.to_host += 1
    COSTS.syncs += 1


def hidden_sync(what: str) -> None:
    """A copy to the host for which nobody asked: an error, unless ``hidden_syncs_allowed``."""
    if not _allowed:
        raise Sync(f"{what} makes the host wait for the device; ask for the values: cupy.asnumpy")
    downloaded()


@contextmanager
def hidden_syncs_allowed():
    """In the context a hidden wait is counted, as CuPy does it, and no error."""
    global _allowed
    _allowed += 1
    try:
        yield
    finally:
        _allowed -= 1
