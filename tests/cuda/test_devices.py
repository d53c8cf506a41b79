"""The doors between host and device, what must not be mixed, and all that a model does besides."""

import copy
import pickle
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings

import tinygrad_rnn as tg
from tinygrad_rnn import backend, decode, nn
from tinygrad_rnn.registry import ROWS, RandomDraw

from ..test_nn import altered, assert_same, boxes, tensors_with_names
from .compared import close, is_on, on_host, same_on_both, several

rng = np.random.default_rng


def normal(*shape, seed=0, dtype=np.float32):
    return rng(seed).standard_normal(shape).astype(dtype)


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


OF_SEVERAL = [row for row in ROWS if len(row.case(RandomDraw(0))[0]) > 1 and row.name != "fold"]


# NumPy asks an array of CuPy's, in a way that it calls old, to be one of its own: in vain.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("row", OF_SEVERAL, ids=lambda row: row.name)
def test_arrays_of_two_devices_are_refused_by_every_operation(row):
    arrays, keywords = row.case(RandomDraw(0))
    for i in range(len(arrays)):
        for one, others in (("cpu", "cuda"), ("cuda", "cpu")):
            xs = [tg.tensor(x, device=one if i == j else others) for j, x in enumerate(arrays)]
            with pytest.raises(tg.DeviceError, match="are on two devices") as caught:
                row.function(*xs, **keywords)
            assert " on cpu" in str(caught.value) and " on cuda" in str(caught.value)


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


# ---- layers and losses -------------------------------------------------------------------------


def same_module(make, *arrays, ids=None):
    """Raise unless the module that ``make`` makes does the same on both, its gradients too."""
    found = {}
    for device in ("cpu", "cuda"):
        tg.manual_seed(3)
        with tg.use_device(device):
            module = make()
            xs = [tg.tensor(x, requires_grad=x.dtype.kind == "f") for x in arrays]
        ys = several(module(*xs) if ids is None else module(*xs, *ids))
        loss = sum((y * y).sum() for y in ys)
        loss.backward()
        found[device] = [*ys, *[x.grad for x in xs if x.requires_grad]]
        found[device] += [x.grad for x in module.parameters()]
    for got, expected in zip(found["cuda"], found["cpu"], strict=True):
        assert is_on("cuda", got)
        close(got, expected)


LAYERS = {
    "Linear": (lambda: nn.Linear(3, 4), normal(2, 5, 3)),
    "Conv1d": (lambda: nn.Conv1d(2, 3, 2, stride=2, padding=1), normal(2, 2, 5)),
    "LayerNorm": (lambda: nn.LayerNorm(4), normal(3, 4)),
    "Dropout": (lambda: nn.Dropout(0.4), normal(3, 4)),
}
ATTENTIONS = {
    "additive": lambda: nn.AdditiveAttention(3, 4, 5),
    "multiplicative": lambda: nn.MultiplicativeAttention(3, 4),
    "dot": lambda: nn.DotAttention(4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    same_module(*LAYERS[name])


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("lengths", [None, [1, 3]])
def test_attention_with_and_without_a_mask(name, lengths):
    make = ATTENTIONS[name]
    same_module(make, normal(2, make().query_size), normal(2, 3, 4), ids=[lengths])


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_a_random_field(where):
    tags, lengths = tg.tensor(np.array([0, 2, 1, 1, 0, 2]), device=where), [2, 1, 3]
    scores = normal(6, 3)
    same_module(lambda: nn.CRF(3), scores, ids=[on_host(tags), lengths])
    with tg.use_device("cuda"):
        field = nn.CRF(3)
    x = tg.tensor(scores, device="cuda")
    close(field(x, tags, lengths), field(x, on_host(tags), lengths))
    best = field.decode(x, lengths)
    for one, other in zip(best, field.to("cpu").decode(scores, lengths), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("sparse", [False, True])
def test_an_embedding_whose_gradient_is_rows(sparse):
    gradients = {}
    for device in ("cpu", "cuda"):
        tg.manual_seed(0)
        table = nn.Embedding(6, 2, sparse=sparse).to(device)
        for ids in ([[1, 4], [4, 0]], [1]):
            tg.mean(table(np.array(ids)) ** 2).backward()
        gradients[device] = table.weight.grad
    if sparse:
        np.testing.assert_array_equal(on_host(gradients["cuda"].ids), gradients["cpu"].ids)
        close(gradients["cuda"].values, gradients["cpu"].values)
        gradients = {device: tg.tensor(g.dense()) for device, g in gradients.items()}
    assert is_on("cuda", gradients["cuda"])
    close(gradients["cuda"], gradients["cpu"])


@pytest.mark.parametrize("ignore_index", [None, 1])
def test_targets_may_be_on_either_device(ignore_index):
    targets = np.array([[1, 0], [3, 1]])
    for loss in (tg.cross_entropy, tg.nll):
        for device in ("cpu", "cuda"):
            ids = tg.tensor(targets, device=device)
            same_on_both(lambda x: loss(x, ids, ignore_index), normal(2, 2, 4))  # noqa: B023


def test_what_is_no_probability_makes_nan_on_a_device_for_a_look_would_wait():
    for call in (tg.binary_cross_entropy, tg.binary_cross_entropy_with_logits):
        p, targets = (tg.tensor(x, device="cuda") for x in ([0.2, 0.6], [1.0, -1.0]))
        assert np.isnan(call(p, targets).item())
        assert np.isfinite(call(p, tg.tensor([1.0, 0.0], device="cuda")).item())
    assert np.isnan(
        tg.binary_cross_entropy(
            tg.tensor([1.2], device="cuda"), tg.tensor([1.0], device="cuda")
        ).item()
    )


# ---- derivatives of derivatives, and graphs that are run again ---------------------------------


def cubic(x, W):
    return tg.tanh(x @ W).sum() + (x * x * x).sum()


def test_products_with_jacobians_and_hessians():
    x, W = normal(2, 3), normal(3, 3, seed=1)
    v, w = normal(2, 3, seed=2), normal(3, 3, seed=3)
    found = {}
    for device in ("cpu", "cuda"):
        put = [tg.tensor(a, device=device) for a in (x, W, v, w)]
        y, g = tg.vjp(cubic, put[:2])
        found[device] = [y, *g]
        for transform in (tg.jvp, tg.hvp):
            y, t = transform(cubic, put[:2], put[2:])
            found[device] += [y, *several(t)]
    for got, expected in zip(found["cuda"], found["cpu"], strict=True):
        assert is_on("cuda", got)
        close(got, expected)


def test_a_call_that_is_made_again_on_the_way_back():
    W = normal(3, 3, seed=1)

    def segment(x, W):
        return tg.dropout(tg.tanh(x @ W), 0.3)

    def run(x, W):
        tg.manual_seed(4)
        return tg.checkpoint(segment, tg.checkpoint(segment, x, W), W)

    same_on_both(run, normal(2, 3), W)


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


# ---- to look on --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy; CuPy has none
def test_anomalies_are_found_on_a_device():
    x = tg.tensor([1.0, -1.0], requires_grad=True, device="cuda")
    with tg.detect_anomaly():
        with pytest.raises(tg.NonFiniteError, match=r"log: its result is .* NaN, the first at \[1"):
            tg.log(x)
        with pytest.raises(tg.NonFiniteError, match="what sqrt sends back"):
            (tg.sqrt(tg.relu(x)) * tg.tensor([1.0, 0.0], device="cuda")).sum().backward()
        y = tg.exp(x)
        loss = (y * y).sum()
        y.array[0] = 7.0
        with pytest.raises(tg.ValueChangedError, match="has been written to"):
            loss.backward()
        tg.mean(nn.LSTM(2, 3).to("cuda")(tg.tensor(normal(3, 2, 2), device="cuda"))[0]).backward()


def test_a_profile_counts_bytes_there_as_on_the_host():
    uses = {}
    for device in ("cpu", "cuda"):
        tg.manual_seed(0)
        with tg.use_device(device):
            layer, x = nn.Linear(3, 4), tg.tensor(normal(5, 3))
        with tg.profile() as p:
            tg.mean(tg.tanh(layer(x)) ** 2).backward()
        uses[device] = {name: (use.calls, use.kept, use.sent) for (name, _), use in p.uses.items()}
        uses[device]["made"] = sum(use.made for use in p.uses.values())
        assert p.peak > 0 and str(p)
    assert uses["cuda"] == uses["cpu"]


def test_a_report_through_time_is_the_same():
    reports = {}
    for device in ("cpu", "cuda"):
        tg.manual_seed(0)
        with tg.use_device(device):
            cell, x = nn.GRUCell(2, 3), tg.tensor(normal(4, 2, 2))
        states = [cell(x[0])]
        for t in range(1, 4):
            states.append(cell(x[t], states[-1]))
        loss = tg.mean(states[-1] ** 2)
        reports[device] = tg.time_report(loss, states, cell).curves()
    for name, curve in reports["cpu"].items():
        np.testing.assert_allclose(reports["cuda"][name], curve, rtol=1e-4, atol=1e-7)


def test_derivatives_are_checked_on_the_host_alone():
    model = nn.Linear(2, 2).to("cuda")
    x = tg.tensor(normal(2, 2), device="cuda")
    for call in (
        lambda: tg.gradcheck(tg.tanh, [x]),
        lambda: tg.gradcheck(lambda: model(x).sum(), model.parameters()),
    ):
        with pytest.raises(tg.DeviceError, match=r"model.to\('cpu'\)"):
            call()
    with tg.use_device("cuda"):
        assert tg.gradcheck(tg.tanh, [normal(2, 2)]).cases


# ---- decoding ----------------------------------------------------------------------------------


def language_model():
    """A step function over a cell, with states for three inputs, and their first tokens."""
    embed, cell, readout = nn.Embedding(5, 4), nn.LSTMCell(4, 4), nn.Linear(4, 5)

    def step(tokens, state):
        h, c = cell(embed(tokens), state)
        return tg.log_softmax(2.0 * readout(h)), (h, c)

    return step, (tg.tensor(normal(3, 4)), tg.tensor(normal(3, 4, seed=1)))


@pytest.mark.parametrize("how", ["beam_search", "greedy", "sample"])
@pytest.mark.parametrize("start", ["cpu", "cuda"])
def test_decoding_finds_the_same(how, start):
    found = {}
    for device in ("cpu", "cuda"):
        tg.manual_seed(2)
        with tg.use_device(device):
            step, state = language_model()
        settings = {"steps": 5, "end": 0} | ({"beam": 3} if how == "beam_search" else {})
        where = start if device == "cuda" else "cpu"
        first = tg.tensor(np.array([1, 2, 3]), device=where)
        found[device] = getattr(decode, how)(step, state, first, **settings)
    for got, expected in zip(found["cuda"], found["cpu"], strict=True):
        for one, other in (
            zip([got], [expected], strict=True)
            if how != "beam_search"
            else zip(got, expected, strict=True)
        ):
            assert one.tokens == other.tokens and one.finished == other.finished
            np.testing.assert_allclose(one.token_scores, other.token_scores, rtol=1e-4)


@pytest.mark.costs
@pytest.mark.parametrize("beam", [1, 3])
def test_a_step_of_a_search_waits_once(beam, tier):
    with tg.use_device("cuda"):
        step, state = language_model()
    counts = []
    for steps in (2, 4):
        with tier.counting() as costs:
            decode.beam_search(step, state, np.array([1, 2, 3]), beam=beam, steps=steps)
        counts.append(costs)
    few, many = counts
    assert many.to_host - few.to_host == 2  # the log-probabilities of each step
    assert many.syncs - few.syncs <= 2
    assert many.to_device - few.to_device == 2 * 2  # tokens, and the rows that they follow
