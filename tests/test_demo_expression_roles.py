"""A recursive net over syntax trees: its recursion, its bag, its exercise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from demos import expression_roles as demo
from demos._trees import REDUCE, Tree, branching, structure_of, words_of
from tests.runs import goes_on


@st.composite
def trees(draw):
    """A postfix list over the numbers of words."""
    words = draw(st.lists(st.integers(0, 8), min_size=1, max_size=12))
    return branching(words, "random", np.random.default_rng(draw(st.integers(0, 99))))


def run(tmp_path, *flags):
    return demo.main(["--quick", "--quiet", "--no-plot", "--out", str(tmp_path), *flags])


@given(st.lists(trees(), min_size=1, max_size=4))
def test_plain_recursion_is_a_fold_over_the_structure(some):
    tg.manual_seed(1)
    net = demo.RecursiveNet(9, 3, 5, dropout=0.0)
    cell = {0: lambda x: x, 2: lambda _, a, b: tg.tanh(a @ net.U + b @ net.W + net.b)}
    forest = tg.Structure.join(map(structure_of, some))
    ids = np.array([word for tree in some for word in words_of(tree)])
    h = tg.fold(cell, forest, {0: net.V.array[ids]})[forest.roots]
    np.testing.assert_allclose(net(some).array, net.readout(h).array, atol=1e-5)


def test_the_bag_does_not_see_the_order_of_the_words():
    bag = demo.Bag(4, 2)
    one, other = [1, 2, REDUCE, 2, REDUCE], [2, 2, 1, REDUCE, REDUCE]
    np.testing.assert_array_equal(*bag([one, other]).array)
    assert not np.array_equal(*bag([one, [1, 1, REDUCE, 2, REDUCE]]).array)


def test_words_count_once_a_tree_and_the_rare_ones_are_one():
    trees = [Tree(["A"], items, "") for items in (["x", "x", REDUCE, "y", REDUCE], ["y"])]
    words = demo.vocabulary(trees, least=2)
    assert words.words == ["<unknown>", "y"]
    x, y = demo.encoded(trees, words.ids, ["A"])
    assert x == [[0, 0, REDUCE, 1, REDUCE], [1]] and y.tolist() == [0, 0]


def test_a_table_says_the_commonest_role_of_its_key():
    train = [Tree([role], [word], "") for role, word in ("Ax", "Ax", "Bx", "By")]
    test = [Tree([role], [word], "") for role, word in ("Ax", "Bx", "By", "Az")]
    assert demo.table_accuracy(train, test, key=lambda tree: tree.postfix[0]) == 0.5


def test_a_lone_label_is_refused(tmp_path, capsys):
    path = tmp_path / "trees.txt"
    path.write_text("(1 (0 a) (0 b))\n" * 9)
    assert run(tmp_path / "out", "--data", str(path)) == 1
    assert capsys.readouterr().err.count("expected: two labels or more")


def test_a_run_goes_on_and_begins_from_weights(tmp_path, capsys):
    path = tmp_path / "trees.txt"
    path.write_text("".join(f"({i % 2} (0 {'abc'[i % 3]}) (1 {'de'[i % 2]}))\n" for i in range(90)))
    flags = ["--data", str(path), "--batch-size", "10"]
    assert goes_on(run, tmp_path / "a", tmp_path / "b", demo.BAG_EPOCHS * 8 + 3, *flags)
    whole, _, parts = np.array_split(capsys.readouterr().out.splitlines(), [4, 4])
    assert [*whole] == [*parts]
    still = ["--init-from", str(tmp_path / "a" / "model.npz"), "--lr", "1e-30"]
    assert run(tmp_path / "c", *flags, *still) == 0
    for name, w in tg.load(tmp_path / "c" / "model.npz").items():
        np.testing.assert_array_equal(w, tg.load(tmp_path / "a" / "model.npz")[name])


# ---- the exercise ----


def reference(tree):
    """The depth of every leaf: a stack holds, of each subtree, the depths of its leaves in it."""
    stack = []
    for item in tree:
        below = stack.pop(-2) + stack.pop() if item is REDUCE else []
        stack.append([depth + 1 for depth in below] if item is REDUCE else [0])
    return stack.pop()


leaf_depths = getattr(demo, "leaf_depths", reference)  # the learner's, once it is there


@given(trees())
def test_leaf_depths_say_how_much_of_each_word_there_is_at_the_root(tree):
    tg.manual_seed(2)
    net = demo.RecursiveNet(9, 3, 5, dropout=0.0)
    net.V.array = 1e-3 * net.V.array
    net.U.array = net.W.array = 0.7 * np.eye(5, dtype=np.float32)
    net.readout.weight.array = np.eye(3, 5, dtype=np.float32)
    net.readout.bias.array = np.zeros(3, np.float32)
    words = net.V.array[words_of(tree), :3]
    expected = 0.7 ** np.array(leaf_depths(tree))[:, None] * words
    np.testing.assert_allclose(net([tree]).numpy()[0], expected.sum(axis=0), atol=1e-6)


@pytest.mark.parametrize("shape, depths", [("left", [3, 3, 2, 1]), ("right", [1, 2, 3, 3])])
def test_leaf_depths_of_a_chain(shape, depths):
    assert list(leaf_depths(branching([4, 5, 6, 7], shape))) == depths
