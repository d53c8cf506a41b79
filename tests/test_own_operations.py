"""Operations of one's own: arguments, results, and what is refused."""

import re

import numpy as np
import pytest

import tinygrad_rnn as tg

from .leaves import leaf, ones


def test_an_operation_with_one_vjp_per_argument():
    @tg.op(a=lambda g, a, b: 2 * g * a * b, b=lambda g, a: g * a * a)
    def square_times(a, b):
        return a * a * b

    a, b = leaf(2, 3), leaf(3, seed=1)
    for args, kwargs in (((a, b), {}), ((a,), {"b": b}), ((), {"b": b, "a": a})):
        y = square_times(*args, **kwargs)
        ga, gb = tg.grad(tg.sum(y), [a, b], create_graph=True)
        np.testing.assert_allclose(ga.array, 2 * a.array * b.array)
        np.testing.assert_allclose(gb.array, (a.array**2).sum(0))  # summed on the edge
        np.testing.assert_allclose(tg.grad(tg.sum(ga), b).array, 2 * a.array.sum(0))
    assert type(square_times(a.array, b.array)) is np.ndarray


def test_an_operation_with_defaults_and_numbers():
    @tg.op(x=lambda g, x, factor, power: g * factor * power * x ** (power - 1))
    def scaled(x, factor=2.0, power=1):
        return factor * x**power

    x = leaf(3)
    calls = [scaled(x), scaled(x, 3.0), scaled(x, power=2), scaled(x, 3.0, power=3)]
    slopes = [2.0 + 0 * x.array, 3.0 + 0 * x.array, 4 * x.array, 9 * x.array**2]
    for y, slope in zip(calls, slopes, strict=True):
        np.testing.assert_allclose(tg.grad(tg.sum(y), x).array, slope)


def test_x_and_a_and_b_have_defaults_like_any_argument():
    @tg.op(a=lambda g, b: g * b, b=lambda g, a: g * a)
    def times(a, b=2.0):
        return np.multiply(a, b)

    @tg.op(x=lambda g: 3.0 * g)
    def thrice(x=1.0):
        return np.multiply(x, 3.0)

    x = leaf(3)
    for y, slope in [(times(x), 2.0), (times(x, 4.0), 4.0), (times(b=5.0, a=x), 5.0)]:
        assert (tg.grad(tg.sum(y), x).array == slope).all()
    assert (thrice(), thrice(2.0)) == (3.0, 6.0)
    assert (tg.grad(tg.sum(thrice(x)), x).array == 3).all()


def test_an_operation_with_one_argument_takes_it_by_name():
    @tg.op(signal=lambda g: g * 2.0)
    def louder(signal):
        return signal * 2.0

    x = ones(2)
    assert (tg.grad(tg.sum(louder(signal=x)), x).array == 2).all()
    with pytest.raises(TypeError, match="louder"):
        louder(sound=x)


def test_a_default_before_any_number_of_arrays():
    @tg.op(lambda g, scale, arrays: (None, *[scale * g for _ in arrays]))
    def scaled_sum(scale=2.0, *arrays):
        return scale * (sum(arrays) + np.zeros(()))

    x = ones(2)
    assert (tg.grad(tg.sum(scaled_sum(3.0, x, x)), x).array == 6).all()
    assert scaled_sum(scale=3.0) == 0


def test_an_operation_with_several_results():
    seen = []

    def vjp(gs, r, angle):
        seen.append(tuple(g is None for g in gs))
        gx, gy = (0.0 * r if g is None else g for g in gs)
        return (
            gx * tg.cos(angle) + gy * tg.sin(angle),
            r * (gy * tg.cos(angle) - gx * tg.sin(angle)),
        )

    @tg.op(vjp)
    def polar(r, angle):
        return r * np.cos(angle), r * np.sin(angle)

    r, angle = leaf(3), leaf(3, seed=1)
    x, y = polar(r, angle)
    gr, ga = tg.grad(tg.sum(x * x + y * y), [r, angle], create_graph=True)  # r^2
    np.testing.assert_allclose(gr.array, 2 * r.array)
    np.testing.assert_allclose(ga.array, 0 * r.array, atol=1e-12)
    np.testing.assert_allclose(tg.grad(tg.sum(gr), r).array, np.full(3, 2.0))
    x, y = polar(r, angle)
    np.testing.assert_allclose(tg.grad(tg.sum(y), r).array, np.sin(angle.array))
    assert seen[-1] == (True, False)  # nothing flowed into x
    x, y = polar(r, 0.5)  # a constant beside it
    np.testing.assert_allclose(tg.grad(tg.sum(x), r).array, np.full(3, np.cos(0.5)))


def test_an_operation_on_any_number_of_arrays():
    @tg.op(lambda g, scale, arrays: (None, *[scale * g * 2 * x for x in arrays]))
    def squares(scale, *arrays):
        return scale * sum(x * x for x in arrays)

    xs = [leaf(3, seed=i) for i in range(4)]
    xs[2] = xs[2].detach()
    y = squares(3.0, *xs)
    found = tg.grad(tg.sum(y), [xs[0], xs[1], xs[3]], create_graph=True)
    for x, g in zip((xs[0], xs[1], xs[3]), found, strict=True):
        np.testing.assert_allclose(g.array, 6 * x.array)
    np.testing.assert_allclose(tg.grad(tg.sum(found[0]), xs[0]).array, np.full(3, 6.0))


def test_a_wrong_call_is_a_type_error_as_of_any_function():
    @tg.op(a=lambda g: g)
    def own(a, b=1.0):
        return a * b

    x = ones(2)
    for args, kwargs in (((), {}), ((x, 1, 2), {}), ((x,), {"c": 1}), ((x,), {"a": x})):
        with pytest.raises(TypeError, match="own"):
            own(*args, **kwargs)


def test_a_cotangent_of_the_wrong_shape_is_refused():
    # Reshaping it to fit would hide a missing transpose, the most common mistake of all.
    @tg.op(x=lambda g: g.T)
    def wrong(x):
        return x * 1

    with pytest.raises(tg.ShapeError, match=re.compile(r"wrong.*\(3, 2\).*\(2, 3\)", re.S)):
        tg.sum(wrong(leaf(2, 3))).backward()


def test_a_tracked_argument_without_a_vjp_is_refused():
    # Otherwise the gradient of b is silently missing.
    @tg.op(a=lambda g, b: g * b)
    def half_done(a, b):
        return a * b

    a, b = ones(2), ones(2)
    with pytest.raises(tg.DtypeError, match="half_done"):
        half_done(a, b)
    assert (tg.grad(tg.sum(half_done(a, b.detach())), a).array == 1).all()


def test_a_tracked_tensor_of_integers_cannot_come_about():
    # Its cotangent would be cast to whole numbers on the way.
    x = leaf(3)
    with pytest.raises(tg.DtypeError, match="astype"):
        x.astype(int)
    assert x.detach().astype(int).dtype == int


def test_an_infinite_cotangent_of_one_result_leaves_the_others_alone():
    x = ones(3)
    a, b, _ = x
    with np.errstate(all="ignore"):
        (a * np.inf + b).backward()
    np.testing.assert_array_equal(x.grad.array, [np.inf, 1.0, 0.0])
