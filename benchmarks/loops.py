"""Loops over a cell that a user wrote in plain operations: forward and backward.

The formula is the same Python for every library; JAX compiles it in a `scan`.  `nn.LSTMCell` are
the libraries' own cells in the same loop.
"""

SYSTEMS = {
    "tinygrad_rnn": ("_ours", "Loop"),
    "PyTorch": ("_torch", "Loop"),
    "HIPS autograd": ("_small", "AutogradLoop"),
    "MyGrad": ("_small", "MyGradLoop"),
    "JAX": ("_jax", "Loop"),
    "tinygrad_rnn, nn.LSTMCell": ("_ours", "CellLoop"),
    "PyTorch, nn.LSTMCell": ("_torch", "CellLoop"),
}
SKIPPED = {
    "DyNet": "its fastest cell, which `layers` has, is such a loop",
    "micrograd, tinygrad": "have no tanh on arrays, or no graph that changes; see `operations`",
}
MEMORY = ["tinygrad_rnn", "PyTorch"]
SMALL = {"T": 4, "B": 3, "D": 8, "H": 8}
CASES = [
    {"cell": cell, "T": 64, "B": 32, "D": H, "H": H}
    for cell, H in [("LSTM", 128), ("LSTM", 256), ("LSTM", 512), ("GRU", 256), ("RNN", 256)]
]
CASES += [{"cell": "LSTM", "T": T, "B": 32, "D": 64, "H": 64} for T in (10, 100, 1000)]
AXES = ["T", "H"]
