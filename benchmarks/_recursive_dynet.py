"""The recursive nets in DyNet: plain recursion, which DyNet itself batches."""

import numpy as np

from benchmarks import _data
from benchmarks._dynet import DyNet, dy  # from there, for autobatching is set before the import
from benchmarks._recursive_data import forests

MOST = 20_000  # nodes: what DyNet keeps of more does not fit beside the others


class Net(DyNet):
    """A matrix for each gate, as in DyNet's own examples: faster here than all gates in one."""

    def __init__(self, net, D, H, trees=0, nodes=0):
        if net != "Tree-LSTM":
            raise NotImplementedError("is measured for the Tree-LSTM alone")
        if nodes > MOST:
            raise NotImplementedError(f"is not measured for more than {MOST} nodes, for its memory")
        arrays, self.batches = forests(net, D, H, trees, nodes)
        self.collection = dy.ParameterCollection()
        self.E = self.collection.lookup_parameters_from_numpy(arrays["E"])
        left, right = np.split(arrays["U"], 2)
        self.W, self.b = self.gates(arrays["W"], 3), self.gates(arrays["b"], 3)
        self.left, self.right = self.gates(left, 5), self.gates(right, 5)
        self.a = self.gates(arrays["a"], 5)
        (self.R,), (self.r,) = self.gates(arrays["R"], 1), self.gates(arrays["r"], 1)
        self.trainer = dy.SimpleSGDTrainer(self.collection, _data.LR)
        self.trainer.set_clip_threshold(-1)  # off

    def gates(self, x, count):
        """A parameter for each of `count` blocks of columns; DyNet's vectors are columns."""
        return self.blocks(x.T, count)

    def leaf(self, word):
        """The states h and c of a leaf."""
        x, gates = dy.lookup(self.E, word), zip(self.b, self.W, strict=True)
        i, g, o = [dy.affine_transform([b, W, x]) for b, W in gates]
        c = dy.cmult(dy.logistic(i), dy.tanh(g))
        return dy.cmult(dy.logistic(o), dy.tanh(c)), c

    def compose(self, left, right):
        """The states h and c of a node with these children."""
        gates = zip(self.a, self.left, self.right, strict=True)
        i, f_left, f_right, g, o = [
            dy.affine_transform([a, U, left[0], V, right[0]]) for a, U, V in gates
        ]
        c = dy.cmult(dy.logistic(i), dy.tanh(g))
        c = c + dy.cmult(dy.logistic(f_left), left[1]) + dy.cmult(dy.logistic(f_right), right[1])
        return dy.cmult(dy.logistic(o), dy.tanh(c)), c

    def embed(self, tree, hs):
        """The states of a tree; every h is added to `hs`."""
        if tree.left is None:
            state = self.leaf(tree.word)
        else:
            state = self.compose(self.embed(tree.left, hs), self.embed(tree.right, hs))
        hs.append(state[0])
        return state

    def loss(self, batch):
        dy.renew_cg()
        hs = []
        for tree in batch.trees:
            self.embed(tree, hs)
        logits = dy.affine_transform([self.r, self.R, dy.concatenate_to_batch(hs)])
        losses = dy.pickneglogsoftmax_batch(logits, batch.labels.tolist())
        return dy.sum_batches(losses) / len(batch)

    def gradients(self):
        found = {name: gradient(getattr(self, name)) for name in ("W", "b", "a")}
        found["U"] = np.array([gradient(self.left), gradient(self.right)])
        found |= {"R": self.R.grad_as_array(), "r": self.r.grad_as_array()}
        return found | {"E": self.E.grad_as_array()}


def gradient(gates):
    """The gradients of all gates."""
    return np.array([gate.grad_as_array() for gate in gates])
