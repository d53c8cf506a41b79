"""The backward pass: one sweep from the newest node to the oldest.

Each node is older than what was computed from it, so when a node is the newest one left, all of its
cotangent has come in.  That is the whole order: no recursion, and the same loop for the chain that
a sentence leaves behind and for the tree of a parse.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Any

import numpy as np

from .cotangents import Outputs, Term, add
from .engine import Node, Rule, TensorCore, outlet
from .errors import GraphFreedError, NotTrackedError, ShapeError, described
from .linear import astype, sum_to

__all__ = ["backward", "grad"]


def sweep(
    roots: Sequence[tuple[Node, Any]],
    wanted: set[Node] | None = None,
    kind: type[TensorCore] | None = None,
    free: bool = True,
) -> dict[Node, Any]:
    """The cotangents of the ``wanted`` nodes; of all that keep their gradient, if None.

    ``roots`` are nodes with their cotangents.  ``kind`` is the class of Tensors if the VJPs are to
    be recorded, for derivatives of derivatives; if None, they get raw arrays and NumPy's speed.
    ``free`` lets go of a node's kept values as soon as they are used.
    """
    needed = None if wanted is None else between([node for node, _ in roots], wanted)
    cotangents: dict[Node, Any] = {}
    queue: list[tuple[int, Node]] = []
    found: dict[Node, Any] = {}

    def flow(node: Node, g: Any) -> None:
        if needed is not None and node not in needed:
            return
        if g.shape != node.shape:
            g = sum_to(g, node.shape)  # the argument had been broadcast
        if kind is not None and isinstance(g, Term) and not isinstance(g, Outputs):
            g = g.dense()  # terms are not recorded
        old = cotangents.get(node)
        if old is None:
            cotangents[node] = g
            heappush(queue, (-node.birth, node))  # the newest node is the first
        else:
            cotangents[node] = add(old, g)

    for node, g in roots:
        flow(node, g)
    freed = Freed()
    while queue:
        node = heappop(queue)[1]
        g = cotangents.pop(node)
        if node.watch is not None or type(g) is not np.ndarray or g.dtype is not node.dtype:
            g = settled(node, g)
        if node in wanted if wanted is not None else node.watch is not None and node.watch.keeps:
            found[node] = g
        edges = node.edges
        if type(edges) is Freed:
            raise edges.error(node)
        for parent, rule, values in edges:
            if kind is not None:
                values = recorded(node, parent, rule, values, kind)
            if rule.position is not None:
                flow(parent, rule.vjp(g, *values))
                continue
            for one, part in zip(parent, rule.vjp(g, *values), strict=True):
                if one is not None and part is not None:
                    flow(one, part)
        if free and edges:
            node.edges = freed
    return found


def settled(node: Node, g: Any) -> Any:
    """The whole cotangent of ``node``: written out, in the node's dtype, and through its hooks."""
    if isinstance(g, Outputs):
        return g.dense()
    if isinstance(g, Term) and (node.watch or not (node.edges and node.edges[0][1].takes_terms)):
        g = g.dense()
    if g.dtype is not node.dtype and g.dtype != node.dtype and g.dtype.kind != "c":
        g = astype(g, node.dtype)  # complex, which only a complex step makes, stays complex
    if node.watch:
        for hook in list(node.watch.hooks.values()):
            g = hook(g)
    return g


def between(roots: Iterable[Node], wanted: set[Node]) -> set[Node]:
    """The nodes that lie on a path from a root back to a wanted node."""
    oldest = min(node.birth for node in wanted)
    seen: set[Node] = set()
    left = list(roots)
    while left:
        node = left.pop()
        if node not in seen and node.birth >= oldest:
            seen.add(node)
            left.extend(parents_of(node))
    needed: set[Node] = set()
    for node in sorted(seen, key=lambda node: node.birth):
        if node in wanted or not needed.isdisjoint(parents_of(node)):
            needed.add(node)
    return needed


def parents_of(node: Node) -> list[Node]:
    """The nodes of the tracked arguments of the call that made this node."""
    if type(node.edges) is Freed:
        raise node.edges.error(node)
    if node.edges and node.edges[0][1].position is None:
        return [parent for parent in node.edges[0][0] if parent is not None]
    return [parent for parent, _, _ in node.edges]


class Freed:
    """What stands in place of a node's edges after the sweep: where in the user's code that was."""

    __slots__ = ("where",)

    def __init__(self) -> None:
        frame = sys._getframe()
        while frame.f_back and frame.f_globals.get("__name__", "").startswith("tinygrad_rnn."):
            frame = frame.f_back
        self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"

    def error(self, node: Node) -> GraphFreedError:
        """The error for a second pass through the node."""
        return GraphFreedError(
            f"{node.name}: this graph was freed by the backward pass at {self.where}\n"
            "  hint: for truncated BPTT, detach the state that is carried on: h = h.detach();\n"
            "  to go through one graph twice on purpose, pass retain_graph=True the first time"
        )


def recorded(
    node: Node, parent: Any, rule: Rule, values: list[Any], kind: type[TensorCore]
) -> list[Any]:
    """The values that a VJP reads as the Tensors they were, so that the VJP itself is recorded."""
    if rule.position is None:
        makers = dict(enumerate(parent[: rule.rest]))
        if rule.rest is not None:
            makers[rule.rest] = parent[rule.rest :]
    else:
        makers = {other.position: maker for maker, other, _ in node.edges}
    makers[rule.y_place] = node

    def tensor(value: Any, maker: Any) -> Any:
        if maker is node and isinstance(value, tuple):
            return tuple([kind(part, outlet(node, i, value)) for i, part in enumerate(value)])
        if isinstance(maker, tuple):
            return tuple(map(tensor, value, maker))
        return value if maker is None else kind(value, maker)

    return [
        value if shape_only else tensor(value, makers.get(place))
        for value, (place, shape_only) in zip(values, rule.reads, strict=True)
    ]


def backward(
    y: TensorCore, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False
) -> None:
    """Add to ``.grad`` of each leaf that ``y`` was computed from the cotangent that reaches it.

    ``gradient`` is the cotangent of ``y``, 1 if ``y`` is a single number.  The graph is freed
    unless ``retain_graph``; ``create_graph`` keeps it and records the backward pass too.
    """
    kind = type(y) if create_graph else None
    roots = [(node_of(y, "backward"), seed_of(y, gradient, "backward", kind))]
    found = sweep(roots, None, kind, free=not (retain_graph or create_graph))
    for node, g in found.items():  # only now, so that an error on the way leaves no half-added sums
        old = node.watch.grad  # type: ignore[union-attr]
        new = own(g, type(y))
        node.watch.grad = new if old is None else old + new  # type: ignore[union-attr]


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> Any:
    """The cotangents of ``inputs``, a Tensor or a sequence of them, and ``.grad`` left alone.

    ``grad_outputs`` are the cotangents of ``outputs``, 1 for a single number.  Raises
    NotTrackedError for an input that no output was computed from.
    """
    many = not isinstance(inputs, TensorCore)
    xs = list(inputs) if many else [inputs]
    found = cotangents_of(outputs, xs, grad_outputs, retain_graph, create_graph)
    for i, g in enumerate(found):
        if g is None:
            raise NotTrackedError(
                f"grad: the outputs do not depend on inputs[{i}], {described(xs[i].array)}\n"
                "  hint: was it detached, or used under no_grad()?"
            )
    return found if many else found[0]


def cotangents_of(
    outputs: Any,
    inputs: Sequence[TensorCore],
    grad_outputs: Any = None,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> list[Any]:
    """The cotangents of ``inputs``: Tensors, None where nothing flowed."""
    ys = [outputs] if isinstance(outputs, TensorCore) else list(outputs)
    gs = [grad_outputs] * len(ys) if not isinstance(grad_outputs, (list, tuple)) else grad_outputs
    kind = type(ys[0])
    record = kind if create_graph else None
    roots = [
        (node_of(y, "grad"), seed_of(y, g, "grad", record)) for y, g in zip(ys, gs, strict=True)
    ]
    nodes = [node_of(x, "grad") for x in inputs]
    found = sweep(roots, set(nodes), record, free=not (retain_graph or create_graph))
    return [own(found[node], kind) if node in found else None for node in nodes]


def node_of(y: TensorCore, name: str) -> Node:
    """The node of ``y``; NotTrackedError if it has none."""
    if y.node is None:
        raise NotTrackedError(
            f"{name}: this tensor, {described(y.array)}, is not tracked\n"
            "  hint: nothing it was computed from has requires_grad=True, or it was made under"
            " no_grad() or by detach()"
        )
    return y.node


def seed_of(y: TensorCore, gradient: Any, name: str, kind: type[TensorCore] | None) -> Any:
    """The cotangent with which the sweep starts at ``y``: a Tensor if it is to be recorded."""
    if gradient is None and y.array.size != 1:
        raise ShapeError(
            f"{name}: the cotangent of a tensor of shape {y.array.shape} has to be given\n"
            "  expected: a single number, or gradient= of the same shape\n"
            "  hint: reduce it first, loss = y.sum() or y.mean()"
        )
    g = np.ones_like(y.array) if gradient is None else gradient
    array = g.array if isinstance(g, TensorCore) else np.asarray(g, y.array.dtype)
    if array.shape != y.array.shape:
        raise ShapeError(
            f"{name}: the cotangent has shape {array.shape}\n  expected: {y.array.shape}, that of"
            " the tensor"
        )
    if kind is None:
        return array
    return g if isinstance(g, TensorCore) else kind(array)


def own(g: Any, kind: type[TensorCore]) -> TensorCore:
    """``g`` as a Tensor with an array of its own: in the sweep, cotangents may share arrays."""
    if isinstance(g, TensorCore):
        return kind(g.array.copy(), g.node)
    return kind(np.asarray(g.copy()))
