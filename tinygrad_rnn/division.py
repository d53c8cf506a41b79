"""What each step of an unrolled run, or each node of a tree, contributes to a gradient.

A weight's gradient is a sum over the steps that use it.  The sweep adds that sum up as it goes; to
see its terms, the graph is copied, with one copy of the weight for each step, and the copy is
swept.  The values are shared with the graph itself, which stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .backward import between
from .cotangents import Term
from .engine import Node
from .sweep import sweep

__all__ = ["REST", "Division"]

REST = -1
"""The step of what belongs to none: what is computed from several states at once, to no other."""


class Division:
    """A copy of the graph behind ``root`` in which each call belongs to one step.

    ``steps`` gives the number of each state's node.  A call belongs to the step of the oldest state
    that it leads to; if it leads to none, as a readout does, to that of the one state that it was
    computed from, or to the ``REST`` if there are several.  What was computed from no state at all
    (a weight, its transpose, the projection of all inputs) belongs to whoever uses it: there is a
    copy for each step that does.
    """

    def __init__(self, root: Node, steps: Mapping[Node, int], weights: Sequence[Node]) -> None:
        wanted = {*steps, *weights}
        needed = between([root], wanted)
        oldest_first = sorted(needed, key=lambda node: node.birth)
        first, source = _first_led_to(steps, needed), _sources(oldest_first, steps)

        def step_of(node: Node, user: int) -> int:
            if node in steps:
                return steps[node]
            own = source[node]
            return user if own is None else first.get(node, own)

        places: dict[Node, dict[int, None]] = {node: {} for node in oldest_first}
        if root in needed:
            places[root][step_of(root, REST)] = None
        for node in reversed(oldest_first):
            for step in places[node]:
                for parent in node.parents():
                    if parent in needed:
                        places[parent][step_of(parent, step)] = None
        copies: dict[tuple[Any, int], Node] = {}

        def copy_of(parent: Any, step: int) -> Any:
            return copies[parent, step_of(parent, step)] if parent in needed else None

        for node in oldest_first:  # so that the copies, too, are born in this order
            for step in places[node]:
                edges = []
                for parent, rule, values in node.edges:
                    if isinstance(parent, tuple):
                        copied: Any = tuple([copy_of(one, step) for one in parent])
                    else:
                        copied = copy_of(parent, step)
                    if copied is not None:
                        edges.append((copied, rule, values))
                copies[node, step] = Node(node.name, edges, node.shape, node.dtype)
        self.root = copies[root, step_of(root, REST)] if root in needed else None
        self.copies = {key: copy for key, copy in copies.items() if key[0] in wanted}

    def cotangents(self, g: Any) -> dict[tuple[Node, int], Any]:
        """The cotangents of states and weights by node and step, if ``g`` is that of the root."""
        if self.root is None:
            return {}
        found = sweep([(self.root, g)], wanted=set(self.copies.values()), free=False)
        written = {copy: g.dense() if isinstance(g, Term) else g for copy, g in found.items()}
        return {key: written[copy] for key, copy in self.copies.items() if copy in written}


def _first_led_to(steps: Mapping[Node, int], needed: set[Node]) -> dict[Node, int]:
    """The step of the oldest state that each node leads to, if it leads to any."""
    first: dict[Node, int] = {}
    for state in sorted(steps, key=lambda node: node.birth):
        left = [state]
        while left:
            node = left.pop()
            if node in needed and node not in first:
                first[node] = steps[state]
                left.extend(node.parents())
    return first


def _sources(oldest_first: Iterable[Node], steps: Mapping[Node, int]) -> dict[Node, int | None]:
    """The step of the one state that each node was computed from; REST if several, None if none.

    Only the nearest count: what is behind a state is behind that state.
    """
    source: dict[Node, int | None] = {}
    for node in oldest_first:
        found = {steps.get(one, source.get(one)) for one in node.parents()} - {None}
        source[node] = found.pop() if len(found) == 1 else REST if found else None
    return source
