"""Parsing as translation: the demo, the machine that allows trees only, and the exercise."""

import argparse
import collections
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from demos import _brackets as brackets
from demos import _kit as kit
from demos import _parses
from demos import parsing as demo
from demos._tree_machine import fewest_children

PACKAGE = Path(tg.__file__).parent  # Python that is always there
KINDS = ("XX", "N")

# ---- trees to learn from, and to be asked for ----

leaves = st.sampled_from(["XX", "N", "+"]).map(lambda leaf: (leaf,))
opening = st.sampled_from(["S(", "NP(", "VP("])


def node(child):
    """Tokens of a node: the opening one, those of its children, the closing one."""
    children = st.lists(child, max_size=3).map(itertools.chain.from_iterable)
    return st.tuples(opening, children).map(lambda parts: (parts[0], *parts[1], ")"))


targets = node(st.recursive(leaves, node, max_leaves=6))
some = st.lists(targets, min_size=1, max_size=4)


def example(target, source=("a", "b")):
    return brackets.Example(tuple(source), target, brackets.words_in(target, KINDS))


def machine(trees):
    """A task whose training has these trees, and its machine."""
    task = demo.task_of(*[[example(target) for target in trees]] * 3, kinds=KINDS)
    return task, demo.Trees(task.targets, KINDS, trees)


def random_step(V, seed):
    """A step function that says anything: of the number of steps and of the token before."""
    table = np.random.default_rng(seed).normal(0, 3, (99, V, V))

    def step(tokens, state):
        return tg.log_softmax(tg.tensor(table[state % 99, tokens])), state + 1

    return step


def complete(tokens, example):
    """Whether tokens are a tree with the words of the example."""
    tree = brackets.tree_or_none(tokens)
    return tree is not None and brackets.words_in(tokens, KINDS) == example.words


# ---- the machine ----


@given(some)
def test_the_machine_allows_every_tree_that_it_was_made_of(trees):
    task, only = machine(trees)
    assert all(demo.allows(only, task, e) for e in task.train)


@given(some, st.integers(0, 99), st.sampled_from([1, 3]))
def test_what_is_written_under_the_machine_is_a_tree_whatever_the_net_says(trees, seed, beam):
    task, only = machine(trees)
    step = only.constrained(random_step(len(task.targets), seed))
    words = np.array([e.words for e in task.test])
    state = np.zeros(len(words), int), only.begin(words, task.steps)
    start = np.full(len(words), demo.END)
    found = tg.decode.beam_search(step, state, start, beam=beam, steps=task.steps, end=demo.END)
    for e, hypotheses in zip(task.test, found, strict=True):
        for one in hypotheses:
            assert one.finished
            assert complete([task.targets.words[i] for i in one.tokens], e)


@pytest.mark.parametrize(
    "trees",
    [
        ["S( XX )", "S( NP( XX ) + )"],  # + can stand for a missing child
        ["S( NP( ) XX )", "S( XX XX NP( ) )"],  # only NP( ) can
        ["S( XX XX )", "S( NP( XX ) XX )", "S( NP( N ) N )"],  # nothing can
    ],
)
@pytest.mark.parametrize("words", [(0, 0), (1, 0), (2, 0), (1, 1)])
@pytest.mark.parametrize("steps", [4, 7])
def test_the_machine_allows_just_the_trees_that_it_says(trees, words, steps):
    """Of all sequences that are short enough, by trying them all."""
    trees = [tuple(tree.split()) for tree in trees]
    task, only = machine(trees)
    vocabulary, least = task.targets.words, fewest_children(trees)

    def may_be_written(tokens):
        tree = brackets.tree_or_none(tokens)
        if tree is None or brackets.words_in(tokens, KINDS) != words:
            return False
        return all(n.children is None or n.children >= least[n.label + "("] for n in tree)

    every = itertools.chain.from_iterable(
        itertools.product(vocabulary[2:], repeat=n) for n in range(steps)
    )
    expected = {tokens for tokens in every if may_be_written(tokens)}
    if not expected:
        with pytest.raises(kit.DataError):
            only.begin(np.array([words]), steps)
        return
    begun, found, dead = only.begin(np.array([words]), steps), set(), 0
    todo = [((), only.after(np.array([demo.END]), begun))]
    while todo:
        tokens, state = todo.pop()
        allowed = np.flatnonzero(only.allowed(state)[0])
        dead += len(tokens) > 0 and len(allowed) == 0
        for i in allowed:
            if i == demo.END:
                found.add(tokens)
            else:
                todo.append(((*tokens, vocabulary[i]), only.after(np.array([i]), state)))
    assert found == expected
    assert not dead


@given(some, st.integers(0, 99))
def test_the_machine_forbids_and_changes_nothing_else(trees, seed):
    task, only = machine(trees)
    step = random_step(len(task.targets), seed)
    target = task.targets.encode(task.train[0].target)
    state = np.zeros(1, int), only.begin(np.array([task.train[0].words]), task.steps)
    own = state[1]
    for t, token in enumerate([demo.END, *target]):
        said, state = only.constrained(step)(np.array([token]), state)
        own = only.after(np.array([token]), own)
        free, _ = step(np.array([token]), np.array([t]))
        allowed = only.allowed(own)
        np.testing.assert_array_equal(said[allowed], free.numpy()[allowed])
        assert np.isneginf(said[~allowed]).all()


@given(some, st.integers(0, 99))
def test_greedy_choice_that_is_a_tree_anyhow_is_the_same_under_the_machine(trees, seed):
    """So of the greedily written, the machine can only make more exact."""
    task, only = machine(trees)
    table = np.full((99, len(task.targets), len(task.targets)), -9.0)
    target = [demo.END, *task.targets.encode(task.train[0].target), demo.END]
    for t, (token, following) in enumerate(itertools.pairwise(target)):
        table[t, token, following] = 0.0

    def step(tokens, state):
        return tg.log_softmax(tg.tensor(table[state, tokens])), state + 1

    words = np.array([task.train[0].words])
    settings = {"steps": task.steps, "end": demo.END}
    state = np.zeros(1, int), only.begin(words, task.steps)
    free = tg.decode.greedy(step, state[0], [demo.END], **settings)
    assert tg.decode.greedy(only.constrained(step), state, [demo.END], **settings) == free
    assert list(free[0].tokens) == target[1:-1]


def test_a_source_with_too_few_words_for_any_tree_is_told():
    _, only = machine([tuple("S( XX XX )".split())])
    with pytest.raises(kit.DataError, match=r"no tree .* has only the words of source 2"):
        only.begin(np.array([[2, 0], [1, 0]]), 9)


# ---- the model ----


def translator(task, seed=0, size=8):
    tg.manual_seed(seed)
    return demo.Parser(len(task.sources), len(task.targets), size, dropout=0.0)


sources = st.lists(st.sampled_from("ab"), min_size=1, max_size=5)


@given(some, st.data())
def test_teacher_forcing_is_the_step_function_fed_the_targets_of_each_alone(trees, data):
    examples = [example(target, data.draw(sources)) for target in trees]
    task = demo.task_of(examples, examples, examples, KINDS)
    model, (x, y) = translator(task), task.ids(examples)
    total, count = 0.0, 0
    for source, target in zip(x, y, strict=True):
        state = model.encode(*kit.padded([source]))
        for token, following in zip([demo.END, *target], [*target, demo.END], strict=True):
            log_probs, state = model.step(np.array([token]), state)
            total, count = total - log_probs.numpy()[0, following], count + 1
    assert model.loss(x, y).item() == pytest.approx(total / count, rel=1e-4)


@given(some, st.data())
def test_a_net_that_has_learned_nothing_writes_trees_under_the_machine(trees, data):
    examples = [example(target, data.draw(sources)) for target in trees]
    task = demo.task_of(examples, examples, examples, KINDS)
    model, only = (
        translator(task, data.draw(st.integers(0, 99))),
        demo.Trees(task.targets, KINDS, trees),
    )
    for beam in (1, 2):
        written = demo.search(model, task, examples, beam, only)
        assert all(complete(tokens, e) for tokens, e in zip(written, examples, strict=True))


def test_it_learns(tmp_path):
    """To bracket every b with all that is behind it."""
    rng = np.random.default_rng(0)
    examples = []
    for _ in range(64):
        source = tuple(rng.choice(["a", "b"], rng.integers(1, 5)).tolist())
        body = [token for letter in source for token in (["S(", "XX"] if letter == "b" else ["XX"])]
        target = ("S(", *body, *[")"] * (1 + source.count("b")))
        examples.append(example(target, source))
    task = demo.task_of(examples, examples, examples, KINDS)
    flags = {"seed": 0, "out": tmp_path, "quiet": True, "no_plot": True, "lr": 1e-2}
    args = argparse.Namespace(**flags, epochs=40, batch_size=16)
    model = translator(task, size=32)
    with kit.Run(args) as run:
        demo.fit(model, task, args, run)
    written = demo.search(model, task, examples, beam=2)
    assert brackets.scores(written, [e.target for e in examples], KINDS)["exact"] > 0.9


def test_the_best_epoch_is_told_by_the_examples_that_are_for_it(tmp_path, monkeypatch):
    train, dev, test = ([example(("S(", "XX", ")"), source)] * 4 for source in ("ab", "ba", "bb"))
    task, asked = demo.task_of(train, dev, test, KINDS), []

    def search(model, task, examples, beam):
        asked.append(examples)
        return [e.target for e in examples]

    monkeypatch.setattr(demo, "search", search)
    flags = {"seed": 0, "out": tmp_path, "quiet": True, "no_plot": True, "lr": 1e-2}
    args = argparse.Namespace(**flags, epochs=2, batch_size=4)
    with kit.Run(args) as run:
        demo.fit(translator(task), task, args, run)
    assert asked == [dev, dev]


# ---- the data ----


def test_both_sides_of_an_expression_have_the_same_words():
    train, test = _parses.read_pairs(PACKAGE, 30)
    for pair in train + test:
        found = _parses.example(pair)
        assert found.words == brackets.words_in(pair.target, _parses.WORDS)
        assert brackets.linearised(brackets.tree_of(pair.target)) == pair.target


def test_strings_in_a_row_are_one_word():
    source = _parses.tokens("f('a' \"b\", 'c', None, ...)[0] % ''")
    found = _parses.example(_parses.Pair(source, _parses.target_of(source), ""))
    words = collections.Counter(dict(zip(_parses.WORDS, found.words, strict=True)))
    assert +words == {"N": 1, '"': 3, "None": 1, "...": 1, "0": 1}
    assert found.words == brackets.words_in(found.target, _parses.WORDS)


def test_all_modules_are_more_than_the_selection_and_no_tests():
    found = set(_parses.all_modules())
    assert set(_parses.SELECTION) < found and found.isdisjoint({"test", "site-packages"})


@given(st.lists(st.integers(1, 9), min_size=1))
def test_bands_cut_all_depths(depths):
    bands = demo.bands_of(np.array(depths))
    assert [sum(a <= d <= b for a, b in bands) for d in depths] == [1] * len(depths)


# ---- the run ----


def run(tmp_path, *flags):
    return demo.main(["--quick", "--quiet", "--out", str(tmp_path), *map(str, flags)])


def test_a_quick_run_tells_all_searches_and_leaves_its_files(tmp_path, capsys):
    assert run(tmp_path, "--data", PACKAGE) == 0
    out = capsys.readouterr().out
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    [table] = [line["scores"] for line in metrics if "scores" in line]
    for name, row in table.items():
        assert name in out
        assert row["exact"] <= row["words"] <= row["tree"] <= 1
        assert row["words"] == 1 or not name.endswith("only")
    assert len(table) == 7
    for name in ("attention.png", "exact_by_depth.png", "loss.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    again = ["--data", PACKAGE, "--init-from", tmp_path / "model.npz"]
    assert run(tmp_path / "again", *again) == 0


SENTENCE = "(ROOT (S (NP-SBJ (DT the) (NN {})) (VP (VBD sat)) (. .)))\n"


def test_a_treebank_is_read_and_parsed(tmp_path, capsys):
    for part in ("train", "dev", "test"):
        text = "".join(SENTENCE.format(word) for word in ("cat", "dog", part))
        (tmp_path / f"gum-{part}.ptb").write_text(text)
    assert run(tmp_path / "out", "--data", tmp_path) == 0
    out = capsys.readouterr().out
    assert "11 of 11 trees come back" in out and "3 sources, unseen" in out
    assert "nearest" not in out


@pytest.mark.parametrize("content", [None, "", "(S (NN cat)", "(S (NP cat sat))", "\xff"])
def test_data_that_cannot_be_used_gets_one_line(content, tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    if content is not None:
        for part in ("train", "dev", "test"):
            (folder / f"x-{part}.ptb").write_text(content, encoding="latin-1")
    assert run(tmp_path / "out", "--data", folder) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("flags", [["--hidden-size", "3"], ["--beam", "0"], ["--rare", "x"]])
def test_wrong_flags_are_refused(flags, tmp_path):
    with pytest.raises(SystemExit) as refused:
        run(tmp_path, *flags)
    assert refused.value.code == 2


def test_claims_compare_what_they_say():
    names = ["untrained", "greedy", "beam of 5"]
    table = {name: {"words": 0.5, "exact": 0.6, "F1": 0.8} for name in [demo.NEIGHBOUR, *names]}
    table[demo.NEIGHBOUR] = {"words": 0.2, "exact": 0.1, "F1": 0.5}
    only = {f"{name}, {demo.ONLY}": {"words": 1.0, "exact": 0.7, "F1": 0.9} for name in names}
    order = [demo.NEIGHBOUR, *[both for name in names for both in (name, f"{name}, {demo.ONLY}")]]
    table = {name: (table | only)[name] for name in order}
    assert list(demo.claims(table, {"greedy": [0.9, 0.1]}, True).values()) == [True] * 5
    table[order[2]]["words"], table[order[-1]]["exact"], table["greedy"]["F1"] = 0.9, 0.6, 0.5
    assert list(demo.claims(table, {"greedy": [0.1, 0.1]}, False).values()) == [False] * 5


def test_a_claim_that_is_not_seen_fails(tmp_path, capsys, monkeypatch):
    """Of a net that cannot learn in one epoch at this rate."""
    flags = ["--data", str(PACKAGE), "--longest", "7", "--test", "40", "--epochs", "1"]
    flags += ["--lr", "1e-9", "--hidden-size", "8", "--no-plot", "--quiet", "--out", str(tmp_path)]
    assert demo.main(flags) == 1
    out = capsys.readouterr().out
    assert "NOT SEEN: the net passes the nearest neighbour" in out
    assert "seen: every tree comes back from its string" in out


# ---- the exercise ----


def reference(tokens, words):
    """What is written, made a tree with so many words."""
    found, unclosed = [], 0
    for token in tokens:
        if not unclosed and (found or not token.endswith("(")):
            continue  # outside the root
        found.append(token)
        unclosed += token.endswith("(") - (token == ")")
    found += [")"] * unclosed
    while found.count("XX") < words:
        found.insert(len(found) - 1, "XX")
    while found.count("XX") > words:
        del found[len(found) - 1 - found[::-1].index("XX")]
    return tuple(found)


repaired = getattr(demo, "repaired", reference)  # the learner's, once it is there
CASES = [
    ("S( XX )", 1, "S( XX )"),
    ("S( NP( XX", 1, "S( NP( XX ) )"),
    (") XX S( XX ) ) XX", 1, "S( XX )"),
    ("S( NP( XX ) )", 3, "S( NP( XX ) XX XX )"),
    ("S( XX NP( XX XX ) )", 1, "S( XX NP( ) )"),
    ("S( VP(", 2, "S( VP( ) XX XX )"),
]


@pytest.mark.parametrize(("tokens", "words", "expected"), CASES)
def test_repaired_on_cases(tokens, words, expected):
    assert " ".join(repaired(tuple(tokens.split()), words)) == expected


@given(st.lists(st.sampled_from(["S(", "NP(", "XX", ")"]), max_size=12), st.integers(0, 6))
def test_repaired_is_a_tree_with_so_many_words(tokens, words):
    tokens = ["S(", *tokens]
    tree = brackets.tree_of(repaired(tuple(tokens), words))
    assert [node.label for node in tree].count("XX") == words
    assert repaired(brackets.linearised(tree), words) == brackets.linearised(tree)
