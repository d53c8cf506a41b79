"""Optimisers: how a gradient moves a parameter, in PyTorch's formulas.

A step leaves alone what anybody else holds: it writes into the array of a parameter only if nobody
but the parameter has it, and otherwise gives the parameter a new one.  A graph that was recorded
before does not go backwards to it any more, for that gradient would be of the old values.

The arithmetic of a step is nothing beside the time it takes to fetch its arrays from memory, so it
goes through them together, in blocks that fit into the cache, once.  On a device it is one kernel
for all parameters, made of the lines of C that stand with each formula, and nothing waits for it:
whether the gradients were finite the host learns later, see ``Guard``.

Letters: w the parameter, g its gradient, lr the rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .backend import backend_for, backend_of, writable
from .backward import rows_of_grad
from .clipping import Parameters, clip_grad_norm_, entries_of, expect_beside, named
from .engine import change
from .errors import (
    DtypeError,
    NonFiniteError,
    NotTrackedError,
    SettingError,
    described,
    expect_number,
)
from .finite import HINT, Guard, expect_finite
from .saving import fitted, host_array
from .sparse import RowGradient
from .tensor import Tensor

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "clip_grad_norm_",
]

Memory = dict[str, Any]


def in_c(lines: str) -> Any:
    """The decorator of a ``move`` that says it in C as well, for one entry of ``w``.

    What ``constants`` gives is there by name as a double, the memory of a setting that is off as 0,
    and ``S`` is the dtype of all else.
    """

    def spoken(move: Any) -> Any:
        move.in_c = lines
        return move

    return spoken


class Optimizer:
    """What the optimisers share: the parameters, and for each a memory of the steps so far.

    A subclass names its ``settings``, says by ``remembered`` what a memory is made of, and moves a
    parameter in ``move``.  ``lr`` may be set at any time.  The memory and the steps of float16 are
    float32, for eps and the squares of most gradients are 0 in float16; the parameter is rounded.
    """

    settings: ClassVar[dict[str, type]]
    lr: float

    def __init__(self, params: Parameters) -> None:
        pairs = _leaves(type(self).__name__, params)
        self.names, self.parameters = [name for name, _ in pairs], [x for _, x in pairs]
        self.memories: list[Memory] = [{} for _ in self.parameters]
        self.guard = Guard()

    def remembered(self, w: Any) -> Memory:
        """The memory of a parameter before its first step, by name: zeros; t counts its steps."""
        raise NotImplementedError

    def remembers(self) -> bool:
        """Whether a step depends on those before."""
        return True

    def move(self, *w_and_g: Any, **memory: Any) -> None:
        """Move ``w``, a block of a parameter, and bring its memory up to date: both in place."""
        raise NotImplementedError

    def constants(self, t: int) -> dict[str, float]:
        """The numbers that the C of ``move`` reads, at the ``t``-th step of a parameter."""
        return {name: float(getattr(self, name)) for name in self.settings}

    def moves_rows(self) -> bool:
        """Whether a step leaves rows without gradient, and their memory, as they are."""
        return False

    def step(self, check_finite: bool = True) -> None:
        """Move every parameter that has a gradient.

        NonFiniteError, before anything has moved, for a gradient with NaN or infinity; without
        ``check_finite`` the step is made all the same.

        On a device the error comes later, for a step does not wait: nothing moves any more from
        the step on whose gradient was not finite, and every 32nd step, and ``state_dict``, find
        that out, name the parameter and that step, and take back what was counted since.
        """
        by = f"{type(self).__name__}.step"
        # It may be set to anything: a NumPy float64, say, would make float32 parameters float64.
        self.lr = expect_number(by, "lr", self.lr)
        grads = [
            self._gradient(by, name, x) for name, x in zip(self.names, self.parameters, strict=True)
        ]
        if check_finite:
            self._check(by, grads)
        else:
            self._read()
        together: list[tuple[Any, Any, Memory]] = []
        for parameter, g, memory in zip(self.parameters, grads, self.memories, strict=True):
            if g is not None:
                w = writable(parameter)
                if self.remembers():
                    self._prepare(memory, w)
                else:
                    memory = {}  # what there is may be of steps before a setting was changed
                if isinstance(g, RowGradient):
                    self._move_rows(w, g, memory)
                else:
                    if "t" in memory:
                        memory["t"] = memory["t"] + 1
                    if isinstance(w, np.ndarray):
                        self._move_all(w, g.array, memory)
                    else:
                        together.append((w, g.array, memory))
                change(parameter, w, by)
        self._move_together(together)

    def _check(self, by: str, grads: list[Any]) -> None:
        """NonFiniteError for a gradient on the host; what is on a device is asked to tell later."""
        elsewhere, here = [], False
        for i, g in enumerate(grads):
            if g is not None:
                x = entries_of(g)
                if isinstance(x, np.ndarray):
                    expect_finite(by, self.names[i], x)
                    here = True
                else:
                    elsewhere.append((i, x))
        if elsewhere:
            self.guard.watch(elsewhere, self.memories)
        if here or self.guard.is_due():  # or what is here would move alone
            self._read()

    def _read(self) -> None:
        """Wait for a device: NonFiniteError if a gradient was not finite since it was last asked.

        Nothing has moved since then, and so the memories are what they were.
        """
        found = self.guard.read()
        if found:
            number, step, self.memories = found
            name, x = self.names[number], self.parameters[number]
            raise NonFiniteError(
                f"{type(self).__name__}.step: the gradient of {name}, {described(x)}, was not"
                f" finite at step {step}\n"
                f"  no parameter has moved since: steps {step} to {self.guard.step} were not made\n"
                f"  hint: {HINT}"
            )

    def _prepare(self, memory: Memory, w: Any) -> None:
        """Have ``memory`` where ``w`` is: zeros before the first step."""
        if not memory:
            memory |= self.remembered(w)
        elif type(next(reversed(memory.values()))) is not type(w):  # the model was moved
            for name, x in memory.items():
                memory[name] = _where(w, name).asarray(host_array(x))

    def _gradient(self, by: str, name: str, x: Tensor) -> Any:
        """That of ``x``: None, a Tensor, or, if rows are all that moves, a RowGradient."""
        moves_rows = self.moves_rows()
        g = rows_of_grad(x) or x.grad if moves_rows else x.grad
        if isinstance(g, RowGradient) and not moves_rows:
            raise SettingError(
                f"{by}: the gradient of {name}, {described(x)}, is kept as rows of it, for"
                " sparse=True, but all of it would move\n"
                "  expected: SGD without momentum, or Adagrad, and no weight decay\n"
                "  hint: leave sparse=True out; rows are used without it too, wherever that is the"
                " same"
            )
        if g is not None:
            expect_beside(by, name, x, entries_of(g))
        return g

    def _move_rows(self, w: Any, rows: RowGradient, memory: Memory) -> None:
        """Move the rows of ``w`` that have a gradient, as if they were all of it."""
        parts = {name: x[rows.ids] for name, x in memory.items()}
        moved = w[rows.ids]
        if isinstance(w, np.ndarray):
            self.move(moved, rows.values.astype(_step_dtype(w), copy=False), **parts)
        else:
            self._move_together([(moved, rows.values, parts)])
        w[rows.ids] = moved
        for name, x in parts.items():
            memory[name][rows.ids] = x

    def _move_all(self, w: Any, g: Any, memory: Memory) -> None:
        """Move ``w`` block by block."""
        g = g.astype(_step_dtype(w), copy=False)
        w, g = w.reshape(-1), g.reshape(-1)
        flat = {name: x if name == "t" else x.reshape(-1) for name, x in memory.items()}
        for block in backend_of(w).blocks(w):
            parts = {name: x if name == "t" else x[block] for name, x in flat.items()}
            self.move(w[block], g[block], **parts)

    def _move_together(self, moves: list[tuple[Any, Any, Memory]]) -> None:
        """Move parameters on a device: ``w``, ``g`` and memory of each."""
        with_kernel = []
        for w, g, memory in moves:
            if hasattr(self.move, "in_c") and w.dtype.kind == "f":
                with_kernel.append((w, g, memory))
            else:  # nobody else looks at the flag
                self._read()
                self.move(w, g.astype(_step_dtype(w), copy=False), **memory)
        if with_kernel:
            ws, gs, memories = zip(*with_kernel, strict=True)
            names = tuple([name for name in memories[0] if name != "t"])
            arrays = [tuple([memory[name] for name in names]) for memory in memories]
            ts = [int(memory.get("t", 0)) for memory in memories]
            flag = self.guard.flag_for(ws[0])
            backend_of(ws[0]).fused(_moved)(self, flag, names, ws, gs, arrays, ts)

    def zero_grad(self) -> None:
        """Forget the gradients that the parameters have gathered."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        """Settings by name, and memories as ``0.v``, ``1.v``, ...: copies, as NumPy arrays.

        NonFiniteError if a step on a device was not made: see ``step``.
        """
        self._read()
        state = self._settings()
        for i, memory in enumerate(self.memories):
            state |= {f"{i}.{name}": np.array(host_array(x)) for name, x in memory.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over settings and memories: from here on, steps are what they would have been.

        The parameters are known by their order.  All is checked before anything changes: one
        CheckpointError lists what is missing, unknown, or of another shape or kind.
        """
        if not isinstance(state, Mapping):
            raise DtypeError(
                f"load_state_dict(state): state is {described(state)}\n"
                "  expected: a dict of arrays by name\n"
                "  hint: pass optimizer.state_dict(), or what load(path) gives"
            )
        expected = self._settings()
        for i, parameter in enumerate(self.parameters):
            memory = {f"{i}.{name}": x for name, x in self.remembered(parameter.array).items()}
            if not memory.keys().isdisjoint(state):  # before its first gradient it has none
                expected |= memory
        arrays = fitted(type(self).__name__, state, expected)
        self.memories = [
            {
                name: _where(w, name).asarray(np.asarray(arrays[f"{i}.{name}"], order="C"))
                for name in self.remembered(w)
                if f"{i}.{name}" in arrays
            }
            for i, w in enumerate(x.array for x in self.parameters)
        ]
        for name in self.settings:
            setattr(self, name, arrays[name].item())
        self.guard = Guard()

    def _number(self, name: str, value: Any, below: float = math.inf) -> float:
        return expect_number(type(self).__name__, name, value, below)

    def _settings(self) -> dict[str, np.ndarray]:
        return {name: np.array(kind(getattr(self, name))) for name, kind in self.settings.items()}


class SGD(Optimizer):
    """Gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013).

        g <- g + weight_decay * w
        v <- momentum * v + g
        w <- w - lr * v                     or, with ``nesterov``:  w - lr * (g + momentum * v)

    Without momentum v is g, and nothing is remembered.  SettingError for settings out of range.
    """

    settings: ClassVar = {"lr": float, "momentum": float, "nesterov": bool, "weight_decay": float}

    def __init__(
        self,
        params: Parameters,
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params)
        self.lr = self._number("lr", lr)
        self.momentum = self._number("momentum", momentum)
        self.nesterov = nesterov
        self.weight_decay = self._number("weight_decay", weight_decay)
        if nesterov and not momentum:
            raise SettingError(
                "SGD: nesterov=True, but momentum is 0\n  expected: momentum > 0\n"
                "  hint: momentum=0.9"
            )

    def moves_rows(self) -> bool:
        return not (self.momentum or self.weight_decay)

    def remembered(self, w: Any) -> Memory:
        return {"v": _zeros(w)}

    def remembers(self) -> bool:
        return bool(self.momentum)

    @in_c(
        """
        g += S(weight_decay) * w;
        v = S(momentum) * v + g;
        w -= S(lr) * (nesterov ? g + S(momentum) * v : v);
        """
    )
    def move(self, w: Any, g: Any, v: Any = None) -> None:
        if self.weight_decay:
            g = g + self.weight_decay * w
        if self.momentum:
            v *= self.momentum
            v += g
            g = g + self.momentum * v if self.nesterov else v
        w -= self.lr * g


class Adagrad(Optimizer):
    """Steps that shrink with all that an entry's gradients have been (Duchi et al. 2011).

        g <- g + weight_decay * w
        s <- s + g * g
        w <- w - lr * g / (sqrt(s) + eps)

    s begins at 0.  An entry without gradient, such as a word that did not occur, stays where it is.
    SettingError for settings out of range.
    """

    settings: ClassVar = dict.fromkeys(("lr", "eps", "weight_decay"), float)

    def __init__(
        self, params: Parameters, lr: float = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params)
        self.lr, self.eps = self._number("lr", lr), self._number("eps", eps)
        self.weight_decay = self._number("weight_decay", weight_decay)

    def moves_rows(self) -> bool:
        return bool(self.eps) and not self.weight_decay  # without eps, 0 / 0 would move

    def remembered(self, w: Any) -> Memory:
        return {"s": _zeros(w)}

    @in_c(
        """
        g += S(weight_decay) * w;
        s += g * g;
        w -= S(lr) * g / (sqrt(s) + S(eps));
        """
    )
    def move(self, w: Any, g: Any, s: Any) -> None:
        if self.weight_decay:
            g = g + self.weight_decay * w
        s += g * g
        w -= self.lr * g / (np.sqrt(s) + self.eps)


class RMSprop(Optimizer):
    """Steps divided by the recent size of each entry's gradient (Tieleman and Hinton 2012).

        g <- g + weight_decay * w
        v <- alpha * v + (1 - alpha) * g * g
        w <- w - lr * g / (sqrt(v) + eps)

    v begins at 0, and nothing makes up for that.  SettingError for settings out of range.
    """

    settings: ClassVar = dict.fromkeys(("lr", "alpha", "eps", "weight_decay"), float)

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params)
        self.lr, self.eps = self._number("lr", lr), self._number("eps", eps)
        self.alpha = self._number("alpha", alpha, below=1.0)
        self.weight_decay = self._number("weight_decay", weight_decay)

    def remembered(self, w: Any) -> Memory:
        return {"v": _zeros(w)}

    @in_c(
        """
        g += S(weight_decay) * w;
        v = S(alpha) * v + S(1 - alpha) * (g * g);
        w -= S(lr) * g / (sqrt(v) + S(eps));
        """
    )
    def move(self, w: Any, g: Any, v: Any) -> None:
        if self.weight_decay:
            g = g + self.weight_decay * w
        v *= self.alpha
        v += (1 - self.alpha) * (g * g)
        w -= self.lr * g / (np.sqrt(v) + self.eps)


_ADAPT = """
        m = S(b1) * m + S(1 - b1) * g;
        v = S(b2) * v + S(1 - b2) * (g * g);
        w -= S(rate) * (m / (sqrt(v) / S(scale) + S(eps)));
        """


class Adam(Optimizer):
    """Steps of about ``lr`` for every entry, whatever its gradient's scale (Kingma and Ba 2015).

        g <- g + weight_decay * w
        t <- t + 1
        m <- b1 * m + (1 - b1) * g
        v <- b2 * v + (1 - b2) * g * g
        w <- w - lr * (m / (1 - b1**t)) / (sqrt(v / (1 - b2**t)) + eps)

    ``betas`` is (b1, b2).  m and v begin at 0; the divisions by 1 - b**t make up for that.
    SettingError for settings out of range.
    """

    settings: ClassVar = dict.fromkeys(("lr", "b1", "b2", "eps", "weight_decay"), float)

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params)
        self.lr = self._number("lr", lr)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise DtypeError(
                f"{type(self).__name__}: betas is {described(betas)}\n"
                "  expected: a pair (b1, b2)\n  hint: betas=(0.9, 0.999)"
            )
        self.b1, self.b2 = (self._number("betas", b, below=1.0) for b in betas)
        self.eps = self._number("eps", eps)
        self.weight_decay = self._number("weight_decay", weight_decay)

    def remembered(self, w: Any) -> Memory:
        return {"t": np.array(0), "m": _zeros(w), "v": _zeros(w)}

    def constants(self, t: int) -> dict[str, float]:
        rate, scale = self.lr / (1 - self.b1**t), (1 - self.b2**t) ** 0.5
        return {**super().constants(t), "rate": rate, "scale": scale}

    @in_c("g += S(weight_decay) * w;" + _ADAPT)
    def move(self, w: Any, g: Any, t: Any, m: Any, v: Any) -> None:
        if self.weight_decay:
            g = g + self.weight_decay * w
        self._adapt(w, g, int(t), m, v)

    def _adapt(self, w: Any, g: Any, t: int, m: Any, v: Any) -> None:
        """Move ``w`` by ``m`` and ``v`` alone."""
        b1, b2 = self.b1, self.b2
        m *= b1
        m += (1 - b1) * g
        v *= b2
        v += (1 - b2) * (g * g)
        scale = (1 - b2**t) ** 0.5
        w -= self.lr / (1 - b1**t) * (m / (np.sqrt(v) / scale + self.eps))


class AdamW(Adam):
    """Adam whose weight decay acts on the parameter itself (Loshchilov and Hutter 2019).

        w <- w - lr * weight_decay * w      and then a step of Adam without weight decay

    All else is as in ``Adam``, but for a ``weight_decay`` of 0.01.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    @in_c("w -= S(lr * weight_decay) * w;" + _ADAPT)
    def move(self, w: Any, g: Any, t: Any, m: Any, v: Any) -> None:
        w -= self.lr * self.weight_decay * w
        self._adapt(w, g, int(t), m, v)


def _moved(optimizer: Any, flag: Any, names: Any, ws: Any, gs: Any, memories: Any, ts: Any) -> None:
    """Move parameters at their t-th step, unless the flag is set: what the kernel does at once."""
    if not flag[1]:
        for w, g, memory, t in zip(ws, gs, memories, ts, strict=True):
            parts = dict(zip(names, memory, strict=True)) | ({"t": t} if t else {})
            optimizer.move(w, g.astype(_step_dtype(w), copy=False), **parts)


def _where(w: Any, name: str) -> Any:
    """The backend for a part of the memory of ``w``: its own, but for t, which the host reads."""
    return backend_for("cpu") if name == "t" else backend_of(w)


def _step_dtype(w: Any) -> Any:
    """The dtype in which ``w`` is moved: its own, or float32 if that is narrower."""
    return np.result_type(w.dtype, np.float32)


def _zeros(w: Any) -> Any:
    return backend_of(w).zeros(w.shape, _step_dtype(w))


# ---- what may be passed ------------------------------------------------------------------------


def _leaves(caller: str, parameters: Parameters) -> list[tuple[str, Tensor]]:
    """The parameters with their names, found to be tracked leaves, each there once."""
    pairs = named(caller, parameters)
    first_names: dict[int, str] = {}
    for name, x in pairs:
        if not x.requires_grad or not x.is_leaf:
            what = "was computed from others" if x.requires_grad else "is not tracked"
            raise NotTrackedError(
                f"{caller}: {name}, {described(x)}, {what}\n"
                "  expected: a leaf with requires_grad=True, for only leaves gather gradients\n"
                "  hint: tensor(values, requires_grad=True) makes one; what is computed has no step"
            )
        first = first_names.setdefault(id(x), name)
        if first != name:
            raise SettingError(
                f"{caller}: {name} and {first} are the same Tensor, which would move twice\n"
                "  hint: Module.parameters() lists tied weights once"
            )
    return pairs
