"""Arguments for every kernel, and what it and the body of its name make of them."""

import numpy as np

from tinygrad_rnn import backend, cuda, cuda_layers
from tinygrad_rnn.sequences import NONLINEARITIES, Course

from .compared import close, several

KERNELS = {
    name: function
    for module in (cuda, cuda_layers)
    for name, function in vars(module).items()
    if hasattr(function, "body")
}

# ---- arguments ---------------------------------------------------------------------------------


class Draw:
    """Arrays of random numbers, of sizes that come from ``pick``."""

    def __init__(self, pick, seed, dtype):
        self.pick, self.rng, self.dtype = pick, np.random.default_rng(seed), dtype

    def size(self, *sizes):
        return self.pick(sizes)

    def normal(self, *shape):
        return self.rng.normal(size=shape).astype(self.dtype)

    def between(self, *shape):
        """Numbers from -1 to 1, such as gates and their tanh are."""
        return np.tanh(self.normal(*shape))

    def maybe(self, *shape):
        return self.normal(*shape) if self.pick((True, False)) else None

    def lead(self, H):
        """The axes before the last of some rows; 0 rows, 1, or more than a block has threads."""
        return self.pick([(), (0,), (1,), (2, 3), (5,), (260 // H + 2,)])


def of_lstm_gates_forward(draw):
    N, H = draw.size(0, 1, 2, 3), draw.size(1, 3, 7)
    lead = draw.lead(H)
    return [draw.normal(*lead, (N + 3) * H), *[draw.normal(*lead, H) for _ in range(N)]]


def of_lstm_gates_backward(draw):
    a, *cs = of_lstm_gates_forward(draw)
    shape = (*a.shape[:-1], a.shape[-1] // (len(cs) + 3))
    gh, gc = draw.maybe(*shape), draw.maybe(*shape)
    gc = draw.normal(*shape) if gh is gc is None else gc
    return [gh, gc, draw.between(*a.shape), draw.between(*shape), *cs]


def of_gru_gates_forward(draw):
    H = draw.size(1, 3, 7)
    lead = draw.lead(H)
    return [draw.normal(*lead, 3 * H), draw.normal(*lead, 3 * H), draw.normal(*lead, H)]


def of_gru_gates_backward(draw):
    _, w, h = of_gru_gates_forward(draw)
    gates = [draw.between(*h.shape) for _ in range(3)]
    return [draw.normal(*h.shape), *gates, w, h]


def of_losses_forward(draw):
    """Also scores that are large, infinite, or -inf in all of a row."""
    N, V = draw.size(0, 1, 5), draw.size(1, 2, 31, 256, 300)
    x, ids = draw.normal(N, V), draw.rng.integers(V, size=N)
    if draw.pick((True, False)) and N > 1:
        x[0] *= np.finfo(x.dtype).max / 8
        x[1, ids[1]] = -np.inf
        x[2] = -np.inf
        x[3, V // 2] = np.inf
    if draw.pick((True, False)) and N > 1:
        x[4, V // 3] = np.nan
    return [x, ids]


def of_losses_backward(draw):
    x, ids = of_losses_forward(draw)
    with np.errstate(all="ignore"):
        _, tops, sums = cuda._losses_forward.body(x, ids)
    return [draw.normal(len(x)), x, ids, tops, sums]


def of_add_rows(draw):
    """Ids that come several times, negative ones too; of a table, or of an array's entries."""
    V, n = draw.size(1, 3, 50), draw.size((0,), (1,), (4, 7), (300,))
    side = draw.size((), (1,), (5,), (2, 3))
    values = draw.normal(*draw.size((*n, *side), side))
    return [draw.normal(V, *side), draw.rng.integers(-V, V, n), values]


def of_add_distinct_rows(draw):
    V, side = draw.size(1, 3, 300), draw.size((), (1,), (5,), (2, 3))
    rows = draw.rng.permutation(V)[: draw.rng.integers(V + 1)]
    rows = np.where(draw.rng.integers(0, 2, len(rows)), rows, rows - V)
    values = draw.normal(*draw.size((len(rows), *side), side))
    return [draw.normal(V, *side), rows, values]


def of_layer(draw, blocks, biases, states):
    counts = draw.size((1,), (1, 1), (3, 2, 2, 1), (20, 20, 13))
    H, D, course = draw.size(1, 3, 17), draw.size(1, 4), Course(counts, draw.size(False, True))
    k, shape = blocks * H, (counts[0], H)
    x = draw.normal(sum(counts), D)
    bias = [draw.maybe(k) for _ in range(biases)]
    weights = [draw.normal(k, D), draw.normal(k, H), *bias]
    return [x, *weights, *[draw.normal(*shape) for _ in range(states)], course]


def of_lstm_forward(draw):
    return [*of_layer(draw, 4, 1, 2), draw.size(True, False)]


def of_gru_forward(draw):
    return [*of_layer(draw, 3, 2, 1), draw.size(True, False)]


def of_elman_forward(draw):
    return [*of_layer(draw, 1, 1, 1), draw.size(*NONLINEARITIES)]


def cotangents(draw, x, h, states):
    of_outputs = draw.maybe(len(x), h.shape[1])
    others = [draw.maybe(*h.shape) for _ in range(states)]
    if all(g is None for g in (of_outputs, *others)):  # then nobody would go back
        of_outputs = draw.normal(len(x), h.shape[1])
    return [of_outputs, *others]


def of_lstm_backward(draw):
    x, *others, h, c, course, _ = of_lstm_forward(draw)
    return [*cotangents(draw, x, h, 2), draw.size(True, False), x, *others, h, c, course, True]


def of_gru_backward(draw):
    x, *others, h, course, _ = of_gru_forward(draw)
    return [*cotangents(draw, x, h, 1), draw.size(True, False), x, *others, h, course, True]


def of_elman_backward(draw):
    x, *others, h, course, f = of_elman_forward(draw)
    return [*cotangents(draw, x, h, 1), draw.size(True, False), x, *others, h, course, f]


# ---- calls -------------------------------------------------------------------------------------


def of_layers_without_what_is_kept(function, *arguments):
    """What is kept has a layout of its own on either side."""
    return function(*arguments)[:-1]


def lstm_there_and_back(back, g_outputs, g_h, g_c, tracked, *arguments):
    outputs, _, _, kept = forward_of(back)(*arguments)
    x, weight_ih, weight_hh, _, h, _, course, _ = arguments
    gs = g_outputs, g_h, g_c
    return back(*gs, outputs, kept, x, weight_ih, weight_hh, h, course, tracked)


def gru_there_and_back(back, g_outputs, g_h, tracked, *arguments):
    outputs, _, kept = forward_of(back)(*arguments)
    x, weight_ih, weight_hh, _, _, h, course, _ = arguments
    return back(g_outputs, g_h, outputs, kept, x, weight_ih, weight_hh, h, course, tracked)


def elman_there_and_back(back, g_outputs, g_h, tracked, *arguments):
    outputs, _ = forward_of(back)(*arguments)
    x, weight_ih, weight_hh, _, h, course, f = arguments
    return back(g_outputs, g_h, outputs, x, weight_ih, weight_hh, h, course, f, tracked)


def forward_of(back):
    """The way there for a way back: the kernel for a kernel, the body for a body."""
    forward = KERNELS[back.__name__.replace("backward", "forward")]
    return forward if hasattr(back, "body") else forward.body


def added_to(function, out, rows, values):
    """The rows that were added to."""
    function(out, rows, values)
    return out


LAWS = {
    "_lstm_gates_forward": (of_lstm_gates_forward, None),
    "_lstm_gates_backward": (of_lstm_gates_backward, None),
    "_gru_gates_forward": (of_gru_gates_forward, None),
    "_gru_gates_backward": (of_gru_gates_backward, None),
    "_losses_forward": (of_losses_forward, None),
    "_losses_backward": (of_losses_backward, None),
    "_add_rows": (of_add_rows, added_to),
    "_add_distinct_rows": (of_add_distinct_rows, added_to),
    "_lstm_forward": (of_lstm_forward, of_layers_without_what_is_kept),
    "_lstm_backward": (of_lstm_backward, lstm_there_and_back),
    "_gru_forward": (of_gru_forward, of_layers_without_what_is_kept),
    "_gru_backward": (of_gru_backward, gru_there_and_back),
    "_elman_forward": (of_elman_forward, None),
    "_elman_backward": (of_elman_backward, elman_there_and_back),
}
"""For each kernel: what makes its arguments, and what is made of it and them."""

LAYOUTS = ("rows", "columns", "gaps")


def put(x, layout):
    """``x`` on the device, in a layout; ids always in rows, and what is no array as it is."""
    if not isinstance(x, np.ndarray):
        return x
    asarray = backend.backend_for("cuda").asarray
    if layout == "columns":
        return asarray(np.ascontiguousarray(x.T)).T
    if layout == "gaps" and x.ndim:
        wide = np.full((*x.shape, 2), 7, x.dtype)
        wide[..., 0] = x
        return asarray(wide)[..., 0]
    return asarray(x.copy())


def called(name, arguments, layout="rows"):
    """The results of the kernel, on the host; it has changed nothing that it was given."""
    on_device = [put(x, layout) for x in arguments]
    if LAWS[name][1] is added_to:
        on_device[0] = put(arguments[0], "rows")
    to_host = backend.backend_for("cuda").to_host
    _, call = LAWS[name]
    results = several((call or plain)(KERNELS[name], *on_device))
    for x, before in zip(on_device, arguments, strict=True):
        if isinstance(before, np.ndarray) and not any(x is y for y in results):
            np.testing.assert_array_equal(to_host(x), before)
    return [y if y is None else to_host(y) for y in results]


def expected(name, arguments):
    """Those of the body."""
    own = [x.copy() if isinstance(x, np.ndarray) else x for x in arguments]
    with np.errstate(all="ignore"):
        return several((LAWS[name][1] or plain)(KERNELS[name].body, *own))


def plain(function, *arguments):
    return function(*arguments)


def agree(got, wanted):
    for y, x in zip(got, wanted, strict=True):
        assert (y is None) == (x is None)
        if x is not None:
            close(y, x)


def examples(name, dtype=np.float64):
    """A few arguments of any sizes, always the same."""
    for seed in range(16):
        rng = np.random.default_rng(seed)
        draw = Draw(lambda sizes, rng=rng: sizes[rng.integers(len(sizes))], seed, dtype)
        yield LAWS[name][0](draw)
