"""The demo of truncated BPTT compares gradients rightly, and its exercise can be solved."""

import csv

import numpy as np
import pytest

import tinygrad_rnn as tg
from demos import truncated_bptt as demo


@pytest.fixture
def small():
    return demo.echo(symbols=3, delay=2, batch_size=4)


def test_a_quick_run_shows_where_the_error_falls(tmp_path, capsys):
    assert demo.main(["--quick", "--quiet", "--no-plot", "--out", str(tmp_path)]) == 0
    assert "NOT SEEN" not in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "gradient_untrained.csv").read_text().splitlines()))
    error = {int(row["a"]): float(row["every error: error of dE/dU"]) for row in rows}
    assert error[5] < error[4] / 2


@pytest.mark.parametrize("flags", [["--T", "8"], ["--delay", "0"], ["--symbols", "1"]])
def test_wrong_settings_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as error:
        demo.main(flags)
    assert error.value.code == 2 and flags[0] in capsys.readouterr().err


def test_the_targets_are_the_symbols_some_steps_later(small):
    xs, ys = small.draw(np.random.default_rng(0), 7)
    assert (ys[:2] == demo.NOTHING).all()
    np.testing.assert_array_equal(ys[2:], xs[:-2].argmax(-1))


def test_the_targets_in_a_text_are_the_next_characters_and_a_guess_is_its_entropy():
    text = "abracadabra" * 3
    task = demo.next_character(text, batch_size=5)
    xs, ys = task.draw(np.random.default_rng(0), 6)
    letters = sorted(set(text))
    for b in range(5):
        read = "".join(letters[i] for i in xs[:, b].argmax(-1))
        assert read + letters[ys[-1, b]] in text
        np.testing.assert_array_equal(ys[:-1, b], xs[1:, b].argmax(-1))
    p = np.array([text.count(letter) / len(text) for letter in letters])
    assert task.guess == pytest.approx(-(p * np.log(p)).sum())


def test_a_text_can_be_the_task(tmp_path, capsys):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat. " * 20)
    flags = ["--quick", "--quiet", "--no-plot", "--out", str(tmp_path), "--data", str(path)]
    assert demo.main(flags) == 0
    out = capsys.readouterr().out
    assert "a guess costs" in out and "SEEN" not in out  # a text may teach something else
    for text in ("too short", "a" * 500):
        path.write_text(text)
        assert demo.main(flags) == 1
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("a", range(7))
def test_gradients_are_the_double_sum_of_the_docstring(small, a):
    """Written out in NumPy for both forms: they differ only in how far back k goes."""
    net = demo.Net(3, 5, 1)
    xs, ys = small.draw(np.random.default_rng(0), 7)
    for form in demo.FORMS:
        found = demo.gradients(form, net, xs, ys, a)
        U, W = by_hand(net, xs, ys, lambda t, form=form: t % (a + 1) if form == "windows" else a)
        np.testing.assert_allclose(found["U"], U.ravel(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["W"], W.ravel(), rtol=1e-4, atol=1e-6)


def by_hand(net, xs, ys, reach):
    """dE/dU and dE/dW, where the error of step t looks back `reach(t)` steps."""
    named = {name: w.numpy().astype(float) for name, w in net.named_parameters()}
    U, W, V = (named[n] for n in ("cell.weight_ih", "cell.weight_hh", "readout.weight"))
    b = named["cell.bias_ih"] + named["cell.bias_hh"]
    h = [np.zeros((xs.shape[1], len(W)))]
    for x in xs:
        h.append(np.tanh(x @ U.T + h[-1] @ W.T + b))
    dU, dW = np.zeros_like(U), np.zeros_like(W)
    for t, y in enumerate(ys):
        if (y == demo.NOTHING).all():
            continue
        p = np.exp(h[t + 1] @ V.T + named["readout.bias"])
        p /= p.sum(1, keepdims=True)
        dh = (p - np.eye(len(V))[y]) @ V / len(y)
        for k in range(t, max(-1, t - 1 - reach(t)), -1):
            da = dh * (1 - h[k + 1] ** 2)
            dU += da.T @ xs[k]
            dW += da.T @ h[k]
            dh = da @ W
    return dU, dW


def test_cosine_and_error_of_known_vectors():
    x, y = np.array([3.0, 0.0]), np.array([3.0, 4.0])
    assert demo.compared(x, y) == pytest.approx((0.6, 0.8))
    assert demo.compared(-y, y) == pytest.approx((-1.0, 2.0))


def test_what_is_kept_grows_with_a_and_not_with_the_length():
    task = demo.echo(symbols=2, delay=2, batch_size=16)
    net = demo.Net(2, 32, 1)
    peak = {}
    for T in (20, 60):
        xs, ys = task.draw(np.random.default_rng(0), T)
        for a in (2, 19):
            peak[T, a] = demo.cost("every error", net, xs, ys, a)[1]
    assert peak[60, 19] > 1.5 * peak[60, 2]
    assert peak[60, 2] < 1.5 * peak[20, 2]


# ---- the exercise ----


def share(length, d):
    """The first d steps of a window have not d steps before them in it."""
    return max(0, length - d) / length


@pytest.mark.parametrize("length, d", [(1, 1), (5, 4), (4, 4), (10, 3), (6, 1)])
def test_the_exercise_counts_the_errors_that_look_back_far_enough(length, d):
    """Counted by gradients: does E^t of a window reach x^{t-d}?"""
    net, rng = demo.Net(2, 4, 1), np.random.default_rng(0)
    xs = [tg.tensor(rng.normal(size=(1, 2)), requires_grad=True) for _ in range(4 * length)]
    reached = []
    for window in tg.windows(len(xs), length):
        h = np.zeros((1, 4))
        for t in range(window.start, window.stop):
            h = net.cell(xs[t], h)
            for x in xs:
                x.grad = None
            net.error(h, np.array([0])).backward(retain_graph=True)
            reached.append(t >= d and xs[t - d].grad is not None)
    assert np.mean(reached) == pytest.approx(share(length, d))
