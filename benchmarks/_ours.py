"""The programs in tinygrad_rnn."""

from functools import partial
from types import SimpleNamespace

import numpy as np

import tinygrad_rnn as tg
from benchmarks import _data
from benchmarks._cells import chain, last_state
from benchmarks._programs import Program, Training
from benchmarks._timing import blas_threads
from tinygrad_rnn import nn

OPS = SimpleNamespace(tanh=tg.tanh, sigmoid=tg.sigmoid, split=lambda x, n: tg.split(x, n, 1))


class Ours:
    """What all of them run on, and how a plain gradient is taken."""

    def libraries(self):
        return f"tinygrad_rnn {tg.__version__}, NumPy {np.__version__}, {blas_threads()}"


class OurTraining(Ours, Training):
    """Parameters by name, and their gradients."""

    def track(self, arrays):
        """Set `parameters` to Tensors of these arrays."""
        self.parameters = {name: tg.tensor(x, requires_grad=True) for name, x in arrays.items()}

    def backward(self, loss):
        for x in self.parameters.values():
            x.grad = None
        loss.backward()

    def gradients(self):
        return {name: x.grad.numpy() for name, x in self.parameters.items() if x.grad is not None}

    def value(self, loss):
        return loss.item()


class Chain(OurTraining):
    """A chain of small operations, forward and backward."""

    def __init__(self, kind, side):
        x, w, g = _data.chain(kind, side)
        self.track({"x": x, "w": w})
        self.kind, self.g = kind, tg.tensor(g)

    def loss(self, batch):
        return chain(OPS, self.kind, self.parameters["x"], self.parameters["w"])

    def backward(self, y):
        self.parameters["x"].grad = self.parameters["w"].grad = None
        y.backward(self.g)

    def value(self, y):
        return float(y.array.mean())


class Layer(OurTraining):
    """A layer of the package, its input tracked."""

    def __init__(self, cell, T, B, D, H, layers=1, bidirectional=False):
        arrays, x, g = _data.layer(cell, T, B, D, H, layers, bidirectional)
        self.layer = getattr(nn, cell)(D, H, num_layers=layers, bidirectional=bidirectional)
        self.layer.load_state_dict(arrays)
        self.x, self.g = tg.tensor(x, requires_grad=True), tg.tensor(g)
        self.parameters = dict(self.layer.named_parameters()) | {"x": self.x}

    def loss(self, batch):
        return self.layer(self.x)[0]

    def backward(self, y):
        for x in self.parameters.values():
            x.grad = None
        y.backward(self.g)

    def value(self, y):
        return float((y.array * self.g.array).sum())


class Loop(OurTraining):
    """A loop over a cell that a user wrote in plain operations."""

    def __init__(self, cell, T, B, D, H):
        arrays, xs = _data.loop(cell, T, B, D, H)
        self.xs, zeros = tg.tensor(xs).array, np.zeros((B, H), np.float32)
        self.cell, self.zeros = cell, tg.tensor(zeros).array
        self.track(arrays)

    def loss(self, batch):
        return tg.mean(last_state(OPS, self.cell, self.xs, self.zeros, **self.parameters))


class CellLoop(OurTraining):
    """A loop over the package's own LSTM cell."""

    def __init__(self, cell, T, B, D, H):
        if cell != "LSTM":
            raise NotImplementedError("is measured for the LSTM alone")
        arrays, xs = _data.loop(cell, T, B, D, H)
        self.xs = tg.tensor(xs).array
        self.cell = nn.LSTMCell(D, H)
        W, U, b = (arrays[name].T for name in "WUb")
        self.cell.load_state_dict({"weight_ih": W, "weight_hh": U, "bias_ih": b, "bias_hh": 0 * b})
        self.parameters = {
            "W": self.cell.weight_ih,
            "U": self.cell.weight_hh,
            "b": self.cell.bias_ih,
        }

    def loss(self, batch):
        state = None
        for x in self.xs:
            state = self.cell(x, state)
        return tg.mean(state[0])


class Tagger(OurTraining):
    """A list of sentences as they are, without padding, and SGD."""

    def __init__(self, D, H, sentences):
        arrays, batches = _data.tagging(D, H, sentences)
        self.batches = [[(np.array(words), np.array(tags)) for words, tags in b] for b in batches]
        self.track({name: arrays.pop(name) for name in "ERr"})
        self.lstm = nn.LSTM(D, H, bidirectional=True)
        self.lstm.load_state_dict(arrays)
        self.parameters |= dict(self.lstm.named_parameters())
        self.optimizer = tg.optim.SGD(self.parameters.values(), _data.LR)

    def loss(self, batch):
        words, tags = zip(*batch, strict=True)
        ends = np.cumsum([len(ids) for ids in words])
        xs = tg.embedding(np.concatenate(words), self.parameters["E"])
        hs, _ = self.lstm(tg.split(xs, ends[:-1].tolist()))
        logits = tg.concatenate(hs) @ self.parameters["R"] + self.parameters["r"]
        return tg.cross_entropy(logits, np.concatenate(tags))

    def update(self):
        self.optimizer.step()


class LanguageModel(OurTraining):
    """An embedding, LSTM layers and a softmax; gradients are clipped, and SGD."""

    def __init__(self, T, B, D, H, V, layers):
        arrays, self.batches = _data.language_model(T, B, D, H, V, layers)
        self.embed, self.readout = nn.Embedding(V, D), nn.Linear(H, V)
        self.lstm = nn.LSTM(D, H, num_layers=layers)
        self.embed.load_state_dict({"weight": arrays.pop("E")})
        self.readout.load_state_dict({"weight": arrays.pop("R"), "bias": arrays.pop("r")})
        self.lstm.load_state_dict(arrays)
        self.parameters = dict(self.lstm.named_parameters()) | {
            "E": self.embed.weight,
            "R": self.readout.weight,
            "r": self.readout.bias,
        }
        self.optimizer = tg.optim.SGD(self.parameters.values(), _data.LR)

    def loss(self, batch):
        x, y = batch
        return tg.cross_entropy(self.readout(self.lstm(self.embed(x))[0]), y)

    def update(self):
        tg.optim.clip_grad_norm_(self.parameters.items(), _data.CLIP)
        self.optimizer.step()


class Translator(OurTraining):
    """A bidirectional encoder, a decoder that is fed the targets, multiplicative attention."""

    def __init__(self, S, T, B, D, H, V):
        arrays, self.source, self.target = _data.translation(S, T, B, D, H, V)
        self.encoder = nn.LSTM(D, H // 2, bidirectional=True, batch_first=True)
        self.decoder = nn.LSTM(D, H, batch_first=True)
        self.attention = nn.MultiplicativeAttention(H, H)
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        self.parameters = {}
        for name, layer in parts.items():
            own = [key for key in arrays if key.startswith(f"{name}.")]
            layer.load_state_dict({key.partition(".")[2]: arrays.pop(key) for key in own})
            self.parameters |= {f"{name}.{key}": x for key, x in layer.named_parameters()}
        self.attention.load_state_dict({"weight": arrays.pop("attention")})
        rest = {name: tg.tensor(x, requires_grad=True) for name, x in arrays.items()}
        self.parameters |= rest | {"attention": self.attention.weight}
        self.optimizer = tg.optim.SGD(self.parameters.values(), _data.LR)

    def loss(self, batch):
        p, y = self.parameters, self.target
        keys, (last, _) = self.encoder(tg.embedding(self.source, p["E_source"]))
        h = tg.concatenate([last[0], last[1]], -1)[None]
        steps, _ = self.decoder(tg.embedding(y[:, :-1], p["E_target"]), (h, h))
        contexts, _ = self.attention(steps, keys)
        vectors = tg.tanh(tg.concatenate([steps, contexts], -1) @ p["M"].T)
        return tg.cross_entropy(vectors @ p["E_target"].T + p["b"], y[:, 1:])

    def update(self):
        self.optimizer.step()


class Generator(Ours):
    """A trained language model at work: what beam search and inference have in common."""

    def __init__(self, D, H, V):
        arrays, _ = _data.language_model(1, 1, D, H, V, layers=1, steps=1)
        self.embed, self.cell = nn.Embedding(V, D), nn.LSTMCell(D, H)
        self.readout = nn.Linear(H, V)
        self.embed.load_state_dict({"weight": arrays["E"]})
        self.readout.load_state_dict({"weight": arrays["R"], "bias": arrays["r"]})
        names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
        self.cell.load_state_dict({name: arrays[f"{name}_l0"] for name in names})
        self.H = H

    def after(self, tokens, state):
        """The log-probabilities (N, V) of what follows tokens (N,), and the state after them."""
        h, c = self.cell(self.embed(tokens), state)
        return tg.log_softmax(self.readout(h)), (h, c)


class BeamSearch(Generator, Program):
    """The best sequences of so many steps from a language model."""

    def __init__(self, B, beam, steps, D, H, V):
        super().__init__(D, H, V)
        self.search = partial(tg.decode.beam_search, self.after, beam=beam, steps=steps, end=0)
        self.start = np.arange(1, B + 1)

    def found(self):
        zeros = np.zeros((len(self.start), self.H), np.float32)
        return self.search((zeros, zeros), self.start)

    def checks(self):
        best = [hypotheses[0] for hypotheses in self.found()]
        return {f"score {n}": hypothesis.score for n, hypothesis in enumerate(best)}

    def step(self, n):
        self.found()


class Inference(Generator, Program):
    """One step of a language model for one sequence, from word to log-probabilities."""

    def __init__(self, D, H, V):
        super().__init__(D, H, V)
        self.token = np.array([1])
        self.begin()

    def begin(self):
        """Go to the state in which a sequence begins."""
        zeros = np.zeros((1, self.H), np.float32)
        self.state = zeros, zeros

    def checks(self):
        for n in range(10):
            self.step(n)
        found = float(self.log_p.array.max())
        self.begin()
        return {"log p": found}

    def step(self, n):
        with tg.no_grad():
            self.log_p, self.state = self.after(self.token, self.state)


class Optimizer(Ours, Program):
    """One update of all parameters by gradients that are there."""

    def __init__(self, rule, D, H, V, layers):
        arrays, _ = _data.language_model(1, 1, D, H, V, layers, steps=1)
        gradients = _data.gradients(arrays)
        self.parameters = {name: tg.tensor(x, requires_grad=True) for name, x in arrays.items()}
        for name, x in self.parameters.items():
            x.grad = tg.tensor(gradients[name])
        kind, settings = _data.RULES[rule]
        self.optimizer = getattr(tg.optim, kind)(self.parameters.values(), **settings)

    def checks(self):
        for n in range(3):
            self.step(n)
        return {name: float(np.linalg.norm(x.array)) for name, x in self.parameters.items()}

    def step(self, n):
        self.optimizer.step()
