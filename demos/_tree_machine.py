"""A machine beside a net: what may come next, so that tokens become a tree, and one of the source.

A step function of `tg.decode` that gives a token the log-probability -inf forbids it.  What the
machine remembers of every hypothesis is part of the state of the search, and it forbids all but
this:

    S(       inside a bracket, or as the first token
    a word   inside, while the source has more words of its kind than are written
    another  inside, a leaf that is no word of the source: the Add of BinOp( N Add N )
    )        where a node is open that has as many children as nodes of its label had at least in
             training; of the root, when all words are written
    the end  when the root is closed

and of these only what leaves enough of the steps to come for the shortest way to a tree.  There is
one from the start, and whatever is chosen, there is one after it: so every search ends in a tree.
"""

from typing import NamedTuple

import numpy as np

from demos import _brackets as brackets
from demos import _kit as kit

PADDING, END = 0, 1  # ids in every vocabulary; END also starts every sequence


class Unfinished(NamedTuple):
    """What a hypothesis still lacks to be a tree, a row for each of N."""

    depth: np.ndarray  # (N,): brackets that are open
    missing: np.ndarray  # (N, steps + 1): children at least to come, in what is open at each depth
    words: np.ndarray  # (N, kinds): to come
    steps: np.ndarray  # (N,): to come


class Trees:
    """Which tokens of `vocabulary` may come next in trees like those of the `targets`.

    Words are the leaves among `kinds`; a target has so many of each kind as its source.
    """

    def __init__(self, vocabulary, kinds, targets):
        names, ids = vocabulary.words, vocabulary.ids
        self.opens = np.array([name.endswith("(") for name in names])
        self.closes = np.array([name == ")" for name in names])
        self.kind = np.array([[name == kind for kind in kinds] for name in names])  # (V, kinds)
        self.child = ~self.closes & (np.arange(len(names)) > END)
        self.least = np.zeros(len(names), int)  # children of a node
        for label, least in fewest_children(targets).items():
            self.least[ids[label]] = least
        if (self.child & ~self.opens & ~self.kind.any(axis=1)).any():
            self.filler = 1  # tokens for a child that is no word of the source: there are others
        else:
            self.filler = 2 if (self.opens & (self.least == 0)).any() else 10**6

    def begin(self, words, steps):
        """Nothing yet written: all words (B, kinds) are to come, and a root, at depth 0.

        DataError if for some source there is no tree at all.
        """
        B = len(words)
        missing = np.zeros((B, steps + 1), int)
        missing[:, 0] = 1
        state = Unfinished(np.zeros(B, int), missing, words, np.full(B, steps))
        unknown = words[:, ~self.kind.any(axis=0)].any(axis=1)  # kinds that no target has
        stuck = np.flatnonzero(unknown | ~self.allowed(state).any(axis=1))
        if len(stuck):
            raise kit.DataError(
                f"no tree like those of training has only the words of source {stuck[0] + 1}"
            )
        return state._replace(steps=state.steps + 1)  # the first token read is that of the start

    def after(self, tokens, state):
        """The state after one more token of each hypothesis."""
        depth, missing, words, steps = state
        rows, missing = np.arange(len(depth)), missing.copy()
        missing[rows, depth] = np.maximum(missing[rows, depth] - self.child[tokens], 0)
        depth = depth + self.opens[tokens] - self.closes[tokens]
        opened = rows[self.opens[tokens]]
        missing[opened, depth[opened]] = self.least[tokens[opened]]
        return Unfinished(depth, missing, words - self.kind[tokens], steps - 1)

    def allowed(self, state):
        """Whether each token may come next, (N, V)."""
        depth = state.depth[:, None]
        here = np.take_along_axis(state.missing, depth, axis=1)  # children to come
        words = state.words.sum(axis=1, keepdims=True)
        inside = depth > 0
        may = np.where(self.opens, inside | (here > 0), inside)
        may &= np.where(self.closes, (here == 0) & ((depth > 1) | (words == 0)), True)
        may &= ~((state.words == 0) @ self.kind.T)
        # Shortest way on: the words, the children that they cannot be, all brackets, the end.
        words = words - self.kind.any(axis=1)
        missing = state.missing.sum(axis=1, keepdims=True) - (self.child & (here > 0))
        beyond = np.maximum(missing + self.opens * self.least - words, 0)
        tokens = words + self.filler * beyond + depth + self.opens - self.closes + 1
        may &= tokens < state.steps[:, None]
        may[:, PADDING], may[:, END] = False, (depth + here)[:, 0] == 0
        return may

    def constrained(self, step):
        """A step function like `step` that forbids all other tokens."""

        def only_allowed(tokens, state):
            inner, own = state
            log_probs, inner = step(tokens, inner)
            own = self.after(tokens, own)
            return np.where(self.allowed(own), log_probs.numpy(), -np.inf), (inner, own)

        return only_allowed


def fewest_children(targets):
    """The number of children that nodes have at least, {opening token: number}."""
    least = {}
    for label, children in {node for target in targets for node in brackets.tree_of(target)}:
        if children is not None:
            least[label + "("] = min(children, least.get(label + "(", children))
    return least
