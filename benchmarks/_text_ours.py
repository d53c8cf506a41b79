"""The model of `demos/char_lm.py` in tinygrad_rnn, trained as the demo trains it."""

import tinygrad_rnn as tg
from benchmarks._ours import Ours
from benchmarks._text import CLIP, LR, Epochs, char_lm


class CharLM(Ours, Epochs):
    """The model of `demos/char_lm.py`, and its training: Adam, clipped, at a rate that falls."""

    def begin(self):
        V, H = self.arrays["E"].shape
        self.model = char_lm.CharLM(V, H, "gru", 1, dropout=0.0)
        names = {"E": "embed.weight", "R": "readout.weight", "r": "readout.bias"}
        self.model.load_state_dict(
            {names.get(name, f"recurrent.{name}"): x for name, x in self.arrays.items()}
        )
        self.optimizer = tg.optim.Adam(self.model.parameters(), lr=LR)
        self.forget()

    def forget(self):
        self.state = None

    def learn(self, x, y, lr):
        logits, state = self.model(x, self.state)
        self.state = tg.detach(state)
        loss = tg.cross_entropy(logits, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.lr = lr
        tg.optim.clip_grad_norm_(self.model.named_parameters(), CLIP)
        self.optimizer.step()
        return loss.item()

    def nats(self, x, y):
        with tg.no_grad():
            logits, self.state = self.model(x, self.state)
            return tg.cross_entropy(logits, y).item()
