"""The programs of `sequences.py` in tinygrad_rnn: a tagger, and loops over a cell."""

import numpy as np

import tinygrad_rnn as tg
from benchmarks._timing import blas_threads
from benchmarks._workers import Training


class Ours(Training):
    """Parameters by name, and their gradients."""

    def libraries(self):
        return f"tinygrad_rnn {tg.__version__}, NumPy {np.__version__}, {blas_threads()}"

    def backward(self, loss):
        for x in self.parameters.values():
            x.grad = None
        loss.backward()

    def gradients(self):
        return {name: x.grad.numpy() for name, x in self.parameters.items()}

    def value(self, loss):
        return loss.item()


class Tagger(Ours):
    """A list of sentences as they are, without padding."""

    def __init__(self, batches, arrays, lr, a_round):
        batches = [[(np.array(words), np.array(tags)) for words, tags in b] for b in batches]
        super().__init__(batches, a_round)
        H, D = arrays["R"].shape[0] // 2, arrays["E"].shape[1]
        self.lstm = tg.nn.LSTM(D, H, bidirectional=True)
        layer = {name: x for name, x in arrays.items() if name.endswith(("l0", "l0_reverse"))}
        self.lstm.load_state_dict(layer)
        self.parameters = {
            name: getattr(self.lstm, name) if name in layer else tg.tensor(x, requires_grad=True)
            for name, x in arrays.items()
        }
        self.optimizer = tg.optim.SGD(self.parameters.values(), lr)

    def loss(self, batch):
        words, tags = zip(*batch, strict=True)
        ends = np.cumsum([len(ids) for ids in words])
        xs = tg.embedding(np.concatenate(words), self.parameters["E"])
        hs, _ = self.lstm(tg.split(xs, ends[:-1].tolist()))
        logits = tg.concatenate(hs) @ self.parameters["R"] + self.parameters["r"]
        return tg.cross_entropy(logits, np.concatenate(tags))

    def update(self):
        self.optimizer.step()


class Composed(Ours):
    """A loop over an LSTM cell that a user wrote in plain operations."""

    def __init__(self, x, arrays, a_round):
        super().__init__([x], a_round)
        self.parameters = {name: tg.tensor(a, requires_grad=True) for name, a in arrays.items()}

    def loss(self, xs):
        W, U, b = (self.parameters[name] for name in "WUb")
        h = c = np.zeros((xs.shape[1], U.shape[0]), np.float32)
        for x in xs:
            i, f, g, o = tg.split(x @ W + h @ U + b, 4, 1)
            c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
            h = tg.sigmoid(o) * tg.tanh(c)
        return tg.sum(h)

    def update(self):
        """Nothing is learned."""


class LSTMCell(Composed):
    """The same with the package's own cell."""

    def __init__(self, x, arrays, a_round):
        super().__init__(x, arrays, a_round)
        self.cell = tg.nn.LSTMCell(x.shape[2], arrays["U"].shape[0])
        W, U, b = (arrays[name].T for name in "WUb")
        arrays = {"weight_ih": W, "weight_hh": U, "bias_ih": b, "bias_hh": 0 * b}
        self.cell.load_state_dict(arrays)
        names = zip("WUb", ["weight_ih", "weight_hh", "bias_ih"], strict=True)
        self.parameters = {letter: getattr(self.cell, name) for letter, name in names}

    def loss(self, xs):
        state = None
        for x in xs:
            state = self.cell(x, state)
        return tg.sum(state[0])
