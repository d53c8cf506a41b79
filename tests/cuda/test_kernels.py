"""Kernels: each does what the body of its name does on NumPy, and a spoiled one is found out."""

import inspect
from contextlib import nullcontext
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import backend, cuda, cuda_layers, sequences
from tinygrad_rnn.sequences import NONLINEARITIES, Course

from .compared import close, several

MODULES = (cuda, cuda_layers)
KERNELS = {
    name: function
    for module in MODULES
    for name, function in vars(module).items()
    if hasattr(function, "body")
}
TRIES = max(4, settings.default.max_examples // 5)


@pytest.fixture(autouse=True)
def kernels(tier):
    """Where kernels run: on the simulator their bodies do."""
    if tier.name == "simulator":
        pytest.skip("the simulator has no kernels: their bodies stand in for them")


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
    found = [draw.maybe(len(x), h.shape[1]), *[draw.maybe(*h.shape) for _ in range(states)]]
    return (
        found
        if any(g is not None for g in found)
        else [draw.normal(len(x), h.shape[1]), *found[1:]]
    )


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
    if name == "_add_rows":
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


every_kernel = pytest.mark.parametrize("name", sorted(LAWS))


# ---- the laws ----------------------------------------------------------------------------------


def test_every_kernel_has_a_law_and_the_name_and_arguments_of_its_body():
    assert set(LAWS) == set(KERNELS)
    for name, function in KERNELS.items():
        assert function.body.__name__ == name
        mine, its = (list(inspect.signature(f).parameters) for f in (function, function.body))
        assert mine == its[: len(mine)]
        assert backend.backend_for("cuda").fused(function.body) is function


@every_kernel
@settings(max_examples=TRIES)
@given(data=st.data())
def test_a_kernel_does_what_its_body_does(name, data):
    """In all sizes, both dtypes and any layout; nothing that it is given changes."""
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    seed, layout = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.sampled_from(LAYOUTS))
    draw = Draw(lambda sizes: data.draw(st.sampled_from(list(sizes))), seed, dtype)
    arguments = LAWS[name][0](draw)
    agree(called(name, arguments, layout), expected(name, arguments))


def examples(name, dtype=np.float64):
    """A few arguments of any sizes, always the same."""
    for seed in range(16):
        rng = np.random.default_rng(seed)
        draw = Draw(lambda sizes, rng=rng: sizes[rng.integers(len(sizes))], seed, dtype)
        yield LAWS[name][0](draw)


def threads(tier, reverse):
    """The order of threads, where there is one."""
    return tier.module.threads(reverse) if tier.name == "host" else nullcontext()


@every_kernel
def test_the_order_of_threads_does_not_matter(name, tier):
    """Nor another run, on a device, where nobody can choose it."""
    for arguments in examples(name):
        found = []
        for reverse in (False, True):
            with threads(tier, reverse):
                found.append(called(name, arguments))
        for a, b in zip(*found, strict=True):
            np.testing.assert_array_equal(a, b)


LAYERS = {"_lstm_forward": 2, "_gru_forward": 1, "_elman_forward": 1}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_on_a_device_is_the_loop_that_defines_it_there(name, dtype):
    """Values and all gradients, whichever results are used; and the second derivatives, by it."""
    kind = name.split("_")[1]
    layer, defined = getattr(sequences, kind), getattr(sequences, f"{kind}_defined")
    for arguments in islice(examples(name, dtype), 4):
        arguments = arguments if kind == "elman" else arguments[:-1]
        arrays = [put(x, "rows") for x in arguments]
        results = []
        for function in (layer, defined):
            xs = [tg.tensor(x, requires_grad=True) if backend.is_array(x) else x for x in arrays]
            ys = function(*xs)
            leaves = [x for x in xs if isinstance(x, tg.Tensor)]
            loss = sum(tg.sum(y * y) for y in ys)
            first = tg.grad(loss, leaves, create_graph=True)
            second = tg.grad(tg.sum(first[-1] * first[-1]), leaves)
            plain = tg.grad(sum(tg.sum(y * y) for y in function(*xs)), leaves)
            results.append([*ys, *first, *plain, *second])
        for y, x in zip(*results, strict=True):
            close(y, x)


@pytest.mark.costs
@pytest.mark.parametrize("name", LAYERS)
def test_a_step_is_one_kernel_and_one_product_there_and_back(name, tier):
    """More steps add these and nothing else; nothing is waited for, or copied."""
    back = name.replace("forward", "backward")
    costs = []
    for T in (4, 9):
        arguments = arguments_of_even_layer(name, T)
        with tier.counting() as there:
            results = KERNELS[name](*arguments)
        arguments = arguments_back(name, results, arguments)
        KERNELS[back](*arguments)  # so that the course's index is there
        with tier.counting() as and_back:
            KERNELS[back](*arguments)
        costs.append((there, and_back))
    for few, many in zip(*costs, strict=True):
        assert many.launches - few.launches == many.products - few.products == 5
        assert many.syncs == many.to_device == many.to_host == 0


def arguments_of_even_layer(name, T):
    """Arguments of a layer over T steps of 3 sequences, on the device."""
    kind, rng = name.split("_")[1], np.random.default_rng(0)
    k, biases = {"lstm": (4, 1), "gru": (3, 2), "elman": (1, 1)}[kind]
    shapes = [(3 * T, 2), (5 * k, 2), (5 * k, 5), *[(5 * k,)] * biases, *[(3, 5)] * LAYERS[name]]
    arrays = [put(rng.normal(size=shape), "rows") for shape in shapes]
    return [*arrays, Course([3] * T, False), "tanh" if kind == "elman" else True]


def arguments_back(name, results, arguments):
    """Those of the way back, where a cotangent flows to every result."""
    (x, weight_ih, weight_hh, *_), (course, last) = arguments, arguments[-2:]
    gs = [results[i] for i in range(1 + LAYERS[name])]
    h = arguments[-2 - LAYERS[name]]
    kept, last = ([], [last]) if name == "_elman_forward" else ([results[-1]], [])
    return [*gs, results[0], *kept, x, weight_ih, weight_hh, h, course, *last, True]


@pytest.mark.costs
@pytest.mark.parametrize(
    "name", [name for name in sorted(LAWS) if "gates" in name or "loss" in name]
)
def test_gates_and_losses_are_one_launch(name, tier):
    for arguments in examples(name):
        on_device = [put(x, "rows") for x in arguments]
        with tier.counting() as costs:
            results = several(KERNELS[name](*on_device))
        assert costs.launches == (results[0].size > 0)
        assert costs.syncs == costs.to_device == costs.to_host == 0


INDICES = {
    "rows": np.array([[2, 0, 2], [-1, 3, -4]]),
    "none": np.array([], int),
    "pairs": (np.array([0, 1, 1, -3]), np.array([2, 2, -2, 2])),
    "grid": (np.array([[3], [3]]), np.array([[0, 1, 0]])),
    "slices": (slice(1, 4, 2), np.array([1, 1, 0])),
    "newaxis": (Ellipsis, None, np.array([2, 2])),
    "mask": np.array([True, False, True, True]),
    "part": (slice(None), slice(0, 2)),
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_what_is_named_twice_is_added_twice_and_always_in_the_same_order(index, dtype, layout):
    """Whatever the index; what it costs is no wait, for ids that are there."""
    rng, device = np.random.default_rng(0), backend.backend_for("cuda")
    x = (10 * rng.normal(size=(4, 3))).astype(dtype)
    values = (10 * rng.normal(size=x[index].shape)).astype(dtype)
    wanted = x.copy()
    np.add.at(wanted, index, values)
    found = []
    for _ in range(2):
        out = put(x, layout)
        device.scatter_add(out, device.index(index, x.shape), put(values, layout))
        found.append(device.to_host(out))
    close(found[0], wanted)
    np.testing.assert_array_equal(*found)
    zeros = device.scatter(put(values, layout), device.index(index, x.shape), x.shape)
    wanted = np.zeros_like(x)
    np.add.at(wanted, index, values)
    close(zeros, wanted)


# ---- spoiled kernels ---------------------------------------------------------------------------

BARRIER = "__syncthreads();"
MUTANTS = [
    ("_lstm_gates_forward", "lstm_gates_forward_2", "i * g", "i + g"),
    ("_lstm_gates_forward", "lstm_gates_forward_2", "+ f_2 * c_2", ""),
    ("_lstm_gates_forward", "lstm_gates_forward_2", "o * t", "o * c"),
    ("_lstm_gates_forward", "lstm_gates_forward_2", "S(2) = f_2", "S(2) = f_1"),
    ("_lstm_gates_forward", "lstm_gates_forward_1", "+ at % H", "+ at / H"),
    ("_lstm_gates_forward", "lstm_gates_forward_0", "new_h[at] =", "new_h[size] = 1; new_h[at] ="),
    ("_lstm_gates_backward", "lstm_gates_backward_2", "dc_2[at] = dc * f_2", "dc_2[at] = dc * f_1"),
    ("_lstm_gates_backward", "lstm_gates_backward_2", "gc ? gc[at] : T(0)", "T(0)"),
    ("_lstm_gates_backward", "lstm_gates_backward_1", "gh ? gh[at] : T(0)", "T(0)"),
    ("_lstm_gates_backward", "lstm_gates_backward_1", "(1 - t * t)", "(1 + t * t)"),
    ("_lstm_gates_backward", "lstm_gates_backward_0", "DA(2) = dh * t", "DA(2) = dh"),
    ("_gru_gates_forward", "gru_gates_forward", "U(2) + r * w_n", "r * (U(2) + w_n)"),
    ("_gru_gates_forward", "gru_gates_forward", "n + z * (old_h[at] - n)", "z * old_h[at]"),
    ("_gru_gates_backward", "gru_gates_backward", "DW(2) = du_n * r", "DW(2) = du_n"),
    ("_gru_gates_backward", "gru_gates_backward", "(h - n)", "(n - h)"),
    ("_losses_forward", "losses_forward", "a < b || b != b", "a < b"),
    ("_losses_forward", "losses_forward", "isinf(parts[0]) ? T(0) : parts[0]", "parts[0]"),
    ("_losses_forward", "losses_forward", "k = me; k < V", "k = me + 1; k < V"),
    ("_losses_forward", "losses_forward", f"parts[me] = top;\n    {BARRIER}", "parts[me] = top;"),
    ("_losses_forward", "losses_forward", f"me + half]);\n        {BARRIER}", "me + half]);"),
    ("_losses_forward", "losses_forward", f"{BARRIER}  // before anybody writes there again", ""),
    ("_losses_forward", "losses_forward", f"parts[me] = sum;\n    {BARRIER}", "parts[me] = sum;"),
    (
        "_losses_forward",
        "losses_forward",
        f"+= parts[me + half];\n        {BARRIER}",
        "+= parts[me + half];",
    ),
    ("_losses_backward", "losses_backward", "sum == 0 ? T(1) : sum", "sum"),
    ("_losses_backward", "losses_backward", "- picked", "+ picked"),
    ("_losses_backward", "losses_backward", "x[at] - tops[row]", "x[at]"),
    ("_add_rows", "add_rows", "out[id * D + d] += sum", "out[id * D + d] = sum"),
    ("_add_rows", "add_rows", "p > 0 && ids[order[p - 1]] == id", "false"),
    ("_add_rows", "add_rows", "values[order[q] * D + d]", "values[q * D + d]"),
    ("_add_rows", "add_rows", "q < N", "q < N - 1"),
    ("_lstm_forward", "lstm_step", "row = start + b", "row = b"),
    ("_lstm_forward", "lstm_step", " + w[(b * 4 + k) * H + j]", ""),
    ("_lstm_forward", "lstm_step", "states_c[at] = c;", ""),
    ("_lstm_backward", "lstm_step", "before[row * H + j] = c_1", "before[row * H + j] = c"),
    ("_lstm_backward", "lstm_step_back", "of_c[at] = dc * f_1", "of_c[at] = dc"),
    ("_lstm_backward", "lstm_step_back", "g_outputs ? g_outputs[row * H + j] : T(0)", "T(0)"),
    ("_gru_forward", "gru_step", "bias ? bias[k * H + j] : T(0)", "T(0)"),
    ("_gru_forward", "gru_step", "states[at] = outputs", "outputs"),
    ("_gru_backward", "gru_step", "w_n_[row * H + j] = w_n", "w_n_[row * H + j] = W(2) - W(2)"),
    ("_gru_backward", "gru_step_back", " + carried[at]", ""),
    ("_gru_backward", "gru_step_back", "carried[at] = dh * z", "carried[at] = dh"),
    ("_elman_forward", "elman_step_relu", "a > 0 || a != a ? a : T(0)", "a"),
    ("_elman_forward", "elman_step_tanh", " + w[at]", ""),
    ("_elman_forward", "elman_step_sigmoid", "states[at] = outputs", "outputs"),
    ("_elman_backward", "elman_step_back_relu", "y > 0 ? T(1) : T(0)", "T(1)"),
    ("_elman_backward", "elman_step_back_tanh", "1 - y * y", "1 + y * y"),
    ("_elman_backward", "elman_step_back_sigmoid", "of_h[at] + ", ""),
]


def survives(tier, monkeypatch, name, kernel, old, new):
    """Whether the law holds of a kernel with ``new`` in its text where ``old`` was."""
    made = cuda.compiled

    def compiled(its_name, parameters, text, T):
        if its_name == kernel:
            assert old in cuda.HEADER + text, (kernel, old)
            text = text.replace(old, new)
        return made(its_name, parameters, text, T)

    with monkeypatch.context() as patch:
        patch.setattr(cuda, "compiled", compiled)
        if old in cuda.HEADER:
            made = made.__wrapped__
            patch.setattr(cuda, "HEADER", cuda.HEADER.replace(old, new))
        try:
            for arguments in examples(name):
                for reverse in (False, True):
                    with threads(tier, reverse):
                        agree(called(name, arguments), expected(name, arguments))
        except (AssertionError, RuntimeError):
            return False
    return True


def test_the_laws_fail_of_spoiled_kernels(monkeypatch, tier):
    """A sign, an index, a term or a barrier less: and every kernel is spoiled at least twice."""
    if tier.name == "gpu":
        pytest.skip("on a device a spoiled kernel may bring down what comes after it")
    alive = [mutant for mutant in MUTANTS if survives(tier, monkeypatch, *mutant)]
    assert not alive, "\n".join(" | ".join(map(repr, mutant)) for mutant in alive)
    laws = [law for law, *_ in MUTANTS]
    assert min(laws.count(law) for law in LAWS) >= 2
