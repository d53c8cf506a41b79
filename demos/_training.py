"""The training loop of the demos, and what it takes to stop it and to go on bit by bit.

`fit` trains a model.  `Training` is where it stands: all that decides how it goes on.  With
`resume_flags` a `Keeper` writes that to a checkpoint every minute, after every epoch, and when the
user presses Ctrl-C or the system asks the program to end (SIGTERM).
"""

import itertools
import json
import math
import os
import signal
import sys
import threading
import time
import warnings

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit

ASK_TO_STOP = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
MOST_TEXT = 4_000_000  # bytes of a vocabulary; `tg.save` takes little more beside the arrays


def fit(
    model,
    loss_of,
    batches,
    args,
    run,
    label="training",
    *,
    epochs=None,
    minutes=None,
    optimizer=None,
    rate=lambda share: 1 - share,
    clip=5.0,
    validate=None,
    carry=False,
    vocabulary=None,
):
    """Train `model`; the losses of all steps.

    `batches(rng)` is a list of batches, an epoch, and `loss_of(batch)` the mean loss of one.  With
    `carry` it is `loss_of(batch, state) -> (loss, state)`, with None for the first state of an
    epoch: values are carried to the next batch, gradients are not.  Training ends after so many
    `minutes`, if given, else after `epochs`, or `args.epochs`.  The rate of the optimiser, Adam of
    `args.lr` if None, is multiplied by `rate(share)` when that share is done.  `validate()`, the
    higher the better, is asked after each epoch, and the model ends with the weights of the best.
    With `resume_flags` checkpoints are kept in `args.out`, from which --resume goes on, provided
    that settings and `vocabulary`, as in `save_model`, are the same.
    """
    optimizer = optimizer or tg.optim.Adam(model.parameters(), lr=args.lr)
    lr, epochs = optimizer.lr, epochs or getattr(args, "epochs", None)
    schedule = {"lr": lr, "clip": clip, "epochs": epochs, "minutes": minutes}
    now = Training(model, optimizer, args, schedule, vocabulary or {})
    with (
        np.errstate(all="ignore"),  # what is not finite is told in one line, not in warnings too
        Keeper(now, args, run, label) as keeper,
        kit.Progress(run, label) as progress,
    ):
        begun = time.monotonic() - now.seconds
        while now.share < 1:
            parts = now.epoch_of(batches)
            for batch in parts[now.step :]:
                if carry:
                    loss, state = loss_of(batch, now.state)
                    now.state = tg.detach(state)
                else:
                    loss = loss_of(batch)
                nats = loss.item()
                kit.check_finite(nats)
                optimizer.zero_grad()
                loss.backward()
                optimizer.lr = lr * rate(now.share)
                step_of(optimizer, model, clip)
                now.losses.append(nats)
                now.step, now.seconds = now.step + 1, time.monotonic() - begun
                if minutes:
                    now.share = now.seconds / (60 * minutes)
                else:
                    now.share = (now.epoch + now.step / len(parts)) / epochs
                progress.reached(now.share, f"loss {np.mean(now.losses[-100:]):.3f}")
                if now.share >= 1:
                    break
                keeper.after_step()
            loss = np.mean(now.losses[-now.step :])
            score = validate() if validate else None
            run.log(label=label, epoch=now.epoch + 1, loss=loss, validation=score)
            now.end_epoch(score)
            keeper.after_epoch(score)
    if validate:
        model.load_state_dict(now.best)
    return now.losses


def step_of(optimizer, model, clip):
    """A step along gradients of at most this norm; Diverged, and no step, if one is not finite."""
    try:
        tg.optim.clip_grad_norm_(model.named_parameters(), clip)
        optimizer.step()
    except tg.NonFiniteError as error:
        what = error.args[0].splitlines()[0].partition(": ")[2]
        raise kit.Diverged(f"training diverged: {what}; try a smaller --lr") from error


class Training:
    """Where a training run stands: all that decides how it goes on, to be saved and loaded."""

    FIGURES = ("epoch", "step", "steps", "share", "seconds", "best_score")

    def __init__(self, model, optimizer, args, schedule, vocabulary):
        self.model, self.optimizer = model, optimizer
        # What decides nothing; and a run may go on on another device.
        own = {"resume", "out", "quiet", "no_plot", "save_every", "command", "device"}
        self.settings = {key: str(value) for key, value in vars(args).items() if key not in own}
        self.schedule, self.vocabulary = schedule, vocabulary
        self.rng = np.random.default_rng([args.seed, *b"batches"])  # unlike those that make data
        self.epoch_began = self.rng.bit_generator.state  # from which its batches are drawn again
        self.epoch, self.step, self.steps, self.share, self.seconds = 0, 0, 0, 0.0, 0.0
        self.losses, self.state = [], None
        self.best, self.best_score = {}, -math.inf

    def epoch_of(self, batches):
        """The batches of this epoch; DataError if it has none, or had more or fewer before."""
        self.epoch_began = self.rng.bit_generator.state
        parts = batches(self.rng)
        if not len(parts):
            raise kit.DataError("an epoch has no batches; expected: one at least; give more data")
        if self.steps not in (0, len(parts)):
            raise kit.DataError(
                f"an epoch has {len(parts):,} batches and had {self.steps:,}; expected: the data"
                " that training began with; --resume cannot go on with others"
            )
        self.steps = len(parts)
        return parts

    def end_epoch(self, score):
        """Go on to the next epoch; remember the weights if the score is the best so far."""
        if score is not None and (score > self.best_score or not self.best):
            self.best = self.model.state_dict()
            self.best_score = -math.inf if math.isnan(score) else float(score)
        self.epoch, self.step, self.state = self.epoch + 1, 0, None
        self.epoch_began = self.rng.bit_generator.state

    def saved(self):
        """All of it, for `tg.Checkpoints`."""
        return {
            "settings": self.settings,
            "schedule": self.schedule,
            "vocabulary": self.vocabulary,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "state": self.state,
            "losses": np.array(self.losses, float),
            "epoch_began": self.epoch_began,
            "drawn": tg.default_rng().bit_generator.state,
            "figures": {name: getattr(self, name) for name in self.FIGURES},
        }

    def load(self, saved):
        """Stand where `saved` was made, or, after an error, where this stood before.

        DataError if that run had other settings or another vocabulary, CheckpointError if a part
        does not fit.
        """
        before = self.saved()
        if not isinstance(saved, dict) or saved.keys() != before.keys():
            raise tg.CheckpointError("this is no training run\n  expected: what fit has saved")
        try:
            self._check(saved)
            self._take(saved)
        except BaseException as error:
            self._take(before)
            if isinstance(error, (AttributeError, LookupError, TypeError, ValueError)):
                raise tg.CheckpointError(
                    f"a part of the checkpoint does not fit: {error}"
                ) from error
            raise

    def _check(self, saved):
        """Raise DataError if the settings or the vocabulary are others."""
        then = saved["settings"]
        other = [key for key, value in self.settings.items() if then.get(key) != value]
        if other:
            was = ", ".join(f"--{key.replace('_', '-')} {then.get(key)}" for key in other)
            raise kit.DataError(f"--resume goes on with the settings of the run, where {was}")
        if saved["schedule"] != self.schedule:
            raise kit.DataError(
                f"--resume goes on with the schedule of the run, {saved['schedule']};"
                f" this program has another, {self.schedule}"
            )
        if words := other_words(self.vocabulary, saved["vocabulary"]):
            raise kit.DataError(f"--resume needs the data of the run, but {words}")

    def _take(self, saved):
        for weights in filter(None, (saved["best"], saved["model"])):
            self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(saved["optimizer"])
        tg.default_rng().bit_generator.state = saved["drawn"]
        self.rng.bit_generator.state = self.epoch_began = saved["epoch_began"]
        for name in self.FIGURES:
            kind, figure = type(getattr(self, name)), saved["figures"][name]
            if type(figure) is not kind:
                raise TypeError(f"{name} is {figure!r}, expected: {kind.__name__}")
            setattr(self, name, figure)
        self.losses, self.best = saved["losses"].tolist(), saved["best"]
        self.state = placed(saved["state"])


def placed(state):
    """A state that was saved, an array or nested tuples of them, as Tensors where nets compute."""
    if isinstance(state, (tuple, list)):
        return type(state)(map(placed, state))
    return None if state is None else tg.tensor(state)


class Keeper:
    """What keeps the checkpoints of a run, if its demo has `resume_flags`; else it does nothing.

    Within it the first Ctrl-C, or SIGTERM, only asks for a stop, which comes after the step, when
    all parts of the state belong together; the second stops at once.
    """

    def __init__(self, now, args, run, label):
        self.now, self.args, self.run, self.label = now, args, run, label
        self.checkpoints, self.stopping, self.next_save = None, None, math.inf
        if "resume" in args:
            size = len(json.dumps(now.vocabulary))
            if size > MOST_TEXT:  # which is better told before the training than after it
                raise kit.DataError(
                    f"the vocabulary is {size:,} bytes of text; expected: {MOST_TEXT:,} at most,"
                    " for it is saved with the weights; give less text, or fewer words of it"
                )
            self.checkpoints = tg.Checkpoints(args.out, kit.prefix(label))
            if args.resume:
                self.go_on()
            self.next_save = time.monotonic() + args.save_every

    def go_on(self):
        """Load the newest checkpoint that is whole; say so, and which were not."""
        with warnings.catch_warnings(record=True, action="always") as told:
            saved = self.checkpoints.latest()
        for line in told:
            print(f"warning: {line.message}", file=sys.stderr)
        if saved is None:
            self.run.say(f"{self.label}: no checkpoint in {self.run.out}, so from the beginning")
            return
        self.now.load(saved)
        if len(self.run.epochs(self.label)) < self.now.epoch:
            raise kit.DataError(
                f"{self.run.out / kit.METRICS} has fewer epochs of {self.label!r} than the"
                f" checkpoint, {self.now.epoch}; --resume needs both as the run left them"
            )
        self.run.say(f"{self.label}: goes on after {len(self.now.losses)} steps")

    def after_step(self):
        """Save, if it is time; stop, if the user asked for it."""
        if self.checkpoints and (self.stopping or time.monotonic() >= self.next_save):
            self.save()

    def after_epoch(self, score):
        """Save, and stop, if the user asked for it."""
        if self.checkpoints:
            self.run.sync()  # the checkpoint counts on the line of this epoch
            self.save(score)

    def save(self, score=None):
        """Write a checkpoint; KeyboardInterrupt if the user wants to stop."""
        try:
            self.checkpoints.save(self.now.saved(), score)
        except OSError as error:
            raise OSError(
                f"{error}; the checkpoints from before are whole: when that is mended, go on with"
                f" {kit.go_on(self.args)}"
            ) from error
        self.next_save = time.monotonic() + self.args.save_every
        if self.stopping:
            raise KeyboardInterrupt(self.stopping)

    def __enter__(self):
        # Elsewhere than in the main thread Python has no signals, and who ignores Ctrl-C, as nohup
        # does, or has a handler of their own, keeps it.
        ours = self.checkpoints and threading.current_thread() is threading.main_thread()
        handlers = ASK_TO_STOP.items() if ours else ()
        self.handled = [number for number, usual in handlers if signal.getsignal(number) == usual]
        for number in self.handled:
            signal.signal(number, self.asked)
        return self

    def __exit__(self, *_):
        for number in self.handled:
            signal.signal(number, ASK_TO_STOP[number])

    def asked(self, number, _):
        """What the first Ctrl-C does."""
        self.stopping = number
        self.__exit__()
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once, without saving\n")


# ---- weights to begin with ----


def save_model(run, name, model, vocabulary, **sizes):
    """Write NAME.npz: the weights, and in the metadata what their rows stand for.

    `vocabulary` is {what: its words in order}, of all that the weights have rows for.
    """
    tg.save(run.path(f"{name}.npz"), model.state_dict(), {"vocabulary": vocabulary, **sizes})


def start_from(model, args, vocabulary):
    """Load the weights that --init-from names, if it does; DataError if they are for other words.

    A file that was not written by `save_model` may not say for which words it is; then stderr does.
    """
    if not args.init_from:
        return
    saved = tg.load(args.init_from)
    if "vocabulary" not in saved.metadata:
        print(f"warning: {args.init_from} does not say what its rows stand for", file=sys.stderr)
    elif words := other_words(vocabulary, saved.metadata["vocabulary"]):
        raise kit.DataError(
            f"--init-from {args.init_from} has weights for other data: {words}; expected: those of"
            " a run with the same data"
        )
    model.load_state_dict(saved)


def other_words(now, then):
    """What first differs in two vocabularies, {what: its words in order}; None if nothing does."""
    if not isinstance(then, dict) or then.keys() != now.keys():
        return f"its vocabulary is not one of {' and of '.join(now)}"
    for what, words in now.items():
        others = then[what] if isinstance(then[what], list) else []
        for i, (word, other) in enumerate(itertools.zip_longest(words, others)):
            if word != other:
                here, there = ["none" if x is None else kit.shown(str(x)) for x in (word, other)]
                return f"number {i} of its {what} is {there}, and here {here}"
    return None
