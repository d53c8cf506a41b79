"""What the programs work on: parameters in PyTorch's names, shapes and gate orders, and inputs."""

import numpy as np

from benchmarks import _sentences

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
BATCHES = 4  # of sentences, that a step of a program goes through
LR, CLIP = 0.1, 5.0  # of SGD in the training steps, and the largest norm of gradients


def uniform(rng, H, *shape):
    """Numbers of the size that PyTorch begins with."""
    return (rng.uniform(-1, 1, shape) * H**-0.5).astype(np.float32)


def recurrent(rng, cell, D, H, layers=1, bidirectional=False):
    """The parameters of layers, (4H, D), (4H, H), (4H,) and (4H,) for each of an LSTM."""
    rows, directions = GATES[cell] * H, ["", "_reverse"][: 1 + bidirectional]
    arrays = {}
    for n in range(layers):
        for end in [f"_l{n}{direction}" for direction in directions]:
            width = H * len(directions) if n else D
            arrays[f"weight_ih{end}"] = uniform(rng, H, rows, width)
            arrays[f"weight_hh{end}"] = uniform(rng, H, rows, H)
            arrays[f"bias_ih{end}"] = uniform(rng, H, rows)
            arrays[f"bias_hh{end}"] = uniform(rng, H, rows)
    return arrays


def layer(cell, T, B, D, H, layers=1, bidirectional=False):
    """Parameters, the input x (T, B, D), and the cotangent g of the output."""
    rng = np.random.default_rng(0)
    arrays = recurrent(rng, cell, D, H, layers, bidirectional)
    x = rng.standard_normal((T, B, D), np.float32)
    return arrays, x, rng.random((T, B, H * (1 + bidirectional)), np.float32) / (T * B)


def loop(cell, T, B, D, H):
    """W, U and b of a cell, x (T, B, D); `x @ W + h @ U + b` are the gates, side by side."""
    rng, width = np.random.default_rng(0), GATES[cell] * H
    arrays = {"W": uniform(rng, H, D, width), "U": uniform(rng, H, H, width)}
    arrays["b"] = uniform(rng, H, width)
    return arrays, rng.standard_normal((T, B, D), np.float32)


def language_model(T, B, D, H, V, layers, cell="LSTM", steps=3):
    """Parameters, and `steps` batches of ids: inputs (T, B) and targets (T, B)."""
    rng = np.random.default_rng(0)
    arrays = {"E": rng.standard_normal((V, D), np.float32)}
    arrays |= recurrent(rng, cell, D, H, layers)
    arrays |= {"R": uniform(rng, H, V, H), "r": uniform(rng, H, V)}
    ids = (V * rng.random((steps, T + 1, B)) ** 3).astype(np.int64)  # few are frequent
    return arrays, [(batch[:-1], batch[1:]) for batch in ids]


def tagging(D, H, sentences):
    """Parameters of a tagger, and batches of sentences: pairs of word ids and tag ids.

    E embeds the words; the logits of a token are `h @ R + r`, of both directions' h (2H,).
    """
    batches, V, K = _sentences.read(sentences)
    rng = np.random.default_rng(0)
    arrays = {"E": rng.standard_normal((V, D), np.float32)}
    arrays |= {"R": uniform(rng, H, 2 * H, K), "r": uniform(rng, H, K)}
    return arrays | recurrent(rng, "LSTM", D, H, bidirectional=True), batches[:BATCHES]


def translation(S, T, B, D, H, V):
    """Parameters of a translator, a batch of ids (B, S) of the source, (B, T + 1) of the target."""
    rng = np.random.default_rng(0)
    arrays = {"E_source": rng.standard_normal((V, D), np.float32)}
    arrays |= {"E_target": 0.3 * rng.standard_normal((V, D), np.float32)}
    encoder = recurrent(rng, "LSTM", D, H // 2, bidirectional=True)
    arrays |= {f"encoder.{name}": x for name, x in encoder.items()}
    arrays |= {f"decoder.{name}": x for name, x in recurrent(rng, "LSTM", D, H).items()}
    arrays |= {"attention": uniform(rng, H, H, H), "M": uniform(rng, H, D, 2 * H)}
    arrays |= {"b": np.zeros(V, np.float32)}
    return arrays, rng.integers(V, size=(B, S)), rng.integers(V, size=(B, T + 1))


def chain(kind, side):
    """x, w, and the cotangent of the result: such that 200 steps neither vanish nor overflow."""
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, side, side), np.float32)
    w = np.linalg.qr(noise)[0] if kind == "matmul" else 1 + 0.01 * noise
    return x, w, np.ones_like(x)


RULES = {
    "SGD": ("SGD", {"lr": 1e-3}),
    "SGD with momentum": ("SGD", {"lr": 1e-3, "momentum": 0.9}),
    "Nesterov": ("SGD", {"lr": 1e-3, "momentum": 0.9, "nesterov": True}),
    "Adagrad": ("Adagrad", {"lr": 1e-3}),
    "RMSprop": ("RMSprop", {"lr": 1e-3}),
    "Adam": ("Adam", {"lr": 1e-3}),
    "AdamW": ("AdamW", {"lr": 1e-3}),
}


def gradients(arrays):
    """A gradient for each parameter."""
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(x.shape, np.float32) for name, x in arrays.items()}
