"""Laws of modules, layers and cells."""

import copy
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import backend, nn

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 3)

# ---- modules: trees of attributes --------------------------------------------------------------


class Box(nn.Module):
    """A module with whatever attributes it is given."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


LEAVES = ("parameter", "constant", "other", "tie")
BRANCHES = ("box", "list", "tuple", "dict")


@st.composite
def boxes(draw):
    """Boxes nested at random, with Tensors, containers, things that are neither, and ties."""
    rng = np.random.default_rng(draw(seeds))
    made = []

    def thing(depth):
        kind = draw(st.sampled_from(LEAVES + BRANCHES if depth else LEAVES))
        if kind == "tie" and made:
            return draw(st.sampled_from(made))  # something complete, so that there is no cycle
        if kind == "box":
            x = box(depth - 1)
        elif kind == "dict":
            x = {key: thing(depth - 1) for key in draw(st.sets(st.sampled_from("pqrs")))}
        elif kind in BRANCHES:
            x = [thing(depth - 1) for _ in range(draw(st.integers(0, 3)))]
            x = tuple(x) if kind == "tuple" else x
        elif kind == "other":
            return draw(st.sampled_from([None, 3, 0.5, "text", np.zeros(2), {1, 2}]))
        else:
            dtype = draw(st.sampled_from("fd" if kind == "parameter" else "fdib?"))
            shape = tuple(draw(st.lists(st.integers(0, 3), max_size=2)))
            values = rng.normal(size=shape) * 3
            x = tg.tensor(np.asarray(values, dtype), requires_grad=kind == "parameter")
        made.append(x)
        return x

    def box(depth):
        names = draw(st.lists(st.sampled_from("abcdef"), unique=True, max_size=4))
        return Box(**{name: thing(depth) for name in names})

    return box(3)


def inside(x):
    """The named things in x, one level down."""
    if isinstance(x, nn.Module):
        return list(vars(x).items())
    if isinstance(x, dict):
        return list(x.items())
    return list(enumerate(x)) if isinstance(x, (list, tuple)) else []


def paths(x, path=()):
    """Every path to every Tensor and Module in x: the plainest recursion, which knows no ties."""
    if isinstance(x, (tg.Tensor, nn.Module)):
        yield ".".join(path), x
    for key, part in inside(x):
        yield from paths(part, (*path, str(key)))


def tensors_with_names(model):
    """Each Tensor of the model with all its names, in the order of their first."""
    found = {}
    for name, x in paths(model):
        if isinstance(x, tg.Tensor):
            found.setdefault(id(x), (x, []))[1].append(name)
    return list(found.values())


def altered(state):
    """A state with the same names, shapes and dtypes in which no entry is the same."""
    return {name: ~x if x.dtype == bool else x + 1 for name, x in state.items()}


def assert_same(state, other):
    assert list(state) == list(other)
    for name, x in state.items():
        np.testing.assert_array_equal(x, other[name], strict=True)


@given(boxes())
def test_every_tensor_is_listed_once_under_its_first_name(model):
    named = [(x, names[0]) for x, names in tensors_with_names(model)]
    assert_same(model.state_dict(), {name: x.array for x, name in named})
    tracked = [(x, name) for x, name in named if x.requires_grad]
    assert [(id(x), name) for name, x in model.named_parameters()] == [
        (id(x), name) for x, name in tracked
    ]
    assert list(map(id, model.parameters())) == [id(x) for x, _ in tracked]


@given(boxes())
def test_a_state_moves_from_model_to_model(model):
    state = model.state_dict()
    other = copy.deepcopy(model)
    other.load_state_dict(altered(state))
    assert_same(other.state_dict(), altered(state))
    assert_same(model.state_dict(), state)  # a deep copy shares nothing
    other.load_state_dict(state)
    assert_same(other.state_dict(), state)
    for x in state.values():
        x[...] = 1  # a copy, on the way out and on the way in
    for x in other.state_dict().values():
        x[...] = 0
    assert_same(other.state_dict(), model.state_dict())


@given(boxes(), st.data())
def test_a_tied_tensor_is_loaded_by_any_of_its_names(model, data):
    named = tensors_with_names(model)
    wanted = [altered({"x": x.array})["x"] for x, _ in named]
    chosen = [data.draw(st.lists(st.sampled_from(names), min_size=1)) for _, names in named]
    model.load_state_dict(
        {name: x for names, x in zip(chosen, wanted, strict=True) for name in names}
    )
    for (x, _), array in zip(named, wanted, strict=True):
        np.testing.assert_array_equal(x.array, array, strict=True)


@given(boxes(), st.data())
def test_a_state_that_does_not_fit_is_refused_whole_and_every_reason_listed(model, data):
    right = model.state_dict()
    state, reasons = altered(right), []
    for name, x in right.items():
        fault = data.draw(st.sampled_from(["none", "none", "missing", "shape", "kind"]))
        if fault == "missing":
            del state[name]
            reasons.append(f"missing: {name}")
        elif fault == "shape":
            state[name] = np.zeros((*x.shape, 2), x.dtype)
            reasons.append(f"{name}: expected {x.dtype} {x.shape}, got {x.dtype} {(*x.shape, 2)}")
        elif fault == "kind":
            state[name] = np.zeros(x.shape, complex)
            reasons.append(f"{name}: expected {x.dtype} {x.shape}, got complex128 {x.shape}")
    known = {name for _, names in tensors_with_names(model) for name in names}
    for name in data.draw(st.sets(st.sampled_from(["a.z", "nowhere", "a", ""]))):
        if name not in known:
            state[name] = np.zeros(1)
            reasons.append(f"unknown: {name}")
    for x, names in tensors_with_names(model):
        if len(names) > 1 and x.size and names[0] in state and data.draw(st.booleans()):
            state[names[1]] = state[names[0]][..., None] * 0
            reasons.append(f"{names[1]}: tied to {names[0]}, but its values differ")
    assume(reasons)
    with pytest.raises(tg.CheckpointError) as caught:
        model.load_state_dict(state)
    assert sorted(str(caught.value).splitlines()[1:]) == sorted(f"  {line}" for line in reasons)
    assert_same(model.state_dict(), right)


@given(boxes())
def test_train_and_eval_reach_every_module(model):
    modules = [x for _, x in paths(model) if isinstance(x, nn.Module)]
    assert all(x.training for x in modules)
    assert model.eval() is model
    assert not any(x.training for x in modules)
    model.train()
    assert all(x.training for x in modules)


@given(boxes())
def test_the_repr_tells_every_name_shape_and_tie(model):
    head, *lines = repr(model).splitlines()
    assert head == f"Box(), parameters: {sum(x.size for x in model.parameters()):,}" or "=" in head
    modules = {name for name, x in paths(model) if isinstance(x, nn.Module)}
    told = {}
    for line in lines:
        name, what = line.strip().split(": ", 1)
        told[name] = what
        around = {name[:i] for i, letter in enumerate(name) if letter == "."} | {""}
        assert len(line) - len(line.lstrip()) == 2 * len(around & modules)
    for x, (first, *others) in tensors_with_names(model):
        constant = "" if x.requires_grad else ", constant"
        assert told[first] == f"{x.dtype} {x.shape}{constant}"
        for name in others:  # unless the whole module around it is told to be the same
            assert told.get(name, f"the same as {first}") == f"the same as {first}"


def test_zero_grad_forgets():
    model = nn.Linear(2, 3)
    tg.sum(model(np.ones(2, np.float32))).backward()
    assert all(x.grad is not None for x in model.parameters())
    model.zero_grad()
    assert all(x.grad is None for x in model.parameters())


def test_a_module_may_contain_itself():
    model = Box(child=Box(weight=tg.tensor([1.0], requires_grad=True)))
    model.child.parent = model
    assert list(model.state_dict()) == ["child.weight"]
    assert "child.parent: the same as the whole" in repr(model)
    model.load_state_dict({"child.parent.child.weight": np.array([2.0])})
    assert model.child.weight.item() == 2


def test_modules_may_be_nested_deeper_than_python_recurses():
    model = Box(weight=tg.tensor([1.0], requires_grad=True))
    for _ in range(2000):
        model = Box(child=model)
    assert len(model.eval().parameters()) == len(model.state_dict()) == 1
    assert len(repr(model).splitlines()) == 2002


def test_two_tensors_of_one_name_are_not_merged():
    model = Box(a={"b.c": tg.tensor([1.0]), "b": {"c": tg.tensor([2.0])}})
    with pytest.raises(tg.CheckpointError, match=r"a\.b\.c"):
        model.state_dict()


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Box has no method forward"):
        Box()(1)


class DeviceArray:
    """An array that lives elsewhere: it can be moved, and that is all."""

    __module__ = "cupy"

    def __init__(self, values):
        self.values, self.dtype, self.shape = values, values.dtype, values.shape


class FakeDevice(backend.Backend):
    device = "cuda"

    def asarray(self, values):
        return DeviceArray(values.copy())

    def to_host(self, x):
        return x.values


@given(boxes())
def test_a_model_moves_to_a_device_and_back_with_gradients(model):
    for x in model.parameters():
        x.grad = tg.tensor(-x.array)
    state = model.state_dict()
    everything = [x for x, _ in tensors_with_names(model)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "_cupy", FakeDevice)
        assert model.to("cuda") is model
        assert all(isinstance(x.array, DeviceArray) for x in everything)
        assert all(isinstance(x.grad.array, DeviceArray) for x in model.parameters())
        assert_same(model.state_dict(), state)  # always on the host
        model.load_state_dict(altered(state))
        assert all(isinstance(x.array, DeviceArray) for x in everything)
        model.to("cpu")
    assert_same({name: x.array for x, (name, *_) in tensors_with_names(model)}, altered(state))
    for name, x in model.named_parameters():
        np.testing.assert_array_equal(x.grad.array, -state[name])


# ---- layers ------------------------------------------------------------------------------------


def in_float64(module, rng):
    """The module, its parameters replaced by random float64 ones of the same shapes."""
    for name, x in vars(module).items():
        if isinstance(x, tg.Tensor):
            setattr(module, name, tg.tensor(rng.normal(size=x.shape), requires_grad=True))
    return module


@given(seeds, sides, sides, st.booleans(), st.lists(sides, max_size=3))
def test_linear_is_a_matrix_product_on_the_last_axis(seed, n, m, bias, lead):
    rng = np.random.default_rng(seed)
    layer = in_float64(nn.Linear(n, m, bias), rng)
    x = tg.tensor(rng.normal(size=(*lead, n)), requires_grad=True)
    y = layer(x)
    W, b = layer.weight.array, layer.bias.array if bias else np.zeros(m)
    np.testing.assert_allclose(y.array, np.einsum("...n,mn->...m", x.array, W) + b, rtol=1e-12)
    g = rng.normal(size=y.shape)
    y.backward(g)
    np.testing.assert_allclose(x.grad.array, np.einsum("...m,mn->...n", g, W), rtol=1e-12)
    dW = np.einsum("am,an->mn", g.reshape(-1, m), x.array.reshape(-1, n))
    np.testing.assert_allclose(layer.weight.grad.array, dW, rtol=1e-12, atol=1e-13)
    if bias:
        np.testing.assert_allclose(layer.bias.grad.array, g.reshape(-1, m).sum(0), atol=1e-13)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"][: 1 + bias]


@given(sides, st.lists(sides, max_size=3))
def test_linear_refuses_other_last_axes(n, shape):
    assume(shape[-1:] != [n])
    with pytest.raises(tg.ShapeError) as caught:
        nn.Linear(n, 2)(np.zeros(shape))
    assert f"float64 {tuple(shape)}" in str(caught.value)
    assert f"in_features={n}" in str(caught.value)
    assert ("swapped" in str(caught.value)) == (len(shape) == 2 and shape[0] == n)


@given(seeds, sides, sides, st.lists(sides, max_size=3))
def test_embedding_picks_rows_and_counts_them(seed, n, d, shape):
    rng = np.random.default_rng(seed)
    layer = nn.Embedding(n, d, rng)
    ids = rng.integers(0, n, shape)
    y = layer(ids)
    np.testing.assert_array_equal(y.array, layer.weight.array[ids])
    y.sum().backward()
    counts = np.bincount(ids.ravel(), minlength=n)
    np.testing.assert_array_equal(layer.weight.grad.array, np.repeat(counts[:, None], d, 1))
    with pytest.raises(tg.IndexRangeError):
        layer(np.array([n]))


@given(seeds, st.sampled_from([0.0, 0.1, 0.5, 0.9]))
def test_dropout_drops_a_share_when_training_only(seed, p):
    x = 1 + np.random.default_rng(seed).random(4000)
    layer = nn.Dropout(p, np.random.default_rng(seed))
    y = layer(x)
    np.testing.assert_allclose(y, np.where(y == 0, 0, x / (1 - p)))
    assert abs((y == 0).mean() - p) <= 5 * (p * (1 - p) / x.size) ** 0.5
    np.testing.assert_array_equal(y, nn.Dropout(p, np.random.default_rng(seed))(x))
    assert layer.eval()(x) is x
    tg.manual_seed(seed)
    y = nn.Dropout(p)(x)
    tg.manual_seed(seed)
    np.testing.assert_array_equal(y, nn.Dropout(p)(x))


MAKERS = {
    "Linear": (lambda rng: nn.Linear(16, 1000, rng=rng), 16),
    "RNNCell": (lambda rng: nn.RNNCell(1000, 25, rng=rng), 25),
    "LSTMCell": (lambda rng: nn.LSTMCell(1000, 25, rng=rng), 25),
    "GRUCell": (lambda rng: nn.GRUCell(1000, 25, rng=rng), 25),
}


@pytest.mark.parametrize("name", MAKERS)
def test_parameters_begin_uniform_between_the_bounds_of_pytorch(name):
    make, fan = MAKERS[name]
    layer = make(np.random.default_rng(7))
    assert layer.parameters()
    for x in layer.parameters():
        assert x.dtype == np.float32
        bound, n = fan**-0.5, x.size
        # Uniform: the largest of n entries is near the bound, the n-th part of it away at most.
        assert bound * (1 - 20 / n) < abs(x.array).max() <= bound * (1 + 1e-6)
        assert abs(x.array.mean()) < 5 * bound / (3 * n) ** 0.5
        assert abs(abs(x.array).mean() - bound / 2) < 5 * bound / (12 * n) ** 0.5
    assert_same(layer.state_dict(), make(np.random.default_rng(7)).state_dict())
    tg.manual_seed(7)
    assert_same(layer.state_dict(), make(None).state_dict())


def test_an_embedding_begins_standard_normal():
    x = nn.Embedding(1000, 50, np.random.default_rng(7)).weight
    assert x.dtype == np.float32
    for power, moment in ((1, 0), (2, 1), (4, 3)):
        assert abs((x.array.astype(float) ** power).mean() - moment) < 0.1
    tg.manual_seed(7)
    np.testing.assert_array_equal(x.array, nn.Embedding(1000, 50).weight.array)


# ---- cells -------------------------------------------------------------------------------------


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def relu(a):
    return a * (a > 0)


def rows(p, part, k, H):
    """Block k of a matrix or a bias; a missing bias is 0."""
    return p[part][k * H : (k + 1) * H] if part in p else 0.0


def rnn_step(p, x, h, f=np.tanh):
    """The equations of the docstring for one example, on vectors."""
    H = len(h)
    a = rows(p, "weight_ih", 0, H) @ x + rows(p, "bias_ih", 0, H)
    return [f(a + rows(p, "weight_hh", 0, H) @ h + rows(p, "bias_hh", 0, H))]


def lstm_step(p, x, h, c):
    H = len(h)
    i, f, g, o = (
        rows(p, "weight_ih", k, H) @ x
        + rows(p, "bias_ih", k, H)
        + rows(p, "weight_hh", k, H) @ h
        + rows(p, "bias_hh", k, H)
        for k in range(4)
    )
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


def gru_step(p, x, h):
    H = len(h)
    r_x, z_x, n_x = (rows(p, "weight_ih", k, H) @ x + rows(p, "bias_ih", k, H) for k in range(3))
    r_h, z_h, n_h = (rows(p, "weight_hh", k, H) @ h + rows(p, "bias_hh", k, H) for k in range(3))
    z = sigmoid(z_x + z_h)
    return [(1 - z) * np.tanh(n_x + sigmoid(r_x + r_h) * n_h) + z * h]


def relu_step(p, x, h):
    return rnn_step(p, x, h, relu)


def relu_cell(*args, **keywords):
    return nn.RNNCell(*args, nonlinearity="relu", **keywords)


CELLS = {  # the cell, the number of its states, one step for one example
    "rnn": (nn.RNNCell, 1, rnn_step),
    "relu": (relu_cell, 1, relu_step),
    "lstm": (nn.LSTMCell, 2, lstm_step),
    "gru": (nn.GRUCell, 1, gru_step),
}
every_cell = pytest.mark.parametrize("kind", CELLS)


class Step:
    """A float64 cell with an input and states, and the same step by the equations."""

    def __init__(self, kind, seed, D, H, lead, bias=True):
        make, count, self.equations = CELLS[kind]
        rng = np.random.default_rng(seed)
        self.cell = in_float64(make(D, H, bias=bias), rng)
        self.x = tg.tensor(rng.normal(size=(*lead, D)), requires_grad=True)
        shape = (*lead, H)
        self.states = [tg.tensor(rng.normal(size=shape), requires_grad=True) for _ in range(count)]
        self.gs = [rng.normal(size=shape) for _ in range(count)]
        self.inputs = dict(self.cell.named_parameters()) | {"x": self.x}
        self.inputs |= {f"state {i}": state for i, state in enumerate(self.states)}

    def call(self, cell, x, states):
        """The new states, as a list, of a cell called in its own way."""
        new = cell(x, states[0] if len(states) == 1 else tuple(states))
        return list(new) if len(states) == 2 else [new]

    def by_cell(self):
        """Values and gradients, with the cotangents ``gs``, by the engine."""
        new = self.call(self.cell, self.x, self.states)
        tg.sum(sum(g * y for g, y in zip(self.gs, new, strict=True))).backward()
        return [y.array for y in new], {name: x.grad.array for name, x in self.inputs.items()}

    def by_equations(self, values):
        """The new states, example by example, for inputs with these values."""
        x, *states = (
            np.atleast_2d(values[name]) for name in values if name == "x" or "state" in name
        )
        new = [self.equations(values, *one) for one in zip(x, *states, strict=True)]
        return [
            np.array(rows).reshape(g.shape)
            for rows, g in zip(zip(*new, strict=True), self.gs, strict=True)
        ]


cell_sizes = st.tuples(seeds, sides, sides, st.one_of(st.just(()), st.tuples(sides)), st.booleans())


@every_cell
@given(cell_sizes)
def test_a_cell_is_its_equations_in_value_and_gradient(kind, sizes):
    step = Step(kind, *sizes)
    got, grads = step.by_cell()
    values = {name: x.array for name, x in step.inputs.items()}
    for y, expected in zip(got, step.by_equations(values), strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-13, strict=True)
    rng = np.random.default_rng(sizes[0] + 1)

    def objective(name, shifted):
        new = step.by_equations(values | {name: shifted})
        return sum((g * y).sum() for g, y in zip(step.gs, new, strict=True))

    h = 1e-3
    for name, x in values.items():
        v = rng.normal(size=x.shape)
        near, far = (objective(name, x + k * v) - objective(name, x - k * v) for k in (h, 2 * h))
        if kind == "relu":  # away from the kink: where both differences agree that it is straight
            assume(abs(far - 2 * near) < 1e-9)
        slope = (8 * near - far) / (12 * h)
        size = max(1.0, abs(grads[name]).sum() * abs(v).max())
        assert abs((grads[name] * v).sum() - slope) < 1e-8 * size, name


@every_cell
@pytest.mark.parametrize("dtype", "efd")
def test_a_step_is_taken_in_the_precision_of_the_cell(kind, dtype):
    cell = CELLS[kind][0](3, 4)
    for name, x in cell.named_parameters():
        setattr(cell, name, tg.tensor(x.array, dtype, requires_grad=True))
    y = cell(np.ones((2, 3), dtype))
    assert {part.dtype for part in (y if isinstance(y, tuple) else [y])} == {np.dtype(dtype)}


@every_cell
def test_gradients_keep_the_precision_of_their_leaves(kind):
    """float64 data through a float32 model, as it comes from NumPy's generators."""
    cell = CELLS[kind][0](3, 4)
    y = cell(np.random.default_rng(0).normal(size=(2, 3)))
    tg.sum(y[0] if isinstance(y, tuple) else y).backward()
    assert {x.grad.dtype for x in cell.parameters()} == {np.dtype(np.float32)}


@every_cell
@given(cell_sizes)
def test_a_state_left_out_is_zeros(kind, sizes):
    step, other = Step(kind, *sizes), Step(kind, *sizes)
    for state in step.states:
        state.array = np.zeros_like(state.array)
    expected, grads = step.by_cell()
    other.states = [None] * len(other.states)
    other.inputs = {name: x for name, x in other.inputs.items() if "state" not in name}
    got, other_grads = other.by_cell()
    for y, z in zip(got, expected, strict=True):
        np.testing.assert_array_equal(y, z, strict=True)
    for name, g in other_grads.items():
        np.testing.assert_array_equal(g, grads[name])
    new = other.cell(other.x)
    for y, z in zip(new if isinstance(new, tuple) else [new], expected, strict=True):
        np.testing.assert_array_equal(y.array, z)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@given(cell_sizes)
def test_a_cell_of_plain_arrays_is_a_plain_function(kind, sizes):
    """So the complex step, which needs no other code, gives the engine's gradients exactly."""
    step = Step(kind, *sizes)
    _, grads = step.by_cell()
    rng = np.random.default_rng(sizes[0] + 1)
    directions = {name: rng.normal(size=x.shape) for name, x in step.inputs.items()}
    moved = {name: x.array + 1e-30j * directions[name] for name, x in step.inputs.items()}
    for name in step.cell.state_dict():
        setattr(step.cell, name, moved[name])
    states = [moved[f"state {i}"] for i in range(len(step.states))]
    new = step.call(step.cell, moved["x"], states)
    assert all(type(y) is np.ndarray for y in new)
    slope = sum((g * y.imag).sum() for g, y in zip(step.gs, new, strict=True)) / 1e-30
    parts = [(grads[name] * v).ravel() for name, v in directions.items()]
    total = np.concatenate(parts)
    assert abs(total.sum() - slope) <= 1e-12 * max(1.0, abs(total).sum())


@every_cell
@given(sides, sides, st.lists(sides, max_size=3))
def test_an_input_that_does_not_fit_is_refused_with_named_axes(kind, D, H, shape):
    cell = CELLS[kind][0](D, H)
    if len(shape) in (1, 2) and shape[-1] == D:
        cell(np.zeros(shape))
        return
    with pytest.raises(tg.ShapeError) as caught:
        cell(np.zeros(shape))
    message = str(caught.value)
    assert message.startswith(f"{type(cell).__name__}: x is float64 {tuple(shape)}")
    assert f"(batch, input_size={D})" in message
    assert ("swapped" in message) == (len(shape) == 2 and shape[0] == D)
    assert ("one step" in message) == (len(shape) == 3)


@every_cell
@given(sides, sides, st.lists(sides, max_size=1), st.lists(sides, max_size=3), st.booleans())
def test_a_state_that_does_not_fit_is_refused_with_named_axes(kind, D, H, lead, shape, last):
    cell, count, _ = CELLS[kind]
    cell = cell(D, H)
    x, fitting, wrong = np.zeros((*lead, D)), np.zeros((*lead, H)), np.zeros(shape)
    state = {1: wrong, 2: (fitting, wrong) if last else (wrong, fitting)}[count]
    if shape == [*lead, H]:
        cell(x, state)
        return
    with pytest.raises(tg.ShapeError) as caught:
        cell(x, state)
    message = str(caught.value)
    name = "c" if count == 2 and last else "h"
    assert message.startswith(f"{type(cell).__name__}: {name} is float64 {tuple(shape)}")
    assert f"({''.join(f'batch={n}, ' for n in lead)}hidden_size={H})" in message
    assert ("swapped" in message) == (shape == [H, *lead])


def test_a_state_of_an_lstm_is_a_pair():
    for state in (np.zeros((2, 3)), tg.tensor(np.zeros((2, 3))), (np.zeros((2, 3)),)):
        with pytest.raises(tg.DtypeError, match=r"expected: a pair \(h, c\)"):
            nn.LSTMCell(2, 3)(np.zeros((2, 2)), state)


def test_an_unknown_nonlinearity_is_refused():
    with pytest.raises(ValueError, match="tanh or relu"):
        nn.RNNCell(2, 3, nonlinearity="sine")


def kept_bytes(root, known):
    """The bytes of all arrays that a graph keeps for its VJPs, but for those in ``known``."""
    buffers, seen, left = {}, set(), [root]

    def keep(value):
        if isinstance(value, np.ndarray):
            base = value if value.base is None else value.base
            buffers[id(base)] = base
        elif isinstance(value, (list, tuple)):
            for part in value:
                keep(part)

    while left:
        node = left.pop()
        if node not in seen:
            seen.add(node)
            for parent, _, values in node.edges:
                left += [x for x in np.ravel(parent) if x is not None]  # one, or those of all
                keep(values)
    return sum(x.nbytes for key, x in buffers.items() if key not in known)


def test_a_step_of_an_lstm_keeps_seven_arrays_of_its_state():
    """i, f, g, o, c, tanh c and h: what the derivative needs and nothing else."""
    B, D, H = 5, 3, 4
    cell = nn.LSTMCell(D, H)
    known = {id(x.array) for x in cell.parameters()}

    def kept(steps):
        xs = [np.zeros((B, D), np.float32) for _ in range(steps)]
        state = None
        for x in xs:
            state = cell(x, state)
        return kept_bytes(state[0].node, known | {id(x) for x in xs})

    sizes = [kept(steps) for steps in range(2, 7)]
    assert np.diff(sizes).tolist() == [7 * B * H * 4] * 4


# ---- PyTorch -----------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize(("kind", "bias", "lead"), [*product(CELLS, [True, False], [(), (4,)])])
def test_a_cell_is_the_cell_of_pytorch(kind, bias, lead):
    torch = pytest.importorskip("torch")
    D, H = 3, 5
    maker = {
        "rnn": torch.nn.RNNCell,
        "relu": lambda *a, **k: torch.nn.RNNCell(*a, nonlinearity="relu", **k),
        "lstm": torch.nn.LSTMCell,
        "gru": torch.nn.GRUCell,
    }[kind]
    theirs = maker(D, H, bias=bias)
    step = Step(kind, 0, D, H, lead, bias)
    ours = CELLS[kind][0](D, H, bias=bias)
    ours.load_state_dict(theirs.state_dict())  # their names and shapes, as they are
    assert_same(ours.state_dict(), {k: v.numpy() for k, v in theirs.state_dict().items()})

    theirs = theirs.double()
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in step.cell.state_dict().items()})
    got, grads = step.by_cell()
    x, *states = (torch.from_numpy(t.array.copy()).requires_grad_() for t in (step.x, *step.states))
    new = step.call(theirs, x, states)
    sum((torch.from_numpy(g) * y).sum() for g, y in zip(step.gs, new, strict=True)).backward()
    inputs = dict(theirs.named_parameters()) | {"x": x}
    inputs |= {f"state {i}": state for i, state in enumerate(states)}
    for y, expected in zip(got, new, strict=True):
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-12, atol=1e-14)
    assert grads.keys() == inputs.keys()
    for name, expected in inputs.items():
        np.testing.assert_allclose(grads[name], expected.grad.numpy(), rtol=1e-11, atol=1e-13)
