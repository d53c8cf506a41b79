"""tinygrad_rnn: a tiny tensor and autograd engine for recurrent and recursive nets."""

from . import nn, optim
from .arithmetic import *
from .backward import grad
from .checkpoint import load, save
from .engine import no_grad, op
from .errors import *
from .functional import *
from .gradcheck import gradcheck, gradgradcheck
from .linear import *
from .products import *
from .random import default_rng, manual_seed
from .reductions import *
from .tensor import Tensor, tensor
from .transforms import hvp, jvp, vjp

__version__ = "0.1.0"
