"""The whole idea of the engine on one page: NumPy, four ideas, and a recurrent net that checks it.

An operation is a function on arrays plus one VJP per argument.  Arrays in, array out; any Tensor
in, Tensor out, and the call is remembered.  A Tensor is born after its arguments, so newest first
is a topological order.  What broadcasting copied is summed again on the way back, on the edge.
"""

import argparse
from heapq import heappop, heappush
from itertools import count

import numpy as np


class Tensor:
    """An array that remembers how it was made: `array` is the value of `op(*args)`."""

    births = count()
    __array_ufunc__ = None  # ndarray @ Tensor asks Tensor.__rmatmul__

    def __init__(self, array, op=None, args=()):
        self.array, self.op, self.args = np.asarray(array), op, args
        self.birth = next(Tensor.births)

    __add__ = __radd__ = lambda a, b: add(a, b)
    __mul__ = __rmul__ = lambda a, b: multiply(a, b)
    __matmul__, __rmatmul__ = (lambda a, b: matmul(a, b)), (lambda a, b: matmul(b, a))


def value(x):
    return x.array if isinstance(x, Tensor) else np.asarray(x)


def op(*vjps):
    """Make `forward` differentiable: `vjps[i](g, y, *args)` is the cotangent of argument i."""

    def differentiable(forward):
        def call(*args):
            y = forward(*map(value, args))
            return Tensor(y, call, args) if any(isinstance(a, Tensor) for a in args) else y

        call.vjps = vjps
        return call

    return differentiable


add = op(lambda g, y, a, b: g, lambda g, y, a, b: g)(np.add)
multiply = op(lambda g, y, a, b: g * b, lambda g, y, a, b: g * a)(np.multiply)
matmul = op(lambda g, y, a, b: g @ b.T, lambda g, y, a, b: a.T @ g)(np.matmul)
tanh = op(lambda g, y, x: g * (1 - y * y))(np.tanh)


def sum_to(g, shape):
    """`g` summed to `shape`: the adjoint of broadcasting."""
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return g.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


def backward(y):
    """Map every Tensor that made `y` to the gradient of sum(y), newest Tensor first."""
    grads, queue = {y: np.ones_like(y.array)}, [(-y.birth, y)]
    while queue:
        _, t = heappop(queue)
        for x, vjp in zip(t.args, t.op.vjps if t.op else (), strict=False):
            if isinstance(x, Tensor):
                if x not in grads:
                    heappush(queue, (-x.birth, x))
                g = vjp(grads[t], t.array, *map(value, t.args))
                grads[x] = grads.get(x, 0) + sum_to(g, x.array.shape)
    return grads


def rnn(xs, U, W, b):
    """The last state of h = tanh(x U + h W + b) after the steps `xs`, from h = 0."""
    h = np.zeros((1, len(b)))
    for x in xs:
        h = tanh(x @ U + h @ W + b)
    return h


def complex_step(f, x, h=1e-30):
    """d sum(f) / dx by entry as Im f(x + i h e) / h: nothing is subtracted, nothing is lost."""
    steps = 1j * h * np.eye(x.size).reshape(x.size, *x.shape)
    return np.array([f(x + step).sum().imag / h for step in steps]).reshape(x.shape)


def main(argv=None):
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    rng = np.random.default_rng(0)
    xs, U, W, b = (rng.normal(size=shape) for shape in [(5, 2, 3), (3, 2), (2, 2), (2,)])
    leaf = Tensor(W)
    engine = backward(rnn(xs, U, leaf, b))[leaf]
    check = complex_step(lambda w: rnn(xs, U, w, b), W)  # the same rnn, run on complex arrays
    print("dE/dW of a 5-step RNN      backward            complex step")
    for i, j in np.ndindex(W.shape):
        print(f"W[{i}, {j}]       {engine[i, j]:+.17f}  {check[i, j]:+.17f}")
    difference = abs(engine - check).max() / abs(check).max()
    print(f"largest relative difference {difference:.1e}")
    return int(difference > 1e-12)


if __name__ == "__main__":
    raise SystemExit(main())
