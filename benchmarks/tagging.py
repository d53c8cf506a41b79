"""A training step of a BiLSTM tagger over sentences of any lengths, with plain SGD.

The sentences are logical lines of the standard library, the tags the kinds of their tokens.
PyTorch packs the sequences, JAX pads and masks them, DyNet batches sentence by sentence itself.
"""

SYSTEMS = {
    "tinygrad_rnn": ("_ours", "Tagger"),
    "PyTorch": ("_torch", "Tagger"),
    "DyNet": ("_dynet", "Tagger"),
    "JAX": ("_jax", "Tagger"),
}
SKIPPED = {"HIPS autograd, MyGrad, micrograd, tinygrad": "have nothing to pad or pack"}
MEMORY = ["tinygrad_rnn", "PyTorch"]
SMALL = {"D": 6, "H": 5, "sentences": 2}
CASES = [
    {"D": 100, "H": 128, "sentences": 32},
    {"D": 256, "H": 256, "sentences": 32},
    {"D": 100, "H": 128, "sentences": 8},
]
