"""tinygrad_rnn: a tiny tensor and autograd engine for recurrent and recursive nets.

The imports below are in reading order: each file needs only those above it.
"""

# ruff: noqa: I001
from . import place
from .errors import *
from . import observer
from . import cotangents
from .recording import no_grad
from .engine import op
from .backend import use_device
from .linear import *
from . import sparse
from . import stale
from . import sweep
from .backward import grad
from .arithmetic import *
from .reductions import *
from .products import *
from .anomaly import detect_anomaly
from .random import default_rng, manual_seed
from . import readout
from .functional import *
from . import fused
from .tensor import Tensor, tensor
from . import sequences
from .transforms import hvp, jvp, vjp
from .through_time import detach, truncated_bptt, windows
from .recompute import checkpoint
from .structure import Structure
from . import rows
from .fold import fold
from .deferred import deferred, stack
from .saving import load, save
from .checkpoints import Checkpoints
from . import nn
from . import division
from .report import time_report
from . import costs
from . import meter
from .profile import profile
from . import circuit
from .draw import draw
from . import finite
from . import clipping
from . import optim
from . import cuda
from . import cuda_layers
from . import cuda_optim
from . import schedules
from . import decode
from . import registry
from .gradcheck import gradcheck, gradgradcheck

__version__ = "0.1.0"
