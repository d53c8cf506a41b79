"""Beam search with a language model: an LSTM of one layer, all hypotheses of a step in one call.

PyTorch has no beam search; this one is written by hand, with tensors alone, and finds the same
scores.
"""

SYSTEMS = {
    "tinygrad_rnn": ("_ours", "BeamSearch"),
    "PyTorch": ("_torch", "BeamSearch"),
}
SKIPPED = {"JAX, DyNet, HIPS autograd, MyGrad, micrograd, tinygrad": "have no beam search"}
MEMORY = []
SMALL = {"B": 2, "beam": 2, "steps": 4, "D": 6, "H": 6, "V": 20}
CASES = [{"B": B, "beam": 5, "steps": 50, "D": 256, "H": 256, "V": 4000} for B in (1, 10)]
