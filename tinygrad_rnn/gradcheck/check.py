"""Gradient checks: what the engine says against what values alone say, to any order.

With random signed weights w_k, ``s_1(x) = <w_1, f(x)>`` and ``s_{k+1}(x) = <w_{k+1}, grad
s_k(x)>``.  The check of order k compares ``grad s_k`` with the numerical slopes of ``s_k``, entry
by entry.  So order 2 differentiates first-order gradients, which order 1 has just compared with
something independent.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..backend import is_device_array
from ..backward import cotangents_of
from ..engine import Node, TensorCore
from ..errors import (
    DeviceError,
    DtypeError,
    GradcheckError,
    NondifferentiableError,
    SettingError,
    described,
    expect_count,
)
from ..recording import no_grad
from ..registry import ANALYTIC
from ..tensor import Tensor, tensor
from .numeric import Arrays, central_difference, complex_step

ENTRIES = 256  # inputs with more entries are checked along random directions instead
DIRECTIONS = 24


@dataclass(frozen=True)
class Report:
    """What a passed check compared; true in a condition."""

    order: int
    method: str
    cases: int
    """Numbers compared, over all orders and inputs."""
    worst: float
    """The largest |engine - numeric| / max |gradient of that input|."""
    worst_by_order: tuple[float, ...]
    largest: float
    """The largest gradient entry seen: a check of zeros only proves little."""
    seed: int

    def __str__(self) -> str:
        return (
            f"gradcheck passed: order {self.order}, {self.method}, {self.cases} numbers compared,"
            f" worst relative error {self.worst:.1e}, seed {self.seed}"
        )


class Slope(NamedTuple):
    """A numerical slope, its relative tolerance, what rounding may explain, and the kink there."""

    value: float
    rtol: float
    noise: float
    kink: float = 0.0


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    order: int = 1,
    method: str = "auto",
    eps: float = 1e-3,
    atol: float = 0.0,
    rtol: float | None = None,
    seed: int = 0,
) -> Report:
    """A Report, if the engine's derivatives of ``func`` up to ``order`` equal numerical ones.

    ``inputs`` are arrays or Tensors to call ``func`` with, or, if ``func`` takes no arguments,
    leaves that it closes over, such as ``model.parameters()``: their values are swapped during the
    check and always put back.  All is done in float64, whatever their dtype.

    ``method``: ``"central"`` takes central differences of sixth order with step ``eps``,
    ``"complex"`` the complex step, ``"auto"`` both if every recorded operation is known as
    analytic, and then they must agree.  An engine number may differ from the numeric one by ``atol
    + rtol * max |gradient of that input|`` and what rounding explains; ``rtol`` is by default 1e-10
    for the complex step and 1e-7 for differences, ten times that for each further order.

    It checks besides that gradients have the inputs' shapes, that a zero cotangent gives exactly
    zero, that they are linear in the cotangent, that a second run gives the same bits, and that no
    input is changed.

    Raises GradcheckError with input, entry, both numbers, seed and a reproduction;
    NondifferentiableError at a kink; GradcheckError if there was nothing to check.
    """
    expect_count("gradcheck", "order", order)
    check = _Check(func, inputs, method, eps, atol, rtol, seed)
    worst = []
    for k in range(1, order + 1):
        worst.append(check.run(k))
    return Report(order, check.used, check.cases, max(worst), tuple(worst), check.largest, seed)


def gradgradcheck(func: Callable[..., Any], inputs: Any, **options: Any) -> Report:
    """A Report, if first and second derivatives of ``func`` equal numerical ones."""
    return gradcheck(func, inputs, order=2, **options)


class _Check:
    """One check: the function as a scalar of float64 arrays, and what has been compared so far."""

    def __init__(
        self,
        func: Callable[..., Any],
        inputs: Any,
        method: str,
        eps: float,
        atol: float,
        rtol: float | None,
        seed: int,
    ) -> None:
        if method not in ("auto", "complex", "central"):
            raise SettingError(
                f"gradcheck: method {method!r}\n  expected: 'auto', 'complex' or 'central'\n"
                "  hint: method left out is 'auto'"
            )
        if not callable(func):
            raise DtypeError(
                f"gradcheck: func is {described(getattr(func, 'array', func))}\n"
                "  expected: a function\n  hint: gradcheck(f, [x]), not gradcheck(f(x), [x])"
            )
        if not eps > 0:
            raise SettingError(
                f"gradcheck: eps {eps}\n  expected: eps > 0\n  hint: eps left out is 1e-3"
            )
        if isinstance(inputs, (TensorCore, np.ndarray, float)):
            inputs = [inputs]
        self.func, self.inputs = func, list(inputs)
        self.eps, self.atol, self.rtol, self.seed = eps, atol, rtol, seed
        self.closes_over = _closes_over(func, self.inputs)
        self.xs = [_float64(x, i) for i, x in enumerate(self.inputs)]
        if not sum(x.size for x in self.xs):
            raise GradcheckError(
                "gradcheck: nothing to check, there is no input with an entry\n"
                "  hint: gradcheck(f, [x]), or gradcheck(lambda: loss(), model.parameters())"
            )
        self.rng = np.random.default_rng(seed)
        self.weights: list[Arrays] = []
        self.cases, self.largest = 0, 0.0
        names = self._operations()
        best = "complex and central" if names <= ANALYTIC else "central"
        self.used = best if method == "auto" else method

    # ---- the function as a scalar ----

    def call(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of the function at these leaves."""
        before = [x.array.copy() for x in leaves]
        with self.at(leaves):
            y = self.func() if self.closes_over else self.func(*leaves)
        for i, (x, values) in enumerate(zip(leaves, before, strict=True)):
            if not np.array_equal(x.array, values, equal_nan=True):
                raise GradcheckError(
                    f"gradcheck: func writes to {self._name(i)}\n"
                    "  expected: that it leaves its arguments as they are\n"
                    "  hint: y = x * 3 makes a new array, where x *= 3 writes to the one it is"
                    " given"
                )
        ys = list(y) if isinstance(y, (tuple, list)) else [y]
        tensors = [one for one in ys if isinstance(one, Tensor)]
        if not tensors:
            raise GradcheckError(
                f"gradcheck: func returned {described(y)}, which carries no derivative\n"
                "  hint: it should return a Tensor, or several, computed from its inputs"
            )
        return tensors

    def at(self, leaves: Sequence[Tensor]) -> AbstractContextManager[None]:
        """A context in which the inputs that the function closes over are these leaves."""
        return _swapped(self.inputs, leaves) if self.closes_over else nullcontext()

    def terms(self, k: int, leaves: Sequence[Tensor]) -> list[tuple[Tensor, np.ndarray]]:
        """Tensors with weights, whose weighted sum is ``s_k``.

        The sum itself is never recorded: a check that used our own ``sum`` could not judge it.
        """
        if k == 1:
            ys = self.call(leaves)
        else:
            gradients = self.gradients(k - 1, leaves, record=True)
            ys = [
                Tensor(np.zeros(x.shape)) if g is None else g
                for x, g in zip(self.xs, gradients, strict=True)
            ]
        if len(self.weights) < k:
            self.weights.append([_signed(self.rng, y.shape) for y in ys])
        return list(zip(ys, self.weights[k - 1], strict=True))

    def gradients(
        self, k: int, leaves: Sequence[Tensor], scale: float = 1.0, record: bool = False
    ) -> list[Any]:
        """The gradient of ``scale * s_k`` for each leaf, None where nothing flowed."""
        tracked = [(y, scale * w) for y, w in self.terms(k, leaves) if y.node is not None]
        if not tracked:
            return [None] * len(leaves)
        ys, weights = zip(*tracked, strict=True)
        with self.at(leaves):  # a checkpoint calls the function again on the way back
            return cotangents_of(ys, leaves, weights, create_graph=record)

    def engine(self, k: int, scale: float = 1.0) -> Arrays:
        """The engine's gradient of ``scale * s_k`` as arrays, zeros where nothing flowed."""
        found = self.gradients(
            k, [tensor(x, requires_grad=True, device="cpu") for x in self.xs], scale
        )
        return [
            np.zeros_like(x) if g is None else g.array for x, g in zip(self.xs, found, strict=True)
        ]

    def value(self, k: int, xs: Arrays) -> Any:
        """``s_k`` as a number, from arrays that may be complex."""
        if k == 1:
            with no_grad():
                terms = self.terms(1, [Tensor(np.asarray(x)) for x in xs])
        else:
            terms = self.terms(k, [tensor(x, requires_grad=True, device="cpu") for x in xs])
        return sum(np.sum(w * y.array) for y, w in terms)

    def _operations(self) -> set[str]:
        """The names of the recorded operations; GradcheckError if they do not lead to an input."""
        leaves = [tensor(x, requires_grad=True, device="cpu") for x in self.xs]
        ys = [y for y, _ in self.terms(1, leaves)]
        for y in ys:
            if not np.isfinite(y.array).all():
                raise GradcheckError(
                    f"gradcheck: func is not finite there: {described(y.array)} with NaN or"
                    " infinity\n"
                    "  hint: inputs where func has a value and slopes, log(x) where x > 0"
                )
        roots = [y.node for y in ys if y.node is not None]
        graph = _graph(roots)
        if graph.isdisjoint(x.node for x in leaves):
            raise GradcheckError(
                "gradcheck: nothing to check, the output was not computed from the inputs\n"
                "  hint: was something detached, or turned into a plain array?  A function that\n"
                "  closes over the inputs takes no arguments: gradcheck(lambda: loss(), inputs)"
            )
        return {node.name.partition("[")[0] for node in graph} - {"leaf"}

    # ---- the comparison ----

    def run(self, k: int) -> float:
        """The worst relative error at order ``k``; raises where one is beyond the tolerance."""
        before = [x.copy() for x in self.xs]
        engine = self.engine(k)
        for i, (g, x) in enumerate(zip(engine, self.xs, strict=True)):
            if g.shape != x.shape:
                self._fail(k, i, None, f"the gradient has shape {g.shape}, the input {x.shape}")
        self.largest = max(self.largest, *[float(np.max(np.abs(g), initial=0.0)) for g in engine])
        self._check_laws(k, engine)
        worst = max(self._compare(k, i, g) for i, g in enumerate(engine) if g.size)
        for i, (x, old) in enumerate(zip(self.xs, before, strict=True)):
            if not np.array_equal(x, old):
                self._fail(k, i, None, "func changed this input in place")
        return worst

    def _check_laws(self, k: int, engine: Arrays) -> None:
        """A second run gives the same bits; zero gives zero; -3 times the cotangent, -3 times g."""
        again, zero, thrice = self.engine(k), self.engine(k, 0.0), self.engine(k, -3.0)
        for i, g in enumerate(engine):
            if not np.array_equal(again[i], g, equal_nan=True):
                hint = "in func, give it a generator with a fixed seed, np.random.default_rng(0)."
                self._fail(k, i, None, "two runs differ: does func draw random numbers?", hint=hint)
            if np.isfinite(g).all() and np.any(zero[i] != 0):
                self._fail(k, i, None, "a zero cotangent gives a gradient that is not zero")
            rounding = (
                1e-12 * np.max(np.abs(g), initial=0.0) + 1e-14 * 100 ** (k - 1) * self.largest
            )
            if np.max(np.abs(thrice[i] + 3 * g), initial=0.0) > rounding:
                self._fail(k, i, None, "the gradient is not linear in the cotangent")

    def _compare(self, k: int, i: int, g: np.ndarray) -> float:
        """The worst relative error of input ``i``, by the best numerical slope that there is."""
        probes = list(self._probes(self.xs[i]))
        slopes = [(float(np.sum(g * v)), self._slopes(k, i, entry, v)) for entry, v in probes]
        size = float(np.max(np.abs(g)))
        scale = max(size, *[abs(slope.value) for _, numeric in slopes for slope in numeric])
        worst = 0.0
        for (entry, _), (engine, numeric) in zip(probes, slopes, strict=True):
            self.cases += 1
            for slope in numeric:
                if slope.kink > 1e-3 * scale:
                    self._kink(k, i, entry, engine, slope)
            for slope in numeric:
                error = abs(engine - slope.value)
                if not error <= self.atol + slope.rtol * scale + slope.noise:  # so that NaN fails
                    self._fail(k, i, entry, None, engine, slope.value)
            if size > 1e-9 * self.largest:  # a gradient of rounding errors alone has no scale
                worst = max(worst, abs(engine - numeric[0].value) / size)
        return worst

    def _probes(self, x: np.ndarray) -> Iterator[tuple[tuple[int, ...] | None, np.ndarray]]:
        """Each entry with its unit direction; random directions for a large input."""
        if x.size > ENTRIES:
            for _ in range(DIRECTIONS):
                yield None, self.rng.standard_normal(x.shape) / np.sqrt(x.size)
            return
        for entry in np.ndindex(x.shape):
            v = np.zeros_like(x)
            v[entry] = 1.0
            yield entry, v

    def _slopes(self, k: int, i: int, entry: Any, v: np.ndarray) -> list[Slope]:
        """The numerical slopes along ``v``, the most exact first."""
        slopes = []
        if "complex" in self.used:
            slope = complex_step(lambda xs: self.value(k, xs), self.xs, i, v)
            if slope is not None:
                looser = 10 ** (k - 1)
                noise = 1e-15 * looser**2 * self.largest
                slopes.append(Slope(slope, (self.rtol or 1e-10) * looser, noise))
            elif self.used == "complex":
                raise GradcheckError(
                    "gradcheck: method 'complex', but func returned a real value\n"
                    "  hint: it takes a real part, an absolute value or a cast; method='central'"
                )
        if "central" in self.used:
            slope, noise, kink = central_difference(
                lambda xs: self.value(k, xs), self.xs, i, v, self.eps, self.largest
            )
            slopes.append(Slope(slope, (self.rtol or 1e-7) * 10 ** (k - 1), noise, kink))
        return slopes

    # ---- how it failed ----

    def _kink(self, k: int, i: int, entry: Any, engine: float, slope: Slope) -> None:
        raise NondifferentiableError(
            f"gradcheck: {self._name(i)}{_place(entry)} sits at a kink: the slopes from the left"
            f" and from the right differ by about {slope.kink:.3g}\n"
            f"  order {k}, engine {engine!r}, central difference {slope.value!r}\n"
            "  hint: move the input away from the kink; what the engine does at one is in the"
            " table of tinygrad_rnn/registry.py",
            **self._where(k, i, entry, engine, slope.value),
        )

    def _name(self, i: int) -> str:
        return f"inputs[{i}]"

    def _where(self, k: int, i: int, entry: Any, engine: Any, numeric: Any) -> dict[str, Any]:
        return {
            "input_name": self._name(i),
            "entry": entry,
            "engine": engine,
            "numeric": numeric,
            "order": k,
            "seed": self.seed,
        }

    def _fail(
        self,
        k: int,
        i: int,
        entry: Any,
        reason: str | None,
        engine: float | None = None,
        numeric: float | None = None,
        hint: str = "is the derivative in the docstring, or an argument missing?",
    ) -> None:
        name = getattr(self.func, "__name__", type(self.func).__name__)
        name = name if name.isidentifier() else "func"  # a lambda
        lines = [f"gradcheck of {name}, order {k}: {self._name(i)}{_place(entry)}"]
        lines.append(f"  {described(self.xs[i])}")
        if reason is not None:
            lines.append(f"  {reason}")
        if engine is not None and numeric is not None:
            lines.append(f"  engine  {engine!r}")
            lines.append(f"  numeric {numeric!r}   ({self.used})")
            lines.append(f"  difference {engine - numeric:.3e}")
        lines += [
            f"  hint: {hint}  To see it again:",
            *("    " + line for line in self._reproduction(name, k)),
        ]
        raise GradcheckError("\n".join(lines), **self._where(k, i, entry, engine, numeric))

    def _reproduction(self, name: str, k: int) -> list[str]:
        options = f"order={k}, method={self.used.split()[0]!r}, seed={self.seed}"
        if self.closes_over:
            return [f"tg.gradcheck({name}, inputs, {options})  # the same leaves, in this order"]
        if sum(x.size for x in self.xs) > 64:
            return [f"tg.gradcheck({name}, inputs, {options})  # inputs too large to print"]
        arrays = ", ".join(f"np.array({x.tolist()!r}).reshape({x.shape})" for x in self.xs)
        return [
            "import numpy as np, tinygrad_rnn as tg",
            f"tg.gradcheck({name}, [{arrays}], {options})",
        ]


def _place(entry: Any) -> str:
    return " along a random direction" if entry is None else f"[{', '.join(map(str, entry))}]"


def _signed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random numbers of both signs, none near 0, so that no entry is weighed away."""
    return rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape)


def _float64(x: Any, i: int) -> np.ndarray:
    x = x.array if isinstance(x, TensorCore) else x
    if is_device_array(x):
        raise DeviceError(
            f"gradcheck: inputs[{i}], {described(x)}, is on a device\n"
            "  expected: the host, for derivatives are checked in float64, on NumPy\n"
            "  hint: model.to('cpu'), x.to('cpu'); that both devices agree is another test"
        )
    array = np.array(x)
    if array.dtype.kind != "f":
        raise GradcheckError(
            f"gradcheck: inputs[{i}] is {described(array)}\n  expected: floating point\n"
            "  hint: close over ids and masks, func = lambda x: f(x, ids)"
        )
    return array.astype(np.float64)


def _closes_over(func: Callable[..., Any], inputs: Sequence[Any]) -> bool:
    """Whether ``func`` takes no arguments, so that ``inputs`` are leaves that it closes over."""
    try:
        signature = inspect.signature(func)
    except ValueError:  # some builtins have none
        return False
    try:
        signature.bind(*inputs)
        return not inputs
    except TypeError:
        pass
    try:
        signature.bind()
    except TypeError:
        raise GradcheckError(
            f"gradcheck: func{signature} can be called neither with {len(inputs)} inputs nor with"
            " none\n  hint: pass one input for each argument"
        ) from None
    for i, x in enumerate(inputs):
        if not isinstance(x, Tensor) or x.node is None or not x.is_leaf:
            raise GradcheckError(
                f"gradcheck: func takes no arguments, inputs[{i}] is"
                f" {described(getattr(x, 'array', x))}\n"
                "  expected: a leaf with requires_grad=True that func closes over\n"
                "  hint: gradcheck(lambda: loss(model), model.parameters())"
            )
    return True


@contextmanager
def _swapped(leaves: Sequence[Tensor], others: Iterable[Tensor]) -> Iterator[None]:
    """The leaves with the values, and the nodes, of others; their own again afterwards."""
    own = [(x.array, x.node) for x in leaves]
    try:
        for x, other in zip(leaves, others, strict=True):
            x.array, x.node = other.array, other.node
        yield
    finally:
        for x, (array, node) in zip(leaves, own, strict=True):
            x.array, x.node = array, node


def _graph(roots: list[Node]) -> set[Node]:
    """Every node from which the roots were computed."""
    seen, left = set(), list(roots)
    while left:
        node = left.pop()
        if node not in seen:
            seen.add(node)
            left.extend(node.parents())
    return seen
