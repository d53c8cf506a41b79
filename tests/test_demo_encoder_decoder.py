"""Encoder and decoder: the pairs, the model, the scores, the demo, its exercise."""

import ast
import io
import itertools
import json
import keyword
import re
import tokenize
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _parses
from demos import encoder_decoder as demo

PACKAGE = Path(tg.__file__).parent  # Python that is always there

# ---- the pairs ----


@pytest.mark.parametrize(
    ("text", "source", "target"),
    [
        ("f(x, 1) + y", "N ( N , 0 ) + N", "BinOp( Call( N N 0 ) Add N )"),
        ("a.b[-1:]", "N . N [ - 0 : ]", "Subscript( Attribute( N N ) Slice( UnaryOp( USub 0 ) ) )"),
        ("not x or 'y' in z", 'not N or " in N', 'BoolOp( Or UnaryOp( Not N ) Compare( " In N ) )'),
        ("f(*a, k=None)", "N ( * N , N = None )", "Call( N Starred( N ) keyword( N None ) )"),
        ("0x1f ** 1e-5 // .5j", "0 ** 0 // 0", "BinOp( BinOp( 0 Pow 0 ) FloorDiv 0 )"),
        ("rb'a\\'' Rb\"b\"", '" "', '"'),
        ("x[...] if True else {}", "N [ ... ] if True else { }", None),
    ],
)
def test_an_expression_is_a_pair_of_token_sequences(text, source, target):
    found = _parses.tokens(text)
    assert " ".join(found) == source
    if target is not None:
        assert " ".join(_parses.target_of(found)) == target
        assert _parses.linearised(ast.parse(text, mode="eval").body) == _parses.target_of(found)


def standard_tokens(text):
    """The tokens by Python's own tokenizer."""
    for token in tokenize.generate_tokens(io.StringIO(f"({text})").readline):
        kind = tokenize.tok_name[token.type]
        if kind == "NAME" and not keyword.iskeyword(token.string):
            yield "N"
        elif kind in ("NAME", "OP", "NUMBER", "STRING"):
            yield {"NUMBER": "0", "STRING": '"'}.get(kind, token.string)


def test_the_tokens_and_the_trees_are_pythons_own_and_the_brackets_close():
    train, test = _parses.read_pairs(PACKAGE, 15)
    assert len(train) > 100 < len(test) * 10
    for pair in train + test:
        if '"""' in pair.text:  # which is three strings to the demo, side by side: a tree as well
            continue
        assert pair.source == tuple(standard_tokens(pair.text))[1:-1]
        assert pair.target == _parses.linearised(ast.parse(f"({pair.text})", mode="eval").body)
        opened = np.cumsum([word.endswith("(") - (word == ")") for word in pair.target])
        assert opened[-1] == 0 and (opened[:-1] > 0).all()
        assert len(pair.source) <= 15


def test_no_source_is_met_twice_and_no_word_for_the_first_time_in_the_test():
    train, test = _parses.read_pairs(PACKAGE, 15)
    sources = [pair.source for pair in train + test]
    assert len(sources) == len(set(sources))
    for side in (0, 1):
        known = {word for pair in train for word in pair[side]}
        assert all(known.issuperset(pair[side]) for pair in test)


def test_the_nearest_neighbour_shares_most_bigrams():
    train, test = _parses.read_pairs(PACKAGE, 8)

    def dice(a, b):
        """With loops over all pairs of bigrams that are equal, each used once."""
        a, b = ([(None, s[0]), *itertools.pairwise(s), (s[-1], None)] for s in (a, b))
        shared, left = 0, list(b)
        for one in a:
            if one in left:
                left.remove(one)
                shared += 1
        return shared / (len(a) + len(b))

    train, asked = train[:150], [pair.source for pair in (test + train)[:30]]
    for source, found in zip(asked, _parses.nearest(train, asked), strict=True):
        assert dice(found.source, source) == max(dice(pair.source, source) for pair in train)


# ---- the model ----

rows = st.lists(st.lists(st.integers(2, 5), min_size=1, max_size=6), min_size=1, max_size=5)


def translator(score, seed=0):
    tg.manual_seed(seed)
    return demo.Translator(6, 6, 5, 3, demo.SCORES[score](5, 5) if score else None)


@pytest.mark.parametrize("score", [None, *demo.SCORES])
@given(st.data())
def test_teacher_forcing_is_the_step_function_fed_the_targets_of_each_pair_alone(score, data):
    sources = data.draw(rows)
    n = len(sources)
    targets = data.draw(st.lists(st.lists(st.integers(2, 5), max_size=5), min_size=n, max_size=n))
    model = translator(score)
    x, lengths = kit.padded(sources)
    y, steps = kit.padded([[demo.END, *target] for target in targets])
    together, _, _ = model.decode(y, *model.encode(x, lengths), None, steps)
    for b, (source, target) in enumerate(zip(sources, targets, strict=True)):
        h = np.zeros((1, 5), np.float32)
        state = (*model.encode(np.array([source]), np.array([len(source)])), h, h)
        for t, token in enumerate([demo.END, *target]):
            log_probs, state = model.step(np.array([token]), state)
            expected = tg.log_softmax(together[b, t]).numpy()
            np.testing.assert_allclose(log_probs.numpy()[0], expected, atol=1e-5)


def learned(score, context_size, folder, steps=200):
    """Whether a model of this kind learns to turn short sequences round, by the demo's trainer."""
    rng = np.random.default_rng(0)
    pairs = [
        (s, s[::-1]) for s in (rng.integers(2, 6, rng.integers(1, 4)).tolist() for _ in [0] * 64)
    ]
    tg.manual_seed(0)
    attend = demo.SCORES[score](24, 24) if score else None
    model = demo.Translator(6, 6, 24, context_size, attend)
    p = kit.parser("encoder_decoder", "")
    kit.training_flags(p, epochs=steps, batch_size=64, lr=2e-2)
    args = p.parse_args(["--quiet", "--out", str(folder)])
    with kit.Run(args) as run:
        losses = demo.fit(model, pairs, args, run, "training")
    written = demo.translations(model, [source for source, _ in pairs], beam=2, steps=5)
    shares = demo.by_length(demo.exact, written, pairs, [(1, 3)])
    return losses[-1] < losses[0] / 10 and shares[-1] > 0.9


@pytest.mark.parametrize(("score", "size"), [(None, 16), ("dot", 1), ("additive", 1)])
def test_it_learns(score, size, tmp_path):
    assert learned(score, size, tmp_path)


# ---- the scores ----


@given(rows)
def test_bands_cut_all_lengths(sources):
    pairs = [(source, source) for source in sources]
    bands = demo.bands_of(pairs)
    inside = [sum(low <= len(source) <= high for low, high in bands) for source in sources]
    assert inside == [1] * len(sources)
    assert demo.by_length(demo.exact, sources, pairs, bands) == [1.0] * (len(bands) + 1)


@pytest.mark.parametrize(
    ("written", "target", "share"),
    [([2, 3], [2, 3], 1), ([], [2], 0), ([2], [2, 3], 0.5), ([2, 3, 4, 5], [2, 4], 0.25)],
)
def test_token_share(written, target, share):
    assert demo.token_share(written, target) == share


# ---- the run ----


def test_a_quick_run_tells_all_models_by_length_and_draws_what_attention_read(tmp_path, capsys):
    flags = ["--quick", "--data", str(PACKAGE), "--context", "4", "2", "--out", str(tmp_path)]
    assert demo.main(flags) == 0
    out = capsys.readouterr().out
    for name in ("nearest neighbour", "fixed, C of 2", "fixed, C of 4", "attention, C of 2"):
        assert f"  {name} " in out
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line.get("title") for line in metrics} >= {"exact match", "tokens right"}
    for name in ("attention.png", "exact_match.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    head, *lines = (tmp_path / "attention.csv").read_text().splitlines()
    table = np.array([line.rsplit(",", head.count(","))[1:] for line in lines], float)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("content", [None, "", "x = (", "x = 1\n", "no " * 9999])
def test_data_that_cannot_be_used_gets_one_line(content, tmp_path, capsys):
    folder = tmp_path / "data"
    if content is not None:
        folder.mkdir()
        (folder / "a.py").write_text(content)
    flags = ["--quick", "--quiet", "--data", str(folder), "--out", str(tmp_path / "out")]
    assert demo.main(flags) == 1
    *skipped, error = capsys.readouterr().err.splitlines()
    assert all(re.fullmatch("skipped .*a[.]py: .+", line) for line in skipped)
    assert error.startswith(f"error: {folder}: ")
    assert ("no Python sources" in error) == (content is None)


@pytest.mark.parametrize("flags", [["--context", "0"], ["--score", "cosine"], ["--beam", "-1"]])
def test_wrong_flags_are_refused(flags):
    with pytest.raises(SystemExit):
        demo.main(flags)


def test_divergence_is_an_exit_code(tmp_path, capsys):
    flags = ["--quick", "--quiet", "--data", str(PACKAGE), "--lr", "1e30", "--out", str(tmp_path)]
    with np.errstate(all="ignore"):
        assert demo.main(flags) == 1
    assert "error: " in capsys.readouterr().err


def test_a_claim_that_is_not_seen_is_an_exit_code(tmp_path, capsys, monkeypatch):
    """Scores in which attention is no better, in the place of a run."""
    pair = ([2, 3], [4, 5])
    names = ["nearest neighbour", "fixed, C of 2", "fixed, C of 4", "attention, C of 2"]

    def claimed(demo_args, run):
        return demo.report({name: [[4, 5]] for name in names}, [pair], demo_args, run)

    monkeypatch.setattr(demo, "demo", claimed)
    assert demo.main(["--context", "2", "4", "--no-plot", "--out", str(tmp_path)]) == 1
    assert "NOT SEEN: in this budget no fixed C" in capsys.readouterr().out


# ---- the exercise ----


def reference(x, lengths):
    """Place s of a row of length n gets what stood at n - 1 - s."""
    s = np.arange(x.shape[1])
    n = lengths[:, None]
    return np.take_along_axis(x, np.where(s < n, n - 1 - s, s), axis=1)


turned = getattr(demo, "turned", reference)  # the learner's, once it is there


@given(rows)
def test_turned_reverses_each_row_and_leaves_the_padding(sources):
    x, lengths = kit.padded(sources)
    found = turned(x, lengths)
    expected, _ = kit.padded([source[::-1] for source in sources])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(turned(found, lengths), x)
    np.testing.assert_array_equal(x, kit.padded(sources)[0])  # the argument is left as it was
