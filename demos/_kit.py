"""The plumbing of the demos: flags, data errors, progress, metrics and plots.

A demo is a function of its flags and a `Run`; `main` runs it and turns what may go wrong for a
user (no data, no finite loss, a folder that cannot be written) into one line and exit code 1.
"""

import argparse
import csv
import json
import math
import os
import sys
import time
from pathlib import Path

import tinygrad_rnn as tg

HOPELESS = 1000.0  # nats; log of the number of classes is what a uniform guess costs
PLAIN_LINE_EVERY = 5.0  # seconds, where the output is no terminal


class DataError(Exception):
    """Data that cannot be used; the message says why."""


class Diverged(Exception):
    """A loss that is no longer a finite number."""


def main(demo, args):
    """The exit code of `demo(args, run)`; an expected error becomes one line on stderr.

    A demo may return what its slide claims, `{claim: seen}`; it fails if one was not seen.
    """
    try:
        with Run(args) as run:
            claims = demo(args, run) or {}
    except (DataError, Diverged, tg.NonFiniteError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    run.say(f"files in {args.out}: {', '.join(run.files)}")
    for claim, seen in claims.items():
        print(f"{'seen' if seen else 'NOT SEEN'}: {claim}")
    return int(not all(claims.values()))


# ---- flags ----


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help with the default of each flag and with the docstring's own line breaks."""


def parser(name, doc):
    """A parser with the flags that all demos share; `doc` describes the demo."""
    p = argparse.ArgumentParser(f"python -m demos.{name}", None, doc, formatter_class=HelpFormatter)
    p.add_argument("--seed", type=natural, default=0, help="of every random choice")
    p.add_argument("--out", type=Path, default=Path("runs", name), help="folder to write to")
    common_flags(p)
    return p


def common_flags(p):
    """Add the flags that also make sense for several demos at once."""
    p.add_argument("--quick", action="store_true", help="only see that it works, in a few seconds")
    p.add_argument("--quiet", action="store_true", help="print the result only")
    p.add_argument("--no-plot", action="store_true", help="write CSV files but no PNG")


def natural(text):
    """An argparse type: an int from 0 up."""
    if int(text) < 0:
        raise ValueError
    return int(text)


def positive(kind):
    """An argparse type: an int or a float above 0."""

    def parse(text):
        if not 0 < kind(text) < math.inf:
            raise ValueError
        return kind(text)

    parse.__name__ = f"positive {kind.__name__}"  # argparse says: invalid positive int value
    return parse


def fraction(text):
    """An argparse type: a float from 0 up to but not 1."""
    if not 0 <= float(text) < 1:
        raise ValueError
    return float(text)


# ---- data, losses ----


def read_text(path):
    """The text of a UTF-8 file; OSError if it is not there, DataError if no text is in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded") from None
    if not text.strip():
        raise DataError(f"{path} is empty")
    return text


def check_finite(loss):
    """Raise Diverged if there is nothing to go on from: NaN, or more than a bad guess costs."""
    if not loss < HOPELESS:
        raise Diverged(f"training diverged: the loss is {loss}; try a smaller --lr")


# ---- what a run prints and writes ----


class Run:
    """One run of a demo: what it says, its progress, and the files it leaves in `args.out`."""

    def __init__(self, args):
        self.out, self.quiet, self.plot, self.files = args.out, args.quiet, not args.no_plot, []
        self.out.mkdir(parents=True, exist_ok=True)
        self.metrics = self.path("metrics.jsonl").open("w", encoding="utf-8")
        tg.manual_seed(args.seed)
        settings = {key: str(value) for key, value in vars(args).items()}
        self.say("settings: " + ", ".join(f"{key} {value}" for key, value in settings.items()))
        self.log(settings=settings)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.metrics.close()

    def say(self, text=""):
        """Print `text`, unless --quiet."""
        if not self.quiet:
            print(text, flush=True)

    def path(self, name):
        """The path of the file `name` of this run, to be listed at the end."""
        self.files.append(name)
        return self.out / name

    def log(self, **figures):
        """Append one line to metrics.jsonl."""
        self.metrics.write(json.dumps(figures, default=float) + "\n")
        self.metrics.flush()

    def curves(self, name, columns, y_label, levels=None, log_scale=False):
        """Write `columns` (the first is the x axis) to NAME.csv and draw them in NAME.png.

        `levels` are horizontal lines to compare with: {label: y}.
        """
        with self.path(name + ".csv").open("w", newline="") as file:
            csv.writer(file).writerow(columns)
            csv.writer(file).writerows(zip(*columns.values(), strict=True))
        if not self.plot:
            return
        try:
            from matplotlib.figure import Figure
        except ImportError:
            self.say(f"{name}.png left out: pip install 'tinygrad_rnn[demos]' brings matplotlib")
            return
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        (x_label, xs), *series = columns.items()
        for label, ys in series:
            axes.plot(xs, ys, label=label)
        for i, (label, y) in enumerate((levels or {}).items()):
            axes.axhline(y, color="grey", linewidth=0.8, linestyle=":")
            x = (i + 0.5) / len(levels)  # one beside the other, for two lines may be close
            axes.annotate(label, (x, y), xycoords=("axes fraction", "data"), fontsize=7)
        axes.set(xlabel=x_label, ylabel=y_label, yscale="log" if log_scale else "linear")
        axes.legend(frameon=False)
        figure.savefig(self.path(name + ".png"), dpi=120)  # a bare Figure draws with Agg


class Progress:
    """A bar on a terminal with tqdm, else a plain line every few seconds; with `quiet` nothing."""

    def __init__(self, run, label):
        self.run, self.label, self.bar = run, label, None
        self.next_line = time.monotonic() + PLAIN_LINE_EVERY
        if sys.stdout.isatty() and not run.quiet:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self.bar = tqdm(
                total=1.0,
                desc=label,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
                colour=None if "NO_COLOR" in os.environ else "green",
                file=sys.stdout,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def reached(self, share, text):
        """Show that this share of the work is done, and `text` beside it."""
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(min(share, 1.0) - self.bar.n)
        elif time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + PLAIN_LINE_EVERY
            self.run.say(f"{self.label} {min(share, 1.0):4.0%}  {text}")
