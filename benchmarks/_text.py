"""The text of `demos/char_lm.py`, cut as that cuts it, and the training that it goes through."""

import os
import time
from unittest.mock import patch

import numpy as np

from benchmarks import _data
from benchmarks._programs import Program

with patch.dict(os.environ):  # the demos set one BLAS thread for themselves, which is to end here
    from demos import char_lm

LR, CLIP = 4e-3, 1.0  # the rate of Adam at first, and the largest norm of the gradients


def cut(H, T, B, characters):
    """The arrays of a GRU, the windows (T, B) of nine tenths of the text, and those of the rest."""
    text = char_lm.default_text()[:characters]
    chars = sorted(set(text))
    ids = char_lm.encoded(text, chars)
    end = int(0.9 * len(ids))
    streams = 1 + (len(ids) - end) // char_lm.EVALUATION_STREAM
    valid = char_lm.windows(ids[end - 1 :], streams, bptt=100)
    arrays, _ = _data.language_model(T, B, H, H, len(chars), layers=1, cell="GRU", steps=1)
    return arrays, char_lm.windows(ids[:end], B, T), valid


class Epochs(Program):
    """A language model that reads the same text again and again: a sample is one epoch.

    A subclass has `begin()`, which makes the model of `arrays`; `forget()`, which ends the stream
    that the state is carried along; `learn(x, y, lr)`, which returns the loss; and `nats(x, y)`,
    the loss of a window without learning.
    """

    warm = False

    def __init__(self, H, T, B, epochs, characters):
        self.arrays, self.windows, self.valid = cut(H, T, B, characters)
        self.steps = epochs * len(self.windows)
        self.begin()

    def checks(self):
        """The losses of the first windows, learned one after the other; then all is as it was."""
        found = {f"loss {n}": self.learn(*window, LR) for n, window in enumerate(self.windows[:5])}
        self.begin()
        return found

    def sample(self):
        """The milliseconds of an epoch with its validation, and the nats a character after it.

        The first call only warms up: it is of the round that does not count.
        """
        if not self.warm:
            self.warm = True
            return self.checks()
        begun = time.perf_counter()
        self.forget()
        for x, y in self.windows:
            self.learn(x, y, LR * (1 - self.done / self.steps))
            self.done += 1
        self.forget()
        nats = np.average(
            [self.nats(x, y) for x, y in self.valid], weights=[y.size for _, y in self.valid]
        )
        return {"ms": 1e3 * (time.perf_counter() - begun), "nats": nats}
