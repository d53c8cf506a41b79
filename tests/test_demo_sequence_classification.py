"""Many inputs to one output: the demo, its data, its summaries, its baseline, its exercise."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _labelled, _languages
from demos import sequence_classification as demo
from demos._labelled import Labelled

TEXTS = [(label, f"{word} is a thing {i} ?") for i in range(30) for label, word in ("Aa", "Bb")]


def run(tmp_path, *flags):
    return demo.main(["--quick", "--quiet", "--out", str(tmp_path), *map(str, flags)])


def figures(tmp_path):
    """What the metrics say."""
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    return {key: value for line in lines for key, value in json.loads(line).items()}


# ---- the demo ----


def test_a_quick_run_on_names_leaves_its_files(tmp_path, capsys):
    assert run(tmp_path) == 0
    assert "chosen by dev" in capsys.readouterr().out
    seen = figures(tmp_path)
    assert seen["naive_bayes"] > 0.5 and set(seen["test"]) == set(demo.WAYS)
    for name, rows in [
        ("accuracy_by_length", demo.BANDS),
        ("gradient_before_training", demo.STEPS),
    ]:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len((tmp_path / f"{name}.csv").read_text().splitlines()) == 1 + rows


def test_two_seeds_of_two_nets_on_texts_of_ones_own(tmp_path, capsys):
    data = tmp_path / "texts.tsv"
    data.write_text("\n".join(f"{label}\t{text}" for label, text in TEXTS), encoding="utf-8")
    flags = ["--data", data, "--epochs", 1, "--repeats", 2, "--hidden-size", 4]
    assert run(tmp_path / "out", *flags, "--ways", "mean", "both, last") == 0
    seen = figures(tmp_path / "out")
    assert {way: len(shares) for way, shares in seen["test"].items()} == {
        "mean": 2,
        "both, last": 2,
    }


def test_the_test_part_has_no_part_in_any_choice(tmp_path):
    """Nets, and which is chosen, are the same for two of them, of which one has wrong labels."""
    found = []
    for i, wrong in enumerate(["AB", "BA"]):
        data = tmp_path / f"data{i}"
        data.mkdir()
        for part, labels in {"train": "AB", "dev": "AB", "test": wrong}.items():
            named = dict(zip("AB", labels, strict=True))
            lines = [f"{named[label]}\t{text}" for label, text in sorted(TEXTS)]
            (data / f"{part}.tsv").write_text("\n".join(lines))
        out, flags = tmp_path / f"out{i}", ["--hidden-size", 4, "--no-plot"]
        assert run(out, "--data", data, *flags) == 0
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        epochs, seen = [line for line in lines if "epoch" in line], figures(out)
        gradients = (out / "gradient_after_training.csv").read_text()
        found.append((epochs, gradients, seen["dev"], seen["chosen"]))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("absent.txt", None, "absent.txt"),
        ("empty.txt", b"", "is empty"),
        ("latin.tsv", b"a\t\xff\n", "latin.tsv, line 1: byte 0xff is no UTF-8"),
        ("plain.txt", b"Who was Galileo ?\n", "plain.txt, line 1: 'Who was Galileo ?'; expected"),
        ("half.tsv", b"a\tb c\n\nno tab\n", "half.tsv, line 3: 'no tab'; expected"),
        ("blank.tsv", b"a\tb c\n \tb\n", "blank.tsv, line 2"),
        ("silent.tsv", b"a\tb c\nd\t \n", "silent.tsv, line 2"),
        ("trec.txt", b"HUM:desc Who ?\nHUM Who ?\n", "trec.txt, line 2: 'HUM Who ?'; expected"),
        ("trees.txt", b"(3 (2 It) (4 works)\n", "trees.txt, line 1: the text ends inside"),
        ("one.tsv", b"a\tb c\n" * 50, "expected: at least two labels"),
        ("alone.pos", b"a fine film\n", "expected: at least two labels"),
    ],
)
def test_data_that_cannot_be_used_gets_one_line(name, content, says, tmp_path, capsys):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert run(tmp_path / "out", "--data", tmp_path / name) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and says in err


@pytest.mark.parametrize("flags", [["--hidden-size", "3"], ["--ways", "first"], ["--dropout", "1"]])
def test_wrong_arguments_are_refused(flags, tmp_path):
    with pytest.raises(SystemExit) as refused:
        run(tmp_path, *flags)
    assert refused.value.code == 2


# ---- labelled files ----


@pytest.mark.parametrize(
    "content", [b"HUM:desc Who ?\n", b"HUM\tWho ?\n", b"(HUM (1 Who) (1 ?))\n"]
)
def test_a_byte_order_mark_is_no_part_of_a_label(content, tmp_path):
    path = tmp_path / "marked.txt"
    path.write_bytes(b"\xef\xbb\xbf" + content)
    assert _labelled.read_file(path) == [("HUM", ("Who", "?"))]


def test_the_formats_of_files(tmp_path):
    files = {
        "a.txt": b"HUM:desc Who was Galileo ?\r\nENTY:other What is Sauerbraten \xf0 ?\n",
        "b.tsv": "grün\tein Wald\nblau\tdas Meer\tam Abend\n".encode(),
        "c.txt": b"(3 (2 It) (4 (2 works) (2 .)))\n(0 bad)\n",
        "d.pos": "a fine film .\nhm\u0085m\n".encode(),
    }
    found = {}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        found[name[0]] = _labelled.read_file(tmp_path / name)
    assert found["a"] == [
        ("HUM", ("Who", "was", "Galileo", "?")),
        ("ENTY", ("What", "is", "Sauerbraten", "ð", "?")),
    ]
    assert found["b"] == [
        ("grün", ("ein", "Wald")),
        ("blau", ("das", "Meer", "am", "Abend")),
    ]
    assert found["c"] == [("3", ("It", "works", ".")), ("0", ("bad",))]
    assert [text.label for text in found["d"]] == ["pos", "pos"]


def written(folder, **texts):
    """A folder of tabbed files with so many texts each, all of them different."""
    folder.mkdir()
    for name, count in texts.items():
        lines = [f"{'AB'[i % 2]}\t{name} {i}" for i in range(count)]
        (folder / f"{name}.tsv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_a_folder_is_split_as_its_files_say(tmp_path):
    sets = _labelled.read_sets(written(tmp_path / "three", train=70, dev=20, test=10))
    assert [len(some) for some in sets] == [70, 20, 10]
    assert [some[0].words[0] for some in sets] == ["train", "dev", "test"]
    sets = _labelled.read_sets(written(tmp_path / "two", train=200, test=10))
    assert len(sets.train) + len(sets.dev) == 200 and 5 < len(sets.dev) < 40
    assert {text.words[0] for text in sets.test} == {"test"} and len(sets.test) == 10


@given(st.permutations([f"{i // 2}" for i in range(120)]))
def test_the_same_text_is_never_on_both_sides_whatever_the_order(tmp_path_factory, texts):
    """60 texts, each twice, under either label."""
    file = tmp_path_factory.mktemp("texts") / "all.tsv"
    file.write_text("\n".join(f"{'AB'[i % 2]}\t{text}" for i, text in enumerate(texts)))
    sets = _labelled.read_sets(file)
    words = [{text.words for text in some} for some in sets]
    assert not (words[0] & words[1] or words[0] & words[2] or words[1] & words[2])
    assert sum(map(len, words)) == 60 and sum(map(len, sets)) == 120


def test_a_folder_without_texts_is_refused(tmp_path):
    with pytest.raises(kit.DataError, match="has no files of texts"):
        _labelled.read_sets(tmp_path)


# ---- names ----


def test_names_belong_to_one_language_and_things_to_one_part():
    found = _languages.names()
    assert found["territories", "DE"]["fi"] == "Saksa"
    kept = _languages.of_one_language(found)
    speakers = Counter()
    for named in kept.values():
        speakers.update({(language, name.casefold()) for language, name in named.items()})
    names = Counter(name for _, name in speakers)
    assert max(names.values()) == 1
    sets = _languages.read_names()
    spelt = [{"".join(text.words) for text in some} for some in sets]
    parts = [
        {i for i, some in enumerate(spelt) if some & set(named.values())} for named in kept.values()
    ]
    # A thing may share the name of another, in one language; so a few seem to be in two parts.
    assert np.mean([len(part) <= 1 for part in parts]) > 0.97
    assert sum(map(len, sets)) == sum(map(len, kept.values()))


def test_without_babel_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "babel", None)
    assert run(tmp_path) == 1
    assert "pip install 'tinygrad_rnn[demos]'" in capsys.readouterr().err


# ---- the model and the baseline ----


ENCODER = demo.Encoder(
    [Labelled(label, ("a", "b")) for label in "ABCD"] + [Labelled("A", ("b", "c"))],
    demo.of_words,
    1,
)


def model(way, unknown=1e-9):
    args = SimpleNamespace(input_size=5, hidden_size=6, dropout=0.0, unknown=unknown)
    return demo.Classifier(ENCODER, args, *demo.WAYS[way])


def texts_of(*lengths):
    return [tg.default_rng().integers(0, 9, (n, 2)) for n in lengths]


@pytest.mark.parametrize("way", demo.WAYS)
def test_a_batch_of_unequal_texts_is_each_text_alone(way):
    net, texts = model(way), texts_of(3, 1, 7)
    alone = np.concatenate([net([text]).array for text in texts])
    np.testing.assert_allclose(net(texts).array, alone, atol=1e-6)
    np.testing.assert_array_equal(demo.said_by(net, texts), alone.argmax(axis=1))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_summaries_are_those_of_the_steps_there_are(lengths):
    """Whatever stands beyond the end, h lying between -1 and 1."""
    h = tg.default_rng().uniform(-1, 1, (6, len(lengths), 3))
    there = (np.arange(6)[:, None] < lengths)[:, :, None].astype(float)
    for name, summary in demo.SUMMARIES.items():
        own = [getattr(h[:n, b], name)(axis=0) for b, n in enumerate(lengths)]
        np.testing.assert_allclose(summary(h, there), own, atol=1e-12)


def test_the_last_states_are_those_at_either_end():
    """The logits of `both, last` by hand: f of the last step and b of the first."""
    net, texts = model("both, last"), texts_of(3, 5)
    h, _ = net.lstm(net.vectors(texts), lengths=np.array([3, 5]))
    ends = [np.concatenate([h.array[n - 1, b, :3], h.array[0, b, 3:]]) for b, n in [(0, 3), (1, 5)]]
    np.testing.assert_allclose(net(texts).array, net.V(np.array(ends)).array, atol=1e-6)


def test_the_gradient_by_distance_is_that_of_longer_texts_alone_and_has_mean_1():
    net, y = model("last"), np.arange(40) % 4
    texts = texts_of(*[9 + i % 3 for i in range(20)], *[2] * 20)
    back = demo.gradient_by_distance(net, texts, y, 9)
    assert len(back) == 9 and np.mean(back) == pytest.approx(1)
    of_long = demo.gradient_by_distance(net, texts[:20], y[:20], 9)
    np.testing.assert_allclose(back, of_long, rtol=1e-4)
    assert back[0] > back[-1]  # the last state of an untrained net forgets


def test_words_never_seen_are_read_by_how_they_are_written():
    train = [Labelled("A", ("Running", "is", "fun")), Labelled("B", ("x", "is"))]
    encoder = demo.Encoder(train, demo.of_words, least=1)
    [ids], y = encoder([Labelled("B", ("Swimming", "is", "3"))])
    assert ids.shape == (3, 3) and y == 1
    read = [[encoder.vocabulary.words[i] for i in step] for step in ids]
    assert read == [
        [kit.UNKNOWN, "Xx~x", kit.UNKNOWN],
        ["is", "xx~x", kit.UNKNOWN],
        3 * [kit.UNKNOWN],
    ]
    assert list(encoder.counts[ids[1]]) == [2, 3, 0]
    assert demo.of_words(("Who", "was", "R2-D2")) == [
        ("who", "Xx~x", "<s> who"),
        ("was", "xx~x", "who was"),
        ("r2-d2", "X0~0", "was r2-d2"),
    ]


def test_a_form_is_the_less_read_in_training_the_rarer_it_is_and_always_in_testing():
    net = model("last", unknown=2.0)
    rare, common = (ENCODER.vocabulary.ids[word] for word in ("c", "b"))
    net.embed.weight.array[...] = 0
    net.embed.weight.array[[rare, common], 0] = 1, 1000
    read = net.vectors(4000 * [np.array([[rare, common]])]).array[0, :, 0]
    # c occurred once, b five times.
    assert np.mean(read % 1000 == 1) == pytest.approx(1 / 3, abs=0.03)
    assert np.mean(read >= 1000) == pytest.approx(5 / 7, abs=0.03)
    net.eval()
    assert (net.vectors(10 * [np.array([[rare, common]])]).array[0, :, 0] == 1001).all()


def test_letters_are_read_behind_those_before_up_to_the_end():
    assert demo.of_letters("ab") == [
        ("a", " a", "  a"),
        ("b", "ab", " ab"),
        (" ", "b ", "ab "),
    ]


def test_naive_bayes_by_hand():
    """p(A) p(x | A) against p(B) p(x | B), all counts of single words raised by alpha."""
    train = [Labelled("A", ("x", "x")), Labelled("A", ("y",)), Labelled("B", ("y", "y"))]
    labels = kit.Vocabulary(["A", "B"])

    def right(alpha, *texts):
        return demo.naive_bayes(train, [Labelled(*text) for text in texts], labels, alpha)

    assert right(0.1, ("A", ("x",)), ("B", ("y", "y"))) == 1.0
    assert right(0.1, ("B", ("x",)), ("A", ("y", "y"))) == 0.0
    assert right(0.1, ("A", ("z",))) == 1.0  # nothing known but that A is commoner
    assert demo.grams_of(("a",)) == [
        ("<s>",),
        ("a",),
        ("</s>",),
        ("<s>", "a"),
        ("a", "</s>"),
        ("<s>", "a", "</s>"),
    ]


def test_the_alpha_of_naive_bayes_is_the_best_for_dev():
    """Which of two labels is the worst for a test whose labels are turned round."""
    rng, labels = np.random.default_rng(2), kit.Vocabulary(["A", "B"])
    texts = [
        Labelled(label, tuple(rng.choice(list("vwxyz"), 4, p=p)))
        for label, p in [("A", (0.3, 0.25, 0.2, 0.15, 0.1)), ("B", (0.1, 0.15, 0.2, 0.25, 0.3))]
        for _ in range(60)
    ]
    train, dev = texts[::3], texts[1::3] + texts[2::3]
    test = [Labelled({"A": "B", "B": "A"}[text.label], text.words) for text in dev]
    shares = [demo.naive_bayes(train, test, labels, alpha) for alpha in demo.ALPHAS]
    assert demo.baseline(_labelled.Sets(train, dev, test), labels) == min(shares) < max(shares)


def test_bands_of_length_hold_every_text_once():
    lengths = np.arange(20) % 7 + 1
    mean, share = demo.by_length(lengths > 4, lengths)
    assert mean == sorted(mean) and np.mean(mean) == pytest.approx(lengths.mean())
    assert share[0] == 0 and share[-1] == 1


# ---- the exercise ----


def reference(h, there, u):
    """The mean of the states of each text with weights softmax(u . h^t)."""
    scores = (h * u).sum(axis=-1, keepdims=True) + (there - 1) * 1e9
    return (tg.softmax(scores, axis=0) * h).sum(axis=0)


attention = getattr(demo, "attention", reference)  # the learner's, once it is there


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 99))
def test_attention_is_its_formula_for_each_text_alone(lengths, seed):
    """Written as the loop that it is, whatever stands beyond the end; with u = 0 it is the mean."""
    rng = np.random.default_rng(seed)
    h, u = rng.uniform(-1, 1, (6, len(lengths), 3)), rng.standard_normal(3)
    there = (np.arange(6)[:, None] < lengths)[:, :, None].astype(float)
    got = attention(tg.tensor(h), there, tg.tensor(u)).array
    for b, n in enumerate(lengths):
        weights = [np.exp(u @ h[t, b]) for t in range(n)]
        own = sum(w * h[t, b] for t, w in enumerate(weights)) / sum(weights)
        np.testing.assert_allclose(got[b], own, atol=1e-9)
    even = attention(tg.tensor(h), there, tg.tensor(np.zeros(3))).array
    np.testing.assert_allclose(even, demo.SUMMARIES["mean"](h, there), atol=1e-9)
