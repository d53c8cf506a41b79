"""The programs of `sequences.py` in PyTorch: a tagger over packed sequences, and loops."""

import torch
from torch.nn import functional as F
from torch.nn.utils import rnn

from benchmarks._workers import Training


class Torch(Training):
    """Parameters by name, and their gradients."""

    def libraries(self):
        return f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"

    def backward(self, loss):
        for x in self.parameters.values():
            x.grad = None
        loss.backward()

    def gradients(self):
        return {name: x.grad.to_dense().numpy() for name, x in self.parameters.items()}

    def value(self, loss):
        return loss.item()


class Tagger(Torch):
    """Words and tags are packed as sequences are; so nothing is padded, and no mask needed."""

    def __init__(self, batches, arrays, lr, a_round):
        batches = [
            [(torch.tensor(words), torch.tensor(tags)) for words, tags in b] for b in batches
        ]
        super().__init__(batches, a_round)
        H, D = arrays["R"].shape[0] // 2, arrays["E"].shape[1]
        self.lstm = torch.nn.LSTM(D, H, bidirectional=True)
        tensors = {name: torch.tensor(x) for name, x in arrays.items()}
        layer = {name: tensors[name] for name in self.lstm.state_dict()}
        self.lstm.load_state_dict(layer)
        self.parameters = {
            name: getattr(self.lstm, name) if name in layer else x.requires_grad_()
            for name, x in tensors.items()
        }
        self.optimizer = torch.optim.SGD(self.parameters.values(), lr)

    def loss(self, batch):
        words, tags = (rnn.pack_sequence(s, False) for s in zip(*batch, strict=True))
        x = F.embedding(words.data, self.parameters["E"], sparse=True)
        h = self.lstm(words._replace(data=x))[0].data
        return F.cross_entropy(h @ self.parameters["R"] + self.parameters["r"], tags.data)

    def update(self):
        self.optimizer.step()


class Composed(Torch):
    """A loop over an LSTM cell that a user wrote in plain operations."""

    def __init__(self, x, arrays, a_round):
        super().__init__([torch.tensor(x)], a_round)
        self.parameters = {name: torch.tensor(a, requires_grad=True) for name, a in arrays.items()}

    def loss(self, xs):
        W, U, b = (self.parameters[name] for name in "WUb")
        h = c = torch.zeros(xs.shape[1], U.shape[0])
        for x in xs:
            i, f, g, o = (x @ W + h @ U + b).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return h.sum()

    def update(self):
        """Nothing is learned."""


class LSTMCell(Composed):
    """The same with PyTorch's own cell."""

    def __init__(self, x, arrays, a_round):
        super().__init__(x, arrays, a_round)
        self.cell = torch.nn.LSTMCell(x.shape[2], arrays["U"].shape[0])
        W, U, b = (torch.tensor(arrays[name].T) for name in "WUb")
        tensors = {"weight_ih": W, "weight_hh": U, "bias_ih": b, "bias_hh": 0 * b}
        self.cell.load_state_dict(tensors)
        names = zip("WUb", ["weight_ih", "weight_hh", "bias_ih"], strict=True)
        self.parameters = {letter: getattr(self.cell, name) for letter, name in names}

    def loss(self, xs):
        state = None
        for x in xs:
            state = self.cell(x, state)
        return state[0].sum()
