"""A step of a language model for one sequence, nothing recorded: a word in, log-probabilities out.

An embedding, an LSTM cell, a softmax: what a program that writes one word after the other repeats.
"""

SYSTEMS = {
    "tinygrad_rnn": ("_ours", "Inference"),
    "PyTorch": ("_torch", "Inference"),
    "JAX": ("_jax", "Inference"),
}
SKIPPED = {
    "DyNet": "makes a graph of every step",
    "HIPS autograd, MyGrad, micrograd, tinygrad": "have no cell to run without a graph",
}
MEMORY = []
SMALL = {"D": 6, "H": 6, "V": 20}
CASES = [{"D": H, "H": H, "V": V} for H, V in [(128, 100), (256, 100), (512, 100), (256, 10_000)]]
