"""Decoding: sequences out of any step function, by greedy choice, by sampling or by beam search.

A step function is one step of a model, for N unfinished hypotheses at once:

    log_probs, state = step(tokens, state)

``tokens`` (N,) is the last token of each, ``log_probs`` (N, V), an array or a Tensor, the natural
logarithm of the probability of every token that may come next, and ``state`` what the model has to
remember.  A state is an array or a Tensor with a row for each hypothesis (an array of objects, if
need be), or a tuple, NamedTuple, list or dict of states; anything else in it, such as None or the
number of the step, is passed on as it is, the same for all.  N changes from step to step: the rows
of a state follow their hypotheses, and those that have come to their end are not asked again.

A step function that gives a token the log-probability -inf forbids it, and so a grammar constrains
the search.  Nothing is recorded.  Scores are kept on the host, in float64: a model on a device is
waited for once a step, for its log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any, NamedTuple

import numpy as np

from .backend import backend_of
from .engine import TensorCore
from .errors import (
    DecodeError,
    DtypeError,
    IndexRangeError,
    NonFiniteError,
    SettingError,
    ShapeError,
    described,
    expect_count,
    expect_number,
)
from .random import given_rng
from .recording import no_grad

__all__ = ["Hypothesis", "beam_search", "greedy", "sample"]

Step = Callable[[Any, Any], tuple[Any, Any]]

_ROUNDING = 1e-3  # how far above 0 a log-probability of low precision may come out


class Hypothesis(NamedTuple):
    """A decoded sequence: its tokens, without start and without end, and what they scored.

    ``token_scores`` are the log-probabilities that the step function gave, one for each token and,
    if ``finished``, one more for the end.  ``score`` is their sum; in the results of a beam search
    with a length penalty it is divided by that.  ``finished`` tells whether the end was chosen, as
    opposed to the last step reached.
    """

    tokens: tuple[int, ...]
    score: float
    token_scores: tuple[float, ...]
    finished: bool


@no_grad
def greedy(
    step: Step, state: Any, start: Any, *, steps: int, end: int | None = None
) -> list[Hypothesis]:
    """The hypothesis of each input in which every token is the most probable one at its step.

    Of equally probable tokens it is the one with the lowest id.  Arguments, ends and errors are
    those of ``beam_search``, which with a beam of 1 finds the same.
    """
    return _one_path(_Model("greedy", step, state, start, steps, end), lambda x: x.argmax(axis=1))


@no_grad
def sample(
    step: Step,
    state: Any,
    start: Any,
    *,
    steps: int,
    end: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: np.random.Generator | None = None,
) -> list[Hypothesis]:
    """A hypothesis for each input in which every token is drawn at random.

        q_v  is proportional to  exp(log_probs_v / temperature)

    for the ``top_k`` most probable tokens, equals by lower id (Fan et al. 2018), and of those only
    for the fewest, most probable first, whose q sum to ``top_p`` at least (Holtzman et al. 2020).
    With a low temperature the choice becomes that of ``greedy``.  The scores are those of the step
    function, not log q.  For several samples of an input, give it several rows.

    ``rng`` is a generator on the host, which gives a number for each unfinished hypothesis at each
    step; the default one of the package if it is left out.  Other arguments and errors are those of
    ``beam_search``; SettingError unless ``0 < temperature``, ``1 <= top_k`` and ``0 < top_p <= 1``.
    """
    if not expect_number("sample", "temperature", temperature, hint="1 is the model as it is"):
        raise SettingError(
            "sample: temperature is 0\n  expected: above 0\n  hint: greedy() is the limit at 0"
        )
    if top_p is not None and not 0 < top_p <= 1:
        raise SettingError(
            f"sample: top_p {top_p}\n  expected: 0 < top_p <= 1\n"
            "  hint: top_p=None, or 1, keeps every token"
        )
    if top_k is not None:
        expect_count("sample", "top_k", top_k)
    rng = given_rng(rng)
    model = _Model("sample", step, state, start, steps, end)
    return _one_path(model, lambda x: _drawn(x, temperature, top_k, top_p, rng))


@no_grad
def beam_search(
    step: Step,
    state: Any,
    start: Any,
    *,
    beam: int,
    steps: int,
    end: int | None = None,
    length_penalty: float = 0.0,
) -> list[list[Hypothesis]]:
    """For each input the best hypotheses found, at most ``beam`` of them, best first.

        score = sum_t log_probs^t / L ** length_penalty        L: number of steps, the end counted

    ``start`` (B,) holds the first token of each input, which no hypothesis contains, and ``state``
    has a row for each.  Where ``start`` is, on the host or on a device, there are all ``tokens``
    that the step function gets.  A hypothesis is finished when it takes the token ``end``, and cut
    off after ``steps`` steps; both are results.  If ``end`` is None, all have ``steps`` tokens.

    At each step every unfinished hypothesis of an input is extended by every token, and the
    ``beam`` extensions with the greatest sums are kept; those that took the end are finished, the
    others are extended further (Sutskever et al. 2014).  So a beam as wide as there are sequences
    misses none, and a beam of 1 is greedy.  A penalty of 0 compares sums, which favours short
    hypotheses, and 1 compares means, by which longer ones lose nothing (cf. Wu et al. 2016, 7).

    Equal extensions are taken in the order of their parents, best first, then by lower id; of equal
    results the one found earlier comes first.  An input is settled as soon as it has ``beam``
    results, and the worst scores at least ``s / steps ** length_penalty``, with s the greatest sum
    of those unfinished: log-probabilities are at most 0, so no sum will exceed s, and no length
    divides by more.  This loses nothing that would be found by going on.

    Without ``end`` there is nothing to settle early, and any finite scores can take the place of
    log-probabilities: those of a conditional random field, say.  With it, DecodeError if one
    exceeds 0.

    Raises DecodeError for an input with no hypothesis left (all -inf), SettingError for settings;
    NonFiniteError for NaN or +inf; ShapeError or DtypeError for values of the step function that do
    not fit; IndexRangeError for an ``end`` outside 0 .. V - 1.
    """
    expect_count("beam_search", "beam", beam)
    hint = "0 compares sums, 1 compares means"
    expect_number("beam_search", "length_penalty", length_penalty, hint=hint)
    model = _Model("beam_search", step, state, start, steps, end)
    beams = [_Beam(beam, model, length_penalty) for _ in model.start]
    rows, tokens = np.arange(len(beams)), model.start
    while len(rows):
        log_probs = model(rows, tokens)
        parents, first = [], 0
        for i, one in enumerate(beams):
            last = first + len(one.live)
            if last > first:
                parents += [first + rank for rank in one.extend(log_probs[first:last])]
                if not one.live and not one.done:
                    raise model.stuck(i)
            first = last
        rows = np.array(parents, np.intp)
        tokens = np.array([h.tokens[-1] for one in beams for h in one.live], np.intp)
    return [one.done for one in beams]


class _Beam:
    """The hypotheses of one input, ``live`` and ``done``, each best first."""

    def __init__(self, width: int, model: _Model, length_penalty: float) -> None:
        self.width, self.steps, self.end = width, model.steps, model.end
        self.length_penalty = length_penalty
        self.live = [Hypothesis((), 0.0, (), False)]
        self.done: list[Hypothesis] = []

    def extend(self, log_probs: np.ndarray) -> list[int]:
        """Extend the live hypotheses; the ranks that the parents of the new ones had among them."""
        sums = np.array([[h.score] for h in self.live]) + log_probs  # (n, 1) + (n, V)
        parents, ranks, self.live = self.live, [], []
        for rank, token in _greatest(sums, self.width):
            scores = (*parents[rank].token_scores, float(log_probs[rank, token]))
            score, finished = float(sums[rank, token]), token == self.end
            tokens = parents[rank].tokens if finished else (*parents[rank].tokens, token)
            if finished or len(scores) == self.steps:
                score /= len(scores) ** self.length_penalty
                self.done.append(Hypothesis(tokens, score, scores, finished))
            else:
                self.live.append(Hypothesis(tokens, score, scores, False))
                ranks.append(rank)
        self.done = sorted(self.done, key=lambda h: -h.score)[: self.width]  # stable
        if self._is_settled():
            self.live, ranks = [], []
        return ranks

    def _is_settled(self) -> bool:
        """Whether nothing that is live can still come among the results."""
        if not self.live or len(self.done) < self.width:
            return False
        return self.done[-1].score >= self.live[0].score / self.steps**self.length_penalty


def _greatest(sums: np.ndarray, count: int) -> list[tuple[int, int]]:
    """The places of the ``count`` greatest ``sums`` above -inf, as ``_ranked`` orders them."""
    flat = sums.ravel()
    places = _ranked(flat, count)
    return [divmod(place, sums.shape[1]) for place in places[flat[places] > -np.inf].tolist()]


def _ranked(x: np.ndarray, count: int) -> np.ndarray:
    """The places of the ``count`` greatest in ``x`` (n,), greatest first; equals in their order.

    Written as a table, ``x`` has a greatest entry in each column.  That of the ``count``-th best
    column is no greater than the ``count``-th best of all, and what is below need not be sorted.
    """
    columns = max(count, isqrt(len(x)))
    rows = len(x) // columns
    places = np.arange(len(x))
    if rows > 1:
        tops = x[: rows * columns].reshape(rows, columns).max(axis=0)
        places = np.flatnonzero(x >= np.partition(tops, -count)[-count])
    return places[np.argsort(-x[places], kind="stable")][:count]


def _one_path(model: _Model, choose: Callable[[np.ndarray], np.ndarray]) -> list[Hypothesis]:
    """A hypothesis for each input, whose next token ``choose`` picks from the row (V,) of each."""
    inputs = np.arange(len(model.start))
    tokens: list[list[int]] = [[] for _ in inputs]
    scores: list[list[float]] = [[] for _ in inputs]
    sums, finished = np.zeros(len(inputs)), np.zeros(len(inputs), bool)
    rows, last = inputs, model.start
    for _ in range(model.steps):
        if not len(inputs):
            break
        log_probs = model(rows, last)
        stuck = np.isneginf(log_probs).all(axis=1)
        if stuck.any():
            raise model.stuck(int(inputs[stuck.argmax()]))
        last = choose(log_probs)
        picked = log_probs[np.arange(len(last)), last]
        sums[inputs] += picked
        finished[inputs] = last == model.end
        for i, token, score in zip(inputs.tolist(), last.tolist(), picked.tolist(), strict=True):
            tokens[i] += [] if finished[i] else [token]
            scores[i].append(score)
        rows = np.flatnonzero(last != model.end)
        inputs, last = inputs[rows], last[rows]
    found = zip(tokens, sums.tolist(), scores, finished.tolist(), strict=True)
    return [Hypothesis(tuple(a), total, tuple(b), ended) for a, total, b, ended in found]


def _drawn(
    log_probs: np.ndarray, temperature: float, top_k: int | None, top_p: float | None, rng: Any
) -> np.ndarray:
    """A token (N,) for each row: where a uniform number falls in the running sums of q.

    Tokens are in the order of their ids, or, where some are left out, greatest first.
    """
    order = None
    if top_k is not None or top_p is not None:
        order = np.array([_ranked(row, top_k or len(row)) for row in log_probs])
        log_probs = np.take_along_axis(log_probs, order, axis=1)
    log_q = log_probs.astype(np.float64)
    with np.errstate(over="ignore"):  # at a low temperature all but the greatest become -inf
        q = np.exp((log_q - log_q.max(axis=1, keepdims=True)) / temperature)
    sums = np.cumsum(q, axis=1)
    if top_p is not None:
        before = np.concatenate([np.zeros_like(sums[:, :1]), sums[:, :-1]], axis=1)
        q[before >= top_p * sums[:, -1:]] = 0.0
        sums = np.cumsum(q, axis=1)
    places = (sums <= rng.random((len(q), 1)) * sums[:, -1:]).sum(axis=1)
    return places if order is None else order[np.arange(len(q)), places]


class _Model:
    """A step function with the state it has come to; what it returns is checked."""

    def __init__(
        self, name: str, step: Step, state: Any, start: Any, steps: int, end: int | None
    ) -> None:
        if not callable(step):
            raise DtypeError(
                f"{name}: step is {described(step)}\n  expected: a function of (tokens, state)\n"
                "  hint: def step(tokens, state): return log_probs, state"
            )
        expect_count(name, "steps", steps)
        if end is not None and not isinstance(end, (int, np.integer)):
            raise DtypeError(
                f"{name}: end is {described(end)}\n  expected: a token id, or None\n"
                "  hint: the vocabulary that made the ids knows that of the word"
            )
        start = getattr(start, "array", start)
        start = start if hasattr(start, "dtype") else np.asarray(start)
        if start.ndim != 1 or start.dtype.kind not in "iu":
            raise DtypeError(
                f"{name}: start is {described(start)}\n  expected: integers (B,), an id an input\n"
                "  hint: a batch of one is start=[id], and its states have one row"
            )
        self.name, self.step, self.state, self.steps = name, step, state, steps
        self.has_end, self.end = end is not None, -1 if end is None else int(end)  # -1: no token
        self.backend = backend_of(start)
        self.start = self.backend.to_host(start)
        self.n, self.V, self.t = len(start), 0, 0  # rows of the state, tokens, steps taken

    def __call__(self, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The log-probabilities (N, V), on the host, after ``tokens`` in ``rows`` of the state."""
        state = self._rows_of(self.state, rows)
        self.n, self.t = len(rows), self.t + 1
        found = self.step(self.backend.asarray(tokens), state)
        if not isinstance(found, tuple) or len(found) != 2:
            raise DtypeError(
                f"{self.name}: the step function returned"
                f" {described(getattr(found, 'array', found))}\n"
                "  expected: a pair (log_probs, state)\n"
                "  hint: return log_probs, state; of a model without memory, log_probs, None"
            )
        log_probs, self.state = found
        log_probs = getattr(log_probs, "array", log_probs)
        self._check(log_probs)
        log_probs = backend_of(log_probs).to_host(log_probs)
        self._check_values(log_probs)
        return log_probs

    def stuck(self, i: int) -> DecodeError:
        """The error for an input that no token can follow."""
        return DecodeError(
            f"{self.name}: input {i} has no hypothesis left at step {self.t}\n"
            "  expected: a token that is not -inf\n"
            "  hint: what a step function forbids must leave something, the end at least; a wider"
            " beam may keep a hypothesis that can go on"
        )

    def _rows_of(self, state: Any, rows: np.ndarray) -> Any:
        """``state`` with the given rows of every array and Tensor in it."""
        if isinstance(state, dict):
            return {key: self._rows_of(part, rows) for key, part in state.items()}
        if isinstance(state, (tuple, list)):
            parts = [self._rows_of(part, rows) for part in state]
            return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
        array = state.array if isinstance(state, TensorCore) else state
        if not getattr(array, "ndim", 0):
            return state
        if array.shape[0] != self.n:
            raise ShapeError(
                f"{self.name}: an array of the state, after step {self.t}, is {described(array)}\n"
                f"  expected: ({self.n}, ...), a row for each hypothesis\n"
                "  hint: batch first; what has no rows must not be in the state"
            )
        picked = array[backend_of(array).kept(rows)]
        return type(state)(picked) if isinstance(state, TensorCore) else picked

    def _check(self, log_probs: Any) -> None:
        """Raise unless ``log_probs`` is a floating array (N, V), with the V that it always had."""
        if getattr(getattr(log_probs, "dtype", None), "kind", "") != "f":
            raise DtypeError(
                f"{self.name}: log_probs of the step function, at step {self.t}, is"
                f" {described(log_probs)}\n  expected: floating point ({self.n}, V)\n"
                "  hint: log_softmax(logits) of the model, an array or a Tensor"
            )
        shape = log_probs.shape
        if len(shape) != 2 or shape[0] != self.n or shape[1] == 0 or self.V not in (0, shape[1]):
            raise ShapeError(
                f"{self.name}: log_probs of the step function, at step {self.t}, is"
                f" {described(log_probs)}\n  expected: ({self.n}, {self.V or 'V'}), a row for each"
                " hypothesis\n  hint: one column for each token, the same tokens at every step"
            )
        self.V = shape[1]
        if self.has_end and not 0 <= self.end < self.V:
            raise IndexRangeError(
                f"{self.name}: end is {self.end}\n  expected: 0 <= end < {self.V}, the columns of"
                " log_probs\n  hint: end=None if no token ends a sequence"
            )

    def _check_values(self, log_probs: np.ndarray) -> None:
        """Raise for NaN, +inf and, if hypotheses can end, for what is no log-probability."""
        greatest = log_probs.max()  # NaN if any is
        if np.isnan(greatest) or greatest == np.inf:
            row = int(np.argmax(~(log_probs.max(axis=1) < np.inf)))
            raise NonFiniteError(
                f"{self.name}: log_probs of the step function, at step {self.t}, has NaN or +inf"
                f" in row {row}\n  expected: numbers, or -inf for what is forbidden\n"
                "  hint: log(softmax(x)) is -inf or NaN where log_softmax(x) is exact"
            )
        if self.has_end and greatest > _ROUNDING:
            raise DecodeError(
                f"{self.name}: log_probs of the step function, at step {self.t}, has"
                f" {float(greatest):.6g}\n  expected: logarithms of probabilities, at most 0\n"
                "  hint: log_softmax(logits) turns logits into such"
            )
