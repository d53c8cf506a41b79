"""How the work of backpropagation through time grows with the steps T: counted, not timed.

A recurrent net's loss is differentiated with respect to its weights and to its whole input, of
which step t reads the slice `x[t]`.  Were the cotangent of a slice written out, each of T steps
would touch all T slices; were each step's share in a weight's cotangent multiplied out, there would
be T matrix products for each weight.
"""

from collections import Counter
from contextlib import contextmanager
from math import prod
from unittest.mock import patch

import numpy as np

import tinygrad_rnn as tg
from benchmarks._timing import print_table
from tinygrad_rnn import linear, products
from tinygrad_rnn.backend import Backend

LENGTHS = [50, 100, 200, 400, 800, 1600]
B, D, H = 32, 16, 24  # different, so that the shape of a product tells what it is for

USES = {  # the ways to use weights W and U in a step, and whether a state is a column
    "h @ U": (lambda x, h, W, U: x @ W + h @ U, False),
    "h @ U.T": (lambda x, h, W, U: x @ W.T + h @ U.T, False),
    "U @ h": (lambda x, h, W, U: W @ x.T + U @ h, True),
}


def main():
    """Print how the work grows, and the products for each way to use a weight."""
    print(f"bptt: the backward pass of h = tanh(x[t] @ W + h @ U), B={B}, D={D}, H={H}, counted")
    print("entries: of what a ufunc takes or gives, the largest; and of arrays of zeros")
    rows = []
    for T in LENGTHS:
        work = backward_work("h @ U", T, B, D, H)
        with slices_written_out():
            dense = backward_work("h @ U", T, B, D, H)
        rows.append([T, work.entries // T, dense.entries // T, work.scatters])
    print_table(["T", "entries / T", "if all x[t] were written out", "scatter-adds"], rows)
    print("matrix products for the gradients of W and U, which may be T*B/256 + 1 for each")
    rows = []
    for use in USES:
        for T in LENGTHS:
            products = backward_work(use, T, B, D, H).products
            found = [products[weight_shape(use, D, H)], products[H, H]]
            rows.append([use, T, *found, f"{bound(T, B):.2f}"])
    print_table(["use", "T", "for W", "for U", "bound"], rows)


def bound(T, B):
    """How many matrix products the gradient of a weight may take that B rows use at T steps."""
    return T * B / 256 + 1


def weight_shape(use, D, H):
    """The shape of W, which takes inputs of width D to states of width H."""
    return (D, H) if use == "h @ U" else (H, D)


def backward_work(use, T, B, D, H):
    """The Work of the backward pass of a recurrent net over T steps."""
    rng = np.random.default_rng(0)
    shapes = [(T, B, D), weight_shape(use, D, H), (H, H)]
    x, W, U = (
        tg.tensor(0.1 * rng.standard_normal(shape).view(Metered), requires_grad=True)
        for shape in shapes
    )
    step, columns = USES[use]
    h = np.zeros((H, B) if columns else (B, H))
    for t in range(T):
        h = tg.tanh(step(x[t], h, W, U))
    loss = tg.sum(h)
    with counted() as work:
        loss.backward()
    return work


class Work:
    """What was done: entries touched, scatter-adds, matrix products by the shape of the result."""

    def __init__(self):
        self.entries, self.scatters, self.products = 0, 0, Counter()


class Metered(np.ndarray):
    """An array that enters in `work` each ufunc that it takes part in, and hands this on."""

    __array_priority__ = 1  # so that a concatenation of these is one of these
    work = Work()

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        if out:
            options["out"] = tuple(map(plain, out))
        y = getattr(ufunc, method)(*map(plain, inputs), **options)
        self.work.entries += max(map(np.size, [*inputs, y]))
        if ufunc is np.matmul:
            self.work.products[y.shape] += 1
        return out[0] if out else np.asarray(y).view(Metered)


def plain(x):
    """`x`, as an ordinary array if it is a `Metered` one."""
    return x.view(np.ndarray) if isinstance(x, Metered) else x


@contextmanager
def counted():
    """The Work that is done with `Metered` arrays in the block."""
    work, scatter, scatter_add = Work(), Backend.scatter, Backend.scatter_add

    def zeros(backend, shape, dtype):
        work.entries += prod(shape)
        return np.zeros(shape, dtype).view(Metered)

    def counted_scatter(backend, *arguments):
        work.scatters += 1
        return scatter(backend, *arguments)

    def counted_scatter_add(backend, *arguments):
        work.scatters += 1
        scatter_add(backend, *arguments)

    with (
        patch.object(Metered, "work", work),
        patch.object(Backend, "zeros", zeros),
        patch.object(Backend, "scatter", counted_scatter),
        patch.object(Backend, "scatter_add", counted_scatter_add),
        patch.object(products, "product", np.matmul),  # a ufunc, whichever way is short
    ):
        yield work


def slices_written_out():
    """A context in which the cotangent of `x[t]` is an array of the shape of `x`, zero but at t."""
    rule = linear._getitem.operation.rules[0][1]
    return patch.object(rule, "vjp", lambda g, index, x_shape: linear.scatter(g, index, x_shape))


if __name__ == "__main__":
    main()
