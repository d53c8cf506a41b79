"""Every operation with its NumPy twin and with how to draw cases for it; the tests walk this table.

A row says: this is our function, this is what NumPy computes, here are arguments drawn so that what
could go wrong would show.  ``python -m tinygrad_rnn.gradcheck`` draws from a NumPy generator; the
property tests draw the same cases through hypothesis, which shrinks them.

Where mathematics leaves a choice, this is ours, pinned by ``tests/test_choices.py``:

======================================================  ============================================
case                                                    choice
======================================================  ============================================
gradient of max, min where several entries tie          divided evenly among them
gradient of maximum(x, x), minimum(x, x)                half to each side
relu'(0), abs'(0), sign'                                0
clip at the bound itself                                1, it still moves with x
norm'(0), std' where all entries are equal              0, no direction is preferred
d(0 ** y) / dx at y = 0                                 0, the power is constant
d(0 ** y) / dy                                          0, it does not change for y > 0
prod with zeros among the entries                       exact, products of the others
logsumexp of all -inf                                   -inf, gradient 0
softmax of a row that is all -inf (masked)              a row of 0, gradient 0
where(x > 0, sqrt(x), x)' at x <= 0                     NaN, 0 times the slope of the branch not
taken:
                                                        where(x > 0, sqrt(where(x > 0, x, 1)), x)
mean cross entropy with every target ignored            0, gradient 0, no exception
sum(axis=())                                            no reduction, as NumPy
ndarray * Tensor                                        a Tensor
cross entropy target or embedding id out of range       IndexRangeError, -1 included
index array changed before backward                     no effect, the index was copied
======================================================  ============================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from . import arithmetic, functional, fused, linear, products, readout, reductions, sequences
from .fold import fold
from .rows import spread
from .structure import Structure

ANALYTIC = frozenset(
    """
    add subtract multiply divide negative power exp expm1 log log1p sqrt sin cos tanh sigmoid
    softplus relu where maximum minimum sum_to broadcast_to cumsum reshape transpose permute
    getitem scatter concatenate split stack unstack sum mean max logsumexp softmax log_softmax
    matmul einsum read fill spread lstm_gates gru_gates lstm gru elman affine softmax_losses
    """.split()
)
"""Operations analytic, piecewise, on complex arrays: there a complex step is exact."""


class Draw:
    """Choices for a case.  A subclass says where integers and the generator come from."""

    rng: np.random.Generator

    def integer(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""
        raise NotImplementedError

    def choice(self, options: Sequence[Any]) -> Any:
        """One of the options; the first is the simplest."""
        return options[self.integer(0, len(options) - 1)]

    def shape(self, min_dims: int = 0, max_dims: int = 3, min_side: int = 1) -> tuple[int, ...]:
        """A shape with sides up to 3; all equal half of the time, so that only values can tell."""
        ndim = self.integer(min_dims, max_dims)
        if self.choice([False, True]):
            return (self.integer(min_side, 3),) * ndim
        return tuple(self.integer(min_side, 3) for _ in range(ndim))

    def broadcastable(self, n: int) -> list[tuple[int, ...]]:
        """``n`` shapes that broadcast to a common one, on the left operand as on the right."""
        full = self.shape()
        shapes = []
        for _ in range(n):
            start = self.integer(0, len(full)) if self.choice([False, True]) else 0
            shapes.append(tuple(1 if self.integer(0, 3) == 3 else side for side in full[start:]))
        shapes[self.integer(0, n - 1)] = full
        return shapes

    def axis(self, ndim: int, several: bool = True) -> Any:
        """None, an axis counted from either end, or a tuple of them, ``()`` too."""
        kinds = ["none"] + ["one"] * 2 * (ndim > 0) + ["several"] * several
        kind = self.choice(kinds)
        if kind == "none":
            return None
        if kind == "one":
            return self.integer(-ndim, ndim - 1)
        axes = [i for i in range(ndim) if self.choice([False, True])]
        return tuple(i - ndim if self.choice([False, True]) else i for i in axes)

    def normal(self, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
        """Numbers of both signs, at least 0.1 from 0."""
        x = self.rng.standard_normal(shape)
        return np.asarray(scale * (x + np.where(x < 0, -0.1, 0.1)))

    def positive(self, shape: tuple[int, ...]) -> np.ndarray:
        """Numbers from 0.3 to 3."""
        return np.asarray(self.rng.uniform(0.3, 3.0, shape))

    def distinct(self, shape: tuple[int, ...], offset: float = 0.0) -> np.ndarray:
        """Numbers of both signs, any two at least 0.1 apart, for what compares entries."""
        size = int(np.prod(shape))
        grid = self.rng.permutation(size) - size // 2
        return np.asarray((0.3 * grid + offset + self.rng.uniform(0, 0.04, size)).reshape(shape))


class RandomDraw(Draw):
    """Choices from a NumPy generator."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))


Case = tuple[list[np.ndarray], dict[str, Any]]


class Row(NamedTuple):
    """A function of arrays (checked) and keywords (not), its twin, and how to draw a case of it."""

    name: str
    function: Callable[..., Any]
    numpy: Callable[..., Any]
    case: Callable[[Draw], Case]
    analytic: bool = True


class _Function(Protocol):
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


# ---- how cases are drawn -----------------------------------------------------------------------


def _unary(values: str = "normal") -> Callable[[Draw], Case]:
    return lambda draw: ([getattr(draw, values)(draw.shape())], {})


def _binary(left: str = "normal", right: str = "normal") -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        a, b = draw.broadcastable(2)
        return [getattr(draw, left)(a), getattr(draw, right)(b)], {}

    return case


def _rivals(draw: Draw) -> Case:
    a, b = draw.broadcastable(2)
    return [draw.distinct(a), draw.distinct(b, offset=0.15)], {}


def _reduced(values: str = "normal", keywords: Sequence[str] = ("axis", "keepdims")) -> Any:
    def case(draw: Draw) -> Case:
        x = getattr(draw, values)(draw.shape())
        drawn = {"axis": draw.axis(x.ndim), "keepdims": draw.choice([False, True])}
        return [x], {key: drawn[key] for key in keywords}

    return case


def _along(draw: Draw) -> Case:
    x = draw.normal(draw.shape(min_dims=1))
    return [x], {"axis": draw.integer(-x.ndim, x.ndim - 1)}


def _along_or_flat(draw: Draw) -> Case:
    x = draw.normal(draw.shape(min_dims=1))
    return [x], {"axis": draw.axis(x.ndim, several=False)}


def _spread(draw: Draw) -> Case:
    """An array with entries that vary along the axes that are reduced."""
    shape = (*draw.shape(max_dims=2), 3)
    x = draw.distinct(shape)
    axis = draw.choice([-1, None, len(shape) - 1])
    return [x], {"axis": axis, "keepdims": draw.choice([False, True]), "ddof": draw.integer(0, 1)}


def _where(draw: Draw) -> Case:
    a, b, c = draw.broadcastable(3)
    return [draw.normal(a), draw.normal(b)], {"condition": draw.rng.random(c) < 0.5}


def _power(draw: Draw) -> Case:
    a, b = draw.broadcastable(2)
    if draw.choice([False, True]):
        return [draw.positive(a), draw.normal(b)], {}
    exponent = draw.choice([2, 3, -1, 0, 0.5, 1])
    return [draw.positive(a)], {"b": exponent}


def _clip(draw: Draw) -> Case:
    x = draw.distinct(draw.shape())
    return [x], {"low": draw.choice([None, -0.55]), "high": draw.choice([None, 0.55])}


def _broadcast(draw: Draw) -> Case:
    small, full = draw.broadcastable(2)
    shape = np.broadcast_shapes(small, full)
    return [draw.normal(small)], {"shape": shape}


def _sum_to(draw: Draw) -> Case:
    small, full = draw.broadcastable(2)
    shape = np.broadcast_shapes(small, full)
    return [draw.normal(shape)], {"shape": small}


def _reshape(draw: Draw) -> Case:
    x = draw.normal(draw.choice([(2, 3), (3, 3), (6,), (1,), (), (2, 3, 1)]))
    return [x], {"shape": draw.choice([(-1,), -1, (x.size,), (1, x.size), (x.size, 1, 1)])}


def _permuted(draw: Draw) -> Case:
    x = draw.normal(draw.shape())
    axes = [int(i) for i in draw.rng.permutation(x.ndim)]
    signed = [i - x.ndim if draw.choice([False, True]) else i for i in axes]
    return [x], {"axes": draw.choice([None, signed])}


def _two_axes(first: str, second: str) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        x = draw.normal(draw.shape(min_dims=1))
        ends = -x.ndim, x.ndim - 1
        return [x], {first: draw.integer(*ends), second: draw.integer(*ends)}

    return case


def _expand(draw: Draw) -> Case:
    x = draw.normal(draw.shape(max_dims=2))
    return [x], {"axis": draw.choice([0, -1, (0, -1), x.ndim])}


def _squeeze(draw: Draw) -> Case:
    shape = draw.choice([(1, 3), (3, 1, 2), (1,), (1, 1, 3), (1, 3, 1)])
    ones = [i for i, n in enumerate(shape) if n == 1]
    return [draw.normal(shape)], {"axis": draw.choice([None, ones[0], tuple(ones), ones[-1]])}


def _joined(draw: Draw) -> Case:
    shape = draw.shape(min_dims=1)
    axis = draw.integer(-len(shape), len(shape) - 1)
    arrays = []
    for _ in range(draw.integer(1, 3)):
        sides = list(shape)
        sides[axis] = draw.integer(1, 3)
        arrays.append(draw.normal(tuple(sides)))
    return arrays, {"axis": axis}


def _stacked(draw: Draw) -> Case:
    shape = draw.shape()
    arrays = [draw.normal(shape) for _ in range(draw.integer(1, 3))]
    return arrays, {"axis": draw.integer(-len(shape) - 1, len(shape))}


def _split(draw: Draw) -> Case:
    before, after = draw.shape(max_dims=1), draw.shape(max_dims=1)
    x = draw.normal((*before, 6, *after))
    return [x], {
        "indices_or_sections": draw.choice([1, 2, 3, [1, 4], [2], [4, 2], [-1]]),
        "axis": len(before),
    }


def _padded(draw: Draw) -> Case:
    x = draw.normal(draw.shape())
    pairs = [(draw.integer(0, 2), draw.integer(0, 2)) for _ in range(x.ndim)]
    return [x], {"pad_width": draw.choice([1, (1, 2), pairs or 0]), "constant_value": 0.5}


def _tiled(draw: Draw) -> Case:
    x = draw.normal(draw.shape(max_dims=2))
    return [x], {"reps": draw.choice([1, 2, (2,), (2, 3), (2, 1, 2)])}


def _repeated(draw: Draw) -> Case:
    x = draw.normal(draw.shape(min_dims=1, max_dims=2))
    axis = draw.axis(x.ndim, several=False)
    n = x.size if axis is None else x.shape[axis]
    return [x], {"repeats": draw.choice([2, [draw.integer(0, 2) for _ in range(n)]]), "axis": axis}


INDICES = [
    2,
    -1,
    slice(None, None, -1),
    slice(1, 3),
    (slice(None), 1),
    (..., 0),
    (None, 1),
    (slice(None, None, 2), None, slice(1, None)),
    np.array([0, 2, 0, -1]),
    [0, 0, 3],
    np.array([[1, 1], [0, -2]]),
    (np.array([0, 0, 1]), np.array([1, 1, 2])),
    (slice(None), np.array([2, 2, 0])),
    (np.array([[0], [3]]), np.array([0, 0, 2])),
    (1, slice(None), np.array([0, 1, 1])),
    np.array([True, False, True, True]),
    (slice(None), np.array([True, False, True])),
    np.zeros(4, bool),
    np.array([], int),
    (np.array([0, 3, 0]), None, slice(None)),
]
"""Indices into shape (4, 3, 3): basic, integer with repeats and negatives, boolean, mixed."""


def _index(draw: Draw) -> Case:
    return [draw.normal((4, 3, 3))], {"index": draw.choice(INDICES)}


def _scattered(draw: Draw) -> Case:
    index = draw.choice(INDICES)
    shape = np.empty((4, 3, 3))[index].shape
    return [draw.normal(shape)], {"index": index, "shape": (4, 3, 3)}


def _scatter_added(draw: Draw) -> Case:
    arrays, keywords = _scattered(draw)
    return [draw.normal((4, 3, 3)), *arrays], {"index": keywords["index"]}


def _rows(draw: Draw) -> Case:
    """Some rows, and the places of all of them among n, each once."""
    n, k = draw.integer(1, 4), draw.integer(0, 4)
    rows = draw.rng.permutation(n)[:k]
    return [draw.normal((len(rows), draw.integer(1, 3)))], {"rows": rows, "n": n}


def _taken(draw: Draw) -> Case:
    x = draw.normal(draw.shape(min_dims=1))
    axis = draw.axis(x.ndim, several=False)
    n = x.size if axis is None else x.shape[axis]
    indices = draw.rng.integers(-n, n, draw.shape(max_dims=2))
    return [x], {"indices": indices, "axis": axis}


def _taken_along(draw: Draw) -> Case:
    x = draw.normal(draw.shape(min_dims=1))
    axis = draw.integer(-x.ndim, x.ndim - 1)
    shape = list(x.shape)
    shape[axis] = draw.integer(1, 3)
    return [x], {"indices": draw.rng.integers(0, x.shape[axis], shape), "axis": axis}


def _embedded(draw: Draw) -> Case:
    V, D = draw.integer(1, 4), draw.integer(1, 3)
    return [draw.normal((V, D))], {"ids": draw.rng.integers(0, V, draw.shape(max_dims=2))}


def _multiplied(draw: Draw) -> Case:
    m, k, n = (draw.integer(1, 3) for _ in range(3))
    if draw.choice([False, True]):
        m = k = n
    batch = draw.choice([((), ()), ((2,), (2,)), ((2,), ()), ((), (2,)), ((2, 1), (3,))])
    left, right = draw.choice(["matrix", "vector"]), draw.choice(["matrix", "vector"])
    a = (*batch[0], m, k) if left == "matrix" else (k,)
    b = (*batch[1], k, n) if right == "matrix" else (k,)
    return [draw.normal(a), draw.normal(b)], {}


SUBSCRIPTS = {
    "ij,jk->ik": ["ij", "jk"],
    "bi,kij,bj->bk": ["bi", "kij", "bj"],
    "ij->ji": ["ij"],
    "ij->": ["ij"],
    "ij->i": ["ij"],
    "ii->i": ["ii"],
    "ii": ["ii"],
    "iij,j->i": ["iij", "j"],
    "ij,ij->": ["ij", "ij"],
    "i,j->ij": ["i", "j"],
    "ij,k->i": ["ij", "k"],
    "...ij,...jk->...ik": ["bij", "jk"],
    "...i,i": ["bci", "i"],
    "ba,ac": ["ba", "ac"],
}
"""Subscripts with the letters that each operand's shape spells."""


def _summed(draw: Draw) -> Case:
    subscripts = draw.choice(list(SUBSCRIPTS))
    sides = {letter: draw.integer(1, 3) for letter in "abcijk"}
    terms = SUBSCRIPTS[subscripts]
    return [draw.normal(tuple(sides[c] for c in term)) for term in terms], {
        "subscripts": subscripts
    }


def _contracted(draw: Draw) -> Case:
    axes = draw.choice([0, 1, 2, ([0], [1]), ([0, 1], [1, 0]), (1, 0)])
    n = draw.integer(1, 3)
    return [draw.normal((n, n)), draw.normal((n, n))], {"axes": axes}


def _convolved(draw: Draw) -> Case:
    B, C, K, width = (draw.integer(1, 2) for _ in range(4))
    x, weight, bias = draw.normal((B, C, 5)), draw.normal((K, C, width)), draw.normal((K,))
    return [x, weight, bias], {
        "stride": draw.integer(1, 2),
        "padding": draw.integer(0, 2),
        "dilation": draw.integer(1, 2),
    }


def _classified(draw: Draw) -> Case:
    shape, V = draw.shape(max_dims=2), draw.integer(1, 4)
    targets = np.asarray(draw.rng.integers(0, V, shape))
    return [draw.normal((*shape, V))], {
        "targets": targets,
        "ignore_index": draw.choice([None, 0, -100]),
    }


def _one_class_each(draw: Draw) -> Case:
    N, V = draw.integer(1, 3), draw.integer(1, 4)
    return [draw.normal((N, V))], {"ids": np.asarray(draw.rng.integers(0, V, N))}


def _read_out(draw: Draw) -> Case:
    V, D = draw.integer(1, 3), draw.integer(1, 3)
    x = draw.normal((*draw.shape(max_dims=2), D))
    return [x, draw.normal((V, D)), draw.normal((V,))], {}


def _labelled(values: str) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        x = getattr(draw, values)(draw.shape())
        return [np.asarray(x / 4) if values == "positive" else x], {
            "targets": np.asarray(draw.rng.choice([0.0, 1.0, 0.3], x.shape))
        }

    return case


def _same_shape(draw: Draw) -> Case:
    shape = draw.shape()
    return [draw.normal(shape), draw.normal(shape)], {}


def _dropped(draw: Draw) -> Case:
    return [draw.normal(draw.shape())], {"rate": 0.4, "seed": draw.integer(0, 99)}


# ---- NumPy twins that are not one call ---------------------------------------------------------


def _np_sum_to(x: Any, shape: Any) -> Any:
    padded = (1,) * (x.ndim - len(shape)) + tuple(shape)
    for i, n in enumerate(padded):
        if n == 1:
            x = x.sum(i, keepdims=True)
    return x.reshape(shape)


def _forest(draw: Draw) -> Case:
    """Nodes with up to two earlier ones for children, which may be shared, or twice the same."""
    n, H = draw.integer(2, 5), draw.integer(1, 3)
    counts = [0, *[draw.integer(0, 2) for _ in range(n - 2)], draw.integer(1, 2)]
    children = [[draw.integer(0, i - 1) for _ in range(k)] for i, k in enumerate(counts)]
    return [draw.normal((n, H)), draw.normal((H, H))], {"children": children}


def _folded(x: Any, W: Any, children: Any) -> Any:
    def cell(x: Any, *states: Any) -> Any:
        for k, h in enumerate(states, 1):
            x = x + float(k) * (h @ W)
        return arithmetic.tanh(x)

    return fold(cell, Structure.dag(children), x)


def _np_folded(x: Any, W: Any, children: Any) -> Any:
    h = np.zeros_like(x)
    for i, below in enumerate(children):
        h[i] = np.tanh(x[i] + np.sum([k * h[j] @ W for k, j in enumerate(below, 1)], axis=0))
    return h


def _gates(draw: Draw) -> Case:
    *lead, H = draw.shape(min_dims=1, max_dims=2)
    N = draw.integer(0, 3)
    return [draw.normal((*lead, (N + 3) * H)), *[draw.normal((*lead, H)) for _ in range(N)]], {}


def _np_lstm_gates(a: Any, *cs: Any) -> Any:
    i, *fs, g, o = np.split(a, len(cs) + 3, axis=-1)
    c = np.tanh(g) / (1 + np.exp(-i))
    c = c + sum(c_k / (1 + np.exp(-f)) for f, c_k in zip(fs, cs, strict=True))
    return np.tanh(c) / (1 + np.exp(-o)), c


def _sequences(blocks: int, parts: int, biases: int = 1) -> Callable[[Draw], Case]:
    """Sequences of any lengths, in either direction, with few entries in all."""

    def case(draw: Draw) -> Case:
        counts = sorted([draw.integer(1, 2) for _ in range(draw.integer(1, 2))], reverse=True)
        N, B = sum(counts), counts[0]
        D, H = draw.choice([(1, 1), (2, 1), (1, 2)])
        shapes: list[tuple[int, ...]] = [(N, D), (blocks * H, D), (blocks * H, H)]
        shapes += [(blocks * H,)] * (biases if draw.choice([True, False]) else 0)
        keywords = {"counts": counts, "backward": draw.choice([False, True]), "parts": parts}
        return [draw.normal(shape) for shape in [*shapes, *[(B, H)] * parts]], keywords

    return case


def _elman(draw: Draw) -> Case:
    arrays, keywords = _sequences(1, 1)(draw)
    return arrays, keywords | {"nonlinearity": draw.choice(list(sequences.NONLINEARITIES))}


def _over(operation: Callable[..., Any], biases: int = 1) -> Callable[..., Any]:
    """The operation as a function of its arrays, with or without biases."""

    def function(*xs: Any, counts: Any, backward: bool, parts: int, **settings: Any) -> Any:
        given = xs[3:-parts] or [None] * biases
        course = sequences.Course(counts, backward)
        return operation(*xs[:3], *given, *xs[-parts:], course, **settings)

    return function


def _np_over(step: Callable[..., Any]) -> Callable[..., Any]:
    """Each sequence by itself: ``state = step(U x, W h, *state)``, the biases in the products."""

    def function(*xs: Any, counts: Any, backward: bool, parts: int, **settings: Any) -> Any:
        x, U, W, *given = xs[:-parts]
        b_u, b_w = [*given, 0.0, 0.0][:2]
        outputs = np.zeros((len(x), W.shape[1]), np.result_type(*xs))
        finals = [part.astype(outputs.dtype) for part in xs[-parts:]]
        starts = np.cumsum([0, *counts]).tolist()
        for b in range(counts[0]):
            state = [part[b] for part in finals]
            rows = [start + b for start, n in zip(starts, counts, strict=False) if b < n]
            for row in reversed(rows) if backward else rows:
                state = step(U @ x[row] + b_u, W @ state[0] + b_w, *state, **settings)
                outputs[row] = state[0]
            for part, own in zip(finals, state, strict=True):
                part[b] = own
        return outputs, *finals

    return function


def _np_gru(u: Any, w: Any, h: Any) -> Any:
    (u_r, u_z, u_n), (w_r, w_z, w_n) = np.split(u, 3), np.split(w, 3)
    r, z = 1 / (1 + np.exp(-u_r - w_r)), 1 / (1 + np.exp(-u_z - w_z))
    return [(1 - z) * np.tanh(u_n + r * w_n) + z * h]


def _np_elman(u: Any, w: Any, h: Any, nonlinearity: str) -> Any:
    a = u + w
    f = {"tanh": np.tanh(a), "relu": a * (a > 0), "sigmoid": 1 / (1 + np.exp(-a))}
    return [f[nonlinearity]]


def _gru_step(draw: Draw) -> Case:
    *lead, H = draw.shape(min_dims=1, max_dims=2)
    return [draw.normal((*lead, k * H)) for k in (3, 3, 1)], {}


def _np_gru_gates(u: Any, w: Any, h: Any) -> Any:
    (u_r, u_z, u_n), (w_r, w_z, w_n) = np.split(u, 3, axis=-1), np.split(w, 3, axis=-1)
    n, z = np.tanh(u_n + w_n / (1 + np.exp(-u_r - w_r))), 1 / (1 + np.exp(-u_z - w_z))
    return (1 - z) * n + z * h


def _np_scatter(x: Any, index: Any, shape: Any) -> Any:
    out = np.zeros(shape, x.dtype)
    np.add.at(out, index, x)
    return out


def _np_logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return np.log(np.sum(np.exp(x), axis, keepdims=keepdims))


def _np_softmax(x: Any, axis: int = -1) -> Any:
    return np.exp(x) / np.exp(x).sum(axis, keepdims=True)


def _np_conv1d(x: Any, weight: Any, bias: Any, stride: int, padding: int, dilation: int) -> Any:
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding)])
    K, _, width = weight.shape
    span = dilation * (width - 1) + 1
    y = np.zeros((len(x), K, (x.shape[2] - span) // stride + 1), np.result_type(x, weight))
    for t in range(y.shape[2]):
        for m in range(width):
            y[:, :, t] += x[:, :, stride * t + dilation * m] @ weight[:, :, m].T
    return y + bias[:, None]


def _np_nll(log_probs: Any, targets: Any, ignore_index: Any) -> Any:
    values = [
        -log_probs[(*i, targets[i])]
        for i in np.ndindex(targets.shape)
        if targets[i] != ignore_index
    ]
    return np.mean(values) if values else np.zeros((), log_probs.dtype) * log_probs.sum()


def _np_bce(p: Any, targets: Any) -> Any:
    return np.mean(-(targets * np.log(p) + (1 - targets) * np.log(1 - p)))


def _np_dropout(x: Any, rate: float, seed: int) -> Any:
    return x * (np.random.default_rng(seed).random(x.shape) >= rate) / (1 - rate)


def _np_gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


# ---- the table ---------------------------------------------------------------------------------

A, L, P, R, F = arithmetic, linear, products, reductions, functional

ROWS: list[Row] = [
    Row("add", A.add, np.add, _binary()),
    Row("subtract", A.subtract, np.subtract, _binary()),
    Row("multiply", A.multiply, np.multiply, _binary()),
    Row("divide", A.divide, np.divide, _binary()),
    Row("negative", A.negative, np.negative, _unary()),
    Row("power", A.power, lambda a, b: np.power(a, b), _power),
    Row("exp", A.exp, np.exp, _unary()),
    Row("expm1", A.expm1, np.expm1, _unary()),
    Row("log", A.log, np.log, _unary("positive")),
    Row("log1p", A.log1p, np.log1p, _unary("positive")),
    Row("sqrt", A.sqrt, np.sqrt, _unary("positive")),
    Row("sin", A.sin, np.sin, _unary()),
    Row("cos", A.cos, np.cos, _unary()),
    Row("tanh", A.tanh, np.tanh, _unary()),
    Row("sigmoid", A.sigmoid, lambda x: 1 / (1 + np.exp(-x)), _unary()),
    Row("softplus", A.softplus, lambda x: np.log(1 + np.exp(x)), _unary()),
    Row("relu", A.relu, lambda x: x * (x > 0), _unary()),
    Row("gelu", A.gelu, _np_gelu, _unary()),
    Row("abs", A.abs, np.abs, _unary(), analytic=False),
    Row("sign", A.sign, np.sign, _unary(), analytic=False),
    Row("where", lambda a, b, condition: A.where(condition, a, b),
        lambda a, b, condition: np.where(condition, a, b), _where),
    Row("maximum", A.maximum, np.maximum, _rivals),
    Row("minimum", A.minimum, np.minimum, _rivals),
    Row("clip", A.clip, lambda x, low, high: np.clip(x, low, high), _clip),
    Row("sum", R.sum, np.sum, _reduced()),
    Row("mean", R.mean, np.mean, _reduced()),
    Row("var", R.var, np.var, _spread),
    Row("std", R.std, np.std, _spread),
    Row("norm", R.norm, lambda x, axis, keepdims: np.sqrt((x * x).sum(axis, keepdims=keepdims)),
        _reduced()),
    Row("prod", R.prod, np.prod, _reduced()),
    Row("max", R.max, np.max, _reduced("distinct")),
    Row("min", R.min, np.min, _reduced("distinct")),
    Row("logsumexp", R.logsumexp, _np_logsumexp, _reduced()),
    Row("softmax", R.softmax, _np_softmax, _along),
    Row("log_softmax", R.log_softmax, lambda x, axis: np.log(_np_softmax(x, axis)), _along),
    Row("cumsum", L.cumsum, np.cumsum, _along_or_flat),
    Row("sum_to", L.sum_to, _np_sum_to, _sum_to),
    Row("broadcast_to", L.broadcast_to, np.broadcast_to, _broadcast),
    Row("astype", L.astype, lambda x, dtype: x, lambda draw: ([draw.normal(draw.shape())],
        {"dtype": np.dtype(float)}), analytic=False),
    Row("matmul", P.matmul, np.matmul, _multiplied),
    Row("einsum", lambda *xs, subscripts: P.einsum(subscripts, *xs),
        lambda *xs, subscripts: np.einsum(subscripts, *xs), _summed),
    Row("tensordot", P.tensordot, np.tensordot, _contracted),
    Row("outer", P.outer, np.outer, lambda draw: ([draw.normal((2,)), draw.normal((3,))], {})),
    Row("conv1d", P.conv1d, _np_conv1d, _convolved),
    Row("reshape", L.reshape, np.reshape, _reshape),
    Row("transpose", L.transpose, np.transpose, _permuted),
    Row("swapaxes", L.swapaxes, np.swapaxes, _two_axes("axis1", "axis2")),
    Row("moveaxis", L.moveaxis, np.moveaxis, _two_axes("source", "destination")),
    Row("squeeze", L.squeeze, np.squeeze, _squeeze),
    Row("expand_dims", L.expand_dims, np.expand_dims, _expand),
    Row("concatenate", lambda *xs, axis: L.concatenate(xs, axis),
        lambda *xs, axis: np.concatenate(xs, axis), _joined),
    Row("stack", lambda *xs, axis: L.stack(xs, axis),
        lambda *xs, axis: np.stack(xs, axis), _stacked),
    Row("unstack", L.unstack, lambda x, axis: tuple(np.moveaxis(x, axis, 0)), _along),
    Row("split", L.split, np.split, _split),
    Row("flip", L.flip, np.flip, _reduced(keywords=("axis",))),
    Row("pad", L.pad, lambda x, pad_width, constant_value: np.pad(
        x, pad_width, constant_values=constant_value) if x.ndim else x, _padded),
    Row("tile", L.tile, np.tile, _tiled),
    Row("repeat", L.repeat, np.repeat, _repeated),
    Row("getitem", L.getitem, lambda x, index: x[index], _index),
    Row("scatter", L.scatter, _np_scatter, _scattered),
    Row("scatter_add", lambda x, updates, index: L.scatter_add(x, index, updates),
        lambda x, updates, index: x + _np_scatter(updates, index, x.shape), _scatter_added),
    Row("spread", spread, lambda x, rows, n: _np_scatter(x, rows, (n, *x.shape[1:])), _rows),
    Row("take", L.take, np.take, _taken),
    Row("take_along_axis", L.take_along_axis, np.take_along_axis, _taken_along),
    Row("embedding", lambda weight, ids: F.embedding(ids, weight),
        lambda weight, ids: weight[ids], _embedded),
    Row("dropout", lambda x, rate, seed: F.dropout(x, rate, np.random.default_rng(seed)),
        _np_dropout, _dropped),
    Row("nll", F.nll, _np_nll, _classified),
    Row("cross_entropy", F.cross_entropy, lambda logits, targets, ignore_index: _np_nll(
        np.log(_np_softmax(logits)), targets, ignore_index), _classified),
    Row("mse", F.mse, lambda x, y: np.mean((x - y) ** 2), _same_shape),
    Row("binary_cross_entropy", F.binary_cross_entropy, _np_bce, _labelled("positive")),
    Row("binary_cross_entropy_with_logits", F.binary_cross_entropy_with_logits,
        lambda logits, targets: _np_bce(1 / (1 + np.exp(-logits)), targets), _labelled("normal")),
    Row("lstm_gates", fused.lstm_gates, _np_lstm_gates, _gates),
    Row("gru_gates", fused.gru_gates, _np_gru_gates, _gru_step),
    Row("affine", readout.affine, lambda x, weight, bias: x @ weight.T + bias, _read_out),
    Row("softmax_losses", readout.softmax_losses, lambda x, ids: -np.log(
        _np_softmax(x)[np.arange(len(ids)), ids]), _one_class_each),
    Row("lstm", _over(sequences.lstm),
        _np_over(lambda u, w, h, c: _np_lstm_gates(u + w, c)), _sequences(4, 2)),
    Row("gru", _over(sequences.gru, 2), _np_over(_np_gru), _sequences(3, 1, 2)),
    Row("elman", _over(sequences.elman), _np_over(_np_elman), _elman),
    Row("fold", _folded, _np_folded, _forest),
]  # fmt: skip


def checkable(row: Row, keywords: dict[str, Any]) -> Callable[..., Any]:
    """The row's function of its arrays alone, as ``gradcheck`` takes it."""

    def func(*arrays: Any) -> Any:
        return row.function(*arrays, **keywords)

    func.__name__ = row.name
    return func
