"""What it costs to record a call and to go back through it: chains of 200 small operations.

The arrays are so small, 32x32, that the engine is most of the time.  Ours, PyTorch eager, and the
same chain with its derivative by hand in NumPy; first, all of them must give the same gradients.
"""

import time

import numpy as np

import tinygrad_rnn as tg
from benchmarks._timing import interleaved, machine, peer, print_table, spread

LENGTH, SIDE = 200, 32
CHAINS, ROUNDS = 5, 40  # a sample is a few chains in a row, so that most of them meet warm caches
TARGET = 0.6  # of PyTorch's time for tanh, forward and backward
NAMES, PARTS = ["ours", "PyTorch", "by hand"], ["forward", "backward", "both"]

STEPS = {
    "tanh": lambda library, h, w: library.tanh(h),
    "h + w": lambda library, h, w: h + w,
    "h * w": lambda library, h, w: h * w,
    "h @ w": lambda library, h, w: h @ w,
}

COTANGENTS = {  # of h and of w in a step y
    "tanh": lambda g, h, y, w: (g - g * y * y, 0),
    "h + w": lambda g, h, y, w: (g, g),
    "h * w": lambda g, h, y, w: (g * w, g * h),
    "h @ w": lambda g, h, y, w: (g @ w.T, h.T @ g),
}


def main():
    """Print microseconds per operation, and ratios, for each kind of chain."""
    print(f"overhead: {LENGTH} operations in a row on {SIDE}x{SIDE} float32")
    print(machine())
    torch = peer("torch", "PyTorch")
    rows = []
    for kind in STEPS:
        chains = {"ours": recorded(tg, kind), "by hand": by_hand(kind)}
        if torch:
            chains["PyTorch"] = recorded(torch, kind)
        check_equal(chains)
        samplers = {name: sampler(*chain) for name, chain in chains.items()}
        rows += rows_of(kind, interleaved(samplers, ROUNDS))
    print(f"us per operation, median of {ROUNDS} rounds; of the ratios, median [quartiles]")
    print_table(["", *NAMES, *[f"ours / {name}" for name in NAMES[1:]]], rows)
    print(f"target: ours / PyTorch at most {TARGET} for tanh both ways; reached: {rows[2][4]}")


# ---- the chains: forward() gives a result, backward(result) the gradients of x and w -----------


def start(kind):
    """x, w, and the cotangent of the result: such that 200 steps neither vanish nor overflow."""
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, SIDE, SIDE), np.float32)
    w = np.linalg.qr(noise)[0] if kind == "h @ w" else 1 + 0.01 * noise
    return x, w, np.ones_like(x)


def recorded(library, kind):
    """The chain in a library with PyTorch's names."""
    x, w, g = start(kind)
    x, w = library.tensor(x, requires_grad=True), library.tensor(w, requires_grad=True)
    g, step = library.tensor(g), STEPS[kind]

    def forward():
        h = x
        for _ in range(LENGTH):
            h = step(library, h, w)
        return h

    def backward(y):
        x.grad = w.grad = None
        y.backward(g)
        return x.grad, w.grad

    return forward, backward


def by_hand(kind):
    """The chain in plain NumPy, which has to keep the states itself."""
    x, w, seed = start(kind)
    step, cotangents = STEPS[kind], COTANGENTS[kind]

    def forward():
        hs = [x]
        for _ in range(LENGTH):
            hs.append(step(np, hs[-1], w))
        return hs

    def backward(hs):
        g, w_grad = seed, 0
        for t in reversed(range(LENGTH)):
            g, share = cotangents(g, hs[t], hs[t + 1], w)
            w_grad += share
        return g, w_grad

    return forward, backward


def check_equal(chains):
    """Raise AssertionError unless all chains give the gradients of the one by hand."""
    forward, backward = chains["by hand"]
    expected = backward(forward())
    for forward, backward in [chain for name, chain in chains.items() if name != "by hand"]:
        for g, e in zip(backward(forward()), expected, strict=True):
            if g is not None:  # tanh has no w
                assert np.abs(g.numpy() - e).max() < 1e-4 * np.abs(e).max()


# ---- times -------------------------------------------------------------------------------------


def sampler(forward, backward):
    """A function that times the chain: microseconds per operation for each of `PARTS`."""

    def sample():
        us = []
        for _ in range(CHAINS):
            begun = time.perf_counter()
            y = forward()
            turned = time.perf_counter()
            backward(y)
            del y  # to let go of the graph is part of the way back
            us.append(np.diff([begun, turned, time.perf_counter()]) * 1e6 / LENGTH)
        there, back = np.median(us, 0)
        return there, back, there + back

    return sample


def rows_of(kind, times):
    """A row of the table for each of `PARTS`; a dash where a peer is missing."""
    for i, part in enumerate(PARTS):
        us = {name: samples[:, i] for name, samples in times.items()}
        medians = [f"{np.median(us[name]):.2f}" if name in us else "-" for name in NAMES]
        ratios = [spread(us["ours"] / us[name]) if name in us else "-" for name in NAMES[1:]]
        yield [f"{kind}, {part}", *medians, *ratios]


if __name__ == "__main__":
    main()
