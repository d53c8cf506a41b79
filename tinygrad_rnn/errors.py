"""The errors of the package: one family, each also an error that Python users already catch.

A message names the operation, the argument, what was expected and what came; then the place in the
user's program; and then it gives one hint that mends it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .place import Place

__all__ = [
    "CheckpointError",
    "DecodeError",
    "DeferredError",
    "DeviceError",
    "DtypeError",
    "GradcheckError",
    "GraphFreedError",
    "IndexRangeError",
    "NonFiniteError",
    "NondifferentiableError",
    "NotTrackedError",
    "SettingError",
    "ShapeError",
    "TinygradRNNError",
    "ValueChangedError",
]


class TinygradRNNError(Exception):
    """Anything that this package refuses to do.

    ``args[0]`` is the bare message; ``place`` are the lines that ``str`` puts before the hint.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.place = Place().lines()

    def __str__(self) -> str:
        facts, hint, advice = str(self.args[0]).partition("\n  hint:")
        return "\n".join([facts, *self.place]) + hint + advice


class ShapeError(TinygradRNNError, ValueError):
    """Shapes or axes that do not fit the operation, or each other."""


class DtypeError(TinygradRNNError, TypeError):
    """A value of the wrong type: an integer that should have a gradient, a string."""


class IndexRangeError(TinygradRNNError, IndexError):
    """An index or an id outside the axis that it points into."""


class GraphFreedError(TinygradRNNError, RuntimeError):
    """A second backward pass through a graph whose kept values the first has let go."""


class ValueChangedError(TinygradRNNError, RuntimeError):
    """A value that was written over between the forward pass that read it and the backward pass."""


class NotTrackedError(TinygradRNNError, RuntimeError):
    """A derivative of, or with respect to, something that no recorded operation connects."""


class NonFiniteError(TinygradRNNError, ArithmeticError):
    """A result, a cotangent or a gradient with NaN or infinity where it should be finite."""


class SettingError(TinygradRNNError, ValueError):
    """A number out of its range, such as a rate, a size or a probability; a choice not offered."""


class DeferredError(TinygradRNNError, RuntimeError):
    """A deferred call used as if it had been run, or one that cannot be run any more."""


class DecodeError(TinygradRNNError, ValueError):
    """Scores that cannot be searched: no hypothesis is left, or they are no log-probabilities."""


class CheckpointError(TinygradRNNError, ValueError):
    """A file that is no checkpoint, is damaged, or does not fit the model."""


class DeviceError(TinygradRNNError, RuntimeError):
    """A device that is not there, or arrays of two devices in one operation."""


class GradcheckError(TinygradRNNError, AssertionError):
    """A derivative that differs from the numerical one, or a check that checked nothing.

    The fields say where: ``input_name``, ``entry`` (an index), ``engine`` and ``numeric`` (the two
    numbers), ``order``, ``seed``.  They are None where a failure has no single entry.
    """

    def __init__(self, message: str, **where: object) -> None:
        super().__init__(message)
        self.input_name = where.get("input_name")
        self.entry = where.get("entry")
        self.engine = where.get("engine")
        self.numeric = where.get("numeric")
        self.order = where.get("order")
        self.seed = where.get("seed")


class NondifferentiableError(GradcheckError):
    """A point where the slopes from the left and from the right differ: nothing can be checked."""


def expect_count(name: str, argument: str, value: object, least: int = 1) -> None:
    """Raise DtypeError or SettingError unless ``value`` is an integer of at least ``least``."""
    if not isinstance(value, (int, np.integer)):
        raise DtypeError(
            f"{name}: {argument} is {described(value)}\n  expected: an integer\n"
            "  hint: int(x) makes one of a number; a // b divides into one"
        )
    if value < least:
        raise SettingError(
            f"{name}: {argument} is {value}\n  expected: at least {least}\n"
            f"  hint: pass {argument}={least}, or more"
        )


def expect_bool(name: str, argument: str, value: object, hint: str) -> None:
    """Raise DtypeError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise DtypeError(
            f"{name}: {argument} is {described(value)}\n  expected: True or False\n  hint: {hint}"
        )


def expect_number(
    name: str, argument: str, value: Any, below: float = np.inf, hint: str = ""
) -> float:
    """``value`` as a float; DtypeError or SettingError unless ``0 <= value < below``."""
    try:
        fits = bool(0 <= value < below)
    except TypeError as error:
        hint = "float(text) makes one of a text"
        if callable(value):
            hint = "a schedule is called, optimizer.lr = lr * schedule(step)"
        raise DtypeError(
            f"{name}: {argument} is {described(value)}\n  expected: a number\n  hint: {hint}"
        ) from error
    if not fits:
        hint = hint or f"the docstring has the formula in which {argument} stands"
        raise SettingError(
            f"{name}: {argument} is {value}\n  expected: 0 <= {argument} < {below}\n  hint: {hint}"
        )
    return float(value)


def described(value: object) -> str:
    """A few words for a value in a message: ``float32 (3, 4)``, ``int 3``, ``str 'ab'``."""
    kind = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, (list, tuple)) and len(value) > 6:
        return f"{kind} of {len(value)}"
    if isinstance(value, (list, tuple)) and any(hasattr(x, "dtype") for x in value):
        return f"{kind} ({', '.join(map(described, value))})"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{kind} {value.__qualname__}"
    try:
        return f"{kind} {value!r:.60}".partition("\n")[0]
    except Exception:  # what fails in its __repr__ must not take the place of this message
        return kind


def device_of(value: Any) -> str:
    """``"cpu"`` or ``"cuda"`` for a Tensor, an array or an index, ``""`` for what is on neither."""
    if isinstance(value, tuple):
        return max(map(device_of, value), default="")
    value = getattr(value, "array", value)
    if hasattr(value, "__cuda_array_interface__"):
        return "cuda"
    return "cpu" if isinstance(value, np.ndarray) else ""


def mixture(name: str, arguments: dict[str, Any]) -> DeviceError | None:
    """The error for arguments on two devices; None if they are on one."""
    devices = {key: device_of(value) for key, value in arguments.items()}
    if not {"cpu", "cuda"} <= set(devices.values()):
        return None
    lines = [f"{name}({', '.join(arguments)}): the arguments are on two devices"]
    for key, device in devices.items():
        value = described(getattr(arguments[key], "array", arguments[key]))
        lines.append(f"  {key}: {value}" + f" on {device}" * bool(device))
    own = next(key for key, device in devices.items() if device == "cpu")
    return DeviceError(
        "\n".join(lines)
        + f"\n  hint: tensor({own}, device='cuda') of an array, {own}.to('cuda') of a Tensor"
    )


def expect_one_device(name: str, **arguments: Any) -> None:
    """Raise DeviceError for arrays of two devices, where CuPy would copy them without a word."""
    error = mixture(name, arguments)
    if error is not None:
        raise error


_CAUSES: dict[str, tuple[type[TinygradRNNError], str, str]] = {
    "Integers to negative": (DtypeError, "integers have no negative powers", "use x.astype(float)"),
    "did not contain a loop": (DtypeError, "what is no number cannot be computed with", ""),
    "unsupported operand": (DtypeError, "what is no number cannot be computed with", ""),
    ")->(": (
        ShapeError,
        "a letter stands for sides of different lengths",
        "one letter, one length; another axis, another letter",
    ),
    "broadcast": (
        ShapeError,
        "these shapes do not fit each other",
        "sides must be equal, or 1, counted from the last axis",
    ),
    "reshape": (
        ShapeError,
        "the number of entries would change",
        "as many entries as before; one side may be -1, for what is left",
    ),
    "unknown dimension": (
        ShapeError,
        "several sides are -1",
        "one side may be -1, for what is left",
    ),
    "concatenation axis": (
        ShapeError,
        "sides differ beside the axis",
        "sides must be equal but along the axis; stack makes a new axis",
    ),
    "number of dimensions": (
        ShapeError,
        "the numbers of axes differ",
        "expand_dims(x, axis) adds one",
    ),
    "same shape": (
        ShapeError,
        "the shapes differ",
        "all of one shape; concatenate puts unequal ones in a row",
    ),
    "at least one array": (
        ShapeError,
        "there is no array",
        "at least one is needed; is the list still empty?",
    ),
    "squeeze": (
        ShapeError,
        "an axis to be left out is longer than 1",
        "x[0] takes the first; sum and mean take all of an axis",
    ),
    "zero-size": (
        ShapeError,
        "there is nothing to choose from",
        "leave out what is empty: it has no extreme",
    ),
    "duplicate": (ShapeError, "an axis is named twice", "name each axis once; -1 is the last"),
    "repeated axis": (ShapeError, "an axis is named twice", "name each axis once; -1 is the last"),
    "too many subscripts": (
        ShapeError,
        "an operand has fewer axes than letters",
        "a letter for each axis",
    ),
    "never appeared": (
        ShapeError,
        "the result has a letter that no operand has",
        "what stands after -> stands before it, too",
    ),
    "negative dimensions": (ShapeError, "a number is below 0", "pass 0 or more"),
    "only integers": (
        IndexRangeError,
        "this is no index",
        "integers, slices, masks; x[int(i)], or x[ids.astype(int)]",
    ),
    "boolean index": (
        IndexRangeError,
        "the mask has another shape",
        "a mask has the shape of x, or of its first axes",
    ),
}
"""Words in an error of NumPy's: what kind of error it is here, what it says, and what mends it."""


def explained(name: str, arguments: dict[str, Any], error: Exception) -> TinygradRNNError:
    """The error that says how the body of operation ``name`` failed on these arguments."""
    text = str(error).strip()
    mixed = mixture(name, arguments)
    if mixed is not None and not isinstance(error, IndexError):  # of which ids may be the reason
        return mixed
    kind: type[TinygradRNNError] = ShapeError
    hint = f"help({name}) says what the arguments have to be"
    if isinstance(error, np.exceptions.AxisError):
        hint = "axes count from 0, or from -1 backwards, up to the number of axes"
    elif isinstance(error, AttributeError):
        kind, hint = DtypeError, "pass an array or a Tensor; np.array(x) makes one of a list"
    elif isinstance(error, IndexError):
        kind, hint = IndexRangeError, "compare the index with the shape of the array it points into"
    elif isinstance(error, TypeError):
        kind, hint = DtypeError, "pass arrays, Tensors or numbers where the operation takes values"
    for words, (its_kind, its_text, its_hint) in _CAUSES.items():
        if words in text:
            kind, text, hint = its_kind, its_text, its_hint or hint
            break
    lines = [f"{name}({', '.join(arguments)}): {text}"]
    for key, value in arguments.items():
        lines.append(f"  {key}: {described(getattr(value, 'array', value))}")
    return kind("\n".join([*lines, f"  hint: {hint}"]))
