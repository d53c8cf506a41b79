"""Where a gradient comes from: step by step through time, node by node through a tree."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np

from . import rows
from .backend import backend_of
from .backward import node_of, seed_of
from .division import REST, Division
from .engine import Node, TensorCore
from .errors import DtypeError, ShapeError, described
from .nn.module import Module
from .saving import host_array
from .stale import Freed
from .structure import Structure

__all__ = ["TimeReport", "time_report"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_COLUMNS, _ROWS = 60, 25  # at most, of a line of blocks and of the table


def time_report(
    loss: Any,
    states: Any,
    weights: Any,
    structure: Structure | None = None,
    probes: int | None = None,
) -> TimeReport:
    """A TimeReport of an unrolled run: ``print`` it, ``plot`` it, or take its arrays.

    ``states`` are h_1 .. h_T, the Tensors that the loop itself carried; ``(h, c)`` a step where it
    carries both.  A dict gives them names: those of a tree's nodes, say, gathered by a recursion.
    Or they are what ``fold`` returned, and ``structure`` is what it was given.  ``weights`` is a
    Module, or a dict of Tensors by name.

    For each step there is ``||dL/dh_t||``, with all that flows back through later states;
    ``||dh_T/dh_t||``, where h_T is the last state that was computed (for ``fold``, those of the
    roots); and the step's share in each dL/dW.  The shares and the ``rest``, which belongs to no
    step, add up to dL/dW.  A call belongs to the first state that it leads to.  If it leads to
    none, it belongs to the state that it reads, or to the rest if it reads several: so does a
    penalty on W that is added to a sum of errors, and a readout of all states at once.  What no
    state has gone into, such as ``W.T`` made before the loop, belongs to the steps that use it.
    (So give the whole state: of an LSTM the pair, or c_1 counts among what step 2 uses.)

    Norms are Frobenius norms.  That of the Jacobian is taken for each example of the batch; the
    examples must not mix.  It is exact, for one backward pass from h_T for each of its H units; or,
    with ``probes``, it is the root of the mean of ``||v^T J||^2`` over so many vectors v of random
    signs, whose standard error is at most ``1 / sqrt(2 probes)`` of it.

    The graph and every ``.grad`` stay as they are; hooks are not called.  Raises NotTrackedError
    for a loss, state or weight that is not tracked, GraphFreedError after a ``backward()`` without
    ``retain_graph=True``, ShapeError for states of unequal shapes.
    """
    run = _of_loop(states) if structure is None else _of_fold(states, structure)
    if not isinstance(weights, (Module, Mapping)):
        raise DtypeError(
            f"time_report: weights is {described(weights)}\n"
            "  expected: a Module, or a dict of Tensors by name\n"
            "  hint: {'W': W}"
        )
    tensors = dict(weights.named_parameters() if isinstance(weights, Module) else weights)
    nodes = [node_of(x, f"time_report, {name}") for name, x in tensors.items()]
    root, seed = node_of(loss, "time_report"), seed_of(loss, None, "time_report", None)
    division = Division(root, run.steps, nodes)
    found = division.cotangents(seed)
    levels = len(run.labels)
    shares, rest = {}, {}
    for node, (name, x) in zip(nodes, tensors.items(), strict=True):
        shares[name] = np.zeros((levels, *x.shape), x.dtype)
        for step in range(levels):
            shares[name][step] = host_array(found.get((node, step), 0.0))
        rest[name] = np.zeros(x.shape, x.dtype)
        rest[name][...] = host_array(found.get((node, REST), 0.0))
    gradients = {part: np.zeros(len(run.levels)) for part in run.parts}
    for (node, _), g in found.items():
        if node in run.points:
            part, place = run.points[node]
            squares = _squares(g)
            gradients[part][place] = np.sqrt(squares if structure is not None else squares.sum())
    return TimeReport(
        run.kind, run.labels, run.levels, gradients, _jacobians(run, probes), shares, rest
    )


class Run(NamedTuple):
    """The states of an unrolled run: where in the report each belongs."""

    kind: str
    labels: list[str]
    """The names of the rows: steps, or heights in a forest."""
    levels: np.ndarray
    """The row of each entry: of a step its own, of a node its height."""
    parts: list[str]
    points: dict[Node, tuple[str, Any]]
    """For each state's node the part of the state that it is, and the entries that it holds."""
    steps: dict[Node, int]
    last: TensorCore
    """What is differentiated for the Jacobian, in the rows ``ends``."""
    ends: Any


def _of_loop(states: Any) -> Run:
    """The Run of a list of states, or of a dict of them."""
    if not isinstance(states, (list, tuple, Mapping)):
        raise DtypeError(
            f"time_report: states is {described(getattr(states, 'array', states))}\n"
            "  expected: a list of states, one a step, or a dict of them\n"
            "  hint: for what fold returned, pass its structure too"
        )
    labels, every = [str(t + 1) for t in range(len(states))], states
    if isinstance(states, Mapping):
        labels, every = list(map(str, states)), list(states.values())
    if not every:
        raise ShapeError(
            "time_report: there are no states\n  expected: at least one\n"
            "  hint: states = [], and states.append(h) in the loop over time"
        )
    parts = _parts(every[0])
    points: dict[Node, tuple[str, Any]] = {}
    shapes = [x.array.shape for x in _tensors(every[0], 0)]
    for t, state in enumerate(every):
        tensors = _tensors(state, t)
        if [x.array.shape for x in tensors] != shapes:
            raise ShapeError(
                f"time_report: states[{t}] has shapes {[x.array.shape for x in tensors]}\n"
                f"  expected: {shapes}, as the first\n"
                "  hint: give the states of one layer, a report for each"
            )
        for part, x in zip(parts, tensors, strict=True):
            node = node_of(x, f"time_report, states[{t}]")
            if node in points:
                raise ShapeError(
                    f"time_report: states[{t}] is states[{points[node][1]}] once more\n"
                    "  expected: each state once, as the loop made it\n"
                    "  hint: append after h = cell(x, h), once a step"
                )
            points[node] = (part, t)
    steps = {node: t for node, (_, t) in points.items()}
    last = max(points, key=lambda node: node.birth)
    youngest = _tensors(every[points[last][1]], 0)[0]
    kind = "node" if isinstance(states, Mapping) else "step"
    return Run(kind, labels, np.arange(len(every)), parts, points, steps, youngest, ...)


def _of_fold(states: Any, structure: Structure) -> Run:
    """The Run of a result of ``fold``: each part was written group by group."""
    for x in states if isinstance(states, tuple) else (states,):
        if not isinstance(x, TensorCore):
            raise DtypeError(
                f"time_report: states is {described(states)}\n"
                "  expected: with structure=, the Tensor or the tuple that fold returned\n"
                "  hint: for a loop of your own, leave structure out and give a list of states"
            )
    points: dict[Node, tuple[str, Any]] = {}
    steps: dict[Node, int] = {}
    parts, written = _parts(states), rows.fill.operation.joint
    for part, x in zip(parts, states if isinstance(states, tuple) else (states,), strict=True):
        node: Node | None = node_of(x, "time_report, states")
        while node is not None:
            if type(node.edges) is Freed:
                raise node.edges.error(node)
            edge: Any = node.edges[0] if node.edges else (None, None, None)
            parent, rule, values = edge
            if rule is not written:  # the read at the end, or a change of dtype
                node = parent if isinstance(parent, Node) else None
                continue
            node, group, _ = parent
            rows_shape, start = values
            if group is not None:
                nodes = structure.order[start : start + rows_shape[0]]
                points[group] = (part, nodes)
                steps[group] = int(structure.heights[nodes[0]])
    first = states[0] if isinstance(states, tuple) else states
    if not points or len(first.array) != len(structure):
        raise ShapeError(
            f"time_report: states is {described(states)}\n"
            f"  expected: what fold returned for this structure of {len(structure)} nodes\n"
            "  hint: for a loop of your own, leave structure out and give a list of states"
        )
    labels = [str(height) for height in range(int(structure.heights.max()) + 1)]
    return Run("height", labels, structure.heights, parts, points, steps, first, structure.roots)


def _tensors(state: Any, t: int) -> tuple[Any, ...]:
    """The Tensors of the state of step ``t``."""
    tensors = state if isinstance(state, tuple) else (state,)
    for x in tensors:
        if not isinstance(x, TensorCore):
            raise DtypeError(
                f"time_report: states[{t}] is {described(state)}\n"
                "  expected: a Tensor, or a tuple of them\n"
                "  hint: append the state itself, not its .array or .numpy()"
            )
    return tensors


def _parts(state: Any) -> list[str]:
    """Names for the parts of a state, in the lecture's letters."""
    n = len(state) if isinstance(state, tuple) else 1
    return list(getattr(state, "_fields", ["h", "c"][:n] if n < 3 else [f"h{i}" for i in range(n)]))


def _jacobians(run: Run, probes: int | None) -> dict[str, np.ndarray]:
    """``||dh_T/dh_t||`` by part of the state, for each example or node."""
    if probes is not None and probes < 1:
        raise ShapeError(
            f"time_report: probes is {probes}\n  expected: at least 1, or None\n"
            "  hint: probes left out is exact"
        )
    node = node_of(run.last, "time_report")
    division = Division(node, run.steps, [])
    shape, backend = run.last.array.shape, backend_of(run.last.array)
    by_row = run.kind == "height" or len(shape) > 1  # else one example, without an axis for it
    inner = shape[1:] if by_row else shape
    examples = shape[:1] if by_row and run.kind != "height" else ()
    total = {part: np.zeros((len(run.levels), *examples)) for part in run.parts}
    rng, n = np.random.default_rng(0), probes or prod(inner)
    for i in range(n):
        v = np.zeros(shape, node.dtype)
        if probes:
            v[run.ends] = rng.choice([-1.0, 1.0], v[run.ends].shape)
        else:
            unit = (np.arange(prod(inner)) == i).reshape(inner)
            v[run.ends] = np.broadcast_to(unit, v[run.ends].shape)
        for (point, _), g in division.cotangents(backend.asarray(v)).items():
            part, place = run.points[point]
            squares = _squares(g)
            total[part][place] += squares if by_row else squares.sum()
    return {part: np.sqrt(squares / (probes or 1)) for part, squares in total.items()}


def _squares(g: Any) -> np.ndarray:
    """The sum of the squares in each row."""
    x = host_array(g).astype(np.float64)
    return (x * x).reshape(len(x) if x.ndim else 1, -1).sum(1)


@dataclass(frozen=True, repr=False)
class TimeReport:
    """What ``time_report`` found, as NumPy arrays; as text it is a table.

    ``gradients[part]`` is ``||dL/dh_t||``, (T,); ``jacobians[part]`` is ``||dh_T/dh_t||``, (T,), or
    (T, B) for a batch.  ``shares[name]`` is (T, *W.shape), ``rest[name]`` (*W.shape).  For a
    ``fold`` over n nodes the first two are (n,), and there is a share for each height.
    """

    kind: str
    labels: list[str]
    levels: np.ndarray
    gradients: dict[str, np.ndarray]
    jacobians: dict[str, np.ndarray]
    shares: dict[str, np.ndarray]
    rest: dict[str, np.ndarray]

    def curves(self) -> dict[str, np.ndarray]:
        """What the table shows, by name: a norm for each row.

        Where a row stands for several nodes or examples, it is the root of their mean square.
        """
        last = f"{next(iter(self.gradients))}_{'T' if self.kind == 'step' else 'root'}"
        found = {}
        for part, norms in self.gradients.items():
            found[f"|dL/d{part}|"] = self._by_row(norms)
        for part, norms in self.jacobians.items():
            found[f"|d{last}/d{part}|"] = self._by_row(norms)
        for name, share in self.shares.items():
            found[f"share of {name}"] = np.sqrt([_squares(x).sum() for x in share])
        return found

    def _by_row(self, norms: np.ndarray) -> np.ndarray:
        squares = (norms * norms).reshape(len(norms), -1).mean(1)
        return np.sqrt(np.bincount(self.levels, squares) / np.bincount(self.levels))

    def __repr__(self) -> str:
        """The curves as blocks, on a logarithmic scale, and as a table; long ones in extracts."""
        curves, n = self.curves(), len(self.labels)
        width = max(map(len, curves))
        lines = [f"time_report: {n} {self.kind}{'s' * (n > 1)}"]
        for name, values in curves.items():
            lines.append(f"{name:{width}}  {blocks(values)}  {_range(values)}")
        shown = np.unique(np.linspace(0, n - 1, _ROWS).round().astype(int))
        table = [[self.kind, *curves]]
        for i in shown:
            table.append([self.labels[i], *[f"{values[i]:.2e}" for values in curves.values()]])
        rest = [f"{np.sqrt(_squares(x).sum()):.2e}" for x in self.rest.values()]
        table.append(["rest", *[""] * (len(curves) - len(rest)), *rest])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def plot(
        self, path: str | os.PathLike[str], others: Mapping[str, TimeReport] | None = None
    ) -> None:
        """Write the curves to an image: norms of states on the left, shares on the right.

        ``others`` are reports to compare with, by name; their curves are dashed.  Needs matplotlib,
        which the extra ``demos`` installs; ImportError without it.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                f"plot: {error}\n  hint: pip install 'tinygrad_rnn[demos]' brings matplotlib"
            ) from error
        figure = Figure(figsize=(10, 4), layout="constrained")
        norms, shares = figure.subplots(1, 2)
        for prefix, report in {"": self, **(others or {})}.items():
            x = np.arange(len(report.labels)) + (report.kind == "step")  # steps count from 1
            for name, values in report.curves().items():
                axes = shares if name.startswith("share") else norms
                shown = np.where(values > 0, values, np.nan)  # 0 has no place on these axes
                style = {"linestyle": "--"} if prefix else {}
                label = f"{prefix} {name}".strip()
                axes.semilogy(x, shown, marker=".", markersize=4, label=label, **style)
        norms.set_title("what reaches the states")
        shares.set_title("what each contributes to dL/dW")
        for axes in (norms, shares):
            axes.set_xlabel(self.kind)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_ylabel("Frobenius norm")
            axes.grid(alpha=0.3)
            axes.legend()
            if self.kind == "node" and len(self.labels) <= _ROWS:
                axes.set_xticks(range(len(self.labels)), self.labels, rotation=60, ha="right")
        figure.savefig(path, dpi=120)


def blocks(values: Any) -> str:
    """A line of blocks whose heights are the logarithms of ``values``.

    0 is blank, and what is not finite is ``!``.  A long line shows the largest of each few values.
    """
    pieces = np.array_split(np.asarray(values, float), min(len(values), _COLUMNS))
    tops = np.array([piece.max() for piece in pieces])
    good = np.isfinite(tops) & (tops > 0)
    logs = np.log(tops, where=good, out=np.zeros_like(tops))
    low, high = (logs[good].min(), logs[good].max()) if good.any() else (0.0, 0.0)
    heights = (logs - low) / (high - low) if high > low else np.ones_like(logs)
    places = np.rint(heights * (len(_BLOCKS) - 1)).astype(int)
    return "".join(
        _BLOCKS[place] if fine else " " if top == 0 else "!"
        for top, place, fine in zip(tops, places, good, strict=True)
    )


def _range(values: np.ndarray) -> str:
    return f"{values.min():.1e} .. {values.max():.1e}"
