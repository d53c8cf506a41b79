"""What a backward pass may cost: linear in slices, few products for a weight."""

from collections import Counter

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import products
from tinygrad_rnn.backend import Backend

from .leaves import leaf


class Counted(np.ndarray):
    """An array that counts the matrix products it takes part in."""

    __array_priority__ = 1
    products = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        Counted.products += ufunc is np.matmul
        plain = [x.view(np.ndarray) if isinstance(x, Counted) else x for x in inputs]
        if "out" in kwargs:
            kwargs["out"] = tuple(x.view(np.ndarray) for x in kwargs["out"])
        y = getattr(ufunc, method)(*plain, **kwargs)
        return y.view(Counted) if isinstance(y, np.ndarray) else y


SLICINGS = {
    "x[t] of a leaf": lambda x: [x[t] for t in range(len(x))],
    "x[t] of a result": lambda x: (lambda h: [h[t] for t in range(len(h))])(x * 2.0),
    "x[-t]": lambda x: [x[-t] for t in range(1, len(x) + 1)],
    "x[t:t + 1]": lambda x: [x[t : t + 1] for t in range(len(x))],
    "x[:, t]": lambda x: (lambda h: [h[:, t] for t in range(len(x))])(tg.swapaxes(x, 0, 1)),
    "iteration": list,
    "unstack": tg.unstack,
    "split": lambda x: tg.split(x, len(x)),
    "take": lambda x: [tg.take(x, [t], 0) for t in range(len(x))],
    "embedding": lambda x: [tg.embedding(np.array([t, 0]), x) for t in range(len(x))],
}


@pytest.mark.parametrize("steps", SLICINGS.values(), ids=SLICINGS)
def test_backward_through_slices_is_linear_in_their_number(monkeypatch, steps):
    # Bytes that are zeroed and scattered into: with dense cotangents of x[t] they grow as T^2.
    moved = Counter()
    zeros, scatter_add = Backend.zeros, Backend.scatter_add

    def counted_zeros(self, shape, dtype):
        out = zeros(self, shape, dtype)
        moved["bytes"] += out.nbytes
        return out

    def counted_scatter_add(self, out, index, values, once=False):
        moved["calls"] += 1
        moved["bytes"] += np.asarray(values).nbytes
        scatter_add(self, out, index, values, once)

    monkeypatch.setattr(Backend, "zeros", counted_zeros)
    monkeypatch.setattr(Backend, "scatter_add", counted_scatter_add)
    work = {}
    for T in (40, 320):
        x = leaf(T, 2, 3)
        moved.clear()
        h = 0.0
        for step in steps(x):
            h = h + tg.tanh(step)
        tg.sum(h).backward()
        work[T] = moved.copy()
        assert np.isfinite(x.grad.array).all() and x.grad.array[1:].all()
    for what in work[40]:
        assert work[320][what] <= 8 * 1.1 * work[40][what] + 16


SIZES = [  # T, B, D, H
    (1, 1, 1, 1),
    (7, 1, 1, 1),
    (300, 1, 2, 3),
    (50, 5, 4, 4),
    (20, 64, 8, 3),
    (6, 300, 5, 5),
    (40, 20, 64, 1),
    (40, 20, 1, 64),
    (64, 32, 100, 200),
    (300, 1, 300, 300),
    (30, 20, 600, 500),  # the weight holds more than 256 rows
]
USES = {
    "W": lambda w, x: x @ w,
    "W.T each time": lambda w, x: x @ w.T,
    "W.T once": lambda w, x: x @ w,  # the caller passes w.T
    "W of vectors": lambda w, x: tg.stack([row @ w for row in x]) if len(x) < 6 else x @ w,
    "W of sequences": lambda w, x: x[:, None] @ w,
    "from the left": lambda w, x: (w @ x.T).T,
    "W.T from the left": lambda w, x: (w.T @ x.T).T,
}


def count_products(monkeypatch):
    """Count in ``Counted.products``, those too that take the short way, ``dot`` of an array."""
    monkeypatch.setattr(Counted, "products", 0)
    monkeypatch.setattr(products, "product", lambda a, b: np.matmul(a.view(Counted), b))


def products_for(monkeypatch, T, B, D, H, use):
    """The number of matrix products in the backward pass for a weight used T times on constants."""
    count_products(monkeypatch)
    rng = np.random.default_rng(0)
    turned = use in ("W.T each time", "W.T once", "from the left")
    w = leaf(H, D) if turned else leaf(D, H)
    xs = [rng.standard_normal((B, D)) for _ in range(T)]
    gs = [rng.standard_normal((B, H)) for _ in range(T)]
    weight = w.T if use == "W.T once" else w
    ys = [USES[use](weight, x.view(Counted)) for x in xs]
    loss = sum(tg.sum(y * g.reshape(y.shape)) for y, g in zip(ys, gs, strict=True))
    Counted.products = 0
    loss.backward()
    exact = sum(x.T @ g for x, g in zip(xs, gs, strict=True))
    np.testing.assert_allclose(w.grad.array, exact.T if turned else exact, rtol=1e-9, atol=1e-9)
    return Counted.products


@pytest.mark.unwatched  # which would multiply them out one by one
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("use", USES)
def test_a_weight_used_at_every_step_costs_few_products(monkeypatch, use, size):
    T, B, D, H = size
    assert 1 <= products_for(monkeypatch, T, B, D, H, use) <= T * B / 256 + 1


@pytest.mark.unwatched
def test_a_recurrent_weight_costs_few_products_beside_the_chain_itself(monkeypatch):
    T, B, H = 100, 8, 16
    count_products(monkeypatch)
    w = leaf(H, H)
    h = np.zeros((B, H)).view(Counted)
    for _ in range(T):
        h = tg.tanh(h @ w.T + 1.0)
    loss = tg.sum(h)
    Counted.products = 0
    loss.backward()
    assert Counted.products <= (T - 1) + T * B / 256 + 1
