"""LSTM, GRU and Elman layers, stacked and bidirectional: forward and backward, the input tracked.

`products alone` are the matrix products that the formula needs, as large as it allows, in NumPy:
one for the input of all steps, one for each step, forward and back, and one for each weight's
gradient.  What that takes of our time is the share of BLAS.
"""

SYSTEMS = {
    "tinygrad_rnn": ("_ours", "Layer"),
    "PyTorch": ("_torch", "Layer"),
    "JAX": ("_jax", "Layer"),
    "DyNet": ("_dynet", "Layer"),
    "products alone": ("_numpy", "Products"),
}
SKIPPED = {
    "HIPS autograd, MyGrad": "have no layers; `loops` has their cells in loops",
    "micrograd, tinygrad": "have no recurrent layer; `operations` has them",
}
MEMORY = ["tinygrad_rnn", "PyTorch"]
SMALL = {"T": 5, "B": 3, "D": 8, "H": 8}


def case(cell, T, B, D, H, **more):
    """The sizes of a case, by name."""
    return {"cell": cell, "T": T, "B": B, "D": D, "H": H, **more}


CASES = [
    case("LSTM", 64, 32, 256, 256),
    case("LSTM", 50, 64, 512, 512),
    case("LSTM", 64, 32, 65, 128),
    case("LSTM", 35, 20, 200, 200),
    case("LSTM", 40, 32, 256, 256, layers=2, bidirectional=True),
    *[case(cell, 64, 32, 256, 256) for cell in ("GRU", "RNN")],
    *[case(cell, 64, 32, 65, 128) for cell in ("GRU", "RNN")],
    *[case(cell, 40, 32, 256, 256, layers=2, bidirectional=True) for cell in ("GRU", "RNN")],
    *[case("LSTM", T, 32, 128, 128) for T in (10, 100, 1000)],
    *[case("LSTM", 64, B, 256, 256) for B in (1, 8, 128, 256)],
    *[case("LSTM", 64, 32, H, H) for H in (64, 512, 1024)],
]
AXES = ["T", "B", "H"]


def flops(cell, T, B, D, H, layers=1, bidirectional=False):
    """The floating-point operations of all products, forward and backward.

    A product of (n, k) and (k, m) is 2 n k m, and each on the way forward has two on the way back.
    """
    rows, directions = {"LSTM": 4, "GRU": 3, "RNN": 1}[cell] * H, 1 + bidirectional
    widths = [D, *[directions * H] * (layers - 1)]
    return sum(6 * T * B * rows * directions * (width + H) for width in widths)
