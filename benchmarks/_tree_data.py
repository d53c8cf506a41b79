"""What the programs of `trees.py` work on: batches of binary trees, and parameters.

Every node of a tree is to tell the label of its tree: that is as much work as labels of its own.
"""

import os
import random
from unittest.mock import patch

import numpy as np

with patch.dict(os.environ):  # the demos set one BLAS thread for themselves, which is to end here
    from demos import _trees

REDUCE = -1  # in place of a word: the last two subtrees become one
FEWEST, MOST = 10, 200  # nodes of a tree: none is trivial, and none too deep for plain recursion


class Tree:
    """A word, or two subtrees."""

    __slots__ = ("left", "right", "word")

    def __init__(self, word, left=None, right=None):
        self.word, self.left, self.right = word, left, right


class Batch:
    """Some trees, as objects and as the one list `postfix`, in whose order the nodes are numbered.

    `postfix` holds the ids of words, and REDUCE; `labels` (N,) one label for each node.
    """

    def __init__(self, examples):
        self.postfix = [word for postfix, _ in examples for word in postfix]
        lengths = [len(postfix) for postfix, _ in examples]
        self.labels = np.repeat([label for _, label in examples], lengths)
        self.trees = []
        for word in self.postfix:
            if word == REDUCE:
                right, left = self.trees.pop(), self.trees.pop()
                self.trees.append(Tree(word, left, right))
            else:
                self.trees.append(Tree(word))

    def __len__(self):
        return len(self.postfix)


def read(path, size):
    """Batches of examples (postfix, label) with words as ids, and how many words and labels.

    `path` is what `demos._trees` reads; None is the standard library.
    """
    trees = [t for t in _trees.read_trees(path) if FEWEST <= len(t.postfix) <= MOST]
    words = ids({w for t in trees for w in t.postfix if w is not _trees.REDUCE})
    labels = ids({t.label for t in trees})
    words[_trees.REDUCE] = REDUCE
    examples = [([words[w] for w in t.postfix], labels[t.label]) for t in trees]
    random.Random(0).shuffle(examples)
    batches = [examples[i : i + size] for i in range(0, len(examples) - size + 1, size)]
    return batches, len(words) - 1, len(labels)


def ids(names):
    """A number for each of some names."""
    return {name: i for i, name in enumerate(sorted(names))}


def random_examples(nodes, V, rng):
    """Examples of about 50 nodes each, `nodes` in all: neighbours are joined at random."""
    examples = []
    while nodes > 0:
        leaves = (min(nodes, 49) + 1) // 2
        forest = [[word] for word in rng.integers(V, size=leaves).tolist()]
        while len(forest) > 1:
            i = rng.integers(len(forest) - 1)
            forest[i : i + 2] = [[*forest[i], *forest[i + 1], REDUCE]]
        examples.append((forest[0], 0))
        nodes -= 2 * leaves - 1
    return examples


def parameters(V, D, H, K):
    """The arrays that every program begins with, by name.

    A leaf's word x (D,) gives i, g, o = x @ W + b.  Of two states, h = [h_left, h_right] (2H,)
    gives i, f_left, f_right, g, o = h @ U + a.  At each node the logits are h @ R + r.
    """
    rng = np.random.default_rng(0)
    shapes = {"W": (D, 3 * H), "U": (2 * H, 5 * H), "R": (H, K)}
    arrays = {
        name: (rng.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32)
        for name, shape in shapes.items()
    }
    arrays["E"] = rng.standard_normal((V, D), np.float32)
    return arrays | {
        "b": np.zeros(3 * H, np.float32),
        "a": np.zeros(5 * H, np.float32),
        "r": np.zeros(K, np.float32),
    }
