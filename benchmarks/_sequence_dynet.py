"""The tagger of `sequences.py` in DyNet: each sentence by itself, which DyNet itself can batch."""

from importlib.metadata import version

import dynet_config
import numpy as np

from benchmarks._workers import Training


class Tagger(Training):
    """A matrix for each gate, and the input's part apart from the state's: faster here than others.

    Slower by 10 to 40 % were all gates in one product, and DyNet's own VanillaLSTMBuilder.
    """

    def __init__(self, batches, arrays, lr, a_round, autobatch):
        super().__init__(batches, a_round)
        dynet_config.set(mem=2048, autobatch=autobatch)
        import dynet  # reads its settings when it is imported

        self.dynet, self.collection, self.autobatch = dynet, dynet.ParameterCollection(), autobatch
        self.E = self.collection.lookup_parameters_from_numpy(arrays["E"])
        self.parameters = {
            name: self.gates(x, 4) if name.endswith(("l0", "l0_reverse")) else self.gates(x.T, 1)
            for name, x in arrays.items()
            if name != "E"
        }
        self.H = arrays["R"].shape[0] // 2
        self.trainer = dynet.SimpleSGDTrainer(self.collection, lr)
        self.trainer.set_clip_threshold(-1)  # off

    def gates(self, x, count):
        """A parameter for each of `count` blocks of rows."""
        blocks = np.split(x, count)
        return [self.collection.parameters_from_numpy(np.ascontiguousarray(y)) for y in blocks]

    def libraries(self):
        batching = "autobatching" if self.autobatch else "no batching"
        return f"DyNet (dynet38 {version('dynet38')}), {batching}, 1 thread"

    def states(self, xs, direction):
        """The states h of an LSTM after each of `xs`."""
        dy = self.dynet
        names = ("bias_ih", "weight_ih", "bias_hh", "weight_hh")
        blocks = [self.parameters[f"{name}_l0{direction}"] for name in names]
        gates = list(zip(*blocks, strict=True))
        h, c, hs = dy.zeros(self.H), dy.zeros(self.H), []
        for x in xs:
            i, f, g, o = [
                dy.affine_transform([b, W, x]) + dy.affine_transform([a, U, h])
                for b, W, a, U in gates
            ]
            c = dy.cmult(dy.logistic(f), c) + dy.cmult(dy.logistic(i), dy.tanh(g))
            h = dy.cmult(dy.logistic(o), dy.tanh(c))
            hs.append(h)
        return hs

    def loss(self, batch):
        dy, hs, tags = self.dynet, [], []
        dy.renew_cg()
        for words, its_tags in batch:
            xs = [dy.lookup(self.E, word) for word in words]
            forward, backward = self.states(xs, ""), self.states(xs[::-1], "_reverse")[::-1]
            hs += [dy.concatenate(list(pair)) for pair in zip(forward, backward, strict=True)]
            tags += its_tags
        (r,), (R,) = self.parameters["r"], self.parameters["R"]
        logits = dy.affine_transform([r, R, dy.concatenate_to_batch(hs)])
        return dy.sum_batches(dy.pickneglogsoftmax_batch(logits, tags)) / len(tags)

    def backward(self, loss):
        loss.backward()  # and, before it, forward: DyNet computes what is asked for

    def gradients(self):
        found = {
            name: np.array([gate.grad_as_array() for gate in gates])
            for name, gates in self.parameters.items()
        }
        return found | {"E": self.E.grad_as_array()}

    def update(self):
        self.trainer.update()

    def value(self, loss):
        return loss.value()
