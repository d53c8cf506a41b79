"""The Tree-LSTM of `trees.py` in DyNet: plain recursion, which DyNet itself can batch."""

from importlib.metadata import version

import dynet_config
import numpy as np

from benchmarks._tree_data import Batch
from benchmarks._workers import Training


class TreeLSTM(Training):
    """A matrix for each gate, as in DyNet's own examples: faster here than all gates in one."""

    def __init__(self, batches, arrays, lr, a_round, autobatch):
        super().__init__([Batch(examples) for examples in batches], a_round)
        dynet_config.set(mem=1024, autobatch=autobatch)
        import dynet  # reads its settings when it is imported

        self.dynet, self.collection = dynet, dynet.ParameterCollection()
        self.autobatch = autobatch
        self.E = self.collection.lookup_parameters_from_numpy(arrays["E"])
        self.W, self.b = self.gates(arrays["W"], 3), self.gates(arrays["b"], 3)
        U_left, U_right = np.split(arrays["U"], 2)
        self.U_left, self.U_right = self.gates(U_left, 5), self.gates(U_right, 5)
        self.a = self.gates(arrays["a"], 5)
        (self.R,), (self.r,) = self.gates(arrays["R"], 1), self.gates(arrays["r"], 1)
        self.trainer = dynet.SimpleSGDTrainer(self.collection, lr)
        self.trainer.set_clip_threshold(-1)  # off

    def gates(self, x, count):
        """A parameter for each of `count` blocks of columns; DyNet's vectors are columns."""
        blocks = np.split(x.T, count)
        return [self.collection.parameters_from_numpy(np.ascontiguousarray(y)) for y in blocks]

    def libraries(self):
        batching = "autobatching" if self.autobatch else "no batching"
        return f"DyNet (dynet38 {version('dynet38')}), {batching}, 1 thread"

    def leaf(self, word):
        """The states h and c of a leaf."""
        dy, x = self.dynet, self.dynet.lookup(self.E, word)
        gates = zip(self.b, self.W, strict=True)
        i, g, o = [dy.affine_transform([b, W, x]) for b, W in gates]
        c = dy.cmult(dy.logistic(i), dy.tanh(g))
        return dy.cmult(dy.logistic(o), dy.tanh(c)), c

    def compose(self, left, right):
        """The states h and c of a node with these children."""
        dy, (h_left, c_left), (h_right, c_right) = self.dynet, left, right
        gates = zip(self.a, self.U_left, self.U_right, strict=True)
        i, f_left, f_right, g, o = [
            dy.affine_transform([a, left, h_left, right, h_right]) for a, left, right in gates
        ]
        c = dy.cmult(dy.logistic(i), dy.tanh(g))
        c = c + dy.cmult(dy.logistic(f_left), c_left) + dy.cmult(dy.logistic(f_right), c_right)
        return dy.cmult(dy.logistic(o), dy.tanh(c)), c

    def embed(self, tree, hs):
        """The states of a tree; every h is added to `hs`."""
        if tree.left is None:
            h, c = self.leaf(tree.word)
        else:
            h, c = self.compose(self.embed(tree.left, hs), self.embed(tree.right, hs))
        hs.append(h)
        return h, c

    def loss(self, batch):
        dy, hs = self.dynet, []
        dy.renew_cg()
        for tree in batch.trees:
            self.embed(tree, hs)
        logits = dy.affine_transform([self.r, self.R, dy.concatenate_to_batch(hs)])
        losses = dy.pickneglogsoftmax_batch(logits, batch.labels.tolist())
        return dy.sum_batches(losses) / len(batch)

    def backward(self, loss):
        loss.backward()  # and, before it, forward: DyNet computes what is asked for

    def gradients(self):
        found = {name: self.gradient(name) for name in ("W", "b", "a")}
        U = self.gradient("U_left"), self.gradient("U_right")
        R, r = self.R.grad_as_array(), self.r.grad_as_array()
        return found | {"U": np.array(U), "E": self.E.grad_as_array(), "R": R, "r": r}

    def gradient(self, name):
        """The gradients of all gates."""
        return np.array([gate.grad_as_array() for gate in getattr(self, name)])

    def update(self):
        self.trainer.update()

    def value(self, loss):
        return loss.value()
