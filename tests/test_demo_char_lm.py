"""The character model: n-grams, windows, a run stopped and gone on with, samples, its exercise."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from demos import _ngrams
from demos import char_lm as demo

SMOOTHINGS = [_ngrams.witten_bell, _ngrams.kneser_ney]
TEXT = "the cat sat on the mat, the dog sat on the log. " * 30
SMALL = "--hidden-size 8 --bptt 8 --batch-size 4 --sample 5 --no-plot --quiet".split()
ids = st.lists(st.integers(0, 3), min_size=1, max_size=40)


def run(tmp_path, *flags, name="out"):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    settings = [*SMALL, "--data", tmp_path / "text.txt", "--out", tmp_path / name, *flags]
    return demo.main([str(flag) for flag in settings])


def model_of(cell="gru", layers=1):
    return demo.CharLM(5, 6, cell, layers, dropout=0.0)


# ---- n-grams ----


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@given(ids, ids, st.integers(1, 4))
def test_n_grams_are_probabilities(smoothing, train, history, order):
    """Summed over all that may come next they are 1, whatever came before."""
    nexts = [smoothing(np.array(train), np.array([*history, last]), 4, order) for last in range(4)]
    totals = np.sum([[p[-1] for p in found] for found in nexts], axis=0)
    np.testing.assert_allclose(totals, np.ones(order), rtol=1e-9)
    assert (np.array(nexts) > 0).all()


def counted_witten_bell(train, before, last, order, V):
    """The formula of the module, by counting in a list."""
    if order == 0:
        return 1 / V
    context = before[len(before) - (order - 1) :]
    shorter = counted_witten_bell(train, before, last, order - 1, V)
    followers = [
        train[i] for i in range(order - 1, len(train)) if train[i - order + 1 : i] == context
    ]
    D = len(set(followers))
    return (followers.count(last) + D * shorter) / (len(followers) + D) if followers else shorter


def counted_kneser_ney(train, before, last, order, V, continues=False):
    """The formula of the module, by counting in a list: N, or M if it `continues` a longer one."""
    if order == 0:
        return 1 / V
    grams = all_of_length(train, order)
    counts = {gram: grams.count(gram) for gram in grams}
    if continues:
        longer = set(all_of_length(train, order + 1))
        counts = {gram: sum(one[1:] == gram for one in longer) for gram in grams}
    once, twice = (list(counts.values()).count(k) for k in (1, 2))
    d = (once + 1) / (once + 2 * twice + 2)
    context = all_of_length([*before, last], order)[-1][:-1]
    here = {gram[-1]: n for gram, n in counts.items() if gram[:-1] == context}
    shorter = counted_kneser_ney(train, before, last, order - 1, V, continues=True)
    if not here:
        return shorter
    return (max(here.get(last, 0) - d, 0) + d * len(here) * shorter) / sum(here.values())


def all_of_length(text, n):
    """The n-grams that end at each place; before the text there is nothing, None."""
    padded = [None] * (n - 1) + text
    return [tuple(padded[i : i + n]) for i in range(len(text))]


@given(ids, ids)
def test_witten_bell_is_its_formula(train, held):
    found = _ngrams.witten_bell(np.array(train), np.array(held), 4, 3)
    everything = train + held
    for order, p in enumerate(found, 1):
        for i in range(len(held)):
            before = everything[: len(train) + i]
            if len(before) >= order - 1:
                expected = counted_witten_bell(train, before, held[i], order, 4)
                assert p[i] == pytest.approx(expected, rel=1e-9)


@given(ids, ids)
def test_kneser_ney_is_its_formula(train, held):
    found = _ngrams.kneser_ney(np.array(train), np.array(held), 4, 3)
    everything = train + held
    for order, p in enumerate(found, 1):
        for i in range(len(held)):
            expected = counted_kneser_ney(train, everything[: len(train) + i], held[i], order, 4)
            assert p[i] == pytest.approx(expected, rel=1e-9), (order, i)


# ---- the model ----


@given(st.integers(2, 60), st.integers(1, 4), st.integers(1, 7))
def test_windows_are_streams_of_the_text_and_what_comes_next(n, streams, bptt):
    text = np.arange(n)
    parts = demo.windows(text, streams, bptt)
    length = (n - 1) // streams
    if not length:
        assert not parts
        return
    x, y = (np.concatenate(column) for column in zip(*parts, strict=True))
    np.testing.assert_array_equal(x.T.ravel(), text[: length * streams])
    np.testing.assert_array_equal(y, x + 1)
    assert all(len(part) == bptt for part, _ in parts[:-1])


@pytest.mark.parametrize("cell", demo.LAYERS)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_state_carried_from_window_to_window_changes_nothing(cell, layers):
    model, x = model_of(cell, layers), tg.default_rng().integers(0, 5, (7, 3))
    whole, _ = model(x)
    first, state = model(x[:4])
    second, _ = model(x[4:], state)
    np.testing.assert_allclose(tg.concatenate([first, second]).array, whole.array, atol=1e-6)


def test_what_a_text_costs_is_the_mean_over_its_characters_whatever_the_windows():
    model, text = model_of(), tg.default_rng().integers(0, 5, 131)  # a window of 100, one of 30
    logits, _ = model(text[:-1, None])
    expected = tg.cross_entropy(logits[:, 0], text[1:]).item()
    assert demo.evaluate(model, text) == pytest.approx(expected, abs=1e-6)


def test_what_is_validated_on_is_the_last_tenth_which_is_not_trained_on(tmp_path, monkeypatch):
    parts, train = [], demo.train

    def seen(model, ids, valid, *rest):
        parts.extend([ids, valid])
        return train(model, ids, valid, *rest)

    monkeypatch.setattr(demo, "train", seen)
    assert run(tmp_path, "--epochs", 1) == 0
    ids, valid = parts
    chars = sorted(set(TEXT))
    assert "".join(chars[i] for i in [*ids, *valid[1:]]) == TEXT
    assert valid[0] == ids[-1] and len(ids) == int(0.9 * len(TEXT))


@pytest.mark.parametrize("cell", demo.LAYERS)
def test_the_gradient_norms_are_those_of_a_shifted_state(cell):
    """By differences: how E^T changes when h^t is moved, in one stream."""
    model, T = model_of(cell), 4
    for w in model.parameters():
        w.array = w.array.astype(np.float64)
    x = tg.default_rng().integers(0, 5, (T + 1, 1))
    found = demo.gradient_norms(model, x[:, 0], T)
    for t in range(1, T):
        _, state = model(x[:t])
        gradient = []
        for k in range(6):
            E = []
            for step in (1e-5, -1e-5):
                h = demo.hidden(state).array.copy()
                h[0, 0, k] += step
                moved = (h, *state[1:]) if isinstance(state, tuple) else h
                logits, _ = model(x[t:T], moved)
                E.append(tg.cross_entropy(logits[-1], x[T]).item())
            gradient.append((E[0] - E[1]) / 2e-5)
        assert found[t - 1] == pytest.approx(np.linalg.norm(gradient), rel=1e-4)


# ---- training: it can be stopped ----


class Stopped(Exception):
    """What ends a run in the middle."""


def test_a_stopped_run_that_goes_on_ends_with_the_same_bits(tmp_path, monkeypatch):
    assert run(tmp_path, "--epochs", 3, name="whole") == 0
    evaluate, calls = demo.evaluate, []

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) == 2:  # when the second epoch has been read
            raise Stopped
        return evaluate(*arguments)

    monkeypatch.setattr(demo, "evaluate", stopped)
    with pytest.raises(Stopped):
        run(tmp_path, "--epochs", 3, name="parts")
    monkeypatch.setattr(demo, "evaluate", evaluate)
    assert run(tmp_path, "--epochs", 3, "--resume", name="parts") == 0
    whole, parts = (tg.load(tmp_path / name / "model.npz") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    for name in ("loss.csv", "gradient_norms.csv"):
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_epochs_give_the_same_weights_again_and_another_seed_others(tmp_path):
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        assert run(tmp_path, "--epochs", 1, "--seed", seed, name=name) == 0
    a, b, c = (tg.load(tmp_path / name / "model.npz")["embed.weight"] for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_init_from_begins_with_the_weights_of_another_run(tmp_path, capsys):
    assert run(tmp_path, "--epochs", 4, name="a") == 0
    first = ["--epochs", 1, "--lr", 1e-9]
    assert run(tmp_path, *first, "--init-from", tmp_path / "a" / "model.npz", name="b") == 0
    assert run(tmp_path, *first, name="c") == 0
    a, b, c = (tg.load(tmp_path / name / "model.npz")["embed.weight"] for name in "abc")
    assert abs(a - b).max() < 1e-6 < abs(a - c).max()
    capsys.readouterr()
    wrong = ["--hidden-size", 9, "--init-from", tmp_path / "a" / "model.npz"]
    assert run(tmp_path, *wrong, name="d") == 1
    assert "embed.weight" in capsys.readouterr().err
    (tmp_path / "other.txt").write_text(TEXT.replace("d", "q"), encoding="utf-8")
    other = ["--data", tmp_path / "other.txt", "--init-from", tmp_path / "a" / "model.npz"]
    assert run(tmp_path, *other, name="e") == 1
    assert "number 5 of its characters is 'd', and here 'e'" in capsys.readouterr().err


def test_the_curve_has_a_point_for_every_epoch_and_metrics_agree(tmp_path):
    assert run(tmp_path, "--epochs", 3) == 0
    rows = (tmp_path / "out" / "loss.csv").read_text().splitlines()[1:]
    steps = len(demo.windows(np.zeros(int(0.9 * len(TEXT))), 4, 8))
    assert [int(row.split(",")[0]) for row in rows] == [e * steps * 32 for e in (1, 2, 3)]
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    logged = [-line["validation"] for line in map(json.loads, lines) if "epoch" in line]
    assert [float(row.split(",")[2]) for row in rows] == logged


# ---- samples ----


class Counting:
    """A model that goes through five characters in a circle, and nearly always so."""

    def eval(self):
        pass

    def __call__(self, ids, state=None):
        steps = np.zeros((1, ids.shape[1], 1)) if state is None else state
        logits = np.full((*ids.shape, 5), -20.0)
        np.put_along_axis(logits, ((ids + 1) % 5)[..., None], 20.0, axis=-1)
        return tg.tensor(logits), tg.tensor(steps + len(ids)) if state is None else state


class Settings:
    """The flags of a sample."""

    def __init__(self, **changed):
        self.sample, self.temperature, self.top_k, self.top_p, self.seed = 8, 1.0, None, None, 0
        vars(self).update(changed)


@pytest.mark.parametrize("prime", [[3], [0, 1, 2]])
def test_a_sample_goes_on_after_the_prime(prime):
    drawn = demo.sample(Counting(), prime, Settings())
    assert drawn == [(prime[0] + i) % 5 for i in range(len(prime) + 8)]


@pytest.mark.parametrize("cell", demo.LAYERS)
@pytest.mark.parametrize("flags", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}])
def test_the_narrowest_choice_is_the_likeliest_character_after_all_before(cell, flags):
    model = model_of(cell, layers=2)
    drawn = demo.sample(model, [1, 4, 2], Settings(**flags))
    for t in range(3, len(drawn)):
        logits, _ = model(np.array(drawn[:t])[:, None])
        assert drawn[t] == logits.array[-1, 0].argmax()


def test_the_flags_of_a_sample_are_those_of_the_search(tmp_path, capsys):
    flags = ["--epochs", 2, "--prime", "the cat", "--top-k", 1, "--top-p", 1, "--sample", 12]
    assert run(tmp_path, *flags) == run(tmp_path, *flags, "--seed", 3, name="b") == 0
    out = capsys.readouterr().out
    sampled = [line for line in out.splitlines() if line.startswith("the cat")]
    assert len(sampled) == 2 and all(len(line) == len("the cat") + 12 for line in sampled)
    assert run(tmp_path, "--prime", "Ω") == 1
    assert "Ω" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["--top-k", "0"], ["--top-p", "1.5"], ["--top-p", "0"], ["--minutes", "-1"]]
)
def test_wrong_arguments_are_refused(flags, tmp_path):
    with pytest.raises(SystemExit) as refused:
        run(tmp_path, *flags)
    assert refused.value.code == 2


# ---- the exercise ----


@tg.no_grad()
def reference(model, ids):
    """-log p of every character but the first."""
    model.eval()
    logits, _ = model(ids[:-1, None])
    log_p = tg.log_softmax(logits[:, 0]).numpy()
    return -log_p[np.arange(len(ids) - 1), ids[1:]]


surprise = getattr(demo, "surprise", reference)  # the learner's, once it is there


@pytest.mark.parametrize("cell", demo.LAYERS)
def test_surprise_adds_up_to_what_the_text_costs(cell):
    """By the chain rule its sum is that of each next character after each beginning."""
    model, text = model_of(cell), tg.default_rng().integers(0, 5, 9)
    found = surprise(model, text)
    assert np.shape(found) == (8,)
    for t in range(1, 9):
        logits, _ = model(text[:t, None])
        expected = tg.cross_entropy(logits[-1], text[t : t + 1]).item()
        assert found[t - 1] == pytest.approx(expected, abs=1e-5)
    assert np.mean(found) == pytest.approx(demo.evaluate(model, text), abs=1e-5)
    assert math.isfinite(found.sum())
