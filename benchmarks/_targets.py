"""The figures to reach: ours / peer, in the medians of one run, two threads each."""

from typing import NamedTuple

from benchmarks._results import OURS


class Target(NamedTuple):
    """At most `most`, and hoped for `aim`, of what the peer takes in a case of a workload."""

    what: str
    workload: str
    case: str
    peer: str
    most: float
    aim: float
    quantity: str = "ms"
    ours: str = OURS


LAYER = "LSTM T=64 B=32 D=256 H=256"
SHAPES = [
    "LSTM T=50 B=64 D=512 H=512",
    "LSTM T=64 B=32 D=65 H=128",
    "LSTM T=35 B=20 D=200 H=200",
    "LSTM T=40 B=32 D=256 H=256 layers=2 bidirectional",
]
LOOP = "LSTM T=64 B=32 D=256 H=256"
TREES = "Tree-LSTM trees=25 D=300 H=150"
MODEL = "T=35 B=20 D=200 H=200 V=10000 layers=2"

TARGETS = [
    Target("LSTM layer", "layers", LAYER, "PyTorch", 1.5, 1.2),
    *[Target("LSTM layer", "layers", case, "PyTorch", 1.6, 1.2) for case in SHAPES],
    Target("LSTM cell written by a user, in a loop", "loops", LOOP, "PyTorch", 0.8, 0.6),
    Target("Tree-LSTM, recursion", "recursive", TREES, "DyNet, autobatching", 0.5, 0.33),
    *[
        Target("Tree-LSTM, recursion", "recursive", TREES, f"PyTorch, {how}", 0.045, 0.025)
        for how in ("a call a node", "a call and a loss a node")
    ],
    Target("Tree-LSTM, recursion", "recursive", TREES, "PyTorch, batched by hand", 1.0, 0.7),
    Target("BiLSTM tagger", "tagging", "D=100 H=128 sentences=32", "PyTorch", 1.0, 0.7),
    Target("BiLSTM tagger", "tagging", "D=100 H=128 sentences=32", "DyNet", 0.5, 0.3),
    *[
        Target("chain of small operations", "operations", f"{kind} side=32", "PyTorch", 0.5, 0.35)
        for kind in ("tanh", "mixed")
    ],
    Target("language-model step, 10,000 words", "language_model", MODEL, "PyTorch", 1.1, 0.9),
    Target("inference step, one sequence", "inference", "D=256 H=256 V=100", "PyTorch", 0.7, 0.4),
    *[
        Target(f"peak memory of a step, {workload}", workload, case, "PyTorch", 1.2, 1.0, "MiB")
        for workload, case in [
            ("layers", LAYER),
            ("loops", LOOP),
            ("tagging", "D=100 H=128 sentences=32"),
            ("language_model", MODEL),
        ]
    ],
    Target(
        "peak memory of a step, recursive",
        "recursive",
        TREES,
        "PyTorch, batched by hand",
        1.2,
        1.0,
        "MiB",
    ),
]
