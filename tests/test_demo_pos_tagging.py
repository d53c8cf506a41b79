"""Part-of-speech tagging on real data: the demo, its data, its nets, its exercise."""

import argparse
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from demos import _tagging
from demos import pos_tagging as demo

ARGS = argparse.Namespace(hidden_size=8, dropout=0.5)
SENTENCES = [
    "the/DET comedian/NOUN was/AUX entertaining/VERB the/DET audience/NOUN",
    "The/DET comedian/NOUN was/AUX entertaining/ADJ and/CCONJ informative/ADJ",
    "Yes/INTJ",
    "McCoy/PROPN was/AUX 42/NUM",
]


def lines(sentences=SENTENCES, source="x"):
    pairs = [[pair.split("/") for pair in sentence.split()] for sentence in sentences]
    return [_tagging.Line(*map(tuple, zip(*line, strict=True)), source) for line in pairs]


def conllu(lines):
    """The lines as an official file has them: with comments, a range and an empty node each."""
    text = ""
    for line in lines:
        text += f"# text = {' '.join(line.words)}\n1-{len(line.words)}\tx" + "\t_" * 8 + "\n"
        for i, (word, tag) in enumerate(zip(line.words, line.tags, strict=True), 1):
            text += f"{i}\t{word}\t{word.lower()}\t{tag}" + "\t_" * 6 + "\n"
        text += f"{len(line.words)}.1\tis\tbe\tAUX" + "\t_" * 6 + "\n\n"
    return text


def treebank(folder, repeat=10):
    for part, copies in {"train": repeat, "dev": 1, "test": 2}.items():
        text = conllu(lines()) * copies
        (folder / f"xx_yy-ud-{part}.conllu").write_text(text, encoding="utf-8")
    return folder


def run(out, *flags):
    return demo.main(["--quick", "--quiet", "--out", str(out), *map(str, flags)])


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


# ---- the demo ----


def test_a_quick_run_leaves_its_files(tmp_path, capsys):
    assert run(tmp_path) == 0
    table = capsys.readouterr().out
    shares = {x["reader"]: x["accuracy"]["all"] for x in metrics(tmp_path) if "reader" in x}
    beams = [f"conditioned, beam {beam}" for beam in demo.BEAMS]
    assert set(shares) == {*demo.DEFAULT, *beams}
    assert all(name in table and 0 < share < 1 for name, share in shares.items())
    assert (tmp_path / "conditioned_beam.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "conditioned_beam.csv").read_text().splitlines()) == 2 + len(demo.BEAMS)


def test_official_files_are_learned_by_heart(tmp_path):
    flags = ["--lr", 0.05, "--epochs", 20, "--readers", "both+crf+characters", "--dropout", 0]
    assert run(tmp_path / "out", "--data", treebank(tmp_path), *flags) == 0
    (found,) = (x for x in metrics(tmp_path / "out") if "reader" in x)
    assert found["accuracy"]["all"] == 1.0 and found["accuracy"]["ambiguous"] == 1.0


def test_what_is_printed_of_dev_is_what_training_saw_there(tmp_path):
    flags = ["--data", treebank(tmp_path, 3), "--readers", "forward", "--on", "dev", "--epochs", 4]
    assert run(tmp_path / "out", *flags) == 0
    seen = metrics(tmp_path / "out")
    best = max(x["validation"] for x in seen if "validation" in x)
    (found,) = (x["accuracy"] for x in seen if "reader" in x)
    assert found["all"] == best


def test_a_run_goes_on_and_begins_from_weights(tmp_path):
    flags = ["--data", treebank(tmp_path, 2), "--readers", "both", "--no-plot"]
    assert run(tmp_path / "a", *flags) == 0
    first = tg.load(tmp_path / "a" / "both.npz")
    assert run(tmp_path / "a", *flags, "--resume") == 0
    again = tg.load(tmp_path / "a" / "both.npz")
    for name, w in first.items():
        np.testing.assert_array_equal(w, again[name])
    still = ["--init-from", tmp_path / "a" / "both.npz", "--lr", 1e-30, "--epochs", 1]
    assert run(tmp_path / "b", *flags, *still) == 0
    for name, w in tg.load(tmp_path / "b" / "both.npz").items():
        np.testing.assert_array_equal(w, first[name])


@pytest.mark.parametrize(
    "files, said",
    [
        ({}, "no tagged words"),
        ({"x-train.conllu": conllu(lines()), "x-test.conllu": conllu(lines())}, "'dev'"),
        ({"a.conllu": conllu(lines(["a/X b/X", "c/X", "d/X"]))}, "no tags but 'X'"),
        ({"a.conllu": "1\tI\ti\tPRON\n"}, "a.conllu, line 1: 4 columns, not 10"),
        ({"a.conllu": conllu(lines()).replace("\n\n", "\n")}, "word '1' where 7 comes next"),
        ({"a.conllu": conllu(lines()).replace("6.1", "6.b")}, "'6.b' is no id of a word"),
    ],
)
def test_data_that_cannot_be_used_gets_one_line(files, said, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for name, text in files.items():
        (tmp_path / "data" / name).write_text(text)
    assert run(tmp_path / "out", "--data", tmp_path / "data") == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and said in err


@pytest.mark.parametrize(
    "flags",
    [
        ["--readers", "sideways"],
        ["--hidden-size", "5"],
        ["--on", "train"],
        ["--init-from", "x.npz"],
        ["--dropout", "1"],
    ],
)
def test_wrong_arguments_are_refused(flags, tmp_path):
    with pytest.raises(SystemExit) as refused:
        run(tmp_path, *flags)
    assert refused.value.code == 2


# ---- the data ----

WORDS = st.text(st.characters(exclude_characters="\n\t", exclude_categories=["Cs"]), min_size=1)


@given(st.lists(st.lists(WORDS, min_size=1, max_size=4), min_size=1, max_size=4), st.booleans())
def test_conllu_is_read_as_it_was_written(sentences, carriage_returns):
    """Whatever the words: Unicode has line breaks that are none in a file, such as U+2028."""
    clean = [[word.rstrip("\r") or "x" for word in line] for line in sentences]
    written = [_tagging.Line(tuple(line), ("NOUN",) * len(line), "x") for line in clean]
    text = conllu(written)
    text = text.replace("\n", "\r\n") if carriage_returns else text
    assert _tagging.conllu(text, "x") == written


@given(st.integers(1, 60), st.integers(2, 3))
def test_every_line_is_in_one_part_and_equal_lines_in_the_same(n, parts):
    many = [_tagging.Line((f"w{i % 40}",), ("A",), f"{i % 40}.py") for i in range(n)]
    found = _tagging.split(many, ("train", "dev", "test")[:parts])
    assert sorted(itertools.chain(*found)) == sorted(many) and len(found) == parts
    for one, other in itertools.combinations(found, 2):
        assert not {line.source for line in one} & {line.source for line in other}
    if n >= 40:
        assert [len({line.source for line in part}) for part in found[1:]] == [4] * (parts - 1)


def test_what_a_net_reads_of_a_word():
    train, other = lines(), lines(["Informative/X xyz/X WAS/X"])
    forms = _tagging.Forms(train, other)
    number = {word: int(forms.numbers.ids[word]) for word in forms.numbers.words}
    assert number[""] == 0
    assert forms.word[number["the"]] == forms.word[number["The"]] != forms.word[number["was"]]
    assert forms.word[number["was"]] == forms.word[number["WAS"]] != 0
    assert forms.word[number["xyz"]] == forms.word[number["informative"]] == 0  # not seen twice
    n = {"was": 3, "the": 3, "yes": 1, "xyz": 0}
    for word, count in n.items():
        form = number.get(word, number.get(word.title()))
        assert forms.hidden[form] == pytest.approx(_tagging.HIDE / (_tagging.HIDE + count))
    again = _tagging.Forms(train[::-1], other)  # so that weights fit another order of lines
    np.testing.assert_array_equal(forms.word, again.word)
    np.testing.assert_array_equal(forms.spelling, again.spelling)


def test_patterns_of_capitals():
    words = ["the", "The", "THE", "I", "McCoy", "iPod", "42", "B2B", "4th", "-", "\u00c9t\u00e9"]
    assert len({_tagging.capitals(word) for word in words[:7]}) == 7
    assert _tagging.capitals("\u00c9t\u00e9") == _tagging.capitals("The")
    assert all(0 <= _tagging.capitals(word) < 16 for word in words)


# ---- the nets ----


def built(name, seed=0):
    tg.manual_seed(seed)
    forms = _tagging.Forms(lines(), [])
    kind, how = demo.READERS[name]
    model = kind(forms, 5, ARGS, **how)
    return model.eval(), [forms.numbers.encode(line.words) for line in lines()]


def scores(model, x, y):
    """What the tags depend on, for every word of every line: logits, log p of tags `y`."""
    if isinstance(model, demo.Conditioned):
        return model.log_p(x, y).array[:, None]
    return model.logits(x).array


@pytest.mark.parametrize("name", demo.READERS)
def test_what_a_reader_knows_of_a_line(name):
    """Word s matters to tag t if s <= t + d, or always, and never in another line."""
    model, x = built(name)
    for p in model.parameters():
        p.array = p.array.astype(np.float64)
    x, y = [x[0], x[1]], [np.arange(6) % 5, np.arange(6) % 4]
    before = scores(model, x, y)
    ahead = 6 if "both" in name else int(name[8]) if "delayed" in name else 0
    for s in range(6):
        other = [x[0].copy(), x[1]]
        other[0][s] = model.forms.numbers.ids["42"]
        changed = np.abs(scores(model, other, y) - before).max(axis=1) > 1e-12
        np.testing.assert_array_equal(changed[:6], s <= np.arange(6) + ahead)
        assert not changed[6:].any()


@pytest.mark.parametrize("name", demo.READERS)
def test_lines_of_unequal_lengths_are_each_line_alone(name):
    model, x = built(name)
    y = [np.arange(len(line)) % 5 for line in x]
    alone = [scores(model, [a], [b]) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(scores(model, x, y), np.concatenate(alone), atol=1e-6)
    n = [len(line) for line in x]
    losses = [model.loss([a], [b]).item() for a, b in zip(x, y, strict=True)]
    assert model.loss(x, y).item() == pytest.approx(np.dot(losses, n) / sum(n), rel=1e-5)
    said = demo.of_lines(model, model.said, x)
    assert not model.eval().training and [len(line) for line in said] == n
    for line, tags in zip(x, said, strict=True):
        np.testing.assert_array_equal(model.said(line[None])[0], tags)


@pytest.mark.parametrize("name", ["conditioned", "conditioned+characters"])
def test_search_scores_are_those_of_training_and_a_wide_beam_misses_nothing(name):
    model, x = built(name)
    short = x[3][None]
    every = list(itertools.product(range(5), repeat=3))
    total = [model.log_p(short, [np.array(tags)]).array.sum() for tags in every]
    (found,) = model.search(short, beam=125)
    assert sorted(one.tokens for one in found) == every
    by_tags = dict(zip(every, total, strict=True))
    for one in found:
        assert one.score == pytest.approx(by_tags[one.tokens], abs=1e-5)
    np.testing.assert_array_equal(model.said(short, beam=125)[0], every[np.argmax(total)])
    assert np.exp(total).sum() == pytest.approx(1, abs=1e-5)
    path = []
    for _ in range(3):
        ways = [np.array([*path, k]) for k in range(5)]
        path = max(ways, key=lambda y: model.log_p(short[:, : len(y)], [y]).array[-1])
    np.testing.assert_array_equal(model.said(short)[0], path)


def test_a_word_is_hidden_in_training_alone_and_its_letters_are_not():
    model, x = built("both+characters")
    model.dropout.p = 0.0
    model.forms.hidden[:] = 1.0
    the, comedian = x[0][:2]
    read = model.x(np.array([the, comedian])).array[:, : demo.WORD]
    hidden = model.train().x(np.array([the, comedian])).array
    assert (read[0] != read[1]).all() and (hidden[:, : demo.WORD] == hidden[0, : demo.WORD]).all()
    np.testing.assert_array_equal(hidden[0, : demo.WORD], model.embed.weight.array[0])
    assert (hidden[0, -demo.SPELLING :] != hidden[1, -demo.SPELLING :]).any()


@settings(max_examples=20)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_letters_of_every_word_are_read_to_their_end(ids):
    """However long the other words are, and however often it occurs."""
    model, _ = built("both+characters")
    found = model.spelling(np.array(ids)).array
    for form, row in zip(ids, found, strict=True):
        letters = model.forms.spelling[form][: model.forms.lengths[form]]
        output, _ = model.spelling.lstm(model.spelling.embed(letters))
        half = demo.SPELLING // 2
        expected = np.concatenate([output.array[-1, :half], output.array[0, half:]])
        np.testing.assert_allclose(row, expected, atol=1e-6)


# ---- figures ----


def test_the_error_of_a_gap_is_that_of_independent_lines():
    rng = np.random.default_rng(0)
    right = [np.ones(1, int)] * 50
    one, other = ([rng.integers(1, 3, 1) for _ in right] for _ in range(2))
    hits = [np.array([a[0] == 1 for a in said], float) for said in (one, other)]
    part = _tagging.Part(right, right, [np.array([True])] * 50)
    share, error = demo.gap(one, other, part)
    assert share == pytest.approx(hits[0].mean() - hits[1].mean())
    assert error == pytest.approx(np.std(hits[0] - hits[1]) / 50**0.5)
    # Lines that are one line ten times over say no more than it does, words that do not count none.
    long = [[np.append(np.repeat(line, 10), [1, 2]) for line in said] for said in (one, other)]
    tags = [np.append(np.repeat(line, 10), [0, 0]) for line in right]
    part = _tagging.Part(tags, tags, [np.arange(12) < 10] * 50)
    assert demo.gap(*long, part) == pytest.approx((share, error))


def test_words_without_a_tag_stand_for_themselves_and_do_not_count():
    train, test = (
        [line._replace(tags=tuple(tag if tag != "_" else None for tag in line.tags))]
        for line in lines(["a/X =/_ b/Y ,/_ c/X", "a/Z (/_ b/Y =/_"])
    )
    numbers, forms = _tagging.tag_numbers(train, 2), _tagging.Forms(train, test)
    parts = {"train": _tagging.encoded(train, forms, numbers)}
    parts["test"] = _tagging.encoded(test, forms, numbers)
    tags = len(numbers)
    unknown, equals, comma, X, Y = range(tags)
    (y,), (counts,) = parts["train"].y, parts["train"].counts
    assert sorted(y.tolist()) == [equals, comma, X, X, Y] and y[0] == y[4] == X
    np.testing.assert_array_equal(counts, [True, False, True, False, True])
    (y,), (counts,) = parts["test"].y, parts["test"].counts
    assert y.tolist() == [tags, unknown, Y, parts["train"].y[0][1]]  # Z is never right
    np.testing.assert_array_equal(counts, [True, False, True, False])
    kinds = demo.kinds_of_words(parts["train"], parts["test"])
    np.testing.assert_array_equal(kinds["all"], counts)
    assert list(kinds) == ["all"]  # no word with several tags, none that is unknown and counts


@settings(max_examples=20)
@given(st.integers(0, 99), st.integers(0, 5), st.integers(1, 4))
def test_what_speaks_for_a_mistake_and_against_it_is_the_difference_of_the_scores(seed, t, more):
    model, x = built("conditioned", seed)
    greedy = model.said(x[0][None])[0]
    right = greedy.copy()
    right[t] = (right[t] + more) % 5
    ((ahead, against),) = demo.branches(model, x[:1], [right])
    scores = [model.eval().log_p(x[:1], [tags]).array.sum() for tags in (right, greedy)]
    assert against - ahead == pytest.approx(scores[0] - scores[1], abs=1e-4)
    assert ahead >= 0 and (t < 5 or against == 0)
    assert not len(demo.branches(model, x[:1], [greedy]))  # no mistake
    right[t - 1] = (right[t - 1] + 1) % 5
    assert not len(demo.branches(model, x[:1], [right]))  # two


# ---- the exercise ----


def reference(scores, moves):
    """The best sequence, from the best ends of all that go up to a step."""
    best, back = scores[0], []
    for row in scores[1:]:
        reached = best[:, None] + moves
        back.append(reached.argmax(axis=0))
        best = reached.max(axis=0) + row
    path = [int(best.argmax())]
    for before in reversed(back):
        path.append(int(before[path[-1]]))
    return path[::-1]


viterbi = getattr(demo, "viterbi", reference)  # the learner's, once it is there


def total(y, scores, moves):
    moved = sum(moves[a, b] for a, b in itertools.pairwise(y))
    return moved + sum(scores[t, tag] for t, tag in enumerate(y))


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 999))
def test_viterbi_finds_the_best_of_all_sequences(T, K, seed):
    rng = np.random.default_rng(seed)
    scores, moves = rng.integers(-3, 4, (T, K)), rng.integers(-3, 4, (K, K))
    found = viterbi(scores, moves)
    every = itertools.product(range(K), repeat=T)
    assert len(found) == T
    assert total(found, scores, moves) == max(total(y, scores, moves) for y in every)


def test_viterbi_finds_what_a_random_field_decodes():
    """In a line so long that not all sequences can be tried."""
    field = tg.nn.CRF(9)
    field.start.array[...] = field.end.array[...] = 0
    scores = np.random.default_rng(0).standard_normal((300, 9))
    (expected,) = field.decode(scores, [300])
    assert viterbi(scores, field.transitions.array) == expected.tolist()
