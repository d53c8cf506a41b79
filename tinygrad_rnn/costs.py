"""What was spent on what: the figures of a ``profile``, as data and as tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from .errors import NotTrackedError

__all__: list[str] = []

_ROWS = 25  # of a table, at most


@dataclass
class Use:
    """What some calls took: seconds, bytes and floating-point operations.

    ``forward`` and ``backward`` are their own seconds, on the way forward and in backward passes;
    ``total`` has those of the metered functions that they called, too.  ``blas`` are the seconds
    inside BLAS, of ``forward`` and ``backward`` together, and ``flops`` what was computed there.
    ``made`` are the bytes of new results, ``sent`` those of the cotangents that were sent back,
    ``kept`` those of results that the graph held for the way back.
    """

    calls: int = 0
    forward: float = 0.0
    backward: float = 0.0
    total: float = 0.0
    blas: float = 0.0
    flops: int = 0
    made: int = 0
    sent: int = 0
    kept: int = 0

    @property
    def own(self) -> float:
        """The own seconds of both ways."""
        return self.forward + self.backward

    def include(self, other: Use) -> None:
        """Add what other calls took."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Scene(NamedTuple):
    """Where a call is made: the path of modules; and the step, of which loop (None of a fold)."""

    module: tuple[str, ...] = ()
    step: tuple[Any, int] | None = None


Key = tuple[str, Scene]
"""An operation, by name, in a scene."""


class Profile:
    """What a ``profile`` saw: tables as text, dicts of ``Use`` as data, once the block has ended.

    ``wall`` are the seconds of the block: the own seconds of the operations, ``overhead``, which
    are the profile's, and ``python``, which is the rest.  ``peak`` are the bytes of results that
    graphs held at a time for the way back.  Parameters, inputs and masks, which were there anyway,
    are not counted.
    """

    def __init__(self) -> None:
        self.wall: float | None = None
        self.overhead = 0.0
        self.peak = 0
        self.uses: dict[Key, Use] = {}
        self.entered: Counter[tuple[str, ...]] = Counter()
        """The calls of Modules, by path."""
        self.loops: set[Any] = set()
        """The lines that were passed more than once."""

    @property
    def operations(self) -> dict[str, Use]:
        """What each operation took, by name; those that took the most time come first."""
        found: dict[str, Use] = {}
        for (name, _), use in self._ended().items():
            found.setdefault(name, Use()).include(use)
        return dict(sorted(found.items(), key=lambda item: -item[1].own))

    @property
    def modules(self) -> dict[str, Use]:
        """What was called in each Module, by path, and outside of all under ``""``.

        ``calls`` are those of the Module; ``total`` is its time with that of the Modules in it.
        """
        found = {path: Use() for path in self.entered}
        for (_, scene), use in self._ended().items():
            found.setdefault(scene.module, Use()).include(use)
        for path, use in found.items():
            inside = [one.own for other, one in found.items() if other[: len(path)] == path]
            use.calls, use.total = self.entered[path], sum(inside) if path else use.own
        by_time = sorted(found.items(), key=lambda item: -item[1].total)
        return {".".join(path): use for path, use in by_time}

    @property
    def steps(self) -> dict[int, Use]:
        """What was called in each time step: the height in a ``fold``, the pass through a loop.

        Both count from 0.  Passes are those of a line since the last backward pass; a line that is
        passed once is in no step.  What a layer does in one operation for all time steps is in that
        of its call.  ``total`` is ``forward`` and ``backward``.
        """
        found: dict[int, Use] = {}
        for (_, scene), use in self._ended().items():
            if scene.step is not None and (scene.step[0] is None or scene.step[0] in self.loops):
                found.setdefault(scene.step[1], Use()).include(use)
        for use in found.values():
            use.total = use.own
        return dict(sorted(found.items()))

    @property
    def python(self) -> float:
        """The seconds of the engine and of your own Python: what no operation took."""
        spent = sum(use.own for use in self._ended().values())
        return (self.wall or 0.0) - spent - self.overhead

    def _ended(self) -> dict[Key, Use]:
        if self.wall is None:
            raise NotTrackedError(
                "profile: the block has not ended\n  expected: figures are read after it\n"
                "  hint: print(p) below the block of with tg.profile() as p, not inside"
            )
        return self.uses

    def __str__(self) -> str:
        """The sums, and tables of operations, modules and steps; long ones in extracts."""
        whole = Use()
        for use in self._ended().values():
            whole.include(use)
        modules = {name or "(outside)": use for name, use in self.modules.items()}
        steps = {str(t): use for t, use in self.steps.items()}
        shown = np.linspace(0, max(0, len(steps) - 1), _ROWS).round().astype(int).tolist()
        unit, name_of_unit = _unit(self.peak)
        lines = [
            f"profile: {_ms(self.wall)} ms",
            f"  {_ms(whole.own)} in operations: forward {_ms(whole.forward)}, backward"
            f" {_ms(whole.backward)}; inside BLAS {_ms(whole.blas)}, {_speed(whole)} GFLOP/s",
            f"  {_ms(self.python)} in the engine and in your own Python",
            f"  {_ms(self.overhead)} in the profile itself, in no other figure",
            f"kept for the way back: at most {self.peak / unit:.2f} {name_of_unit} of results at a"
            " time",
            *_table("operation", self.operations, range(_ROWS)),
            *_table("module", modules, range(_ROWS)),
            *_table("step", steps, shown),
        ]
        return "\n".join(lines)


def _table(title: str, rows: dict[str, Use], shown: Any) -> list[str]:
    """The lines of a table: a row for each of the ``rows`` in the places ``shown``."""
    heads = ["calls", "forward", "backward", "total", "BLAS", "GFLOP/s", "made", "sent", "kept"]
    unit, name_of_unit = _unit(max([0, *[max(x.made, x.sent, x.kept) for x in rows.values()]]))
    units = ["", "ms", "ms", "ms", "", "", *[name_of_unit] * 3]
    table = [[title, *heads], ["", *units]]
    for i, (name, use) in enumerate(rows.items()):
        if i in shown:
            seconds = [_ms(x) for x in (use.forward, use.backward, use.total)]
            share = f"{use.blas / use.own:.0%}" if use.own else "-"
            sizes = [f"{x / unit:.2f}" for x in (use.made, use.sent, use.kept)]
            table.append([name, str(use.calls), *seconds, share, _speed(use), *sizes])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        f"{name:{widths[0]}}  {'  '.join(map(str.rjust, cells, widths[1:]))}".rstrip()
        for name, *cells in table
    ]
    left = len(rows) - len(table) + 2
    return ["", *lines, *([f"({left} more)"] * (left > 0))] if rows else []


def _ms(seconds: float | None) -> str:
    return f"{1e3 * (seconds or 0.0):.2f}"


def _unit(size: int) -> tuple[float, str]:
    """The unit in which ``size`` bytes, the most of all, are told."""
    return (1e6, "MB") if size >= 1e7 else (1e3, "kB")


def _speed(use: Use) -> str:
    return f"{use.flops / use.blas / 1e9:.1f}" if use.blas else "-"
