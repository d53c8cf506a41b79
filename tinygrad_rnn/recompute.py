"""Gradient checkpointing: a stretch of the program is remembered by its arguments alone.

What BPTT over T steps keeps grows with T.  ``checkpoint`` keeps none of what happens inside a call
and makes the call once more on the way back: cut into sqrt(T) segments of sqrt(T) steps, a run
keeps sqrt(T) states and, at any time, the inside of one segment, for the price of one more forward
pass.  Griewank 1992; Chen et al. 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .backend import backend_of
from .engine import Node, Rule, TensorCore, outlet
from .errors import DtypeError, NotTrackedError, described
from .random import default_rng, drawing_again
from .recording import is_recording, recording
from .stale import changed, is_changed
from .sweep import sweep
from .through_time import mapped

__all__ = ["checkpoint"]


def checkpoint(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, of which only the arguments are kept: the backward pass calls it again.

    Value and gradients are those of the plain call, also the gradients of Tensors that ``function``
    closes over, such as the parameters of a Module.  Arguments and results may be nested states
    (tuples, lists, dicts).  The default generator, and generators among the arguments, draw the
    same numbers the second time; ``function`` must otherwise do the same twice: NotTrackedError in
    the backward pass if it meets other Tensors, or its values differ.
    """
    if not callable(function):
        raise DtypeError(
            f"checkpoint(function, *args): function is {described(function)}\n"
            "  expected: a function\n  hint: checkpoint(f, x), not checkpoint(f(x))"
        )
    if not is_recording():
        return function(*args)
    call = Call(function, args)
    y, _, call.outer = call.run()  # what the function did inside is let go on return
    results = tensors_in(y)
    call.arrays = tuple([x.array for x in results])
    node = Node("checkpoint", [((None, *call.outer), _CALLED_AGAIN, (call,))], None, None)
    places = iter(range(len(results)))

    def remembered(x: Any) -> Any:
        i = next(places)
        return x if x.node is None else type(x)(x.array, outlet(node, i, call.arrays))

    return mapped(remembered, y)


class Call:
    """A call that can be made again: the function, its arguments, the states of the generators.

    ``outer`` are the nodes outside that its results were computed from, those of arguments and of
    what the function closes over alike; ``arrays`` are its results.
    """

    __slots__ = ("args", "arrays", "began", "default_state", "function", "outer", "states")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.function, self.args = function, args
        self.began = Node("checkpoint", (), None, None)
        self.default_state = default_rng().bit_generator.state
        self.states = [bits.state for bits in self.generators()]
        self.outer: list[Node] = []
        self.arrays: tuple[Any, ...] = ()

    def generators(self) -> list[Any]:
        """The bit generators among the arguments."""
        return [x.bit_generator for x in self.args if isinstance(x, np.random.Generator)]

    def run(self) -> tuple[Any, set[Node], list[Node]]:
        """The result, the nodes made inside on the way to it, and those that it met outside."""
        start = Node("checkpoint", (), None, None).birth
        y = self.function(*self.args)
        inner: set[Node] = set()
        outer: dict[Node, None] = {}
        left = [x.node for x in tensors_in(y) if x.node is not None]
        while left:
            node = left.pop()
            if node.birth < start:
                outer[node] = None
            elif node not in inner:
                inner.add(node)
                left.extend(node.parents())
        return y, inner, list(outer)

    def pulled_back(self, gs: Sequence[Any]) -> list[Any]:
        """The cotangents of the outer nodes, by a second run and a sweep that ends at them.

        Some may have been computed from others, so each gets a stand-in for the sweep to end at.
        """
        for node in self.outer:
            if is_changed(node, self.began):  # then the second run cannot be like the first
                raise changed(node, self.began)
        kind = next((type(g) for g in gs if isinstance(g, TensorCore)), None)
        ends = {
            node: Node("checkpoint", [(node, _SAME, ())], node.shape, node.dtype)
            for node in self.outer
        }
        draws = replayed(self.generators(), self.states)
        with recording(True), drawing_again(self.default_state), draws:
            y, inner, outer = self.run()
        results = tensors_in(y)
        if set(outer) != set(self.outer) or not alike([x.array for x in results], self.arrays):
            name = getattr(self.function, "__qualname__", type(self.function).__name__)
            raise NotTrackedError(
                f"checkpoint({name}): its second run, on the way back, was not like the first\n"
                "  hint: it must not draw from a generator of its own (pass it as an argument), nor"
                " run deferred\n  calls from outside, and what it reads must not change in between"
            )
        for node in inner:
            redirect(node, ends)
        roots = [
            (ends.get(x.node, x.node), g) for x, g in zip(results, gs, strict=True) if g is not None
        ]
        wanted = set(ends.values())
        found = sweep(roots, inner | wanted, wanted, kind, free=kind is None)
        return [found.get(end) for end in ends.values()]


_CALLED_AGAIN = Rule(lambda g, call: (None, *call.pulled_back(g)), ["call", "y"], None)
_SAME = Rule(lambda g: g, ["x", "y"], 0)


def redirect(node: Node, ends: dict[Node, Node]) -> None:
    """Let the edges of ``node`` that lead to a key of ``ends`` lead to its stand-in instead."""
    edges = []
    for parent, rule, values in node.edges:
        if isinstance(parent, tuple):
            parent = tuple([ends.get(one, one) for one in parent])
        edges.append((ends.get(parent, parent), rule, values))
    node.edges = edges


@contextmanager
def replayed(generators: Sequence[Any], states: Sequence[Any]) -> Iterator[None]:
    """A context in which the generators draw as from ``states``; then they go on as before."""
    before = [bits.state for bits in generators]
    for bits, state in zip(generators, states, strict=True):
        bits.state = state
    try:
        yield
    finally:
        for bits, state in zip(generators, before, strict=True):
            bits.state = state


def tensors_in(state: Any) -> list[Any]:
    """The Tensors of a nested state."""
    found: list[Any] = []
    mapped(lambda x: found.append(x), state)
    return found


def alike(arrays: Sequence[Any], first: Sequence[Any]) -> bool:
    """Whether the results are those of the first run, up to what rounding can do.

    That is looked at on the host, which waits for a device once for each result.
    """
    if [x.shape for x in arrays] != [x.shape for x in first]:
        return False
    for pair in zip(arrays, first, strict=True):
        x, y = (backend_of(one).to_host(one) for one in pair)
        scale = float(np.abs(y).max()) if y.size else 0.0
        rounding = 100 * float(np.finfo(np.result_type(y.dtype, np.float16)).eps)
        if not np.allclose(x, y, rtol=rounding, atol=rounding * scale, equal_nan=True):
            return False
    return True
