"""`demos/char_lm.py` from its first step to a given validation loss, beside the same in PyTorch.

The demo's model, text, windows, optimiser and schedule, without its dropout, whose masks the two
would draw differently: so weights, batches and the curve of losses are the same.  A sample is an
epoch, its validation included; the seconds are those of all epochs up to the first that reaches the
loss.
"""

SYSTEMS = {"tinygrad_rnn": ("_text_ours", "CharLM"), "PyTorch": ("_text_torch", "CharLM")}
SKIPPED = {"JAX, DyNet, HIPS autograd, MyGrad, micrograd, tinygrad": "not written for this model"}
MEMORY = []
SMALL = {"H": 8, "T": 5, "B": 3, "epochs": 1, "characters": 3000}
CASES = [{"H": 192, "T": 64, "B": 32, "epochs": 5, "characters": 10_000_000}]
ROUNDS = 5  # the epochs
NATS = 1.25
