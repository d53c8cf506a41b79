"""What a net runs over: a forest of chains, trees or graphs with shared children.

A node is run after its children, so all that a schedule needs is the *height* of each node: 0 for
a leaf, one more than the highest child for any other.  Nodes of one height cannot depend on each
other; those that also agree in kind and in number of children are run in one call of a cell.  A
sentence is a chain (the child of a step is the step before), a parse is a tree, and a minibatch is
a forest of either: no padding, no mask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .errors import DtypeError, IndexRangeError, ShapeError, described

__all__ = ["Group", "Structure", "as_index"]


class Group(NamedTuple):
    """Nodes that are run in one call: of one height, one kind and one number of children.

    ``nodes`` are their numbers.  In the order of the schedule they are rows ``start`` to ``stop``,
    and ``children[k]`` are the rows of their k-th children, all of which come before ``start``.
    """

    kind: Hashable
    nodes: Any
    start: int
    stop: int
    children: list[Any]


class Structure:
    """A forest: nodes 0 .. n - 1, each with its children in order.

    ``counts[i]`` is the number of children of node i and ``children`` are the children's numbers,
    node after node.  ``kinds``, one for each node, say which cell runs it; a node without one is of
    the kind that its number of children is.  ``heights`` are found unless they are known, and may
    be any numbers that are greater for a node than for its children.  Chains, trees and graphs have
    constructors below.  Raises IndexRangeError for a child that does not exist and ShapeError for a
    cycle, or for heights that are none.
    """

    def __init__(
        self,
        counts: Any,
        children: Any,
        kinds: Sequence[Hashable] | None = None,
        heights: np.ndarray | None = None,
    ) -> None:
        self.counts = _integers("counts", counts)
        self.children = _integers("children", children)
        self.kinds = None if kinds is None else _listed("kinds is", kinds, "one for each node")
        self.items: list[Any] | None = None
        n, total = len(self.counts), int(self.counts.sum())
        if total != len(self.children) or (self.counts < 0).any():
            raise ShapeError(
                f"Structure: {len(self.children)} children\n"
                f"  expected: {total}, the sum of the {n} counts, none below 0\n"
                "  hint: dag([[children of node 0], ...]) counts them for you"
            )
        if self.kinds is not None and len(self.kinds) != n:
            raise ShapeError(
                f"Structure: {len(self.kinds)} kinds\n  expected: {n}, one a node\n"
                "  hint: kinds left out are the numbers of children"
            )
        wrong = np.flatnonzero((self.children < 0) | (self.children >= n))
        if wrong.size:
            place = wrong[0]
            node = int(np.searchsorted(np.cumsum(self.counts), place, side="right"))
            raise IndexRangeError(
                f"Structure: node {node} has child {self.children[place]}\n"
                f"  expected: 0 <= child < {n}, the number of nodes\n"
                "  hint: nodes are numbered from 0, and a leaf has an empty list of children"
            )
        self.heights = self._measured() if heights is None else _integers("heights", heights)
        above = np.repeat(self.heights, self.counts) if len(self.heights) == n else _EMPTY
        if len(above) != total or (above <= self.heights[self.children]).any():
            raise ShapeError(
                "Structure: these heights are no order in which to run the nodes\n"
                f"  expected: {n} heights, greater for a node than for its children\n"
                "  hint: heights left out are measured"
            )

    # ---- how it is made ----

    @classmethod
    def chains(cls, lengths: Iterable[int]) -> Structure:
        """A chain for each length; the nodes are numbered sequence after sequence.

        The child of a step is the step before it.  ShapeError for a length below 1.
        """
        sizes = _integers("lengths", lengths)
        if sizes.sum(dtype=float) > _MOST_NODES:  # a sum of integers could wrap round
            raise ShapeError(
                f"Structure.chains: {sizes.sum(dtype=float):.3g} steps together\n"
                f"  expected: {_MOST_NODES:,} at most\n  hint: run a part of them at a time"
            )
        if (sizes < 1).any():
            place = int(np.flatnonzero(sizes < 1)[0])
            raise ShapeError(
                f"Structure.chains: sequence {place} has length {sizes[place]}\n"
                "  expected: at least 1 step\n  hint: leave empty sequences out"
            )
        starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
        nodes = np.arange(len(starts))
        inner = nodes != starts
        return cls(inner.astype(np.intp), nodes[inner] - 1, heights=nodes - starts)

    @classmethod
    def trees(
        cls,
        trees: Iterable[Any],
        children: Callable[[Any], Sequence[Any] | None] | None = None,
        kind: Callable[[Any], Hashable] | None = None,
    ) -> Structure:
        """A tree for each of ``trees``; children are numbered before their parent, left to right.

        ``children`` gives the subtrees of a tree, none or None for a leaf; without it, a tuple or
        list is an inner node of its items, and anything else is a leaf.  ``kind`` gives the kind of
        a node.  What node i stands for is ``items[i]``.  A subtree that occurs twice is two nodes.
        ShapeError for a tree that contains itself, and for more than 10,000,000 nodes.
        """
        below = _parts if children is None else children
        counts: list[int] = []
        flat: list[int] = []
        heights: list[int] = []
        items: list[Any] = []
        waiting: list[int] = []  # nodes whose parent is still to come
        for tree in _listed("trees: trees is", trees, "one tree is a list of one, [tree]"):
            open_: set[int] = set()  # the nodes from the root down to the one in hand
            left: list[tuple[Any, Any]] = [(tree, None)]
            while left:
                item, parts = left.pop()
                if parts is None:
                    parts = _listed("trees: children(tree) is", below(item) or (), "() for a leaf")
                    if parts:
                        if id(item) in open_:
                            raise ShapeError(
                                f"Structure.trees: {described(item)} contains itself\n"
                                "  hint: a graph with cycles has no order in which to run it"
                            )
                        open_.add(id(item))
                        left.append((item, parts))
                        left.extend((part, None) for part in reversed(parts))
                        continue
                k = len(parts)
                mine = waiting[len(waiting) - k :]
                del waiting[len(waiting) - k :]
                open_.discard(id(item))
                waiting.append(len(counts))
                if len(counts) >= _MOST_OF_TREES:
                    raise ShapeError(
                        f"Structure.trees: more than {_MOST_OF_TREES:,} nodes\n"
                        "  expected: fewer, and a subtree that occurs twice is two nodes\n"
                        "  hint: in dag(children) a node that is shared is one; join adds forests"
                    )
                heights.append(1 + max([heights[i] for i in mine], default=-1))
                counts.append(k)
                flat.extend(mine)
                items.append(item)
        kinds = None if kind is None else [kind(item) for item in items]
        made = cls(counts, flat, kinds, np.array(heights, np.intp))
        made.items = items
        return made

    @classmethod
    def dag(
        cls, children: Sequence[Sequence[int]], kinds: Sequence[Hashable] | None = None
    ) -> Structure:
        """The graph in which ``children[i]`` are the children of node i, in any numbering.

        A child may have several parents; where none has, it is a forest of trees.  IndexRangeError
        for a child that does not exist, ShapeError for a cycle.
        """
        hint = "[[], [], [0, 1]] is a node over two leaves"
        nodes = _listed("dag: children is", children, hint)
        rows = [_listed("dag: children has", own, hint) for own in nodes]
        return cls([len(own) for own in rows], [i for own in rows for i in own], kinds)

    @classmethod
    def join(cls, structures: Iterable[Structure]) -> Structure:
        """One forest of several, their nodes numbered one structure after the other.

        Nothing is measured again, so minibatches of structures that are kept cost little.
        """
        parts = list(structures)
        shifts = np.cumsum([0, *map(len, parts)])
        kinds: list[Hashable] | None = None
        if any(part.kinds is not None for part in parts):
            kinds = [kind for part in parts for kind in part._kinds()]
        joined = cls(
            np.concatenate([_EMPTY, *[part.counts for part in parts]]),
            np.concatenate(
                [_EMPTY, *[p.children + at for p, at in zip(parts, shifts, strict=False)]]
            ),
            kinds,
            np.concatenate([_EMPTY, *[part.heights for part in parts]]),
        )
        if all(part.items is not None for part in parts):
            joined.items = [item for part in parts for item in part.items or ()]
        return joined

    # ---- what it is ----

    def __len__(self) -> int:
        return len(self.counts)

    def __repr__(self) -> str:
        height = int(self.heights.max(initial=0))
        return f"Structure(nodes={len(self)}, roots={len(self.roots)}, height={height})"

    @cached_property
    def leaves(self) -> np.ndarray:
        """The nodes without children, ascending: where a state begins."""
        return np.flatnonzero(self.counts == 0)

    @cached_property
    def roots(self) -> np.ndarray:
        """The nodes that are nobody's child, ascending: the last steps of chains, whole parses."""
        return np.flatnonzero(self._parents() == 0)

    @property
    def root(self) -> int:
        """The root of a single tree; ShapeError if there are several roots, or none."""
        if len(self.roots) != 1:
            raise ShapeError(
                f"root: this structure has {len(self.roots)} roots\n  expected: 1\n"
                "  hint: roots gives all of them"
            )
        return int(self.roots[0])

    @cached_property
    def shares(self) -> bool:
        """Whether some node is a child more than once, so that cotangents meet there."""
        return bool(self._parents().max(initial=0) > 1)

    def reversed(self) -> Structure:
        """The same nodes with every edge turned round: the parents of a node are its children now.

        Chains run from their last step to their first; trees run from the root to the leaves.
        """
        return self._reversed

    @cached_property
    def _reversed(self) -> Structure:
        parents = np.repeat(np.arange(len(self)), self.counts)
        order = np.argsort(self.children, kind="stable")
        turned = Structure(self._parents(), parents[order], self.kinds)
        turned.items = self.items
        return turned

    def _parents(self) -> np.ndarray:
        """How many parents each node has."""
        return np.bincount(self.children, minlength=len(self))

    def _kinds(self) -> list[Hashable]:
        return self.counts.tolist() if self.kinds is None else self.kinds

    # ---- in which order it is run ----

    def _measured(self) -> np.ndarray:
        """The height of each node: take any whose children are all done, until none is left."""
        n, counts = len(self), self.counts.tolist()
        parents: list[list[int]] = [[] for _ in range(n)]
        for parent, child in zip(
            np.repeat(np.arange(n), self.counts).tolist(), self.children.tolist(), strict=True
        ):
            parents[child].append(parent)
        heights = [0] * n
        ready = [i for i in range(n) if not counts[i]]
        for node in ready:
            above = heights[node] + 1
            for parent in parents[node]:
                heights[parent] = max(heights[parent], above)
                counts[parent] -= 1
                if not counts[parent]:
                    ready.append(parent)
        if len(ready) < n:
            raise ShapeError(
                f"Structure: {self._cycle(counts)} is a cycle, each a child of the one before\n"
                "  hint: a node is run after its children, so none may be below itself"
            )
        return np.array(heights, np.intp)

    def _cycle(self, unfinished: list[int]) -> str:
        """Nodes along a cycle; those with unfinished children lead to one."""
        ends = np.cumsum(self.counts)
        node = next(i for i, count in enumerate(unfinished) if count)
        seen: dict[int, int] = {}
        while node not in seen:
            seen[node] = len(seen)
            own = self.children[ends[node] - self.counts[node] : ends[node]].tolist()
            node = next(i for i in own if unfinished[i])
        nodes = [*list(seen)[seen[node] :], node]
        shown = nodes if len(nodes) < 12 else [*nodes[:6], "...", *nodes[-3:]]
        return " > ".join(map(str, shown))

    @cached_property
    def order(self) -> np.ndarray:
        """The nodes in the order of the schedule, so that each group is a run of them."""
        return np.lexsort((self.counts, self._codes, self.heights))

    @cached_property
    def rows(self) -> np.ndarray:
        """For each node, its place in ``order``."""
        rows = np.empty(len(self), np.intp)
        rows[self.order] = np.arange(len(self))
        return rows

    @cached_property
    def back(self) -> Any:
        """``rows`` as an index, which brings states in the order of the schedule to the nodes."""
        return as_index(self.rows)

    @cached_property
    def _codes(self) -> np.ndarray:
        """The kinds as numbers, in order of first occurrence."""
        if self.kinds is None:
            return self.counts
        try:
            codes = {kind: i for i, kind in enumerate(Counter(self.kinds))}
        except TypeError:
            raise DtypeError(
                f"Structure: kinds such as {described(self.kinds[0])} cannot be told apart\n"
                "  expected: what a dict may have for keys\n  hint: tuples in place of lists"
            ) from None
        return np.array([codes[kind] for kind in self.kinds], np.intp)

    @cached_property
    def population(self) -> Counter[Hashable]:
        """How many nodes there are of each kind."""
        return Counter(self._kinds())

    @cached_property
    def places(self) -> np.ndarray:
        """For each node, its place among those of its kind."""
        order = np.argsort(self._codes, kind="stable")
        sizes = np.unique(self._codes, return_counts=True)[1]
        places = np.empty(len(self), np.intp)
        places[order] = np.arange(len(self)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return places

    def places_in(self, group: Group) -> Any:
        """Of the nodes of ``group``, their places among those of their kind."""
        return self._places_by_start[group.start]

    def leaves_in(self, group: Group) -> Any:
        """Of the nodes of ``group``, which are childless, their places among all such nodes."""
        return self._leaves_by_start[group.start]

    @cached_property
    def _places_by_start(self) -> dict[int, Any]:
        places = self.places[self.order]
        return {one.start: as_index(places[one.start : one.stop]) for one in self.schedule}

    @cached_property
    def _leaves_by_start(self) -> dict[int, Any]:
        leaves = np.searchsorted(self.leaves, self.order)
        groups = [one for one in self.schedule if not one.children]
        return {one.start: as_index(leaves[one.start : one.stop]) for one in groups}

    @cached_property
    def schedule(self) -> list[Group]:
        """The groups, lowest first.  Found once and kept: data that come again cost nothing."""
        if not len(self):
            return []
        order, kinds = self.order, self._kinds()
        keys = np.stack([self.heights, self._codes, self.counts])[:, order]
        starts = np.flatnonzero(np.any(keys[:, 1:] != keys[:, :-1], axis=0)) + 1
        bounds = [0, *starts.tolist(), len(self)]
        firsts = np.cumsum(self.counts) - self.counts
        groups = []
        for start, stop in pairwise(bounds):
            nodes = order[start:stop]
            children = [
                self.rows[self.children[firsts[nodes] + k]]
                for k in range(int(self.counts[nodes[0]]))
            ]
            groups.append(Group(kinds[nodes[0]], as_index(nodes), start, stop, children))
        # A view of a few states keeps all of them alive: views, then, where nothing is a copy.
        slices = [[as_index(rows) for rows in group.children] for group in groups]
        if all(isinstance(index, slice) for children in slices for index in children):
            return [group._replace(children=own) for group, own in zip(groups, slices, strict=True)]
        # And arrays that are parts of one, so that all go to a device together.
        arrays = [rows for group in groups for rows in group.children]
        ends = np.cumsum([len(rows) for rows in arrays])
        parts = iter(np.split(np.concatenate(arrays), ends[:-1]))
        return [group._replace(children=[next(parts) for _ in group.children]) for group in groups]


_EMPTY = np.empty(0, np.intp)
_MOST_OF_TREES = 10_000_000  # a gigabyte of lists
_MOST_NODES = 2**40  # beyond the memory of any machine, and safely within an integer


def _integers(name: str, values: Any) -> np.ndarray:
    """``values`` as a one-dimensional integer array."""
    try:
        array = np.asarray(values if isinstance(values, np.ndarray) else list(values))
    except (TypeError, ValueError):  # not a list, or a ragged one
        array = np.array(None)
    if array.ndim != 1 or (
        array.size and (array.dtype.kind not in "iu" or array.max() > np.iinfo(np.intp).max)
    ):
        raise DtypeError(
            f"Structure: {name} is {described(getattr(values, 'array', values))}\n"
            "  expected: a list of whole numbers\n  hint: [3, 2] for a chain of 3 and one of 2"
        )
    return array.astype(np.intp)


def _listed(what: str, values: Any, hint: str) -> list[Any]:
    """``values`` as a list; a dict, whose keys would be read, is none."""
    if isinstance(values, Iterable) and not isinstance(values, Mapping):
        return list(values)
    raise DtypeError(f"Structure.{what} {described(values)}\n  expected: a list\n  hint: {hint}")


def _parts(tree: Any) -> Sequence[Any]:
    return tree if isinstance(tree, (tuple, list)) else ()


def as_index(rows: np.ndarray) -> Any:
    """``rows``, as a slice if they follow one on the other: a view, where an array means a copy."""
    first, last = int(rows[0]), int(rows[-1])
    if last - first == len(rows) - 1 and (rows[1:] > rows[:-1]).all():
        return slice(first, last + 1)
    return rows
