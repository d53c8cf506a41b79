"""Faults on purpose, while checkpoints are written, read, and trained on: what came of each?

    python -m tests.faults

A fault in writing is survived if it is told as what it is, with the name of the file, every file
that was there has the bytes that it had, nothing else is there, and the next write succeeds.  A
fault in a file is survived if it is noticed and named, or does no harm, and the checkpoint before
it is taken.  A fault in a training run is survived if the run says in one line what is wrong, and
then goes on to the same bits.
"""

import contextlib
import errno
import io
import itertools
import os
import resource
import shutil
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from tests import runs
from tinygrad_rnn import saving


def state(i):
    """A state to be saved, the i-th."""
    rng = np.random.default_rng(i)
    return {
        "w": rng.normal(size=(4, 5)),
        "h": (rng.normal(size=3),),
        "rng": rng.bit_generator.state,
    }


def bits(value):
    """A state in a form whose equality is that of all bits."""
    if isinstance(value, dict):
        return {key: bits(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(map(bits, value))
    return (value.dtype.str, value.tobytes()) if isinstance(value, np.ndarray) else value


def files(folder):
    """What is in a folder but locks: {name: bytes}."""
    paths = [path for path in folder.iterdir() if path.is_file() and path.suffix != ".lock"]
    return {path.name: path.read_bytes() for path in paths}


def sample(n, most):
    """At most so many of the numbers below n, evenly spread, the first and the last among them."""
    return sorted({round(x) for x in np.linspace(0, n - 1, min(n, most))})


# ---- while a file is written ----


class Failing(io.FileIO):
    """A file whose n-th call of write, from 0, raises an error; `calls` counts them all."""

    calls = 0

    def __init__(self, descriptor, mode, n, error):
        super().__init__(descriptor, mode)
        self.n, self.error = n, error

    def write(self, data):
        Failing.calls += 1
        if Failing.calls == self.n + 1:
            raise self.error
        return super().write(data)


def failing_write(n, error):
    """A context in which the n-th write to a file of `tg.save` fails."""
    Failing.calls = 0
    return mock.patch.object(
        saving, "open", lambda path, mode: Failing(path, mode, n, error), create=True
    )


def writes():
    """How many writes there are in saving a state."""
    with tempfile.TemporaryDirectory() as folder, failing_write(-1, None):
        tg.Checkpoints(folder).save(state(0))
    return Failing.calls


@contextlib.contextmanager
def full_disk(size):
    """The system lets no file of this process grow beyond so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextlib.contextmanager
def read_only(folder):
    """A folder that its user may not write to; root, who may write anywhere, is nobody in it."""
    is_root = os.geteuid() == 0
    folder.chmod(0o555)
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)


@contextlib.contextmanager
def vanished(folder):
    """A folder that is not there, as when a disk is taken away."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    try:
        yield
    finally:
        aside.rename(folder)


def refusing(name, code):
    """A context in which a function of `os` fails."""
    return mock.patch.object(os, name, side_effect=OSError(code, os.strerror(code)))


def writing_faults(folder, most):
    """Contexts in which a save fails, by kind of fault: (kind, its error, context)."""
    full, broken = errno.ENOSPC, errno.EIO
    size = len((folder / "checkpoint-000001.npz").read_bytes())
    for limit in sample(size, most):
        yield "the system refuses more than so many bytes", OSError, full_disk(limit)
    for n in sample(writes(), most):
        error = OSError(full, os.strerror(full))
        yield "disk full at this write", OSError, failing_write(n, error)
        yield "Ctrl-C at this write", KeyboardInterrupt, failing_write(n, KeyboardInterrupt())
        yield "no memory at this write", MemoryError, failing_write(n, MemoryError())
    yield "fsync fails", OSError, refusing("fsync", broken)
    yield "rename fails", OSError, refusing("replace", broken)
    yield "read-only folder", OSError, read_only(folder)
    yield "folder gone", OSError, vanished(folder)


def writing(most):
    """For each fault while a checkpoint is written (kind, whether it is survived)."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = Path(place, "run")
        tg.Checkpoints(folder).save(state(0))
        for kind, error, fault in writing_faults(folder, most):
            checkpoints = tg.Checkpoints(folder, keep=1)
            checkpoints.latest()
            before, told = files(folder), None
            with fault:
                try:
                    checkpoints.save(state(1))
                except error as caught:
                    told = caught
            named = error is not OSError or str(folder) in str(told)
            as_before = files(folder) == before
            last = bits(tg.Checkpoints(folder).latest()) == bits(state(0))
            checkpoints.save(state(2))
            again = bits(tg.Checkpoints(folder).latest()) == bits(state(2))
            yield kind, told is not None and named and as_before and last and again
            shutil.rmtree(folder)
            tg.Checkpoints(folder).save(state(0))


# ---- in a file ----


def damages(whole, most):
    """Damaged forms of a file: (kind, bytes)."""
    for length in sample(len(whole), most):
        yield "truncated", whole[:length]
    for i in sample(len(whole), most):
        yield "a bit flipped", whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :]
    for i in sample(len(whole) - 64, most // 4):
        yield "64 bytes lost to zeros", whole[:i] + bytes(64) + whole[i + 64 :]
    yield "replaced by noise", np.random.default_rng(0).bytes(len(whole))


def reading(most):
    """For each damage to the newest of three checkpoints (kind, whether it is survived)."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        checkpoints, other = tg.Checkpoints(folder), tg.Checkpoints(folder, "other")
        for i in range(3):
            checkpoints.save(state(i))
            other.save(state(10 + i))
        newest, whole = folder / "checkpoint-000003.npz", files(folder)
        swapped = [
            ("a checkpoint of another run in its place", whole["other-000003.npz"]),
            ("an older checkpoint in its place", whole["checkpoint-000002.npz"]),
        ]
        for kind, content in itertools.chain(damages(whole[newest.name], most), swapped):
            newest.write_bytes(content)
            with warnings.catch_warnings(record=True, action="always") as told:
                found = bits(tg.Checkpoints(folder).latest())
            named = [str(newest) in str(one.message) for one in told]
            noticed = found == bits(state(1)) and named == [True]
            harmless = found == bits(state(2)) and not named and kind != "truncated"
            newest.write_bytes(whole[newest.name])
            yield kind, (noticed or harmless) and files(folder) == whole


def reading_models(most):
    """For each damage to a model in a .safetensors (kind, whether it is survived)."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "model.safetensors")
        tg.save(path, {"w": state(0)["w"]}, {"words": ["a", "b"]})
        right = tg.load(path)
        for kind, content in damages(path.read_bytes(), most):
            path.write_bytes(content)
            try:
                found = tg.load(path)
            except tg.CheckpointError as error:
                yield kind, str(path) in str(error)
            else:
                yield kind, bits(found) == bits(right) and found.metadata == right.metadata


# ---- in a training run ----


def run_of(args):
    """The exit code of a training run, what it writes to stderr, and its weights and losses."""
    ended, err = [], io.StringIO()

    def demo(args, run):
        ended.append(runs.trained(args, run))

    with contextlib.redirect_stderr(err):
        code = kit.main(demo, args)
    return code, err.getvalue(), *ended


@contextlib.contextmanager
def failing_save(i, n, error):
    """A context in which the n-th write of the i-th save of a checkpoint fails."""
    real, saves = tg.checkpoints.save, itertools.count()

    def save(*arguments):
        with failing_write(n, error) if next(saves) == i else contextlib.nullcontext():
            real(*arguments)

    with mock.patch.object(tg.checkpoints, "save", save):
        yield


def writes_of_runs(place):
    """The numbers of writes in each save of a run."""
    counts, real = [], tg.checkpoints.save

    def save(*arguments):
        with failing_write(-1, None):
            real(*arguments)
        counts.append(Failing.calls)

    with mock.patch.object(tg.checkpoints, "save", save):
        run_of(runs.settings(place, "--save-every", "0"))
    return counts


def training(most):
    """For each fault in a training run (kind, whether it is survived)."""
    with tempfile.TemporaryDirectory() as place:
        _, _, whole = run_of(runs.settings(Path(place, "whole")))

        def goes_on(folder, warning=""):
            code, err, ended = run_of(runs.settings(folder, "--save-every", "0", "--resume"))
            told = err.startswith(warning) and err.count("\n") == bool(warning)
            return code == 0 and told and runs.same(ended, whole)

        points = [
            (i, n) for i, count in enumerate(writes_of_runs(Path(place, "w"))) for n in range(count)
        ]
        for k in sample(len(points), min(most, 300)):
            for kind, code in {"disk full": errno.ENOSPC, "disk broken": errno.EIO}.items():
                folder = Path(place, f"{kind} {k}")
                with failing_save(*points[k], OSError(code, os.strerror(code))):
                    code, err, *_ = run_of(runs.settings(folder, "--save-every", "0"))
                told = code == 1 and err.startswith("error: [Errno ") and err.count("\n") == 1
                told = told and str(folder / "training-") in err and err.endswith(" --resume\n")
                half = list(folder.glob(".*.saving-*"))
                yield f"{kind} at this write", told and not half and goes_on(folder)
        for k in sample(runs.STEPS - 3, most):
            folder = Path(place, f"damaged {k}")
            with contextlib.suppress(runs.Stopped):
                runs.train(runs.settings(folder, "--save-every", "0"), runs.stop_at(k + 3))
            newest = max(folder.glob("*.npz"))
            content = newest.read_bytes()
            newest.write_bytes(content[: len(content) * k // runs.STEPS])
            yield "the newest checkpoint truncated", goes_on(folder, f"warning: {newest}: ")


# ---- the figures ----

AREAS = {
    "faults while a checkpoint is written": writing,
    "faults in the newest checkpoint": reading,
    "faults in a .safetensors file": reading_models,
    "faults in a training run": training,
}


def outcomes(full):
    """Of each area how many faults of each kind there were, and how many were survived."""
    found = {}
    for area, faults in AREAS.items():
        found[area] = kinds = {}
        for kind, survived in faults(10_000 if full else 8):
            tried, well = kinds.get(kind, (0, 0))
            kinds[kind] = tried + 1, well + survived
    return found


def figures(full):
    """What was tried and survived, by English phrase."""
    found = {}
    for area, kinds in outcomes(full).items():
        tried, survived = np.sum([*kinds.values()], axis=0).tolist()
        found |= {area: tried, f"{area}: survived": survived}
    return found


def main():
    begun, failed = time.monotonic(), 0
    for area, kinds in outcomes(full=True).items():
        print(area)
        for kind, (tried, survived) in kinds.items():
            print(f"  {kind:44}{survived:5} of {tried} survived")
            failed += tried - survived
    print(f"{time.monotonic() - begun:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
