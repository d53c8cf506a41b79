"""The recursive nets in tinygrad_rnn: recursion with deferred cells, and fold."""

import tinygrad_rnn as tg
from benchmarks import _data
from benchmarks._ours import OurTraining
from benchmarks._recursive_data import REDUCE, forests
from tinygrad_rnn.fused import lstm_gates


class Net(OurTraining):
    """The cells, the loss and the optimiser; a state is a tuple, h first."""

    def __init__(self, net, D, H, trees=0, nodes=0):
        arrays, self.batches = forests(net, D, H, trees, nodes)
        self.track(arrays)
        self.H = H
        self.optimizer = tg.optim.SGD(self.parameters.values(), _data.LR)
        lstm = net == "Tree-LSTM"
        self.leaf, self.compose = (
            (self.lstm_leaf, self.lstm_compose) if lstm else (self.rntn_leaf, self.rntn_compose)
        )

    def words(self, ids):
        """The rows of E that `ids` name."""
        return tg.embedding(ids, self.parameters["E"])

    def lstm_leaf(self, x):
        """The states h and c (n, H) of leaves with the words x (n, D)."""
        return lstm_gates(x @ self.parameters["W"] + self.parameters["b"])

    def lstm_compose(self, left, right):
        """The states h and c (n, H) of nodes with these children."""
        h = tg.concatenate([left[0], right[0]], 1)
        z = h @ self.parameters["U"] + self.parameters["a"]
        return lstm_gates(z, left[1], right[1])

    def rntn_leaf(self, x):
        """The state of a leaf is its word."""
        return (x,)

    def rntn_compose(self, left, right):
        """The state h (n, H) of nodes with these children."""
        p = tg.concatenate([left[0], right[0]], 1)
        pT = tg.reshape(p @ self.parameters["T"], (-1, 2 * self.H, self.H))
        products = tg.sum(pT * tg.reshape(p, (-1, 2 * self.H, 1)), 1)
        return (tg.tanh(products + p @ self.parameters["U"] + self.parameters["a"]),)

    def mean_loss(self, h, labels):
        """The mean cross entropy at the states h (N, H)."""
        return tg.cross_entropy(h @ self.parameters["R"] + self.parameters["r"], labels)

    def update(self):
        self.optimizer.step()


class Deferred(Net):
    """Plain recursion; the cells wait and are run batched."""

    def __init__(self, *args, **sizes):
        super().__init__(*args, **sizes)
        self.deferred_leaf = tg.deferred(lambda word: self.leaf(self.words(word)))
        self.deferred_compose = tg.deferred(lambda *children: self.compose(*children))

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


class Plain(Deferred):
    """The same with a Tree-LSTM in plain operations."""

    def __init__(self, net, **sizes):
        if net != "Tree-LSTM":
            raise NotImplementedError("is the first column: that net has no fused gates")
        super().__init__(net, **sizes)

    def lstm_leaf(self, x):
        i, g, o = tg.split(x @ self.parameters["W"] + self.parameters["b"], 3, 1)
        c = tg.sigmoid(i) * tg.tanh(g)
        return tg.sigmoid(o) * tg.tanh(c), c

    def lstm_compose(self, left, right):
        h = tg.concatenate([left[0], right[0]], 1)
        z = h @ self.parameters["U"] + self.parameters["a"]
        i, f_left, f_right, g, o = tg.split(z, 5, 1)
        c = tg.sigmoid(i) * tg.tanh(g)
        c = c + tg.sigmoid(f_left) * left[1] + tg.sigmoid(f_right) * right[1]
        return tg.sigmoid(o) * tg.tanh(c), c


class Fold(Net):
    """A fold over the forest."""

    def loss(self, batch):
        cells = {0: self.leaf, 2: lambda _, left, right: self.compose(left, right)}
        words = [word for word in batch.postfix if word != REDUCE]
        h, *_ = tg.fold(cells, structure(batch.postfix), {0: self.words(words)})
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
