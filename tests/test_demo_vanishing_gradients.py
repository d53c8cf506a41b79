"""The demo of vanishing gradients measures what it says, and its exercise can be solved."""

import csv
import json

import numpy as np
import pytest

import tinygrad_rnn as tg
from demos import vanishing_gradients as demo


def test_a_quick_run_shows_rates_and_bounds(tmp_path, capsys):
    assert demo.main(["--quick", "--quiet", "--no-plot", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "NOT SEEN" not in out and "seen: orthogonal above 1: explodes" in out
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rates = {row["net"]: row["rate"] for row in map(json.loads, lines) if "rate" in row}
    assert len(rates) == 7
    for when in ("untrained", "trained"):
        rows = list(csv.reader((tmp_path / f"jacobians_{when}.csv").read_text().splitlines()))
        assert len(rows[0]) == 8 and [int(row[0]) for row in rows[1:]] == list(range(1, 12))


def test_a_claim_that_is_not_seen_is_exit_code_1(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(demo.GAINS, "above 1", 0.5)
    assert demo.main(["--quick", "--quiet", "--no-plot", "--out", str(tmp_path)]) == 1
    assert "NOT SEEN: orthogonal above 1: explodes" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--T", "2"], ["--T", "0"], ["--clip", "0"], ["--lr", "nan"]])
def test_wrong_settings_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as error:
        demo.main(flags)
    assert error.value.code == 2 and flags[0] in capsys.readouterr().err


def test_the_gain_is_the_only_singular_value():
    W = demo.orthogonal(3, 8, 1.5).weight_hh.numpy()
    np.testing.assert_allclose(W.T @ W, 1.5**2 * np.eye(8), atol=1e-5)


def test_the_jacobian_is_the_product_of_the_docstring():
    """And its rate is that of norms written out in NumPy."""
    args = type("", (), {"T": 9, "symbols": 2, "seed": 0})
    tg.manual_seed(3)
    net = demo.Recall(demo.orthogonal(4, 6, 1.1), 2)
    ids, _ = demo.examples(np.random.default_rng(1), args.T, 2, demo.MEASURED)
    U, W = (w.numpy().astype(float) for w in (net.cell.weight_ih, net.cell.weight_hh))
    squares = np.zeros(args.T)
    for sequence in ids.T:
        h = [np.zeros(6)]
        for i in sequence:
            h.append(np.tanh(U[:, i] + W @ h[-1]))
        J = np.eye(6)
        for t in range(args.T, 0, -1):
            squares[t - 1] += (J * J).sum() / demo.MEASURED
            J = J @ np.diag(1 - h[t] ** 2) @ W
    report = demo.reported(net, args)
    np.testing.assert_allclose(demo.memory(report), np.sqrt(squares)[:-1], rtol=1e-4)
    assert demo.bounded(net, report)
    net.cell.weight_hh.array[...] *= 0.5  # so that the report is not of this W
    assert not demo.bounded(net, report)


def test_rate_and_learning_time_of_known_curves():
    assert demo.rate(0.7 ** np.arange(9.0)[::-1]) == pytest.approx(0.7)
    assert demo.learned_after([1.0] * 30 + [0.0] * 60) == 49  # 1 and 19 times 0 are a mean of 0.05
    assert demo.learned_after([1.0] * 90) == np.inf


# ---- the exercise ----


def forget_bias(steps, kept):
    """The bias b with sigmoid(b) ** steps == kept."""
    f = kept ** (1 / steps)
    return np.log(f / (1 - f))


@pytest.mark.parametrize("steps, kept", [(1, 0.5), (30, 0.5), (100, 0.9), (7, 0.01)])
def test_the_exercise_keeps_the_share(steps, kept):
    """In an LSTM that is all gate: c^T = f^T c^0, and so is its gradient."""
    cell = tg.nn.LSTMCell(1, 3, forget_bias=forget_bias(steps, kept))
    cell.weight_ih.array[...] = cell.weight_hh.array[...] = 0.0
    first = tg.tensor(np.ones((1, 3)), requires_grad=True)
    state = np.zeros((1, 3)), first
    for _ in range(steps):
        state = cell(np.zeros((1, 1)), state)
    state[1].sum().backward()
    np.testing.assert_allclose(first.grad.numpy(), kept, rtol=1e-4)
