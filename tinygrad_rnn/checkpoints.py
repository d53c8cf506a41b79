"""Checkpoints of a training run: the last few and the best, each of them whole or not there."""

from __future__ import annotations

import math
import numbers
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from .errors import CheckpointError, DtypeError, SettingError, described, expect_count
from .saving import host_array, is_plain, load, save
from .tensor import Tensor

__all__ = ["Checkpoints"]

_VERSION = 1
_KEY = "checkpoint"  # in the metadata of a file
_MOST_LEVELS = 50  # of a nested state
_LONG = 1000  # numbers of a list, from which on they are an array in the file


class Checkpoints:
    """What a training run is gone on with from: its last ``keep`` states, and that of best score.

    A state is all that decides how a run goes on: numbers, strings, None, arrays and Tensors, in
    dicts, lists and tuples.  They come back as they were; but Tensors on the host and untracked,
    NumPy's scalars as arrays without axes, NamedTuples as tuples.  This program may be killed at
    any time and started again, and ends with the same weights, bit by bit:

        tg.manual_seed(0)
        model, rng = tg.nn.LSTMCell(2, 3), np.random.default_rng(0)
        optimizer, hidden, step = tg.optim.Adam(model.parameters()), None, 0
        checkpoints = tg.Checkpoints("run")
        if saved := checkpoints.latest():
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            rng.bit_generator.state = saved["rng"]
            hidden, step = saved["hidden"], saved["step"]
        while step < 20:
            h, c = model(rng.normal(size=(4, 2)).astype("f4"), hidden)
            loss = (h * h).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            hidden, step = tg.detach((h, c)), step + 1
            checkpoints.save({
                "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "rng": rng.bit_generator.state, "hidden": hidden, "step": step,
            }, score=-loss.item())

    Dropout draws from the default generator: save ``tg.default_rng().bit_generator.state`` too.
    Each state is a file of its own, ``LABEL-000001.npz`` and so on.  From ``latest`` or the first
    ``save`` on, as long as this object lives, no other program may have those of its label.  Where
    there are those of a run before, ``save`` wants ``latest`` to have gone on from them: nothing of
    theirs is removed by mistake.
    """

    def __init__(
        self, folder: str | os.PathLike[str], label: str = "checkpoint", keep: int = 3
    ) -> None:
        if not isinstance(folder, (str, os.PathLike)):
            raise DtypeError(
                f"Checkpoints: folder is {described(folder)}\n  expected: the name of a folder\n"
                "  hint: tg.Checkpoints('runs/mine')"
            )
        fits = isinstance(label, str) and label.isprintable() and not set("/\\") & set(label)
        if not fits or label[:1] in ("", "."):
            raise SettingError(
                f"Checkpoints: label is {label!r:.60}\n  expected: a file's name\n"
                "  hint: the folder is the first argument, 'runs/mine'; the label a word; how many"
                " to keep the third, keep=3"
            )
        expect_count("Checkpoints", "keep", keep)
        # A program may change its current folder.
        self.folder, self.label, self.keep = os.path.abspath(folder), label, keep
        os.makedirs(folder, exist_ok=True)
        # The numbers of the files of this run; None if it has neither begun nor gone on.
        self._own: list[int] | None = None
        self._lock: _Lock | None = None
        self._best: tuple[int, float] | None = None  # of them, and its score

    def save(self, state: Any, score: float | None = None) -> None:
        """Write the state to a file, whole; then remove those that are no longer kept.

        ``score``, if there is one, says how good the model is: the higher the better.
        CheckpointError if there are states of a run before from which ``latest`` has not gone on,
        SettingError if another program is writing them, DtypeError for what cannot be saved,
        OSError if the disk refuses: then all is as it was.  Files that cannot be removed are tried
        again after the next save.
        """
        self._claim()
        on_disk, score = self._on_disk(), None if score is None else _score(score)
        if self._own is None and on_disk:
            raise CheckpointError(
                f"Checkpoints.save: {self.folder} holds states of a run before, {self.label}-*.npz"
                "\n  hint: latest() goes on from them; another folder, or label, begins anew"
            )
        self._own = self._own or []
        arrays: dict[str, Any] = {}
        layout = _taken_apart(state, "state", arrays)
        number = 1 + max(on_disk, default=0)
        best = self._best
        if score is not None and score > (best[1] if best else -math.inf):
            best = number, score
        note = {"version": _VERSION, "label": self.label, "number": number, "best": best}
        try:
            save(self._path(number), arrays, {_KEY: {**note, "layout": layout}})
        except DtypeError as error:  # it is too much
            told, _, expected = error.args[0].partition("\n")
            raise DtypeError(
                f"Checkpoints.{told}, most of it in {_largest(layout)}\n"
                f"{expected.partition('  hint: ')[0]}"
                "  hint: of what is long save an array, np.array(list); of a loss, loss.item()"
            ) from error
        self._best = best
        self._own = [*self._own, number][-self.keep :]
        self._tidy()

    def latest(self) -> Any:
        """The newest state that is whole, from which this run now goes on; None if there is none.

        A file that is damaged is named in a warning, and the one before it is taken.
        CheckpointError if there are files and all are damaged, SettingError if another program is
        writing them.
        """
        self._claim()
        state, self._best, self._own = self._newest()
        return state

    def best(self) -> Any:
        """The state of the best score so far, the first of equals; None if none had a score.

        CheckpointError if its file is damaged, FileNotFoundError if somebody has removed it.
        """
        best = self._newest()[1] if self._own is None else self._best
        return None if best is None else self._read(best[0])[0]

    def _newest(self) -> tuple[Any, tuple[int, float] | None, list[int]]:
        """The newest state that is whole, the best up to it, and the files up to it by number."""
        numbers, damaged = sorted(self._on_disk()), []
        for i, number in reversed([*enumerate(numbers)]):
            try:
                state, best = self._read(number)
            except (CheckpointError, OSError) as error:
                damaged.append(f"{self._path(number)}: {_reason(error)}")
                continue
            for line in damaged:
                warnings.warn(f"{line}; going on from {self._path(number)}", stacklevel=3)
            return state, best, numbers[: i + 1]
        if damaged:
            raise CheckpointError(
                "\n  ".join(["Checkpoints: no file is whole", *damaged])
                + f"\n  hint: to begin anew, remove {self._path('*')}"
            )
        return None, None, []

    def _read(self, number: int) -> tuple[Any, tuple[int, float] | None]:
        """The state in a file, and which was the best when it was written."""
        saved = load(self._path(number), max_bytes=sys.maxsize)  # it may be as large as the run
        note = saved.metadata.get(_KEY)
        if not isinstance(note, dict) or note.get("version") != _VERSION:
            raise CheckpointError(f"it holds no state of Checkpoints of version {_VERSION}")
        if (note.get("label"), note.get("number")) != (self.label, number):
            raise CheckpointError(f"it was written as {note.get('label')}-{note.get('number')}")
        try:
            return _put_together(note["layout"], saved), _checked(note["best"], number)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError("its layout is not as it says") from error

    # ---- files ----

    def _claim(self) -> None:
        """Have the files of this label; SettingError if another program has them."""
        try:
            self._lock = self._lock or _lock(os.path.join(self.folder, f".{self.label}.lock"))
        except BlockingIOError as error:
            raise SettingError(
                f"Checkpoints: another program is writing {self.label!r} in {self.folder}\n"
                "  hint: wait until it has ended; or another folder, or label"
            ) from error

    def _path(self, number: int | str) -> str:
        name = f"{number:06}" if isinstance(number, int) else number
        return os.path.join(self.folder, f"{self.label}-{name}.npz")

    def _on_disk(self) -> list[int]:
        """The numbers of all files of this label."""
        return [int(found[1]) for found in self._matches(r"(\d{6,})\.npz")]

    def _tidy(self) -> None:
        """Remove the files of this label that are not kept, and what a kill left half written."""
        kept = {*(self._own or []), *([self._best[0]] if self._best else [])}
        with suppress(OSError):  # what is left is found again the next time
            names = [self._path(number) for number in self._on_disk() if number not in kept]
            names += [os.path.join(self.folder, found[0]) for found in self._matches(_HALF_WRITTEN)]
            for name in names:
                with suppress(OSError):
                    os.unlink(name)

    def _matches(self, ending: str) -> Iterator[re.Match[str]]:
        """What in the folder has a name of this label with this ending."""
        pattern = re.compile(rf"\.?{re.escape(self.label)}-{ending}")
        return (found for name in os.listdir(self.folder) if (found := pattern.fullmatch(name)))


class _Lock:
    """The right to a file that a process has while this lives."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


_LOCKS: WeakValueDictionary[str, _Lock] = WeakValueDictionary()  # of this process, by path


def _lock(path: str) -> _Lock | None:
    """The lock of this process on a file; BlockingIOError if another has it; None without locks."""
    if path not in _LOCKS:
        try:
            import fcntl  # which Windows lacks

            lock = _Lock(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            fcntl.lockf(lock.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except (ImportError, OSError):  # a folder that can only be read, a disk that has no locks
            return None
        return _LOCKS.setdefault(path, lock)
    return _LOCKS[path]


_HALF_WRITTEN = r"\d{6,}\.npz\.saving-.*"  # as ``save`` names it; its process is no more


def _score(score: Any) -> float:
    """A score as a float; DtypeError if it is no number."""
    with suppress(OverflowError):
        if isinstance(score, numbers.Real):
            return float(score)
    raise DtypeError(
        f"Checkpoints.save: score is {described(score)}\n  expected: a number that a float can be\n"
        "  hint: score=-loss.item(), or of several numbers their mean"
    )


def _checked(best: Any, number: int) -> tuple[int, float] | None:
    """What a file says of the best up to this number; an error of any kind if it cannot be so."""
    if best is None:
        return None
    which, score = best
    if type(which) is int and 0 < which <= number and isinstance(score, float):
        return which, score
    raise ValueError(best)


def _reason(error: Exception) -> str:
    """What is wrong with a file, in one line."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error.args[0]).splitlines()[0].partition("): ")[2] or str(error.args[0])


# ---- nested states -----------------------------------------------------------------------------


def _taken_apart(value: Any, name: str, arrays: dict[str, Any], level: int = 0) -> dict[str, Any]:
    """``value`` in terms of JSON: ``{kind: what is inside}``; its arrays go to ``arrays`` by name.

    The kind is value, dict, list, tuple, array, tensor, or numbers: of them a long list is an array
    in the file.  What holds none of the others is one value.
    """
    if level > _MOST_LEVELS:
        raise DtypeError(
            f"Checkpoints.save: {name:.60}... is nested more than {_MOST_LEVELS} deep\n"
            "  hint: does the state hold itself?"
        )

    def named(array: Any) -> str:
        """Its name in the file."""
        unique = name if name.isprintable() else ascii(name)
        while unique in arrays:  # {"a": {"b": x}, "a.b": y}
            unique += "'"
        arrays[unique] = array
        return unique

    def inner(key: object, part: Any) -> dict[str, Any]:
        return _taken_apart(part, f"{name}.{key}", arrays, level + 1)

    if isinstance(value, (Tensor, np.ndarray, np.generic)) or hasattr(value, "__array__"):
        array = host_array(value)
        if not is_plain(array.dtype):
            raise DtypeError(
                f"Checkpoints.save: {name} is {described(array)}\n"
                "  expected: arrays of floats, integers or booleans\n"
                "  hint: of strings save x.tolist(), of complex numbers x.real and x.imag, of long"
                " doubles x.astype(float)"
            )
        return {"tensor" if isinstance(value, Tensor) else "array": named(array)}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        parts = {key: inner(key, part) for key, part in value.items()}
        return {"value": value} if _all_values(parts.values()) else {"dict": parts}
    if isinstance(value, list) and len(value) >= _LONG and {*map(type, value)} in ({int}, {float}):
        with suppress(OverflowError):  # of integers beyond int64
            return {"numbers": named(np.array(value, np.int64 if type(value[0]) is int else float))}
    if isinstance(value, (list, tuple)):
        several = [inner(i, part) for i, part in enumerate(value)]
        if isinstance(value, tuple):
            return {"tuple": several}
        return {"value": value} if _all_values(several) else {"list": several}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise DtypeError(
        f"Checkpoints.save: {name} is {described(value)}\n"
        "  expected: numbers, strings, None, arrays, Tensors; in lists, tuples, dicts by name\n"
        "  hint: of a model and an optimiser save the state_dict(), of a generator rng the"
        " rng.bit_generator.state"
    )


def _all_values(parts: Iterable[dict[str, Any]]) -> bool:
    return all("value" in part for part in parts)


def _largest(layout: dict[str, Any]) -> str:
    """The name of the part of a state of which there is the most that is no array."""
    (inside,) = layout.values()
    with suppress(ValueError):  # an integer may be too long to be written
        if isinstance(inside, dict):
            return "state." + max(inside, key=lambda key: len(repr(inside[key])))
    return "state"


def _put_together(layout: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    """What ``_taken_apart`` made this of."""
    ((kind, inside),) = layout.items()
    if kind == "value":
        return inside
    if kind == "dict":
        return {key: _put_together(part, arrays) for key, part in inside.items()}
    if kind in ("list", "tuple"):
        parts = [_put_together(part, arrays) for part in inside]
        return parts if kind == "list" else tuple(parts)
    if kind == "array":
        return arrays[inside]
    if kind == "numbers":
        return arrays[inside].tolist()
    if kind == "tensor":
        return Tensor(arrays[inside])
    raise ValueError(kind)
