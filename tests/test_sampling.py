"""Laws of sampling, and what decoding refuses."""

import math
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import decode

from .lookup import INF, Table, chain, problems, seeds, whole

# ---- sampling -----------------------------------------------------------------------------------


class Evenly:
    """In place of a generator: numbers spread evenly over 0 .. 1, so that frequencies are exact."""

    def random(self, shape):
        return ((np.arange(shape[0]) + 0.5) / shape[0]).reshape(shape)


def distribution(log_probs, temperature=1.0, top_k=None, top_p=None):
    """The probabilities of sampling, from their definition, as a list."""
    weights = [math.exp((x - max(log_probs)) / temperature) for x in log_probs]
    ranked = sorted(range(len(weights)), key=lambda v: (-log_probs[v], v))[:top_k]
    total = sum(weights[v] for v in ranked)
    kept = []
    for v in ranked:
        kept.append(v)
        if top_p is not None and sum(weights[u] for u in kept) / total >= top_p:
            break
    total = sum(weights[v] for v in kept)
    return [weights[v] / total if v in kept else 0.0 for v in range(len(weights))]


@given(
    seeds,
    st.integers(1, 7),
    st.floats(0.05, 4.0),
    st.none() | st.integers(1, 8),
    st.none() | st.floats(0.01, 0.99),
    st.booleans(),
)
def test_tokens_are_drawn_with_their_probabilities(seed, V, temperature, top_k, top_p, with_hole):
    row = np.random.default_rng(seed).normal(size=V)
    row -= np.log(np.exp(row).sum())
    if with_hole and V > 1:
        row[seed % V] = -INF
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    N = 1000
    found = decode.sample(chain([row]), 0, [0] * N, steps=1, rng=Evenly(), **settings)
    counts = np.bincount([h.tokens[0] for h in found], minlength=V)
    expected = np.array(distribution(row.tolist(), **settings))
    np.testing.assert_allclose(counts / N, expected, atol=1.001 / N)
    assert (expected[counts > 0] > 0).all()
    assert all(h.score == h.token_scores[0] == row[h.tokens[0]] for h in found)


def test_top_k_and_top_p_keep_the_first_of_equals_and_no_more_than_are_needed():
    row = np.log([0.125, 0.25, 0.125, 0.25, 0.25])

    def support(**settings):
        found = decode.sample(chain([row]), 0, [0] * 400, steps=1, rng=Evenly(), **settings)
        return sorted({h.tokens[0] for h in found})

    assert support(top_k=2) == [1, 3]
    assert support(top_k=4) == [0, 1, 3, 4]
    assert support(top_p=0.4) == [1, 3]
    assert support(top_p=0.7) == [1, 3, 4]
    assert support(top_p=0.8) == [0, 1, 3, 4]
    assert support(top_p=1e-9) == [1]
    assert support(top_p=1.0) == [0, 1, 2, 3, 4]
    assert support(top_k=3, top_p=0.6) == [1, 3]  # 2/3 of what top_k leaves
    assert support(top_k=9) == [0, 1, 2, 3, 4]


def surprise(found, expected):
    """The chi-square statistic of sequences, divided so that its mean is about 0, its deviation 1.

    ``expected`` holds the probability of each sequence that is possible.
    """
    N, chi = len(found), 0.0
    for tokens, p in expected.items():
        chi += (found.count(tokens) - N * p) ** 2 / (N * p)
    freedom = len(expected) - 1
    return (chi - freedom) / math.sqrt(2 * freedom)


def test_sequences_come_with_the_frequency_of_their_probability():
    model, N = Table(4, 1, 3, 3), 6000
    model.tables = [x / 2 - np.log(np.exp(x / 2).sum(-1, keepdims=True)) for x in model.tables]
    expected = {tokens: math.exp(score) for tokens, score in model.everything(0, 1)}
    np.testing.assert_allclose(sum(expected.values()), 1)

    def drawn(**settings):
        rng = np.random.default_rng(0)
        found = decode.sample(
            model.step, **model.start([0] * N), steps=3, end=1, rng=rng, **settings
        )
        assert all(list(h.token_scores) == model.scores(0, whole(h, 1)[0]) for h in found[:50])
        return [whole(h, 1)[0] for h in found]

    assert abs(surprise(drawn(), expected)) < 3
    assert surprise(drawn(temperature=1.2), expected) > 10  # so the test would see it
    hot = [x / 1.7 - np.log(np.exp(x / 1.7).sum(-1, keepdims=True)) for x in model.tables]
    found = drawn(temperature=1.7)
    model.tables = hot
    expected = {tokens: math.exp(score) for tokens, score in model.everything(0, 1)}
    assert abs(surprise(found, expected)) < 3


@given(problems(("normal", "holes")), st.sampled_from([1e-2, 1e-6, 1e-300]))
def test_sampling_at_a_low_temperature_is_greedy(problem, temperature):
    model, end = problem
    for x in model.tables:  # no two tokens so near each other that 0.01 would tell them apart
        x[:] = np.where(np.isneginf(x), x, np.argsort(np.argsort(x)) - model.V)
    settings = {"steps": model.steps, "end": end}
    try:
        expected = decode.greedy(model.step, **model.start(), **settings)
    except tg.DecodeError:
        return
    found = decode.sample(model.step, **model.start(), temperature=temperature, **settings)
    assert found == expected


def test_a_seed_means_the_same_samples():
    model = Table(0, 3, 4, 4)

    def drawn(rng=None):
        return decode.sample(model.step, **model.start(), steps=4, end=0, rng=rng)

    assert drawn(np.random.default_rng(3)) == drawn(np.random.default_rng(3))
    tg.manual_seed(3)
    assert drawn(np.random.default_rng(3)) == drawn()  # the package's generator


# ---- what is refused ----------------------------------------------------------------------------

GOOD = np.log(np.full((1, 3), 1 / 3))


def with_step(log_probs, state=None):
    return lambda tokens, _: (log_probs, state)


def at_second_step(log_probs):
    return lambda tokens, t: (GOOD if t == 0 else log_probs, t + 1)


REFUSED = {
    "no pair": (lambda tokens, state: GOOD, {}, tg.DtypeError, "a pair"),
    "a list": (with_step([[0.0]]), {}, tg.DtypeError, "floating point"),
    "integers": (with_step(np.zeros((1, 3), int)), {}, tg.DtypeError, "floating point"),
    "one row for all": (with_step(GOOD[0]), {}, tg.ShapeError, r"\(1, V\)"),
    "too many rows": (with_step(np.tile(GOOD, (2, 1))), {}, tg.ShapeError, r"\(1, V\)"),
    "no tokens": (with_step(np.zeros((1, 0))), {}, tg.ShapeError, r"\(1, V\)"),
    "other tokens": (at_second_step(GOOD[:, :2]), {}, tg.ShapeError, r"step 2.*\n.*\(1, 3\)"),
    "NaN": (with_step(GOOD * np.nan), {}, tg.NonFiniteError, "row 0"),
    "inf": (with_step(-GOOD * INF), {}, tg.NonFiniteError, "row 0"),
    "logits": (with_step(GOOD + 3.0), {"end": 0}, tg.DecodeError, "log_softmax"),
    "nothing allowed": (with_step(GOOD * INF), {}, tg.DecodeError, "input 0.*step 1"),
    "nothing more": (at_second_step(GOOD * INF), {}, tg.DecodeError, "input 0.*step 2"),
    "state": (with_step(GOOD, np.zeros(3)), {}, tg.ShapeError, r"of the state.*\n.*\(1,"),
    "end outside": (with_step(GOOD), {"end": 3}, tg.IndexRangeError, "0 <= end < 3"),
    "end below": (with_step(GOOD), {"end": -1}, tg.IndexRangeError, "0 <= end < 3"),
    "end a word": (with_step(GOOD), {"end": "</s>"}, tg.DtypeError, "end is str"),
    "no steps": (with_step(GOOD), {"steps": 0}, tg.SettingError, "steps is 0"),
    "half a step": (with_step(GOOD), {"steps": 1.5}, tg.DtypeError, "steps is float 1.5"),
    "start a number": (with_step(GOOD), {"start": 0}, tg.DtypeError, r"start is .*\n.*\(B,\)"),
    "start floats": (with_step(GOOD), {"start": [0.0]}, tg.DtypeError, "start is float64"),
}


@pytest.mark.parametrize("how", ["greedy", "sample", "beam_search"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case, how):
    step, given, error, words = REFUSED[case]
    settings = {"start": [0], "steps": 2} | given | ({"beam": 1} if how == "beam_search" else {})
    with pytest.raises(error, match=f"^{how}: (.|\n)*{words}") as caught:
        getattr(decode, how)(step, 0, **settings)
    assert isinstance(caught.value, tg.TinygradRNNError) and "expected: " in str(caught.value)


@pytest.mark.parametrize(
    "how, setting, words",
    [
        ("beam_search", {"beam": 0}, "beam is 0"),
        ("beam_search", {"beam": 1, "length_penalty": -1.0}, "length_penalty is -1.0"),
        ("beam_search", {"beam": 1, "length_penalty": float("nan")}, "length_penalty is nan"),
        ("sample", {"temperature": 0}, "temperature is 0(.|\n)*greedy"),
        ("sample", {"temperature": -1.0}, "temperature is -1.0"),
        ("sample", {"temperature": float("nan")}, "temperature is nan"),
        ("sample", {"top_k": 0}, "top_k is 0"),
        ("sample", {"top_p": 0.0}, "top_p 0.0"),
        ("sample", {"top_p": 1.5}, "top_p 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(how, setting, words):
    with pytest.raises((tg.ShapeError, tg.SettingError, tg.DtypeError), match=f"^{how}: {words}"):
        getattr(decode, how)(with_step(GOOD), 0, [0], steps=1, **setting)


def test_one_input_that_is_stuck_is_named():
    log_probs = np.array([[-1.0, -2.0], [-INF, -INF], [-1.0, -INF]])
    for how, settings in [("greedy", {}), ("sample", {}), ("beam_search", {"beam": 2})]:
        with pytest.raises(tg.DecodeError, match=r"input 1 .* step 1\n"):
            getattr(decode, how)(with_step(log_probs), 0, [0] * 3, steps=1, **settings)


def test_a_forbidden_token_is_not_drawn_by_a_number_that_is_0():
    rng = types.SimpleNamespace(random=np.zeros)
    assert decode._drawn(np.array([[-np.inf, 0.0]]), 1.0, None, None, rng).tolist() == [1]
