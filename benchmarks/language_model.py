"""A training step of a word language model with a softmax over 10,000 words.

An embedding, LSTM layers, a softmax; gradients are clipped to a norm of 5; plain SGD.
"""

SYSTEMS = {
    "tinygrad_rnn": ("_ours", "LanguageModel"),
    "PyTorch": ("_torch", "LanguageModel"),
    "JAX": ("_jax", "LanguageModel"),
    "DyNet": ("_dynet", "LanguageModel"),
}
SKIPPED = {"HIPS autograd, MyGrad, micrograd, tinygrad": "have no layer, embedding or softmax loss"}
MEMORY = ["tinygrad_rnn", "PyTorch"]
SMALL = {"T": 4, "B": 3, "D": 6, "H": 6, "V": 20}
CASES = [
    {"T": 35, "B": 20, "D": H, "H": H, "V": 10_000, "layers": layers}
    for H, layers in [(200, 2), (256, 1), (650, 2)]
]
