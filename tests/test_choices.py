"""The table of choices in ``registry.py``: what happens at kinks, ties, bounds and infinities."""

import numpy as np
import pytest

import tinygrad_rnn as tg


def gradient(func, *xs):
    """The gradients of the sum of ``func`` at points where no numerical check can judge."""
    leaves = [tg.tensor(np.asarray(x, float), requires_grad=True) for x in xs]
    func(*leaves).sum().backward()
    gradients = [x.grad.numpy().tolist() for x in leaves]
    return gradients if len(gradients) > 1 else gradients[0]


NAN, INF = np.nan, np.inf

CHOICES = {
    "max shares among ties": (lambda x: tg.max(x), [[1, 3, 3, 0]], [0, 0.5, 0.5, 0]),
    "max along an axis": (
        lambda x: tg.max(x, 1), [[[2, 2, 2], [0, 1, 0]]], [[1 / 3] * 3, [0, 1, 0]]
    ),
    "min shares among ties": (lambda x: tg.min(x), [[1, 3, 1, 1]], [1 / 3, 0, 1 / 3, 1 / 3]),
    "maximum at a tie": (tg.maximum, [[1.0], [1.0]], [[0.5], [0.5]]),
    "maximum of x and x": (lambda x: tg.maximum(x, x), [[1.0]], [1.0]),
    "minimum at a tie": (tg.minimum, [[1.0], [1.0]], [[0.5], [0.5]]),
    "relu at 0": (tg.relu, [[0.0, -0.0, 1, -1]], [0, 0, 1, 0]),
    "abs at 0": (tg.abs, [[0.0, -0.0, 2, -2]], [0, 0, 1, -1]),
    "sign": (tg.sign, [[0.0, 5]], [0, 0]),
    "clip at the bounds": (lambda x: tg.clip(x, -1, 1), [[-1.0, 1, 2, -2, 0]], [1, 1, 0, 0, 1]),
    "norm at 0": (tg.norm, [[0.0, 0]], [0, 0]),
    "norm along an axis": (lambda x: tg.norm(x, 1), [[[0.0, 0], [3, 4]]], [[0, 0], [0.6, 0.8]]),
    "std of equal entries": (tg.std, [[2.0, 2, 2]], [0, 0, 0]),
    "power 0 ** 0 in the base": (lambda x: x**0, [[0.0]], [0]),
    "power 0 ** y in the base, y an array": (tg.power, [[0.0], [0.0]], [[0], [0]]),
    "power 0 ** 2 in the exponent": (lambda y: tg.power(0.0, y), [[2.0]], [0]),
    "power 0 ** 1 in the base": (lambda x: x**1, [[0.0]], [1]),
    "power 0 ** 2 in the base": (lambda x: x**2, [[0.0]], [0]),
    "prod with one zero": (tg.prod, [[2.0, 0, 3]], [0, 6, 0]),
    "prod with two zeros": (tg.prod, [[0.0, 0, 3]], [0, 0, 0]),
    "logsumexp of -inf": (tg.logsumexp, [[-INF, -INF]], [0, 0]),
    "logsumexp of some -inf": (tg.logsumexp, [[-INF, 0.0]], [0, 1]),
    "softmax of a masked row": (tg.softmax, [[[-INF, -INF], [0, 0]]], [[0, 0], [0, 0]]),
    "the double where": (
        lambda x: tg.where(x > 0, tg.sqrt(tg.where(x > 0, x, 1.0)), x), [[-1.0, 4]], [1, 0.25]
    ),
    "ignored targets": (
        lambda x: tg.cross_entropy(x, np.array([7, 7]), ignore_index=7), [[[1.0, 2], [3, 4]]],
        [[0, 0], [0, 0]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
def test_choice(name):
    func, xs, expected = CHOICES[name]
    got = gradient(func, *xs)
    np.testing.assert_allclose(np.array(got), np.array(expected, float), rtol=1e-14)


@pytest.mark.nonfinite
@pytest.mark.parametrize("x", [0.0, -1.0])
def test_a_branch_not_taken_can_still_send_nan(x):
    """0 times an infinite or undefined slope: the reason for the double where."""
    with np.errstate(divide="ignore", invalid="ignore"):
        assert np.isnan(gradient(lambda x: tg.where(x > 0, tg.sqrt(x), x), [x])[0])


def test_values():
    assert tg.logsumexp(np.array([-INF, -INF])) == -INF
    assert tg.softmax(np.array([-INF, -INF])).tolist() == [0, 0]
    assert tg.sum(np.ones((2, 3)), axis=()).shape == (2, 3)
    assert isinstance(np.ones(2) * tg.tensor([1.0, 2]), tg.Tensor)
    assert isinstance(np.float64(2) * tg.tensor([1.0, 2]), tg.Tensor)
    assert tg.cross_entropy(np.zeros((2, 3)), np.array([5, 5]), ignore_index=5) == 0


@pytest.mark.parametrize("target", [-1, 3])
def test_ids_never_wrap_round(target):
    with pytest.raises(tg.IndexRangeError, match="out of range"):
        tg.cross_entropy(np.zeros((1, 3)), np.array([target]))
    with pytest.raises(tg.IndexRangeError, match="out of range"):
        tg.embedding(np.array([target]), np.zeros((3, 2)))


def test_an_index_changed_before_backward_has_no_effect():
    x = tg.tensor([1.0, 2, 3], requires_grad=True)
    ids, listed = np.array([0, 0]), [2]
    y = x[ids].sum() + x[(listed,)].sum() + tg.take(x, ids).sum()
    ids[:], listed[:] = 1, [1]
    y.backward()
    assert x.grad.numpy().tolist() == [4, 0, 1]


STABLE = [
    tg.tanh, tg.sigmoid, tg.softplus, tg.relu, tg.gelu, tg.logsumexp, tg.softmax,
    tg.log_softmax, lambda x: tg.cross_entropy(x, np.array([1])),
    lambda x: tg.binary_cross_entropy_with_logits(x, np.array([[1.0, 0.0]])),
]  # fmt: skip


@pytest.mark.parametrize("func", STABLE)
@pytest.mark.parametrize("row", [[1000.0, -1000.0], [-1000.0, 1000.0], [1000.0, 1000.0]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_overflows_at_1000(func, row, dtype):
    """pytest turns warnings into errors, so an overflow on the way fails too."""
    x = tg.tensor(np.array([row]), dtype=dtype, requires_grad=True)
    y = func(x)
    assert np.isfinite(y.array).all()
    y.sum().backward()
    assert np.isfinite(x.grad.array).all()
