"""Products with a Jacobian and a Hessian, without ever forming one.

``vjp`` is a backward pass.  ``jvp`` is two: ``J^T u`` is linear in ``u``, and the cotangent of that
linear map at ``v`` is ``J v`` (the double backward trick).  ``hvp`` differentiates ``<grad f, v>``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .backward import cotangents_of
from .errors import ShapeError
from .tensor import Tensor, tensor

__all__ = ["hvp", "jvp", "vjp"]


def vjp(func: Callable[..., Any], inputs: Any, v: Any = None) -> tuple[Any, Any]:
    """``(func(*inputs), J^T v)``: the outputs and, for each input, its cotangent.

    ``v`` has the outputs' shapes; None stands for 1 if there is one number.  Inputs are arrays or
    Tensors, one or a sequence; what comes back has the same form.
    """
    leaves, many = _leaves(inputs)
    y = func(*leaves)
    found = cotangents_of(_sequence(y), leaves, v if v is None else _sequence(v))
    return _detached(y), _like(leaves, found, many)


def jvp(func: Callable[..., Any], inputs: Any, v: Any) -> tuple[Any, Any]:
    """``(func(*inputs), J v)``: the outputs and how they move when the inputs move along ``v``."""
    leaves, _ = _leaves(inputs)
    y = func(*leaves)
    ys = [one for one in _sequence(y) if one.node is not None]
    us = [tensor(np.zeros_like(one.array), requires_grad=True) for one in ys]
    gradients = cotangents_of(ys, leaves, us, create_graph=True)
    flowing = [(g, w) for g, w in zip(gradients, _shaped(v, leaves), strict=True) if g is not None]
    found = iter(cotangents_of([g for g, _ in flowing], us, [w for _, w in flowing]))
    tangents = [
        Tensor(np.zeros_like(one.array)) if one.node is None else next(found)
        for one in _sequence(y)
    ]
    return _detached(y), tangents if isinstance(y, (tuple, list)) else tangents[0]


def hvp(func: Callable[..., Any], inputs: Any, v: Any) -> tuple[Any, Any]:
    """``(func(*inputs), H v)`` for a function to one number, H its matrix of second derivatives."""
    leaves, many = _leaves(inputs)
    y = func(*leaves)
    gradients = cotangents_of(y, leaves, create_graph=True)
    pairs = zip(gradients, _shaped(v, leaves), strict=True)
    flowing = [(g, w) for g, w in pairs if g is not None and g.node is not None]
    if not flowing:  # a linear function
        return _detached(y), _like(leaves, [None] * len(leaves), many)
    found = cotangents_of([g for g, _ in flowing], leaves, [w for _, w in flowing])
    return _detached(y), _like(leaves, found, many)


def _sequence(x: Any) -> list[Any]:
    return list(x) if isinstance(x, (tuple, list)) else [x]


def _leaves(inputs: Any) -> tuple[list[Tensor], bool]:
    """A fresh leaf for each input, and whether there were several."""
    leaves = [tensor(x, requires_grad=True) for x in _sequence(inputs)]
    return leaves, isinstance(inputs, (tuple, list))


def _shaped(v: Any, leaves: Sequence[Tensor]) -> list[Tensor]:
    """``v`` as Tensors; ShapeError unless they have the shapes of the inputs."""
    vs = [tensor(one) for one in _sequence(v)]
    if [one.shape for one in vs] != [x.shape for x in leaves]:
        raise ShapeError(
            f"v has shapes {[one.shape for one in vs]}\n"
            f"  expected: {[x.shape for x in leaves]}, those of the inputs\n"
            "  hint: v is a direction in which the inputs move; vjp takes one of the outputs"
        )
    return vs


def _detached(y: Any) -> Any:
    return type(y)(map(_detached, y)) if isinstance(y, (tuple, list)) else y.detach()


def _like(leaves: Sequence[Tensor], found: Sequence[Any], many: bool) -> Any:
    """The results in the form of the inputs, zeros where nothing flowed."""
    results = [
        Tensor(np.zeros_like(x.array)) if g is None else g.detach()
        for x, g in zip(leaves, found, strict=True)
    ]
    return results if many else results[0]
