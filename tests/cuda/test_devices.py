"""The doors between host and device, what must not be mixed, and files, which know no device."""

import copy
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import backend, nn
from tinygrad_rnn.registry import ROWS, RandomDraw

from ..test_nn import altered, assert_same, boxes, tensors_with_names
from .compared import close, is_on, normal, on_host, same_on_both

rng = np.random.default_rng

# ---- where things are --------------------------------------------------------------------------


def test_tensors_are_made_where_it_is_said():
    for data in (1.0, [1.0, 2.0], normal(2, 3), np.float64(3.0), tg.tensor([1.0])):
        x = tg.tensor(data, device="cuda")
        assert is_on("cuda", x) and x.device == "cuda"
        close(x, tg.tensor(data))
        assert is_on("cuda", tg.tensor(x)) and is_on("cuda", tg.tensor(x.array))  # where it was
        assert is_on("cpu", tg.tensor(x, device="cpu"))
        assert tg.tensor(x).array is not x.array
    assert tg.tensor(1.0).device == "cpu"


def test_to_moves_a_tensor_and_its_cotangent_moves_back():
    x = tg.tensor(normal(3), requires_grad=True)
    y = x.to("cuda")
    assert is_on("cuda", y) and y.to("cuda") is y and x.to("cpu") is x
    (y * y).to("cpu").sum().backward()
    assert is_on("cpu", x.grad)
    close(x.grad, 2 * x.array)
    assert type(y.numpy()) is np.ndarray and y.numpy().flags.writeable


def test_use_device_says_where_things_are_created_and_nothing_else():
    tg.manual_seed(1)
    here = nn.LSTM(2, 3, num_layers=2, bidirectional=True)
    on_device = tg.tensor([1.0], device="cuda")
    with tg.use_device("cuda"):
        tg.manual_seed(1)
        there = nn.LSTM(2, 3, num_layers=2, bidirectional=True)
        assert is_on("cuda", tg.tensor([1.0])) and is_on("cpu", tg.tensor([1.0], device="cpu"))
        with tg.use_device(tg.tensor([1.0]).device):
            assert is_on("cuda", tg.tensor([1.0]))
        with tg.use_device("cpu"):
            assert is_on("cpu", tg.tensor([1.0])) and is_on("cuda", tg.tensor(on_device))
        assert is_on("cuda", nn.Linear(2, 2).weight) and is_on("cuda", nn.LayerNorm(2).weight)
        assert is_on("cpu", copy.deepcopy(here.weight_ih_l0))  # a copy is where the original is
        assert is_on("cpu", pickle.loads(pickle.dumps(here.weight_ih_l0)))
    assert is_on("cpu", tg.tensor([1.0]))
    for x, y in zip(here.parameters(), there.parameters(), strict=True):
        assert is_on("cuda", y)
        np.testing.assert_array_equal(on_host(x), on_host(y))  # a seed is a seed on both
    with pytest.raises(tg.DeviceError, match="unknown device 'gpu'"), tg.use_device("gpu"):
        pass
    assert is_on("cpu", tg.tensor([1.0]))


def test_what_is_asked_of_a_tensor_on_a_device():
    x = tg.tensor([[1.5, 2.0]], requires_grad=True, device="cuda")
    assert repr(x) == "tensor([[1.5, 2. ]], dtype=float32, device='cuda', requires_grad=True)"
    assert (x.sum().item(), float(x.max()), f"{x.sum():.2f}") == (3.5, 2.0, "3.50")
    assert x.shape == (1, 2) and x.size == 2 and len(x) == 1 and bool(x[0, 0])
    assert is_on("cuda", x > 1.7) and is_on("cuda", x.argmax())
    with pytest.raises(tg.DtypeError, match=r"x.numpy\(\) gives a copy"):
        np.asarray(x)
    for y in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert is_on("cuda", y) and y.requires_grad and y.array is not x.array
        close(y, x)


@settings(max_examples=20)
@given(boxes())
def test_a_module_moves_with_all_that_it_holds_and_stays_itself(model):
    for x in model.parameters():
        x.grad = tg.tensor(-x.array)
    state, everything = model.state_dict(), [x for x, _ in tensors_with_names(model)]
    assert model.to("cuda") is model and all(map(is_on_cuda, everything))
    assert all(is_on("cuda", x.grad) for x in model.parameters())
    assert_same(model.state_dict(), state)  # always on the host
    model.load_state_dict(altered(state))
    assert all(map(is_on_cuda, everything))
    model.to("cpu")
    assert_same({name: x.array for x, (name, *_) in tensors_with_names(model)}, altered(state))
    for name, x in model.named_parameters():
        np.testing.assert_array_equal(x.grad.array, -state[name])


def is_on_cuda(x):
    return is_on("cuda", x)


# ---- a device that is not there ----------------------------------------------------------------


def test_who_asks_for_no_device_never_imports_cupy():
    program = """
import sys
import tinygrad_rnn as tg
tg.mean(tg.nn.LSTM(2, 3)(tg.tensor([[[1.0, 2.0]]]))[0]).backward()
with tg.use_device("cpu"):
    tg.nn.Linear(2, 3).to("cpu")
sys.exit(any(name.startswith("cupy") for name in sys.modules))
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("error", "told"),
    {
        ModuleNotFoundError("No module named 'cupy'"): "cuda13",
        RuntimeError("cudaErrorInsufficientDriver: too old"): "older drivers",
        RuntimeError("cudaErrorNoDevice: no CUDA-capable device"): "CUDA_VISIBLE_DEVICES",
        ImportError("\n====\nFailed to load libcublas.so.12\n====\n"): "CUDA's libraries",
        OSError("something else"): "show_config",
    }.items(),
    ids=lambda x: type(x).__name__,
)
def test_a_device_that_cannot_be_used_is_told_with_its_reason(error, told, monkeypatch):
    def fail(*_):
        raise error

    class Broken(types.ModuleType):
        def __getattr__(self, name):
            fail()

    broken = Broken("cupy")
    monkeypatch.setattr(backend, "_cupy", backend._cupy.__wrapped__)
    monkeypatch.setitem(sys.modules, "cupy", broken)
    with pytest.raises(tg.DeviceError) as caught:
        tg.tensor(1.0, device="cuda")
    first, *_, hint = str(caught.value).splitlines()
    reason = str(error).strip().strip("=\n").splitlines()[0]
    assert first == f"device 'cuda' cannot be used: {type(error).__name__}: {reason}"
    assert told in hint and "stay on the CPU" in hint


# ---- two devices in one operation --------------------------------------------------------------


CASES = {row.name: (row, [row.case(RandomDraw(seed)) for seed in range(8)]) for row in ROWS}
OF_SEVERAL = [name for name, (_, cases) in CASES.items() if any(len(xs) > 1 for xs, _ in cases)]


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_arrays_of_two_devices_are_refused_by_every_operation(name):
    row, cases = CASES[name]
    for arrays, keywords in cases:
        for i in range(len(arrays) if len(arrays) > 1 else 0):
            for one, others in (("cpu", "cuda"), ("cuda", "cpu")):
                xs = [tg.tensor(x, device=one if i == j else others) for j, x in enumerate(arrays)]
                with pytest.raises(tg.DeviceError, match="are on two devices") as caught:
                    row.function(*xs, **keywords)
                assert " on cpu" in str(caught.value) and " on cuda" in str(caught.value)


def test_a_choice_by_one_truth_value():
    same_on_both(lambda a, b: tg.where(True, a, b), normal(2, 1), normal(3))
    same_on_both(lambda a: tg.where(np.bool_(False), a, 1.0), normal(2, 1))


def test_constants_of_numpy_are_refused_too_and_the_message_tells_all():
    x = tg.tensor([1.0, 2.0], device="cuda")
    for call in (
        lambda y: x + y,
        lambda y: y * x,
        lambda y: tg.where(y > 0, x, 0.0),
        lambda y: tg.maximum(x.array, y),
        lambda y: tg.stack([x, y]),
        lambda y: tg.mse(x, y),
    ):
        with pytest.raises(tg.DeviceError, match="are on two devices"):
            call(np.float32([1.0, 2.0]))
    with pytest.raises(tg.DeviceError) as caught:
        x - np.array(1.0)
    lines = str(caught.value).splitlines()
    assert lines.pop(3).startswith("  at: ")
    assert lines == [
        "subtract(a, b): the arguments are on two devices",
        "  a: float32 (2,) on cuda",
        "  b: float64 () on cpu",
        "  hint: tensor(b, device='cuda') of an array, b.to('cuda') of a Tensor",
    ]


FORGOTTEN = {
    "Linear": lambda: nn.Linear(4, 5),
    "LayerNorm": lambda: nn.LayerNorm(4),
    "LSTM": lambda: nn.LSTM(4, 5),
    "GRU": lambda: nn.GRU(4, 5, bidirectional=True),
    "RNN": lambda: nn.RNN(4, 5),
    "LSTMCell": lambda: nn.LSTMCell(4, 5),
    "fold": lambda: Folded(nn.GRUCell(4, 5)),
}


class Folded(nn.Module):
    """A cell over two chains of two and one steps."""

    def __init__(self, cell):
        self.cell = cell

    def forward(self, x):
        return tg.fold(self.cell, tg.Structure.chains([2, 1]), x.reshape(-1, 4))


@pytest.mark.parametrize("name", FORGOTTEN)
def test_a_batch_that_was_left_on_the_host_is_refused_and_so_is_a_model(name):
    x, model = normal(3, 4) if name in ("LSTMCell", "fold") else normal(3, 1, 4), FORGOTTEN[name]()
    for wrong in (
        lambda: model.to("cuda")(x),
        lambda: model.to("cpu")(tg.tensor(x, device="cuda")),
    ):
        with pytest.raises(tg.DeviceError, match="are on two devices"):
            wrong()
    model(x)


def test_an_index_of_a_device_into_an_array_of_the_host_is_refused():
    ids = tg.tensor(np.array([[0], [1]]), device="cuda")
    for call in (lambda x: x[ids[:, 0]], lambda x: tg.take_along_axis(x, ids, 1)):
        with pytest.raises(tg.DeviceError, match="are on two devices"):
            call(tg.tensor(normal(2, 3)))
    with pytest.raises(tg.DtypeError, match="stack"):
        tg.tensor([ids.array[0, 0], ids.array[1, 0]])


def test_numbers_and_arrays_of_the_device_go_with_tensors_on_it():
    x = tg.tensor([1.0, 2.0], device="cuda")
    for y in (x + 1, 2.0 * x, x * np.float64(2.0), np.float32(1.0) - x, x.array * x, x / x.array):
        assert isinstance(y, tg.Tensor) and is_on("cuda", y) and y.dtype == np.float32
    close(x.array * x + 1, np.float32([2.0, 5.0]))


@pytest.mark.parametrize("place", ["grad", "hook", "gradient"])
def test_a_cotangent_of_another_device_is_refused(place):
    x = tg.tensor(normal(3), requires_grad=True, device="cuda")
    elsewhere = tg.tensor(normal(3))
    with pytest.raises(tg.DeviceError, match="on cpu"):
        if place == "grad":
            x.grad = elsewhere
        elif place == "hook":
            x.register_hook(lambda g: elsewhere)
            (x * x).sum().backward()
        else:
            (x * x).backward(elsewhere)
    assert x.grad is None


# ---- indices -----------------------------------------------------------------------------------

WRONG = {
    "beyond": lambda: np.array([0, 4]),
    "before": lambda: [-5],
    "second axis": lambda: (np.array([0, 1]), np.array([0, 3])),
    "after a slice": lambda: (slice(None), [3]),
    "mask of another shape": lambda: np.ones(3, bool),
    "too many": lambda: (np.array([0]), 0, 0, 0),
    "one number": lambda: 4,
}


@pytest.mark.parametrize("case", WRONG)
def test_an_index_out_of_range_is_refused_as_on_the_host(case):
    for device in ("cpu", "cuda"):
        x = tg.tensor(normal(4, 3, 2), device=device)
        with pytest.raises(tg.IndexRangeError) as caught:
            x[WRONG[case]()]
        assert str(caught.value).startswith("getitem(x, index): ")


def parts_of_an_index():
    """What may stand in an index: some of it fits an axis of 2 to 4 entries, some does not."""
    numbers = st.integers(-4, 4)
    arrays = st.lists(numbers, max_size=3).map(lambda found: np.array(found, int))
    masks = st.lists(st.booleans(), min_size=2, max_size=4).map(np.array)
    slices = st.builds(slice, numbers, numbers, st.sampled_from([None, 1, 2, -1]))
    return st.one_of(numbers, slices, st.sampled_from([None, ...]), arrays, masks)


@settings(max_examples=60)
@given(st.one_of(parts_of_an_index(), st.lists(parts_of_an_index(), max_size=3).map(tuple)))
def test_any_index_means_what_it_means_on_the_host(index):
    x = normal(4, 3, 2)
    try:
        expected = tg.tensor(x)[index].array
    except tg.TinygradRNNError as error:
        with pytest.raises(type(error)):
            tg.tensor(x, device="cuda")[index]
    else:
        same_on_both(lambda x: x[index], x)
        same_on_both(lambda g: tg.scatter(g, index, x.shape), expected)
        same_on_both(lambda x, g: tg.scatter_add(x, index, g), x, expected)


@pytest.mark.parametrize("ids", [[5], [-1], [[0, 7]]])
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_ids_out_of_range_are_refused_wherever_they_are(ids, where):
    table = nn.Embedding(5, 2).to("cuda")
    scores = tg.tensor(normal(*np.shape(ids), 5), device="cuda")
    ids = tg.tensor(np.array(ids), device=where)
    for call in (lambda: table(ids), lambda: tg.cross_entropy(scores, ids)):
        with pytest.raises(tg.IndexRangeError, match="out of range"):
            call()


def test_indices_may_be_on_the_device_and_are_copied():
    x = tg.tensor(normal(4, 3), requires_grad=True, device="cuda")
    ids = tg.tensor(np.array([0, 2, 2, -1]), device="cuda").array
    y = x[ids]
    ids += 1  # too late
    y.sum().backward()
    close(y, on_host(x)[[0, 2, 2, -1]])
    close(x.grad, np.repeat(np.float32([[1], [0], [2], [1]]), 3, 1))
    close(x[x.array > 0], on_host(x)[on_host(x) > 0])


# ---- states and files --------------------------------------------------------------------------


def trained(model, optimizer, steps):
    """The losses of a few steps on the same batch, which is where the model is."""
    device = model.weight.device
    x, losses = tg.tensor(normal(4, 3), device=device), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = tg.cross_entropy(model(tg.dropout(x, 0.2)), np.array([0, 1, 2, 1]))
        loss.backward()
        optimizer.step()
        losses.append(loss)
    return [loss.item() for loss in losses]


@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_a_run_goes_on_from_its_checkpoint_on_another_device(first, then, tmp_path):
    def begun(device):
        with tg.use_device(device):
            model = nn.Linear(3, 3, rng=rng(1))
        return model, tg.optim.Adam(model.parameters(), lr=0.1)

    tg.manual_seed(5)
    model, optimizer = begun("cpu")
    expected = trained(model, optimizer, 6)

    generator = tg.manual_seed(5)
    model, optimizer = begun(first)
    losses = trained(model, optimizer, 3)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    tg.Checkpoints(tmp_path).save({**state, "rng": generator.bit_generator.state})

    model, optimizer = begun(then)
    state = tg.Checkpoints(tmp_path).latest()
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    tg.manual_seed(0).bit_generator.state = state["rng"]
    assert all(is_on(then, x) for x in model.parameters())
    np.testing.assert_allclose(losses + trained(model, optimizer, 3), expected, rtol=1e-5)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_files_know_no_device(suffix, tmp_path):
    with tg.use_device("cuda"):
        model = nn.GRU(2, 3)
    for state, name in ((model.state_dict(), "host"), (dict(model.named_parameters()), "device")):
        tg.save(tmp_path / f"{name}.{suffix}", state)
    files = [(tmp_path / f"{name}.{suffix}").read_bytes() for name in ("host", "device")]
    assert files[0] == files[1]
    loaded = tg.load(tmp_path / f"device.{suffix}")
    other = nn.GRU(2, 3, rng=rng(9))
    other.load_state_dict(loaded)
    for x, y in zip(model.parameters(), other.parameters(), strict=True):
        assert is_on("cpu", y)
        np.testing.assert_array_equal(on_host(x), on_host(y))
    model.load_state_dict(dict(other.named_parameters()))
    assert all(map(is_on_cuda, model.parameters()))
