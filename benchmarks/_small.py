"""The programs of the smaller engines: HIPS autograd, MyGrad, micrograd and tinygrad.

Each is imported by the class that needs it, so that one may be missing.
"""

from importlib.metadata import version
from types import SimpleNamespace

import numpy as np

from benchmarks import _data
from benchmarks._cells import chain, last_state
from benchmarks._programs import Training
from benchmarks._timing import blas_threads


class Autograd(Training):
    """HIPS autograd: gradients are those of a function of all parameters."""

    def begin(self, arrays):
        """Take the parameters, and the module's functions."""
        import autograd
        import autograd.numpy as anp

        self.vjp, self.anp, self.parameters = autograd.make_vjp, anp, arrays
        self.ops = SimpleNamespace(
            tanh=anp.tanh,
            sigmoid=lambda x: 1 / (1 + anp.exp(-x)),
            split=lambda x, n: anp.split(x, n, 1),
        )

    def libraries(self):
        return f"autograd {version('autograd')}, NumPy {np.__version__}, {blas_threads()}"

    def loss(self, batch):
        vjp, value = self.vjp(self.loss_of)(self.parameters)
        return vjp, value

    def backward(self, loss):
        self.found = loss[0](self.seed(loss[1]))

    def seed(self, y):
        """The cotangent of the result."""
        return np.ones_like(y)

    def gradients(self):
        return self.found

    def value(self, loss):
        return float(np.mean(loss[1]))


class AutogradChain(Autograd):
    """A chain of small operations, forward and backward."""

    def __init__(self, kind, side):
        x, w, self.g = _data.chain(kind, side)
        self.kind = kind
        self.begin({"x": x, "w": w})

    def loss_of(self, p):
        """The end of the chain."""
        return chain(self.ops, self.kind, p["x"], p["w"])

    def seed(self, y):
        return self.g

    def gradients(self):
        return {name: g for name, g in self.found.items() if g.any()}  # tanh has no w


class AutogradLoop(Autograd):
    """A loop over a cell that a user wrote in plain operations."""

    def __init__(self, cell, T, B, D, H):
        arrays, self.xs = _data.loop(cell, T, B, D, H)
        self.cell, self.zeros = cell, np.zeros((B, H), np.float32)
        self.begin(arrays)

    def loss_of(self, p):
        """The mean of the last state."""
        return self.anp.mean(last_state(self.ops, self.cell, self.xs, self.zeros, **p))


class MyGrad(Training):
    """MyGrad: tensors that remember, as ours."""

    def begin(self, arrays):
        """Take the parameters, and the module's functions."""
        import mygrad

        self.parameters = {name: mygrad.tensor(x) for name, x in arrays.items()}
        self.ops = SimpleNamespace(
            tanh=mygrad.tanh,
            sigmoid=mygrad.nnet.sigmoid,
            split=lambda x, n: [x[:, k : k + x.shape[1] // n] for k in starts(x, n)],
        )

    def libraries(self):
        return f"MyGrad {version('mygrad')}, NumPy {np.__version__}, {blas_threads()}"

    def backward(self, loss):
        for x in self.parameters.values():
            x.null_grad()
        loss.backward()

    def gradients(self):
        return {name: x.grad for name, x in self.parameters.items() if x.grad is not None}

    def value(self, loss):
        return float(loss.data.mean())


def starts(x, n):
    """Where each of n blocks of columns begins."""
    return range(0, x.shape[1], x.shape[1] // n)


class MyGradChain(MyGrad):
    """A chain of small operations, forward and backward."""

    def __init__(self, kind, side):
        x, w, self.g = _data.chain(kind, side)
        self.kind = kind
        self.begin({"x": x, "w": w})

    def loss(self, batch):
        return chain(self.ops, self.kind, self.parameters["x"], self.parameters["w"])

    def backward(self, y):
        for x in self.parameters.values():
            x.null_grad()
        y.backward(self.g)


class MyGradLoop(MyGrad):
    """A loop over a cell that a user wrote in plain operations."""

    def __init__(self, cell, T, B, D, H):
        arrays, self.xs = _data.loop(cell, T, B, D, H)
        self.cell, self.zeros = cell, np.zeros((B, H), np.float32)
        self.begin(arrays)

    def loss(self, batch):
        return last_state(self.ops, self.cell, self.xs, self.zeros, **self.parameters).mean()


class MicrogradChain(Training):
    """The same chain on one number, which is all that micrograd has."""

    def __init__(self, kind, side):
        if side != 1:
            raise NotImplementedError("has scalars only")
        from micrograd.engine import Value

        if kind in ("tanh", "mixed"):
            raise NotImplementedError("has no tanh")
        x, w, _ = _data.chain(kind, side)
        self.kind = "multiply" if kind == "matmul" else kind
        self.parameters = {"x": Value(x.item()), "w": Value(w.item())}

    def libraries(self):
        return f"micrograd {version('micrograd')}, scalars"

    def loss(self, batch):
        return chain(None, self.kind, self.parameters["x"], self.parameters["w"])

    def backward(self, y):
        for x in self.parameters.values():
            x.grad = 0
        y.backward()

    def gradients(self):
        return {name: np.array(x.grad) for name, x in self.parameters.items()}

    def value(self, y):
        return y.data


class TinygradChain(Training):
    """tinygrad, which is lazy: a chain is planned, then run; its kernels are compiled before."""

    def __init__(self, kind, side):
        from tinygrad import Device, Tensor

        try:
            Device.DEFAULT  # noqa: B018  which looks for a compiler
        except RuntimeError as error:
            raise NotImplementedError(f"{error}: its processor needs clang") from None
        x, w, g = _data.chain(kind, side)
        self.kind, self.g = kind, Tensor(g)
        self.parameters = {"x": Tensor(x), "w": Tensor(w)}
        for tensor in self.parameters.values():
            tensor.requires_grad = True
        self.ops = SimpleNamespace(tanh=Tensor.tanh)

    def libraries(self):
        return f"tinygrad {version('tinygrad')}"

    def loss(self, batch):
        return chain(self.ops, self.kind, self.parameters["x"], self.parameters["w"])

    def backward(self, y):
        for x in self.parameters.values():
            x.grad = None
        y.backward(self.g)
        for x in self.parameters.values():
            if x.grad is not None:
                x.grad.realize()

    def gradients(self):
        return {name: x.grad.numpy() for name, x in self.parameters.items() if x.grad is not None}

    def value(self, y):
        return float(y.numpy().mean())
