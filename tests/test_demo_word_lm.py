"""The word model: the published settings, its schedule, its text, perplexity, the exercise."""

import argparse
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import word_lm as demo

TEXT = "The cat sat on the mat, and\nthe dog sat on the log.\n\nA cat is no dog.\n\n" * 40
SMALL = "--hidden-size 6 --epochs 2 --bptt 5 --batch-size 4 --no-plot --quiet".split()


def run(tmp_path, *flags, text=TEXT, name="out"):
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    settings = ["--data", tmp_path / "text.txt", "--out", tmp_path / name, *SMALL, *flags]
    return demo.main([str(flag) for flag in settings])


def model_of(cell="lstm", layers=1, words=7, tied=False):
    return demo.WordLM(words, cell, layers, 4, 0.0, tied)


def size(model):
    return sum(w.size for w in model.parameters())


# ---- the demo ----


def test_a_quick_run_leaves_its_files_and_its_figures(tmp_path, capsys):
    assert demo.main(["--quick", "--quiet", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = {line["model"]: line["test"] for line in lines if "model" in line}
    assert len(found) == 5 and all(f"{name} " in out for name in found)
    assert (tmp_path / "perplexity.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "perplexity.csv").read_text().splitlines()) == 3
    for cell in demo.CELLS:
        saved = tg.load(tmp_path / f"{cell}.npz")
        assert len(saved.metadata["vocabulary"]["words"]) == len(saved["embed.weight"])


def test_claims_are_about_the_test_part_and_the_models_there_are(tmp_path):
    args = argparse.Namespace(
        seed=0, out=tmp_path, quiet=True, no_plot=True, quick=False, data=None
    )
    figures = {"3-grams": (5.0, 8.0), "lstm": (9.0, 7.0)}
    with kit.Run(args) as run:
        assert list(demo.report(figures, "3-grams", args, run).values()) == [True]
        figures["sigmoid"] = (1.0, 6.5)
        claims = demo.report(figures, "3-grams", args, run)
    assert list(claims.values()) == [True, False]


def test_the_test_part_has_no_part_in_any_choice(tmp_path):
    """Weights, order and mixtures are the same for two of them, of which one is no text at all."""
    (tmp_path / "train.txt").write_text(TEXT)
    (tmp_path / "valid.txt").write_text(TEXT[:600])
    found = []
    for i, text in enumerate([TEXT, " ".join(TEXT.split()[::-1])]):
        (tmp_path / "test.txt").write_text(text)
        out = tmp_path / f"out{i}"
        assert demo.main(["--data", str(tmp_path), "--out", str(out), *SMALL]) == 0
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        figures = {x["model"]: x["validation"] for x in lines if "model" in x}
        files = [(out / name).read_bytes() for name in ("perplexity.csv", "lstm.npz")]
        found.append((figures, files, {x["model"]: x["test"] for x in lines if "model" in x}))
    (figures, files, test), (same_figures, same_files, other) = found
    assert figures == same_figures and files == same_files and test != other


def test_a_net_that_has_seen_enough_of_a_plain_text_knows_it(tmp_path):
    """Perplexity near 1 where every word follows from the two before."""
    text = "one two three four five six seven . " * 200
    flags = ["--cells", "lstm", "--epochs", 6, "--hidden-size", 16, "--full-rate", 6]
    assert run(tmp_path, *flags, text=text) == 0
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    (found,) = [x["test"] for x in map(json.loads, lines) if x.get("model") == "lstm"]
    assert found < 1.2


def test_a_stopped_run_that_goes_on_ends_with_the_same_bits(tmp_path, monkeypatch):
    assert run(tmp_path, name="whole") == 0
    perplexity, calls = demo.perplexity, []

    class Stopped(Exception):
        pass

    def stopped(p):
        calls.append(p)
        if len(calls) == demo.ORDER + 4:  # the first net has been read, and the second once
            raise Stopped
        return perplexity(p)

    monkeypatch.setattr(demo, "perplexity", stopped)
    with pytest.raises(Stopped):
        run(tmp_path, name="parts")
    monkeypatch.setattr(demo, "perplexity", perplexity)
    assert run(tmp_path, "--resume", name="parts") == 0
    for cell in demo.CELLS:
        whole, parts = (tg.load(tmp_path / name / f"{cell}.npz") for name in ("whole", "parts"))
        assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    curves = [(tmp_path / name / "perplexity.csv").read_text() for name in ("whole", "parts")]
    assert curves[0] == curves[1]


def test_init_from_takes_the_weights_of_one_net(tmp_path):
    assert run(tmp_path, name="a") == 0
    flags = ["--lr", 1e-9, "--init-from", tmp_path / "a" / "lstm.npz"]
    assert run(tmp_path, "--cells", "lstm", *flags, name="b") == 0
    a, b = (tg.load(tmp_path / name / "lstm.npz")["V.weight"] for name in "ab")
    np.testing.assert_allclose(a, b, atol=1e-6)
    with pytest.raises(SystemExit):
        run(tmp_path, *flags)


@pytest.mark.parametrize("flags", [["--dropout", "1"], ["--cells", "tanh"], ["--bptt", "0"]])
def test_wrong_arguments_are_refused(flags, tmp_path):
    with pytest.raises(SystemExit) as refused:
        run(tmp_path, *flags)
    assert refused.value.code == 2


# ---- the published settings ----


def published(name):
    return argparse.Namespace(**demo.CONFIGS[name])


def test_small_has_as_many_parameters_as_published_settings_give():
    """10,000 words: a table, two LSTMs with two biases of four gates each, and the readout."""
    c = published("small")
    lstm = 4 * 200 * (200 + 200) + 2 * 4 * 200
    model = demo.WordLM(10_000, *c.cells, c.layers, c.hidden_size, c.dropout)
    assert size(model) == 10_000 * 200 + 2 * lstm + (200 * 10_000 + 10_000) == 4_653_200
    tied = demo.WordLM(10_000, *c.cells, c.layers, c.hidden_size, c.dropout, tied=True)
    assert size(tied) == 4_653_200 - 10_000 * 200


def test_medium_has_as_many_parameters_as_published_settings_give():
    c = published("medium")
    lstm = 4 * 650 * (650 + 650) + 2 * 4 * 650
    model = demo.WordLM(10_000, *c.cells, c.layers, c.hidden_size, c.dropout)
    assert size(model) == 10_000 * 650 + 2 * lstm + (650 * 10_000 + 10_000) == 19_780_400


@pytest.mark.parametrize(
    "name, bptt, init, dropout, rates",
    [
        ("small", 20, 0.1, 0.0, [1.0] * 4 + [0.5**k for k in range(1, 10)]),
        ("medium", 35, 0.05, 0.5, [1.0] * 6 + [1.2**-k for k in range(1, 34)]),
    ],
)
@pytest.mark.parametrize("steps", [1, 3, 7, 2323])
def test_the_published_schedule(name, bptt, init, dropout, rates, steps):
    """Zaremba et al. 2014: so many epochs at rate 1, and then less by a factor at each."""
    c = published(name)
    assert (c.bptt, c.init, c.dropout, c.lr, c.clip) == (bptt, init, dropout, 1.0, 5.0)
    assert (c.words, c.layers, c.batch_size, c.epochs) == (10_000, 2, 20, len(rates))
    factor = demo.rate(c)
    for epoch, expected in enumerate(rates):
        for step in {0, 1 % steps, steps // 2, steps - 1}:  # as the kit counts what is done
            done = (epoch + step / steps) / c.epochs
            assert factor(done) == pytest.approx(expected)


def settings(out, **changed):
    """Those of the small model, for little data, without checkpoints."""
    config = demo.CONFIGS["small"] | {"bptt": 3, "batch_size": 2, "epochs": 1} | changed
    return argparse.Namespace(**config, seed=0, out=out, quiet=True, no_plot=True)


@pytest.mark.parametrize("clip", [5.0, 0.1])
def test_a_step_is_that_of_the_summed_loss_at_the_published_rate(clip, tmp_path):
    """E summed over the steps, the mean over the streams; its gradient clipped; w <- w - lr g."""
    ids = tg.default_rng().integers(0, 7, 7)  # one window of 3 steps in 2 streams
    args = settings(tmp_path, clip=clip, lr=0.7)
    model, other = model_of(), model_of()
    other.load_state_dict(model.state_dict())
    with kit.Run(args) as run:
        demo.train(model, ids, ids, {}, args, run, "lstm")

    (x, y), *_ = demo.windows(ids, 2, 3)
    logits, _ = other(x)
    E = sum(tg.cross_entropy(logits[t], y[t]) for t in range(3))
    E.backward()
    tg.optim.clip_grad_norm_(other.parameters(), clip)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        expected = theirs.array - 0.7 * theirs.grad.array
        np.testing.assert_allclose(mine.array, expected, atol=1e-5)


# ---- the model ----


def test_the_net_of_the_slide_is_its_equations():
    """h = sigmoid(U x + W h + b), y = softmax(V h + c), in NumPy."""
    model = model_of("sigmoid")
    w = model.state_dict()
    x = np.array([[1], [5], [1]])
    h = np.zeros(4)
    for t, logits in enumerate(model(x)[0].array[:, 0]):
        a = w["recurrent.weight_ih_l0"] @ w["embed.weight"][x[t, 0]] + w["recurrent.bias_ih_l0"]
        a = a + w["recurrent.weight_hh_l0"] @ h + w["recurrent.bias_hh_l0"]
        h = 1 / (1 + np.exp(-a))
        np.testing.assert_allclose(logits, w["V.weight"] @ h + w["V.bias"], atol=1e-5)


@pytest.mark.parametrize("cell", demo.CELLS)
def test_a_tied_model_trains_one_table_through_both_its_uses(cell):
    model = model_of(cell, tied=True)
    assert model.V.weight is model.embed.weight
    logits, _ = model(np.array([[1, 1]]))
    tg.cross_entropy(logits, np.array([[2, 2]])).backward()
    gradient = model.embed.weight.grad.array
    assert (gradient != 0).all()  # of all rows: every word was among those that could have come


def test_dropout_leaves_the_way_from_h_to_h_alone():
    """With nothing to read and half of everything else dropped, h is what it is without dropout."""
    with_dropout = demo.WordLM(7, "lstm", 1, 4, 0.5)
    with_dropout.embed.weight.array[...] = 0.0
    ids = np.zeros((9, 2), int)
    _, (h, _) = with_dropout(ids)
    with_dropout.eval()
    _, (expected, _) = with_dropout(ids)
    np.testing.assert_array_equal(h.array, expected.array)


def test_weights_are_drawn_within_their_bounds():
    model = demo.drawn(model_of(words=500), 0.05)
    for w in model.parameters():
        assert abs(w.array).max() <= 0.05
        assert w.dtype == np.float32
    assert abs(model.embed.weight.array).max() > 0.049


# ---- perplexity ----


@pytest.mark.parametrize("cell", demo.CELLS)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=120), st.integers(1, 5))
def test_probabilities_are_those_of_each_stream_read_in_one_go(cell, ids, streams):
    model, before = model_of(cell), np.array([3])
    ids = np.array(ids)
    found = demo.probabilities(model, before, ids, streams)
    assert found.shape == ids.shape
    x, length = np.concatenate([before, ids]), -(-len(ids) // streams)
    for start in range(0, len(ids), length):
        part = x[start : start + length + 1]
        logits, _ = model(part[:-1, None])
        p = tg.softmax(logits[:, 0]).array[np.arange(len(part) - 1), part[1:]]
        np.testing.assert_allclose(found[start : start + length], p, rtol=1e-4)


def test_what_comes_later_does_not_change_what_was_said():
    model, ids = model_of(), tg.default_rng().integers(0, 7, 130)
    before = demo.probabilities(model, [0], ids)
    ids[60] = (ids[60] + 1) % 7
    changed = demo.probabilities(model, [0], ids) != before
    assert not changed[:60].any() and changed[60] and changed[61:].any()


@given(st.integers(2, 50), st.integers(1, 30))
def test_the_perplexity_of_a_guess_among_equals_is_their_number(words, n):
    assert demo.perplexity(np.full(n, 1 / words)) == pytest.approx(words)


@given(st.lists(st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)), min_size=2, max_size=20))
def test_a_mixture_is_no_worse_than_either_where_it_was_chosen(pairs):
    p, q = np.array(pairs).T
    cut = len(p) // 2
    mixture = demo.mixed(p, q, cut)
    best = min(demo.perplexity(p[:cut]), demo.perplexity(q[:cut]))
    assert demo.perplexity(mixture[:cut]) <= best * (1 + 1e-9)
    assert (mixture <= np.maximum(p, q) + 1e-12).all()


# ---- the text ----


def test_words_are_in_small_letters_signs_apart_and_paragraphs_end():
    found = demo.paragraphs("It's HERE:\nx_1 = 2\n \n\n\tSee f().\n\n\n")
    end = demo.END
    assert found == [
        ["it", "'", "s", "here", ":", "x_1", "=", "2", end],
        ["see", "f", "(", ")", ".", end],
    ]


def treebank(folder, **parts):
    for name, text in parts.items():
        (folder / f"{name.replace('_', '.')}.txt").write_text(text, encoding="utf-8")
    return argparse.Namespace(data=folder, words=100, batch_size=1, quick=True)


@pytest.mark.parametrize("prefix", ["ptb_", ""])
def test_the_parts_of_a_treebank_are_its_files(tmp_path, prefix):
    texts = {"train": " a <unk> N b \n b c\n", "valid": " c a\n", "test": " <unk> zzz\n"}
    args = treebank(tmp_path, **{prefix + name: text for name, text in texts.items()})
    (train, valid, test), least = demo.read(args)
    end, unknown = demo.END, kit.UNKNOWN
    assert train == ["a", unknown, "N", "b", end, "b", "c", end]
    assert (valid, test, least) == (["c", "a", end], [unknown, "zzz", end], 1)
    vocabulary, (ids, _, tested) = demo.encoded((train, valid, test), least, args)
    assert sorted(vocabulary.words) == sorted({*train})  # each once, what is unknown among them
    assert [vocabulary.words[i] for i in ids] == train
    assert [vocabulary.words[i] for i in tested] == [unknown, unknown, end]


def test_a_folder_without_a_part_is_refused(tmp_path, capsys):
    treebank(tmp_path, train="a b\n", valid="a\n")
    assert demo.main(["--data", str(tmp_path), "--out", str(tmp_path / "out"), *SMALL]) == 1
    err = capsys.readouterr().err
    assert "no test.txt and no ptb.test.txt" in err and err.count("\n") == 1


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe\x00broken", b"so few words"])
def test_data_that_cannot_be_used_gets_one_line(content, tmp_path, capsys):
    path = tmp_path / "data.txt"
    if content is not None:
        path.write_bytes(content)
    flags = ["--quick", "--quiet", "--data", str(path), "--out", str(tmp_path / "out")]
    assert demo.main(flags) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and str(path) in err and err.count("\n") == 1


def test_too_few_docstrings_are_not_told_as_a_file():
    args = argparse.Namespace(data=None, words=9, batch_size=2)
    with pytest.raises(kit.DataError, match="the docstrings: 3 words"):
        demo.encoded((["a"] * 3, ["a"], ["a"]), 1, args)


# ---- the exercise ----


def reference(p, q):
    """The share of p in the likeliest mixture, by expectation and maximisation."""
    w = 0.5
    for _ in range(10_000):
        w, before = np.mean(w * p / (w * p + (1 - w) * q)), w
        if abs(w - before) < 1e-10:
            break
    return w


mixture = getattr(demo, "mixture", reference)  # the learner's, once it is there


@given(st.integers(0, 10**6))
def test_mixture_is_the_likeliest_share(seed):
    """No share of a fine grid is likelier."""
    p, q = np.random.default_rng(seed).uniform(0.01, 1, (2, 30))
    w = mixture(p, q)
    assert 0 <= w <= 1
    shares = np.linspace(0, 1, 201)[:, None]
    grid = np.log(shares * p + (1 - shares) * q).mean(axis=1)
    assert np.log(w * p + (1 - w) * q).mean() >= grid.max() - 1e-4
