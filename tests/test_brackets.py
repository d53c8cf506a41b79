"""Trees as strings of brackets and back, how much of one is right, and the reader of treebanks."""

import collections
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demos import _brackets as brackets
from demos import _kit as kit
from demos._brackets import BracketError, Node

DEEP = 100_000

# Here a tree is a word or a pair (label, children), and all that is said of it recurs.
labels = st.sampled_from(["S", "NP", "VP", "-X-"])
words = st.sampled_from(["the", "cat", "XX", "."])
nested = st.recursive(
    st.tuples(labels, st.lists(words, max_size=2)),
    lambda inner: st.tuples(labels, st.lists(words | inner, max_size=4)),
    max_leaves=12,
)


def flat(tree):
    """The tree as the module has it."""
    if isinstance(tree, str):
        return (Node(tree, None),)
    label, children = tree
    return (Node(label, len(children)), *[node for child in children for node in flat(child)])


def written(tree):
    """The tree as text."""
    if isinstance(tree, str):
        return tree
    return f"({' '.join([tree[0], *map(written, tree[1])])})"


def leaves(tree):
    return [tree] if isinstance(tree, str) else [x for child in tree[1] for x in leaves(child)]


def subtrees(tree):
    """All trees in a tree but words, and all words before each."""
    todo, before = [tree], []
    while todo:
        first = todo.pop(0)
        if isinstance(first, str):
            before.append(first)
        else:
            yield first, list(before)
            todo = first[1] + todo


# ---- there and back ----


@given(nested)
def test_a_tree_comes_back_from_its_string(tree):
    tokens = brackets.linearised(flat(tree))
    assert brackets.tree_of(tokens) == flat(tree)
    assert brackets.tokens_of(brackets.text_of(tokens)) == tokens
    assert brackets.text_of(tokens) == written(tree)
    assert brackets.tokens_of(written(tree).replace("(", " ( \t").replace(")", " ) ")) == tokens


def is_tree(tokens):
    """Whether words and whole brackets, taken for words again and again, leave one word."""
    text, before = " ".join(tokens) + " ", None
    if not re.match(r"\w+\(", text):
        return False
    while text != before:
        before, text = text, re.sub(r"\w+\( ((\w+ )*)\) ", "w ", text)
    return text == "w "


@given(st.lists(st.sampled_from(["S(", "NP(", "XX", ")", ")", "("]), max_size=10))
def test_tokens_are_one_tree_or_refused(tokens):
    if is_tree(tokens):
        assert brackets.linearised(brackets.tree_of(tokens)) == tuple(tokens)
    else:
        with pytest.raises(BracketError):
            brackets.tree_of(tokens)
        assert brackets.tree_or_none(tokens) is None


@given(st.text(alphabet="(S)a -\t\n\x00é", max_size=20) | st.text(max_size=20))
def test_any_text_is_a_tree_or_refused(text):
    tokens = brackets.tokens_of(text)
    if (tree := brackets.tree_or_none(tokens)) is not None:
        assert brackets.linearised(tree) == tokens


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the end comes with 0 brackets open"),
        ("(S x", "the end comes with 1 brackets open"),
        ("(S x))", "token 4, '[)]', stands behind the end of the tree"),
        ("(S x) y", "token 4, 'y', stands behind"),
        ("(S x) (S y)", "token 4, 'S[(]', stands behind"),
        (") (S x)", "token 1 closes what nothing opened"),
        ("x", "token 1, 'x', stands outside every bracket"),
        ("(S ((NP x) y))", "token 2 is a bracket without a label"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(BracketError, match=message):
        brackets.tree_of(brackets.tokens_of(text))


@pytest.mark.parametrize("label", ["", "a b", "(", "a)", "x(", "\n", "a\xa0b"])
def test_labels_that_brackets_cannot_say_are_refused(label):
    for tree in [(Node(label, 0),), (Node("S", 1), Node(label, None))]:
        with pytest.raises(BracketError, match="label"):
            brackets.linearised(tree)


@given(nested, st.data())
def test_a_tree_with_a_wrong_number_of_children_is_refused(tree, data):
    nodes = list(flat(tree))
    place = data.draw(st.sampled_from([i for i, n in enumerate(nodes) if n.children is not None]))
    label, children = nodes[place]
    nodes[place] = Node(label, data.draw(st.integers(-1, 9).filter(lambda n: n != children)))
    with pytest.raises(BracketError):
        brackets.linearised(nodes)


def test_deep_trees_are_read_written_measured_and_refused():
    """With loops and in linear time: what is quadratic would take hours here."""
    deep = ["S("] * DEEP + ["x"] + [")"] * DEEP
    tree = brackets.tree_of(brackets.tokens_of("(S " * DEEP + "x" + ")" * DEEP))
    assert brackets.linearised(tree) == tuple(deep)
    assert brackets.depth(tree) == DEEP
    assert brackets.spans(tree, {"x"}) == {("S", 0, 1): DEEP}
    assert brackets.distances(tree).sum() == DEEP
    for wrong in (deep[:-1], [*deep, ")"], ["S("] * DEEP, [")"] * DEEP):
        assert brackets.tree_or_none(wrong) is None
    with pytest.raises(kit.DataError, match=f"line 1: the end comes with {DEEP} brackets open"):
        brackets.sentence("(S " * DEEP, "line 1")


# ---- measures ----


@given(nested)
def test_spans_and_depth_are_those_of_the_nested_tree(tree):
    counted = {"cat", "XX"}
    expected = collections.Counter()
    for one, before in subtrees(tree):
        first = sum(word in counted for word in before)
        expected[one[0], first, first + sum(word in counted for word in leaves(one))] += 1
    assert brackets.spans(flat(tree), counted) == expected

    def depth(tree):
        return 0 if isinstance(tree, str) else 1 + max(map(depth, tree[1]), default=0)

    assert brackets.depth(flat(tree)) == depth(tree)


def test_distances_are_counted_in_tokens():
    tree = brackets.tree_of("S( NP( the cat ) VP( sat ) )".split())
    #                         0   1  2   3   4  5   6  7 8
    np.testing.assert_array_equal(brackets.distances(tree), [1, 1, 2, 5, 1])


def test_scores_of_what_is_no_tree_of_a_tree_and_of_chains():
    right = [tuple("S( NP( NP( XX ) ) VP( XX XX ) )".split())] * 5
    said = [
        right[0],  # 4 of 4 brackets
        (*right[0], ")"),  # no tree
        tuple("S( NP( XX ) VP( XX ) )".split()),  # S is too short, VP too; NP once: 1 of 3
        tuple("S( NP( NP( NP( XX ) ) ) XX XX )".split()),  # S and two NPs: 3 of 4
        tuple("VP( XX XX XX )".split()),  # 0 of 1
    ]
    found = brackets.scores(said, right, ("XX",))
    expected = {"tree": 4 / 5, "words": 3 / 5, "exact": 1 / 5}
    expected |= {"precision": 8 / 12, "recall": 8 / 20, "F1": 16 / 32}
    assert found == pytest.approx(expected)


@given(st.lists(nested, min_size=1, max_size=4), st.lists(nested, min_size=4, max_size=4))
def test_scores_are_shares_and_the_right_trees_have_all(right, other):
    right = [brackets.linearised(flat(tree)) for tree in right]
    other = [brackets.linearised(flat(tree)) for tree in other][: len(right)]
    kinds = ("XX", "the")
    assert set(brackets.scores(right, right, kinds).values()) == {1.0}
    there = brackets.scores(other, right, kinds)
    back = brackets.scores(right, other, kinds)
    assert all(0 <= share <= 1 for share in there.values())
    assert (there["precision"], there["F1"]) == (back["recall"], back["F1"])


# ---- treebanks ----

LINES = """(ROOT (S (NP-SBJ=2 (DT The) (NN cat)) (VP (VBD sat) (ADVP-TMP (RB then))) (. .)))
(ROOT (UH Yes))
(ROOT (NP (NP (NN cat)) (-LRB- -LRB-) (NP-X (NN dog))))
"""


def treebank(tmp_path, **parts):
    for part in ("train", "dev", "test"):
        (tmp_path / f"x-{part}.ptb").write_text(parts.get(part, LINES), encoding="utf-8")
    return tmp_path


def test_a_treebank_gives_words_or_tags_and_trees_without_functions(tmp_path):
    train, dev, test = brackets.read_treebank(treebank(tmp_path), 9, rare=2)
    assert dev == test == train[:3]
    assert [" ".join(e.target) for e in dev] == [
        "S( NP( XX XX ) VP( XX ADVP( XX ) ) XX )",
        "ROOT( XX )",
        "NP( NP( XX ) XX NP( XX ) )",
    ]
    assert [" ".join(e.source) for e in dev] == [
        "ROOT( <DT> cat <VBD> <RB> <.>",
        "ROOT( <UH>",
        "ROOT( cat <-LRB-> <NN>",
    ]
    assert [e.words for e in dev] == [(5,), (1,), (3,)]
    assert {" ".join(e.source): " ".join(e.target) for e in train[3:]} == {
        "S( <DT> cat <VBD> <RB> <.>": "S( NP( XX XX ) VP( XX ADVP( XX ) ) XX )",
        "NP( <DT> cat": "NP( XX XX )",
        "VP( <VBD> <RB>": "VP( XX ADVP( XX ) )",
        "NP( cat <-LRB-> <NN>": "NP( NP( XX ) XX NP( XX ) )",
    }
    assert [len(part) for part in brackets.read_treebank(tmp_path, 3, rare=1)] == [5, 2, 2]


@pytest.mark.parametrize("start", ["", "(ROOT ", "( ", "("])
def test_the_root_may_have_its_name_or_none_or_no_bracket(start):
    line = f"{start}(S (NP (DT the) (NN cat)) (VBD sat)){')' * bool(start)}"
    words, tags, tree = brackets.sentence(line, "line 1")
    assert (words, tags) == (("the", "cat", "sat"), ("DT", "NN", "VBD"))
    assert brackets.linearised(tree) == tuple("S( NP( XX XX ) XX )".split())


def test_a_root_over_two_trees_stays():
    line = "(ROOT (S (NN cat) (VB sat)) (X (NN dog) (VB ran)))"
    assert brackets.linearised(brackets.sentence(line, "line 1")[2]) == tuple(
        "ROOT( S( XX XX ) X( XX XX ) )".split()
    )


@given(nested)
def test_constituents_are_all_subtrees_with_their_words(tree):
    longest = len(leaves(tree)) // 2
    found = brackets.constituents(tuple(leaves(tree)), flat(tree), longest)
    every = [(one[0], tuple(leaves(one)), flat(one)) for one, _ in subtrees(tree)]
    assert collections.Counter(found) == collections.Counter(
        e for e in every if len(e[1]) <= longest
    )


@given(nested)
def test_every_word_of_a_sentence_is_in_its_tree_and_every_bracket_over_words(tree):
    """Of a tree whose words get tags; nodes without words become words."""

    def tagged(tree):
        if isinstance(tree, str) or not tree[1]:
            return ("T", ["w"])
        return (tree[0], [tagged(child) for child in tree[1]])

    tree = ("ROOT", [("S", [tagged(tree), ("T", ["w"])])])
    found, tags, bare = brackets.without_tags(flat(tree))
    assert len(found) == len(tags) == [node.label for node in bare].count("XX") == len(leaves(tree))
    lost = brackets.spans(flat(tree), {"w"}) - brackets.spans(bare, {"XX"})
    labels = collections.Counter(label for label, _, _ in lost.elements())
    assert labels == {"T": len(tags), "ROOT": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("(S (NP (NN cat))", "the end comes with 1 brackets open"),
        ("(S (NP cat sat))", "'cat' has no tag of its own"),
        ("(S (NN cat) sat)", "'sat' has no tag of its own"),
        ("(S (NP))", "'NP' has neither a word nor a child"),
        ("(NN cat)", "a word with its tag alone"),
        ("cat", "outside every bracket"),
        ("( (S ( (NN cat))))", "a bracket without a label"),
        ("(S " * 101 + "(NP (NN cat) (NN sat))" + ")" * 101, "more than 100 brackets"),
    ],
)
def test_a_line_that_is_no_tree_is_told_with_file_and_line(line, message, tmp_path):
    path = treebank(tmp_path, dev=f"{LINES}\n{line}\n")
    with pytest.raises(kit.DataError, match=rf"x-dev.ptb, line 5: .*{message}.*; expected"):
        brackets.read_treebank(path, 9, 1)


def test_a_folder_without_its_parts_is_told(tmp_path):
    path = treebank(tmp_path)
    (path / "x-dev.ptb").unlink()
    with pytest.raises(kit.DataError, match=r"0 files such as x-dev.ptb"):
        brackets.read_treebank(path, 9, 1)
    (path / "x-dev.ptb").write_text(" \n")
    with pytest.raises(kit.DataError, match=r"x-dev\.ptb is empty"):
        brackets.read_treebank(path, 9, 1)
    with pytest.raises(kit.DataError, match="no sentence of at most 2 words"):
        brackets.read_treebank(treebank(tmp_path, test=LINES.splitlines()[0]), 2, 1)
