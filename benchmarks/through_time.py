"""What long sequences cost in memory: truncated BPTT, and checkpointing of BPTT in segments.

Truncated BPTT runs over a million steps, in windows and in the per-step form, and what the process
holds is looked up as it goes: this takes minutes, and needs Unix.  For checkpointing, counted is
all that `tracemalloc` sees beyond what stood before: the kept values, the Python objects of the
graph, temporaries, and the parameters' gradients.
"""

import math
import resource
import time
import tracemalloc

import numpy as np

import tinygrad_rnn as tg
from benchmarks._timing import interleaved, print_table, spread
from benchmarks.memory import traced
from tinygrad_rnn import nn

STEPS, WARM = 1_000_000, 20_000
LENGTHS, B, D, H = [100, 400, 1600], 16, 64, 64
ROUNDS = 5


def main():
    """Print what is held after few and after a million steps, and what segments save and cost."""
    print(f"through_time: truncated BPTT of an RNN (D=H=8, one example) over {STEPS:,} steps")
    rows = [
        ["windows of 20", *growth(in_windows(20))],
        ["per step, a = 2", *growth(per_step(2))],
    ]
    head = ["form", f"MiB after {WARM:,} steps", f"after {STEPS:,}", "us a step"]
    print_table(head, rows)
    print(f"checkpointing: BPTT of an LSTM in plain ops, float32, B={B}, D={D}, H={H}")
    forms = {"plain": plain, "segments of sqrt(T)": segments, "halves of halves": halves}
    peaks = {name: [peak_of(run, T) for T in LENGTHS] for name, run in forms.items()}
    times = interleaved({name: lambda run=run: time_of(run) for name, run in forms.items()}, ROUNDS)
    rows = []
    for name in forms:
        row = [f"{peak:,}" for peak in peaks[name]]
        saved = peaks["plain"][-1] / peaks[name][-1]
        rows.append([name, *row, f"{saved:.1f}", spread(times[name] / times["plain"])])
    head = [f"bytes, T={T}" for T in LENGTHS] + ["times less", "time, relative"]
    print_table(["at the peak", *head], rows)
    print(f"the last two columns are for T={LENGTHS[-1]}")


# ---- truncated ----------------------------------------------------------------------------------


def in_windows(length):
    """Truncated BPTT in windows, over an iterator of the inputs."""

    def run(cell, inputs):
        h = np.zeros((1, 8), np.float32)
        for window in tg.windows(STEPS, length):
            h, loss = tg.detach(h), 0.0
            for _ in range(window.start, window.stop):
                h = cell(next(inputs), h)
                loss = loss + tg.sum(h * h)
            loss.backward()

    return run


def per_step(a):
    """Truncated BPTT in the per-step form, over an iterator of the inputs."""

    def run(cell, inputs):
        tg.truncated_bptt(cell, lambda h, _: tg.sum(h * h), inputs, range(STEPS), a)

    return run


def growth(run):
    """The most that the process held up to WARM steps, then up to the end, and the time a step."""
    held = []

    def inputs():
        x = np.ones((1, 8), np.float32)
        for t in range(STEPS):
            if t == WARM:
                held.append(resident())
            yield x

    cell = nn.RNNCell(8, 8, rng=np.random.default_rng(0))
    start = time.perf_counter()
    run(cell, inputs())
    seconds = time.perf_counter() - start
    return [f"{held[0]:.1f}", f"{resident():.1f}", f"{1e6 * seconds / STEPS:.0f}"]


def resident():
    """The most memory that this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---- checkpointed -------------------------------------------------------------------------------


def plain(cell, state, xs):
    """The last state of a loop over all inputs."""
    for x in xs:
        state = cell(x, state)
    return state


def segments(cell, state, xs):
    """The same in sqrt(T) segments, of which only the states in between are kept."""
    for window in tg.windows(len(xs), math.isqrt(len(xs))):
        state = tg.checkpoint(plain, cell, state, xs[window])
    return state


def halves(cell, state, xs):
    """The same in halves, which are checkpointed in turn: the logarithm of T, for log T times."""
    if len(xs) == 1:
        return cell(xs[0], state)
    half = len(xs) // 2
    state = tg.checkpoint(halves, cell, state, xs[:half])
    return tg.checkpoint(halves, cell, state, xs[half:])


def step_of(run, T):
    """A function that differentiates the sum of the last of T states."""
    rng = np.random.default_rng(0)
    cell = nn.LSTMCell(D, H, rng=rng)
    xs = rng.standard_normal((T, B, D), np.float32)
    zeros = np.zeros((B, H), np.float32)
    return lambda: tg.sum(run(cell, (zeros, zeros), xs)[0]).backward()


def peak_of(run, T):
    """The bytes at the peak of a forward and a backward pass over T steps."""
    step = step_of(run, T)
    with traced():
        step()
        return tracemalloc.get_traced_memory()[1]


def time_of(run):
    """The seconds of a forward and a backward pass."""
    step = step_of(run, LENGTHS[-1])
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
