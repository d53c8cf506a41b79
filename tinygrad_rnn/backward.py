"""How a backward pass is asked for: ``Tensor.backward`` gathers in ``.grad``, ``grad`` returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import numpy as np

from .backend import backend_of, is_array
from .cotangents import Sum, Term
from .engine import Node, TensorCore
from .errors import DtypeError, NotTrackedError, ShapeError, described, expect_one_device
from .linear import Placed
from .sparse import RowGradient, are_at_ids, rows_added_up, rows_in, terms_of
from .stale import Freed
from .sweep import sweep

__all__ = ["backward", "grad"]


def backward(
    y: TensorCore, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False
) -> None:
    """Add to ``.grad`` of each leaf that ``y`` was computed from the cotangent that reaches it.

    ``gradient`` is the cotangent of ``y``, 1 if ``y`` is a single number.  The graph is freed
    unless ``retain_graph``; ``create_graph`` keeps it and records the backward pass too: ``.grad``
    then holds on to both until it is set to None.
    """
    kind = type(y) if create_graph else None
    roots = [(node_of(y, "backward"), seed_of(y, gradient, "backward", kind))]
    found = sweep(roots, kind=kind, free=not (retain_graph or create_graph))
    for node, g in found.items():  # only now, so that an error on the way leaves no half-added sums
        watch: Any = node.watch
        old: Any = watch.grad
        if watch.sparse and not isinstance(g, TensorCore) and not isinstance(old, TensorCore):
            parts = [rows_in(part) for part in (old, g) if part is not None]
            watch.grad = rows_added_up(parts)
        elif old is None and is_rows(g):
            watch.grad = own_rows(g)
        else:
            old = own(old, node, type(y)) if isinstance(old, Term) else old
            new: Any = own(g, node, type(y))
            watch.grad = new if old is None else old + new


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
    many = not isinstance(inputs, (TensorCore, np.ndarray))
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
    ys = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    gs = grad_outputs if isinstance(grad_outputs, (list, tuple)) else [grad_outputs] * len(ys)
    if len(gs) != len(ys):
        raise ShapeError(
            f"grad: grad_outputs has {len(gs)} entries\n  expected: {len(ys)}, one an output\n"
            "  hint: None stands for 1, where an output is a single number"
        )
    kind = type(ys[0]) if create_graph else None
    roots = [(node_of(y, "grad"), seed_of(y, g, "grad", kind)) for y, g in zip(ys, gs, strict=True)]
    nodes = [node_of(x, f"grad, inputs[{i}]") for i, x in enumerate(inputs)]
    wanted = set(nodes)
    needed = between([node for node, _ in roots], wanted)
    for i, node in enumerate(nodes):
        if connected and node not in needed:
            raise NotTrackedError(
                f"grad: the outputs do not depend on inputs[{i}], {described(inputs[i].array)}\n"
                "  hint: was it detached, or used under no_grad()?"
            )
    found = sweep(roots, needed, wanted, kind, free=not (retain_graph or create_graph))
    return [own(found[node], node, type(ys[0])) if node in found else None for node in nodes]


def between(roots: Iterable[Node], wanted: set[Node]) -> set[Node]:
    """The nodes on the paths from the roots back to those of the ``wanted`` that can be reached."""
    oldest = min(node.birth for node in wanted)
    given, seen = set(roots), set()
    left = list(given)
    while left:
        node = left.pop()
        if node not in seen and node.birth >= oldest:
            seen.add(node)
            left.extend(node.parents())
    for node in seen:  # a freed node hides whatever lies below it
        if type(node.edges) is Freed and node.birth > oldest:
            raise node.edges.error(node, node in given)
    needed: set[Node] = set()
    for node in sorted(seen, key=lambda node: node.birth):
        if node in wanted or not needed.isdisjoint(node.parents()):
            needed.add(node)
    return needed


def node_of(y: TensorCore, name: str) -> Node:
    """The node of ``y``; NotTrackedError if it has none, DtypeError if it is no Tensor."""
    if not isinstance(y, TensorCore):
        raise DtypeError(
            f"{name}: {described(y)}\n  expected: a Tensor\n"
            "  hint: .array, .numpy() and .item() give plain values, which know no graph"
        )
    if y.node is None:
        raise NotTrackedError(
            f"{name}: this tensor, {described(y.array)}, is not tracked\n"
            "  hint: nothing it was computed from has requires_grad=True, or it was made under"
            " no_grad() or by detach()"
        )
    return y.node


def seed_of(y: TensorCore, gradient: Any, name: str, kind: type[TensorCore] | None) -> Any:
    """The cotangent with which the sweep starts at ``y``: a Tensor if it is to be recorded."""
    argument = "gradient" if name == "backward" else "grad_outputs"
    if gradient is None and y.array.size != 1:
        raise ShapeError(
            f"{name}: the cotangent of a tensor of shape {y.array.shape} has to be given\n"
            f"  expected: a single number, or {argument}= of the same shape\n"
            "  hint: reduce it first, loss = y.sum() or y.mean()"
        )
    g = np.ones_like(y.array) if gradient is None else gradient
    array = g.array if isinstance(g, TensorCore) else g
    if not is_array(array):
        array = backend_of(y.array).asarray(np.asarray(array))
    array = array.copy()  # a gradient that is kept as rows may hold it beyond this pass
    if array.dtype.kind not in "fcbiu":
        raise DtypeError(
            f"{name}: {argument} is {described(gradient)}\n  expected: numbers\n"
            f"  hint: an array or a Tensor of shape {y.array.shape}"
        )
    if array.shape != y.array.shape:
        raise ShapeError(
            f"{name}: the cotangent has shape {array.shape}\n  expected: {y.array.shape}, that of"
            " the tensor\n  hint: it says how much each entry of the tensor weighs"
        )
    expect_one_device(name, y=y, **{argument: array})
    if kind is None:
        return array
    return g if isinstance(g, TensorCore) else kind(array)


def own(g: Any, node: Node, kind: type[TensorCore]) -> TensorCore:
    """``g`` as a Tensor with an array of its own: in the sweep, cotangents may share arrays."""
    if isinstance(g, TensorCore):
        return kind(g.array.copy(), g.node)
    if isinstance(g, Term):  # shared with nobody, and not in the node's dtype yet
        g = g.dense()
        return kind(g if g.dtype.kind == "c" else g.astype(node.dtype, copy=False))
    return kind(backend_of(g).asarray(g.copy()))  # of one number NumPy makes a scalar


def own_rows(g: Any) -> Sum:
    """``g``, rows of a table, with arrays of its own: a VJP may have returned what it was given."""
    found = Sum(g.shape, g.dtype)
    for term in terms_of(g):
        found.include(Placed(term.g.copy(), term.index, term.shape, term.once))
    return found


def is_rows(g: Any) -> bool:
    """Whether ``g`` is rows of a table and nothing else, fewer than the table has.

    Rows on a device are no rows: to add up those of equal ids, one would have to wait for it.
    """
    places = all(
        isinstance(term, Placed) and isinstance(term.g, np.ndarray) for term in terms_of(g)
    )
    return places and g.nbytes < prod(g.shape) * g.dtype.itemsize


def gathered(node: Node, kind: type[TensorCore]) -> Any:
    """The gradient that ``node`` has gathered, None if there is none.

    That of an embedding table is kept as the rows that were looked up, and written out here: often
    nobody asks, for an optimiser may take the rows as they are.  With ``sparse`` they stay rows.
    """
    watch = node.watch
    if watch is not None and isinstance(watch.grad, Term):
        g = watch.grad
        watch.grad = rows_in(g) if watch.sparse else own(g, node, kind)
    return None if watch is None else watch.grad


def rows_of_grad(x: TensorCore) -> RowGradient | None:
    """The gradient of ``x`` as rows, if that is how it is kept."""
    node = x.node
    if node is None or node.watch is None or not are_at_ids(node.watch.grad):
        return None
    node.watch.grad = rows_in(node.watch.grad)
    return node.watch.grad
