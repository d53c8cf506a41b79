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
from numpy import ndarray

from .cotangents import Outputs, Term, add
from .engine import Node, Rule, TensorCore, outlet
from .errors import GraphFreedError, NotTrackedError, ShapeError, described
from .linear import astype, sum_to

__all__ = ["backward", "grad"]


def sweep(
    roots: Sequence[tuple[Node, Any]],
    needed: set[Node] | None = None,
    wanted: set[Node] | None = None,
    kind: type[TensorCore] | None = None,
    free: bool = True,
) -> dict[Node, Any]:
    """The cotangents of the ``wanted`` nodes; if None, of all that keep their gradient.

    ``roots`` are nodes with their cotangents; only ``needed`` nodes are visited, all if None.
    ``kind`` is the class of Tensors if the VJPs are to be recorded, for derivatives of derivatives;
    if None, they get raw arrays and NumPy's speed.  ``free`` lets go of a node's kept values as
    soon as they are used.
    """
    cotangents: dict[Node, Any] = {}
    queue: list[tuple[int, Node]] = []
    found: dict[Node, Any] = {}

    def arrive(node: Node, g: Any, source: Node) -> None:
        """Add ``g``, which came along the edge from ``source``, to the cotangent of ``node``."""
        if g.shape != node.shape:
            g = summed(g, node, source)
        if kind is not None and isinstance(g, Term) and not isinstance(g, Outputs):
            g = g.dense()  # terms are not recorded
        if node in cotangents:
            cotangents[node] = add(cotangents[node], g)
        else:
            cotangents[node] = g
            heappush(queue, (-node.birth, node))  # the newest node is the first

    for node, g in roots:
        if needed is None or node in needed:
            arrive(node, g, node)
    freed = Freed()
    while queue:
        node = heappop(queue)[1]
        g = cotangents.pop(node)
        if node.watch or wanted or type(g) is not ndarray or g.dtype is not node.dtype:
            keeps = node in wanted if wanted else node.watch is not None and node.watch.keeps
            g = settled(node, g, keeps)
            if keeps:
                found[node] = g
                if needed is not None and needed.isdisjoint(parents_of(node)):
                    continue  # nothing below is asked for, so nothing below is used up
        if type(node.edges) is Freed:
            raise node.edges.error(node)
        for parent, rule, values in node.edges:
            if kind is not None:
                values = recorded(node, parent, rule, values, kind)
            if rule.position is not None:
                if needed is None or parent in needed:
                    arrive(parent, rule.vjp(g, *values), node)
                continue
            for one, part in zip(parent, rule.vjp(g, *values), strict=True):
                if one is not None and part is not None and (needed is None or one in needed):
                    arrive(one, part, node)
        if free and node.edges:
            node.edges = freed
    return found


def summed(g: Any, node: Node, source: Node) -> Any:
    """``g`` summed to the shape of ``node``, which had been broadcast in the call of ``source``."""
    lead = len(g.shape) - len(node.shape)
    sides = zip(node.shape, g.shape[max(lead, 0) :], strict=False)
    if lead < 0 or any(mine not in (1, its) for mine, its in sides):
        raise ShapeError(
            f"{source.name}: a VJP returned a cotangent of shape {g.shape}\n  expected:"
            f" {node.shape}, the argument's, or what that broadcasts to"
        )
    return sum_to(g, node.shape)


def settled(node: Node, g: Any, keeps: bool) -> Any:
    """The whole cotangent of ``node``: written out, in the node's dtype, and through its hooks."""
    if isinstance(g, Outputs):
        return g.dense()
    if isinstance(g, Term):
        if node.edges and node.edges[0][1].takes_terms and not keeps and not node.watch:
            return g
        g = g.dense()
    if g.dtype != node.dtype and g.dtype.kind != "c":
        g = astype(g, node.dtype)  # complex, which only a complex step makes, stays complex
    if node.watch:
        for hook in list(node.watch.hooks.values()):
            g = hook(g)
    return g


def between(roots: Iterable[Node], wanted: set[Node]) -> set[Node]:
    """The nodes on the paths from the roots back to those of the ``wanted`` that can be reached."""
    oldest = min(node.birth for node in wanted)
    seen: set[Node] = set()
    left = list(roots)
    while left:
        node = left.pop()
        if node not in seen and node.birth >= oldest:
            seen.add(node)
            left.extend(parents_of(node))
    if not wanted <= seen:
        for node in seen:
            if type(node.edges) is Freed:
                raise node.edges.error(node)
    needed: set[Node] = set()
    for node in sorted(seen, key=lambda node: node.birth):
        if node in wanted or not needed.isdisjoint(parents_of(node)):
            needed.add(node)
    return needed


def parents_of(node: Node) -> list[Node]:
    """The nodes of the tracked arguments of the call that made this node; none once it is freed."""
    if type(node.edges) is Freed:
        return []
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
    node: Node, parent: Any, rule: Rule, values: Sequence[Any], kind: type[TensorCore]
) -> list[Any]:
    """The values that a VJP reads as the Tensors they were, so that the VJP itself is recorded."""
    if rule.position is None:
        makers = dict(enumerate(parent[: rule.rest]))
        if rule.rest is not None:
            makers[rule.rest] = parent[rule.rest :]
    else:
        makers = {other.position: maker for maker, other, _ in node.edges}
    makers[rule.y_place] = node
    return [
        value if shape_only else as_made(value, makers.get(place), kind)
        for value, (place, shape_only) in zip(values, rule.reads, strict=True)
    ]


def as_made(value: Any, maker: Any, kind: type[TensorCore]) -> Any:
    """A kept value as the Tensor that ``maker``, a node or a tuple of nodes, made; or as it is."""
    if maker is None:
        return value
    if isinstance(maker, tuple):
        return tuple([as_made(*pair, kind) for pair in zip(value, maker, strict=True)])
    if isinstance(value, tuple):  # the results of an operation that has several
        return tuple([kind(y, outlet(maker, i, value)) for i, y in enumerate(value)])
    return kind(value, maker)


# ---- how it is asked for ----------------------------------------------------------------------


def backward(
    y: TensorCore, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False
) -> None:
    """Add to ``.grad`` of each leaf that ``y`` was computed from the cotangent that reaches it.

    ``gradient`` is the cotangent of ``y``, 1 if ``y`` is a single number.  The graph is freed
    unless ``retain_graph``; ``create_graph`` keeps it and records the backward pass too.
    """
    kind = type(y) if create_graph else None
    roots = [(node_of(y, "backward"), seed_of(y, gradient, "backward", kind))]
    found = sweep(roots, kind=kind, free=not (retain_graph or create_graph))
    for node, g in found.items():  # only now, so that an error on the way leaves no half-added sums
        watch, new = node.watch, own(g, type(y))
        watch.grad = new if watch.grad is None else watch.grad + new  # type: ignore[union-attr]


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> Any:
    """The cotangents of ``inputs``, a Tensor or a sequence of them, and ``.grad`` left alone.

    ``grad_outputs`` are the cotangents of ``outputs``, 1 for a single number.  Raises
    NotTrackedError, before anything is used up, for an input that no output was computed from.
    """
    many = not isinstance(inputs, TensorCore)
    xs = list(inputs) if many else [inputs]
    found = cotangents_of(outputs, xs, grad_outputs, retain_graph, create_graph, connected=True)
    return found if many else found[0]


def cotangents_of(
    outputs: Any,
    inputs: Sequence[TensorCore],
    grad_outputs: Any = None,
    retain_graph: bool = False,
    create_graph: bool = False,
    connected: bool = False,
) -> list[Any]:
    """The cotangents of ``inputs`` as Tensors; None, or an error, where nothing flows."""
    if not inputs:
        return []
    ys = [outputs] if isinstance(outputs, TensorCore) else list(outputs)
    gs = grad_outputs if isinstance(grad_outputs, (list, tuple)) else [grad_outputs] * len(ys)
    kind = type(ys[0]) if create_graph else None
    roots = [(node_of(y, "grad"), seed_of(y, g, "grad", kind)) for y, g in zip(ys, gs, strict=True)]
    nodes = [node_of(x, "grad") for x in inputs]
    wanted = set(nodes)
    needed = between([node for node, _ in roots], wanted)
    for i, node in enumerate(nodes):
        if connected and node not in needed:
            raise NotTrackedError(
                f"grad: the outputs do not depend on inputs[{i}], {described(inputs[i].array)}\n"
                "  hint: was it detached, or used under no_grad()?"
            )
    found = sweep(roots, needed, wanted, kind, free=not (retain_graph or create_graph))
    return [own(found[node], type(ys[0])) if node in found else None for node in nodes]


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
    array = g.array if isinstance(g, TensorCore) else np.asarray(g)
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
