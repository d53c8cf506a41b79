"""Random programs: the engine against NumPy, which knows nothing of the engine.

A program is a list of instructions on earlier values.  Every operation stands here beside its NumPy
twin, and the twin is analytic: where the engine chooses (relu, max, ...) the twin takes the choice
from the values at the point in question, as an index or a mask.  So the twin can be run on complex
numbers, and ``Im f(x + i h v) / h`` is the exact slope of what NumPy computes.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from hypothesis import HealthCheck, Phase, assume, given, note, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg

STEP = 1e-30  # of the complex step: no digits are lost however small it is
LARGEST = 12.0  # values stay below, so that rounding does too
INPUTS = 3

# ---- the operations -----------------------------------------------------------------------------


class Op(NamedTuple):
    """``ours(*values, **ways)`` and ``numpy(*values, **ways)``; ``fits`` lists the possible ways.

    ``fits`` takes one array for each argument and gives the keyword arguments with which the
    operation may be called on them: none if it may not.
    """

    arity: int
    fits: Callable
    ours: Callable
    numpy: Callable


def always(*xs):
    return [{}]


def broadcast(a, b):
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        return []
    return [{}]


def when(condition, fits=always):
    return lambda *xs: fits(*xs) if condition(*xs) else []


def axes(x):
    return [{"axis": axis} for axis in range(-x.ndim, x.ndim)]


def reductions(x):
    every = [None, *range(-x.ndim, x.ndim)] + ([(0, -1)] if x.ndim > 1 else [])
    return [{"axis": axis, "keepdims": keep} for axis in every for keep in (False, True)]


def choosing(choice):
    """The ways in which NumPy's choice at these values stands beside the call."""
    return lambda fits: lambda *xs: [{**way, "chosen": choice(*xs, **way)} for way in fits(*xs)]


def without_choice(function):
    return lambda *xs, chosen, **ways: function(*xs, **ways)


def kinky(arity, fits, ours, choice, numpy):
    """An operation whose twin is told which branch each entry is on."""
    return Op(arity, choosing(choice)(fits), without_choice(ours), numpy)


def picked(x, chosen, axis, keepdims):
    """The entries of ``x`` where ``chosen``, one along ``axis``, is 1."""
    return np.sum(x * chosen, axis, keepdims=keepdims)


def where_max(x, axis, keepdims):
    return (x == np.max(x, axis, keepdims=True)) * 1.0


def where_min(x, axis, keepdims):
    return (x == np.min(x, axis, keepdims=True)) * 1.0


def distinct(x):
    """No two entries so near that a maximum is nearly a tie."""
    return x.size > 1 and np.diff(np.sort(x, axis=None)).min() > 1e-6


def off_zero(x):
    return np.abs(x).min() > 1e-6


def far_apart(a, b):
    return bool(broadcast(a, b)) and np.abs(a - b).min() > 1e-6


def indices(x):
    n = x.shape[0]
    found = [0, -1, slice(None, None, -1), slice(1, None), ..., None]
    found += [np.array([0, n - 1, 0]), np.array([-1, 0]), np.arange(n) % 2 == 0]
    if x.ndim > 1:
        found += [(slice(None), 0), (..., -1), (np.array([0, -1, 0]), 0), (None, slice(None), -1)]
        found += [(np.array([[0], [-1]]), np.array([0, 0]))]
    return [{"index": index} for index in found]


def shapes_for(x):
    found = [(-1,), (1, *x.shape), (x.size, 1)]
    if x.ndim > 1:
        found += [(x.shape[0] * x.shape[1], *x.shape[2:]), x.shape[::-1]]
    return [{"shape": shape} for shape in found]


def permutations(x):
    found = [None, tuple(range(x.ndim))[::-1], (*range(1, x.ndim), 0)]
    return [{"axes": axes} for axes in found] if x.ndim else []


def softplus(x):
    return np.log(1 + np.exp(x))


def softmax(x, axis):
    return np.exp(x) / np.sum(np.exp(x), axis, keepdims=True)


def variance(x, axis, keepdims):
    return np.mean((x - np.mean(x, axis, keepdims=True)) ** 2, axis, keepdims=keepdims)


def spread(x):
    return x.size > 1 and bool((np.std(x) > 0.1) & (np.abs(x).min() > 1e-3))


def scattered(x, index, shape):
    out = np.zeros(shape, x.dtype)
    np.add.at(out, index, x)
    return out


def joinable(a, b):
    same = [i for i in range(a.ndim) if a.ndim == b.ndim]
    return [
        {"axis": i - a.ndim * (i % 2)}
        for i in same
        if all(m == n for j, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if j != i)
    ]


def multipliable(a, b):
    if not a.ndim or not b.ndim:
        return []
    try:
        np.matmul(a, b)
    except ValueError:
        return []
    return [{}]


def spelled(a, b):
    """Subscripts for two operands: all pairs, one shared side, an implied result, dots."""
    left, right = "ijk"[: a.ndim], "lmn"[: b.ndim]
    found = [f"{left},{right}->{right[::-1]}{left}"]
    if broadcast(a, b):
        found.append("...,...->...")
    if a.ndim and b.ndim and a.shape[-1] == b.shape[-1]:
        shared = right[:-1] + left[-1]
        found += [f"{left},{shared}->{left[:-1]}{shared[:-1]}", f"{left},{shared}->{shared}"]
    if a.ndim and b.ndim and a.shape[0] == b.shape[0]:
        found += [f"{left},{left[0]}{right[1:]}"]
    return [{"subscripts": text} for text in found]


def squares(x):
    if x.ndim != 2 or x.shape[0] != x.shape[1]:
        return []
    return [{"subscripts": "ii->i"}, {"subscripts": "ii"}]


def einsum(module):
    return lambda *xs, subscripts: module.einsum(subscripts, *xs)


def twins(name):
    """Our function and NumPy's, which are called alike."""
    return getattr(tg, name), getattr(np, name)


def small(x):
    return np.abs(x).max() < 2


def table(x):
    """Ids into the rows of ``x``."""
    n = x.shape[0]
    return [{"ids": ids} for ids in (np.array([0, n - 1, 0]), np.array([[n // 2], [0]]))]


def targets(x):
    ids = np.arange(int(np.prod(x.shape[:-1]))).reshape(x.shape[:-1]) % x.shape[-1]
    return [{"targets": ids}, {"targets": np.zeros_like(ids)}]


def cross_entropy(x, targets):
    log_p = x - np.log(np.sum(np.exp(x), -1, keepdims=True))
    return -np.mean(np.take_along_axis(log_p, targets[..., None], -1))


NUMBERS = [{"c": 2.0}, {"c": -0.5}, {"c": 3}]


def at_least(n, fits):
    return when(lambda x: x.ndim >= n, fits)


OPS = {
    # arithmetic, with numbers on either side
    "add": Op(2, broadcast, lambda a, b: a + b, np.add),
    "subtract": Op(2, broadcast, lambda a, b: a - b, np.subtract),
    "multiply": Op(2, broadcast, lambda a, b: a * b, np.multiply),
    "divide": Op(
        2,
        when(lambda a, b: np.abs(b).min() > 0.3, broadcast),
        lambda a, b: a / b,
        np.divide,
    ),
    "c - x": Op(1, lambda x: NUMBERS, lambda x, c: c - x, lambda x, c: c - x),
    "x * c": Op(1, lambda x: NUMBERS, lambda x, c: x * c, lambda x, c: x * c),
    "c / x": Op(
        1,
        when(lambda x: np.abs(x).min() > 0.3, lambda x: NUMBERS),
        lambda x, c: c / x,
        lambda x, c: c / x,
    ),
    "x ** c": Op(
        1,
        when(lambda x: x.min() > 0.3, lambda x: NUMBERS),
        lambda x, c: x**c,
        lambda x, c: np.exp(c * np.log(x)),
    ),
    "x ** 2": Op(1, always, lambda x: x**2, lambda x: x * x),
    "a ** b": Op(
        2,
        when(lambda a, b: a.min() > 0.3, broadcast),
        lambda a, b: a**b,
        lambda a, b: np.exp(b * np.log(a)),
    ),
    "c ** x": Op(1, always, lambda x: 2.0**x, lambda x: np.exp(np.log(2.0) * x)),
    "negative": Op(1, always, lambda x: -x, np.negative),
    # entry by entry
    "exp": Op(1, always, *twins("exp")),
    "log": Op(1, when(lambda x: x.min() > 0.2), *twins("log")),
    "log1p": Op(1, when(lambda x: x.min() > -0.7), *twins("log1p")),
    "expm1": Op(1, always, *twins("expm1")),
    "sqrt": Op(1, when(lambda x: x.min() > 0.2), *twins("sqrt")),
    "sin": Op(1, always, *twins("sin")),
    "cos": Op(1, always, *twins("cos")),
    "tanh": Op(1, always, *twins("tanh")),
    "sigmoid": Op(1, always, tg.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "softplus": Op(1, always, tg.softplus, softplus),
    "gelu": Op(
        1,
        always,
        tg.gelu,
        lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    ),
    "relu": kinky(1, when(off_zero), tg.relu, lambda x: x > 0, lambda x, chosen: x * chosen),
    "abs": kinky(1, when(off_zero), abs, np.sign, lambda x, chosen: x * chosen),
    "clip": kinky(
        1,
        when(lambda x: off_zero(x - 0.5) and off_zero(x + 0.5)),
        lambda x: tg.clip(x, -0.5, 0.5),
        lambda x: (abs(x) < 0.5, np.clip(x, -0.5, 0.5)),
        lambda x, chosen: np.where(chosen[0], x, chosen[1]),
    ),
    "maximum": kinky(
        2,
        when(far_apart, broadcast),
        tg.maximum,
        lambda a, b: a > b,
        lambda a, b, chosen: np.where(chosen, a, b),
    ),
    "minimum": kinky(
        2,
        when(far_apart, broadcast),
        tg.minimum,
        lambda a, b: a < b,
        lambda a, b, chosen: np.where(chosen, a, b),
    ),
    "where": kinky(
        2,
        broadcast,
        lambda a, b: tg.where(np.arange(b.shape[-1] if b.ndim else 1) % 2 == 0, a, b),
        lambda a, b: np.arange(b.shape[-1] if b.ndim else 1) % 2 == 0,
        lambda a, b, chosen: np.where(chosen, a, b),
    ),
    # reductions
    "sum": Op(1, reductions, *twins("sum")),
    "mean": Op(1, reductions, *twins("mean")),
    "prod": Op(1, when(small, reductions), *twins("prod")),
    "var": Op(1, reductions, tg.var, variance),
    "std": Op(
        1,
        when(spread, lambda x: [{"axis": None, "keepdims": k} for k in (False, True)]),
        tg.std,
        lambda x, axis, keepdims: np.sqrt(variance(x, axis, keepdims)),
    ),
    "norm": Op(
        1,
        when(lambda x: np.abs(x).min() > 1e-2, reductions),
        tg.norm,
        lambda x, axis, keepdims: np.sqrt(np.sum(x * x, axis, keepdims=keepdims)),
    ),
    "logsumexp": Op(
        1,
        reductions,
        tg.logsumexp,
        lambda x, axis, keepdims: np.log(np.sum(np.exp(x), axis, keepdims=keepdims)),
    ),
    "max": kinky(1, when(distinct, reductions), tg.max, where_max, picked),
    "min": kinky(1, when(distinct, reductions), tg.min, where_min, picked),
    "softmax": Op(1, axes, tg.softmax, softmax),
    "log_softmax": Op(1, axes, tg.log_softmax, lambda x, axis: np.log(softmax(x, axis))),
    "cumsum": Op(1, lambda x: [{"axis": None}, *axes(x)], *twins("cumsum")),
    # the same entries elsewhere
    "reshape": Op(1, shapes_for, lambda x, shape: x.reshape(shape), np.reshape),
    "transpose": Op(1, permutations, *twins("transpose")),
    "T": Op(1, always, lambda x: x.T, lambda x: x.T),
    "swapaxes": Op(
        1,
        at_least(2, lambda x: [{"axis1": 0, "axis2": -1}, {"axis1": -1, "axis2": -2}]),
        *twins("swapaxes"),
    ),
    "moveaxis": Op(
        1,
        at_least(2, lambda x: [{"source": 0, "destination": -1}, {"source": -1, "destination": 0}]),
        *twins("moveaxis"),
    ),
    "expand_dims": Op(1, lambda x: [{"axis": 0}, {"axis": -1}], *twins("expand_dims")),
    "squeeze": Op(1, when(lambda x: 1 in x.shape), *twins("squeeze")),
    "broadcast_to": Op(
        1,
        lambda x: [
            {"shape": (2, *x.shape)},
            {"shape": tuple(2 if n == 1 else n for n in x.shape)},
        ],
        *twins("broadcast_to"),
    ),
    "getitem": Op(1, at_least(1, indices), lambda x, index: x[index], lambda x, index: x[index]),
    "flip": Op(1, lambda x: [{"axis": None}, *axes(x)], *twins("flip")),
    "take": Op(
        1,
        at_least(1, lambda x: [{"indices": [0, -1, 0], "axis": axis} for axis in (None, 0, -1)]),
        *twins("take"),
    ),
    "take_along_axis": Op(
        1,
        at_least(
            1,
            lambda x: [
                {"indices": np.argsort(x, axis), "axis": axis} for axis in range(-x.ndim, 0)
            ],
        ),
        *twins("take_along_axis"),
    ),
    "repeat": Op(
        1,
        at_least(1, lambda x: [{"repeats": 2, "axis": axis} for axis in (None, 0, -1)]),
        *twins("repeat"),
    ),
    "tile": Op(1, lambda x: [{"reps": 2}, {"reps": (2, 1)}], *twins("tile")),
    "pad": Op(
        1,
        at_least(1, lambda x: [{"pad_width": 1}, {"pad_width": [(1, 0)] * x.ndim}]),
        *twins("pad"),
    ),
    "scatter": Op(
        1,
        at_least(
            1, lambda x: [{"index": np.arange(len(x)) // 2, "shape": (len(x) + 1, *x.shape[1:])}]
        ),
        tg.scatter,
        scattered,
    ),
    "concatenate": Op(
        2,
        joinable,
        lambda a, b, axis: tg.concatenate([a, b, a], axis),
        lambda a, b, axis: np.concatenate([a, b, a], axis),
    ),
    "stack": Op(
        2,
        when(lambda a, b: a.shape == b.shape, lambda a, b: [{"axis": 0}, {"axis": -1}]),
        lambda a, b, axis: tg.stack([a, b], axis),
        lambda a, b, axis: np.stack([a, b], axis),
    ),
    "unstack": Op(
        1,
        axes,
        lambda x, axis: tg.unstack(x, axis)[-1],
        lambda x, axis: np.take(x, -1, axis),
    ),
    "split": Op(
        1,
        axes,
        lambda x, axis: tg.split(x, [1], axis)[0],
        lambda x, axis: np.split(x, [1], axis)[0],
    ),
    # products
    "matmul": Op(2, multipliable, lambda a, b: a @ b, np.matmul),
    "outer": Op(2, always, *twins("outer")),
    "tensordot": Op(
        2,
        when(lambda a, b: a.ndim and b.ndim and a.shape[-1] == b.shape[0]),
        lambda a, b: tg.tensordot(a, b, 1),
        lambda a, b: np.tensordot(a, b, 1),
    ),
    "einsum": Op(2, spelled, einsum(tg), einsum(np)),
    "einsum of one": Op(1, squares, einsum(tg), einsum(np)),
    # functions
    "embedding": Op(
        1, at_least(1, table), lambda x, ids: tg.embedding(ids, x), lambda x, ids: x[ids]
    ),
    "cross_entropy": Op(1, at_least(1, targets), tg.cross_entropy, cross_entropy),
}

NAMES = np.random.default_rng(0).permutation(
    [*OPS, *["matmul"] * 3, *["getitem", "add", "multiply", "einsum", "T"] * 2]
)

# ---- programs -----------------------------------------------------------------------------------


class Instruction(NamedTuple):
    name: str
    arguments: tuple[int, ...]  # places among the inputs and the results so far
    ways: dict

    def __str__(self):
        given = ", ".join([f"v{i}" for i in self.arguments])
        ways = "".join(f", {k}={v}" for k, v in self.ways.items() if k != "chosen")
        return f"{self.name}({given}{ways})".replace("\n", "")


class Program(NamedTuple):
    """Instructions, the inputs they were drawn for, and a cotangent for each unused value."""

    inputs: list[np.ndarray]
    instructions: list[Instruction]
    cotangents: dict[int, np.ndarray]

    def numpy(self, *inputs):
        return self.run("numpy", inputs)

    def ours(self, *inputs):
        return self.run("ours", inputs)

    def run(self, side, inputs):
        """The values that no later instruction uses; all of them together depend on everything."""
        values = list(inputs)
        for name, arguments, ways in self.instructions:
            values.append(getattr(OPS[name], side)(*[values[i] for i in arguments], **ways))
        return [values[i] for i in self.cotangents]

    def __str__(self):
        lines = [f"v{i} = input {x.shape}" for i, x in enumerate(self.inputs)]
        lines += [f"v{i} = {one}" for i, one in enumerate(self.instructions, len(lines))]
        return "\n".join([*lines, f"outputs: {', '.join(f'v{i}' for i in self.cotangents)}"])


def possible(name, values):
    """Every way to call an operation on these values: (arguments, keyword arguments)."""
    op = OPS[name]
    places = range(len(values))
    tuples = [(i,) for i in places] if op.arity == 1 else [(i, j) for i in places for j in places]
    return [(t, way) for t in tuples for way in op.fits(*[values[i] for i in t])]


# For each step which operation, 0 for none, and which of the ways to call it.  Both are turned by
# amounts from the generator, for hypothesis likes some numbers better; none lets programs shrink.
steps = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=5, max_size=12)


@st.composite
def programs(draw):
    """Programs of up to 12 steps on three inputs; sides of 1, 2 or 3, all equal half the time."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sides = st.just(draw(st.integers(1, 3))) if draw(st.booleans()) else st.integers(1, 3)
    shapes = [tuple(draw(st.lists(sides, max_size=2 + (i == 0)))) for i in range(INPUTS)]
    values = [rng.uniform(0.3, 1.5, s) * rng.choice([-1, 1, 1], s) for s in shapes]
    values = [np.asarray(x) for x in values]
    instructions = []
    for which, how in draw(steps):
        turned = np.roll(NAMES, rng.integers(len(NAMES)) + which).tolist()
        if not which:
            continue
        name = next(one for one in turned if possible(one, values))
        ways = possible(name, values)
        arguments, way = ways[(how + rng.integers(100)) % len(ways)]
        y = np.asarray(OPS[name].numpy(*[values[i] for i in arguments], **way))
        tame = np.isfinite(y).all() and np.abs(y).max(initial=0) < LARGEST
        if not (tame and 1 <= y.size <= 60 and y.ndim <= 3):
            name, arguments, way = "tanh", arguments[:1], {}
            y = np.tanh(values[arguments[0]])
        instructions.append(Instruction(name, arguments, way))
        values.append(np.asarray(y))
    assume(instructions)
    used = {i for one in instructions for i in one.arguments}
    cotangents = {i: rng.standard_normal(x.shape) for i, x in enumerate(values) if i not in used}
    program = Program(values[:INPUTS], instructions, cotangents)
    note(str(program))
    return program


def pulled_back(program, inputs=None, scale=1.0, dtype=float, create_graph=False):
    """The engine's outputs, gradients and leaves."""
    leaves = [tg.tensor(np.asarray(x, dtype), requires_grad=True) for x in inputs or program.inputs]
    outputs = program.ours(*leaves)
    cotangents = [tg.tensor(scale * u, dtype=dtype) for u in program.cotangents.values()]
    found = tg.grad(outputs, leaves, cotangents, create_graph=create_graph)
    return outputs, found, leaves


def slopes(program, inputs):
    """The gradient of the outputs times their cotangents, by complex steps through NumPy."""
    found = []
    for k, x in enumerate(inputs):
        slope = np.zeros(x.shape)
        for entry in np.ndindex(x.shape):
            moved = [np.array(z, complex) for z in inputs]
            moved[k][entry] += 1j * STEP
            outputs = program.numpy(*moved)
            parts = zip(outputs, program.cotangents.values(), strict=True)
            slope[entry] = sum(np.sum(np.imag(y) * u) for y, u in parts) / STEP
        found.append(slope)
    return found


def largest(arrays):
    return max((np.abs(x).max(initial=0) for x in arrays), default=0.0)


# ---- laws ---------------------------------------------------------------------------------------


@given(programs())
def test_values_equal_numpys(program):
    outputs = program.numpy(*program.inputs)
    for xs in (program.inputs, [tg.tensor(x) for x in program.inputs]):
        for y, expected in zip(program.ours(*xs), outputs, strict=True):
            y = np.asarray(getattr(y, "array", y))
            assert y.shape == expected.shape and y.dtype == float
            np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-12)


@given(programs())
def test_gradients_equal_complex_steps_through_numpy(program):
    _, found, _ = pulled_back(program)
    expected = slopes(program, program.inputs)
    scale = largest(expected)
    for g, slope in zip(found, expected, strict=True):
        assert g.shape == slope.shape
        np.testing.assert_allclose(g.array, slope, rtol=0, atol=1e-11 * scale + 1e-14)


@given(programs(), st.integers(0, 2**32 - 1))
def test_second_derivatives_equal_differences_of_the_gradient(program, seed):
    # H v by create_graph, against fourth-order central differences of NumPy's exact slopes.
    rng = np.random.default_rng(seed)
    direction = [rng.standard_normal(x.shape) for x in program.inputs]
    _, first, leaves = pulled_back(program, create_graph=True)
    along = sum(tg.sum(g * v) for g, v in zip(first, direction, strict=True))
    if along.requires_grad:
        parts = [x * 0.0 for x in leaves]  # an input that the gradient does not depend on gets 0
        along = along + sum(tg.sum(part) for part in parts)
        second = [g.array for g in tg.grad(along, leaves)]
    else:
        second = [np.zeros(x.shape) for x in program.inputs]

    def at(step):
        moved = [x + step * v for x, v in zip(program.inputs, direction, strict=True)]
        return slopes(program, moved)

    def differences(h):
        points = zip(at(h), at(-h), at(2 * h), at(-2 * h), strict=True)
        return [(8 * (a - b) - (c - d)) / (12 * h) for a, b, c, d in points]

    fine, coarse = differences(5e-4), differences(1e-3)
    error = largest([a - b for a, b in zip(fine, coarse, strict=True)])
    scale = largest(fine) + largest([g.array for g in first])
    for h, expected in zip(second, fine, strict=True):
        np.testing.assert_allclose(h, expected, rtol=0, atol=1e-9 * scale + error)


@given(programs())
def test_gradients_are_linear_in_the_cotangent(program):
    _, once, _ = pulled_back(program)
    _, tripled, _ = pulled_back(program, scale=-3.0)
    _, nothing, _ = pulled_back(program, scale=0.0)
    scale = largest([g.array for g in once])
    for g, t, z in zip(once, tripled, nothing, strict=True):
        np.testing.assert_allclose(t.array, -3 * g.array, rtol=0, atol=1e-12 * scale)
        assert not z.array.any() and np.isfinite(z.array).all()


@given(programs(), st.booleans())
def test_a_program_run_twice_gives_the_same_bits_and_leaves_its_inputs_alone(program, record):
    before = [x.copy() for x in program.inputs]
    first_y, first, leaves = pulled_back(program, create_graph=record)
    second_y, second, _ = pulled_back(program, create_graph=record)
    for a, b in zip([*first_y, *first], [*second_y, *second], strict=True):
        assert a.array.tobytes() == b.array.tobytes()
    for x, leaf, old in zip(program.inputs, leaves, before, strict=True):
        assert x.tobytes() == leaf.array.tobytes() == old.tobytes()


@given(programs())
def test_recording_the_backward_pass_does_not_change_its_result(program):
    _, plain, _ = pulled_back(program)
    _, recorded, _ = pulled_back(program, create_graph=True)
    scale = largest([g.array for g in plain])
    for a, b in zip(plain, recorded, strict=True):
        np.testing.assert_allclose(a.array, b.array, rtol=0, atol=1e-12 * scale)


@given(programs())
def test_gradients_share_no_memory(program):
    outputs, found, leaves = pulled_back(program)
    arrays = [g.array for g in found]
    for i, g in enumerate(arrays):
        assert g.flags.writeable
        for other in [*arrays[:i], *[x.array for x in leaves], *[y.array for y in outputs]]:
            assert not np.shares_memory(g, other)


@given(programs())
def test_float32_stays_float32_and_close_to_float64(program):
    y64, g64, _ = pulled_back(program)
    y32, g32, _ = pulled_back(program, dtype=np.float32)
    for narrow, wide in ((y32, y64), (g32, g64)):
        scale = 1 + largest([x.array for x in wide])
        for a, b in zip(narrow, wide, strict=True):
            assert a.dtype == np.float32
            np.testing.assert_allclose(a.array, b.array, rtol=0, atol=2e-3 * scale)


@given(programs())
def test_backward_gathers_what_grad_returns(program):
    outputs, found, _ = pulled_back(program)
    leaves = [tg.tensor(x, requires_grad=True) for x in program.inputs]
    pairs = zip(program.ours(*leaves), program.cotangents.values(), strict=True)
    for y, u in pairs:
        y.backward(u, retain_graph=True)
    scale = largest([g.array for g in found])
    for x, g in zip(leaves, found, strict=True):
        np.testing.assert_allclose(x.grad.array, g.array, rtol=0, atol=1e-12 * scale + 1e-15)
    assert outputs


# ---- the generator ------------------------------------------------------------------------------


def test_programs_are_long_and_use_every_operation():
    # A generator that rarely draws an operation proves nothing about it.
    counts, lengths, reused, moved = Counter(), [], 0, 0

    @settings(
        max_examples=400,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(programs())
    def watch(program):
        nonlocal reused, moved
        counts.update(one.name for one in program.instructions)
        lengths.append(len(program.instructions))
        uses = Counter(i for one in program.instructions for i in one.arguments)
        reused += max(uses.values()) > 1
        moved += largest(slopes(program, program.inputs)) > 1e-3

    watch()
    assert np.mean(lengths) > 5 and np.mean(np.array(lengths) >= 4) > 0.6
    assert not [name for name in OPS if counts[name] < 10]
    assert counts["tanh"] < 0.15 * sum(counts.values())  # which stands in where nothing else fits
    assert reused > 0.7 * len(lengths)
    assert moved > 0.97 * len(lengths)  # a gradient of zero could be wrong unseen
