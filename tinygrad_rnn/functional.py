"""Losses, dropout and the embedding: formulas in the operations above."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arithmetic import log, softplus, where
from .backend import backend_of, is_device_array
from .errors import (
    DtypeError,
    IndexRangeError,
    SettingError,
    ShapeError,
    described,
    expect_number,
)
from .linear import getitem, reshape, take_along_axis
from .products import rows_of
from .random import given_rng
from .readout import softmax_losses
from .reductions import mean, rounded_once, sum

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "dropout",
    "embedding",
    "mse",
    "nll",
]


def embedding(ids, weight):
    """The rows of ``weight`` (V, D) that integers ``ids`` name: an array (*ids.shape, D).

    IndexRangeError unless ``0 <= id < V``: no id wraps round.  To look at ids of a device is to
    wait for it, at those of the host it is not.
    """
    ids = _integers("embedding(ids, weight)", "ids", ids)
    backend_of(ids).check_ids("embedding(ids, weight)", ids, weight.shape[0])
    return getitem(weight, ids)


def dropout(x, rate, rng=None):
    """``x`` with entries set to 0 with probability ``rate``, the others divided by ``1 - rate``."""
    expect_number("dropout", "rate", rate, 1.0, "the rate is the part that is dropped, not kept")
    if rate == 0:
        return x
    kept = given_rng(rng).random(x.shape) >= rate
    return x * backend_of(getattr(x, "array", x)).asarray(kept.astype(x.dtype) / (1 - rate))


def nll(log_probs, targets, ignore_index=None):
    """The mean of ``-log_probs[..., target]`` over the targets that are not ``ignore_index``.

    ``log_probs`` is (..., V), ``targets`` (...) integers.  0 if every target is ignored.
    """
    name = "nll(log_probs, targets)"
    return _mean_of_picked(log_probs, name, _nll, targets, ignore_index)


def _nll(log_probs, ids):
    """``-log_probs[n, ids[n]]`` for each row of ``log_probs`` (N, V): (N,)."""
    return -reshape(take_along_axis(log_probs, ids[:, None], -1), ids.shape)


def cross_entropy(logits, targets, ignore_index=None):
    """The mean of ``-log softmax(logits)[..., target]``, in nats.

    ``logits`` is (..., V), ``targets`` (...) integers; classes are on the last axis.  Targets equal
    to ``ignore_index`` do not count; 0 if all are ignored.  IndexRangeError for ids outside 0 .. V
    - 1; to look at targets of a device is to wait for it, at those of the host it is not.
    """
    name = "cross_entropy(logits, targets)"
    return _mean_of_picked(logits, name, softmax_losses, targets, ignore_index)


@rounded_once
def _mean_of_picked(scores, name, losses_of, targets, ignore_index):
    """The mean of ``losses_of(scores, targets)``, one for each row (V,) of scores, that count."""
    targets = _integers(name, "targets", targets, _hint_for_classes(name, scores, targets))
    if not scores.shape:
        raise ShapeError(
            f"{name}: values ()\n  expected: (..., V), a score for each of V classes\n"
            "  hint: a single number has no classes; a batch of one is (1, V)"
        )
    if targets.shape != scores.shape[:-1]:
        hint = "classes are on the last axis; targets are ids, one for each row of scores"
        if targets.shape == scores.shape:
            hint = _ONE_HOT
        elif targets.shape == scores.shape[:1] + scores.shape[2:]:
            hint = "classes are on the last axis, not on axis 1: moveaxis(values, 1, -1)"
        raise ShapeError(
            f"{name}: targets {targets.shape}, values {scores.shape}\n"
            f"  expected: targets {scores.shape[:-1]}, one class for each row\n  hint: {hint}"
        )
    targets = backend_of(targets).to_host(targets)  # where to look at them costs nothing
    counted = targets != ignore_index if ignore_index is not None else np.full(targets.shape, True)
    ids = np.where(counted, targets, 0)
    if ignore_index is None and (targets == -100).any():
        raise IndexRangeError(
            f"{name}: id -100 among the targets\n  expected: 0 <= target < {scores.shape[-1]}\n"
            "  hint: ignore_index=-100 leaves such targets out; no index is ignored by default"
        )
    backend_of(ids).check_ids(name, ids, scores.shape[-1])
    asarray = backend_of(getattr(scores, "array", scores)).asarray
    losses = losses_of(rows_of(scores), asarray(ids.reshape(-1)))
    count = int(counted.sum())
    if count != targets.size:
        losses = where(asarray(counted.reshape(-1)), losses, 0.0)
    return sum(losses) / (count or 1)


_ONE_HOT = "targets are ids, not one-hot rows: targets.argmax(-1)"


def _hint_for_classes(name: str, scores: Any, targets: Any) -> str:
    """What mends ``targets`` that are no integers."""
    if not hasattr(scores, "dtype") or scores.dtype.kind in "iu":
        return f"the arguments look swapped: {name}"
    if getattr(targets, "shape", None) == scores.shape:
        return _ONE_HOT
    return _TO_INT


def mse(x, y):
    """The mean of ``(x - y) ** 2``."""
    x, y = _alike("mse", x=x, y=y)
    distance = x - y
    return mean(distance * distance)


def binary_cross_entropy_with_logits(logits, targets):
    """The mean of ``-t log p - (1 - t) log(1 - p)``, ``p = sigmoid(logits)``; never overflows.

    SettingError unless ``0 <= t <= 1``; on a device, where that is not looked at, NaN.
    """
    name = "binary_cross_entropy_with_logits"
    logits, targets = _alike(name, logits=logits, targets=targets)
    targets = _probabilities(name, "targets", targets, _LABELS)
    return mean(targets * softplus(-logits) + (1 - targets) * softplus(logits))


def binary_cross_entropy(p, targets):
    """The mean of ``-t log p - (1 - t) log(1 - p)`` for probabilities; 0 log 0 counts as 0.

    SettingError unless ``0 <= p <= 1`` and ``0 <= t <= 1``; on a device, where that is not looked
    at, NaN.
    """
    name = "binary_cross_entropy"
    p, targets = _alike(name, p=p, targets=targets)
    hint = "binary_cross_entropy_with_logits takes logits; sigmoid(x) makes probabilities of them"
    p = _probabilities(name, "p", p, hint)
    targets = _probabilities(name, "targets", targets, _LABELS)
    yes = targets * log(where(targets == 0, 1.0, p))
    no = (1 - targets) * log(where(targets == 1, 1.0, 1 - p))
    return -mean(yes + no)


_LABELS = "(t + 1) / 2 turns labels -1 and 1 into 0 and 1; ids of classes go to cross_entropy"


def _probabilities(name: str, argument: str, x: Any, hint: str) -> Any:
    """``x``; SettingError if a number in it is below 0 or above 1; NaN is left to be seen.

    On a device, where a look would wait for all that is under way, NaN takes the place of these.
    """
    values = getattr(x, "array", x).real  # complex in the complex step of a gradcheck
    outside = (values < 0) | (values > 1)
    if is_device_array(values):
        return where(outside, np.nan, x)
    if outside.any():
        raise SettingError(
            f"{name}: {argument}, {described(values)}, has {float(values[outside][0]):.6g} in it\n"
            f"  expected: 0 <= {argument} <= 1\n  hint: {hint}"
        )
    return x


_TO_INT = "ids count rows; use .astype(int)"


def _integers(name: str, argument: str, ids: Any, hint: str = _TO_INT) -> Any:
    """``ids`` as an integer array; DtypeError if they are not integers."""
    ids = getattr(ids, "array", ids)
    if not hasattr(ids, "dtype"):
        try:
            ids = np.asarray(ids)
        except ValueError as error:
            raise ShapeError(
                f"{name}: {argument} is {described(ids)}, whose rows differ in length\n"
                "  expected: integers, in rows of equal lengths\n"
                "  hint: pad the rows with an id that is kept for that, or take them one by one"
            ) from error
    if ids.dtype.kind not in "iu":
        if ids.dtype.kind in "US":
            hint = "map words to ids first, [ids[word] for word in words]"
        raise DtypeError(
            f"{name}: {argument} is {described(ids)}\n  expected: integers\n  hint: {hint}"
        )
    return ids


def _alike(name: str, **pair: Any) -> list[Any]:
    """The two arguments as arrays or Tensors, if their shapes are equal.

    Shapes that merely broadcast would give a mean over pairs that nobody meant.
    """
    values = [x if hasattr(x, "shape") else np.asarray(x) for x in pair.values()]
    if values[0].shape != values[1].shape:
        told = ", ".join(
            f"{key} {described(getattr(x, 'array', x))}"
            for key, x in zip(pair, values, strict=True)
        )
        raise ShapeError(
            f"{name}({', '.join(pair)}): {told}\n  expected: equal shapes\n"
            "  hint: reshape one; a mean over all pairs that broadcasting makes is not meant"
        )
    return values
