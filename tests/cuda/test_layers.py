"""Layers, losses, derivatives of derivatives, decoding and debugging: on a device as on NumPy."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import decode, nn

from .compared import close, is_on, normal, on_host, same_on_both, several

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
