"""A training step of an attention encoder-decoder, fed its targets, with plain SGD.

A bidirectional LSTM reads the source, an LSTM writes the target, and multiplicative attention
(Luong et al. 2015) reads the source for every word of it; the output shares the embedding.
"""

SYSTEMS = {
    "tinygrad_rnn": ("_ours", "Translator"),
    "PyTorch": ("_torch", "Translator"),
    "JAX": ("_jax", "Translator"),
}
SKIPPED = {
    "DyNet": "is not written for this model; `tagging` and `recursive` have it",
    "HIPS autograd, MyGrad, micrograd, tinygrad": "have no layer, embedding or softmax loss",
}
MEMORY = ["tinygrad_rnn", "PyTorch"]
SMALL = {"S": 4, "T": 3, "B": 2, "D": 6, "H": 8, "V": 20}
CASES = [
    {"S": 20, "T": 20, "B": 32, "D": 256, "H": 256, "V": 4000},
    {"S": 50, "T": 50, "B": 64, "D": 256, "H": 256, "V": 4000},
]
