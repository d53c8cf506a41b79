"""The training loop of the demos, and what it takes to stop it and to go on bit by bit."""

import math
import time

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit

SAVE_EVERY = 60.0  # seconds of training between checkpoints


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
):
    """Train `model`; the losses of all steps.

    `batches(rng)` is a list of batches, an epoch, and `loss_of(batch)` the mean loss of one.  With
    `carry` it is `loss_of(batch, state) -> (loss, state)`, with None for the first state of an
    epoch: values are carried to the next batch, gradients are not.  Training ends after so many
    `minutes`, if given, else after `epochs`, or `args.epochs`.  The rate of the optimiser, Adam of
    `args.lr` if None, is multiplied by `rate(share)` when that share is done.  `validate()`, the
    higher the better, is asked after each epoch, and the model ends with the weights of the best.
    With `resume_flags` checkpoints are kept in `args.out`, from which --resume goes on.
    """
    optimizer = optimizer or tg.optim.Adam(model.parameters(), lr=args.lr)
    lr, epochs = optimizer.lr, epochs or getattr(args, "epochs", None)
    now, keep = Training(model, optimizer, args), "resume" in args
    path = args.out / f"{label.replace(' ', '_')}.training.npz"
    if keep and args.resume and path.exists():
        now.load(path)
        if len(run.epochs(label)) < now.epoch:
            raise kit.DataError(
                f"{run.out / kit.METRICS} has fewer epochs of {label!r} than {path}, {now.epoch};"
                " --resume needs both as the run left them"
            )
        run.say(f"{label}: goes on after {len(now.losses)} steps")
    elif keep and args.resume:
        run.say(f"{label}: no checkpoint at {path}, so from the beginning")
    begun, next_save = time.monotonic() - now.seconds, time.monotonic() + SAVE_EVERY
    with kit.Progress(run, label) as progress:
        while now.share < 1:
            now.epoch_began = now.rng.bit_generator.state
            parts = batches(now.rng)
            for batch in parts[now.step :]:
                if carry:
                    loss, state = loss_of(batch, now.state)
                    now.state = tg.detach(state)
                else:
                    loss = loss_of(batch)
                kit.check_finite(loss.item())
                optimizer.zero_grad()
                loss.backward()
                tg.optim.clip_grad_norm_(model.named_parameters(), clip)
                optimizer.lr = lr * rate(now.share)
                optimizer.step()
                now.losses.append(loss.item())
                now.step, now.seconds = now.step + 1, time.monotonic() - begun
                if minutes:
                    now.share = now.seconds / (60 * minutes)
                else:
                    now.share = (now.epoch + now.step / len(parts)) / epochs
                progress.reached(now.share, f"loss {np.mean(now.losses[-100:]):.3f}")
                if now.share >= 1:
                    break
                if keep and time.monotonic() >= next_save:
                    now.save(path)
                    next_save = time.monotonic() + SAVE_EVERY
            loss = np.mean(now.losses[-now.step :])
            score = validate() if validate else None
            run.log(label=label, epoch=now.epoch + 1, loss=loss, validation=score)
            now.end_epoch(score)
            if keep:
                now.save(path)
    if validate:
        model.load_state_dict(now.best)
    return now.losses


class Training:
    """Where a training run stands: all that decides how it goes on, to be saved and loaded."""

    def __init__(self, model, optimizer, args):
        self.model, self.optimizer = model, optimizer
        own = {"resume", "out", "quiet", "no_plot"}  # what decides nothing
        self.settings = {key: str(value) for key, value in vars(args).items() if key not in own}
        self.rng = np.random.default_rng([args.seed, *b"batches"])  # unlike those that make data
        self.epoch_began = self.rng.bit_generator.state  # from which its batches are drawn again
        self.epoch, self.step, self.share, self.seconds = 0, 0, 0.0, 0.0
        self.losses, self.state = [], None
        self.best, self.best_score = {}, -math.inf

    def end_epoch(self, score):
        """Go on to the next epoch; remember the weights if the score is the best so far."""
        if score is not None and score > self.best_score:
            self.best, self.best_score = self.model.state_dict(), score
        self.epoch, self.step, self.state = self.epoch + 1, 0, None
        self.epoch_began = self.rng.bit_generator.state

    def save(self, path):
        """Write a checkpoint, in one step: the file is the old one or the new one."""
        pair = isinstance(self.state, tuple)
        state = self.state if pair else [] if self.state is None else [self.state]
        parts = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "state": {str(i): x for i, x in enumerate(state)},
        }
        arrays = {f"{part}.{name}": x for part, own in parts.items() for name, x in own.items()}
        figures = ("epoch", "step", "share", "seconds", "best_score", "settings", "epoch_began")
        metadata = {name: getattr(self, name) for name in figures}
        metadata |= {"pair": pair, "drawn": tg.default_rng().bit_generator.state}
        tg.save(path, arrays | {"losses": np.array(self.losses)}, metadata)

    def load(self, path):
        """Stand where the checkpoint was written; DataError if that run had other settings."""
        saved = tg.load(path)
        metadata = saved.metadata
        if "settings" not in metadata:
            raise kit.DataError(f"{path} holds no weights in training; expected: what a run left")
        then = metadata.pop("settings")
        other = [key for key in self.settings if then.get(key) != self.settings[key]]
        if other:
            was = ", ".join(f"--{key.replace('_', '-')} {then.get(key)}" for key in other)
            raise kit.DataError(f"--resume goes on with the settings of {path}, where {was}")

        def part(name):
            prefix = name + "."
            return {k.removeprefix(prefix): x for k, x in saved.items() if k.startswith(prefix)}

        self.model.load_state_dict(part("model"))
        self.optimizer.load_state_dict(part("optimizer"))
        state = [tg.tensor(x) for x in part("state").values()]
        self.state = tuple(state) if metadata.pop("pair") else state[0] if state else None
        self.best, self.losses = part("best"), saved["losses"].tolist()
        tg.default_rng().bit_generator.state = metadata.pop("drawn")
        for name, figure in metadata.items():
            setattr(self, name, figure)
        self.rng.bit_generator.state = self.epoch_began


def start_from(model, args):
    """Load the weights that --init-from names, if it does."""
    if args.init_from:
        model.load_state_dict(tg.load(args.init_from))
