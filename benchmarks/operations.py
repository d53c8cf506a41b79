"""What a small operation costs, forward and backward: chains of 198 on 32x32, and on one number.

The arrays are so small that the engine is most of the time.  A `mixed` chain is tanh(h * w + w),
again and again.  `by hand` is the same in NumPy with its derivative written out.
"""

from benchmarks._cells import LENGTH, LINKS

SYSTEMS = {
    "tinygrad_rnn": ("_ours", "Chain"),
    "PyTorch": ("_torch", "Chain"),
    "HIPS autograd": ("_small", "AutogradChain"),
    "MyGrad": ("_small", "MyGradChain"),
    "micrograd": ("_small", "MicrogradChain"),
    "tinygrad": ("_small", "TinygradChain"),
    "by hand": ("_numpy", "Chain"),
}
SKIPPED = {
    "JAX": "compiles a chain as a whole and has no cost of an operation",
    "DyNet": "has no operation that a user can time by itself: it computes when asked",
}
MEMORY = []
SMALL = {"side": 2}
CASES = [{"kind": kind, "side": side} for kind in LINKS for side in (32, 1)]
UNIT = "us an operation", 1e3 / LENGTH
