"""The Tensor: everything above, as methods and operators, under PyTorch's and NumPy's names."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from . import arithmetic, linear, products, reductions
from .backend import backend_of, is_device_array, on_device
from .backward import backward, gathered
from .engine import TensorCore, Watch, expect_no_mask, leaf, outdate
from .errors import (
    DeviceError,
    DtypeError,
    NotTrackedError,
    ShapeError,
    described,
    explained,
)
from .sparse import RowGradient

__all__ = ["Tensor", "tensor"]


def tensor(
    data: Any, dtype: Any = None, requires_grad: bool = False, device: str | None = None
) -> Tensor:
    """A Tensor with a copy of ``data``; a leaf that gathers gradients if ``requires_grad``.

    Python floats become float32, arrays keep their dtype.  It is on ``device``, ``"cpu"`` or
    ``"cuda"``; if that is left out, arrays of a device stay there, and all else goes to the host,
    or where ``use_device`` says.  Raises DtypeError for data that are not numbers, and for
    ``requires_grad`` of integers; DeviceError, with the reason, for a device that is not there.
    """
    if isinstance(data, TensorCore):
        data = data.array
    if isinstance(data, np.ndarray):
        expect_no_mask("tensor(data)", data)
    if hasattr(data, "dtype"):
        array = data.astype(dtype or data.dtype)  # always a copy
    else:
        array = _array(data, dtype)
        if dtype is None and array.dtype == np.float64 and not _has_numpy(data):
            array = array.astype(np.float32)
    if array.dtype.kind not in "fcbiu":
        hint = "leave out what is no number, such as None"
        if array.dtype.kind in "US":
            hint = "map words to ids first, [ids[word] for word in words]"
        raise DtypeError(
            f"tensor(data): data is {described(data)}\n  expected: numbers\n  hint: {hint}"
        )
    if isinstance(array, np.generic):
        array = np.asarray(array)
    if device is not None or isinstance(array, np.ndarray):
        array = on_device(array, device)
    return Tensor(array, leaf(array) if requires_grad else None)


def _array(data: Any, dtype: Any) -> np.ndarray:
    """The array of nested lists of numbers; ShapeError or DtypeError if they are something else."""
    parts = data if isinstance(data, (list, tuple)) else ()
    if any(isinstance(x, TensorCore) or is_device_array(x) for x in parts):
        kind = "Tensors" if isinstance(parts[0], TensorCore) else "arrays of a device"
        raise DtypeError(
            f"tensor(data): data is a list of {kind}\n  expected: numbers\n"
            "  hint: stack(list) puts them side by side and keeps their gradients"
        )
    try:
        return np.array(data, dtype)
    except (ValueError, TypeError) as error:
        if "inhomogeneous" in str(error):
            raise ShapeError(
                f"tensor(data): data is {described(data)}, whose rows differ in length\n"
                "  expected: rows of equal lengths\n"
                "  hint: a list of Tensors, one for each row; the layers of nn take it as it is"
            ) from error
        raise DtypeError(
            f"tensor(data): {error}\n  expected: numbers\n  hint: float32 and int64 are dtypes;"
            " words are mapped to ids first"
        ) from error


def _expect_tensor(name: str, g: Any, shape: tuple[int, ...], device: str) -> None:
    """Raise unless ``g`` is a Tensor of this shape, on this device."""
    if not isinstance(g, Tensor) and (name != "grad" or not isinstance(g, RowGradient)):
        raise DtypeError(
            f"{name}: got {type(g).__name__}\n  expected: None or a Tensor of shape {shape}\n"
            "  hint: tinygrad_rnn.tensor(array)"
        )
    if g.shape != shape:
        raise ShapeError(
            f"{name}: got a Tensor of shape {g.shape}\n  expected: {shape}\n"
            "  hint: a gradient has the shape of what it is the gradient of"
        )
    if isinstance(g, Tensor) and g.device != device:
        raise DeviceError(
            f"{name}: got a Tensor on {g.device}\n  expected: one on {device}\n"
            f"  hint: g.to({device!r}); a gradient is where that is which it is the gradient of"
        )


def _has_numpy(data: Any) -> bool:
    """Whether there is a NumPy value, which has a dtype to keep, in nested lists."""
    while isinstance(data, (list, tuple)) and data:
        data = data[0]
    return hasattr(data, "dtype")


class Tensor(TensorCore):
    """An array that remembers how it was made.

    ``array`` is the value, a NumPy or CuPy array.  Make one with ``tinygrad_rnn.tensor``.  Another
    array may be assigned to a leaf, of the shape and dtype that it was made with: these are its
    gradient's.
    """

    __slots__ = ()
    __array_ufunc__ = None  # so that ndarray * Tensor asks Tensor.__rmul__
    __hash__ = object.__hash__

    # ---- what it is ----

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def size(self) -> int:
        return self.array.size

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda"``: where the array lives."""
        return backend_of(self.array).device

    def __len__(self) -> int:
        if not self.shape:
            raise DtypeError(
                "len(x): x is a single number, of shape ()\n  hint: x.size is 1; x.item() is it"
            )
        return self.shape[0]

    def __iter__(self) -> Any:
        if not self.shape:
            raise DtypeError("iter(x): x is a single number, of shape ()\n  hint: x.item()")
        return iter(linear.unstack(self))

    def __repr__(self) -> str:
        text = np.array2string(
            backend_of(self.array).to_host(self.array),
            separator=", ",
            prefix="tensor(",
            threshold=100,
        )
        if self.node is None:
            source = ""
        elif self.is_leaf:
            source = ", requires_grad=True"
        else:
            source = f", made by {self.node.name}"
        place = f", device={self.device!r}" if self.device != "cpu" else ""
        return f"tensor({text}, dtype={self.dtype}{place}{source})"

    def __format__(self, spec: str) -> str:
        return format(self.item() if spec else repr(self), spec)

    def numpy(self) -> np.ndarray:
        """A copy of the value as a NumPy array on the host."""
        return np.array(backend_of(self.array).to_host(self.array))

    def item(self) -> Any:
        """The value as a Python number; ShapeError if it is not a single one."""
        return self._number("item()", "x.sum() or x.mean() make one number of many, x[i] picks one")

    def __float__(self) -> float:
        hint = "x.sum() or x[i] make one number; math's functions take one, tinygrad_rnn's any"
        return float(self._number("float(x)", hint))

    def __int__(self) -> int:
        return int(self._number("int(x)", "x.astype(int) turns all, of a constant"))

    def __bool__(self) -> bool:
        return bool(self._number("bool(x)", "say (x > 0).any() or (x > 0).all(); where chooses"))

    def _number(self, name: str, hint: str) -> Any:
        if self.size != 1:
            raise ShapeError(
                f"{name}: a tensor of shape {self.shape} is not a single number\n  hint: {hint}"
            )
        return backend_of(self.array).to_host(self.array).item()

    # ---- NumPy's functions are not ours ----

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise DtypeError(
            "a Tensor is not turned into an array unseen, for its gradient would be lost\n"
            "  hint: x.numpy() gives a copy; tinygrad_rnn's functions take Tensors and arrays"
        )

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """``np.sum(Tensor)`` and its like are refused, but for questions about the shape."""
        if function in (np.shape, np.ndim, np.size):
            return function(self.array, *args[1:], **kwargs)
        name = function.__name__
        ours = any(name in module.__all__ for module in (arithmetic, linear, products, reductions))
        raise DtypeError(
            f"numpy.{name}: an argument is a Tensor, whose gradient would be lost\n  hint: "
            + (f"tinygrad_rnn.{name} takes Tensors; " if ours else "")
            + "x.numpy() gives a copy"
        )

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise DtypeError(
            "assignment into a Tensor would change a value that the backward pass may need\n"
            "  hint: build a new one with stack, concatenate, where or scatter_add"
        )

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in ELSEWHERE]

    def __deepcopy__(self, memo: Any) -> Tensor:
        self._expect_apart("deepcopy")
        return tensor(self.array, requires_grad=self.requires_grad, device=self.device)

    def _expect_apart(self, name: str) -> None:
        """Raise for a Tensor that drags a graph behind it."""
        if self.node is not None and not self.is_leaf:
            raise DtypeError(
                f"{name}: this tensor, {described(self.array)}, hangs on the graph that made it,"
                f" by {self.node.name}\n  expected: a constant, or a leaf\n"
                f"  hint: {name} x.detach(), or x.numpy()"
            )

    def __reduce__(self) -> Any:
        self._expect_apart("pickle")
        return tensor, (self.numpy(), self.dtype, self.requires_grad, self.device)

    # ---- gradients ----

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made it."""
        return self.node is None or self.node.name == "leaf"

    @property
    def requires_grad(self) -> bool:
        """Whether it is tracked: a leaf that asks for its gradient, or made from one."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if not self.is_leaf:
            raise NotTrackedError(
                "requires_grad can be set on a leaf only\n  hint: y = x.detach() starts anew"
            )
        if wanted != self.requires_grad:
            outdate(self, "requires_grad = False")  # a gradient that came now would be lost
            self.node = leaf(self.array) if wanted else None

    @property
    def grad(self) -> Any:
        """The gradient gathered so far; None before ``backward``, and for what does not keep it.

        A Tensor; of the table of an ``Embedding(sparse=True)`` it is ``RowGradient``.
        """
        return None if self.node is None else gathered(self.node, Tensor)

    @grad.setter
    def grad(self, g: Tensor | RowGradient | None) -> None:
        if g is not None:
            _expect_tensor("grad", g, self.shape, self.device)
        if g is not None or self.node is not None:
            self._watch("grad").grad = g

    def _watch(self, name: str) -> Watch:
        if self.node is None:
            raise NotTrackedError(
                f"{name}: this tensor, {described(self.array)}, is not tracked: no gradient reaches"
                " it\n  hint: make it with requires_grad=True, or compute it from one that is"
            )
        if self.node.watch is None:
            self.node.watch = Watch()
        return self.node.watch

    def retain_grad(self) -> None:
        """Keep the cotangent of this interior tensor as ``.grad``, as a leaf does."""
        self._watch("retain_grad").keeps = True

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
        """Call ``hook`` with the cotangent, once all of it is there; returns what removes it.

        If the hook returns a Tensor, that one flows on.
        """
        if not callable(hook):
            raise DtypeError(
                f"register_hook(hook): hook is {described(getattr(hook, 'array', hook))}\n"
                "  expected: a function of the cotangent\n  hint: x.register_hook(print)"
            )
        hooks = self._watch("register_hook").hooks

        def on_cotangent(g: Any) -> Any:
            recorded = isinstance(g, Tensor)
            replaced = hook(g if recorded else Tensor(backend_of(g).asarray(g.copy())))
            if replaced is None:
                return g
            device = backend_of(getattr(g, "array", g)).device
            _expect_tensor("register_hook, what the hook returned", replaced, g.shape, device)
            replaced = linear.astype(replaced, g.dtype)
            return replaced if recorded else replaced.array

        key = id(on_cotangent)
        hooks[key] = on_cotangent

        def remove() -> None:
            hooks.pop(key, None)

        return remove

    def backward(
        self, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False
    ) -> None:
        """Add to every leaf's ``.grad`` the gradient of this tensor: see ``backward.py``."""
        backward(self, gradient, retain_graph, create_graph)

    def detach(self) -> Tensor:
        """The same array as a constant: where a window of truncated BPTT begins."""
        return Tensor(self.array)

    def to(self, device: str) -> Tensor:
        """The same values on ``"cpu"`` or ``"cuda"``; itself if it is there already."""
        if device == self.device:
            return self
        return linear.to_device(self, device)

    # ---- operators ----

    def __add__(self, other: Any) -> Tensor:
        return arithmetic.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return arithmetic.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return arithmetic.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return arithmetic.subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return arithmetic.multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return arithmetic.multiply(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return arithmetic.divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return arithmetic.divide(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return arithmetic.power(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return arithmetic.power(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return products.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return products.matmul(other, self)

    def __neg__(self) -> Tensor:
        return arithmetic.negative(self)

    def __abs__(self) -> Tensor:
        return arithmetic.abs(self)

    def __getitem__(self, index: Any) -> Tensor:
        return linear.getitem(self, index)

    # An assignment such as loss += x gives the name a new Tensor; a parameter has to stay itself.

    def __iadd__(self, other: Any) -> Tensor:
        return self._reassigned("+=")

    def __isub__(self, other: Any) -> Tensor:
        return self._reassigned("-=")

    def __imul__(self, other: Any) -> Tensor:
        return self._reassigned("*=")

    def __itruediv__(self, other: Any) -> Tensor:
        return self._reassigned("/=")

    def _reassigned(self, symbol: str) -> Any:
        """NotImplemented, so that Python takes ``+`` for ``+=``; DtypeError for a tracked leaf."""
        if self.requires_grad and self.is_leaf:
            raise DtypeError(
                f"p {symbol} x: p, {described(self.array)}, is a leaf with requires_grad=True\n"
                f"  {symbol} would make a new Tensor and leave the parameter as it is\n"
                "  hint: an optimizer of tg.optim moves it, or p.array = p.array - lr *"
                " p.grad.array; a sum begins with loss = loss + x"
            )
        return NotImplemented

    # Comparisons are about values alone: they give plain arrays.

    def __eq__(self, other: object) -> Any:
        return _of_arrays(operator.eq, x=self, y=other)

    def __ne__(self, other: object) -> Any:
        return _of_arrays(operator.ne, x=self, y=other)

    def __lt__(self, other: Any) -> Any:
        return _of_arrays(operator.lt, x=self, y=other)

    def __le__(self, other: Any) -> Any:
        return _of_arrays(operator.le, x=self, y=other)

    def __gt__(self, other: Any) -> Any:
        return _of_arrays(operator.gt, x=self, y=other)

    def __ge__(self, other: Any) -> Any:
        return _of_arrays(operator.ge, x=self, y=other)

    def argmax(self, axis: int | None = None) -> Any:
        """The index of the largest entry, as a plain array."""
        return _of_arrays(np.argmax, x=self, axis=axis)

    def argmin(self, axis: int | None = None) -> Any:
        """The index of the smallest entry, as a plain array."""
        return _of_arrays(np.argmin, x=self, axis=axis)

    # ---- the functions as methods ----

    @property
    def T(self) -> Tensor:
        """The axes in reverse order."""
        return linear.transpose(self)

    def reshape(self, *shape: Any) -> Tensor:
        """The entries in another shape: ``x.reshape(2, 3)`` or ``x.reshape((2, 3))``."""
        return linear.reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes: Any) -> Tensor:
        """The axes permuted, in NumPy's sense: ``x.transpose(1, 0)``."""
        if len(axes) == 1 and not isinstance(axes[0], int):
            axes = axes[0]
        return linear.transpose(self, axes or None)

    def astype(self, dtype: Any) -> Tensor:
        """The values in another dtype."""
        return linear.astype(self, dtype)

    def exp(self) -> Tensor:
        return arithmetic.exp(self)

    def log(self) -> Tensor:
        return arithmetic.log(self)

    def sqrt(self) -> Tensor:
        return arithmetic.sqrt(self)

    def tanh(self) -> Tensor:
        return arithmetic.tanh(self)

    def sigmoid(self) -> Tensor:
        return arithmetic.sigmoid(self)

    def relu(self) -> Tensor:
        return arithmetic.relu(self)

    def abs(self) -> Tensor:
        return arithmetic.abs(self)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return reductions.sum(self, axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return reductions.mean(self, axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return reductions.max(self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return reductions.min(self, axis, keepdims)

    def prod(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return reductions.prod(self, axis, keepdims)

    def logsumexp(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return reductions.logsumexp(self, axis, keepdims)

    def norm(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return reductions.norm(self, axis, keepdims)

    def var(self, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
        return reductions.var(self, axis, ddof, keepdims)

    def std(self, axis: Any = None, ddof: int = 0, keepdims: bool = False) -> Tensor:
        return reductions.std(self, axis, ddof, keepdims)

    def softmax(self, axis: int = -1) -> Tensor:
        return reductions.softmax(self, axis)

    def log_softmax(self, axis: int = -1) -> Tensor:
        return reductions.log_softmax(self, axis)

    def squeeze(self, axis: Any = None) -> Tensor:
        return linear.squeeze(self, axis)

    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        return linear.swapaxes(self, axis1, axis2)

    def cumsum(self, axis: int | None = None) -> Tensor:
        return linear.cumsum(self, axis)

    def clip(self, low: Any = None, high: Any = None) -> Tensor:
        return arithmetic.clip(self, low, high)


# ---- what has no derivative --------------------------------------------------------------------


def _of_arrays(function: Callable[..., Any], **values: Any) -> Any:
    """``function`` of the arrays of ``values``, with an error that bears its name."""
    try:
        return function(*[getattr(x, "array", x) for x in values.values()])
    except (TypeError, ValueError) as error:
        names = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal"}
        names |= {"gt": "greater", "ge": "greater_equal"}
        name = function.__name__
        raise explained(names.get(name, name), values, error) from error


# ---- names of elsewhere ------------------------------------------------------------------------

ELSEWHERE = {
    "clone": "x: a Tensor is not written over, so nobody needs a copy",
    "contiguous": "x: strides are NumPy's business",
    "copy": "x.numpy()",
    "cpu": "x.to('cpu')",
    "cuda": "x.to('cuda')",
    "data": "x.array",
    "dim": "x.ndim",
    "dot": "x @ y",
    "double": "x.astype(np.float64)",
    "expand": "tg.broadcast_to(x, shape)",
    "fill_": "x = tg.tensor(values): a Tensor is not written over",
    "flatten": "x.reshape(-1)",
    "float": "x.astype(np.float32)",
    "gather": "tg.take_along_axis(x, ids, axis)",
    "grad_fn": "x.node",
    "index_select": "tg.take(x, ids, axis)",
    "long": "x.detach().astype(int): integers have no gradient",
    "masked_fill": "tg.where(mask, value, x)",
    "matmul": "x @ y",
    "mm": "x @ y",
    "numel": "x.size",
    "permute": "x.transpose(axes)",
    "pow": "x ** y",
    "ravel": "x.reshape(-1)",
    "repeat": "tg.tile(x, reps): tg.repeat is NumPy's, and repeats entries",
    "requires_grad_": "x.requires_grad = True",
    "t": "x.T",
    "tolist": "x.numpy().tolist()",
    "type": "x.astype(dtype)",
    "unsqueeze": "tg.expand_dims(x, axis)",
    "view": "x.reshape(shape)",
    "zero_": "x.grad = None: so does zero_grad() of a Module or an optimizer",
}
"""What users of PyTorch look for in a Tensor; what to write here; and, after a colon, a remark."""


class Elsewhere:
    """An attribute that a Tensor has not, and whose AttributeError says what to write instead."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, x: Any, kind: Any = None) -> NoReturn:
        raise AttributeError(
            f"a Tensor has no attribute {self.name!r}\n  hint: {ELSEWHERE[self.name]}"
        )

    def __set__(self, x: Any, value: Any) -> None:
        self.__get__(x)


for _name in ELSEWHERE:  # not __getattr__, which would slow down every attribute that there is
    setattr(Tensor, _name, Elsewhere(_name))
