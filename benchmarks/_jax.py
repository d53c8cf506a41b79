"""The programs in JAX: each compiled for its shapes, before it is timed."""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _data
from benchmarks._cells import CELLS
from benchmarks._programs import Program, Training

STEP = 16  # lengths of sentences are padded to multiples of it: fewer shapes to compile


class OPS:
    """The functions of a cell."""

    tanh, sigmoid = jnp.tanh, jax.nn.sigmoid
    split = staticmethod(lambda x, n: jnp.split(x, n, axis=1))


def states(cell, z, U, b_hh, mask=None, begin=None):
    """The states h (T, B, H) of a layer from its input's part z (T, B, gates * H).

    Where `mask` (T, B) is 0, so is the state.
    """

    def step(state, now):
        z, m = now
        z_h = state[0] @ U.T + b_hh
        if cell == "RNN":
            state = (jnp.tanh(z + z_h),)
        elif cell == "GRU":
            (x_r, x_z, x_n), (h_r, h_z, h_n) = OPS.split(z, 3), OPS.split(z_h, 3)
            n = jnp.tanh(x_n + OPS.sigmoid(x_r + h_r) * h_n)
            state = (n + OPS.sigmoid(x_z + h_z) * (state[0] - n),)
        else:
            i, f, g, o = OPS.split(z + z_h, 4)
            c = OPS.sigmoid(f) * state[1] + OPS.sigmoid(i) * jnp.tanh(g)
            state = OPS.sigmoid(o) * jnp.tanh(c), c
        if m is not None:
            state = tuple(x * m[:, None] for x in state)
        return state, state[0]

    zeros = jnp.zeros((z.shape[1], U.shape[1]))
    begin = begin or (zeros,) * CELLS[cell][1]
    return jax.lax.scan(step, begin, (z, mask))[1]


def layers(cell, parameters, x, mask=None, begin=None, prefix=""):
    """The output (T, B, directions * H) of all layers whose parameters there are."""
    n = 0
    while f"{prefix}weight_ih_l{n}" in parameters:
        outputs = []
        for direction in ("", "_reverse"):
            if f"{prefix}weight_ih_l{n}{direction}" not in parameters:
                continue
            W, U, b, b_hh = (
                parameters[f"{prefix}{name}_l{n}{direction}"]
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            turn = slice(None, None, -1 if direction else 1)
            z, m = (x @ W.T + b)[turn], None if mask is None else mask[turn]
            outputs.append(states(cell, z, U, b_hh, m, begin)[turn])
        x = jnp.concatenate(outputs, 2)
        n += 1
    return x


class Jax(Training):
    """Value and gradient of a compiled function `loss_of(parameters, *batch)`, and perhaps SGD."""

    learns = True

    def begin(self, arrays, batches):
        """Take parameters and batches, and compile for the shapes of these."""
        self.parameters = {name: jnp.array(x) for name, x in arrays.items()}
        self.batches = [tuple(map(jnp.array, batch)) for batch in batches]
        self.value_and_gradients = jax.jit(jax.value_and_grad(self.loss_of))
        self.compiled = self.value_and_gradients
        if self.learns:
            self.compiled = jax.jit(self.learned, donate_argnums=0)
        for batch in {str([x.shape for x in batch]): batch for batch in self.batches}.values():
            self.compiled({name: x.copy() for name, x in self.parameters.items()}, *batch)

    def libraries(self):
        return f"JAX {jax.__version__}, {jax.devices()[0].platform}, {len(cores())} threads"

    def loss(self, batch):
        value, self.found = self.value_and_gradients(self.parameters, *batch)
        return value

    def backward(self, loss):
        jax.block_until_ready(self.found)

    def gradients(self):
        return {name: np.asarray(g) for name, g in self.found.items()}

    def value(self, loss):
        return float(loss)

    def learned(self, parameters, *batch):
        """The parameters after a step."""
        return self.moved(parameters, jax.grad(self.loss_of)(parameters, *batch))

    def moved(self, parameters, gradients):
        """The parameters moved along the gradients."""
        return jax.tree.map(lambda x, g: x - _data.LR * g, parameters, gradients)

    def update(self):
        if self.learns:
            self.parameters = self.moved(self.parameters, self.found)

    def step(self, n):
        found = self.compiled(self.parameters, *self.batches[n % len(self.batches)])
        found = jax.block_until_ready(found)
        if self.learns:
            self.parameters = found


def cores():
    """The cores that this process may use, as many as JAX has threads."""
    return os.sched_getaffinity(0)


def cross_entropy(logits, targets):
    """The cross entropy of each target."""
    picked = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return jax.nn.logsumexp(logits, -1) - picked


class Layer(Jax):
    """A scan over the cell."""

    learns = False

    def __init__(self, cell, T, B, D, H, layers=1, bidirectional=False):
        arrays, x, g = _data.layer(cell, T, B, D, H, layers, bidirectional)
        self.cell = cell
        self.begin(arrays | {"x": x}, [(g,)])

    def loss_of(self, parameters, g):
        """The sum of the output, weighted by its cotangent."""
        return (layers(self.cell, parameters, parameters["x"]) * g).sum()


class Loop(Jax):
    """The loop over a user's cell: one compiled `scan`."""

    learns = False

    def __init__(self, cell, T, B, D, H):
        arrays, xs = _data.loop(cell, T, B, D, H)
        self.cell, self.H = cell, H
        self.begin(arrays, [(xs,)])

    def loss_of(self, parameters, xs):
        """The mean of the last state."""
        step, count = CELLS[self.cell]
        begin = (jnp.zeros((xs.shape[1], self.H)),) * count
        state, _ = jax.lax.scan(lambda s, x: (step(OPS, x, s, **parameters), None), begin, xs)
        return state[0].mean()


class Tagger(Jax):
    """The sentences of a batch in one padded array; the mask keeps the states at 0 in padding."""

    def __init__(self, D, H, sentences):
        arrays, batches = _data.tagging(D, H, sentences)
        self.begin(arrays, [padded(batch) for batch in batches])

    def loss_of(self, parameters, words, tags, mask):
        """The mean cross entropy of the tags (T, B) where the mask is 1."""
        hs = layers("LSTM", parameters, parameters["E"][words], mask)
        losses = cross_entropy(hs @ parameters["R"] + parameters["r"], tags)
        return (losses * mask).sum() / mask.sum()


def padded(batch):
    """Word ids, tag ids and mask (T, B) of a batch of sentences."""
    T = -(-max(len(words) for words, _ in batch) // STEP) * STEP
    words, tags = np.zeros((2, T, len(batch)), np.int32)
    mask = np.zeros((T, len(batch)), np.float32)
    for i, (its_words, its_tags) in enumerate(batch):
        n = len(its_words)
        words[:n, i], tags[:n, i], mask[:n, i] = its_words, its_tags, 1
    return words, tags, mask


class LanguageModel(Jax):
    """An embedding, LSTM layers and a softmax; gradients are clipped, and SGD."""

    def __init__(self, T, B, D, H, V, layers):
        self.begin(*_data.language_model(T, B, D, H, V, layers))

    def loss_of(self, parameters, x, y):
        """The mean cross entropy."""
        hs = layers("LSTM", parameters, parameters["E"][x])
        return cross_entropy(hs @ parameters["R"].T + parameters["r"], y).mean()

    def moved(self, parameters, gradients):
        norm = jnp.sqrt(sum((g * g).sum() for g in gradients.values()))
        rate = _data.LR * jnp.minimum(1.0, _data.CLIP / (norm + 1e-6))
        return jax.tree.map(lambda x, g: x - rate * g, parameters, gradients)


class Translator(Jax):
    """A bidirectional encoder, a decoder that is fed the targets, multiplicative attention."""

    def __init__(self, S, T, B, D, H, V):
        arrays, source, target = _data.translation(S, T, B, D, H, V)
        self.H = H
        self.begin(arrays, [(source, target)])

    def loss_of(self, p, source, target):
        """The mean cross entropy of the target's words."""
        keys = layers("LSTM", p, p["E_source"][source.T], prefix="encoder.")  # (S, B, H)
        half = self.H // 2
        h = jnp.concatenate([keys[-1, :, :half], keys[0, :, half:]], -1)
        words = p["E_target"][target[:, :-1].T]
        steps = layers("LSTM", p, words, begin=(h, h), prefix="decoder.")  # (T, B, H)
        scores = jnp.einsum("tbq,sbq->bts", steps @ p["attention"], keys)
        contexts = jnp.einsum("bts,sbh->tbh", jax.nn.softmax(scores, -1), keys)
        vectors = jnp.tanh(jnp.concatenate([steps, contexts], -1) @ p["M"].T)
        return cross_entropy(vectors @ p["E_target"].T + p["b"], target[:, 1:].T).mean()


class Inference(Program):
    """One compiled step of a language model for one sequence, from word to log-probabilities."""

    libraries = Jax.libraries

    def __init__(self, D, H, V):
        arrays, _ = _data.language_model(1, 1, D, H, V, layers=1, steps=1)
        self.after = jax.jit(partial(after, {k: jnp.array(x) for k, x in arrays.items()}))
        self.token, self.H = jnp.array([1]), H
        self.begin()

    def begin(self):
        """Go to the state in which a sequence begins."""
        self.state = jnp.zeros((1, self.H)), jnp.zeros((1, self.H))

    def checks(self):
        for n in range(10):
            self.step(n)
        found = float(self.log_p.max())
        self.begin()
        return {"log p": found}

    def step(self, n):
        self.log_p, self.state = jax.block_until_ready(self.after(self.token, self.state))


def after(p, tokens, state):
    """The log-probabilities (N, V) of what follows tokens (N,), and the state after them."""
    x, (h, c) = p["E"][tokens], state
    z = x @ p["weight_ih_l0"].T + h @ p["weight_hh_l0"].T + p["bias_ih_l0"] + p["bias_hh_l0"]
    i, f, g, o = OPS.split(z, 4)
    c = OPS.sigmoid(f) * c + OPS.sigmoid(i) * jnp.tanh(g)
    h = OPS.sigmoid(o) * jnp.tanh(c)
    return jax.nn.log_softmax(h @ p["R"].T + p["r"]), (h, c)
