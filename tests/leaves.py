"""Small tracked Tensors, and what tests of the engine ask of them."""

import numpy as np

import tinygrad_rnn as tg


def leaf(*shape, dtype=float, seed=0):
    """A tracked Tensor of normal entries."""
    values = np.random.default_rng(seed).standard_normal(shape)
    return tg.tensor(values.astype(dtype), requires_grad=True)


def ones(*shape):
    return tg.tensor(np.ones(shape), requires_grad=True)


def counting(calls, name="step"):
    """The identity as an operation that counts how often its VJP is called."""

    def vjp(g):
        calls[name] += 1
        return g

    @tg.op(x=vjp)
    def step(x):
        return x * 1

    return step


def assert_apart(*arrays):
    """No two of these share memory."""
    for i, a in enumerate(arrays):
        for b in arrays[:i]:
            assert not np.shares_memory(a, b)
