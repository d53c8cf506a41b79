"""Laws of beam search and greedy choice: against all sequences there are, and a plain search."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import decode, nn

from .lookup import INF, Table, chain, problems, whole

penalties = st.sampled_from([0.0, 0.5, 1.0, 2.0])


def found_by(model, end, inputs=None, **settings):
    """Tokens and scores of the beam search for each input; None where it finds nothing."""
    try:
        found = decode.beam_search(
            model.step, **model.start(inputs), steps=model.steps, end=end, **settings
        )
    except tg.DecodeError:
        return None
    return [[whole(h, end) for h in one] for one in found]


# ---- beam search --------------------------------------------------------------------------------


@given(problems(), penalties)
def test_a_wide_beam_finds_all_sequences_in_order(problem, penalty):
    model, end = problem
    expected = [model.everything(b, end, penalty) for b in range(model.B)]
    found = found_by(model, end, beam=model.V**model.steps * 2, length_penalty=penalty)
    assert found == (expected if all(expected) else None)


@given(problems(), penalties, st.integers(1, 6))
def test_a_narrow_beam_finds_what_the_plain_search_finds(problem, penalty, beam):
    model, end = problem
    expected = [model.plain_beam(b, beam, end, penalty) for b in range(model.B)]
    found = found_by(model, end, beam=beam, length_penalty=penalty)
    assert found == (expected if all(expected) else None)


@given(problems(), penalties, st.integers(1, 6))
def test_results_are_sorted_distinct_ended_once_and_add_up(problem, penalty, beam):
    model, end = problem
    settings = {"steps": model.steps, "end": end, "beam": beam, "length_penalty": penalty}
    try:
        found = decode.beam_search(model.step, **model.start(), **settings)
    except tg.DecodeError:
        return
    assert len(found) == model.B
    for b, one in enumerate(found):
        assert 1 <= len(one) <= beam
        assert [h.score for h in one] == sorted([h.score for h in one], reverse=True)
        assert len({whole(h, end)[0] for h in one}) == len(one)
        for h in one:
            tokens, _ = whole(h, end)
            assert end not in h.tokens
            assert h.finished or len(h.tokens) == model.steps
            assert len(h.token_scores) == len(tokens) <= model.steps
            assert list(h.token_scores) == model.scores(b, tokens)
            total = list(itertools.accumulate(h.token_scores))[-1]
            assert h.score == total / len(tokens) ** penalty > -INF
            assert all(type(x) is int for x in h.tokens) and type(h.score) is float


@given(problems(), st.integers(1, 4), st.data())
def test_an_input_is_searched_as_if_it_were_alone(problem, beam, data):
    model, end = problem
    inputs = data.draw(st.lists(st.integers(0, model.B - 1), min_size=1, max_size=4))
    alone = [found_by(model, end, [b], beam=beam) for b in inputs]
    together = found_by(model, end, inputs, beam=beam)
    assert together == (None if None in alone else [one for (one,) in alone])


@given(problems())
def test_a_beam_of_one_is_greedy(problem):
    model, end = problem
    try:
        expected = [
            [h] for h in decode.greedy(model.step, **model.start(), steps=model.steps, end=end)
        ]
    except tg.DecodeError:
        expected = None
    try:
        found = decode.beam_search(
            model.step, **model.start(), steps=model.steps, end=end, beam=1, length_penalty=0.0
        )
    except tg.DecodeError:
        found = None
    assert found == expected


@given(problems())
def test_greedy_takes_the_most_probable_token_the_first_of_equals(problem):
    model, end = problem
    expected = []
    for b in range(model.B):
        tokens = ()
        while len(tokens) < model.steps and end not in tokens:
            following = [model.scores(b, (*tokens, v))[-1] for v in range(model.V)]
            tokens = (*tokens, following.index(max(following)))
        expected.append((tokens, list(itertools.accumulate(model.scores(b, tokens)))[-1]))
    try:
        found = decode.greedy(model.step, **model.start(), steps=model.steps, end=end)
    except tg.DecodeError:
        assert min(score for _, score in expected) == -INF
    else:
        assert [whole(h, end) for h in found] == expected


def test_a_later_token_can_put_a_worse_beginning_first():
    after = [np.log([[0.6, 0.4]]), np.log([[0.55, 0.45], [0.1, 0.9]])]

    def step(tokens, t):
        return after[t][tokens], t + 1

    (one,) = decode.greedy(step, 0, [0], steps=2)
    assert one.tokens == (0, 0)
    ((best, second),) = decode.beam_search(step, 0, [0], beam=2, steps=2)
    assert (best.tokens, second.tokens) == ((1, 1), (0, 0))
    np.testing.assert_allclose(np.exp([best.score, second.score]), [0.4 * 0.9, 0.6 * 0.55])


def test_without_an_end_scores_may_be_any_numbers():
    model = Table(0, 2, 3, 4)
    model.tables = [x + 5 for x in model.tables]
    expected = [model.everything(b, None)[:5] for b in range(2)]
    found = found_by(model, None, beam=81)
    assert [one[:5] for one in found] == expected


def test_of_equals_the_shorter_comes_first_then_the_better_beginning_then_the_lower_id():
    rows = [[-1.0, -1.0, -2.0], [-1.0, -0.0, -1.0]]  # the end is token 2
    (found,) = decode.beam_search(chain(rows), 0, [0], beam=9, steps=2, end=2)
    assert [whole(h, 2)[0] for h in found] == [
        (0, 1), (1, 1),  # -1
        (2,), (0, 0), (0, 2), (1, 0), (1, 2),  # -2, in the order in which they are found
    ]  # fmt: skip


def test_an_empty_result_is_one_that_ended_at_once():
    (found,) = decode.beam_search(chain([[-1.0, -0.5]]), 0, [0], beam=2, steps=1, end=1)
    assert found == [
        decode.Hypothesis((), -0.5, (-0.5,), True),
        decode.Hypothesis((0,), -1.0, (-1.0,), False),
    ]


# ---- when it stops ------------------------------------------------------------------------------


def calls(rows, **settings):
    """How many steps a search over such a chain takes, and what it finds."""
    counted = []

    def step(tokens, t):
        counted.append(len(tokens))
        return chain(rows)(tokens, t)

    (found,) = decode.beam_search(step, 0, [0], end=1, **settings)
    return len(counted), found


def test_it_stops_once_no_unfinished_hypothesis_can_come_among_the_best():
    rows = [[-3.0, -0.5], *[[-0.5, -3.0]] * 99]
    assert calls(rows, beam=1, steps=100)[0] == 1
    # Results of -0.5 and, after two steps, -6; what goes on has -3.5 by then, and -6 after seven.
    count, found = calls(rows, beam=2, steps=100)
    assert count == 7
    assert [whole(h, 1) for h in found] == [((1,), -0.5), ((0, 1), -6.0)]


def test_with_a_penalty_it_goes_on_while_a_mean_can_still_rise():
    # After two steps there are means of -0.5 and -1.55, and what goes on has -2.75; but only then.
    rows = [[-3.0, -0.5], [-2.5, -0.1], *[[-0.01, -9.0]] * 98]
    count, found = calls(rows, beam=2, steps=100, length_penalty=1.0)
    assert count == 100
    assert [whole(h, 1)[0] for h in found] == [(0,) * 100, (0,) * 99 + (1,)]
    np.testing.assert_allclose([h.score for h in found], [-6.48 / 100, -15.47 / 100])
    # Over five steps a mean can become -1.1 at best, over three -1.83, and that is too little.
    assert calls(rows, beam=2, steps=5, length_penalty=1.0)[0] == 5
    assert calls(rows, beam=2, steps=3, length_penalty=1.0)[0] == 2


def test_it_goes_on_while_one_can():
    rows = [[-2.0, -0.5], [-0.5, -3.0], [-0.5, -0.5]]
    count, found = calls(rows, beam=2, steps=3)
    assert count == 3
    assert [whole(h, 1) for h in found] == [((1,), -0.5), ((0, 0, 0), -3.0)]


def test_what_is_finished_is_not_asked_again():
    model = Table(1, 3, 4, 4)
    decode.beam_search(model.step, **model.start(), beam=4, steps=4, end=0)
    unfinished = [1, 3, 9, 27]  # that there are at all
    assert all(n <= 3 * min(4, most) for n, most in zip(model.rows, unfinished))

    model = Table(1, 3, 4, 4)
    found = decode.greedy(model.step, **model.start(), steps=4, end=0)
    lengths = [len(h.token_scores) for h in found]
    assert model.rows == [sum(t < n for n in lengths) for t in range(max(lengths))]


def test_no_inputs_give_no_results_and_no_steps():
    model = Table(0, 1, 2, 2)
    none = model.start([])
    assert decode.beam_search(model.step, **none, beam=2, steps=2) == []
    assert decode.greedy(model.step, **none, steps=2) == []
    assert model.rows == []


# ---- with a cell, on a device, unrecorded -------------------------------------------------------


class Writer(nn.Module):
    """A small language model: table, LSTM cell, read-out."""

    def __init__(self, V, D=3, H=4):
        rng = np.random.default_rng(5)
        self.table, self.cell = nn.Embedding(V, D, rng=rng), nn.LSTMCell(D, H, rng=rng)
        self.readout = nn.Linear(H, V, rng=rng)
        for module in (self.table, self.cell, self.readout):
            for name, x in module.named_parameters():
                setattr(module, name, tg.tensor(2.0 * rng.normal(size=x.shape), requires_grad=True))

    def forward(self, tokens, state):
        h, c = self.cell(self.table(tokens), state)
        return tg.log_softmax(self.readout(h)), (h, c)

    def scores(self, state, tokens):
        """The log-probability of each token after those before it, one example by itself."""
        found, last = [], 0
        for token in tokens:
            log_probs, state = self(np.array([last]), state)
            found.append(float(log_probs.array[0, token]))
            last = token
        return found


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_an_lstm_is_searched_with_the_right_state_for_every_hypothesis(penalty):
    V, B, steps, end = 3, 2, 4, 1
    model, rng = Writer(V), np.random.default_rng(0)
    h, c = rng.normal(size=(B, 4)), rng.normal(size=(B, 4))
    found = decode.beam_search(
        model, (tg.tensor(h, requires_grad=True), tg.tensor(c)), [0] * B,
        beam=60, steps=steps, end=end, length_penalty=penalty,
    )  # fmt: skip
    for b, one in enumerate(found):
        expected = {}
        for L in range(1, steps + 1):
            for tokens in itertools.product(range(V), repeat=L):
                if end not in tokens[:-1] and (tokens[-1] == end or len(tokens) == steps):
                    scores = model.scores((h[b : b + 1], c[b : b + 1]), tokens)
                    expected[tokens] = sum(scores) / L**penalty
        best = sorted(expected, key=lambda tokens: -expected[tokens])
        assert [whole(h, end)[0] for h in one] == best
        np.testing.assert_allclose([h.score for h in one], [expected[x] for x in best], rtol=1e-9)


def test_a_state_may_begin_as_none():
    model = Writer(4)
    ((best, *_),) = decode.beam_search(model, None, [0], beam=3, steps=5)
    np.testing.assert_allclose(best.token_scores, model.scores(None, best.tokens), rtol=1e-9)


def test_nothing_is_recorded():
    model, seen = Writer(3), []

    def step(tokens, state):
        log_probs, (h, c) = model(tokens, state)
        seen.append(log_probs.requires_grad or h.requires_grad)
        return log_probs, (h, c)

    h = tg.tensor(np.zeros((1, 4)), requires_grad=True)
    decode.beam_search(step, (h, h), [0], beam=2, steps=3)
    decode.greedy(step, (h, h), [0], steps=3)
    decode.sample(step, (h, h), [0], steps=3)
    assert len(seen) == 9 and not any(seen)


class Pair(NamedTuple):
    code: object
    t: int


def test_a_state_keeps_its_form_and_is_not_changed():
    codes = np.arange(2)

    def step(tokens, state):
        assert isinstance(state, Pair)
        state.code[:] += 10  # a step function that writes into what it is given
        return np.log(np.full((len(tokens), 3), 1 / 3)), state._replace(t=state.t + 1)

    decode.beam_search(step, Pair(codes, 0), [0, 0], beam=3, steps=3)
    assert codes.tolist() == [0, 1]


def test_rows_of_a_state_may_be_python_objects():
    # A grammar: as many closing brackets, 1, as opening ones, 0, and then the end, 2.
    def step(tokens, stacks):
        grown = np.empty(len(tokens), object)
        for i, (token, stack) in enumerate(zip(tokens, stacks, strict=True)):
            grown[i] = {0: (*stack, "("), 1: stack[:-1], 2: stack}[int(token)]
        log_probs = np.log(np.tile([0.3, 0.5, 0.2], (len(tokens), 1)))
        for i, stack in enumerate(grown):
            log_probs[i, 2 if stack else 1] = -INF
        return log_probs, grown

    stacks = np.empty(1, object)
    stacks[0] = ()
    (found,) = decode.beam_search(step, stacks, [2], beam=100, steps=7, end=2)
    texts = ["".join("()"[token] for token in h.tokens) for h in found if h.finished]
    assert sorted(texts, key=lambda x: (len(x), x)) == [
        "", "()", "(())", "()()", "((()))", "(()())", "(())()", "()(())", "()()()",
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_scores_are_summed_in_float64(dtype):
    row = np.log(np.array([0.3, 0.7])).astype(dtype)
    steps = 300

    def step(tokens, t):
        return np.tile(row, (len(tokens), 1)), None

    (one,) = decode.greedy(step, None, [0], steps=steps)
    ((best, _),) = decode.beam_search(step, None, [0], beam=2, steps=steps)
    assert one == best
    np.testing.assert_allclose(best.score, steps * float(row[1]), rtol=1e-12)


@given(
    st.lists(st.sampled_from([-np.inf, -2.0, -1.5, -1.0, 0.0]), min_size=1, max_size=40),
    st.integers(1, 45),
)
def test_the_greatest_are_those_of_a_stable_sort_of_all(values, count):
    x = np.array(values)
    np.testing.assert_array_equal(
        decode._ranked(x, count), sorted(range(len(x)), key=lambda i: -x[i])[:count]
    )
