"""Laws of cells: each is its equations, in value and gradient, and states are values."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from .equations import CELLS, OUT, size_of, slope

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 3)
every_cell = pytest.mark.parametrize("kind", CELLS)


def in_float64(cell, rng):
    """The cell, its parameters replaced by random float64 ones of the same shapes."""
    for name, x in vars(cell).items():
        if isinstance(x, tg.Tensor):
            setattr(cell, name, tg.tensor(rng.normal(size=x.shape), requires_grad=True))
    return cell


def parts_of(state):
    return list(state) if isinstance(state, tuple) else [state]


def assert_same(state, other):
    assert list(state) == list(other)
    for name, x in state.items():
        np.testing.assert_array_equal(x, other[name], strict=True)


class Step:
    """A float64 cell with an input and states, and the same step by the equations."""

    def __init__(self, kind, seed, D, H, lead, bias=True, **settings):
        make, parts, self.equations = CELLS[kind]
        rng = np.random.default_rng(seed)
        self.cell = in_float64(make(D, H, bias=bias, **settings), rng)
        self.x = tg.tensor(rng.normal(size=(*lead, D)), requires_grad=True)
        shapes = [(*lead, size_of(part, H)) for part in parts]
        self.states = [tg.tensor(rng.normal(size=shape), requires_grad=True) for shape in shapes]
        self.gs = [rng.normal(size=shape) for shape in shapes]
        self.inputs = dict(self.cell.named_parameters()) | {"x": self.x}
        self.inputs |= {f"state {i}": state for i, state in enumerate(self.states)}

    def call(self, cell, x, states):
        """The new states, as a list, of a cell called in its own way."""
        return parts_of(cell(x, states[0] if len(states) == 1 else tuple(states)))

    def by_cell(self):
        """Values and gradients, with the cotangents ``gs``, by the engine."""
        new = self.call(self.cell, self.x, self.states)
        loss = sum(tg.sum(g * y) for g, y in zip(self.gs, new, strict=True))
        loss.backward()
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
        np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-12, strict=True)
    rng = np.random.default_rng(sizes[0] + 1)
    for name, x in values.items():  # the complex step, on NumPy's equations
        v = rng.normal(size=x.shape)
        expected = slope(step.by_equations, values, name, v, step.gs)
        size = max(1.0, abs(grads[name]).sum() * abs(v).max())
        assert abs((grads[name] * v).sum() - expected) < 1e-10 * size, name


@every_cell
def test_second_derivatives_are_right_too(kind):
    step = Step(kind, 0, 2, 3, (2,))

    def func():
        return tuple(step.call(step.cell, step.x, step.states))

    assert tg.gradcheck(func, list(step.inputs.values()), order=2, method="complex")


@every_cell
@given(cell_sizes)
def test_the_product_with_the_input_needs_no_loop(kind, sizes):
    """A step given a row of U(all inputs) is the cell; with no state, as fold calls it, too."""
    step = Step(kind, *sizes)
    lead = step.x.shape[:-1]
    xs = np.random.default_rng(sizes[0]).normal(size=(4, *step.x.shape))
    us = step.cell.U(xs)
    assert us.shape[:-1] == (4, *lead)
    state = step.states[0] if len(step.states) == 1 else tuple(step.states)
    for x, u in zip(xs, us, strict=True):
        for given_state in (state, None):
            by_step, by_cell = step.cell.step(u, given_state), step.cell(x, given_state)
            for y, z in zip(parts_of(by_step), parts_of(by_cell), strict=True):
                np.testing.assert_allclose(y.array, z.array, rtol=1e-11, atol=1e-12)


@every_cell
@pytest.mark.parametrize("dtype", "efd")
def test_a_step_is_taken_in_the_precision_of_the_cell(kind, dtype):
    cell = CELLS[kind][0](3, 4, learn_initial=True)
    for name, x in cell.named_parameters():
        setattr(cell, name, tg.tensor(x.array, dtype, requires_grad=True))
    assert {part.dtype for part in parts_of(cell(np.ones((2, 3), dtype)))} == {np.dtype(dtype)}


@every_cell
def test_gradients_keep_the_precision_of_their_leaves(kind):
    """float64 data through a float32 model, as it comes from NumPy's generators."""
    cell = CELLS[kind][0](3, 4)
    y = parts_of(cell(np.random.default_rng(0).normal(size=(2, 3))))
    tg.sum(y[0]).backward()
    grads = [x.grad for x in cell.parameters() if x.grad is not None]
    assert grads and {g.dtype for g in grads} == {np.dtype(np.float32)}


# ---- where a state begins ----------------------------------------------------------------------


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
    for y, z in zip(parts_of(other.cell(other.x)), expected, strict=True):
        np.testing.assert_array_equal(y.array, z)


@every_cell
@given(cell_sizes)
def test_a_learned_beginning_stands_where_the_state_is_left_out(kind, sizes):
    """It is the state passed in full, and gets the sum of the cotangents of all examples."""
    step, other = (Step(kind, *sizes, learn_initial=True) for _ in range(2))
    names = [f"initial_{part}" for part in CELLS[kind][1]]
    fresh = CELLS[kind][0](sizes[1], sizes[2], learn_initial=True)
    assert set(names) <= dict(fresh.named_parameters()).keys()
    for name, part in zip(names, CELLS[kind][1], strict=True):
        zeros = np.zeros(size_of(part, sizes[2]), np.float32)
        np.testing.assert_array_equal(getattr(fresh, name).array, zeros, strict=True)
    for name, state in zip(names, other.states, strict=True):
        state.array = np.broadcast_to(getattr(step.cell, name).array, state.shape).copy()
    for name in names:
        del other.inputs[name]
    expected, grads = other.by_cell()
    step.states = [None] * len(step.states)
    step.inputs = {name: x for name, x in step.inputs.items() if "state" not in name}
    got, learned = step.by_cell()
    for y, z in zip(got, expected, strict=True):
        np.testing.assert_allclose(y, z, rtol=1e-11, atol=1e-12, strict=True)
    for i, name in enumerate(names):
        g = grads[f"state {i}"]
        total = g.sum(0) if g.ndim == 2 else g
        np.testing.assert_allclose(learned[name], total, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("make", [nn.LSTMCell, nn.PeepholeLSTMCell, nn.LayerNormLSTMCell])
def test_the_forget_bias_stands_in_one_of_the_two_biases(make):
    plain, cell = (
        make(2, 3, forget_bias=value, rng=np.random.default_rng(0)) for value in (None, 1.5)
    )
    expected = plain.state_dict()
    expected["bias_ih"][3:6], expected["bias_hh"][3:6] = 1.5, 0
    assert_same(cell.state_dict(), expected)
    with pytest.raises(ValueError, match=f"{make.__name__}: forget_bias 1.0, but bias=False"):
        make(2, 3, bias=False, forget_bias=1.0)


# ---- plain arrays ------------------------------------------------------------------------------


@every_cell
@given(cell_sizes)
def test_a_cell_of_plain_arrays_is_a_plain_function(kind, sizes):
    """So the complex step, which needs no other code, gives the engine's gradients exactly."""
    step = Step(kind, *sizes)
    if kind == "relu":
        return  # a complex number is not above or below 0
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
    assert abs(total.sum() - slope) <= 1e-11 * max(1.0, abs(total).sum())


# ---- what does not fit -------------------------------------------------------------------------


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
    cell, parts = CELLS[kind][0](D, H), CELLS[kind][1]
    x, wrong = np.zeros((*lead, D)), np.zeros(shape)
    place = -1 if last else 0
    state = [np.zeros((*lead, size_of(part, H))) for part in parts]
    fits = list(state[place].shape)
    state[place] = wrong
    state = state[0] if len(parts) == 1 else tuple(state)
    if shape == fits:
        cell(x, state)
        return
    with pytest.raises(tg.ShapeError) as caught:
        cell(x, state)
    message = str(caught.value)
    name = parts[place]
    assert message.startswith(f"{type(cell).__name__}: {name} is float64 {tuple(shape)}")
    size = "output_size" if name == "y" else "hidden_size"
    assert f"({''.join(f'batch={n}, ' for n in lead)}{size}={size_of(name, H)})" in message
    assert ("swapped" in message) == (shape == fits[::-1])


@every_cell
def test_a_state_of_several_parts_is_a_tuple_of_them(kind):
    make, parts, _ = CELLS[kind]
    cell = make(2, 3)
    if len(parts) == 1:
        return
    for state in (np.zeros((2, 3)), tg.tensor(np.zeros((2, 3))), (np.zeros((2, 3)),)):
        with pytest.raises(tg.DtypeError) as caught:
            cell(np.zeros((2, 2)), state)
        assert f"{type(cell).__name__}: the state is" in str(caught.value)
        assert f"expected: a pair ({', '.join(parts)})" in str(caught.value)


def test_unknown_settings_are_refused():
    with pytest.raises(
        ValueError, match=r"RNNCell: nonlinearity 'sine'\n.*tanh or relu or sigmoid"
    ):
        nn.RNNCell(2, 3, nonlinearity="sine")
    with pytest.raises(ValueError, match=r"JordanCell: output 'sine'\n.*identity or tanh"):
        nn.JordanCell(2, 3, 4, output="sine")


# ---- teacher forcing ---------------------------------------------------------------------------


@given(seeds, sides, sides, st.integers(1, 4))
def test_given_the_targets_all_steps_of_a_jordan_net_are_one_call(seed, D, H, T):
    rng = np.random.default_rng(seed)
    cell = in_float64(nn.JordanCell(D, H, OUT, output="softmax"), rng)
    x, targets = rng.normal(size=(T, D)), np.eye(OUT)[rng.integers(0, OUT, T + 1)]
    logits = cell.V(cell.hidden(cell.U(x), targets[:-1]))
    one_by_one = [cell(x[t], targets[t]).array for t in range(T)]
    np.testing.assert_allclose(tg.softmax(logits).array, one_by_one, rtol=1e-12)


# ---- what a step keeps -------------------------------------------------------------------------


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
@pytest.mark.parametrize(
    ("kind", "bias", "lead"), [*product(["rnn", "relu", "lstm", "gru"], [True, False], [(), (4,)])]
)
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
