"""Silent faults made loud: NaN, and arrays that were written to while a graph still needed them.

    with detect_anomaly():
        loss = model(x)
        loss.backward()

What is kept for the backward pass is kept by reference, so a write to it in between makes a wrong
gradient; and a NaN is met long after the operation that made it.  Here each recorded call writes
down where in the program it was and a checksum of every array that it keeps.
"""

from __future__ import annotations

from binascii import crc32
from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np
from numpy import ndarray

from .backend import backend_of, is_array
from .cotangents import Sum
from .engine import Node, Operation, Rule
from .errors import DtypeError, NonFiniteError, ValueChangedError, described
from .linear import Placed
from .observer import Observer, observing
from .place import Place
from .products import OuterProduct

__all__ = ["detect_anomaly"]


def detect_anomaly(nan: bool = True, inf: bool = False) -> Any:
    """A context, and a decorator of functions, in which calls and backward passes are checked.

    Raises NonFiniteError for the first operation whose result, or whose cotangent, has NaN (with
    ``nan``) or an infinity (with ``inf``), and ValueChangedError in the backward pass for an array
    that was written to since an operation read it.  Both tell the operation, shapes and ranges of
    what it read, and the line, the path of modules and the time step or node of the forward call.

    It holds for this thread alone.  Backward passes should be inside, too; of calls that were
    recorded before, only what they send back is checked.  It costs several times the time of small
    operations: for debugging and for tests.
    """
    if not isinstance(nan, bool) or not isinstance(inf, bool):
        raise DtypeError(
            f"detect_anomaly(nan, inf): {described(nan)}, {described(inf)}\n"
            "  expected: True or False\n  hint: a decorator has parentheses, @detect_anomaly()"
        )
    return observing(Detector(nan, inf))


class Origin:
    """What is written down of a call: its place, and for each edge the checksums of its values."""

    __slots__ = ("checksums", "place")

    def __init__(self, node: Node) -> None:
        self.place = Place()
        self.checksums = [checksum(values) for _, _, values in node.edges]


class Detector(Observer):
    """The observer: it is told of each recorded call, and looks on at each cotangent's arrival."""

    name = "detect_anomaly"

    def __init__(self, nan: bool, inf: bool) -> None:
        self.nan, self.inf = nan, inf

    def recorded(self, node: Node, operation: Operation, values: Any, y: Any) -> None:
        """Write down the call, and raise if ``y``, its result or results, is not what it should."""
        node.origin = Origin(node)
        *arguments, _ = values
        if any(y is x for x in arguments):
            return  # rows filled in place: the new ones have been looked at
        for part in y if isinstance(y, tuple) else (y,):
            if self.is_wrong(part):
                raise self.found_forward(node, operation, arguments, part)

    def watching(self, arrive: Callable[[Node, Any, Node], None]) -> Callable[..., None]:
        """``arrive``, which adds ``g`` to the cotangent of a node, with a look at ``g`` before."""

        def watched(node: Node, g: Any, source: Node) -> None:
            if self.is_wrong(g):
                raise self.found_backward(node, g, source)
            try:
                arrive(node, g, source)
            except ValueChangedError as error:
                raise told(error, source, backward=True) from None

        return watched

    def edges(self, node: Node) -> Any:
        """The edges of ``node``; raise if an array that it keeps is not what it was."""
        if isinstance(node.origin, Origin):
            expect_unchanged(node)
        return node.edges

    def settling(self, settled: Callable[[Node, Any, bool], Any]) -> Callable[..., Any]:
        """``settled``, with a look at all that has come to a node, summed and through its hooks."""

        def watched(node: Node, g: Any, keeps: bool) -> Any:
            g = settled(node, g, keeps)
            if self.is_wrong(g):
                raise self.found_in_sum(node, g)
            return g

        return watched

    def is_wrong(self, x: Any) -> bool:
        """Whether NaN, or an infinity, is in ``x``: an array, a Tensor, a term of a cotangent."""
        if type(x) is not ndarray:
            if isinstance(x, Sum):
                return any(map(self.is_wrong, [*x.terms(), x.total]))
            if isinstance(x, OuterProduct) and isfinite(squares(x.x) * squares(x.g)):
                return False  # no sum of products is larger: |x^T g| <= |x| |g|
            x = in_full(x)
            if not is_array(x):
                return False
        if x.dtype.kind not in "fc" or isfinite(squares(x)):
            return False
        return bool(self.nan and np.isnan(x).any()) or bool(self.inf and np.isinf(x).any())

    def found_forward(
        self, node: Node, operation: Operation, arguments: list[Any], y: Any
    ) -> NonFiniteError:
        names = operation.parameters[: operation.arity]
        names += [f"{operation.parameters[-1]}[{i}]" for i in range(len(arguments) - len(names))]
        read = dict(zip(names, arguments, strict=True))
        earlier = [name for name, x in read.items() if self.is_wrong(x)]
        if earlier:
            hint = f"{earlier[0]} had them before: it comes from data, or from what is not recorded"
        else:
            hint = "log or sqrt below 0, 0 / 0, 0 * inf and inf - inf make NaN, x / 0 infinities"
        lines = [f"{operation.name}: its result is {with_range(y)}"]
        lines += [f"  {name}: {with_range(x)}" for name, x in read.items()]
        return told(NonFiniteError("\n".join([*lines, f"  hint: {hint}"])), node)

    def found_in_sum(self, node: Node, g: Any) -> NonFiniteError:
        hooks = ", with its hooks" if node.watch is not None and node.watch.hooks else ""
        error = NonFiniteError(
            f"backward: the sum of what came to {node.name}{hooks}, is {with_range(g)}\n"
            "  hint: parts that are infinite, or too large for the dtype; or what a hook returned"
        )
        return told(error, node, backward=True)

    def found_backward(self, node: Node, g: Any, source: Node) -> NonFiniteError:
        if source is node:
            return NonFiniteError(
                f"backward: the gradient that it was given is {with_range(g)}\n"
                "  hint: the loss itself is not finite, or gradient= is not"
            )
        lines = [f"backward: what {source.name} sends back is {with_range(g)}"]
        for parent, rule, values in source.edges:
            if parent is node or (isinstance(parent, tuple) and node in parent):
                pairs = zip(names_read(rule), values, strict=True)
                lines += [f"  {name}: {with_range(x)}" for name, x in pairs]
        hint = "slopes are infinite at the root or log of 0, and 0 * inf is NaN; keep away from 0"
        return told(NonFiniteError("\n".join([*lines, f"  hint: {hint}"])), source, backward=True)


def expect_unchanged(node: Node) -> None:
    """Raise ValueChangedError if an array that ``node`` keeps is not what it was."""
    for (_, rule, values), before in zip(node.edges, node.origin.checksums, strict=True):
        now = checksum(values)
        if now == before:
            continue
        entries = zip(names_read(rule), values, now, before, strict=True)
        name, value = next((name, value) for name, value, a, b in entries if a != b)
        error = ValueChangedError(
            f"backward: {node.name} read {name}, {described(value)}, which has been written to"
            " since\n"
            "  expected: the values that the forward pass read\n"
            "  hint: write to a copy, or after backward(); x = x + 1 makes a new array where x += 1"
            " or x[i] = 1\n  writes to the old one"
        )
        raise told(error, node, backward=True)


def names_read(rule: Rule) -> tuple[str, ...]:
    """The names of the values that the VJP reads."""
    code = rule.vjp.__code__
    return code.co_varnames[1 : code.co_argcount]


def told(error: Any, node: Node, backward: bool = False) -> Any:
    """``error`` with the place of the call that ``node`` recorded."""
    back = [line.replace("  at:", "  backward at:") for line in error.place[:1]] if backward else []
    if not isinstance(node.origin, Origin):
        made = ["  at: a line outside of detect_anomaly"] if node.edges else []
        error.place = [*made, *back]
        return error
    place = node.origin.place
    lines = place.lines()
    if not place.steps():  # which a fold tells by itself
        passes = pass_of(node)
        lines += [f"  pass: number {passes} through this line, along the graph"] * (passes > 1)
    error.place = [*lines, *back]
    return error


def pass_of(node: Node) -> int:
    """How many calls from the very place of ``node`` are on the longest way to it: its time step.

    That of a loop in the user's program, counted from 1; of a recursion, the height.
    """
    seen, left = {node}, [node]
    while left:
        for parent in left.pop().parents():
            if parent not in seen:
                seen.add(parent)
                left.append(parent)
    passes: dict[Node, int] = {}
    here = node.origin.place
    for one in sorted(seen, key=lambda one: one.birth):
        before = max((passes[parent] for parent in one.parents()), default=0)
        is_here = isinstance(one.origin, Origin) and one.origin.place.calls == here.calls
        passes[one] = before + is_here
    return passes[node]


def checksum(value: Any) -> Any:
    """A number that changes with the entries of an array; for a tuple one of each; else None."""
    if type(value) is ndarray and value.flags.c_contiguous:
        return crc32(value.data)
    if isinstance(value, (tuple, list)):
        return tuple(map(checksum, value))
    if not is_array(value):
        return None
    x = backend_of(value).to_host(value)
    x = x[tuple([slice(None) if step else slice(1) for step in x.strides])]  # broadcast: once
    return crc32((x.T if x.flags.f_contiguous else np.ascontiguousarray(x)).data)


def squares(x: Any) -> float:
    """The sum of the squared entries: not finite if one of them is not, and rarely else."""
    x = in_full(x)
    return float(np.vdot(x, x).real)


def in_full(x: Any) -> Any:
    """The array of a Tensor, on the host; of a term of a cotangent what it adds; else ``x``."""
    if isinstance(x, Placed):
        x = x.g  # the rest is zeros
    elif isinstance(x, (OuterProduct, Sum)):
        x = x.dense()
    x = getattr(x, "array", x)
    return backend_of(x).to_host(x)


def with_range(x: Any) -> str:
    """``float32 (3, 4), from -1.5 to 2.0, 2 of 12 entries NaN, the first at [0, 3]``."""
    x = in_full(x)
    if not is_array(x) or x.dtype.kind not in "fc" or not x.size:
        return described(x)
    finite = np.isfinite(x)
    parts = [described(x)]
    if finite.any() and x.dtype.kind == "f":
        low, high = np.where(finite, x, np.inf).min(), np.where(finite, x, -np.inf).max()
        parts.append(f"from {float(low):.4g} to {float(high):.4g}")
    for what, wrong in {"NaN": np.isnan(x), "infinite": np.isinf(x)}.items():
        if wrong.any():
            parts.append(f"{int(wrong.sum())} of {x.size} entries {what}")
            if not wrong.all():
                first = [int(i) for i in np.unravel_index(int(wrong.argmax()), x.shape)]
                parts[-1] += f", the first at {first}"
    return ", ".join(parts)
