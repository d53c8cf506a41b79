"""A recurrent net against a convolutional one: the demo, what it counts, and its exercise."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from demos import rnn_vs_cnn as demo


def run(tmp_path, *flags):
    return demo.main(["--quick", "--quiet", "--out", str(tmp_path), *flags])


def noise(*shape):
    return tg.default_rng().standard_normal(shape).astype(np.float32)


# ---- the demo ----


def test_a_quick_run_counts_what_the_slide_says_and_leaves_its_files(tmp_path, capsys):
    assert run(tmp_path) == 0
    assert "4 x width 5           17" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    seen = {key: value for line in lines for key, value in line.items()}
    assert list(seen["windows"].values()) == [3, 5, 9, 17, demo.STEPS_BACK]
    stack, recurrent = seen["longest_chains"].values()
    assert stack[0] == stack[1] and recurrent[1] - recurrent[0] >= 64 - 16
    right = {line["net"]: line["right_by_delay"] for line in lines if "net" in line}
    assert set(right["2 x width 3"][5:]) == {1 / demo.SYMBOLS}
    for name, rows in [("gradient_by_step", 33), ("first_symbol", 26), ("time", 3), ("waiting", 3)]:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len((tmp_path / f"{name}.csv").read_text().splitlines()) == rows


@pytest.mark.parametrize("flags", [["--delay", "0"], ["--hidden-size", "x"], ["--lr", "nan"]])
def test_wrong_arguments_are_refused(flags, tmp_path):
    with pytest.raises(SystemExit) as refused:
        run(tmp_path, *flags)
    assert refused.value.code == 2


def test_a_training_that_diverges_is_one_line(tmp_path, capsys):
    with np.errstate(all="ignore"):
        assert run(tmp_path, "--lr", "1e30") == 1
    assert capsys.readouterr().err.startswith("error: ")


# ---- the slide's sum ----


@given(st.integers(1, 12), st.integers(1, 5))
def test_conv1d_is_numpys_convolution_with_the_kernel_turned_round(T, width):
    """Of one channel; NumPy's `convolve` is sum_m I(t - m) K(m), too."""
    layer, signal = tg.nn.Conv1d(1, 1, width, bias=False), noise(T)
    layer.weight.array[...] = noise(1, 1, width)
    expected = np.convolve(signal, layer.weight.array[0, 0, ::-1])[:T]
    got = demo.convolved(signal[None, None], layer).array[0, 0]
    np.testing.assert_allclose(got, expected, atol=1e-5)


@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_the_formula_of_the_slide_is_the_layer_for_all_channels(T, width, channels, out):
    layer, signal = tg.nn.Conv1d(channels, out, width), noise(channels, T)
    got = demo.convolved(signal[None], layer).array[0]
    np.testing.assert_allclose(got, demo.formula(signal, layer), atol=1e-5)


# ---- what is counted ----


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 14))
def test_the_window_of_a_stack(layers, width, T):
    """The gradient is not zero at the last L (k - 1) + 1 steps, and zero at all before."""
    net = demo.Convolutional(2, 3, 1, layers, width)
    reached = demo.gradient_by_step(net, noise(2, T, 2)) > 0
    window = layers * (width - 1) + 1
    np.testing.assert_array_equal(reached, np.arange(T) >= T - window)


def test_no_state_depends_on_what_comes_later():
    x = noise(1, 9, 4)
    changed = x.copy()
    changed[:, 5:] += 1
    for net in (demo.Convolutional(4, 3, 1, 3, 3), demo.Recurrent(4, 3, 1)):
        before, after = net.states(x).array, net.states(changed).array
        np.testing.assert_array_equal(before[:, :5], after[:, :5])
        assert (before[:, 5] != after[:, 5]).any()


@given(st.integers(1, 20))
def test_the_longest_chain_of_calls(n):
    """n calls in a row, beside a shorter way to the same end."""
    x = tg.tensor(np.ones(2), requires_grad=True)
    y = x
    for _ in range(n):
        y = tg.tanh(y)
    assert demo.longest_chain(y) == n
    assert demo.longest_chain(x * x + y) == max(n, 1) + 1


def test_growth_is_of_the_ratio_of_both_passes_together():
    times = {"c, f": [1.0, 1.0], "c, b": [1.0, 3.0], "r, f": [2.0, 20.0], "r, b": [2.0, 4.0]}
    assert demo.growth(times) == pytest.approx((24 / 4) / (4 / 2))


# ---- the task ----


@given(st.integers(0, 9))
def test_only_the_first_symbol_of_a_question_is_one_that_is_asked_for(delay):
    first = np.array([3, 0, 7])
    x = demo.questions(first, delay, np.random.default_rng(0))
    assert x.shape == (3, delay + 1, 2 * demo.SYMBOLS)
    np.testing.assert_array_equal(x.sum(axis=2), 1)
    ids = x.argmax(axis=2)
    np.testing.assert_array_equal(ids[:, 0], first)
    assert (ids[:, 1:] >= demo.SYMBOLS).all()


def test_who_never_looks_is_right_by_chance_and_who_looks_always():
    args = SimpleNamespace(seed=0, delay=4)
    looks = lambda x: tg.tensor(x[:, 0, : demo.SYMBOLS])  # noqa: E731
    last = lambda x: tg.tensor(x[:, -1])  # noqa: E731
    np.testing.assert_array_equal(demo.right_by_delay(looks, args), 1.0)
    right = demo.right_by_delay(last, args)
    assert right[0] == 1 and (right[1:] == 0).all()  # the last symbol is then another kind
    constant = lambda x: tg.tensor(np.eye(demo.SYMBOLS)[[2] * len(x)])  # noqa: E731
    np.testing.assert_array_equal(demo.right_by_delay(constant, args), 1 / demo.SYMBOLS)


# ---- the exercise ----


def reference(widths, dilations):
    """The steps from the first to the last input that the top of the stack depends on."""
    return 1 + sum((k - 1) * d for k, d in zip(widths, dilations, strict=True))


window = getattr(demo, "window", reference)  # the learner's, once it is there
layers = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4)


@given(layers)
def test_window_of_a_dilated_stack_is_where_its_gradient_is(stack):
    """Of Conv1d layers with those dilations and nothing between them."""
    T = 1 + sum(4 * d for _, d in stack)  # more than enough
    x = tg.tensor(np.abs(noise(1, 1, T)), requires_grad=True)
    s = x
    for width, dilation in stack:
        layer = tg.nn.Conv1d(1, 1, width, dilation=dilation)
        layer.weight.array[...] = 1
        s = layer(tg.pad(s, [(0, 0), (0, 0), ((width - 1) * dilation, 0)]))
    s[0, 0, -1].backward()
    reached = np.flatnonzero(x.grad.array[0, 0])
    assert window(*zip(*stack, strict=True)) == reached[-1] - reached[0] + 1


def test_window_of_the_slide_and_of_doubling_dilations():
    assert window([3, 3, 3], [1, 1, 1]) == 7
    assert window([2] * 10, [2**i for i in range(10)]) == 1024
    assert window([1], [5]) == 1
