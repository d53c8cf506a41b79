"""The Tree-LSTM of `trees.py` in tinygrad_rnn: recursion with deferred cells, fold, and eager."""

import numpy as np

import tinygrad_rnn as tg
from benchmarks._timing import blas_threads
from benchmarks._tree_data import REDUCE, Batch
from benchmarks._workers import Training
from tinygrad_rnn.fused import lstm_gates


class TreeLSTM(Training):
    """The cells, the loss and the optimiser."""

    def __init__(self, batches, arrays, lr, a_round):
        super().__init__([Batch(examples) for examples in batches], a_round)
        self.parameters = {name: tg.tensor(x, requires_grad=True) for name, x in arrays.items()}
        self.optimizer = tg.optim.SGD(self.parameters.values(), lr)

    def libraries(self):
        return f"tinygrad_rnn {tg.__version__}, NumPy {np.__version__}, {blas_threads()}"

    def words(self, ids):
        """The rows of E that `ids` name."""
        return tg.embedding(ids, self.parameters["E"])

    def leaf(self, x):
        """The states h and c (n, H) of leaves with the words x (n, D)."""
        return lstm_gates(x @ self.parameters["W"] + self.parameters["b"])

    def compose(self, left, right):
        """The states h and c (n, H) of nodes with these children."""
        (h_left, c_left), (h_right, c_right) = left, right
        h = tg.concatenate([h_left, h_right], 1)
        z = h @ self.parameters["U"] + self.parameters["a"]
        return lstm_gates(z, c_left, c_right)

    def mean_loss(self, h, labels):
        """The mean cross entropy at the states h (N, H)."""
        return tg.cross_entropy(h @ self.parameters["R"] + self.parameters["r"], labels)

    def backward(self, loss):
        self.optimizer.zero_grad()
        loss.backward()

    def gradients(self):
        return {name: x.grad.numpy() for name, x in self.parameters.items()}

    def update(self):
        self.optimizer.step()

    def value(self, loss):
        return loss.item()


class Deferred(TreeLSTM):
    """Plain recursion; the cells wait and are run batched."""

    def __init__(self, *args):
        super().__init__(*args)
        self.deferred_leaf = tg.deferred(lambda word: self.leaf(self.words(word)))
        self.deferred_compose = tg.deferred(self.compose)

    def loss(self, batch):
        hs = []
        for tree in batch.trees:
            self.embed(tree, hs)
        return self.mean_loss(tg.stack(hs), batch.labels)

    def embed(self, tree, hs):
        """The state of a tree; the h of each of its nodes is added to `hs`."""
        if tree.left is None:
            state = self.deferred_leaf(tree.word)
        else:
            state = self.deferred_compose(self.embed(tree.left, hs), self.embed(tree.right, hs))
        hs.append(state[0])
        return state


class Fold(TreeLSTM):
    """A fold over the forest."""

    def loss(self, batch):
        cells = {0: self.leaf, 2: lambda _, left, right: self.compose(left, right)}
        words = [word for word in batch.postfix if word != REDUCE]
        h, _ = tg.fold(cells, structure(batch.postfix), {0: self.words(words)})
        return self.mean_loss(h, batch.labels)


def structure(postfix):
    """The forest that a postfix list is."""
    counts, children, stack = [], [], []
    for node, word in enumerate(postfix):
        if word == REDUCE:
            children += stack[-2:]
            del stack[-2:]
        counts.append(2 if word == REDUCE else 0)
        stack.append(node)
    return tg.Structure(counts, children)


class Eager(TreeLSTM):
    """The recursion with a call of a cell for each node; words and losses taken all at once."""

    def loss(self, batch):
        words = [word for word in batch.postfix if word != REDUCE]
        xs, hs = iter(tg.split(self.words(words), len(words))), []
        for tree in batch.trees:
            self.embed(tree, xs, hs)
        return self.mean_loss(tg.concatenate(hs), batch.labels)

    def embed(self, tree, xs, hs):
        """The state of a tree whose words are the next `xs`; every h is added to `hs`."""
        if tree.left is None:
            state = self.leaf(next(xs))
        else:
            state = self.compose(self.embed(tree.left, xs, hs), self.embed(tree.right, xs, hs))
        hs.append(state[0])
        return state
