"""Layers, cells, and ``Module``, which finds the parameters in them."""

from typing import TYPE_CHECKING, NoReturn

from .attention import AdditiveAttention, DotAttention, MultiplicativeAttention
from .cells import GRUCell, LayerNormLSTMCell, LSTMCell, PeepholeLSTMCell, RNNCell
from .crf import CRF
from .jordan import ElmanJordanCell, JordanCell
from .layers import Conv1d, Dropout, Embedding, LayerNorm, Linear
from .module import Module
from .recurrent import GRU, LSTM, RNN, Recurrent
from .trees import ChildSumTreeLSTMCell, RecursiveCell, RNTNCell, TreeLSTMCell

__all__ = [
    "AdditiveAttention",
    "CRF",
    "ChildSumTreeLSTMCell",
    "Conv1d",
    "DotAttention",
    "Dropout",
    "ElmanJordanCell",
    "Embedding",
    "GRU",
    "GRUCell",
    "JordanCell",
    "LSTM",
    "LSTMCell",
    "LayerNorm",
    "LayerNormLSTMCell",
    "Linear",
    "Module",
    "MultiplicativeAttention",
    "PeepholeLSTMCell",
    "RNN",
    "RNNCell",
    "RNTNCell",
    "Recurrent",
    "RecursiveCell",
    "TreeLSTMCell",
]

ELSEWHERE = {
    "CrossEntropyLoss": "tg.cross_entropy(logits, targets)",
    "MSELoss": "tg.mse(x, y)",
    "ModuleList": "[first, second]: a list in an attribute will do",
    "Parameter": "tg.tensor(values, requires_grad=True)",
    "ReLU": "tg.relu(x)",
    "Sequential": "[first, second]: a list in an attribute, called in turn in forward",
    "Sigmoid": "tg.sigmoid(x)",
    "Softmax": "tg.softmax(x, axis)",
    "Tanh": "tg.tanh(x)",
    "functional": "tg.softmax(x, axis): functions are in the package itself",
}
"""What users of PyTorch look for here, and what to write; then, after a colon, a remark."""


if not TYPE_CHECKING:  # which would take it that every name is there

    def __getattr__(name: str) -> NoReturn:
        hint = f"\n  hint: {ELSEWHERE[name]}" if name in ELSEWHERE else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
