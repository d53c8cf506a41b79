"""A softmax, and its loss, know only how far scores are apart, however large they are."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import readout

pytestmark = pytest.mark.unwatched  # a watcher takes no infinite loss

ids_of_rows = np.arange(3) % 2


def defined(x):
    return readout.softmax_losses_defined(x, ids_of_rows)


def fused(x):
    return readout.softmax_losses(x, ids_of_rows)


def averaged(x):
    return tg.stack([tg.cross_entropy(x[i], ids_of_rows[i]) for i in range(3)])


def picked(x):
    return -tg.take_along_axis(tg.log_softmax(x), ids_of_rows[:, None], -1)[:, 0]


def of_probabilities(x):
    return 1 - tg.take_along_axis(tg.softmax(x), ids_of_rows[:, None], -1)[:, 0]


LOSSES = [defined, fused, averaged, picked]
ENDS = np.array([[3e38, -3e38], [-3e38, 3e38], [3e38, 3e38]], "f")  # 6e38 apart: inf
every_loss = pytest.mark.parametrize("losses_of", LOSSES, ids=lambda f: f.__name__)


@st.composite
def scores(draw):
    """Float32 scores (3, V) from 3 to 3e38: some units in the last place apart, or far, or -inf."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    V = draw(st.integers(2, 5))
    size = np.float32(3 * 10.0 ** draw(st.integers(0, 38))) * draw(st.sampled_from([-1, 1]))
    x = size + np.spacing(size) * rng.integers(-3, 4, (3, V)).astype("f")
    kind = draw(st.sampled_from(["near", "far", "masked"]))
    if kind == "far":
        x *= rng.choice(np.array([1, -1, 0, 1e-3], "f"), x.shape)
    if kind == "masked":
        x[:, 1:][rng.random((3, V - 1)) < 0.3] = -np.inf
    return x


def exact(x):
    """The softmax of float32 scores, and what it loses at each class, with 64 binary digits."""
    x = x.astype(np.longdouble)
    below = x - x.max(-1, keepdims=True)
    with np.errstate(under="ignore"):
        e = np.exp(below)
    total = e.sum(-1, keepdims=True)
    return e / total, np.log(total) - below


@every_loss
@example(x=ENDS)
@given(x=scores())
def test_losses_and_slopes_are_those_of_64_digits(losses_of, x):
    p, expected = exact(x)
    leaf = tg.tensor(x, requires_grad=True)
    losses = losses_of(leaf)
    with np.errstate(over="ignore"):
        expected = expected[np.arange(3), ids_of_rows].astype("f")  # inf, if 6e38
    assert losses.dtype == np.float32
    np.testing.assert_allclose(losses.array, expected, 1e-6, 1e-6)
    losses.backward(np.ones(3, "f"))
    np.testing.assert_allclose(leaf.grad.array, p - np.eye(x.shape[1])[ids_of_rows], 0, 1e-6)


@given(scores())
def test_the_slope_of_logsumexp_is_the_softmax(x):
    p, _ = exact(x)
    leaf = tg.tensor(x, requires_grad=True)
    tg.logsumexp(leaf, -1).backward(np.ones(3, "f"))
    np.testing.assert_allclose(leaf.grad.array, p, 0, 1e-6)
    np.testing.assert_allclose(tg.softmax(x), p, 0, 1e-6)


@every_loss
@example(x=ENDS)
@given(x=scores())
def test_second_derivatives_are_numbers(losses_of, x):
    """H v = p * (v - p . v) for a row of scores, with v = 1, 2, ..."""
    p, _ = exact(x)
    leaf, v = tg.tensor(x, requires_grad=True), 1 + np.arange(x.size, dtype="f").reshape(x.shape)
    (g,) = tg.grad(losses_of(leaf), [leaf], np.ones(3, "f"), create_graph=True)
    (found,) = tg.grad(g, [leaf], v)
    expected = p * (v - (p * v).sum(-1, keepdims=True))
    np.testing.assert_allclose(found.array, expected, 0, 1e-5)


@pytest.mark.parametrize("losses_of", [*LOSSES, of_probabilities], ids=lambda f: f.__name__)
@given(st.integers(0, 99), st.integers(-20, 20), st.sampled_from("efd"))
def test_a_number_added_to_all_scores_changes_no_bit(losses_of, seed, k, dtype):
    """Wherever the sums are exact: quarters up to 8, and multiples of 16 up to 20 * 2**16."""
    x = np.random.default_rng(seed).integers(-32, 33, (3, 4)).astype(dtype) / 4
    found = []
    for add in (0, (k if dtype == "e" else 2**12 * k) * 16):
        leaf = tg.tensor(x + np.array(add, dtype), requires_grad=True)
        assert (leaf.array - np.array(add, dtype) == x).all()
        losses = losses_of(leaf)
        losses.backward(np.ones(3, dtype))
        found.append([losses.array, leaf.grad.array])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


@given(st.integers(0, 99), st.sampled_from([0.0, 1.0, 0.25]), st.sampled_from([-2, 0, 1, 2, 38]))
def test_a_loss_of_two_classes_keeps_its_digits_however_sure_the_logit_is(seed, t, size):
    """That of a right answer is exp(-x), which is below the last digit of x from 17 on."""
    x = (3 * 10.0**size * np.random.default_rng(seed).uniform(-1, 1, 1)).astype("f")
    leaf = tg.tensor(x, requires_grad=True)
    loss = tg.binary_cross_entropy_with_logits(leaf, np.full(1, t, "f"))
    loss.backward()
    z = x.astype(np.longdouble)
    with np.errstate(under="ignore", over="ignore"):
        wrong, right = np.logaddexp(0, z), np.logaddexp(0, -z)
        slope = (1 - t) / (1 + np.exp(-z)) - t / (1 + np.exp(z))
    np.testing.assert_allclose(loss.array, (t * right + (1 - t) * wrong)[0], 1e-6, 1e-37)
    np.testing.assert_allclose(leaf.grad.array, slope, 0, 1e-6)


def test_equal_scores_at_the_end_of_float32_are_equally_probable():
    """The logarithm of their sum, 3e38 in float32, has no digit left for log 3."""
    x = tg.tensor(np.full((1, 3), 3e38, "f"), requires_grad=True)
    loss = tg.cross_entropy(x, np.array([0]))
    loss.backward()
    np.testing.assert_allclose(loss.array, np.log(3), 1e-6)
    np.testing.assert_allclose(x.grad.array, [[-2 / 3, 1 / 3, 1 / 3]], 1e-6)


@given(st.integers(0, 99), st.integers(0, 16))
def test_a_crf_knows_only_how_far_scores_of_a_step_are_apart(seed, k):
    rng = np.random.default_rng(seed)
    crf, tags = tg.nn.CRF(3, rng=rng), rng.integers(0, 3, 5)
    x = rng.integers(-8, 9, (5, 3)).astype("f") / 4
    found = []
    for add in (0, 2**k * rng.integers(-7, 8, (5, 1)).astype("f")):
        leaf = tg.tensor(x + add, requires_grad=True)
        log_p = crf(leaf, tags, [2, 3])
        log_p.backward(np.ones(2, "f"))
        found.append([log_p.array, leaf.grad.array])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


@given(st.integers(0, 99), st.sampled_from([1e-3, 1.0, 300.0, 5e3]), st.sampled_from([0, -1, None]))
def test_float16_is_rounded_once(seed, size, axis):
    """Squares above 65504, and sums of many exp: computed in float32, as NumPy's mean is."""
    x = (size * np.random.default_rng(seed).standard_normal((40, 7))).astype(np.float16)
    for function in (tg.std, tg.norm, tg.logsumexp, tg.var):
        with np.errstate(over="ignore"):  # a variance may be above 65504
            found, expected = function(x, axis), function(x.astype(float), axis)
            assert found.dtype == np.float16
            np.testing.assert_allclose(found, expected.astype(np.float16), 2e-3)
    for function in (tg.softmax, tg.log_softmax):
        found, expected = function(x), function(x.astype(float))
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, expected, 1e-3, 1e-7)


def test_a_float16_loss_of_more_classes_than_its_largest_number():
    x = tg.tensor(np.zeros((2, 70_000), np.float16), requires_grad=True)
    loss = tg.cross_entropy(x, np.array([0, 1]))
    loss.backward()
    assert loss.dtype == x.grad.dtype == np.float16
    for found in (loss.array, *tg.logsumexp(x, -1).array):
        np.testing.assert_allclose(float(found), np.log(70_000), 1e-3)
    assert x.grad.array[0, 0] == -0.5


def test_float16_is_normalised_though_its_squares_are_above_its_largest_number():
    x = np.array([[-300.0, 300, 900, -900]], np.float16)
    layer = tg.nn.LayerNorm(4)
    found, expected = layer(tg.tensor(x)), layer(tg.tensor(x.astype(float)))
    np.testing.assert_allclose(found.array, expected.array, 2e-3)
