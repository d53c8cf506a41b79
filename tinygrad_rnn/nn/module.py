"""A model is a plain object; its parameters are found by walking its attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import numpy as np

from ..backend import backend_of
from ..engine import change
from ..errors import CheckpointError, DtypeError, described
from ..observer import OBSERVER
from ..saving import fitted, host_array, legible
from ..tensor import Tensor

__all__ = ["Module"]


class Module:
    """What holds Tensors and other Modules, and computes something with them in ``forward``.

        class Tagger(nn.Module):
            def __init__(self, words, tags):
                self.embed = nn.Embedding(words, 64)
                self.layers = [nn.Linear(64, 64), nn.Linear(64, tags)]

            def forward(self, ids):
                first, second = self.layers
                return second(tg.tanh(first(self.embed(ids))))

    Nothing is registered, and ``super().__init__()`` need not be called: every Tensor in an
    attribute, or in lists, tuples, dicts and Modules there, belongs to the model.  Its name is the
    path that leads to it, ``layers.0.weight``.  One that is found twice (tied weights) counts once,
    under the name that was defined first.
    """

    training = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        observer = OBSERVER.get()
        forward = self.forward if observer is None else observer.forward(self)
        return forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model computes; every subclass defines its own."""
        raise NotImplementedError(
            f"{type(self).__name__} has no method forward\n"
            "  hint: def forward(self, x): in the class is what a call of the module runs"
        )

    # ---- its Tensors ----

    def parameters(self) -> list[Tensor]:
        """The tracked Tensors, each once, in the order of definition."""
        return [x for _, x in self.named_parameters()]

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        """The tracked Tensors, each once with its name, in the order of definition."""
        return [(name, x) for name, x in self._tensors().items() if x.requires_grad]

    def zero_grad(self) -> None:
        """Forget the gradients that the parameters have gathered."""
        for x in self.parameters():
            x.grad = None

    def to(self, device: str) -> Self:
        """This model, its Tensors and their gradients moved to ``"cpu"`` or ``"cuda"``."""
        tensors = self._tensors().values()
        arrays = [x.detach().to(device).array for x in tensors]
        grads = [None if x.grad is None else x.grad.detach().to(device) for x in tensors]
        for x, array, grad in zip(tensors, arrays, grads, strict=True):
            if array is not x.array:  # or it is there already
                change(x, array, f"{type(self).__name__}.to")
                x.grad = grad
        return self

    def _tensors(self) -> dict[str, Tensor]:
        """Every Tensor once, by its first name."""
        found: dict[str, Tensor] = {}
        seen = set()
        for name, x in walk(self):
            if isinstance(x, Tensor) and id(x) not in seen:
                if name in found:
                    raise CheckpointError(
                        f"two Tensors of this {type(self).__name__} have the name {name!r}\n"
                        "  hint: keys of dicts should be strings without dots"
                    )
                seen.add(id(x))
                found[name] = x
        return found

    def name_of(self, part: Any) -> str | None:
        """The name by which ``part``, a Module or a Tensor inside, is first found; None if not."""
        return next((name for name, x in walk(self) if x is part), None)

    # ---- training or not ----

    def train(self, mode: bool = True) -> Self:
        """This model with ``training`` set in it and in every Module inside: dropout drops."""
        for _, x in walk(self):
            if isinstance(x, Module):
                x.training = mode
        return self

    def eval(self) -> Self:
        """This model with ``training`` unset in it and in every Module inside."""
        return self.train(False)

    # ---- state ----

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all Tensors, tracked or not, as NumPy arrays by name; tied ones once."""
        return {name: x.numpy() for name, x in self._tensors().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the values of ``state``: arrays or Tensors by name, each in its own precision.

        A tied Tensor may stand under any of its names, or under several with equal values.  All is
        checked before anything changes: one CheckpointError lists every name that is missing,
        unknown, or of another shape or kind.  To load a part of a model,
        ``model.load_state_dict({**model.state_dict(), **part})``.
        """
        if not isinstance(state, Mapping):
            raise DtypeError(
                f"load_state_dict(state): state is {described(state)}\n"
                "  expected: a dict of arrays by name\n"
                "  hint: pass model.state_dict(), or what load(path) gives"
            )
        tensors = self._tensors()
        first_names = {id(x): name for name, x in tensors.items()}
        renamed: dict[str, np.ndarray] = {}
        problems = []
        for name, value in state.items():
            first = first_names.get(id(follow(self, name)), name) if isinstance(name, str) else name
            try:
                x = host_array(value)
            except ValueError:  # lists of unequal lengths
                x = np.array(None)
            if first in renamed and not np.array_equal(renamed[first], x):
                problems.append(f"{legible(name)}: tied to {first}, but its values differ")
            renamed.setdefault(first, x)
        arrays = fitted(type(self).__name__, renamed, tensors, problems)
        for name, tensor in tensors.items():
            value = backend_of(tensor.array).asarray(arrays[name])
            change(tensor, value, f"{type(self).__name__}.load_state_dict")

    # ---- for the eye ----

    def __repr__(self) -> str:
        """The tree of all names, with settings and shapes; what is met again says where it was."""
        first_names: dict[int, str] = {}
        depths = {"": 0}  # of the Modules
        lines = []
        for name, x in walk(self):
            parent = name.rpartition(".")[0]
            while parent not in depths:  # a list or a dict, which has no line of its own
                parent = parent.rpartition(".")[0]
            depth = depths[parent] + 1
            first = first_names.setdefault(id(x), name)
            if first != name:
                what = f"the same as {first or 'the whole'}"
            elif isinstance(x, Module):
                depths.setdefault(name, depth)
                what = f"{type(x).__name__}({x._settings()})"
            else:
                what = described(x) + ("" if x.requires_grad else ", constant")
            lines.append("  " * depth + f"{name}: {what}")
        total = sum(x.size for x in self.parameters())
        lines[0] = f"{type(self).__name__}({self._settings()}), parameters: {total:,}"
        return "\n".join(lines)

    def _settings(self) -> str:
        return ", ".join(
            f"{key}={value!r:.30}"
            for key, value in vars(self).items()
            if isinstance(value, (bool, int, float, str)) and key != "training"
        )


def walk(root: Module) -> Iterator[tuple[str, Module | Tensor]]:
    """``root`` and each Module and Tensor in it by name, depth first in the order of definition.

    What is met again is named again, but not entered again.
    """
    entered = set()
    left: list[tuple[str, Any]] = [("", root)]
    while left:
        name, x = left.pop()
        if isinstance(x, (Module, Tensor)):
            yield name, x
        if id(x) not in entered:
            entered.add(id(x))
            parts = [(f"{name}.{key}" if name else str(key), part) for key, part in parts_of(x)]
            left.extend(reversed(parts))


def parts_of(x: Any) -> list[tuple[Any, Any]]:
    """What may hold Tensors in a Module or a container, by attribute, key or index."""
    if isinstance(x, Module):
        x = vars(x)
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(x, dict):
        items = x.items()
    elif isinstance(x, (list, tuple)):
        items = enumerate(x)
    return [(key, y) for key, y in items if isinstance(y, (Tensor, Module, dict, list, tuple))]


def follow(root: Module, name: str) -> Any:
    """What the path ``name`` leads to, by whatever way; None if it leads nowhere."""
    x: Any = root
    for key in name.split("."):
        x = {str(other): part for other, part in parts_of(x)}.get(key)
    return x
