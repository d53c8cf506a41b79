"""Where in the user's program something happens: the line, the modules, the step of a recurrence.

Nothing is written down for this while a program runs well.  When an error is made, the frames of
the stack are still there, and tell: the innermost one that is not of this package is the user's
line; between it and the outermost stand the calls of Modules, and the loops of ``fold`` and of
deferred calls.  Only ``detect_anomaly`` asks for a place at every recorded call.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from types import FrameType
from typing import Any
from weakref import ref

__all__: list[str] = []

_OURS = "tinygrad_rnn"
_LINES = 8  # of the user's, that tell one loop from another
_BETWEEN = ("contextlib", "copy", "functools", "numpy")  # between our frames and the user's


@cache
def _is_users(module: str) -> bool:
    return module.split(".", 1)[0] not in (_OURS, *_BETWEEN)


def _frames() -> Iterator[tuple[FrameType, str]]:
    """The frames of the stack, the innermost first, each with the name of its module."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame, str(frame.f_globals.get("__name__"))
        frame = frame.f_back


class Place:
    """A place in the user's program: ``line`` is file and line; ``scopes`` go outside in.

    A scope is a Module, weakly, or ``(structure, group, name of the cell)`` of a fold, or a text.
    ``calls`` are the calls from the user's line, the last, inwards: the code of each and the place
    in it, equal for the same step of a loop alone.
    """

    __slots__ = ("calls", "has_line", "scopes")

    def __init__(self) -> None:
        self.has_line = False
        self.scopes: list[Any] = []
        self.calls: list[Any] = []
        innermost: FrameType | None = sys._getframe(1)
        frame = innermost
        while frame is not None and not self.has_line:
            self.calls.append((frame.f_code, frame.f_lasti))
            self.has_line = _is_users(str(frame.f_globals.get("__name__")))
            frame = frame.f_back
        frame = innermost
        while frame is not None:  # often many, and with detect_anomaly at every call
            name = frame.f_code.co_qualname
            if name in _SCOPES and str(frame.f_globals.get("__name__")).startswith(_OURS):
                self.scopes[:0] = _SCOPES[name](frame.f_locals)
            frame = frame.f_back

    @property
    def line(self) -> str:
        """``train.py:12``, empty if all calls are of this package."""
        if not self.has_line:
            return ""
        code, place = self.calls[-1]
        numbers = [number for start, end, number in code.co_lines() if start <= place < end]
        return f"{code.co_filename}:{numbers[0]}"

    def __str__(self) -> str:
        """``train.py:12, in forward``; the file alone where there is no function."""
        function = self.calls[-1][0].co_name
        return self.line if function == "<module>" else f"{self.line}, in {function}"

    def steps(self) -> list[str]:
        """The folds and deferred calls that it is in, in words."""
        return [
            scope if isinstance(scope, str) else described_group(*scope)
            for scope in self.scopes
            if not isinstance(scope, ref)
        ]

    def inside(self) -> str:
        """``Tagger.lstm, step t=3 of fold(LSTMCell.step)``; empty outside modules and folds."""
        paths: list[str] = []
        outer: Any = None
        for module in [scope() for scope in self.scopes if isinstance(scope, ref)]:
            if module is None or module is outer:  # as when a module calls itself
                continue
            name = outer.name_of(module) if outer is not None else None
            if name:
                paths[-1] += f".{name}"
            else:  # the outermost, or one that is no attribute of the one around it
                paths.append(type(module).__name__)
            outer = module
        return ", ".join([*paths, *self.steps()])

    def lines(self) -> list[str]:
        """The lines of a message that tell this place."""
        inside = self.inside()
        at = [f"  at: {self}"] if self.line else []
        return [*at, *([f"  in: {inside}"] if inside else [])]


def caller() -> str:
    """File and line of the user's call that this package is working on."""
    for frame, module in _frames():
        if _is_users(module):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return "an unknown line"


def loop_line() -> tuple[int, ...] | None:
    """The calls that lead to here from the last few lines of the user's, as numbers.

    They are the same numbers when a loop passes them again.  None where gradients are added up.
    """
    calls: list[int] = []
    left = _LINES
    for frame, module in _frames():
        if module == f"{_OURS}.backward":
            return None
        calls += id(frame.f_code), frame.f_lasti
        left -= _is_users(module)
        if not left:
            break
    return tuple(calls)


def described_group(structure: Any, group: Any, name: str) -> str:
    """A few words for the nodes that a fold is at: the step of chains, the nodes of a forest."""
    nodes = structure.order[group.start : group.stop]
    height = int(structure.heights[nodes[0]])
    if structure.counts.max() <= 1 and structure.kinds is None:
        with_child = structure.counts.argmax()  # the first node with one; chains are numbered on
        from_end = any(structure.children[:1] > with_child)
        return f"step t={height}{' from the end' if from_end else ''} of {name}"
    shown = ", ".join(map(str, nodes[:5])) + (", ..." if len(nodes) > 5 else "")
    which = f"node {shown}" if len(nodes) == 1 else f"the {len(nodes)} nodes ({shown})"
    return f"{which} of height {height} with {len(group.children)} children of {name}"


def described_calls(calls: list[Any], name: str) -> str:
    """A few words for the deferred calls that a cell is run for."""
    n = len(calls)
    return f"{name}, run for {n} call{'s' * (n > 1)}, the first at {calls[0].place()}"


# ---- the frames that are scopes, by the name of their function, from their local variables -------


def _of_module(names: dict[str, Any]) -> list[Any]:
    return [ref(names["self"])]


def _of_fold(names: dict[str, Any]) -> list[Any]:
    if "group" not in names:
        return []
    module = getattr(names.get("run"), "__self__", None)
    group = (names["structure"], names["group"], names["name"])
    return [*([ref(module)] if hasattr(module, "name_of") else []), group]


def _of_deferred(names: dict[str, Any]) -> list[Any]:
    return [described_calls(names["calls"], names["name"])]


_SCOPES = {"Module.__call__": _of_module, "fold": _of_fold, "_run_batch": _of_deferred}
