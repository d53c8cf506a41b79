"""Who looks on while calls are made and cotangents flow: nobody, but for debugging and measuring.

The engine asks ``OBSERVER`` once a call, and once a backward pass; so do Modules and folds.  What
nodes, edges and terms are is told in the files below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .errors import SettingError

__all__ = ["OBSERVER", "Observer", "observing"]

OBSERVER: ContextVar[Any] = ContextVar("observer", default=None)
"""The Observer of this thread, or None."""


class Observer:
    """One who sees everything and, as it stands, does nothing about it."""

    name = "observer"
    sees_steps = True
    """Whether a layer has to run step by step, not as one fused operation."""

    def body(self, operation: Any) -> Callable[..., Any]:
        """What is called in place of the body of ``operation``."""
        return operation.forward

    def recorded(self, node: Any, operation: Any, values: list[Any], y: Any) -> None:
        """Told of a recorded call: ``values`` are the arrays of its arguments, and ``y``."""

    def watching(self, arrive: Callable[..., None]) -> Callable[..., None]:
        """``arrive(node, g, source)`` of a sweep, or what is called in its place."""
        return arrive

    def settling(self, settled: Callable[..., Any]) -> Callable[..., Any]:
        """``settled(node, g, keeps)`` of a sweep, or what is called in its place.

        It is asked where all that has come to a node is to be kept, shown to hooks, or written out.
        """
        return settled

    def edges(self, node: Any) -> Any:
        """The edges of ``node``, as the sweep is to go along them."""
        return node.edges

    def forward(self, module: Any) -> Callable[..., Any]:
        """What is called in place of the ``forward`` of a Module."""
        return module.forward

    def groups(self, structure: Any) -> Iterable[Any]:
        """The groups of nodes that a fold runs its cell for, one after the other."""
        return structure.schedule


@contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """A context in which ``observer`` looks on, alone, in this thread.

    SettingError inside that of an observer of another kind, which would see nothing meanwhile.
    """
    before = OBSERVER.get()
    if before is not None and before.name != observer.name:
        raise SettingError(
            f"{observer.name}: {before.name} is on\n  expected: one of the two at a time\n"
            f"  hint: leave the block of {before.name} first"
        )
    OBSERVER.set(observer)
    try:
        yield
    finally:
        OBSERVER.set(before)
