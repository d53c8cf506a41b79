"""Names, files and messages of recurrent layers: what is exchanged, and what is refused."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from .equations import layers_by_equations

D, H = 2, 3

# ---- parameters --------------------------------------------------------------------------------


def names_of_pytorch(gates, layers, directions, bias=True):
    """Names and shapes, in PyTorch's order, of a layer D -> H."""
    shapes = {}
    for layer in range(layers):
        for suffix in ["", "_reverse"][:directions]:
            size = directions * H if layer else D
            shapes[f"weight_ih_l{layer}{suffix}"] = (gates * H, size)
            shapes[f"weight_hh_l{layer}{suffix}"] = (gates * H, H)
            if bias:
                shapes[f"bias_ih_l{layer}{suffix}"] = (gates * H,)
                shapes[f"bias_hh_l{layer}{suffix}"] = (gates * H,)
    return shapes


@pytest.mark.parametrize(("make", "gates"), [(nn.RNN, 1), (nn.LSTM, 4), (nn.GRU, 3)])
@given(st.integers(1, 3), st.integers(1, 2), st.booleans())
def test_parameters_have_the_names_shapes_and_order_of_pytorch(make, gates, layers, dirs, bias):
    net = make(D, H, layers, bias=bias, bidirectional=dirs == 2)
    shapes = {name: x.shape for name, x in net.state_dict().items()}
    assert list(shapes.items()) == list(names_of_pytorch(gates, layers, dirs, bias).items())


def test_a_file_that_pytorch_wrote_is_read_and_the_other_way_round(tmp_path):
    """PyTorch's state_dict as safetensors keeps it: arrays by name, without PyTorch."""
    files = pytest.importorskip("safetensors.numpy")
    rng = np.random.default_rng(0)
    state = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in names_of_pytorch(4, 2, 2).items()
    }
    files.save_file(state, tmp_path / "theirs.safetensors")
    net = nn.LSTM(D, H, 2, bidirectional=True)
    net.load_state_dict(tg.load(tmp_path / "theirs.safetensors"))
    tg.save(tmp_path / "ours.safetensors", net.state_dict())
    back = files.load_file(tmp_path / "ours.safetensors")
    assert back.keys() == state.keys()
    for name, x in state.items():
        np.testing.assert_array_equal(back[name], x, strict=True)
    xs = [rng.normal(size=(T, D)) for T in (2, 4)]
    outputs, _ = layers_by_equations("lstm", state, xs, None, 2)  # what was read is what is used
    for y, expected in zip(net(xs)[0], outputs, strict=True):
        np.testing.assert_allclose(y.array, expected, rtol=1e-5, atol=1e-6)


def test_a_parameter_that_is_replaced_is_replaced_where_it_is_used():
    one, other = nn.GRU(D, H), nn.GRU(D, H)
    for name, x in one.named_parameters():
        setattr(other, name, x)
    x = np.ones((3, D), np.float32)
    np.testing.assert_array_equal(one(x)[0].array, other(x)[0].array)
    assert [id(p) for p in other.parameters()] == [id(p) for p in one.parameters()]
    twin = copy.deepcopy(one)
    twin.load_state_dict({name: 2 * x for name, x in twin.state_dict().items()})
    assert (twin(x)[0].array != one(x)[0].array).any()


def test_settings_go_to_the_cells():
    net = nn.LSTM(D, H, 2, bidirectional=True, forget_bias=2.0, learn_initial=True)
    for place in ("l0", "l0_reverse", "l1", "l1_reverse"):
        np.testing.assert_array_equal(getattr(net, f"bias_ih_{place}").array[H : 2 * H], 2)
        assert getattr(net, f"initial_c_{place}").shape == (H,)
    assert nn.RNN(D, H, 1, "relu").cells["l0"].nonlinearity == "relu"


@pytest.mark.torch
def test_state_dicts_move_both_ways_through_files(tmp_path):
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("safetensors.torch")
    for ours, theirs in [
        (nn.LSTM(D, H, 2, bidirectional=True), torch.nn.LSTM(D, H, 2, bidirectional=True)),
        (nn.GRU(D, H), torch.nn.GRU(D, H)),
        (nn.RNN(D, H, bias=False), torch.nn.RNN(D, H, bias=False)),
    ]:
        files.save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
        ours.load_state_dict(tg.load(tmp_path / "theirs.safetensors"))
        x = np.random.default_rng(0).normal(size=(4, 2, D)).astype(np.float32)
        expected = theirs(torch.from_numpy(x))[0].detach().numpy()
        np.testing.assert_allclose(ours(x)[0].array, expected, rtol=1e-5, atol=1e-6)
        doubled = {name: 2 * x for name, x in ours.state_dict().items()}
        tg.save(tmp_path / "ours.safetensors", doubled)
        theirs.load_state_dict(files.load_file(tmp_path / "ours.safetensors"))
        ours.load_state_dict(doubled)
        expected = theirs(torch.from_numpy(x))[0].detach().numpy()
        np.testing.assert_allclose(ours(x)[0].array, expected, rtol=1e-5, atol=1e-6)


# ---- what does not fit -------------------------------------------------------------------------

x345, h234, c8 = np.zeros((5, 4, D)), np.zeros((2, 4, H)), np.zeros((4, 2, H))
LSTM2 = {"bidirectional": True}
REFUSED = [
    (
        nn.LSTM(D, H, **LSTM2),
        (x345, (c8, h234)),
        ["LSTM: h is float64 (4, 2, 3)", "(layers*directions=2, batch=4, hidden=3)", "swapped"],
    ),
    (
        nn.LSTM(D, H, **LSTM2),
        (x345, (h234, h234[0])),
        ["LSTM: c is float64 (4, 3)", "(layers*directions=2, batch=4, hidden=3)", "c[None]"],
    ),
    (nn.LSTM(D, H), (x345, h234), ["LSTM: the state is float64 (2, 4, 3)", "a pair (h, c)"]),
    (nn.LSTM(D, H), (x345, (h234[:1], None)), ["LSTM: c is NoneType None", "all of the state"]),
    (nn.GRU(D, H), (x345[0], h234), ["GRU: h is", "(layers*directions=1, hidden=3)"]),
    (
        nn.GRU(D, H),
        (x345[:, :, :1],),
        ["GRU: x is float64 (5, 4, 1)", "(time, batch, input_size=2)"],
    ),
    (
        nn.GRU(D, H, batch_first=True),
        (np.zeros((2, 5, 4)),),
        ["(batch, time, input_size=2)", "the last axis, not axis 0"],
    ),
    (nn.GRU(D, H), (np.zeros((0, 4, D)),), ["GRU: x is float64 (0, 4, 2)", "at least one step"]),
    (nn.GRU(D, H), (3.0,), ["GRU: x is float 3.0"]),
    (nn.GRU(D, H), ([],), ["GRU: x is list []", "one at least"]),
    (nn.GRU(D, H), ([x345[0], x345[0][:0]],), ["GRU: x[1] is float64 (0, 2)", "leave empty"]),
    (nn.GRU(D, H), ([[1.0, 2.0]],), ["GRU: x[0] is list [1.0, 2.0]", "(time >= 1, input_size=2)"]),
    (nn.GRU(D, H), ([x345[0]], None, [4]), ["GRU: lengths is list [4]", "None with a list"]),
    (nn.GRU(D, H), (x345[0], None, [4]), ["GRU: lengths is list [4]", "None with x (time,"]),
    (nn.GRU(D, H), (np.zeros((5, 4), int),), ["GRU: x is int64 (5, 4)", "embed them first"]),
    (nn.GRU(D, H), ([np.zeros(5, int)],), ["GRU: x[0] is int64 (5,)", "embed them first"]),
    (nn.GRU(D, H), ([np.zeros((5, 7))],), ["GRU: x[0]", "made for 2 inputs, x has 7"]),
    (nn.GRUCell(D, H), (np.zeros((5, 7)),), ["GRUCell: x is", "made for 2 inputs, x has 7"]),
    (nn.LSTM(D, H), (x345, (h234[:1, :3],) * 2), ["LSTM: h is", "changed from 3 to 4"]),
    (nn.GRU(D, H), (x345[0], h234[:1]), ["GRU: h is float64 (1, 4, 3)", "h[:, 0]"]),
    (nn.GRU(D, H), (x345, None, np.ones((5, 4), bool)), ["lengths is bool", "mask.sum(0)"]),
    (
        nn.GRU(D, H, batch_first=True),
        (x345, None, np.ones((5, 4), bool)),
        ["lengths is bool", "mask.sum(1)"],
    ),
    (nn.GRU(D, H), (x345, None, [1, 2, 3]), ["lengths is int64 (3,)", "(batch=4,)"]),
    (nn.GRU(D, H), (x345, None, [1] * 5), ["lengths is int64 (5,)", "see batch_first=False"]),
    (nn.GRU(D, H), (x345, None, [1, 0, 2, 2]), ["lengths[1] is int 0", "1 <= length <= time=5"]),
    (nn.GRU(D, H), (x345, None, [1, 6, 2, 2]), ["lengths[1] is int 6", "x has 5 steps"]),
]


@pytest.mark.parametrize(("layer", "arguments", "words"), REFUSED)
def test_what_does_not_fit_is_refused_with_named_axes(layer, arguments, words):
    with pytest.raises(tg.TinygradRNNError) as caught:
        layer(*arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "expected: " in str(caught.value)
    assert "hint: " in str(caught.value)


def test_lengths_are_integers():
    with pytest.raises(tg.DtypeError, match=r"GRU: lengths is float64 \(4,\)\n  expected: int"):
        nn.GRU(D, H)(x345, None, [1.0, 2.0, 3.0, 4.0])


def test_unknown_settings_are_refused():
    for wrong in ({"num_layers": 0}, {"dropout": 1.0}, {"dropout": -0.1}):
        with pytest.raises(ValueError, match=r"LSTM: (num_layers|dropout) is"):
            nn.LSTM(D, H, **wrong)
    with pytest.raises(ValueError, match="RNNCell: nonlinearity 'sine'"):
        nn.RNN(D, H, 1, "sine")
    with pytest.raises(TypeError, match="proj_size"):
        nn.LSTM(D, H, proj_size=2)
