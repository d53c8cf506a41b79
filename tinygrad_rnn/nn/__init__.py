"""Layers, cells, and ``Module``, which finds the parameters in them."""

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
