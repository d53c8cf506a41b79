"""The programs in PyTorch."""

import os
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, rnn

from benchmarks import _data
from benchmarks._cells import chain, last_state
from benchmarks._programs import Program, Training

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))

OPS = SimpleNamespace(tanh=torch.tanh, sigmoid=torch.sigmoid, split=lambda x, n: x.chunk(n, 1))


class Torch:
    """What all of them run on."""

    def libraries(self):
        return f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"


class TorchTraining(Torch, Training):
    """Parameters by name, and their gradients."""

    def track(self, arrays):
        """Set `parameters` to tensors of these arrays."""
        self.parameters = {name: torch.tensor(x, requires_grad=True) for name, x in arrays.items()}

    def backward(self, loss):
        for x in self.parameters.values():
            x.grad = None
        loss.backward()

    def gradients(self):
        return {
            name: x.grad.to_dense().cpu().numpy()
            for name, x in self.parameters.items()
            if x.grad is not None
        }

    def value(self, loss):
        return loss.item()


def tensors(arrays):
    """The arrays as tensors, by name."""
    return {name: torch.tensor(x) for name, x in arrays.items()}


class Chain(TorchTraining):
    """A chain of small operations, forward and backward."""

    def __init__(self, kind, side):
        x, w, g = _data.chain(kind, side)
        self.track({"x": x, "w": w})
        self.kind, self.g = kind, torch.tensor(g)

    def loss(self, batch):
        return chain(OPS, self.kind, self.parameters["x"], self.parameters["w"])

    def backward(self, y):
        self.parameters["x"].grad = self.parameters["w"].grad = None
        y.backward(self.g)

    def value(self, y):
        return y.mean().item()


class Layer(TorchTraining):
    """A layer of the library, its input tracked."""

    def __init__(self, cell, T, B, D, H, layers=1, bidirectional=False):
        arrays, x, g = _data.layer(cell, T, B, D, H, layers, bidirectional)
        self.layer = getattr(nn, cell)(D, H, num_layers=layers, bidirectional=bidirectional)
        self.layer.load_state_dict(tensors(arrays))
        self.x, self.g = torch.tensor(x, requires_grad=True), torch.tensor(g)
        self.parameters = dict(self.layer.named_parameters()) | {"x": self.x}

    def loss(self, batch):
        return self.layer(self.x)[0]

    def backward(self, y):
        for x in self.parameters.values():
            x.grad = None
        y.backward(self.g)

    def value(self, y):
        return (y * self.g).sum().item()


class Loop(TorchTraining):
    """A loop over a cell that a user wrote in plain operations."""

    def __init__(self, cell, T, B, D, H):
        arrays, xs = _data.loop(cell, T, B, D, H)
        self.cell, self.xs, self.zeros = cell, torch.tensor(xs), torch.zeros(B, H)
        self.track(arrays)

    def loss(self, batch):
        return last_state(OPS, self.cell, self.xs, self.zeros, **self.parameters).mean()


class CellLoop(TorchTraining):
    """A loop over PyTorch's own LSTM cell."""

    def __init__(self, cell, T, B, D, H):
        if cell != "LSTM":
            raise NotImplementedError("is measured for the LSTM alone")
        arrays, xs = _data.loop(cell, T, B, D, H)
        self.cell, self.xs = nn.LSTMCell(D, H), torch.tensor(xs)
        W, U, b = (torch.tensor(arrays[name].T) for name in "WUb")
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
        return state[0].mean()


class Tagger(TorchTraining):
    """Words and tags are packed as sequences are; so nothing is padded, and no mask needed."""

    def __init__(self, D, H, sentences):
        arrays, batches = _data.tagging(D, H, sentences)
        on_host = partial(torch.tensor, device="cpu")
        self.batches = [[tuple(map(on_host, pair)) for pair in b] for b in batches]
        self.track({name: arrays.pop(name) for name in "ERr"})
        self.lstm = nn.LSTM(D, H, bidirectional=True)
        self.lstm.load_state_dict(tensors(arrays))
        self.parameters |= dict(self.lstm.named_parameters())
        self.optimizer = torch.optim.SGD(self.parameters.values(), _data.LR)

    def loss(self, batch):
        words, tags = (self.packed(sequences) for sequences in zip(*batch, strict=True))
        x = F.embedding(words.data, self.parameters["E"], sparse=True)
        h = self.lstm(words._replace(data=x))[0].data
        return F.cross_entropy(h @ self.parameters["R"] + self.parameters["r"], tags.data)

    def packed(self, sequences):
        """They are packed on the host, and moved together to where the parameters are."""
        return rnn.pack_sequence(sequences, False).to(self.parameters["E"].device)

    def update(self):
        self.optimizer.step()


class LanguageModel(TorchTraining):
    """An embedding, LSTM layers and a softmax; gradients are clipped, and SGD."""

    def __init__(self, T, B, D, H, V, layers):
        arrays, batches = _data.language_model(T, B, D, H, V, layers)
        self.batches = [tuple(map(torch.tensor, batch)) for batch in batches]
        arrays = tensors(arrays)
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
        self.optimizer = torch.optim.SGD(self.parameters.values(), _data.LR)

    def loss(self, batch):
        x, y = batch
        logits = self.readout(self.lstm(self.embed(x))[0])
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())

    def update(self):
        clip_grad_norm_(self.parameters.values(), _data.CLIP)
        self.optimizer.step()


class Translator(TorchTraining):
    """A bidirectional encoder, a decoder that is fed the targets, multiplicative attention."""

    def __init__(self, S, T, B, D, H, V):
        arrays, source, target = _data.translation(S, T, B, D, H, V)
        self.source, self.target = torch.tensor(source), torch.tensor(target)
        self.encoder = nn.LSTM(D, H // 2, bidirectional=True, batch_first=True)
        self.decoder = nn.LSTM(D, H, batch_first=True)
        self.parameters = {}
        for name, layer in {"encoder": self.encoder, "decoder": self.decoder}.items():
            own = [key for key in arrays if key.startswith(f"{name}.")]
            layer.load_state_dict(tensors({k.partition(".")[2]: arrays.pop(k) for k in own}))
            self.parameters |= {f"{name}.{key}": x for key, x in layer.named_parameters()}
        self.parameters |= {k: torch.tensor(x, requires_grad=True) for k, x in arrays.items()}
        self.optimizer = torch.optim.SGD(self.parameters.values(), _data.LR)

    def loss(self, batch):
        p, y = self.parameters, self.target
        keys, (last, _) = self.encoder(F.embedding(self.source, p["E_source"]))
        h = torch.cat([last[0], last[1]], -1)[None]
        steps, _ = self.decoder(F.embedding(y[:, :-1], p["E_target"]), (h, h))
        scores = steps @ p["attention"] @ keys.transpose(1, 2)
        contexts = torch.softmax(scores, -1) @ keys
        vectors = torch.tanh(torch.cat([steps, contexts], -1) @ p["M"].T)
        logits = vectors @ p["E_target"].T + p["b"]
        return F.cross_entropy(logits.flatten(0, 1), y[:, 1:].flatten())

    def update(self):
        self.optimizer.step()


class Generator(Torch):
    """A trained language model at work: what beam search and inference have in common."""

    def __init__(self, D, H, V):
        arrays = tensors(_data.language_model(1, 1, D, H, V, layers=1, steps=1)[0])
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
        return torch.log_softmax(self.readout(h), -1), (h, c)


class BeamSearch(Generator, Program):
    """The same search with all hypotheses of all inputs in one batch: finished ones are kept apart.

    Token 0 ends a sequence; a search ends when no unfinished hypothesis can still win.
    """

    def __init__(self, B, beam, steps, D, H, V):
        super().__init__(D, H, V)
        self.B, self.beam, self.steps, self.V = B, beam, steps, V

    @torch.inference_mode()
    def found(self):
        """The tokens of the best hypothesis of each input, and its score."""
        B, K, V = self.B, self.beam, self.V
        state = torch.zeros(B, self.H), torch.zeros(B, self.H)
        log_p, state = self.after(torch.arange(1, B + 1), state)
        sums, tokens = log_p.topk(K, 1)  # (B, K)
        state = tuple(x.repeat_interleave(K, 0) for x in state)
        paths, first = tokens[:, :, None], torch.arange(B)[:, None] * K
        best = torch.full((B, K), -torch.inf)  # of those finished
        ended = tokens == 0
        for t in range(1, self.steps + 1):
            finished = sums.masked_fill(~ended, -torch.inf)
            best = torch.cat([best, finished], 1).topk(K, 1).values
            sums = sums.masked_fill(ended, -torch.inf)
            if t == self.steps or (best[:, -1] >= sums.amax(1)).all():
                break
            log_p, state = self.after(tokens.flatten(), state)
            sums, places = (sums.flatten()[:, None] + log_p).view(B, K * V).topk(K, 1)
            parents, tokens = places // V, places % V
            rows = (first + parents).flatten()
            state = tuple(x[rows] for x in state)
            paths = torch.cat([paths.flatten(0, 1)[rows].view(B, K, t), tokens[:, :, None]], 2)
            ended = tokens == 0
        return paths, torch.cat([best, sums], 1).amax(1)

    def checks(self):
        _, scores = self.found()
        return {f"score {n}": score for n, score in enumerate(scores.tolist())}

    def step(self, n):
        self.found()


class Inference(Generator, Program):
    """One step of a language model for one sequence, from word to log-probabilities."""

    def __init__(self, D, H, V):
        super().__init__(D, H, V)
        self.token = torch.tensor([1])
        self.begin()

    def begin(self):
        """Go to the state in which a sequence begins."""
        self.state = torch.zeros(1, self.H), torch.zeros(1, self.H)

    def checks(self):
        for n in range(10):
            self.step(n)
        found = self.log_p.max().item()
        self.begin()
        return {"log p": found}

    @torch.inference_mode()
    def step(self, n):
        self.log_p, self.state = self.after(self.token, self.state)


class Optimizer(Torch, Program):
    """One update of all parameters by gradients that are there."""

    def __init__(self, rule, D, H, V, layers, fused=None):
        kind, settings = _data.RULES[rule]
        if fused and kind == "RMSprop":
            raise NotImplementedError("has no fused RMSprop")
        arrays, _ = _data.language_model(1, 1, D, H, V, layers, steps=1)
        gradients = _data.gradients(arrays)
        self.parameters = {name: torch.tensor(x, requires_grad=True) for name, x in arrays.items()}
        for name, x in self.parameters.items():
            x.grad = torch.tensor(gradients[name])
        settings = settings | ({"fused": True} if fused else {})  # the rule is everybody's
        self.optimizer = getattr(torch.optim, kind)(self.parameters.values(), **settings)

    def checks(self):
        for n in range(3):
            self.step(n)
        return {name: x.detach().norm().item() for name, x in self.parameters.items()}

    def step(self, n):
        self.optimizer.step()


class Square(Torch, Program):
    """One product of two square matrices."""

    def __init__(self, n):
        a, b = np.random.default_rng(0).standard_normal((2, n, n), np.float32)
        self.a, self.b, self.c = torch.tensor(a), torch.tensor(b), torch.empty(n, n)

    def checks(self):
        return {"the trace": (self.a @ self.b).trace().item()}

    def step(self, n):
        torch.matmul(self.a, self.b, out=self.c)
