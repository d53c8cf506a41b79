"""A small training run on the demos' kit, which can be stopped at any step."""

from unittest import mock

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training

STEPS = 12  # of a whole run: three epochs of four
WORDS = {"words": ["a", "b"]}


class Net(tg.nn.Module):
    """A recurrent net with dropout: it carries a state, and it draws random numbers."""

    def __init__(self):
        self.cell, self.dropout = tg.nn.LSTMCell(2, 3), tg.nn.Dropout(0.3)

    def forward(self, x, state):
        h, c = self.cell(x, state)
        return self.dropout(h), (h, c)


class Stopped(Exception):
    """What ends a run in the middle."""


def settings(folder, *flags):
    """The flags of a run that writes to `folder`."""
    p = kit.parser("test_kit", "A run to be stopped.")
    kit.training_flags(p, epochs=3, batch_size=2, lr=0.05)
    kit.resume_flags(p)
    return p.parse_args(["--quiet", "--no-plot", "--out", str(folder), *map(str, flags)])


def train(args, before_step=None, **how):
    """The weights and the losses of a run of `trained`."""
    with kit.Run(args) as run:
        return trained(args, run, before_step, **how)


def trained(
    args,
    run,
    before_step=None,
    label="training",
    scored=True,
    vocabulary=WORDS,
    batches=4,
    clip=5.0,
    minutes=None,
):
    """The weights and the losses of a run; `before_step(i)` is called before each step of it."""
    data = np.random.default_rng(5).normal(size=(batches, 2, 2))  # batches of two rows
    net, steps = Net(), []

    def loss_of(batch, state):
        if before_step:
            before_step(len(steps))
        steps.append(batch)
        y, state = net(data[batch], state)
        return (y * y).mean(), state

    def score():  # as it happens it is the best after the second epoch
        return -net.cell.weight_ih.array[0, 0]

    losses = training.fit(
        net,
        loss_of,
        lambda rng: rng.permutation(batches).tolist(),
        args,
        run,
        label,
        carry=True,
        clip=clip,
        minutes=minutes,
        validate=score if scored else None,
        vocabulary=vocabulary,
    )
    return net.state_dict(), losses


def stop_at(step):
    """What stops a run before that step."""

    def before_step(i):
        if i == step:
            raise Stopped

    return before_step


def goes_on(run, whole, parts, step, *flags):
    """Whether a demo that is stopped in this step, and gone on with, ends like one that is not.

    `run(folder, *flags)` runs it; compared are all the files that it leaves but METRICS.
    """
    real, steps = training.step_of, []

    def step_of(*arguments):
        steps.append(1)
        if len(steps) == step:
            raise KeyboardInterrupt
        real(*arguments)

    assert run(whole, *flags) == 0
    with mock.patch.object(training, "step_of", step_of):
        assert run(parts, *flags, "--save-every", "0") == 130
    assert run(parts, *flags, "--save-every", "0", "--resume") == 0
    ours, theirs = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (whole, parts)
    )
    left = [name for name in ours if not kit.CHECKPOINT.fullmatch(name) and name != kit.METRICS]
    return len(left) > 0 and all(ours[name] == theirs[name] for name in left)


def same(one, other):
    """Whether two runs ended with the same weights, of the same losses, bit by bit."""
    (weights, losses), (others, more) = one, other
    return losses == more and all(
        weights[name].tobytes() == others[name].tobytes() for name in weights
    )
