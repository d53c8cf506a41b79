"""The programs by hand in NumPy: what the engine cannot be faster than."""

import numpy as np

from benchmarks import _data
from benchmarks._cells import LENGTH, LINKS
from benchmarks._programs import Program, Training
from benchmarks._timing import blas_threads


class Numpy:
    """What all of them run on."""

    def libraries(self):
        return f"NumPy {np.__version__}, {blas_threads()}"


def mixed(g, h, y, w):
    """The cotangents of h and w in y = tanh(h * w + w)."""
    d = g - g * y * y
    return d * w, d * h + d


COTANGENTS = {  # of h and of w in a link y
    "tanh": lambda g, h, y, w: (g - g * y * y, 0),
    "add": lambda g, h, y, w: (g, g),
    "multiply": lambda g, h, y, w: (g * w, g * h),
    "matmul": lambda g, h, y, w: (g @ w.T, h.T @ g),
    "mixed": mixed,
}


class Chain(Numpy, Training):
    """A chain of small operations with its derivative, which has to keep the states itself."""

    def __init__(self, kind, side):
        self.x, self.w, self.g = _data.chain(kind, side)
        self.link, self.cotangents = LINKS[kind], COTANGENTS[kind]
        self.length = LENGTH // 3 if kind == "mixed" else LENGTH

    def loss(self, batch):
        hs = [self.x]
        for _ in range(self.length):
            hs.append(self.link(np, hs[-1], self.w))
        return hs

    def backward(self, hs):
        g, self.w_grad = self.g, 0
        for t in reversed(range(self.length)):
            g, share = self.cotangents(g, hs[t], hs[t + 1], self.w)
            self.w_grad += share
        self.x_grad = g

    def gradients(self):
        return {"x": self.x_grad} | ({} if np.isscalar(self.w_grad) else {"w": self.w_grad})

    def value(self, hs):
        return float(hs[-1].mean())


class Products(Numpy, Program):
    """The products of a layer and nothing else; states are columns, which BLAS likes best."""

    def __init__(self, cell, T, B, D, H, layers=1, bidirectional=False):
        rng, directions, rows = np.random.default_rng(0), 1 + bidirectional, _data.GATES[cell] * H
        widths = [D, *[directions * H] * (layers - 1)]
        self.passes = [
            Pass(rng, T, B, width, H, rows) for width in widths for _ in range(directions)
        ]

    def step(self, n):
        for one in self.passes:
            one.run()


class Pass:
    """One direction of one layer: arrays for its products."""

    def __init__(self, rng, T, B, D, H, rows):
        self.W, self.U = rng.standard_normal((rows, D), np.float32), _data.uniform(rng, H, rows, H)
        self.x, self.h = (rng.standard_normal((n, T * B), np.float32) for n in (D, H))
        self.d, self.z = np.empty((2, rows, T * B), np.float32)
        self.d[...] = rng.standard_normal((rows, T * B), np.float32)
        columns = rng.standard_normal((T, H, B), np.float32), self.d.reshape(T, rows, B)
        self.steps = list(zip(*columns, strict=True))
        self.x_grad = np.empty_like(self.x)
        self.W_grad, self.U_grad = np.empty_like(self.W), np.empty_like(self.U)
        self.step, self.back = np.empty((rows, B), np.float32), np.empty((H, B), np.float32)

    def run(self):
        """All products once."""
        np.matmul(self.W, self.x, out=self.z)
        for h, _ in self.steps:
            np.matmul(self.U, h, out=self.step)
        for _, d in self.steps:
            np.matmul(self.U.T, d, out=self.back)
        np.matmul(self.d, self.x.T, out=self.W_grad)
        np.matmul(self.d, self.h.T, out=self.U_grad)
        np.matmul(self.W.T, self.d, out=self.x_grad)


class Square(Numpy, Program):
    """One product of two square matrices."""

    def __init__(self, n):
        self.a, self.b = np.random.default_rng(0).standard_normal((2, n, n), np.float32)
        self.c = np.empty_like(self.a)

    def checks(self):
        return {"the trace": float(np.trace(self.a @ self.b))}

    def step(self, n):
        np.matmul(self.a, self.b, out=self.c)
