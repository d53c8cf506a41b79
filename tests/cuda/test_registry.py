"""Every operation of the registry is on the device what it is on NumPy, and stays there."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.registry import ROWS, RandomDraw

from .compared import close, is_on, same_on_both, several

COMPUTED_WITH = {"condition", "targets"}
"""Keywords that have to be on the device already, unless they are ids."""

UPLOADS = {
    "getitem": 2,  # an index, or two
    "scatter": 2,
    "scatter_add": 2,
    "spread": 1,
    "repeat": 1,  # which entry each is, made on the host: repeats may be a list
    "take": 1,
    "take_along_axis": 1,
    "embedding": 1,  # ids are checked on the host
    "dropout": 1,  # the mask: all that is random comes from the host
    "nll": 2,  # ids, and which of them count
    "cross_entropy": 2,
    "softmax_losses": 1,
}
"""How many copies from the host a call may make, where it may: of indices, ids and masks."""

LAID_OUT = {"fold", "lstm", "gru", "elman"}
"""These upload the layout of a structure once; here each call makes a new one."""

HALVES = "add matmul sum mean softmax logsumexp max getitem scatter_add tanh lstm_gates".split()


class Call:
    """A case of a row on a device: the function, its leaves, and cotangents of its results."""

    def __init__(self, row, seed, dtype, device):
        arrays, keywords = row.case(RandomDraw(seed))
        if row.name == "astype":
            keywords = {"dtype": np.dtype(np.float32)}
        for key in COMPUTED_WITH & keywords.keys():
            x = keywords[key]
            if x.dtype.kind != "i":
                x = x.astype(dtype) if x.dtype.kind == "f" else x
                keywords = keywords | {key: tg.tensor(x, device=device).array}
        self.function, self.keywords = row.function, keywords
        self.leaves = [tg.tensor(x, dtype, requires_grad=True, device=device) for x in arrays]
        rng = np.random.default_rng(seed)
        self.cotangents = [
            tg.tensor(rng.standard_normal(y.shape), y.dtype, device=device) for y in self.forward()
        ]

    def forward(self):
        return several(self.function(*self.leaves, **self.keywords))

    def backward(self, results):
        for y, g in zip(results, self.cotangents, strict=True):
            y.backward(g, retain_graph=True)
        return [x.grad for x in self.leaves]


def compare(row, seed, dtype):
    results, gradients = {}, {}
    for device in ("cpu", "cuda"):
        call = Call(row, seed, dtype, device)
        results[device] = call.forward()
        gradients[device] = call.backward(results[device])
    for found in (results, gradients):
        for got, expected in zip(found["cuda"], found["cpu"], strict=True):
            assert is_on("cuda", got)
            close(got, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_values_and_gradients_are_those_of_numpy(row, dtype):
    for seed in range(5):
        compare(row, seed, dtype)


@pytest.mark.parametrize("row", [row for row in ROWS if row.name in HALVES], ids=lambda r: r.name)
def test_so_they_are_in_half_precision(row):
    for seed in range(3):
        compare(row, seed, np.float16)


EMPTY = {
    "prod": lambda x: tg.prod(x, 0),
    "sum": lambda x: tg.sum(x, 0),
    "softmax": lambda x: tg.softmax(x, 1),
    "logsumexp": lambda x: tg.logsumexp(x, 1),
    "matmul": lambda x: x.T @ x,
    "getitem": lambda x: x[[]],
    "concatenate": lambda x: tg.concatenate([x, x]),
    "reshape": lambda x: x.reshape(3, 0),
    "cross_entropy": lambda x: tg.cross_entropy(x, np.zeros(0, int), ignore_index=0),
}


@pytest.mark.parametrize("name", EMPTY)
def test_arrays_without_entries(name):
    same_on_both(EMPTY[name], np.zeros((0, 3), np.float32))


@pytest.mark.costs
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_nothing_waits_and_nothing_but_indices_is_copied(row, tier):
    for seed in range(5):
        call = Call(row, seed, np.float32, "cuda")
        with tier.counting() as forward:
            results = call.forward()
        with tier.counting() as backward:
            call.backward(results)
        assert (forward.syncs, forward.to_host, backward.syncs, backward.to_host) == (0, 0, 0, 0)
        if row.name not in LAID_OUT:
            assert forward.to_device <= UPLOADS.get(row.name, 0)
            assert backward.to_device == 0
