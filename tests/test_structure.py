"""Laws of structures: heights, schedules and reversal against brute force, on random graphs."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import structure
from tinygrad_rnn.errors import DtypeError, IndexRangeError, ShapeError
from tinygrad_rnn.testing import forests, trees

Structure = tg.Structure

graphs = st.booleans().flatmap(lambda shared: forests(shared=shared))
kinds = st.sampled_from(["noun", "verb", 3, None, ("a", 1)])


def children_of(made):
    """The children of each node as lists."""
    ends = np.cumsum(made.counts)
    return [
        made.children[end - count : end].tolist()
        for end, count in zip(ends, made.counts, strict=True)
    ]


def heights_of(children):
    """Raise the height of every node above its children, until nothing moves."""
    heights = [0] * len(children)
    for _ in children:
        heights = [1 + max((heights[j] for j in own), default=-1) for own in children]
    return heights


def edges_of(made):
    return Counter((i, j) for i, own in enumerate(children_of(made)) for j in own)


def numbers(index, n):
    """What an index, a slice or an array, picks from 0 .. n - 1."""
    return np.arange(n)[index].tolist()


# ---- what it is ----------------------------------------------------------------------------------


@given(graphs)
def test_heights_roots_and_leaves_are_what_brute_force_finds(children):
    made = Structure.dag(children)
    below = [j for own in children for j in own]
    assert len(made) == len(children)
    assert children_of(made) == children
    assert made.counts.tolist() == [len(own) for own in children]
    assert made.heights.tolist() == heights_of(children)
    assert made.roots.tolist() == [i for i in range(len(children)) if i not in below]
    assert made.leaves.tolist() == [i for i, own in enumerate(children) if not own]
    assert made.shares == (len(below) > len(set(below)))
    assert (
        f"nodes={len(made)}, roots={len(made.roots)}, height={max(heights_of(children))}"
        in repr(made)
    )


@given(graphs, st.data())
def test_every_node_is_run_once_after_its_children_beside_all_its_like(children, data):
    n = len(children)
    named = data.draw(st.none() | st.lists(kinds, min_size=n, max_size=n))
    made = Structure.dag(children, named)
    heights = heights_of(children)
    seen, keys = [], []
    for group in made.schedule:
        nodes = numbers(group.nodes, n)
        assert nodes == sorted(nodes)
        assert numbers(slice(group.start, group.stop), n) == [
            len(seen) + k for k in range(len(nodes))
        ]
        assert made.order[group.start : group.stop].tolist() == nodes
        assert made.rows[nodes].tolist() == list(range(group.start, group.stop))
        for k, below in enumerate(group.children):
            rows = numbers(below, n)
            assert max(rows) < group.start
            assert made.order[rows].tolist() == [children[i][k] for i in nodes]
        for i in nodes:
            kind = len(children[i]) if named is None else named[i]
            assert group.kind == kind
            assert len(group.children) == len(children[i])
            keys.append((heights[i], kind, len(children[i])))
        assert len(set(keys[len(seen) :])) == 1
        seen += nodes
    assert sorted(seen) == list(range(n))
    assert len(made.schedule) == len(set(keys))  # nothing that could be run in one call is split
    assert [key[0] for key in keys] == sorted(heights)


@given(graphs, st.data())
def test_population_and_places_count_the_nodes_of_each_kind(children, data):
    n = len(children)
    named = data.draw(st.none() | st.lists(kinds, min_size=n, max_size=n))
    made = Structure.dag(children, named)
    shown = [len(own) for own in children] if named is None else named
    assert made.population == Counter(shown)
    assert made.places.tolist() == [shown[:i].count(kind) for i, kind in enumerate(shown)]


@given(graphs)
def test_what_is_measured_once_is_kept(children):
    made = Structure.dag(children)
    assert made.schedule is made.schedule
    assert made.reversed() is made.reversed()
    assert made.roots is made.roots and made.leaves is made.leaves


def test_a_structure_does_not_change_with_the_arrays_it_was_given():
    counts, children, kinds = np.array([0, 1]), np.array([0]), ["a", "b"]
    made = Structure(counts, children, kinds)
    counts[:], children[:], kinds[0] = 0, 1, "c"
    assert children_of(made) == [[], [0]] and made.population == {"a": 1, "b": 1}


def test_the_root_is_that_of_one_tree():
    assert Structure.dag([[], [2, 0], []]).root == 1
    assert Structure.chains([4]).root == 3
    with pytest.raises(ShapeError, match=r"2 roots\n  expected: 1\n.*\n  hint: roots"):
        _ = Structure.chains([1, 3]).root
    with pytest.raises(ShapeError, match="0 roots"):
        _ = Structure.chains([]).root


def test_an_empty_forest_is_empty():
    for empty in (
        Structure.chains([]), Structure.trees([]), Structure.dag([]), Structure.join([])
    ):  # fmt: skip
        assert len(empty) == 0 and empty.schedule == [] and empty.reversed().schedule == []
        assert empty.roots.size == empty.leaves.size == 0 and not empty.shares
        assert "nodes=0" in repr(empty)


# ---- how it is made ------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 6), max_size=5))
def test_a_chain_is_a_graph_in_which_the_child_is_the_step_before(lengths):
    expected, first = [], 0
    for length in lengths:
        expected += [[first + t - 1] if t else [] for t in range(length)]
        first += length
    made = Structure.chains(iter(lengths))
    assert children_of(made) == expected
    assert made.heights.tolist() == heights_of(expected)
    assert made.roots.tolist() == (np.cumsum(lengths) - 1).tolist()


@given(st.lists(trees(st.integers(0, 3) | st.text(max_size=2)), max_size=4))
def test_nested_tuples_come_back(given_trees):
    made = Structure.trees(given_trees)
    children = children_of(made)

    def rebuilt(i):
        return tuple(map(rebuilt, children[i])) if children[i] else made.items[i]

    assert [rebuilt(i) for i in made.roots] == given_trees
    assert made.items == [rebuilt(i) for i in range(len(made))]
    assert all(j < i for i, own in enumerate(children) for j in own)
    assert made.heights.tolist() == heights_of(children)
    assert not made.shares  # not even where Python shares a tuple
    words = [made.items[i] for i in made.leaves]
    assert words == [word for tree in given_trees for word in leaves_of(tree)]  # left to right


def leaves_of(tree):
    if not isinstance(tree, tuple) or not tree:
        return [tree]
    return [word for part in tree for word in leaves_of(part)]


@given(trees(st.sampled_from("ab")))
def test_trees_of_any_class_with_kinds(tree):
    def as_dict(tree):
        parts = [as_dict(part) for part in tree] if isinstance(tree, tuple) else []
        return {"parts": parts, "label": f"of {len(parts)}"}

    made = Structure.trees(
        [as_dict(tree)], children=lambda t: t["parts"], kind=lambda t: t["label"]
    )
    plain = Structure.trees([tree])
    assert children_of(made) == children_of(plain)
    assert made.kinds == [f"of {count}" for count in plain.counts]
    assert [item["label"] for item in made.items] == made.kinds


def test_children_of_a_leaf_may_be_none():
    below = {"a": ["b", "c"], "c": iter(["d"])}
    assert children_of(Structure.trees("a", below.get)) == [[], [], [1], [0, 2]]


def test_a_leaf_an_empty_tuple_and_lists():
    made = Structure.trees(["word", (), ["a", ("b",)]])
    assert children_of(made) == [[], [], [], [], [3], [2, 4]]
    assert made.items == ["word", (), "a", "b", ("b",), ["a", ("b",)]]


@given(st.lists(graphs, max_size=4), st.data())
def test_a_join_is_the_graph_built_at_once(parts, data):
    made, children, named = [], [], []
    for part in parts:
        n, kind = len(part), data.draw(st.sampled_from(["a", "b", None]))
        made.append(Structure.dag(part, None if kind is None else [kind] * n))
        named += [len(own) for own in part] if kind is None else [kind] * n
        shift = len(children)
        children += [[shift + j for j in own] for own in part]
    joined = Structure.join(iter(made))
    assert children_of(joined) == children
    assert joined.heights.tolist() == heights_of(children)
    assert joined.population == Counter(named)
    assert (joined.kinds is None) == all(one.kinds is None for one in made)


def test_a_join_keeps_items_if_all_have_them():
    one, other = Structure.trees([("a", "b")]), Structure.trees(["c"])
    assert Structure.join([one, other]).items == ["a", "b", ("a", "b"), "c"]
    assert Structure.join([one, Structure.chains([1])]).items is None


@given(graphs, st.data())
def test_reversed_turns_every_edge_round(children, data):
    n = len(children)
    named = data.draw(st.none() | st.lists(kinds, min_size=n, max_size=n))
    made = Structure.dag(children, named)
    turned = made.reversed()
    assert edges_of(turned) == Counter({(j, i): k for (i, j), k in edges_of(made).items()})
    assert turned.roots.tolist() == made.leaves.tolist()
    assert turned.leaves.tolist() == made.roots.tolist()
    assert turned.heights.tolist() == heights_of(children_of(turned))
    assert turned.kinds == made.kinds
    again = turned.reversed()
    assert [sorted(own) for own in children_of(again)] == [sorted(own) for own in children]
    assert again.heights.tolist() == made.heights.tolist()


def test_reversed_keeps_the_items():
    made = Structure.trees([("a", "b")])
    assert made.reversed().items == made.items == ["a", "b", ("a", "b")]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_rows_that_follow_one_on_the_other_are_a_slice(rows):
    index = structure.as_index(np.array(rows))
    assert numbers(index, 10) == rows
    assert isinstance(index, slice) == (rows == list(range(rows[0], rows[0] + len(rows))))


# ---- depth ---------------------------------------------------------------------------------------

DEEP = 100_000


def test_a_tree_as_deep_as_a_long_chain():
    tree = leaf = ("end",)
    for _ in range(DEEP):
        tree = (tree, "word")
    made = Structure.trees([tree])
    assert made.heights.max() == DEEP + 1 and len(made) == 2 * DEEP + 2
    assert made.items[made.root] is tree and made.items[1] is leaf
    assert len(made.schedule) == DEEP + 2
    assert made.reversed().heights.max() == DEEP + 1
    made.items = None
    while tree is not leaf:  # taken apart from outside: deleted whole, it might recurse
        tree = tree[0]


def test_a_graph_as_deep_as_a_long_chain():
    made = Structure.dag([[] if i == DEEP - 1 else [i + 1, i + 1] for i in range(DEEP)])
    assert made.heights.tolist() == list(range(DEEP - 1, -1, -1))
    assert len(made.schedule) == DEEP and made.root == 0


# ---- refusals ------------------------------------------------------------------------------------


@given(graphs, st.data())
def test_a_cycle_is_shown(children, data):
    made = Structure.dag(children)
    paths = [(top, below) for top in range(len(made)) for below in reached(children, top)]
    top, below = data.draw(st.sampled_from(paths))
    children[below].append(top)  # from below back to the top
    with pytest.raises(ShapeError, match="is a cycle") as caught:
        Structure.dag(children)
    shown = str(caught.value).split("Structure: ")[1].split(" is a cycle")[0].split(" > ")
    nodes = [int(i) for i in shown]
    assert nodes[0] == nodes[-1] and len(nodes) > 1
    assert all(j in children[i] for i, j in pairwise(nodes))


def reached(children, top):
    """The nodes on some path down from ``top``, itself included."""
    found, left = [], [top]
    while left:
        i = left.pop()
        if i not in found:
            found.append(i)
            left += children[i]
    return found


def test_a_long_cycle_is_shown_in_part():
    with pytest.raises(
        ShapeError, match=r"^Structure: 0 > 1 > 2 > 3 > 4 > 5 > \.\.\. > 98 > 99 > 0 "
    ):
        Structure.dag([[(i + 1) % 100] for i in range(100)])


def test_a_list_that_contains_itself_is_refused():
    tree = ["a", ["b"]]
    tree[1].append(tree)
    with pytest.raises(ShapeError, match="contains itself"):
        Structure.trees([tree])


def test_trees_that_unfold_without_end_are_refused(monkeypatch):
    """Each tuple holds the one before twice, so that 60 objects would be 2**61 nodes."""
    monkeypatch.setattr(structure, "_MOST_OF_TREES", 1023)
    tree = "leaf"
    for _ in range(9):
        tree = (tree, tree)
    assert len(Structure.trees([tree])) == 1023
    with pytest.raises(ShapeError, match="more than 1,023 nodes"):
        Structure.trees([tree, "one more"])
    for _ in range(51):
        tree = (tree, tree)
    with pytest.raises(
        ShapeError, match=r"more than 1,023 nodes\n(.*\n)*.*a subtree that occurs twice"
    ):
        Structure.trees([tree])


def test_chains_have_as_many_steps_as_they_may(monkeypatch):
    monkeypatch.setattr(structure, "_MOST_NODES", 10)
    assert len(Structure.chains([4, 6])) == 10
    with pytest.raises(ShapeError, match="11 steps together\n  expected: 10 at most"):
        Structure.chains([4, 7])


REFUSED = {
    "a missing child": (lambda: Structure.dag([[], [0, 5]]), IndexRangeError, "node 1 has child 5"),
    "a negative child": (lambda: Structure.dag([[-1]]), IndexRangeError, "node 0 has child -1"),
    "a child of the last": (
        lambda: Structure([0, 1, 0, 1], [0, 4]), IndexRangeError, "node 3 has child 4"
    ),
    "too few children": (lambda: Structure([0, 2], [0]), ShapeError, "expected: 2, the sum"),
    "too many": (lambda: Structure([0, 1], [0, 0]), ShapeError, "2 children\n  expected: 1"),
    "a negative count": (lambda: Structure([2, -1], [0]), ShapeError, "none below 0"),
    "too few kinds": (lambda: Structure([0, 0], [], ["a"]), ShapeError, "1 kinds\n  expected: 2"),
    "no step": (lambda: Structure.chains([2, 0, 1]), ShapeError, "sequence 1 has length 0"),
    "a negative length": (lambda: Structure.chains([-2]), ShapeError, "sequence 0 has length -2"),
    "a fraction": (lambda: Structure.chains([1.5]), DtypeError, r"\[1.5\]\n  expected: .* whole"),
    "truth values": (lambda: Structure([False, True], [0]), DtypeError, "counts"),
    "a number": (lambda: Structure.chains(5), DtypeError, "lengths is int 5"),
    "lists in a list": (lambda: Structure([[0], [0, 1]], []), DtypeError, "counts"),
    "a matrix": (lambda: Structure(np.zeros((1, 1), int), []), DtypeError, "counts"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_forest_is_refused(case):
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        make()
