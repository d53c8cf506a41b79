"""Kernels: each does what the body of its name does on NumPy, and a spoiled one is found out."""

import inspect
from contextlib import nullcontext
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import backend, cuda, sequences
from tinygrad_rnn.sequences import Course

from .compared import close, several
from .kernels import KERNELS, LAWS, LAYOUTS, Draw, agree, called, examples, expected, put

TRIES = max(4, settings.default.max_examples // 5)


@pytest.fixture(autouse=True)
def kernels(tier):
    """Where kernels run: on the simulator their bodies do."""
    if tier.name == "simulator":
        pytest.skip("the simulator has no kernels: their bodies stand in for them")


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


def other_dtypes(arguments, dtype):
    """The arguments in a dtype that has no kernel; or the first of them alone in float64."""
    is_float = [isinstance(x, np.ndarray) and x.dtype.kind == "f" for x in arguments]
    if dtype == "mixed":
        first = is_float.index(True)
        return [x.astype("d") if i == first else x for i, x in enumerate(arguments)]
    return [x.astype(dtype) if yes else x for x, yes in zip(arguments, is_float, strict=True)]


@pytest.mark.parametrize("dtype", ["float16", "mixed"])
@pytest.mark.parametrize("name", [name for name in sorted(LAWS) if "gates" in name])
def test_what_has_no_kernel_is_for_the_body(name, dtype):
    for arguments in islice(examples(name, np.float32), 6):
        arguments = other_dtypes(arguments, dtype)
        agree(called(name, arguments), expected(name, arguments))


def test_states_that_are_broadcast_are_for_the_body():
    """One memory, or one h, for all rows; and gates of one row for all memories."""
    a, c, many = np.ones((5, 8)), np.full(2, 0.5), np.full((5, 2), 0.5)
    for gates, memory in ((a, c), (a[0], many)):
        agree(
            called("_lstm_gates_forward", [gates, memory]),
            expected("_lstm_gates_forward", [gates, memory]),
        )
    back = [many, None, np.tanh(a), many, c]
    agree(called("_lstm_gates_backward", back), expected("_lstm_gates_backward", back))
    u, w = np.ones((5, 6)), np.ones(6)
    for arguments in ([u, u, c], [u, w, many], [w, w, many]):
        agree(called("_gru_gates_forward", arguments), expected("_gru_gates_forward", arguments))
    back = [many, many, many, many, u, c]
    agree(called("_gru_gates_backward", back), expected("_gru_gates_backward", back))


@pytest.mark.parametrize("dtype", ["float16", "mixed"])
@pytest.mark.parametrize("name", ["_lstm_forward", "_gru_forward", "_elman_forward"])
def test_a_layer_without_kernels_is_the_loop_that_defines_it(name, dtype):
    """Bit for bit: of half precision, and of two dtypes."""
    kind = name.split("_")[1]
    layer, defined = getattr(sequences, kind), getattr(sequences, f"{kind}_defined")
    arguments = other_dtypes(next(examples(name, np.float32)), dtype)
    arrays = [put(x, "rows") for x in (arguments if kind == "elman" else arguments[:-1])]
    to_host = backend.backend_for("cuda").to_host
    for y, x in zip(layer(*arrays), defined(*arrays), strict=True):
        np.testing.assert_array_equal(to_host(y), to_host(x), strict=True)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_losses_of_any_dtype(dtype):
    """Of float16, which has no kernel, too; and of cotangents of another dtype than the scores."""
    for x, ids in islice(examples("_losses_forward", np.float32), 6):
        x = np.nan_to_num(x, nan=1, posinf=2, neginf=-2).clip(-9, 9)
        agree(
            called("_losses_forward", [x.astype(dtype), ids]),
            expected("_losses_forward", [x.astype(dtype), ids]),
        )
        back = [np.ones(len(x), dtype), x, ids, *cuda._losses_forward.body(x, ids)[1:]]
        agree(called("_losses_backward", back), expected("_losses_backward", back))


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
    ("_losses_backward", "losses_backward", " - top)", ")"),
    ("_add_rows", "add_rows", "out[id * D + d] += sum", "out[id * D + d] = sum"),
    ("_add_rows", "add_rows", "p > 0 && ids[order[p - 1]] == id", "false"),
    ("_add_rows", "add_rows", "values[order[q] * D + d]", "values[q * D + d]"),
    ("_add_rows", "add_rows", "q < N", "q < N - 1"),
    ("_add_distinct_rows", "add_distinct_rows", "] += values", "] = values"),
    ("_add_distinct_rows", "add_distinct_rows", "within(ids[at / D], V)", "ids[at / D]"),
    ("_lstm_forward", "lstm_step", "row = start + b", "row = b"),
    ("_lstm_forward", "lstm_step", "+ f_1 * c_1", ""),
    ("_lstm_forward", "lstm_step", "states_c[at] = c;", ""),
    ("_lstm_backward", "lstm_step", "before[here] = c_1", "before[here] = c"),
    ("_lstm_backward", "lstm_step_back", "of_c[at] = dc * f_1", "of_c[at] = dc"),
    ("_lstm_backward", "lstm_step_back", "g_outputs ? g_outputs[here] : T(0)", "T(0)"),
    ("_gru_forward", "gru_step", "bias ? bias[k * H + j] : T(0)", "T(0)"),
    ("_gru_forward", "gru_step", "states[at] = outputs", "outputs"),
    ("_gru_backward", "gru_step", "w_n_[here] = w_n", "w_n_[here] = W(2) - W(2)"),
    ("_gru_backward", "gru_step_back", "of_h[at] + ", ""),
    ("_gru_backward", "gru_step_back", "of_h[at] = dh * z", "of_h[at] = dh"),
    ("_elman_forward", "elman_step_relu", "a > 0 || a != a ? a : T(0)", "a"),
    ("_elman_forward", "elman_step_tanh", "a_[here]", "a_[at]"),
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
