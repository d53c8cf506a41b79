"""The plumbing of the demos: flags, data, batches, progress, metrics and plots.

A demo is a function of its flags and a `Run`; `main` runs it and turns what may go wrong for a
user (no data, no finite loss, a folder that cannot be written) into one line and exit code 1.
"""

import argparse
import codecs
import collections
import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
import shlex
import signal
import stat
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg

UNKNOWN = "<unknown>"  # what a word is read as that the vocabulary leaves out
METRICS = "metrics.jsonl"
CHECKPOINT = re.compile(r"([^.].*)-\d{6,}\.npz")  # a file of `tg.Checkpoints`, and its label
MOST = 1_000_000  # of a flag: beyond it a run fills the memory, or never ends
LARGEST = 2**30  # bytes of a file; what is made of it takes many times its room
HOPELESS = 1000.0  # nats; log of the number of classes is what a uniform guess costs
PLAIN_LINE_EVERY = 5.0  # seconds, where the output is no terminal


class DataError(Exception):
    """Data that cannot be used; the message says why."""


class Diverged(Exception):
    """A loss that is no longer a finite number."""


def check_finite(loss):
    """Raise Diverged if there is nothing to go on from: NaN, or more than a bad guess costs."""
    if not loss < HOPELESS:
        raise Diverged(f"training diverged: the loss is {loss}; try a smaller --lr")


EXPECTED = (DataError, Diverged, OSError, MemoryError)
EXPECTED += (tg.NonFiniteError, tg.CheckpointError, tg.SettingError, tg.DeviceError)


def main(demo, args):
    """The exit code of `demo(args, run)`; an expected error becomes one line on stderr.

    A demo may return what its slide claims, `{claim: seen}`; it fails if one was not seen.
    """
    begun = time.monotonic()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not have all characters
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with tg.use_device(args.device), Run(args) as run:
            claims = demo(args, run) or {}
            minutes, cores = (time.monotonic() - begun) / 60, os.cpu_count()
            run.log(minutes=minutes, cores=cores, claims=claims)
    except BrokenPipeError:  # nobody reads what is printed
        raise
    except EXPECTED as error:
        # The place that errors of the package add to their message is in the demo, not of its user.
        told = error.args[0] if isinstance(error, tg.TinygradRNNError) else str(error)
        print(f"error: {told or 'not enough memory'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:  # with the number of the signal, if it was not Ctrl-C
        hint = f"; go on with {go_on(args)}" if "resume" in args else ""
        print(f"stopped{hint}", file=sys.stderr)
        return 128 + (*stop.args, signal.SIGINT)[0]
    run.say(f"files in {args.out}: {', '.join(run.files)}")
    run.say(f"seed {args.seed}, {minutes:.1f} minutes on {cores} cores")
    for claim, seen in claims.items():
        print(f"{'seen' if seen else 'NOT SEEN'}: {claim}")
    return int(not all(claims.values()))


def go_on(args):
    """The command that goes on with a run that was stopped."""
    return args.command + ("" if args.resume else " --resume")


# ---- flags ----


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help with the default of each flag and with the docstring's own line breaks."""


class Parser(argparse.ArgumentParser):
    """A parser that adds to the flags the command line that they come from."""

    def parse_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else args
        found = super().parse_args(words, namespace)
        found.command = f"{self.prog} {shlex.join(map(str, words))}".rstrip()
        return found


def parser(name, doc):
    """A parser with the flags that all demos share; `doc` describes the demo."""
    p = Parser(f"python -m demos.{name}", None, doc, formatter_class=HelpFormatter)
    p.add_argument("--seed", type=seed, default=0, help="of every random choice")
    p.add_argument("--out", type=Path, default=Path("runs", name), help="folder to write to")
    common_flags(p)
    return p


def common_flags(p):
    """Add the flags that also make sense for several demos at once."""
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where nets compute")
    p.add_argument("--quick", action="store_true", help="only see that it works, in a few seconds")
    p.add_argument("--quiet", action="store_true", help="print the result only")
    p.add_argument("--no-plot", action="store_true", help="write CSV files but no PNG")


def training_flags(p, *, epochs, batch_size, lr):
    """Add the flags of `fit`, with these defaults."""
    p.add_argument("--epochs", type=positive(int), default=epochs, help="times all data are read")
    p.add_argument("--batch-size", type=positive(int), default=batch_size, help="examples at once")
    p.add_argument("--lr", type=positive(float), default=lr, help="the rate at the start")


def resume_flags(p, init_from=True):
    """Add the flags of a training run that is long enough to be stopped."""
    p.add_argument("--resume", action="store_true", help="go on with the run in --out, bit by bit")
    if init_from:
        p.add_argument("--init-from", type=Path, metavar="MODEL", help="weights to begin with")
    p.add_argument(
        "--save-every", type=seconds, default=60.0, metavar="SECONDS", help="between checkpoints"
    )


def natural(most=MOST):
    """An argparse type: an int from 0 to `most`."""
    return number(int, f"an integer from 0 to {most:,}", lambda x: 0 <= x <= most)


def positive(kind, most=MOST):
    """An argparse type: a finite float above 0, or an int from 1 to `most`."""
    if kind is float:
        return number(float, "a number above 0", lambda x: 0 < x < math.inf)
    return number(int, f"an integer from 1 to {most:,}", lambda x: 0 < x <= most)


def number(kind, what, fits):
    """An argparse type: a number that `fits`, which is `what` is expected."""

    def parse(text):
        with contextlib.suppress(ValueError):
            if fits(kind(text)):
                return kind(text)
        raise argparse.ArgumentTypeError(f"{shown(text)}; expected: {what}")

    return parse


seed = natural(2**32 - 1)
size = positive(int, 10_000)  # of a layer, whose weights are the square of it
length = positive(int, 100_000)  # of a sequence, of which every step is kept for backward
fraction = number(float, "a number from 0 up to but not 1", lambda x: 0 <= x < 1)
share = number(float, "a number above 0, 1 at most", lambda x: 0 < x <= 1)
seconds = number(float, "a number from 0", lambda x: 0 <= x < math.inf)


# ---- data ----


def read_bytes(path):
    """The bytes of a file of at most LARGEST.

    DataError for a folder, and for a pipe or a device: such may never end, or never begin, and
    cannot be read twice.  OSError if there is no file, or if it may not be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        if stat.S_ISDIR(found.st_mode):
            raise DataError(f"{path} is a folder; expected: a file; name one that is in it")
        raise DataError(f"{path} is a pipe or a device; expected: a file; save what it gives first")
    if found.st_size > LARGEST:
        raise DataError(
            f"{path} has {found.st_size:,} bytes; expected: {LARGEST:,} at most; take a part of it"
        )
    return path.read_bytes()


def read_text(path):
    """The text of a UTF-8 file, without a byte order mark; every line ends with a line feed.

    What `read_bytes` raises, and DataError if it is not text, or none.
    """
    return decoded(read_bytes(path), path)


def decoded(raw, path, encoding="utf-8"):
    """The text that bytes read from `path` say; DataError if they say none."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path} begins as UTF-16; expected: UTF-8 text; save it as UTF-8")
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        text = raw.decode(encoding)
        wrong = raw.find(b"\0")
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        line = raw.count(b"\n", 0, wrong) + 1
        raise DataError(
            f"{path}, line {line}: byte {raw[wrong]:#04x} is no UTF-8 text; expected: UTF-8 text;"
            " save it as UTF-8, or unpack it"
        )
    if not text.strip():
        raise DataError(f"{path} is empty; expected: UTF-8 text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def shown(text, most=40):
    """The beginning of what a file holds, fit for a message whatever it is."""
    return repr(text[:most]) + ("..." if len(text) > most else "")


def digest(name):
    """A hash to put names in order by; that of a file need not be Unicode."""
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()


def part_in(name, parts):
    """Which of `parts` the name of a file says in a word of its own, as x-train.txt; else None.

    DataError if it says several.
    """
    found = [part for part in parts if part in re.split("[^a-z]+", name.lower())]
    if len(found) > 1:
        raise DataError(
            f"{name} says {' and '.join(found)}; expected: one of them in the name of a file"
        )
    return found[0] if found else None


class Vocabulary:
    """Words and their numbers: `words[ids[word]] == word`."""

    def __init__(self, words):
        self.words = list(words)
        self.ids = {word: i for i, word in enumerate(self.words)}

    def __len__(self):
        return len(self.words)

    def encode(self, words):
        """The numbers of `words`; of those not here that of UNKNOWN, DataError if it has none."""
        other = self.ids.get(UNKNOWN)
        ids = [self.ids.get(word, other) for word in words]
        if None in ids:
            missing = sorted({word for word, i in zip(words, ids, strict=True) if i is None})
            raise DataError(
                f"training did not have {', '.join(shown(str(x)) for x in missing[:5])}; expected:"
                " words and labels that occur in what there is to train on; leave the others out"
            )
        return np.array(ids, int)


def vocabulary(sequences, special=(), least=1, most=None):
    """The `special` words, then those that occur `least` times, commonest first, at most `most`."""
    count = collections.Counter(word for sequence in sequences for word in sequence)
    kept = [word for word, n in count.most_common(most) if n >= least and word not in special]
    return Vocabulary([*special, *kept])


def padded(rows, padding=0):
    """The rows of ids as one array (B, longest), and their lengths (B,)."""
    lengths = np.array([len(row) for row in rows])
    out = np.full((len(rows), lengths.max()), padding)
    out[np.arange(out.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return out, lengths


def batches(lengths, size, rng):
    """Arrays of indices of sequences of about one length, in random order: an epoch."""
    by_length = np.argsort(lengths + rng.uniform(0, 2, len(lengths)))
    parts = np.array_split(by_length, math.ceil(len(lengths) / size))
    return [parts[i] for i in rng.permutation(len(parts))]


# ---- what a run prints and writes ----


class Run:
    """One run of a demo: what it says, its progress, and the files it leaves in `args.out`."""

    def __init__(self, args):
        self.out, self.quiet, self.plot, self.files = args.out, args.quiet, not args.no_plot, []
        self.out.mkdir(parents=True, exist_ok=True)
        more = getattr(args, "resume", False)
        if not more:
            begin_anew(self.out)
        for left in self.out.glob(".*.saving-*"):  # half a file, of a run that was killed
            if not CHECKPOINT.match(left.name[1:]):  # whose, and when, `tg.Checkpoints` knows
                left.unlink()
        path = self.path(METRICS)
        cut_short = more and path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        self.metrics = path.open("a" if more else "w", encoding="utf-8")
        self.metrics.write("\n" if cut_short else "")
        tg.manual_seed(args.seed)
        settings = {key: str(value) for key, value in vars(args).items() if key != "command"}
        self.say("settings: " + ", ".join(f"{key} {value}" for key, value in settings.items()))
        self.log(settings=settings)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):  # of a line that `log` has said it could not write
            self.metrics.close()

    def say(self, text=""):
        """Print `text`, unless --quiet."""
        if not self.quiet:
            print(text, flush=True)

    def path(self, name):
        """The path of the file `name` of this run, to be listed at the end; it is in `args.out`."""
        if Path(name).name != name or name in ("", ".."):
            raise ValueError(f"{name!r} is no name of a file")
        self.files.append(name)
        return self.out / name

    def log(self, **figures):
        """Append one line to METRICS."""
        try:
            self.metrics.write(json.dumps(figures, default=float) + "\n")
            self.metrics.flush()
        except OSError as error:
            error.filename = str(self.out / METRICS)
            raise

    def sync(self):
        """Have METRICS on the disk, whatever happens to the machine."""
        os.fsync(self.metrics.fileno())

    def epochs(self, label):
        """What `fit` logged of each epoch, also before the run was gone on with."""
        lines = figures_of(self.out)
        last = {line["epoch"]: line for line in lines if is_epoch(line, label)}
        return list(last.values())

    def table(self, name, columns):
        """Write `columns`, by their heads, to NAME.csv."""
        with self.path(name + ".csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(columns)
            csv.writer(file).writerows(zip(*columns.values(), strict=True))

    def figure(self, name, size, layout="constrained"):
        """A figure, so many inches wide and high, to be saved as NAME.png.

        None with --no-plot, and without matplotlib, which it then says.
        """
        if not self.plot:
            return None
        try:
            from matplotlib.figure import Figure  # by itself it draws with Agg, on any machine
        except ImportError:
            self.say(f"{name}.png left out: pip install 'tinygrad_rnn[demos]' brings matplotlib")
            return None
        return Figure(figsize=size, layout=layout)

    def curves(self, name, columns, y_label, levels=None, log_scale=False):
        """Write `columns` (the first is the x axis) to NAME.csv and draw them in NAME.png.

        `levels` are horizontal lines to compare with: {label: y}.
        """
        self.table(name, columns)
        figure = self.figure(name, (7, 4.2))
        if figure is None:
            return
        axes = figure.subplots()
        (x_label, xs), *series = columns.items()
        for label, ys in series:
            axes.plot(xs, ys, label=label, marker="." if len(xs) == 1 else "")  # one point, no line
        for i, (label, y) in enumerate((levels or {}).items()):
            axes.axhline(y, color="grey", linewidth=0.8, linestyle=":")
            x = (i + 0.5) / len(levels)  # one beside the other, for two lines may be close
            axes.annotate(label, (x, y), xycoords=("axes fraction", "data"), fontsize=7)
        axes.set(xlabel=x_label, ylabel=y_label, yscale="log" if log_scale else "linear")
        axes.legend(frameon=False)
        figure.savefig(self.path(name + ".png"), dpi=120)


def begin_anew(folder):
    """Remove the checkpoints of a finished run; DataError if there are those of another."""
    lines = figures_of(folder)
    if any("claims" in line for line in lines):  # which `main` logs last
        own = {prefix(str(line.get("label"))) for line in lines if "epoch" in line}
        for path, label in checkpoints_in(folder):
            if label in own:  # without the lines of their epochs nothing goes on from them
                path.unlink()
    elif found := {label for _, label in checkpoints_in(folder)}:
        files = " ".join(shlex.quote(f"{folder / label}-") + "*.npz" for label in sorted(found))
        stand = " and ".join(where_it_stands(folder, label) for label in sorted(found))
        raise DataError(
            f"{folder} holds a run that is not finished ({stand}); --resume goes on with it,"
            f" another --out begins anew, or remove {files}"
        )


def checkpoints_in(folder):
    """The files of checkpoints, and the labels in their names."""
    names = [(path, CHECKPOINT.fullmatch(path.name)) for path in folder.iterdir()]
    return [(path, found[1]) for path, found in names if found]


def where_it_stands(folder, label):
    """After how many steps the newest checkpoint of a label was written that is whole."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of those that are not
            steps = len(tg.Checkpoints(folder, label).latest()["losses"])
    except (tg.CheckpointError, TypeError, LookupError):
        return f"{label}: no checkpoint can be read"
    return f"{label}: after {steps:,} steps"


def prefix(label):
    """What the files of the checkpoints of `fit` with this label begin with."""
    return label.replace(" ", "_")


def figures_of(folder):
    """The figures in each line of METRICS; none if there is no such file."""
    if not (folder / METRICS).exists():
        return []
    text = read_bytes(folder / METRICS).decode(errors="replace")
    return [figures_in(line) for line in text.split("\n")]


def figures_in(line):
    """The figures in a line of METRICS; none in one that was cut short when a run was killed."""
    try:
        figures = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return figures if isinstance(figures, dict) else {}


def is_epoch(figures, label):
    """Whether they are those of an epoch, as `fit` logs them; a user may have edited the file."""
    numbers = isinstance(figures.get("epoch"), int) and isinstance(figures.get("loss"), float)
    score = isinstance(figures.get("validation", ""), (int, float, type(None)))
    return numbers and score and figures.get("label") == label


class Progress:
    """A bar on a terminal with tqdm, else a plain line every few seconds; with `quiet` nothing."""

    def __init__(self, run, label):
        self.run, self.label, self.bar = run, label, None
        self.next_line = time.monotonic() + PLAIN_LINE_EVERY
        if not run.quiet and sys.stdout and sys.stdout.isatty():
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
