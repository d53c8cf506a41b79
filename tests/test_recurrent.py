"""Laws of recurrent layers: each sequence is its cells' equations, however the batch is passed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.nn import recurrent
from tinygrad_rnn.nn.packed import packed_order

from .equations import CELLS, layers_by_equations, slope

seeds = st.integers(0, 2**32 - 1)
D, H = 2, 3


class PeepholeLSTM(nn.Recurrent):
    cell_class = nn.PeepholeLSTMCell


class LayerNormLSTM(nn.Recurrent):
    cell_class = nn.LayerNormLSTMCell


LAYERS = {  # by the kind of their cells
    "rnn": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
    "gru, reset before": (nn.GRU, {"reset_after": False}),
    "peephole": (PeepholeLSTM, {}),
    "layer norm": (LayerNormLSTM, {}),
}
FORMS = ["padded", "batch first", "list", "one by one"]


def parts_of(state):
    return list(state) if isinstance(state, tuple) else [state]


def joined(parts):
    """The state of these parts: None of none, the one there is, or a tuple."""
    return tuple(parts) if len(parts) > 1 else parts[0] if parts else None


class Net:
    """A float64 layer, sequences of these lengths and cotangents for all that comes out."""

    def __init__(self, kind, seed, lengths, layers=1, directions=1, with_state=False, **settings):
        make, own = LAYERS[kind]
        self.kind, self.lengths, self.directions = kind, lengths, directions
        self.rng = rng = np.random.default_rng(seed)
        self.layer = make(D, H, layers, bidirectional=directions == 2, **own, **settings)
        for name, x in self.layer.named_parameters():
            setattr(self.layer, name, tg.tensor(rng.normal(size=x.shape), requires_grad=True))
        K, B = layers * directions, len(lengths)
        self.xs = [rng.normal(size=(T, D)) for T in lengths]
        self.initial = [rng.normal(size=(K, B, H)) for _ in CELLS[kind][1] if with_state]
        self.gs = [rng.normal(size=(T, directions * H)) for T in lengths]
        self.gs += [rng.normal(size=(K, B, H)) for _ in CELLS[kind][1]]

    def values(self):
        """All inputs by name: parameters, sequences, the initial state."""
        values = dict(self.layer.state_dict())
        values |= {f"x{i}": x for i, x in enumerate(self.xs)}
        return values | {f"initial {i}": h for i, h in enumerate(self.initial)}

    def by_equations(self, values):
        """The outputs of each sequence, then the parts of the final state."""
        xs = [values[f"x{i}"] for i in range(len(self.xs))]
        initial = [values[name] for name in values if name.startswith("initial ")] or None
        p = {name: x for name, x in values.items() if "_l" in name}
        outputs, finals = layers_by_equations(self.kind, p, xs, initial, self.directions)
        return [*outputs, *finals]

    def by_layer(self, form):
        """The same by the layer, and the gradients by name."""
        layer, B, longest = self.layer, len(self.lengths), max(self.lengths)
        layer.zero_grad()
        layer.batch_first = form == "batch first"
        begin = [tg.tensor(h, requires_grad=True) for h in self.initial]
        state = joined(begin)
        if form in ("padded", "batch first"):
            room = np.full((longest + 1, B, D), np.nan)  # a step more than anyone has
            for b, one in enumerate(self.xs):
                room[: len(one), b] = one
            room = room.swapaxes(0, 1) if layer.batch_first else room
            x = tg.tensor(room, requires_grad=True)
            output, final = layer(x, state, self.lengths)
            output = tg.swapaxes(output, 0, 1) if layer.batch_first else output
            for b, T in enumerate(self.lengths):
                assert not output.array[T:, b].any()
            outputs = [output[:T, b] for b, T in enumerate(self.lengths)]
        elif form == "one by one":
            x = [tg.tensor(one, requires_grad=True) for one in self.xs]
            results = [layer(one, joined([h[:, b] for h in begin])) for b, one in enumerate(x)]
            outputs = [output for output, _ in results]
            finals = [parts_of(final) for _, final in results]
            final = tuple(tg.stack(hs, 1) for hs in zip(*finals, strict=True))
        else:
            x = [tg.tensor(one, requires_grad=True) for one in self.xs]
            outputs, final = layer(x, state)
        got = [*outputs, *parts_of(final)]
        sum(tg.sum(g * y) for g, y in zip(self.gs, got, strict=True)).backward()
        grads = {name: p.grad.array for name, p in layer.named_parameters() if p.grad is not None}
        if isinstance(x, list):
            grads |= {f"x{b}": one.grad.array for b, one in enumerate(x)}
        else:
            g = x.grad.array.swapaxes(0, 1) if layer.batch_first else x.grad.array
            for b, T in enumerate(self.lengths):
                assert not g[T:, b].any()
                grads[f"x{b}"] = g[:T, b]
        grads |= {f"initial {i}": h.grad.array for i, h in enumerate(begin)}
        return [y.array for y in got], grads


settings = st.fixed_dictionaries(
    {
        "seed": seeds,
        "lengths": st.lists(st.integers(1, 4), min_size=1, max_size=4),
        "layers": st.integers(1, 2),
        "directions": st.integers(1, 2),
        "with_state": st.booleans(),
        "bias": st.booleans(),
        "learn_initial": st.booleans(),
    }
)
every_kind = pytest.mark.parametrize("kind", LAYERS)
nets = st.builds(lambda kind, own: Net(kind, **own), st.sampled_from(list(LAYERS)), settings)

# ---- layer == equations ------------------------------------------------------------------------


@pytest.mark.nonfinite  # the padding is full of NaN
@every_kind
@given(settings, st.sampled_from(FORMS))
def test_a_layer_is_its_cells_equations_in_value_and_gradient(kind, own, form):
    """For any lengths in any order, padding full of NaN, layers, directions and initial states."""
    net = Net(kind, **own)
    got, grads = net.by_layer(form)
    values = net.values()
    for y, expected in zip(got, net.by_equations(values), strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-11, strict=True)
    for name, x in values.items():
        if name not in grads:
            assert name.startswith("initial_") and net.initial  # learned, but not used
            continue
        v = net.rng.normal(size=x.shape)
        expected = slope(net.by_equations, values, name, v, net.gs)
        size = max(1.0, abs(grads[name]).sum() * abs(v).max())
        assert abs((grads[name] * v).sum() - expected) < 1e-8 * size, name


@every_kind
@pytest.mark.parametrize("lengths", [[1, 2], [2, 2]])
def test_gradients_pass_the_check(kind, lengths):
    net = Net(kind, 0, lengths, layers=2)
    x = tg.tensor(net.rng.normal(size=(3, len(lengths), D)), requires_grad=True)

    def func():
        output, final = net.layer(x, None, lengths)
        return output, *parts_of(final)

    assert tg.gradcheck(func, [x, *net.layer.parameters()])


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_second_derivatives_pass_the_check(kind):
    net = Net(kind, 0, [2, 1], directions=2)
    x = tg.tensor(net.rng.normal(size=(2, 2, D)), requires_grad=True)
    assert tg.gradcheck(
        lambda: net.layer(x, None, [2, 1])[0],
        [x, *net.layer.parameters()],
        order=2,
        method="complex",  # exact, and a seventh of the work of differences
    )


@given(nets, seeds)
def test_permuting_the_sequences_permutes_the_results(net, seed):
    order = np.random.default_rng(seed).permutation(len(net.lengths))
    outputs, final = net.layer(net.xs, joined(net.initial))
    moved = joined([h[:, order] for h in net.initial])
    others, other_final = net.layer([net.xs[b] for b in order], moved)
    for i, b in enumerate(order):
        np.testing.assert_allclose(others[i].array, outputs[b].array, rtol=1e-12, atol=1e-14)
    for h, other in zip(parts_of(final), parts_of(other_final), strict=True):
        np.testing.assert_allclose(other.array, h.array[:, order], rtol=1e-12, atol=1e-14)


@given(seeds, st.sampled_from(list(LAYERS)), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_the_backward_direction_is_the_forward_one_of_reversed_sequences(seed, kind, lengths):
    both, one = Net(kind, seed, lengths, directions=2), Net(kind, seed, lengths)
    state = both.layer.state_dict()
    one.layer.load_state_dict(
        {name.removesuffix("_reverse"): x for name, x in state.items() if "_reverse" in name}
    )
    outputs, final = both.layer(both.xs)
    turned, turned_final = one.layer([x[::-1].copy() for x in both.xs])
    for y, z in zip(outputs, turned, strict=True):
        np.testing.assert_allclose(y.array[:, H:], z.array[::-1], rtol=1e-12, atol=1e-14)
    for y, z in zip(parts_of(final), parts_of(turned_final), strict=True):
        np.testing.assert_allclose(y.array[1], z.array[0], rtol=1e-12, atol=1e-14)


@given(nets)
def test_the_docstring_tells_where_the_final_states_stand(net):
    """The last step of the forward direction, the first step of the backward direction."""
    outputs, final = net.layer(net.xs)
    h = parts_of(final)[0].array
    for b, output in enumerate(outputs):
        np.testing.assert_array_equal(output.array[-1, :H], h[-net.directions, b])
        if net.directions == 2:
            np.testing.assert_array_equal(output.array[0, H:], h[-1, b])


def test_windows_with_carry_are_one_run():
    net = Net("lstm", 0, [6, 6], layers=2)
    x = np.stack(net.xs, 1)
    whole, final = net.layer(x)
    first, state = net.layer(x[:4])
    second, state = net.layer(x[4:], state)
    np.testing.assert_allclose(np.concatenate([first.array, second.array]), whole.array, rtol=1e-12)
    for h, other in zip(state, final, strict=True):
        np.testing.assert_allclose(h.array, other.array, rtol=1e-12)


def test_lengths_may_be_of_any_integer_kind_and_left_out_if_all_are_full():
    net = Net("gru", 0, [3, 3])
    x = np.stack(net.xs, 1)
    expected, _ = net.layer(x)
    for lengths in ([3, 3], (3, 3), np.array([3, 3], np.int8), tg.tensor(np.array([3, 3]))):
        np.testing.assert_array_equal(net.layer(x, None, lengths)[0].array, expected.array)


def test_the_chains_of_lengths_that_come_again_are_kept():
    net = Net("gru", 0, [3, 1, 2])
    net.layer(net.xs)
    kept = packed_order((3, 2, 1))
    before = packed_order.cache_info().misses
    net.layer([net.xs[b] for b in (2, 0, 1)])  # in another order, too
    assert packed_order.cache_info().misses == before
    assert packed_order((3, 2, 1)) is kept


# ---- dropout -----------------------------------------------------------------------------------


class EchoCell(nn.RNNCell):
    """A cell that answers with its input, so that what a layer is given can be seen."""

    def U(self, x):
        return x

    def step(self, u, state=None, mask=None):
        return u


class Echo(nn.Recurrent):
    cell_class = EchoCell


@pytest.mark.parametrize("variational", [False, True])
@given(seeds, st.sampled_from([0.2, 0.5]), st.integers(1, 2))
def test_dropout_acts_in_training_on_what_the_docstring_says(variational, seed, p, layers):
    rng = np.random.default_rng(seed)
    net = Echo(20, 20, layers, dropout=p, variational=variational, rng=rng)
    xs = [1 + rng.random((T, 20)) for T in (4, 1, 6, 6)]
    passed = layers - 1 + variational  # how many masks every number has passed
    outputs, _ = net(xs)
    masks = [y != 0 for y in outputs]
    for y, x, mask in zip(outputs, xs, masks, strict=True):
        np.testing.assert_allclose(y, mask * x / (1 - p) ** passed)
        constant = (mask == mask[0]).all()
        assert constant if variational or not passed else len(x) == 1 or not constant
    if passed:
        assert (masks[2] != masks[3]).any()  # each sequence has its own
    share, n = (1 - p) ** passed, 4 * 20 if variational else 17 * 20
    first_steps = [mask[:1] if variational else mask for mask in masks]
    kept = np.concatenate(first_steps).mean()
    assert abs(kept - share) <= 6 * (share * (1 - share) / n) ** 0.5
    for y, x in zip(net.eval()(xs)[0], xs, strict=True):
        np.testing.assert_array_equal(y, x)


@pytest.mark.nonfinite  # the padding is full of NaN
@every_kind
@given(settings, st.sampled_from(["padded", "list"]))
def test_variational_dropout_is_a_net_with_other_weights_for_each_sequence(kind, own, form):
    """A mask on what a matrix is applied to, the same at all steps, is one on its columns."""
    net, masks = Net(kind, **own), []

    def spied(x, rate, rng):
        masks.append(tg.dropout(x, rate, rng))
        return masks[-1]

    net.layer.dropout, net.layer.variational = 0.4, True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recurrent, "dropout", spied)
        got, _ = net.by_layer(form)
    net.layer.eval()
    for y, expected in zip(net.by_layer(form)[0], net.by_equations(net.values()), strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-11)
    values, drawn = net.values(), iter(masks)
    columns = {}
    for place in net.layer.cells:
        if not place.endswith("_reverse"):
            below = next(drawn)  # for both directions
        columns[f"weight_ih_{place}"], columns[f"weight_hh_{place}"] = below, next(drawn)
    assert not list(drawn)
    for b, T in enumerate(net.lengths):
        masked = {name: values[name] * mask[b] for name, mask in columns.items()}
        expected = net.by_equations(values | masked)
        np.testing.assert_allclose(got[b], expected[b], rtol=1e-9, atol=1e-11)
        assert len(got[b]) == T
        for y, z in zip(got[len(net.xs) :], expected[len(net.xs) :], strict=True):
            np.testing.assert_allclose(y[:, b], z[:, b], rtol=1e-9, atol=1e-11)


def test_one_variational_mask_serves_both_directions():
    net = Echo(20, 20, dropout=0.5, variational=True, bidirectional=True)
    y, _ = net(np.ones((3, 2, 20)))
    assert (y == 0).any()
    np.testing.assert_array_equal(y[..., :20], y[..., 20:])


def test_dropout_comes_from_the_generator_that_is_passed_or_seeded():
    x = np.ones((5, 2, D))

    def run(rng=None):
        net = nn.GRU(D, H, 2, dropout=0.5, rng=rng)
        return net(x)[0].array

    np.testing.assert_array_equal(run(np.random.default_rng(3)), run(np.random.default_rng(3)))
    tg.manual_seed(3)
    first = run()
    tg.manual_seed(3)
    np.testing.assert_array_equal(run(), first)


# ---- PyTorch -----------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["rnn", "relu", "lstm", "gru"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("lengths", [[4, 4, 4], [2, 4, 1], [3]])
def test_a_layer_is_the_layer_of_pytorch(kind, directions, lengths):
    """Values, final states and all gradients, with their packed sequences in any order."""
    torch = pytest.importorskip("torch")
    rnn = torch.nn.utils.rnn
    net = Net(kind, 0, lengths, layers=2, directions=directions, with_state=True)
    maker = {"relu": torch.nn.RNN}.get(kind) or getattr(torch.nn, kind.upper())
    own = LAYERS[kind][1]
    theirs = maker(D, H, 2, bidirectional=directions == 2, **own).double()
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in net.layer.state_dict().items()})
    xs = [torch.from_numpy(x).requires_grad_() for x in net.xs]
    initial = [torch.from_numpy(h).requires_grad_() for h in net.initial]
    packed = rnn.pack_sequence(xs, enforce_sorted=False)
    output, final = theirs(packed, tuple(initial) if len(initial) > 1 else initial[0])
    padded, _ = rnn.pad_packed_sequence(output)
    results = [*[padded[:T, b] for b, T in enumerate(lengths)], *parts_of(final)]
    sum((torch.from_numpy(g) * y).sum() for g, y in zip(net.gs, results, strict=True)).backward()
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    expected |= {f"x{b}": x.grad for b, x in enumerate(xs)}
    expected |= {f"initial {i}": h.grad for i, h in enumerate(initial)}
    for form in FORMS:
        got, grads = net.by_layer(form)
        for y, z in zip(got, results, strict=True):
            np.testing.assert_allclose(y, z.detach().numpy(), rtol=1e-10, atol=1e-12)
        assert grads.keys() == expected.keys()
        for name, g in expected.items():
            np.testing.assert_allclose(grads[name], g.numpy(), rtol=1e-9, atol=1e-11)
