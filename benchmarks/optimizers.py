"""One update by each optimiser, of the parameters of a language model whose gradients are there."""

from benchmarks._data import RULES

SYSTEMS = {
    "tinygrad_rnn": ("_ours", "Optimizer"),
    "PyTorch": ("_torch", "Optimizer"),
    "PyTorch, fused": ("_torch", "Optimizer", {"fused": True}),
}
SKIPPED = {
    "JAX, HIPS autograd, MyGrad, micrograd": "have no such optimisers of their own",
    "DyNet": "its trainers clip and count other things in the same call",
}
MEMORY = ["tinygrad_rnn", "PyTorch"]
SMALL = {"D": 5, "H": 5, "V": 9}
CASES = [
    {"rule": rule, "D": H, "H": H, "V": V, "layers": 2}
    for H, V in [(192, 100), (200, 10_000)]
    for rule in RULES
]
