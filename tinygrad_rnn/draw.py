"""The lecture's two pictures of a net: the circuit, and the same graph unfolded over time.

What was recorded is the unfolded graph, ``circuit.py`` finds the circuit, and here each box gets
its place.  Unfolded, there is a copy of the circuit in each round of its loops.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from .backward import node_of
from .circuit import (
    LIMIT,
    TIMES,
    Call,
    Kind,
    forward,
    layers,
    named,
    recorded,
    repeats,
    rounds,
)
from .engine import TensorCore
from .errors import DtypeError, SettingError, described
from .nn.module import Module

__all__ = ["Drawing", "draw"]


def draw(
    y: Any, collapsed: bool = False, names: Module | Mapping[str, Any] | None = None
) -> Drawing:
    """A Drawing of all that was recorded on the way to ``y``, a Tensor or several.

    Unfolded, there is a box for each call and each leaf: time goes to the right, from round to
    round; if a round uses several earlier ones, as in a tree, upwards.  Rounds count from where a
    state begins, so those of a backward direction do from the end.  ``collapsed``, it is a circuit:
    calls of one name and shape (but for the first axis, of steps or nodes) that take the same from
    the same boxes are one box with their number, and arrows back are loops.

    ``names`` is a Module, or a dict of Tensors by name; an entry may also be a Module, or a list
    with an entry for each step: ``{"x": xs, "h": states}`` writes x^1, x^2, .. unfolded and x^t in
    the circuit.  Data that are not tracked are drawn if they are named, wherever a derivative reads
    them: ``names`` must have the very arrays.  Leaves without a name are taken for inputs of the
    steps if each is used once; give those that are used several times in a step as a list.  What a
    layer did in one operation is one box; called under ``detect_anomaly()``, it has its steps.

    Raises NotTrackedError or GraphFreedError if there is no graph, DtypeError for what is no
    Tensor, SettingError for more boxes than can be looked at: collapse a long run.
    """
    ys = y if isinstance(y, (list, tuple)) else [y]
    if not ys or not all(isinstance(x, TensorCore) for x in ys):
        raise DtypeError(
            f"draw: y is {described(y)}\n  expected: a Tensor, or a list of Tensors\n"
            "  hint: draw the loss before backward() frees its graph"
        )
    calls = recorded([node_of(x, "draw") for x in ys], dict(named(names)))
    if not collapsed and len(calls) > LIMIT:
        raise SettingError(
            f"draw: {len(calls):,} boxes\n  expected: at most {LIMIT}\n"
            "  hint: collapsed=True draws each repeated step once; or draw a shorter run"
        )
    kinds, kind_of, arrows = repeats(calls)
    return folded(kinds, arrows) if collapsed else unfolded(calls, kinds, kind_of, arrows)


# ---- where the boxes are ------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """A box of a drawing: its place in a row, counted from the left, and its row from below."""

    lines: list[str]
    style: str
    x: float
    row: int


class Arrow(NamedTuple):
    """An arrow between boxes by their numbers; if to a later round, in a ``lane`` at that x."""

    start: int
    end: int
    lane: float | None = None
    text: str = ""


def folded(kinds: Sequence[Kind], arrows: Mapping[tuple[int, int], int]) -> Drawing:
    """The drawing with a box for each kind, inputs below, and a loop for each way back."""
    rows = layers(kinds, arrows)
    x = tidy(forward(kinds, arrows), rows)
    boxes = [Box(k.label(), style(k), x[k.number], rows[k.number]) for k in kinds]
    found, lane = [], max(x) + 0.7
    for (start, end), times in arrows.items():
        if start < end:
            found.append(Arrow(start, end))
        else:
            found.append(Arrow(start, end, lane, f"{TIMES}{times}"))
            lane += 0.35
    return Drawing(boxes, found, "BT")


def unfolded(
    calls: Sequence[Call],
    kinds: Sequence[Kind],
    kind_of: Sequence[int],
    arrows: Mapping[tuple[int, int], int],
) -> Drawing:
    """The drawing with a box for each call, in rounds; what all rounds use stands on the left."""
    round_of, upwards = rounds(calls, kinds, kind_of, arrows)
    layer_of = layers(kinds, arrows)
    rows = [layer_of[k] for k in kind_of]
    lanes: dict[tuple[int, int], float] = {}
    if upwards:
        heights = [(max(r, 1), row) for r, row in zip(round_of, rows, strict=True)]
        ranks = {height: rank for rank, height in enumerate(sorted(set(heights)))}
        rows = [ranks[height] for height in heights]
        x = tidy([call.sources for call in calls], rows, [not r for r in round_of])
    else:
        for start, end in arrows:
            if start >= end and layer_of[start] > layer_of[end]:
                lanes[start, end] = 0.55 + 0.2 * len(lanes)
        apart = dict(zip(kind_of, [not r for r in round_of], strict=True))
        at = tidy(forward(kinds, arrows), layer_of, [apart[kind.number] for kind in kinds])
        x, ends = in_columns([at[k] for k in kind_of], rows, round_of, 0.2 * len(lanes))
    boxes = [
        Box(call.label(), style(kinds[k]), *place)
        for call, k, place in zip(calls, kind_of, zip(x, rows, strict=True), strict=True)
    ]
    found = []
    for i, call in enumerate(calls):
        for p in call.sources:
            lane = lanes.get((kind_of[p], kind_of[i]))
            found.append(Arrow(p, i, lane and ends[round_of[p]] + lane))
    return Drawing(boxes, found, "BT" if upwards else "LR")


def tidy(
    sources: Sequence[Sequence[int]], rows: Sequence[int], apart: Sequence[bool] | None = None
) -> list[float]:
    """The x of each box: side by side what takes from none, others over the middle of their own.

    Boxes of a row are at least 1 apart.  Those that stand ``apart`` do so on the left.
    """
    n = len(sources)
    left = apart or [False] * n
    used = {p for own in sources for p in own}
    x: dict[int, float] = {}
    for side in (True, False):
        end = 1.0 + max(x.values(), default=-1.0)
        members = [i for i in range(n) if left[i] == side]
        stack = sorted(members, key=lambda i: (i not in used, -i))  # the first result is the last
        while stack:
            i = stack.pop()
            own = [p for p in sources[i] if left[p] == side]
            waiting = [] if i in x else [p for p in own if p not in x]
            if waiting:
                stack += [i, *reversed(waiting)]
            elif i not in x:
                x[i] = sum(x[p] for p in own) / len(own) if own else end
                end += not own
        moved = parted([x[i] for i in members], [rows[i] for i in members])
        x.update(zip(members, moved, strict=True))
    return [x[i] for i in range(n)]


def in_columns(
    at: Sequence[float], rows: Sequence[int], round_of: Sequence[int], gap: float
) -> tuple[list[float], dict[int, float]]:
    """The x of each box and where each round ends, if rounds stand side by side.

    ``at`` is the x of each box within its round; only those of round 0 stay there.
    """
    x, ends = list(at), {}
    start = min(place for place, r in zip(at, round_of, strict=True) if r)
    for this in sorted({r for r in round_of if r}):
        own = [i for i, r in enumerate(round_of) if r == this]
        places = parted([at[i] for i in own], [rows[i] for i in own])
        for i, place in zip(own, places, strict=True):
            x[i] = start + place - min(places)
        ends[this] = start + max(places) - min(places)
        start = ends[this] + 1.0 + gap
    return x, ends


def parted(x: Sequence[float], rows: Sequence[int]) -> list[float]:
    """``x`` with boxes moved to the right until those of a row are at least 1 apart."""
    found = list(x)
    last: dict[int, float] = {}
    for i in sorted(range(len(x)), key=lambda i: (x[i], i)):
        found[i] = last[rows[i]] = max(x[i], last.get(rows[i], x[i] - 1) + 1)
    return found


# ---- on paper -----------------------------------------------------------------------------------

_LETTER, _HEIGHT, _GAP, _MARGIN = 6.7, 36, 34, 30  # pixels
_FILLS = {"leaf": "#fff3d1", "data": "#e6edf8", "loop": "#e0f0de", "call": "#ffffff"}


def style(kind: Kind) -> str:
    """What a box is, which its colour shows."""
    if kind.call.takes:
        return "loop" if kind.loops else "call"
    is_step = kind.call.title is not None and kind.call.title[1] is not None
    return "data" if kind.call.name == "data" or kind.is_input or is_step else "leaf"


@dataclass(frozen=True)
class Drawing:
    """A graph with a place for each box, as text: ``dot()`` for Graphviz, ``svg()`` complete.

    Time, or what takes from what, goes in ``direction``: "LR" to the right, "BT" upwards.
    """

    boxes: list[Box]
    arrows: list[Arrow]
    direction: str

    def dot(self) -> str:
        """The graph in Graphviz's language: ``n0 [..];`` is a box, ``n0 -> n1;`` an arrow."""
        lines = [
            "digraph {",
            f"  rankdir={self.direction};",
            '  node [shape=box, style="rounded,filled"];',
        ]
        for i, box in enumerate(self.boxes):
            text = "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in box.lines)
            lines.append(f'  n{i} [label="{text}", fillcolor="{_FILLS[box.style]}"];')
        for start, end, _, text in self.arrows:
            note = f' [label="{text}", constraint=false]' if text else ""
            lines.append(f"  n{start} -> n{end}{note};")
        return "\n".join([*lines, "}\n"])

    def svg(self) -> str:
        """The picture: one SVG element that needs nothing else."""
        return _Page(self).text()

    def _repr_svg_(self) -> str:
        return self.svg()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file that the name's ending asks for: .svg, or .dot or .gv."""
        ending = Path(path).suffix.lower()
        if ending not in (".svg", ".dot", ".gv"):
            raise SettingError(
                f"save: {os.fspath(path)!r}\n  expected: a name that ends in .svg, .dot or .gv\n"
                "  hint: dot -Tpdf turns a .dot into what else there is"
            )
        Path(path).write_text(self.svg() if ending == ".svg" else self.dot(), encoding="utf-8")


class _Page:
    """A Drawing in pixels, row 0 at the bottom."""

    def __init__(self, drawing: Drawing) -> None:
        boxes = drawing.boxes
        self.drawing = drawing
        letters = max((len(line) for box in boxes for line in box.lines), default=0)
        self.width = 14 + _LETTER * letters
        self.step = self.width + 26
        self.top = max((box.row for box in boxes), default=0)

    def corner(self, box: Box) -> tuple[float, float]:
        """The upper left corner."""
        return _MARGIN + box.x * self.step, _MARGIN + (self.top - box.row) * (_HEIGHT + _GAP)

    def text(self) -> str:
        """The SVG element."""
        boxes, arrows = self.drawing.boxes, self.drawing.arrows
        ends = [box.x + 1 for box in boxes] + [arrow.lane + 1 for arrow in arrows if arrow.lane]
        width = 2 * _MARGIN + self.step * max(ends, default=0)
        height = 2 * _MARGIN + self.top * (_HEIGHT + _GAP) + _HEIGHT
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.1f} {height:.1f}"'
            f' width="{width:.0f}" height="{height:.0f}" font-family="monospace" font-size="11">',
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
            ' markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#444"/></marker>'
            "</defs>",
            f'<path d="M0 0 H{width:.1f} V{height:.1f} H0 z" fill="white"/>',
        ]
        return "\n".join([*lines, *map(self.arrow, arrows), *map(self.box, boxes), "</svg>\n"])

    def box(self, box: Box) -> str:
        """A rectangle with its two lines of text."""
        x, y = self.corner(box)
        middle = x + self.width / 2
        upper, lower = (escape(line) for line in box.lines)
        return (
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{self.width:.1f}" height="{_HEIGHT}" rx="6"'
            f' fill="{_FILLS[box.style]}" stroke="#444"/>\n<text text-anchor="middle">'
            f'<tspan x="{middle:.1f}" y="{y + 15:.1f}" font-weight="bold">{upper}</tspan>'
            f'<tspan x="{middle:.1f}" y="{y + 28:.1f}" fill="#555">{lower}</tspan></text>'
        )

    def arrow(self, arrow: Arrow) -> str:
        """A curve upwards, past what is between, or to the right; or a path round in its lane."""
        source, target = self.drawing.boxes[arrow.start], self.drawing.boxes[arrow.end]
        (x, y), (u, v) = self.corner(source), self.corner(target)
        half, under, note, colour = self.width / 2, v + _HEIGHT, "", "#444"
        if source.style == "leaf":
            colour = "#aaa"
        if arrow.lane is not None:
            lane = _MARGIN + half + arrow.lane * self.step
            path = (
                f"M{x + half:.1f} {y:.1f} v-10 H{lane:.1f} V{under + 12:.1f} H{u + half:.1f} v-12"
            )
            note = f'\n<text x="{lane + 4:.1f}" y="{(y + v) / 2:.1f}">{arrow.text}</text>'
            colour = "#2a7f2a"
        elif source.row >= target.row:
            y, v = y + _HEIGHT / 2, v + _HEIGHT / 2
            path = f"M{x + self.width:.1f} {y:.1f} L{u:.1f} {v:.1f}"
        elif target.row > source.row + 1 and abs(x - u) < half:
            y, v, far = y + _HEIGHT / 2, v + _HEIGHT / 2, min(x, u) - 30
            path = f"M{x:.1f} {y:.1f} C{far:.1f} {y:.1f} {far:.1f} {v:.1f} {u:.1f} {v:.1f}"
        else:
            x, u, middle = x + half, u + half, (y + under) / 2
            path = (
                f"M{x:.1f} {y:.1f} C{x:.1f} {middle:.1f} {u:.1f} {middle:.1f} {u:.1f} {under:.1f}"
            )
        return f'<path d="{path}" fill="none" stroke="{colour}" marker-end="url(#head)"/>{note}'
