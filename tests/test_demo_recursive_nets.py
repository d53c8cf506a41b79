"""Recursive nets: the demo, trees right and wrong, their pictures, the exercise."""

import argparse
import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from demos import _forests, _trees
from demos import _kit as kit
from demos import _tree_pictures as pictures
from demos import recursive_nets as demo
from demos._trees import REDUCE
from tests.runs import goes_on

PACKAGE = Path(tg.__file__).parent  # Python that is always there
WORDS = st.text("abcdefghij'\u00a0-", min_size=1, max_size=8)
LABELS = st.sampled_from("01234")
LABELLED = st.recursive(st.tuples(LABELS, WORDS), lambda t: st.tuples(LABELS, t, t), max_leaves=12)
FIGURES = {"roots", "all nodes", "binary roots", "binary nodes"}


def text_of(tree):
    label, *below = tree
    parts = [part if isinstance(part, str) else text_of(part) for part in below]
    return f"({label} {' '.join(parts)})"


def nodes_of(tree, first=0):
    """Of every node, children before parents: label, item, first and last word, by recursion."""
    label, *below = tree
    if isinstance(below[0], str):
        return [(label, below[0], first, first)]
    left = nodes_of(below[0], first)
    right = nodes_of(below[1], left[-1][3] + 1)
    return [*left, *right, (label, REDUCE, first, right[-1][3])]


def nested(items):
    """A postfix list as nested tuples."""
    stack = []
    for item in items:
        stack.append((stack.pop(-2), stack.pop()) if item is REDUCE else item)
    return stack.pop()


def one_tree(tree):
    return _trees.bracketed(text_of(tree), "here")[0]


def sentences(n, seed):
    """Trees that branch to the right, whose first word that is not 2 says what they are."""
    rng, lines = np.random.default_rng(seed), []
    words = {"fine": "4", "good": "3", "w": "2", "v": "2", "bad": "1", "awful": "0"}
    for _ in range(n):
        tree = ("2", "w")
        for word in map(str, rng.choice(list(words), rng.integers(2, 9))):
            own = words[word]
            tree = (own if own != "2" else tree[0], (own, word), tree)
        lines.append(text_of(tree))
    return "\n".join(lines) + "\n"


@pytest.fixture
def treebank(tmp_path):
    folder = tmp_path / "treebank"
    folder.mkdir()
    for seed, part in enumerate(_forests.PARTS):
        (folder / f"{part}.txt").write_text(sentences(60, seed), encoding="utf-8")
    return folder


def run(tmp_path, *flags):
    return demo.main(["--quick", "--quiet", "--out", str(tmp_path / "out"), *map(str, flags)])


# ---- the demo ----


def test_a_quick_run_on_a_treebank_leaves_its_files(treebank, tmp_path, capsys):
    assert run(tmp_path, "--data", treebank, "--test") == 0
    lines = (tmp_path / "out/metrics.jsonl").read_text().splitlines()
    scores = [line for line in map(json.loads, lines) if "right" in line]
    learned = {(s["cell"], s["learned"], s["part"], s["given"]) for s in scores}
    gold = itertools.product(demo.CELLS, ["gold"], ["dev", "test"], demo.SHAPES)
    left = itertools.product(demo.CELLS, ["left"], ["dev", "test"], ["left"])
    assert learned == {*gold, *left}
    assert all(s["right"].keys() == FIGURES for s in scores)
    for name in ("tree", *(f"roots_by_length_{cell}" for cell in demo.CELLS)):
        assert (tmp_path / f"out/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len((tmp_path / f"out/{name}.csv").read_text().splitlines()) > demo.LENGTHS
    saved = tg.load(tmp_path / "out/RecNN_left.npz")
    assert saved["cell.U"].shape == (8, 8) and len(saved["words"]) == 7
    assert sorted(saved.metadata["vocabulary"]["words"]) == [
        "<unknown>",
        "awful",
        "bad",
        "fine",
        "good",
        "v",
        "w",
    ]
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(scores)


def test_a_quick_run_on_programs_has_labels_at_roots_alone(tmp_path, capsys):
    assert run(tmp_path, "--data", PACKAGE, "--cells", "Tree-LSTM") == 0
    out = capsys.readouterr().out
    assert out.count(" roots ") == 5 and "nodes" not in out
    assert (tmp_path / "out/tree.png").read_bytes().startswith(b"\x89PNG")


def test_without_being_asked_nothing_is_said_of_the_test_trees(treebank, tmp_path, capsys):
    assert run(tmp_path, "--data", treebank, "--cells", "RecNN", "--no-plot") == 0
    assert " test " not in capsys.readouterr().out


def test_a_net_learns_what_is_easy_and_claims_what_was_seen(treebank, tmp_path, capsys):
    flags = ["--quiet", "--no-plot", "--data", treebank, "--out", tmp_path / "out"]
    flags += ["--cells", "RecNN", "--trees", "gold", "--epochs", "30", "--lr", "0.02"]
    code = demo.main([*map(str, flags), "--dropout", "0", "--hidden-size", "12"])
    out = capsys.readouterr().out
    assert "seen: a recurrent net is a recursive net" in out
    lines = (tmp_path / "out/metrics.jsonl").read_text().splitlines()
    right = {s["given"]: s["right"]["roots"] for s in map(json.loads, lines) if "right" in s}
    assert right["gold"] > 0.9
    assert (code == 0) == (right["gold"] > max(right[shape] for shape in demo.SHAPES[1:]))


def test_with_shared_labels_nothing_is_claimed_of_shapes(treebank, tmp_path, capsys):
    flags = ["--quiet", "--no-plot", "--data", treebank, "--out", tmp_path / "out"]
    flags += ["--cells", "RecNN", "--labels", "shared", "--epochs", "1", "--hidden-size", "4"]
    assert demo.main([*map(str, flags)]) == 0
    out = capsys.readouterr().out
    assert out.count("seen: ") == 1 and "NOT SEEN" not in out


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "No such file"),
        (b"", "empty"),
        (b"(1 \xff)", "UTF-8"),
        (b"(1 a", "ends inside"),
        (b"(1 a) b", "outside"),
        (b"(1 ())", "without a word"),
        (b"(1 a)\n" * 30, "expected: some in each part, and two labels"),
    ],
)
def test_trees_that_cannot_be_used_get_one_line(content, said, tmp_path, capsys):
    path = tmp_path / "trees.txt"
    if content is not None:
        path.write_bytes(content)
    assert run(tmp_path, "--data", path) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and said in err and err.count("\n") == 1


# ---- trees ----


@given(st.lists(LABELLED, min_size=1, max_size=4))
def test_bracketed_trees_are_read_with_the_labels_of_all_nodes(trees):
    found = _trees.bracketed("\n".join(map(text_of, trees)), "here")
    assert len(found) == len(trees)
    for tree, one in zip(trees, found, strict=True):
        labels, items, first, last = zip(*nodes_of(tree), strict=True)
        assert one.labels == list(labels) and one.postfix == list(items)
        assert _trees.spans_of(one.postfix) == list(zip(first, last, strict=True))
        assert one.label == tree[0]


def test_a_node_above_one_other_is_one_with_it_and_three_children_are_two_nodes():
    (tree,) = _trees.bracketed("(a (b (c x)) (d y) (e z))", "here")
    assert tree.postfix == ["x", "y", REDUCE, "z", REDUCE]
    assert tree.labels == ["b", "d", None, "e", "a"]


@given(LABELLED)
def test_the_structure_of_a_tree_is_that_of_nested_tuples(tree):
    items = one_tree(tree).postfix
    ours, theirs = _trees.structure_of(items), tg.Structure.trees([nested(items)])
    for name in ("counts", "children", "heights"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


@given(LABELLED, st.sampled_from(demo.SHAPES), st.integers(0, 5))
def test_a_wrong_tree_has_the_words_and_the_labels_of_phrases_that_it_shares(tree, shape, seed):
    right = one_tree(tree)
    wrong = _trees.reshaped(right, shape, np.random.default_rng(seed))
    assert _trees.words_of(wrong.postfix) == _trees.words_of(right.postfix)
    assert len(wrong.postfix) == len(right.postfix) and wrong.label == right.label
    phrases = dict(zip(_trees.spans_of(right.postfix), right.labels, strict=True))
    spans = _trees.spans_of(wrong.postfix)
    assert wrong.labels == [phrases.get(span) for span in spans]
    last = len(_trees.words_of(right.postfix)) - 1
    inner = [span for span, item in zip(spans, wrong.postfix, strict=True) if item is REDUCE]
    if shape == "left":
        assert inner == [(0, i) for i in range(1, last + 1)]
    elif shape == "right":
        assert inner == [(i, last) for i in reversed(range(last))]
    elif shape == "gold":
        assert wrong == right


def test_random_trees_are_not_all_alike():
    rng = np.random.default_rng(0)
    found = {str(nested(_trees.branching("abcd", "random", rng))) for _ in range(100)}
    assert len(found) == 5  # all binary trees over four words


def test_four_in_five_sources_are_to_train_on():
    trees = [_trees.Tree(["1"], ["a"], f"file {i % 20}") for i in range(100)]
    train, test = _trees.split(trees)
    assert len(train) == 80 and len(test) == 20
    assert not {tree.source for tree in train} & {tree.source for tree in test}


# ---- what the nets read, and how they are scored ----


def test_shared_labels_are_those_of_words_and_roots():
    (tree,) = _trees.bracketed("(4 (3 (2 a) (1 b)) (0 c))", "here")
    every, shared = (_forests.Reader.of([tree], only).read(tree).labels for only in (False, True))
    assert every.tolist() == [2, 1, 3, 0, 4] and shared.tolist() == [2, 1, -1, 0, 4]


def test_an_unknown_word_is_known_by_its_pieces():
    reader = _forests.Reader.of(_trees.bracketed("(1 (1 playing) (0 played)) (0 (0 b) (1 b))", "x"))
    forest = reader.read(_trees.bracketed("(1 (1 Playful) (7 b))", "x")[0])
    assert forest.words[0] == 0 != forest.words[1]
    assert reader.pieces.words[forest.pieces[0, 0]] == "^play" and forest.pieces[0, 2] == 0
    assert forest.labels.tolist() == [1, 2, 1]  # 7 is neither "0" nor "1"


@pytest.mark.parametrize("cell", demo.CELLS)
def test_what_a_net_says_of_trees_does_not_depend_on_those_beside_them(cell):
    trees = _trees.bracketed(sentences(9, seed=3), "here")
    reader = _forests.Reader.of(trees)
    net = demo.RecursiveNet(len(reader.words), len(reader.pieces), 5, cell, 6, 0.4)
    net.eval()
    alone = [net(reader.read(tree)).array for tree in trees]
    together = net(_forests.joined([reader.read(tree) for tree in trees])).array
    np.testing.assert_allclose(np.concatenate(alone), together, atol=1e-5)
    p, labels, roots = _forests.predictions(net, [reader.read(tree) for tree in trees])
    np.testing.assert_allclose(p, tg.softmax(together), atol=1e-5)
    assert roots.sum() == 9 and len(labels) == len(p)


def test_scores_by_hand():
    p = np.array([[4, 0, 3, 2, 1], [0, 4, 0, 3, 2], [0, 0, 9, 1, 0], [1, 2, 3, 4, 0.0]]) / 10
    labels, roots = np.array([4, 1, 2, _forests.NO_LABEL]), np.array([True, True, True, False])
    shares = _forests.shares_right(p, labels, roots, sentiment=True)
    assert shares["roots"] == pytest.approx(2 / 3) and "all nodes" not in shares
    # 4 against 3: negative, and wrong; 4 against 5: positive, and wrong though 1 was likeliest
    assert shares["binary roots"] == shares["binary nodes"] == 0.0
    roots[0] = False  # a node that is no root
    assert _forests.shares_right(p, labels, roots) == {"roots": 1.0, "all nodes": 2 / 3}


def test_saved_nets_are_tested_and_averaged(treebank, tmp_path, capsys):
    flags = ["--data", treebank, "--cells", "RecNN", "--no-plot"]
    models = []
    for seed in (0, 1):
        assert run(tmp_path / str(seed), *flags, "--seed", seed) == 0
        models.append(tmp_path / str(seed) / "out/RecNN_gold.npz")
    before = [
        x for x in capsys.readouterr().out.splitlines() if "learned gold   dev given gold" in x
    ]
    assert run(tmp_path, *flags, "--models", *models) == 0
    *alone, mean = capsys.readouterr().out.splitlines()[1:]
    assert len(alone) == 2 and mean.startswith("mean of p")
    assert alone == before
    assert run(tmp_path, *flags, "--models", models[0], models[0]) == 0
    one, _, mean = capsys.readouterr().out.splitlines()[1:]
    assert mean.split()[3:] == one.split()[1:]


def test_a_run_goes_on_and_begins_from_weights(treebank, tmp_path, capsys):
    flags = ["--data", treebank, "--cells", "RecNN", "--no-plot"]

    def run_in(folder, *flags):
        return run(folder.parent, *flags)

    assert goes_on(run_in, tmp_path / "a/out", tmp_path / "b/out", 3, *flags)
    lines = capsys.readouterr().out.splitlines()
    first, parts = lines[: lines.index(lines[0], 1)], lines[lines.index(lines[0], 1) :]
    assert parts[-len(first) :] == first
    net = tmp_path / "a/out/RecNN_gold.npz"
    flags += ["--trees", "gold", "--init-from", net, "--lr", 1e-30]
    assert run(tmp_path / "c", *flags) == 0
    for name, w in tg.load(tmp_path / "c/out/RecNN_gold.npz").items():
        np.testing.assert_array_equal(w, tg.load(net)[name])
    with pytest.raises(SystemExit):
        run(tmp_path / "c", "--init-from", net)


def test_the_rntn_is_that_of_the_package_for_a_tenth_of_t():
    ours, theirs = demo.RNTNCell(3), tg.nn.RNTNCell(3)
    ours.t.array = demo.noise(1.0, *ours.t.shape).astype(np.float32)  # so that it matters
    state = ours.state_dict()
    theirs.load_state_dict({"T": state.pop("t") / 10, **state})
    left, right = demo.noise(1.0, 2, 5, 3).astype(np.float32)
    found, expected = (cell(None, left, right).numpy() for cell in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("steps", [2, 3, 30])
def test_a_recurrent_net_is_a_linear_recursive_net(steps):
    assert demo.difference_from_recurrent_net(size=5, steps=steps) < 1e-12


def test_other_trees_are_no_recurrent_nets(monkeypatch):
    monkeypatch.setattr(demo, "branching", lambda words, _: _trees.branching(words, "right"))
    assert demo.difference_from_recurrent_net(size=5, steps=4) > 1e-3


# ---- the picture ----


@given(LABELLED)
def test_the_edges_of_a_picture_do_not_cross(tree):
    items = one_tree(tree).postfix
    x, depth = pictures.places_of(items)
    edges = pictures.edges_of(items)
    assert depth[-1] == 0 and (depth[edges[:, 1]] == depth[edges[:, 0]] + 1).all()
    for level in range(depth.max()):
        between = edges[depth[edges[:, 0]] == level]
        left_to_right = between[np.argsort(x[between[:, 1]])]
        assert (np.diff(x[left_to_right[:, 1]]) > 0).all()
        assert (np.diff(x[left_to_right[:, 0]]) >= 0).all()


def test_the_gradient_in_the_picture_is_that_of_the_roots_loss(treebank, tmp_path):
    flags = ["--data", treebank, "--cells", "RecNN", "--no-plot"]
    assert run(tmp_path, *flags) == 0
    with (tmp_path / "out/tree.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    trees = _forests.read_parts(treebank, 200, np.random.default_rng(0))
    reader = _forests.Reader.of(trees["train"])
    net = demo.RecursiveNet(len(reader.words), len(reader.pieces), 5, "RecNN", 8, 0.4)
    net.load_state_dict(tg.load(tmp_path / "out/RecNN_gold.npz"))
    net.eval()
    phrase = rows[-1]["phrase"]
    tree = next(t for t in trees["dev"] if " ".join(_trees.words_of(t.postfix)) == phrase)
    assert [row["label"] for row in rows] == tree.labels
    forest = reader.read(tree)
    error = tg.softmax(net(forest)).array[-1] - np.eye(5)[forest.labels[-1]]
    norm = np.linalg.norm(error @ net.S.weight.array)
    assert float(rows[-1]["|dL/dh|"]) == pytest.approx(norm, rel=1e-4)
    assert max(float(row["told"]) for row in rows) <= 4


# ---- the exercise ----


def reference(words):
    """The postfix list of the tree that splits every phrase in the middle."""
    if len(words) == 1:
        return list(words)
    half = (len(words) + 1) // 2
    return [*reference(words[:half]), *reference(words[half:]), REDUCE]


balanced = getattr(demo, "balanced", reference)  # the learner's, once it is there


@given(st.lists(st.text("abc", min_size=1), min_size=1, max_size=40))
def test_balanced_trees_are_as_low_as_can_be(words):
    items = balanced(words)
    assert _trees.words_of(items) == words
    assert _trees.structure_of(items).heights[-1] == int(np.ceil(np.log2(len(words))))
    for word in words[1:]:
        assert word is not REDUCE


def test_balanced_gives_the_odd_word_to_the_left():
    assert nested(balanced(["a", "b", "c", "d", "e"])) == ((("a", "b"), "c"), ("d", "e"))


@pytest.mark.parametrize("name", ["words", "pieces"])
def test_a_saved_net_has_a_number_for_what_is_unknown(name, tmp_path):
    """Or the first tree with other words would be an error that names no file."""
    net = demo.RecursiveNet(2, 2, 2, "RecNN", 4, 0.0)
    known = {"words": [kit.UNKNOWN, "a"], "pieces": [kit.UNKNOWN, "^a"], "labels": ["0", "1"]}
    args = argparse.Namespace(cells=["RecNN"], dropout=0.0)
    tg.save(tmp_path / "net.npz", net.state_dict(), {"vocabulary": known})
    demo.saved_net(tmp_path / "net.npz", args)
    known[name] = ["b", "c"]
    tg.save(tmp_path / "net.npz", net.state_dict(), {"vocabulary": known})
    with pytest.raises(kit.DataError, match=r"net\.npz is no net"):
        demo.saved_net(tmp_path / "net.npz", args)
