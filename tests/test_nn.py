"""Laws of modules, and of layers without a state."""

import copy

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn

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
    assert sorted(caught.value.args[0].splitlines()[1:-1]) == sorted(
        f"  {line}" for line in reasons
    )
    assert_same(model.state_dict(), right)


def test_a_model_takes_all_of_a_state_or_nothing():
    model = tg.nn.Linear(2, 3)
    before = model.state_dict()
    for wrong in before:
        state = {name: x + 1 for name, x in before.items()} | {wrong: np.zeros(7, np.float32)}
        with pytest.raises(tg.CheckpointError, match=f"{wrong}: expected"):
            model.load_state_dict(state)
        for name, x in model.state_dict().items():
            assert np.array_equal(x, before[name])


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


@given(seeds, st.integers(2, 5), st.booleans(), st.lists(sides, max_size=3))
def test_layer_norm_is_its_equation_in_value_and_gradient(seed, n, bias, lead):
    rng = np.random.default_rng(seed)
    layer = in_float64(nn.LayerNorm(n, eps=0.1, bias=bias), rng)
    x = tg.tensor(rng.normal(size=(*lead, n)), requires_grad=True)
    inputs = {"x": x} | dict(layer.named_parameters())
    g = rng.normal(size=x.shape)

    def equation(x, weight, bias=0.0):
        distance = x - x.mean(-1, keepdims=True)
        return weight * distance / np.sqrt((distance**2).mean(-1, keepdims=True) + 0.1) + bias

    y = layer(x)
    values = {name: t.array for name, t in inputs.items()}
    np.testing.assert_allclose(y.array, equation(**values), rtol=1e-12, atol=1e-14)
    y.backward(g)
    for name, t in inputs.items():
        v = rng.normal(size=t.shape)
        slope = (g * equation(**(values | {name: t.array + 1e-30j * v})).imag).sum() / 1e-30
        assert abs((t.grad.array * v).sum() - slope) < 1e-11 * max(1, abs(t.grad.array).sum())


def test_layer_norm_begins_as_it_should_and_refuses_other_last_axes():
    layer = nn.LayerNorm(4)
    assert_same(
        layer.state_dict(), {"weight": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}
    )
    y = layer(np.random.default_rng(0).normal(3, 5, (7, 4))).array
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(-1), 1, atol=1e-3)
    with pytest.raises(tg.ShapeError, match=r"float64 \(4, 3\)\n  expected: \(\.\.\., size=4\)"):
        layer(np.zeros((4, 3)))


@given(seeds, sides, sides, sides, st.booleans())
def test_a_convolution_is_a_window_that_slides(seed, n, K, m, bias):
    rng = np.random.default_rng(seed)
    layer = in_float64(nn.Conv1d(n, m, K, stride=2, padding=1, bias=bias), rng)
    x = rng.normal(size=(2, n, K + 3))
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1)))
    starts = range(0, wide.shape[2] - K + 1, 2)
    W, b = layer.weight.array, layer.bias.array[None] if bias else 0.0
    steps = [np.einsum("bck,ock->bo", wide[:, :, t : t + K], W) + b for t in starts]
    np.testing.assert_allclose(layer(x).array, np.stack(steps, -1), rtol=1e-12, atol=1e-13)


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
    "Conv1d": (lambda rng: nn.Conv1d(8, 1000, 2, rng=rng), 16),
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


@pytest.mark.torch
def test_layers_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for ours, theirs, shape in [
        (nn.LayerNorm(5), torch.nn.LayerNorm(5), (3, 5)),
        (nn.Conv1d(5, 4, 3, padding=1), torch.nn.Conv1d(5, 4, 3, padding=1), (2, 5, 7)),
        (nn.Linear(5, 4), torch.nn.Linear(5, 4), (3, 5)),
    ]:
        ours.load_state_dict(theirs.state_dict())
        x = rng.normal(size=shape).astype(np.float32)
        expected = theirs(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(ours(x).array, expected, rtol=1e-5, atol=1e-6)
