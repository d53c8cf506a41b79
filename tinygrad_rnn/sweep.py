"""The backward pass: one sweep from the newest node to the oldest.

Each node is older than what was computed from it, so when a node is the newest one left, all of its
cotangent has come in.  That is the whole order: no recursion, and the same loop for the chain that
a sentence leaves behind and for the tree of a parse.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

from numpy import ndarray

from .cotangents import Outputs, Term, add
from .engine import Node, TensorCore
from .errors import DtypeError, ShapeError, TinygradRNNError, described
from .linear import astype, sum_to
from .observer import OBSERVER
from .stale import Freed, changed, is_changed


def sweep(
    roots: Sequence[tuple[Node, Any]],
    needed: set[Node] | None = None,
    wanted: set[Node] | None = None,
    kind: type[TensorCore] | None = None,
    free: bool = True,
) -> dict[Node, Any]:
    """The cotangents of the ``wanted`` nodes; if None, of all that keep their gradient.

    ``roots`` are nodes with their cotangents; only ``needed`` nodes are visited, all if None.  With
    ``kind``, the class of Tensors, the VJPs are recorded; without it they get raw arrays.  ``free``
    lets go of a node's kept values as soon as they are used.
    """
    cotangents: dict[Node, Any] = {}
    queue: list[tuple[int, Node]] = []
    found: dict[Node, Any] = {}
    summed: set[Node] = set()  # those whose cotangent is an array that was made here

    def arrive(node: Node, g: Any, source: Node) -> None:
        """Add ``g``, which came along the edge from ``source``, to the cotangent of ``node``."""
        if node.watch is not None and is_changed(node, source):
            raise changed(node, source)
        if type(g) is not ndarray or g.shape != node.shape:
            g = fitted(g, node, source, kind)
        if node not in cotangents:
            cotangents[node] = g
            heappush(queue, (-node.birth, node))  # the newest node is the first
            return
        total = cotangents[node]
        if node in summed and type(total) is type(g) is ndarray and total.dtype is g.dtype:
            total += g
        else:
            cotangents[node] = add(total, g)
            summed.add(node)

    observer, settle = OBSERVER.get(), settled if kind is None else settled_as_tensor
    if observer is not None:
        arrive, settle = observer.watching(arrive), observer.settling(settle)
    for node, g in roots:
        if needed is None or node in needed:
            arrive(node, g, node)
    freed = Freed()
    while queue:
        node = heappop(queue)[1]
        g = cotangents.pop(node)
        # An array that nobody wants goes on as it is; equal dtypes are nearly always one object.
        if node.watch or wanted or type(g) is not ndarray or g.dtype is not node.dtype:
            keeps = node in wanted if wanted else node.watch is not None and node.watch.keeps
            g = settle(node, g, keeps)
            if keeps:
                found[node] = g
                if needed is not None and needed.isdisjoint(node.parents()):
                    continue  # nothing below is asked for, so nothing below is used up
        edges = node.edges
        if type(edges) is Freed:
            raise edges.error(node, any(node is root for root, _ in roots))
        if observer is not None:
            edges = observer.edges(node)
        try:
            for parent, rule, values in edges:
                if kind is not None:
                    values = rule.as_tensors(values, node, parent, kind)
                if rule.position is not None:
                    if needed is None or parent in needed:
                        n, vjp = len(values), rule.vjp  # unpacking costs as much as the call itself
                        part = vjp(g, values[0]) if n == 1 else vjp(g, *values) if n else vjp(g)
                        arrive(parent, part, node)
                    continue
                for one, part in rule.jointly(g, values, parent, node):
                    if one is not None and part is not None and (needed is None or one in needed):
                        arrive(one, part, node)
        except Exception as error:
            if not isinstance(error, TinygradRNNError):  # those tell by themselves
                error.add_note(f"in the backward pass through {node.name}")
            raise
        if free and node.edges:
            node.edges = freed
    return found


def fitted(g: Any, node: Node, source: Node, kind: type[TensorCore] | None) -> Any:
    """``g`` summed to the shape of ``node``, if that had been broadcast in the call of ``source``.

    Written out, if the backward pass is recorded, unless it may wait even then.
    """
    if getattr(g, "shape", g) != node.shape:
        if not hasattr(g, "shape"):
            raise DtypeError(
                f"{source.name}: a VJP returned {described(g)}\n  expected: an array\n"
                "  hint: g times the slope, g * 2 * x for x * x"
            )
        lead = len(g.shape) - len(node.shape)
        sides = zip(node.shape, g.shape[max(lead, 0) :], strict=False)
        if lead < 0 or any(mine not in (1, its) for mine, its in sides):
            raise ShapeError(
                f"{source.name}: a VJP returned a cotangent of shape {g.shape}\n  expected:"
                f" {node.shape}, the argument's, or what that broadcasts to\n  hint: a cotangent"
                " has the shape of its argument; of a sum along axes it is broadcast"
            )
        g = sum_to(g, node.shape)
    return g.dense() if kind is not None and isinstance(g, Term) and not g.waits else g


def settled(node: Node, g: Any, keeps: bool) -> Any:
    """The whole cotangent of ``node``: written out, in its dtype, through its hooks."""
    if isinstance(g, Outputs):
        return g.dense()
    hooks = list(node.watch.hooks.values()) if node.watch else []
    if isinstance(g, Term):  # that of a leaf is written out by whoever asked for it
        if not hooks and (not node.edges or (node.edges[0][1].takes_terms and not keeps)):
            return g
        g = g.dense()
    if g.dtype != node.dtype and g.dtype.kind != "c":
        g = astype(g, node.dtype)  # complex, which only a complex step makes, stays complex
    for hook in hooks:
        g = hook(g)
    return g


def settled_as_tensor(node: Node, g: Any, keeps: bool) -> Any:
    """The same where the backward pass is recorded: that of a leaf is written out, too."""
    return settled(node, g if node.edges or not isinstance(g, Term) else g.dense(), keeps)
