"""Hostile files for every reader of the demos, and the law that none of them breaks.

The law: of any bytes a reader makes something that keeps its contract, or it raises the error that
it documents, with a message of a line or two that names the file and says what was expected.  It
never raises another error, never warns, never recurs too deep and never hangs.

`READERS` are the readers, `MONSTERS` files that somebody thought of, `cases` files that nobody did:
random bytes and texts, and valid files with parts deleted, doubled, swapped, cut and spliced.
`python -m tests.monsters` tries them all, with lines of 100 MB, and prints what came of it.
"""

import collections
import contextlib
import io
import signal
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings

import tinygrad_rnn as tg
from tests.bestiary import GROWING, cases, monsters, spoilt
from tests.readers import READERS, write

HANG = 60  # seconds of a processor, for what takes milliseconds
LONGEST_MESSAGE = 900  # characters; what is wrong may be a word of many megabytes
MANY = 200  # parts of a file whose growth is counted
BINARY = ("pictures", "fonts", "saved nets", "weights to begin with")  # too large twice over
DEEP = ("right", "left", "both sides")
LARGE = {  # parts
    "one long word": 100_000_000,
    "one long line of short words": 100_000_000,
    "empty lines": 1_000_000,
    **{f"brackets to {'the ' * (where != 'both sides')}{where}": 100_000 for where in DEEP},
    "a chain of brackets": 100_000,
    "one bracket too few": 100_000,
}
SHAPES = (None, "brackets to both sides", "a chain of brackets over two", "short lines")
READ_LARGE = ("text", "characters", "next characters", "paragraphs", "lines of words")
READ_LARGE += ("translations", "trees in brackets", "treebank", "tags", "labelled texts")


# ---- the law ----


class Hang(Exception):
    """A reader that does not come to an end."""


def verdict(reader, folder, seconds=HANG):
    """ "read" or "refused", for the files in `folder`; any other exception breaks the law."""
    path = Path(folder, reader.given)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), watched(seconds):
        warnings.simplefilter("error")
        try:
            found = reader.read(path)
        except reader.errors as error:
            check_message(error, path)
            return "refused"
    reader.check(found)
    return "read"


def check_message(error, path):
    """AssertionError unless it names a file, says what was expected, and is fit for a terminal."""
    message = str(error)
    assert len(message) < LONGEST_MESSAGE + 3 * len(str(path)), message
    assert all(line.isprintable() for line in message.split("\n")), message
    if isinstance(error, tg.CheckpointError):  # of a model, which knows no file
        assert "hint: " in message, message
        return
    names = {path.name, *(p.name for p in (path.iterdir() if path.is_dir() else ()))}
    assert any(name and name in message for name in names) or message[:2] == "--", message
    assert "expected" in message, message


@contextlib.contextmanager
def watched(seconds):
    """Hang, raised in the block, if it takes a processor for much longer than it should."""

    def stop(*_):
        raise Hang(f"not done after {seconds} seconds")

    # The second is for what waits, for a pipe say, and takes no time of the processor.
    timers = {signal.SIGVTALRM: signal.ITIMER_VIRTUAL, signal.SIGALRM: signal.ITIMER_REAL}
    before = {number: signal.signal(number, stop) for number in timers}
    for timer, limit in zip(timers.values(), (seconds, 10 * seconds), strict=True):
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for number, timer in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def tried(reader, files, seconds=HANG):
    """The verdict on {name: bytes}."""
    with tempfile.TemporaryDirectory(prefix="monsters-") as folder:
        write(files, folder)
        return verdict(reader, folder, seconds)


# ---- archives that lie ----


def a_bomb(size):
    """A small .npz whose pictures unpack to so many zeros."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (-(-size // 2**20), 2**10, 2**10)}

    def write_to(member):
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(header["shape"][0]):
            member.write(bytes(2**20))

    return packed(write_to)


def a_claim(shape):
    """A small .npz whose pictures claim to have this shape."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    return packed(lambda member: np.lib.format.write_array_header_1_0(member, header))


def packed(write_to):
    """An .npz in which `write_to(file)` has written the pictures."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member:
            write_to(member)
        archive.writestr("captions.npy", b"")
    return file.getvalue()


# ---- time and memory, counted ----


def growth(reader, make):
    """How work grows with a file: 2 if it is linear, 4 if it grows with the square; and memory.

    `make(n)` are {name: bytes} of n parts.  Of work it is what the last of two doublings adds,
    relative to the one before; of memory, which grows in steps, all of it after and before.
    """
    runs = [partial(tried, reader, make(n * MANY)) for n in (1, 2, 4)]
    first, second, third = map(work, runs)
    return (third - second) / max(second - first, 200), memory(runs[2]) / memory(runs[1])


def work(run):
    """How many lines of Python and how many calls of functions, of Python or C, `run` takes."""
    count = 0

    def trace(*_):
        nonlocal count
        count += 1
        return trace

    def profile(frame, event, function):
        nonlocal count
        count += event == "c_call"

    tracing = sys.gettrace()
    run()  # what is set up once is not counted
    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
        sys.settrace(tracing)
    return count


def memory(run):
    """The bytes that `run` needs at its peak."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        run()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def repeated(reader):
    """The function that gives the valid files, each so many times over."""
    return lambda n: {name: content * (n // 50) for name, content in reader.files.items()}


def lengthened(reader, what):
    """The function that gives the valid files, each with a growing monster at its end."""
    return lambda n: {name: file + b"\n" + GROWING[what](n) for name, file in reader.files.items()}


# ---- the figures ----


def figures(full):
    """What was tried and what came of it."""
    count, crashes = collections.Counter(), []

    def note(kind, reader, what, run):
        count[kind] += 1
        try:
            count[run()] += 1
        except Exception as error:
            traceback.print_exc()
            crashes.append(f"{reader.name}, {what}: {type(error).__name__}")

    for reader in READERS:
        for what, files in monsters(reader):
            note("by hand", reader, what, partial(tried, reader, files))
        with tempfile.TemporaryDirectory(prefix="monsters-") as folder:
            for what, place in spoilt(reader, folder):
                note("no files", reader, what, partial(not_read, reader, place))
        by_chance(reader, (1000 if full else 20) // reader.cost, note)
    found = {
        "readers of what a user gives": len(READERS),
        "hostile files by hand": count["by hand"],
        "pipes, devices, folders, links, files too large": count["no files"],
        "hostile files by chance": count["by chance"],
    }
    if full:
        found |= large(note) | grown()
    return found | {
        "documented errors": count["refused"],
        "read after all, with the contract kept": count["read"],
        "crashes, warnings and hangs": len(crashes),
    }


def by_chance(reader, examples, note):
    """Note what comes of so many hostile files that nobody thought of, the same each time."""

    @settings(
        max_examples=max(examples, 1),
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(reader))
    def chance(files):
        note("by chance", reader, "by chance", partial(tried, reader, files))

    chance()


def large(note):
    """Figures of lines of 100 MB, a million lines, and brackets 100,000 deep, behind valid text."""
    seconds = {}
    for reader in READERS:
        for what, size in LARGE.items() if reader.name in READ_LARGE else ():
            name = next(iter(reader.files))
            files = {**reader.files, name: lengthened(reader, what)(size)[name]}
            begun = time.process_time()
            note("large", reader, what, partial(tried, reader, files, HANG * 10))
            seconds[f"{what} as {reader.name}"] = time.process_time() - begun
    slowest = max(seconds, key=seconds.get)
    return {
        "lines of 100 MB, a million lines, brackets 100,000 deep": len(seconds),
        "the slowest of them": f"{slowest}, {seconds[slowest]:.0f} s of a processor",
    }


def grown():
    """Figures of how work and memory grow, over all readers of what may be large."""
    readers = [reader for reader in READERS if reader.name not in BINARY]
    found = [
        growth(r, lengthened(r, what) if what else repeated(r)) for r in readers for what in SHAPES
    ]
    more, memory = map(max, zip(*found, strict=True))
    return {
        "growth of work and memory counted": len(found),
        "most that twice the file adds to the work, 2 if linear": f"{more:.2f}",
        "most memory for twice the file, relative": f"{memory:.2f}",
    }


def not_read(reader, place):
    """The verdict where the system may refuse, too: its own messages are of its own kind."""
    try:
        return verdict(reader, place)
    except OSError:
        return "refused"


if __name__ == "__main__":
    for phrase, figure in figures(full=True).items():
        print(f"{phrase}: {figure}", flush=True)
