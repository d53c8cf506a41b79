"""Where in the user's program something happens: the line, the modules, the step of a recurrence.

Nothing is written down for this while a program runs well.  When an error is made, the frames of
the stack are still there, and tell: the innermost one that is not of this package is the user's
line; between it and the outermost stand the calls of Modules, and the loops of ``fold`` and of
deferred calls.  Only ``detect_anomaly`` asks for a place at every recorded call.
"""

from __future__ import annotations

import sys
from functools import cache
from types import FrameType
from typing import Any
from weakref import ref

__all__: list[str] = []

_OURS = "tinygrad_rnn"
_BETWEEN = ("contextlib", "copy", "functools")  # whose frames stand between ours and the user's


@cache
def _is_ours(module: str) -> bool:
    return module.split(".", 1)[0] == _OURS


class Place:
    """A place in the user's program: ``line`` is file and line; ``scopes`` go outside in.

    A scope is a Module, weakly, or ``(structure, group, name of the cell)`` of a fold, or a text.
    ``calls`` are the calls from the user's line inwards: equal for the same step of a loop alone.
    """

    __slots__ = ("calls", "function", "line", "scopes")

    def __init__(self) -> None:
        frame: FrameType | None = sys._getframe(1)
        self.line, self.function = "", ""
        self.scopes: list[Any] = []
        self.calls: list[Any] = []
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if not self.line:
                self.calls.append((frame.f_code, frame.f_lasti))
            if _is_ours(module):
                scope = _SCOPES.get(frame.f_code.co_qualname)
                if scope is not None:
                    self.scopes[:0] = scope(frame.f_locals)
            elif not self.line and module not in _BETWEEN:
                self.line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                self.function = frame.f_code.co_name
            frame = frame.f_back

    def __str__(self) -> str:
        """``train.py:12, in forward``; the file alone where there is no function."""
        return self.line if self.function == "<module>" else f"{self.line}, in {self.function}"

    def inside(self) -> str:
        """``Tagger.lstm, step t=3 of fold(LSTMCell.step)``; empty outside modules and folds."""
        path, outer, found = "", None, []
        for scope in self.scopes:
            if isinstance(scope, ref):
                module = scope()
                if module is None or module is outer:
                    continue
                name: str | None = outer.name_of(module) if outer is not None else None
                path = f"{path}.{name}" if name else type(module).__name__
                outer = module
            else:
                found.append(scope if isinstance(scope, str) else described_group(*scope))
        return ", ".join([*([path] if path else []), *found])

    def lines(self) -> list[str]:
        """The lines of a message that tell this place."""
        inside = self.inside()
        at = [f"  at: {self}"] if self.line else []
        return [*at, *([f"  in: {inside}"] if inside else [])]


def caller() -> str:
    """File and line of the user's call that this package is working on."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module not in _BETWEEN and not _is_ours(module):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return "an unknown line"


def described_group(structure: Any, group: Any, name: str) -> str:
    """A few words for the nodes that a fold is at: the step of chains, the nodes of a forest."""
    nodes = structure.order[group.start : group.stop]
    height = int(structure.heights[nodes[0]])
    if structure.counts.max() <= 1 and structure.kinds is None:
        backward = any(structure.children[:1] > structure.counts.argmax())
        return f"step t={height}{' from the end' if backward else ''} of {name}"
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
