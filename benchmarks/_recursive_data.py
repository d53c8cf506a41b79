"""What the programs of `recursive.py` work on: batches of binary trees, and parameters.

Every node of a tree is to tell the label of its tree: that is as much work as labels of its own.
"""

import os
import random
import sysconfig
from pathlib import Path
from unittest.mock import patch

import numpy as np

with patch.dict(os.environ):  # the demos set one BLAS thread for themselves, which is to end here
    from demos import _trees

REDUCE = -1  # in place of a word: the last two subtrees become one
SOURCES = Path(sysconfig.get_path("stdlib"), "asyncio")
BATCHES = 4  # that a step of a program goes through
FEW = 100  # words of a random tree
FEWEST, MOST = 30, 200  # nodes of a tree: none is trivial, and none too deep for plain recursion


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


def forests(net, D, H, trees=0, nodes=0):
    """Parameters of a net, and batches: a few of so many `trees`, or one of so many `nodes`.

    The trees are expressions of a library's source; the nodes are those of one random tree.
    """
    if nodes:
        batches, V, K = [random_trees(nodes, nodes)], FEW, 2
    else:
        batches, V, K = read(trees)
    return parameters(net, V, D, H, K), [Batch(examples) for examples in batches[:BATCHES]]


def read(size):
    """Batches of examples (postfix, label) with words as ids, and how many words and labels."""
    trees = [t for t in _trees.read_trees(SOURCES) if FEWEST <= len(t.postfix) <= MOST]
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


def random_trees(nodes, most):
    """Examples of up to `most` nodes each, `nodes` in all, split at random from the top."""
    rng, examples = np.random.default_rng(0), []
    while nodes > 0:
        leaves = (min(nodes, most) + 1) // 2
        examples.append((random_postfix(leaves, rng), 0))
        nodes -= 2 * leaves - 1
    return examples


def random_postfix(leaves, rng):
    """The postfix list of a tree of so many leaves: every node's left part is of any size."""
    postfix, todo = [], [leaves]
    while todo:
        count = todo.pop()
        if count == REDUCE:
            postfix.append(REDUCE)
        elif count == 1:
            postfix.append(int(rng.integers(FEW)))
        else:
            left = int(rng.integers(1, count))
            todo += [REDUCE, count - left, left]
    return postfix


def parameters(net, V, D, H, K):
    """The arrays that every program begins with, by name.

    A leaf of a Tree-LSTM has the word x (D,): i, g, o = x @ W + b.  Of two states, h = [h_left,
    h_right] (2H,) gives i, f_left, f_right, g, o = h @ U + a.  A leaf of an RNTN is its word, D =
    H; of two states, p = [left, right] gives tanh(p_j (p @ T)_jk summed over j + p @ U + a).  At
    each node the logits are h @ R + r.
    """
    rng, lstm = np.random.default_rng(0), net == "Tree-LSTM"
    shapes = {"U": (2 * H, (5 if lstm else 1) * H), "R": (H, K)}
    shapes |= {"W": (D, 3 * H)} if lstm else {"T": (2 * H, 2 * H * H)}
    arrays = {
        name: (rng.standard_normal(shape) / shape[0] ** 0.5).astype(np.float32)
        for name, shape in shapes.items()
    }
    if lstm:
        arrays["b"] = np.zeros(3 * H, np.float32)
    else:
        arrays["T"] *= H**-0.5
    arrays["E"] = rng.standard_normal((V, D), np.float32)
    arrays["a"], arrays["r"] = np.zeros(shapes["U"][1], np.float32), np.zeros(K, np.float32)
    return arrays
