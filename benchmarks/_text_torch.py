"""The model of `demos/char_lm.py` in PyTorch, trained as the demo trains it."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from benchmarks._text import CLIP, LR, Epochs
from benchmarks._torch import Torch, tensors


class CharLM(Torch, Epochs):
    """An embedding, a GRU and a readout; Adam, clipped, at a rate that falls."""

    def begin(self):
        arrays = tensors(self.arrays)
        V, H = arrays["E"].shape
        self.embed, self.gru, self.readout = nn.Embedding(V, H), nn.GRU(H, H), nn.Linear(H, V)
        self.embed.load_state_dict({"weight": arrays.pop("E")})
        self.readout.load_state_dict({"weight": arrays.pop("R"), "bias": arrays.pop("r")})
        self.gru.load_state_dict(arrays)
        modules = nn.ModuleList([self.embed, self.gru, self.readout])
        self.parameters = list(modules.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=LR)
        self.forget()

    def forget(self):
        self.state = None

    def loss(self, x, y):
        """The mean cross entropy of a window, and the state after it."""
        h, state = self.gru(self.embed(torch.from_numpy(x)), self.state)
        return F.cross_entropy(self.readout(h).flatten(0, 1), torch.from_numpy(y).flatten()), state

    def learn(self, x, y, lr):
        loss, state = self.loss(x, y)
        self.state = state.detach()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.param_groups[0]["lr"] = lr
        clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def nats(self, x, y):
        loss, self.state = self.loss(x, y)
        return loss.item()
