"""A model whose every log-probability stands in a table, with the plainest ways to search it."""

import itertools

import numpy as np
from hypothesis import strategies as st

import tinygrad_rnn as tg

INF = float("inf")

seeds = st.integers(0, 2**32 - 1)


class Table:
    """A model that looks up the log-probabilities of what may follow each prefix of each input.

    Its state is nested, with arrays, Tensors, a number and None in it: ``inputs`` says whose rows
    they are, and the prefix is read from the tokens that were given to ``step``, and nothing else.
    """

    def __init__(self, seed, B, V, steps, values="normal"):
        rng = np.random.default_rng(seed)
        self.B, self.V, self.steps = B, V, steps
        self.tables, self.rows = [], []
        for t in range(steps):
            x = rng.normal(size=(B, V**t, V)) * 2
            if values == "ties":  # sums of such numbers are exact
                x = -rng.integers(1, 4, x.shape) / 4
            else:
                x = x - np.log(np.exp(x).sum(-1, keepdims=True))
            if values == "holes":
                x[rng.random(x.shape) < 0.3] = -INF
            self.tables.append(x)

    def start(self, inputs=None):
        inputs = np.arange(self.B) if inputs is None else np.asarray(inputs, int)
        nested = {"t": 0, "parts": [None, (tg.tensor(inputs), np.zeros(len(inputs), int))]}
        return {"state": nested, "start": np.full(len(inputs), 77)}

    def step(self, tokens, state):
        t, (nothing, (inputs, prefix)) = state["t"], state["parts"]
        assert nothing is None and isinstance(inputs, tg.Tensor)
        assert (tokens == 77).all() if t == 0 else (tokens < self.V).all()
        prefix = prefix * self.V + tokens if t else prefix
        self.rows.append(len(tokens))
        log_probs = self.tables[t][inputs.array, prefix]
        log_probs = tg.tensor(log_probs) if t % 2 else log_probs
        return log_probs, {"t": t + 1, "parts": [None, (inputs, prefix)]}

    def scores(self, b, tokens):
        """The log-probability of each of the tokens, one after the other."""
        prefix, found = 0, []
        for t, token in enumerate(tokens):
            found.append(float(self.tables[t][b, prefix, token]))
            prefix = prefix * self.V + token
        return found

    def everything(self, b, end, penalty=0.0):
        """All hypotheses with all their tokens, end included, best first, by enumeration."""
        found = []
        for L in range(1, self.steps + 1):
            for tokens in itertools.product(range(self.V), repeat=L):
                ended = tokens[-1] == end
                if end in tokens[:-1] or (not ended and len(tokens) < self.steps):
                    continue
                sums = list(itertools.accumulate(self.scores(b, tokens)))
                if sums[-1] > -INF:
                    # equal ones: earlier found, better at the step before, and so on, lower ids
                    order = (L, *[-s for s in reversed(sums)], *tokens)
                    found.append((-sums[-1] / L**penalty, order, tokens))
        return [(tokens, -score) for score, _, tokens in sorted(found)]

    def plain_beam(self, b, beam, end, penalty=0.0):
        """What a beam search that never stops early finds, written out with lists and sorting."""
        live, done = [()], []
        for t in range(self.steps):
            candidates = [(*h, token) for h in live for token in range(self.V)]
            totals = {h: list(itertools.accumulate(self.scores(b, h)))[-1] for h in candidates}
            candidates.sort(key=lambda h: -totals[h])  # stable, as Python's sort is
            candidates = [h for h in candidates if totals[h] > -INF][:beam]
            over = [h for h in candidates if h[-1] == end or t + 1 == self.steps]
            live = [h for h in candidates if h not in over]
            done += [(h, totals[h] / len(h) ** penalty) for h in over]
        return sorted(done, key=lambda pair: -pair[1])[:beam]


def whole(h, end):
    """All tokens of a hypothesis, the end included, and its score."""
    return (*h.tokens, end) if h.finished else h.tokens, h.score


def chain(rows):
    """A step function that gives row t at step t, whatever the tokens are."""

    def step(tokens, t):
        return np.tile(np.array(rows[t], float), (len(tokens), 1)), t + 1

    return step


@st.composite
def problems(draw, values=("normal", "ties", "holes")):
    """A small model, and the token that ends a sequence, or None."""
    V, steps = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    model = Table(draw(seeds), draw(st.integers(1, 3)), V, steps, draw(st.sampled_from(values)))
    return model, draw(st.none() | st.integers(0, V - 1))
