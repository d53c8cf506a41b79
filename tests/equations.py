"""The equations of every cell and layer, written out in NumPy: one example, one step at a time.

They take complex numbers, so a complex step through them gives exact slopes.
"""

import numpy as np

from tinygrad_rnn import nn

OUT = 2  # the output size of the cells that have one


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def relu(a):
    return a * (a > 0)


def normal(a):
    distance = a - a.mean()
    return distance / np.sqrt((distance * distance).mean() + 1e-5)


def softmax(a):
    e = np.exp(a - a.real.max())
    return e / e.sum()


def rows(p, part, k, H):
    """Block k of a matrix or a bias; a missing bias is 0."""
    return p[part][k * H : (k + 1) * H] if part in p else 0.0


def gate(p, k, x, h):
    """U x + W h + b for block k."""
    H = len(h)
    b = rows(p, "bias_ih", k, H) + rows(p, "bias_hh", k, H)
    return rows(p, "weight_ih", k, H) @ x + rows(p, "weight_hh", k, H) @ h + b


def rnn_step(f):
    return lambda p, x, h: [f(gate(p, 0, x, h))]


def lstm_step(p, x, h, c):
    i, f, g, o = (gate(p, k, x, h) for k in range(4))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


def peephole_step(p, x, h, c):
    i, f, g, o = (gate(p, k, x, h) for k in range(4))
    i, f = sigmoid(i + p["peephole_i"] * c), sigmoid(f + p["peephole_f"] * c)
    c = f * c + i * np.tanh(g)
    return [sigmoid(o + p["peephole_o"] * c) * np.tanh(c), c]


def layer_norm_step(p, x, h, c):
    a = p["gain_ih"] * normal(p["weight_ih"] @ x) + p["gain_hh"] * normal(p["weight_hh"] @ h)
    i, f, g, o = np.split(a + p.get("bias_ih", 0) + p.get("bias_hh", 0), 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(p["gain_c"] * normal(c) + p.get("bias_c", 0)), c]


def gru_step(p, x, h):
    H = len(h)
    r, z = sigmoid(gate(p, 0, x, h)), sigmoid(gate(p, 1, x, h))
    looked_at = r * (rows(p, "weight_hh", 2, H) @ h + rows(p, "bias_hh", 2, H))
    n = np.tanh(rows(p, "weight_ih", 2, H) @ x + rows(p, "bias_ih", 2, H) + looked_at)
    return [(1 - z) * n + z * h]


def gru_before_step(p, x, h):
    r, z = sigmoid(gate(p, 0, x, h)), sigmoid(gate(p, 1, x, h))
    return [(1 - z) * np.tanh(gate(p, 2, x, r * h)) + z * h]


def jordan_step(f):
    def step(p, x, y, h_part=0.0):
        a = p["weight_ih"] @ x + p["weight_oh"] @ y + p.get("bias_ih", 0) + h_part
        h = np.tanh(a)
        return h, f(p["weight_ho"] @ h + p.get("bias_ho", 0))

    return step


def elman_jordan_step(p, x, h, y):
    return [*jordan_step(sigmoid)(p, x, y, p["weight_hh"] @ h)]


def with_settings(make, *args, **settings):
    return lambda D, H, **k: make(D, H, *args, **settings, **k)


CELLS = {  # the cell, the parts of its state, one step for one example
    "rnn": (nn.RNNCell, "h", rnn_step(np.tanh)),
    "relu": (with_settings(nn.RNNCell, nonlinearity="relu"), "h", rnn_step(relu)),
    "sigmoid": (with_settings(nn.RNNCell, nonlinearity="sigmoid"), "h", rnn_step(sigmoid)),
    "lstm": (nn.LSTMCell, "hc", lstm_step),
    "peephole": (nn.PeepholeLSTMCell, "hc", peephole_step),
    "layer norm": (nn.LayerNormLSTMCell, "hc", layer_norm_step),
    "gru": (nn.GRUCell, "h", gru_step),
    "gru, reset before": (with_settings(nn.GRUCell, reset_after=False), "h", gru_before_step),
    "jordan": (
        with_settings(nn.JordanCell, OUT),
        "y",
        lambda *a: [jordan_step(lambda o: o)(*a)[1]],
    ),
    "jordan, softmax": (
        with_settings(nn.JordanCell, OUT, output="softmax"),
        "y",
        lambda *a: [jordan_step(softmax)(*a)[1]],
    ),
    "elman and jordan": (
        with_settings(nn.ElmanJordanCell, OUT, output="sigmoid"),
        "hy",
        elman_jordan_step,
    ),
}


def size_of(part, H):
    """The size of part ``h``, ``c`` or ``y`` of a state."""
    return OUT if part == "y" else H


def slope(equations, values, name, v, gs):
    """The slope of ``sum(g * y)`` along ``v`` in the value of that name, by the complex step."""
    new = equations(values | {name: values[name] + 1e-30j * v})
    return sum((g * y.imag).sum() for g, y in zip(gs, new, strict=True)) / 1e-30


def layers_by_equations(kind, p, xs, initial, directions):
    """The outputs for each sequence, and the final states (K, B, size) of each part of the state.

    ``p`` are the parameters of all layers by name, ``xs`` a list of (T_i, D), ``initial`` a list
    of (K, B, H), or None.
    """
    _, parts, step = CELLS[kind]
    K = sum(name.startswith("weight_hh") for name in p)
    outputs, finals = [], []
    for b, x in enumerate(xs):
        ends = []
        for layer in range(K // directions):
            halves = []
            for suffix in ["", "_reverse"][:directions]:
                place = f"_l{layer}{suffix}"
                own = {n.removesuffix(place): a for n, a in p.items() if n.endswith(place)}
                H = own["weight_hh"].shape[1]
                state = [own.get(f"initial_{part}", np.zeros(H)) for part in parts]
                if initial is not None:
                    state = [part[len(ends), b] for part in initial]
                hs = []
                for row in x[::-1] if suffix else x:
                    state = step(own, row, *state)
                    hs.append(state[0])
                ends.append(state)
                halves.append(np.array(hs[::-1] if suffix else hs))
            x = np.concatenate(halves, axis=1)
        outputs.append(x)
        finals.append(ends)
    return outputs, [
        np.stack([[e[i] for e in ends] for ends in finals], 1) for i in range(len(parts))
    ]
