"""The peak memory of a training step against what the derivatives need: an LSTM in plain ops.

The VJPs name seven arrays (B, H) for each of T steps: i, f, g, o, c, tanh(c) and h, and a training
step can hardly do with less than these 7*T*B*H floats.  Counted is all that `tracemalloc` sees
beyond what stood before, the inputs and the parameters: the kept values, the Python objects of the
graph, temporaries, terms that wait to be added up, and the parameters' gradients.
"""

import gc
import tracemalloc
from contextlib import contextmanager

import numpy as np

import tinygrad_rnn as tg
from benchmarks._timing import print_table

B, D, H = 32, 128, 128
LENGTHS = [64, 640]
TARGET = 1.3


def main():
    """Print what a step takes at each length, in units of 7*T*B*H floats."""
    print(f"memory: a step of an LSTM in plain ops, float32, B={B}, D={D}, H={H}, by tracemalloc")
    uses = [memory_of_step(T, B, D, H) for T in LENGTHS]
    rows = [[name, *[f"{use[name]:.3f}" for use in uses]] for name in uses[0]]
    print_table(["in units of 7*T*B*H floats", *[f"T={T}" for T in LENGTHS]], rows)
    arrays, objects = kept_by_kind(LENGTHS[0], B, D, H)
    print(f"of what is kept at T={LENGTHS[0]}: arrays {arrays:.3f}, Python objects {objects:.3f}")
    reached = max(use["peak of the step"] for use in uses)
    print(f"target: a peak of at most {TARGET}; reached: {reached:.3f}")


def lstm(xs, W, U, b):
    """The last state of an LSTM over `xs` (T, B, D); the gates i, f, g, o stand side by side."""
    H = U.shape[0]
    h = c = np.zeros((xs.shape[1], H), xs.dtype)
    for x in xs:
        z = x @ W + h @ U + b  # (B, 4H)
        i, f, g, o = (z[:, k * H : (k + 1) * H] for k in range(4))
        c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
        h = tg.sigmoid(o) * tg.tanh(c)
    return h


def forward_of(T, B, D, H):
    """A function that runs the LSTM over T inputs: the sum of its last state."""
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((T, B, D), np.float32)
    weights = [
        tg.tensor(0.1 * rng.standard_normal(shape, np.float32), requires_grad=True)
        for shape in [(D, 4 * H), (H, 4 * H), (4 * H,)]
    ]
    return lambda: tg.sum(lstm(xs, *weights))


def memory_of_step(T, B, D, H):
    """What a step holds at its stages, by name, in units of 7*T*B*H floats."""
    forward = forward_of(T, B, D, H)
    with traced():
        loss = forward()
        kept, forward_peak = tracemalloc.get_traced_memory()
        loss.backward()
        peak = tracemalloc.get_traced_memory()[1]
    found = {
        "kept for the way back": kept,
        "peak on the way forward": forward_peak,
        "peak of the step": peak,
    }
    return {name: size / (7 * 4 * T * B * H) for name, size in found.items()}


def kept_by_kind(T, B, D, H):
    """What is kept for the way back by arrays, and by Python objects, in the same units."""
    forward, domain = forward_of(T, B, D, H), np.lib.tracemalloc_domain
    with traced():
        loss = forward()
        snapshot = tracemalloc.take_snapshot()
        del loss
    for arrays in (True, False):
        traces = snapshot.filter_traces([tracemalloc.DomainFilter(arrays, domain)]).traces
        yield sum(trace.size for trace in traces) / (7 * 4 * T * B * H)


@contextmanager
def traced():
    """A context in which what is allocated is counted."""
    gc.collect()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    main()
