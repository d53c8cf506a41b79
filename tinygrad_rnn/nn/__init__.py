"""Layers, cells, and ``Module``, which finds the parameters in them."""

from .cells import GRUCell, LSTMCell, RNNCell
from .layers import Dropout, Embedding, Linear
from .module import Module

__all__ = ["Dropout", "Embedding", "GRUCell", "LSTMCell", "Linear", "Module", "RNNCell"]
