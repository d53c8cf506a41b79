"""The programs of `sequences.py` in JAX: padded and masked, compiled for each padded length."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._workers import Training

STEP = 16  # lengths are padded to multiples of it: fewer shapes to compile


def lstm(z, U, mask):
    """The states h (T, B, H) of an LSTM, 0 where `mask` (T, B) is; z (T, B, 4H) is its input."""

    def step(state, now):
        h, c = state
        z, m = now
        i, f, g, o = jnp.split(z + h @ U, 4, axis=1)
        c = (jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)) * m[:, None]
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((z.shape[1], U.shape[0]))
    return jax.lax.scan(step, (zeros, zeros), (z, mask))[1]


class Jax(Training):
    """Value and gradient of a compiled function `loss_of(parameters, *batch)`."""

    def __init__(self, batches, arrays, a_round):
        super().__init__(batches, a_round)
        self.parameters = {name: jnp.array(x) for name, x in arrays.items()}
        self.value_and_gradients = jax.jit(jax.value_and_grad(self.loss_of))

    def libraries(self):
        return f"JAX {jax.__version__}, {jax.devices()[0].platform}"

    def loss(self, batch):
        value, self.found = self.value_and_gradients(self.parameters, *batch)
        return value

    def backward(self, loss):
        jax.block_until_ready(self.found)

    def gradients(self):
        return {name: np.asarray(g) for name, g in self.found.items()}

    def update(self):
        """Nothing is learned."""

    def value(self, loss):
        return float(loss)


class Tagger(Jax):
    """The sentences of a batch in one padded array; the mask keeps the states at 0 in padding."""

    def __init__(self, batches, arrays, lr, a_round):
        super().__init__([padded(batch) for batch in batches], arrays, a_round)
        self.lr = lr
        self.learn = jax.jit(self.learned, donate_argnums=0)
        for shape in {batch[0].shape for batch in self.batches}:  # compiling is not timed
            like = next(batch for batch in self.batches if batch[0].shape == shape)
            self.learn({name: x.copy() for name, x in self.parameters.items()}, *like)

    def loss_of(self, parameters, words, tags, mask):
        """The mean cross entropy of the tags (T, B) where the mask is 1."""
        x, hs = parameters["E"][words], []
        for direction in ("", "_reverse"):
            W, U, b, a = (
                parameters[f"{name}_l0{direction}"]
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            z, turn = x @ W.T + b + a, slice(None, None, -1 if direction else 1)
            hs.append(lstm(z[turn], U.T, mask[turn])[turn])
        logits = jnp.concatenate(hs, 2) @ parameters["R"] + parameters["r"]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tags[..., None], 2)[..., 0]
        return -(picked * mask).sum() / mask.sum()

    def learned(self, parameters, *batch):
        """The parameters after a step."""
        gradients = jax.grad(self.loss_of)(parameters, *batch)
        return jax.tree.map(lambda x, g: x - self.lr * g, parameters, gradients)

    def update(self):
        self.parameters = jax.tree.map(lambda x, g: x - self.lr * g, self.parameters, self.found)

    def step(self, batch):
        self.parameters = jax.block_until_ready(self.learn(self.parameters, *batch))


def padded(batch):
    """Word ids, tag ids and mask (T, B) of a batch of sentences."""
    T = -(-max(len(words) for words, _ in batch) // STEP) * STEP
    words, tags = np.zeros((2, T, len(batch)), np.int32)
    mask = np.zeros((T, len(batch)), np.float32)
    for i, (its_words, its_tags) in enumerate(batch):
        n = len(its_words)
        words[:n, i], tags[:n, i], mask[:n, i] = its_words, its_tags, 1
    return words, tags, mask


class Scan(Jax):
    """The loop over a cell: one compiled `scan`."""

    def __init__(self, x, arrays, a_round):
        super().__init__([(jnp.array(x),)], arrays, a_round)

    def loss_of(self, parameters, x):
        """The sum of the last state."""
        z = x @ parameters["W"] + parameters["b"]
        return lstm(z, parameters["U"], jnp.ones(x.shape[:2]))[-1].sum()
