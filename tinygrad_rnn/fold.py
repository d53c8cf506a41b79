"""A cell over a whole forest: backpropagation through time and through structure are this fold.

A recurrent net is a fold over chains, a recursive net is a fold over trees, a backward direction is
a fold over the reversed chains, and a minibatch is a forest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .errors import DtypeError, ShapeError, TinygradRNNError, described
from .linear import broadcast_to
from .observer import OBSERVER
from .place import described_group
from .rows import Rows, batch_of, read
from .structure import Group, Structure

__all__ = ["fold", "name_of"]


def fold(cell: Any, structure: Structure, inputs: Any = None, initial: Any = None) -> Any:
    """The state of every node, (n, ...) in the order of the nodes: ``state = cell(x, *children)``.

    A cell is written for a batch: it is called once for all nodes of one height, kind and number of
    children, lowest first.  ``x`` holds a row of ``inputs`` for each, and there is one state for
    each child, with a row for each node too; a state is an array or a tuple of arrays, as the cell
    returns it.  The cost is linear in the number of nodes, forward and backward.

    ``cell`` may be a dict from the kind of a node to its cell; the kind is the number of children
    unless the structure was given others: ``fold({0: leaf, 2: compose}, trees, words)``.
    ``inputs`` has a row for each node; or is a tuple of such arrays; or None, and so is ``x``; or a
    dict from kinds to arrays with a row for each node of that kind.  ``initial`` is a state that a
    childless node gets as its one child: a row for each such node, in their order, or a vector for
    all of them.

    The states of the roots are ``h[structure.roots]``.  Top-down is a fold over
    ``structure.reversed()``.
    """
    name = f"fold({name_of(cell)})"
    if not isinstance(structure, Structure):
        raise DtypeError(
            f"{name}: structure is {described(structure)}\n  expected: a Structure\n"
            "  hint: Structure.chains(lengths) for sequences, Structure.trees(trees) for parses"
        )
    n = len(structure)
    if not n:
        raise ShapeError(
            f"{name}: the structure has no nodes\n  expected: at least one\n"
            "  hint: leave empty batches out"
        )
    if isinstance(inputs, Mapping):
        _expect_kinds(name, structure, inputs)
    rows, once = Rows(n), not structure.shares
    observer = OBSERVER.get()
    groups = structure.schedule if observer is None else observer.groups(structure)
    for group in groups:  # place.py reads name, structure, group and run
        run = _of_kind(name, cell, group.kind)
        x = _inputs_of(name, structure, inputs, group)
        children = [rows.take(index, once) for index in group.children]
        if initial is not None and not children:
            children = [_initial_of(name, structure, initial, group)]
        try:
            rows.write(batch_of(run(x, *children), group.stop - group.start, name), name)
        except Exception as error:
            if not isinstance(error, TinygradRNNError):  # those tell by themselves
                error.add_note(f"in {described_group(structure, group, name)}")
            raise
    return rows.empty(structure.back)


def _of_kind(name: str, cell: Any, kind: Any) -> Any:
    """The cell for nodes of ``kind``."""
    if not isinstance(cell, Mapping):
        return cell
    if kind not in cell:
        raise DtypeError(
            f"{name}: no cell for nodes of kind {kind!r}\n"
            f"  expected: one of {', '.join(map(repr, cell))}\n"
            "  hint: the kind of a node is its number of children, unless the structure has kinds"
        )
    return cell[kind]


def _inputs_of(name: str, structure: Structure, inputs: Any, group: Group) -> Any:
    """The rows of ``inputs`` for the nodes of ``group``."""
    nodes, n = group.nodes, len(structure)
    if isinstance(inputs, Mapping):
        inputs = inputs.get(group.kind)
        nodes, n = structure.places_in(group), structure.population[group.kind]
    return _each(inputs, lambda array: _picked(name, "inputs", array, nodes, n))


def _expect_kinds(name: str, structure: Structure, inputs: Mapping[Any, Any]) -> None:
    """Raise unless there are nodes of every kind that has rows: else a misspelt one goes unseen."""
    for kind, given in inputs.items():
        arrays = given if isinstance(given, tuple) else (given,)
        if kind not in structure.population and any(len(x) for x in arrays if x is not None):
            raise DtypeError(
                f"{name}: inputs has rows for nodes of kind {kind!r}, of which there is none\n"
                f"  expected: one of {', '.join(map(repr, structure.population))}\n"
                "  hint: a node's kind is its number of children, unless the structure has kinds"
            )


def _initial_of(name: str, structure: Structure, initial: Any, group: Group) -> Any:
    """The states that the childless nodes of ``group`` get as their one child."""
    n, places = group.stop - group.start, structure.leaves_in(group)

    def rows_of(state: Any) -> Any:
        if getattr(state, "ndim", 0) == 1:
            return broadcast_to(state, (n, *state.shape))
        return _picked(name, "initial", state, places, len(structure.leaves))

    return _each(initial, rows_of)


def _each(values: Any, function: Callable[[Any], Any]) -> Any:
    """``function`` of an array, or of each in a tuple; None for None."""
    if isinstance(values, tuple):
        return tuple([function(value) for value in values])
    return None if values is None else function(values)


def _picked(name: str, argument: str, array: Any, index: Any, n: int) -> Any:
    """``array[index]``, if ``array`` has ``n`` rows."""
    if getattr(array, "shape", ())[:1] != (n,):
        hint = "nodes are numbered sequence after sequence, tree after tree, without padding"
        if argument == "initial":
            hint = "a row for each childless node, where a chain begins; or a vector for all"
        raise ShapeError(
            f"{name}: {argument} is {described(getattr(array, 'array', array))}\n"
            f"  expected: ({n}, ...), a row for each of the {n} nodes that it is for\n"
            f"  hint: {hint}"
        )
    return read(array, index, True)


def name_of(cell: Any) -> str:
    """A name for ``cell`` in messages."""
    if isinstance(cell, Mapping):
        return "{" + ", ".join(f"{kind!r}: {name_of(one)}" for kind, one in cell.items()) + "}"
    return getattr(cell, "__qualname__", type(cell).__name__)
