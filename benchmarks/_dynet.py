"""The programs in DyNet, which has one thread on the processor: a matrix for each gate.

That is faster here than all gates in one product, and than DyNet's own VanillaLSTMBuilder.
"""

from importlib.metadata import version

import dynet_config
import numpy as np

dynet_config.set(mem=2048, autobatch=1)
import dynet as dy  # noqa: E402  reads these settings when it is imported

from benchmarks import _data  # noqa: E402
from benchmarks._programs import Training  # noqa: E402


class DyNet(Training):
    """Parameters by name, each a list of blocks of rows, and plain SGD."""

    def libraries(self):
        return f"DyNet (dynet38 {version('dynet38')}), autobatching, 1 thread"

    def take(self, arrays):
        """Set `parameters` from the arrays: tables are looked up, recurrent ones cut into gates."""
        self.collection = dy.ParameterCollection()
        self.tables = {
            name: self.collection.lookup_parameters_from_numpy(arrays[name])
            for name in arrays
            if name.startswith("E")
        }
        self.parameters = {
            name: self.blocks(x, 4 if name[-2:-1] == "l" or "_l0_" in name else 1)
            for name, x in arrays.items()
            if name not in self.tables
        }
        self.trainer = dy.SimpleSGDTrainer(self.collection, _data.LR)
        self.trainer.set_clip_threshold(-1)  # off, unless a program sets it

    def blocks(self, x, count):
        """A parameter for each of `count` blocks of rows."""
        parts = [np.ascontiguousarray(part) for part in np.split(x, count)]
        return [self.collection.parameters_from_numpy(part) for part in parts]

    def states(self, xs, end, h=None, c=None):
        """The states h of an LSTM after each of `xs`; `end` is that of its parameters' names."""
        names = (f"{name}{end}" for name in ("bias_ih", "weight_ih", "bias_hh", "weight_hh"))
        gates = list(zip(*[self.parameters[name] for name in names], strict=True))
        H, hs = gates[0][0].shape()[0], []
        h, c = h or dy.zeros(H), c or dy.zeros(H)
        for x in xs:
            i, f, g, o = [
                dy.affine_transform([b, W, x]) + dy.affine_transform([a, U, h])
                for b, W, a, U in gates
            ]
            c = dy.cmult(dy.logistic(f), c) + dy.cmult(dy.logistic(i), dy.tanh(g))
            h = dy.cmult(dy.logistic(o), dy.tanh(c))
            hs.append(h)
        return hs

    def backward(self, loss):
        loss.backward()  # and, before it, forward: DyNet computes what is asked for

    def gradients(self):
        found = {
            name: np.array([block.grad_as_array() for block in blocks])
            for name, blocks in self.parameters.items()
        }
        return found | {name: table.grad_as_array() for name, table in self.tables.items()}

    def update(self):
        self.trainer.update()

    def value(self, loss):
        return loss.value()


def rows(x):
    """The rows of a matrix as a batch; DyNet takes a batch of one for a matrix that it is not."""
    return dy.inputTensor(x.T, batched=True) if len(x) > 1 else dy.inputVector(x[0])


class Layer(DyNet):
    """One layer in one direction, its input tracked; a batch is DyNet's own."""

    def __init__(self, cell, T, B, D, H, layers=1, bidirectional=False):
        if cell != "LSTM" or layers > 1 or bidirectional:
            raise NotImplementedError("is measured for one LSTM in one direction alone")
        arrays, x, self.g = _data.layer(cell, T, B, D, H)
        self.take(arrays)
        self.x, self.T, self.B = x, T, B

    def loss(self, batch):
        dy.renew_cg()
        self.inputs = [rows(x) for x in self.x]
        hs = self.states(self.inputs, "_l0")
        weights = [rows(g) for g in self.g]
        return dy.sum_batches(
            dy.esum([dy.dot_product(h, g) for h, g in zip(hs, weights, strict=True)])
        )

    def backward(self, loss):
        loss.backward(full=True)  # to the input, too

    def update(self):
        """Nothing is learned."""


class Tagger(DyNet):
    """Each sentence by itself, which DyNet batches."""

    def __init__(self, D, H, sentences):
        arrays, self.batches = _data.tagging(D, H, sentences)
        arrays["R"] = arrays["R"].T
        self.take(arrays)

    def loss(self, batch):
        dy.renew_cg()
        hs, tags = [], []
        for words, its_tags in batch:
            xs = [dy.lookup(self.tables["E"], word) for word in words]
            forward = self.states(xs, "_l0")
            backward = self.states(xs[::-1], "_l0_reverse")[::-1]
            hs += [dy.concatenate(list(pair)) for pair in zip(forward, backward, strict=True)]
            tags += its_tags
        (r,), (R,) = self.parameters["r"], self.parameters["R"]
        logits = dy.affine_transform([r, R, dy.concatenate_to_batch(hs)])
        return dy.sum_batches(dy.pickneglogsoftmax_batch(logits, tags)) / len(tags)


class LanguageModel(DyNet):
    """An embedding, LSTM layers and a softmax; gradients are clipped, and SGD."""

    def __init__(self, T, B, D, H, V, layers):
        arrays, self.batches = _data.language_model(T, B, D, H, V, layers)
        self.take(arrays)
        self.layers = layers
        self.trainer.set_clip_threshold(_data.CLIP)

    def loss(self, batch):
        dy.renew_cg()
        x, y = batch
        hs = [dy.lookup_batch(self.tables["E"], ids) for ids in x.tolist()]
        for n in range(self.layers):
            hs = self.states(hs, f"_l{n}")
        (r,), (R,) = self.parameters["r"], self.parameters["R"]
        losses = [
            dy.pickneglogsoftmax_batch(dy.affine_transform([r, R, h]), ids)
            for h, ids in zip(hs, y.tolist(), strict=True)
        ]
        return dy.sum_batches(dy.esum(losses)) / y.size
