"""Laws of the conditional random field, against the sum over all sequences of tags."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn

K = 3


@st.composite
def fields(draw):
    """A field in float64, lengths, and scores."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    crf = nn.CRF(K, rng=rng)
    for p in crf.parameters():
        p.array = rng.normal(size=p.shape)
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    return crf, lengths, rng.normal(size=(sum(lengths), K)), rng


def score(crf, x, y):
    """The score of tags ``y`` by its definition."""
    moves = crf.transitions.array
    total = crf.start.array[y[0]] + crf.end.array[y[-1]] + sum(x[t, y[t]] for t in range(len(y)))
    return total + sum(moves[a, b] for a, b in pairwise(y))


def every(crf, x):
    """All sequences of tags with their scores."""
    return {y: score(crf, x, y) for y in product(range(K), repeat=len(x))}


@given(fields())
def test_the_probability_is_that_of_the_sum_over_all_sequences(drawn):
    crf, lengths, x, rng = drawn
    tags = rng.integers(0, K, len(x))
    found = crf(tg.Tensor(x), tags, lengths).array
    ends = np.cumsum(lengths)
    for b, (end, n) in enumerate(zip(ends, lengths, strict=True)):
        scores = every(crf, x[end - n : end])
        expected = scores[tuple(tags[end - n : end])] - np.log(np.sum(np.exp([*scores.values()])))
        np.testing.assert_allclose(found[b], expected, rtol=1e-10)


@given(fields())
def test_decoding_finds_the_best_of_all_sequences(drawn):
    crf, lengths, x, _ = drawn
    ends = np.cumsum(lengths)
    for y, end, n in zip(crf.decode(x, lengths), ends, lengths, strict=True):
        scores = every(crf, x[end - n : end])
        assert scores[tuple(y)] == pytest.approx(max(scores.values()), rel=1e-12)


@given(fields())
def test_beam_search_over_its_scores_finds_what_viterbi_finds(drawn):
    crf, lengths, x, _ = drawn
    n, moves = lengths[0], crf.transitions.array

    def step(tokens, t):
        if t == 0:
            scores = np.tile(crf.start.array + x[0], (len(tokens), 1))
        else:
            scores = moves[tokens] + x[t]
        return scores + (crf.end.array if t == n - 1 else 0.0), t + 1

    (best, *_), *_ = tg.decode.beam_search(step, 0, [0], beam=K**n, steps=n)
    assert list(best.tokens) == crf.decode(x, lengths)[0].tolist()


@settings(max_examples=settings.default.max_examples // 10)
@given(fields())
def test_gradients_are_right_to_second_order(drawn):
    crf, lengths, x, rng = drawn
    tags = rng.integers(0, K, len(x))
    xs = tg.tensor(x, requires_grad=True)
    inputs = [xs, *crf.parameters()]
    tg.gradcheck(lambda: crf(xs, tags, lengths), inputs, order=2, method="complex")


@pytest.mark.parametrize(
    ("x", "tags", "lengths", "words"),
    [
        (np.zeros((4, 2)), [0, 1, 2, 0], [4], r"expected: \(steps=4, tags=3\)"),
        (np.zeros((4, 3)), [0, 1, 2], [4], r"expected: integers \(steps=4,\)"),
        (np.zeros((4, 3)), [0, 1, 2, 3], [4], "0 <= tag < 3"),
        (np.zeros((4, 3)), [0, 1, 2, 2], [2, 1], r"expected: \(steps=3, tags=3\)"),
    ],
)
def test_what_does_not_fit_is_refused(x, tags, lengths, words):
    with pytest.raises(tg.TinygradRNNError, match=words):
        nn.CRF(K)(x, tags, lengths)
