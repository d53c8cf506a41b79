"""Cells and chains in plain operations, written once for every library that has its operators.

`ops` has a library's functions: sigmoid, tanh, and `split(x, n)` for n blocks of columns.
"""

LENGTH = 198  # operations in a chain


def rnn(ops, x, state, W, U, b):
    """Elman's cell: the state (B, H) after x (B, D)."""
    (h,) = state
    return (ops.tanh(x @ W + h @ U + b),)


def lstm(ops, x, state, W, U, b):
    """An LSTM: the states h and c; blocks i, f, g, o."""
    h, c = state
    i, f, g, o = ops.split(x @ W + h @ U + b, 4)
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c


def gru(ops, x, state, W, U, b):
    """A GRU whose reset gate acts after the product; blocks r, z, n."""
    (h,) = state
    x_r, x_z, x_n = ops.split(x @ W + b, 3)
    h_r, h_z, h_n = ops.split(h @ U, 3)
    z = ops.sigmoid(x_z + h_z)
    n = ops.tanh(x_n + ops.sigmoid(x_r + h_r) * h_n)
    return (n + z * (h - n),)


CELLS = {"RNN": (rnn, 1), "LSTM": (lstm, 2), "GRU": (gru, 1)}  # and how many states each has


def last_state(ops, cell, xs, zeros, W, U, b):
    """The state h after all of `xs`, from `zeros` (B, H)."""
    step, count = CELLS[cell]
    state = (zeros,) * count
    for x in xs:
        state = step(ops, x, state, W, U, b)
    return state[0]


LINKS = {
    "tanh": lambda ops, h, w: ops.tanh(h),
    "add": lambda ops, h, w: h + w,
    "multiply": lambda ops, h, w: h * w,
    "matmul": lambda ops, h, w: h @ w,
    "mixed": lambda ops, h, w: ops.tanh(h * w + w),  # three operations
}


def chain(ops, kind, h, w):
    """The end of a chain of LENGTH operations that begins with `h`."""
    for _ in range(LENGTH // 3 if kind == "mixed" else LENGTH):
        h = LINKS[kind](ops, h, w)
    return h
