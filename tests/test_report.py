"""``time_report`` against backpropagation through time, written by hand."""

import builtins
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.report import blocks

from .test_through_time import live_nodes

D, H, M = 2, 3, 2

seeds = st.integers(0, 2**32 - 1)


def assert_close(found, expected, rtol=1e-9):
    scale = 1 + np.abs(expected).max(initial=0)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-3 * rtol * scale)


@pytest.fixture
def chain():
    """70 states of a recurrent net, and its weights."""
    W = tg.tensor(np.full((H, H), 0.3), requires_grad=True)
    h, states = np.ones((2, H)), []
    for _ in range(70):
        h = tg.tanh(h @ W)
        states.append(h)
    return states, W


# ---- through time -------------------------------------------------------------------------------


class ByHand:
    """h = tanh(h W^T + x U^T), E^t = |h V^T - y|^2 / 2 for a batch, and its derivatives by hand."""

    def __init__(self, seed, T, B):
        rng = np.random.default_rng(seed)
        self.W, self.U = rng.standard_normal((H, H)), rng.standard_normal((H, D))
        self.V, h = rng.standard_normal((M, H)), np.zeros((B, H))
        self.xs, self.ys = rng.standard_normal((T, B, D)), rng.standard_normal((T, B, M))
        before, after = [], []
        for x in self.xs:
            before.append(h)
            h = np.tanh(h @ self.W.T + x @ self.U.T)
            after.append(h)
        self.dV, self.dW, self.dU, self.dh = [], [], [], [None] * T
        g = np.zeros((B, H))
        for t in reversed(range(T)):
            residual = after[t] @ self.V.T - self.ys[t]
            g = g + residual @ self.V
            self.dh[t] = np.linalg.norm(g)
            a = g * (1 - after[t] ** 2)
            self.dV.insert(0, residual.T @ after[t])
            self.dW.insert(0, a.T @ before[t])
            self.dU.insert(0, a.T @ self.xs[t])
            g = a @ self.W
        J = [(1 - h * h)[:, :, None] * self.W for h in after]  # (B, H, H): dh^t / dh^{t-1}
        eye = np.broadcast_to(np.eye(H), (B, H, H))
        products = [reduce(np.matmul, J[:t:-1], eye) for t in range(T)]  # dh^T / dh^t
        self.jacobians = [np.linalg.norm(product, axis=(1, 2)) for product in products]


WAYS = ["transposed at each step", "transposed once", "all inputs projected at once", "unbatched"]


@pytest.mark.parametrize("way", WAYS)
@given(seed=seeds, T=st.integers(1, 6), B=st.integers(1, 3))
def test_the_report_of_a_recurrent_net_is_bptt_by_hand(way, seed, T, B):
    if way == "unbatched":
        B = 1
    net = ByHand(seed, T, B)
    xs, ys, h = (net.xs, net.ys, np.zeros((B, H)))
    if way == "unbatched":
        xs, ys, h = xs[:, 0], ys[:, 0], h[0]
    W, U, V = (tg.tensor(x, requires_grad=True) for x in (net.W, net.U, net.V))
    WT, projected = W.T, tg.matmul(xs, U.T)
    states, loss = [], 0.0
    for t in range(T):
        a = projected[t] if way == WAYS[2] else xs[t] @ U.T
        h = tg.tanh(h @ (WT if way == WAYS[1] else W.T) + a)
        states.append(h)
        residual = h @ V.T - ys[t]
        loss = loss + 0.5 * tg.sum(residual * residual)
    weights = {"W": W, "U": U, "V": V}
    report = tg.time_report(loss, states, weights)
    for name, expected in [("W", net.dW), ("U", net.dU), ("V", net.dV)]:
        assert_close(report.shares[name], np.array(expected))
        assert not report.rest[name].any()
    assert_close(report.gradients["h"], np.array(net.dh))
    jacobians = np.array(net.jacobians)
    assert_close(report.jacobians["h"], jacobians[:, 0] if way == "unbatched" else jacobians)
    assert report.labels == [str(t) for t in range(1, T + 1)]


@pytest.mark.parametrize("way", ["a penalty", "a readout of all states at once"])
def test_what_belongs_to_no_step_is_the_rest(way):
    rng = np.random.default_rng(0)
    W, V = (tg.tensor(rng.standard_normal((H, H)), requires_grad=True) for _ in range(2))
    h, states = rng.standard_normal((2, H)), []
    for _ in range(4):
        h = tg.tanh(h @ W)
        states.append(h)
    all_states = tg.concatenate(states)
    if way == "a penalty":
        loss = tg.sum(h) + tg.sum(states[0]) + tg.sum(W * W)
        expected, of = 2 * W.array, "W"
    else:
        loss, expected = tg.sum(all_states @ V), all_states.array.T @ np.ones((8, H))
        of = "V"
    report = tg.time_report(loss, states, {"W": W, "V": V})
    assert_close(report.rest[of], expected)
    loss.backward()
    assert_close(report.shares["W"].sum(0) + report.rest["W"], W.grad.array)


@pytest.mark.parametrize("Cell", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_shares_are_the_gradients_of_a_weight_for_each_step(Cell):
    T, rng = 5, np.random.default_rng(0)
    cells = [Cell(D, H, rng=np.random.default_rng(1)) for _ in range(T)]  # the same values
    xs = rng.standard_normal((T, 2, D)).astype("f")

    def run(cell_of):
        state, states = None, []
        for t, x in enumerate(xs):
            state = cell_of(t)(x, state)
            states.append(state)
        last = state[0] * state[1] if isinstance(state, tuple) else state
        return tg.sum(last * last), states

    loss, _ = run(lambda t: cells[t])
    loss.backward()
    loss, states = run(lambda t: cells[0])
    named = dict(cells[0].named_parameters())
    report = tg.time_report(loss, states, cells[0])
    assert list(report.shares) == list(named)
    assert list(report.gradients) == (["h", "c"] if Cell is nn.LSTMCell else ["h"])
    for name in named:
        expected = [dict(cell.named_parameters())[name].grad for cell in cells]
        expected = [np.zeros(named[name].shape) if g is None else g.array for g in expected]
        assert_close(report.shares[name], np.array(expected), rtol=1e-4)


def test_shares_and_rest_add_up_whatever_the_weight_is_used_for():
    rng = np.random.default_rng(0)
    E = tg.tensor(rng.standard_normal((5, H)), requires_grad=True)  # embedding, and tied readout
    W = tg.tensor(rng.standard_normal((H, H)), requires_grad=True)
    ids = rng.integers(0, 5, (6, 2))
    scaled, h = W / tg.norm(W), tg.tanh(E[:2])
    states, logits = [], []
    for t in range(5):
        h = tg.tanh(tg.embedding(ids[t], E) + h @ scaled + h @ W)
        states.append(h)
        logits.append(h @ E.T)
    loss = tg.cross_entropy(tg.stack(logits), ids[1:]) + tg.sum(tg.exp(W)) * tg.mean(h)
    report = tg.time_report(loss, states, {"E": E, "W": W})
    for step in range(5):
        assert report.shares["E"][step].any() and report.shares["W"][step].any()
    loss.backward()
    for name, x in [("E", E), ("W", W)]:
        assert_close(report.shares[name].sum(0) + report.rest[name], x.grad.array)


def test_the_graph_and_the_gradients_stay_as_they_are():
    W = tg.tensor(np.full((H, H), 0.3), requires_grad=True)
    called, h, states = [], np.ones((1, H)), []
    for _ in range(3):
        h = tg.tanh(h @ W)
        h.register_hook(called.append)
        states.append(h)
    W.grad = tg.tensor(np.ones((H, H)))
    loss = tg.sum(h)
    one, two = (tg.time_report(loss, states, {"W": W}) for _ in range(2))
    np.testing.assert_array_equal(one.shares["W"], two.shares["W"])
    assert not called and (W.grad.array == 1).all() and states[0].grad is None
    loss.backward()
    assert len(called) == 3
    assert_close(W.grad.array - 1, one.shares["W"].sum(0))
    with pytest.raises(tg.GraphFreedError):
        tg.time_report(loss, states, {"W": W})


def test_states_that_the_loss_does_not_see_get_nothing(chain):
    states, W = chain
    report = tg.time_report(tg.sum(states[1]), states, {"W": W})
    seen = [True] * 2 + [False] * 68
    assert (report.gradients["h"] > 0).tolist() == seen
    assert report.shares["W"].any((1, 2)).tolist() == seen


def test_nothing_of_the_graph_stays_behind(chain, no_collector):
    states, W = chain
    before = live_nodes()
    tg.time_report(tg.sum(states[-1]), states, {"W": W}, probes=1)
    assert live_nodes() == before


def test_probes_come_near_the_exact_norms():
    rng = np.random.default_rng(0)
    cell, h, states = nn.RNNCell(D, 16, rng=rng), None, []
    for x in rng.standard_normal((6, 3, D)).astype("f"):
        h = cell(x, h)
        states.append(h)
    loss = tg.sum(h * h)
    exact = tg.time_report(loss, states, cell).jacobians["h"]
    np.testing.assert_allclose(exact[-1], 4, rtol=1e-6)  # of the identity: the root of 16
    n = 400
    near = tg.time_report(loss, states, cell, probes=n).jacobians["h"]
    assert not np.array_equal(near, exact)
    assert (np.abs(near / exact - 1) < 4 / np.sqrt(2 * n)).all()


# ---- for the eye --------------------------------------------------------------------------------


@pytest.fixture
def report(chain):
    states, W = chain
    loss = tg.sum(states[-1]) + tg.sum(states[-2]) + tg.sum(W)
    return tg.time_report(loss, states, {"W": W})


def test_the_text_has_a_line_of_blocks_for_each_curve_and_a_table(report):
    lines = str(report).splitlines()
    assert lines[0] == "time_report: 70 steps"
    assert [line[:10].strip() for line in lines[1:4]] == ["|dL/dh|", "|dh_T/dh|", "share of W"]
    assert all("▁" in line and "█" in line for line in lines[1:4])
    assert lines[4].split() == ["step", "|dL/dh|", "|dh_T/dh|", "share", "of", "W"]
    assert lines[5].split()[0] == "1" and lines[-2].split()[0] == "70" and len(lines) <= 31
    assert lines[-2].split()[1:] == [f"{y[-1]:.2e}" for y in report.curves().values()]
    assert lines[-1].split() == ["rest", f"{3.0:.2e}"]
    assert max(map(len, lines)) <= 100


def test_blocks_are_logarithms():
    assert blocks([1e-7, 1e-4, 1e0]) == "▁▄█"
    assert blocks([0.0, 3.0, np.inf, np.nan]) == " █!!"
    assert blocks([0.0, 0.0]) == "  "
    assert blocks([1e-7] * 60 + [1.0] * 60) == "▁" * 30 + "█" * 30


def test_the_plot_is_a_png(report, tmp_path):
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "a.png", {"another": report})
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_the_plot_without_matplotlib_names_the_extra(report, tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"tinygrad_rnn\[demos\]"):
        report.plot(tmp_path / "a.png")


# ---- what is refused ----------------------------------------------------------------------------


def test_what_cannot_be_reported_is_refused():
    W = tg.tensor(np.full((H, H), 0.3), requires_grad=True)
    h = tg.tanh(np.ones((1, H)) @ W)
    k = tg.tanh(h @ W)
    loss, weights = tg.sum(k), {"W": W}
    for states, weights_, error, match in [
        ([], weights, tg.ShapeError, "no states"),
        ([h, k.array], weights, tg.DtypeError, r"states\[1\] is float64"),
        ([h, k.detach()], weights, tg.NotTrackedError, r"states\[1\]"),
        ([h, k[0]], weights, tg.ShapeError, r"states\[1\] has shapes"),
        ([h, h], weights, tg.ShapeError, "once more"),
        ([h, k], {"V": tg.tensor(1.0)}, tg.NotTrackedError, "time_report, V"),
        ([h, k], W, tg.DtypeError, "weights is float64"),
    ]:
        with pytest.raises(error, match=match):
            tg.time_report(loss, states, weights_)
    with pytest.raises(tg.ShapeError, match="single number"):
        tg.time_report(k, [h, k], weights)
    with pytest.raises(tg.ShapeError, match="probes is 0"):
        tg.time_report(loss, [h, k], weights, probes=0)
    with pytest.raises(tg.ShapeError, match="what fold returned"):
        tg.time_report(loss, k, weights, structure=tg.Structure.chains([1]))
