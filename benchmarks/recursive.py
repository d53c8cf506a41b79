"""Training steps of recursive nets over trees, a loss at every node, with plain SGD.

The binary Tree-LSTM of Tai et al. (2015) and the RNTN of Socher et al. (2013), over expressions of
Python programs, 25 trees a step, and over one random tree of more and more nodes.  What a
program makes of the trees to batch them is part of a step.  The first column is plain recursion,
whose deferred cells are batched; its Tree-LSTM has the package's fused gates, as the fold has.
"""

SYSTEMS = {
    "tinygrad_rnn": ("_recursive_ours", "Deferred"),
    "tinygrad_rnn, fold": ("_recursive_ours", "Fold"),
    "tinygrad_rnn, plain operations": ("_recursive_ours", "Plain"),
    "DyNet, autobatching": ("_recursive_dynet", "Net"),
    "PyTorch, batched by hand": ("_recursive_torch", "ByHand"),
    "PyTorch, a call a node": ("_recursive_torch", "PerNode"),
    "PyTorch, a call and a loss a node": ("_recursive_torch", "AllPerNode"),
}
SKIPPED = {
    "JAX": "what it compiles is compiled for one shape of tree",
    "HIPS autograd, MyGrad, micrograd, tinygrad": "have no batching, and are slower a call",
}
MEMORY = ["tinygrad_rnn", "tinygrad_rnn, fold", "PyTorch, batched by hand"]
SMALL = {"trees": 2, "D": 6, "H": 6, "nodes": 9}
CASES = [
    {"net": "Tree-LSTM", "trees": 25, "D": 300, "H": 150},
    {"net": "RNTN", "trees": 25, "D": 30, "H": 30},
    *[
        {"net": "Tree-LSTM", "nodes": nodes, "D": 64, "H": 64}
        for nodes in (1, 11, 101, 1001, 10_001, 100_001)
    ],
]
AXES = ["nodes"]
