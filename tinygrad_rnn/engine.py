"""How calls are remembered: the Tensor's core, the node that records a call, and ``op``.

An operation is a function on arrays plus one VJP per argument.  Arrays in, array out; any Tensor
in, Tensor out, and if that Tensor is tracked, the call leaves a ``Node`` behind.  Nodes point
backwards, to the nodes of their arguments, so what a recurrent net leaves behind is a chain and
what a recursive net leaves behind is a tree.  ``sweep.py`` goes through either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import count
from operator import itemgetter
from typing import Any

import numpy as np
from numpy import ndarray

from .cotangents import Outputs
from .errors import DtypeError, ShapeError, TinygradRNNError, described, explained
from .observer import OBSERVER
from .recording import PAUSES

__all__ = ["OPERATIONS", "formula", "op"]

Edge = tuple[Any, "Rule", Sequence[Any]]

OPERATIONS: dict[str, Callable[..., Any]] = {}
"""Every differentiable operation by name, in the order of definition."""

_IS_VARIADIC = 0x04  # a flag of a code object
_MISSING = object()
_birth = count().__next__


class TensorCore:
    """An array and the node that made it, None for a constant; ``tensor.py`` adds operators."""

    __slots__ = ("__weakref__", "array", "node")

    def __init__(self, array: Any, node: Node | None = None) -> None:
        self.array = array
        self.node = node


class Node:
    """One recorded call: its edges, its birth, and the shape and dtype of its value.

    A node is numbered when it is made and its parents are older, so newest first is a topological
    order.  ``edges`` holds one ``(parent, rule, values)`` for each tracked argument: the values are
    those that the rule's VJP names, and nothing else of the call is kept.  No node knows its
    Tensor, so there is no cycle and a graph goes when the last Tensor that needs it goes.
    """

    __slots__ = ("birth", "dtype", "edges", "name", "origin", "shape", "watch")

    def __init__(self, name: str, edges: Any, shape: Any, dtype: Any) -> None:
        self.birth = _birth()
        self.name = name
        self.edges = edges
        self.shape = shape
        self.dtype = dtype
        self.watch: Watch | None = None
        self.origin: Any = None  # what an observer has written down of the call

    def parents(self) -> list[Node]:
        """The nodes of the tracked arguments; none of a leaf, or once the graph is freed."""
        found: list[Node | None] = []
        for parent, _, _ in self.edges:
            found.extend(parent if isinstance(parent, tuple) else [parent])
        return [node for node in found if node is not None]


class Watch:
    """What somebody wants of a node's cotangent: to keep it as ``.grad``, to call hooks with it.

    ``changed`` is the version of a leaf: the birth number of its last change, by ``changed_by``;
    ``sparse`` says that ``.grad`` is rows of it, those with a gradient.
    """

    __slots__ = ("changed", "changed_by", "grad", "hooks", "keeps", "sparse")

    def __init__(self, keeps: bool = False) -> None:
        self.grad: Any = None
        self.keeps = keeps
        self.hooks: dict[int, Callable[[Any], Any]] = {}
        self.changed, self.changed_by = -1, ""
        self.sparse = False


def leaf(array: Any) -> Node:
    """The node of a leaf: nothing made it, and it keeps its gradient."""
    if array.dtype.kind not in "fc":
        raise DtypeError(
            f"requires_grad: only floating-point tensors have gradients, got {array.dtype}\n"
            "  hint: pass dtype=np.float32, or leave requires_grad out for ids and counts"
        )
    node = Node("leaf", (), array.shape, array.dtype)
    node.watch = Watch(keeps=True)
    return node


def change(x: TensorCore, array: Any, by: str) -> None:
    """Give the leaf ``x`` another value: no graph from before will go backwards to it any more."""
    x.array = array
    outdate(x, by)


def outdate(x: TensorCore, by: str) -> None:
    """Give the leaf ``x`` another version."""
    if x.node is not None and x.node.watch is not None:
        x.node.watch.changed, x.node.watch.changed_by = _birth(), by


class Rule:
    """A VJP with the places of the values that it names, among ``(*arguments, y)``.

    ``reads`` are these places, each with whether the shape is enough; ``read`` picks the values.
    ``position`` is that of the argument whose cotangent the VJP gives; None for a joint VJP, which
    gives those of all.  ``rest`` is the place of ``*arrays``, if the operation has such.
    """

    __slots__ = ("position", "read", "reads", "rest", "takes_terms", "vjp", "y_place")

    def __init__(
        self,
        vjp: Callable[..., Any],
        names: list[str],
        position: int | None,
        rest: int | None = None,
    ) -> None:
        self.vjp = vjp
        self.position = position
        self.rest = rest
        self.y_place = len(names) - 1
        self.takes_terms = False  # whether g may be a Term, as of the plain transpose
        code = vjp.__code__
        self.reads = [
            (names.index(name.removesuffix("_shape")), name.endswith("_shape"))
            for name in code.co_varnames[1 : code.co_argcount]  # all but g
        ]
        self.read = reader(self.reads)

    def jointly(
        self, g: Any, values: Sequence[Any], parents: tuple[Any, ...], node: Node
    ) -> list[tuple[Any, Any]]:
        """Each argument's node with the cotangent that a joint VJP gives it."""
        parts = list(self.vjp(g, *values))
        if len(parts) != len(parents):
            raise ShapeError(
                f"{node.name}: the joint VJP returned {len(parts)} cotangents\n"
                f"  expected: {len(parents)}, one or None for each argument\n"
                "  hint: (g_a, g_b), in the order of the arguments"
            )
        return list(zip(parents, parts, strict=True))

    def as_tensors(
        self, values: Sequence[Any], node: Node, parent: Any, kind: type[TensorCore]
    ) -> list[Any]:
        """The values read as the Tensors that they were, so that the VJP itself is recorded."""
        if self.position is None:
            makers = dict(enumerate(parent[: self.rest]))
            if self.rest is not None:
                makers[self.rest] = parent[self.rest :]
        else:
            makers = {rule.position: maker for maker, rule, _ in node.edges}
        makers[self.y_place] = node
        return [
            value if shape_only else as_made(value, makers.get(place), kind)
            for value, (place, shape_only) in zip(values, self.reads, strict=True)
        ]


def reader(reads: list[tuple[int, bool]]) -> Callable[[list[Any]], Sequence[Any]]:
    """The function from ``[*arguments, y]`` to the values, or the shapes alone, at ``reads``."""
    if any(shape_only for _, shape_only in reads):

        def read(values: list[Any]) -> list[Any]:
            found = []
            for i, shape_only in reads:
                found.append(shape_of(values[i]) if shape_only else values[i])
            return found

        return read
    if len(reads) > 1:
        return itemgetter(*[i for i, _ in reads])
    return itemgetter(slice(reads[0][0], reads[0][0] + 1)) if reads else lambda values: ()


def shape_of(x: Any) -> Any:
    """The shape of an array, ``()`` for a number, the tuple of them for a tuple of arrays."""
    return tuple(map(shape_of, x)) if isinstance(x, tuple) else getattr(x, "shape", ())


def as_made(value: Any, maker: Any, kind: type[TensorCore]) -> Any:
    """A kept value as the Tensor that ``maker``, a node or a tuple of nodes, made; or as it is."""
    if maker is None:
        return value
    if isinstance(maker, tuple):
        return tuple([as_made(*pair, kind) for pair in zip(value, maker, strict=True)])
    if isinstance(value, tuple):  # the results of an operation that has several
        return tuple([kind(y, outlet(maker, i, value)) for i, y in enumerate(value)])
    return kind(value, maker)


class Operation:
    """A function on arrays with its rules; ``op`` wraps it in a function that takes Tensors too."""

    def __init__(
        self, forward: Callable[..., Any], joint: Any, vjps: dict[str, Callable[..., Any]]
    ) -> None:
        code = forward.__code__
        self.forward = forward
        self.name = forward.__name__.lstrip("_")
        self.arity = code.co_argcount
        self.variadic = bool(code.co_flags & _IS_VARIADIC)
        self.parameters = list(code.co_varnames[: self.arity + self.variadic])
        self.default_values = forward.__defaults__ or ()
        having = self.parameters[self.arity - len(self.default_values) : self.arity]
        self.defaults = dict(zip(having, self.default_values, strict=True))
        names = [*self.parameters, "y"]
        for vjp in [*vjps.values(), *([joint] if joint else [])]:
            read = vjp.__code__.co_varnames[1 : vjp.__code__.co_argcount]
            unknown = {*vjps, *[name.removesuffix("_shape") for name in read]} - set(names)
            if unknown:
                raise DtypeError(
                    f"op: {self.name} has no argument {', '.join(map(repr, sorted(unknown)))}\n"
                    f"  expected: {', '.join(names)}, or one of these followed by _shape\n"
                    "  hint: a VJP is for an argument, and names those that it reads, after g"
                )
        rest = self.arity if self.variadic else None
        self.joint = Rule(joint, names, None, rest) if joint else None
        self.rules: list[tuple[int, Rule, Any]] = []  # with position and reader: calls are hot
        for key, vjp in vjps.items():
            rule = Rule(vjp, names, names.index(key))
            self.rules.append((names.index(key), rule, rule.read))
        self.rules.sort(key=itemgetter(0))

    def complete(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments in their positions, keywords and defaults filled in."""
        missing = self.arity - len(args)
        if not kwargs and 0 < missing <= len(self.default_values):
            return args + self.default_values[-missing:]
        names = self.parameters[: self.arity]
        given = dict(zip(names, args, strict=False))
        values = self.defaults | kwargs | given
        too_many = len(args) > self.arity and not self.variadic
        if too_many or kwargs.keys() & given.keys() or values.keys() != set(names):
            self.forward(*args, **kwargs)  # raises Python's own TypeError for such a call
        return (*[values[name] for name in names], *args[self.arity :])

    def joint_edge(self, nodes: list[Node | None], values: list[Any]) -> Edge:
        """The one edge, to the nodes of all arguments together, of an operation with a joint VJP.

        ``values`` is ``[*arguments, y]``.  DtypeError if there is no joint VJP either, so that a
        tracked Tensor stands where the operation has no derivative.
        """
        if self.joint is None:
            having = [self.parameters[position] for position, _, _ in self.rules]
            raise DtypeError(
                f"{self.name}: a tracked Tensor stands where there is no derivative\n"
                f"  has derivatives: {having}\n  hint: detach() the others"
            )
        if self.variadic:
            values = [*values[: self.arity], tuple(values[self.arity : -1]), values[-1]]
        return tuple(nodes), self.joint, self.joint.read(values)

    def failed(self, args: tuple[Any, ...], error: Exception) -> TinygradRNNError:
        """The error that tells how the body failed on these arguments."""
        names = self.parameters[: self.arity] + [
            f"{self.parameters[-1]}[{i}]" for i in range(len(args) - self.arity)
        ]
        return explained(self.name, dict(zip(names, args, strict=True)), error)


def formula(function: Callable[..., Any]) -> Callable[..., Any]:
    """The decorator of a function that is a formula in operations: its errors bear its name."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + bool(code.co_flags & _IS_VARIADIC)]

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TinygradRNNError:
            raise
        except (ValueError, TypeError, IndexError, AttributeError, ZeroDivisionError) as error:
            given = dict(zip(names, args, strict=False)) | kwargs
            raise explained(function.__name__, given, error) from error

    return call


def call_of_any(operation: Operation) -> Callable[..., Any]:
    """The function of arrays and Tensors that runs the operation, and remembers that it did."""
    name, arity, variadic = operation.name, operation.arity, operation.variadic
    forward, rules, joint_edge = operation.forward, operation.rules, operation.joint_edge

    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs or (len(args) < arity if variadic else len(args) != arity):
            args = operation.complete(args, kwargs)
        kind, nodes, values = None, [], []
        for x in args:
            if isinstance(x, TensorCore):
                kind = type(x)
                nodes.append(x.node)
                x = x.array
            else:
                nodes.append(None)
                if type(x) is not ndarray:
                    x = operand(x, name)
            values.append(x)
        observer = OBSERVER.get()
        body = forward if observer is None else observer.body(operation)
        try:
            y = body(*(args if kind is None else values))
        except TinygradRNNError:
            raise
        except (ValueError, TypeError, IndexError) as error:
            raise operation.failed(args, error) from error
        if kind is None:
            return y
        if type(y) is not ndarray:
            y = with_arrays(y, name)
        untracked = nodes.count(None)
        if untracked == len(nodes) or PAUSES.get():
            return tuple(map(kind, y)) if isinstance(y, tuple) else kind(y)
        values.append(y)
        edges = []
        for position, rule, read in rules:
            node = nodes[position]
            if node is not None:
                edges.append((node, rule, read(values)))
        if len(edges) + untracked != len(nodes):
            edges = [joint_edge(nodes, values)]
        if isinstance(y, tuple):
            if rules:
                raise DtypeError(
                    f"{name}: one VJP per argument, but {len(y)} results\n"
                    "  hint: give op one joint VJP, which takes the cotangents of all results"
                )
            node = Node(name, edges, None, None)
            results: Any = tuple([kind(part, outlet(node, i, y)) for i, part in enumerate(y)])
        else:
            node = Node(name, edges, y.shape, y.dtype)
            results = kind(y, node)
        if observer is not None:
            observer.recorded(node, operation, values, y)
        return results

    return call


def call_of_x(operation: Operation, call: Callable[..., Any]) -> Callable[[Any], Any]:
    """``call`` for an operation with the argument ``x`` alone: without the loops, in half the time.

    What is unusual goes to ``call``.
    """
    name, forward, ((_, rule, read),) = operation.name, operation.forward, operation.rules

    def call_of_one(x: Any) -> Any:
        if not isinstance(x, TensorCore):
            return call(x)
        array = x.array
        observer = OBSERVER.get()
        body = forward if observer is None else observer.body(operation)
        try:
            y = body(array)
        except Exception:
            return call(x)  # which fails again, and says how
        if type(y) is not ndarray:
            if isinstance(y, tuple):
                return call(x)
            y = with_arrays(y, name)
        if x.node is None or PAUSES.get():
            return type(x)(y)
        values = (array, y)
        node = Node(name, ((x.node, rule, read(values)),), y.shape, y.dtype)
        if observer is not None:
            observer.recorded(node, operation, values, y)
        return type(x)(y, node)

    return call_of_one


def call_of_a_and_b(operation: Operation, call: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    """The same for an operation with the arguments ``a`` and ``b``, and a VJP for each."""
    name, forward = operation.name, operation.forward
    (_, a_rule, a_read), (_, b_rule, b_read) = operation.rules

    def call_of_two(a: Any, b: Any) -> Any:
        kind = a_node = b_node = None
        a_array, b_array = a, b
        if isinstance(a, TensorCore):
            kind, a_node, a_array = type(a), a.node, a.array
        elif type(a) is not ndarray:
            a_array = operand(a, name)
        if isinstance(b, TensorCore):
            kind, b_node, b_array = type(b), b.node, b.array
        elif type(b) is not ndarray:
            b_array = operand(b, name)
        if kind is None:
            return call(a, b)
        observer = OBSERVER.get()
        body = forward if observer is None else observer.body(operation)
        try:
            y = body(a_array, b_array)
        except Exception:
            return call(a, b)  # which fails again, and says how
        if type(y) is not ndarray:
            if isinstance(y, tuple):
                return call(a, b)
            y = with_arrays(y, name)
        if a_node is b_node is None or PAUSES.get():
            return kind(y)
        values = (a_array, b_array, y)
        edges: Any
        if b_node is None:
            edges = ((a_node, a_rule, a_read(values)),)
        elif a_node is None:
            edges = ((b_node, b_rule, b_read(values)),)
        else:
            edges = ((a_node, a_rule, a_read(values)), (b_node, b_rule, b_read(values)))
        node = Node(name, edges, y.shape, y.dtype)
        if observer is not None:
            observer.recorded(node, operation, values, y)
        return kind(y, node)

    return call_of_two


def op(
    joint: Callable[..., Any] | None = None, /, **vjps: Callable[..., Any]
) -> Callable[..., Any]:
    """The decorator that makes a function on arrays differentiable, with one VJP per argument.

        @op(a=lambda g, b: g * b, b=lambda g, a: g * a)
        def multiply(a, b): return np.multiply(a, b)

    A VJP takes ``g``, the cotangent of the result ``y``, and *names what it reads*: arguments,
    ``y``, or ``x_shape`` for the shape of argument ``x`` alone; nothing else of the call is kept.
    It may return a cotangent that is still broadcast: the engine sums it to the shape of its
    argument.  It speaks only what arrays and Tensors share, and so can be differentiated in turn.

    The second form, ``@op(lambda g, ...: (g_0, g_1, ...))``, is for operations with several results
    (``g`` is then a tuple, None where nothing flowed), with ``*arrays``, or whose cotangents share
    work: one joint VJP returns a cotangent, or None, for every positional argument.
    """

    def differentiable(forward: Callable[..., Any]) -> Callable[..., Any]:
        for part in (forward, *vjps.values(), *([joint] if joint else [])):
            if not hasattr(part, "__code__"):
                raise DtypeError(
                    f"op: {described(getattr(part, 'array', part))}\n"
                    "  expected: functions: VJPs in parentheses, then the operation on arrays\n"
                    "  hint: @op(x=lambda g, x: ...) has a VJP for each argument; @op has none"
                )
        operation = Operation(forward, joint, vjps)
        call = call_of_any(operation)
        if len(operation.rules) == operation.arity and not operation.defaults:  # most calls
            if operation.parameters == ["x"]:
                call = call_of_x(operation, call)
            elif operation.parameters == ["a", "b"]:
                call = call_of_a_and_b(operation, call)
        public: Any = wraps(forward)(call)
        public.operation = operation
        OPERATIONS[operation.name] = public
        return public

    return differentiable


def operand(x: Any, name: str) -> Any:
    """``x``, which is no plain array, as an operation takes it; DtypeError for what hides entries.

    A NumPy scalar is, beside a Tensor, a number like any other.
    """
    if isinstance(x, np.generic):
        return x.item()
    if isinstance(x, ndarray):
        expect_no_mask(name, x)
    return x


def expect_no_mask(name: str, x: ndarray) -> None:
    """Raise DtypeError if ``x`` is one of NumPy's arrays that compute in another way."""
    if hasattr(x, "mask") or isinstance(x, np.matrix):
        raise DtypeError(
            f"{name}: an argument is {type(x).__name__} {x.shape}\n  expected: a plain array\n"
            "  hint: np.asarray(x) of a matrix; of a masked array x.filled(0.0), and where"
        )


def with_arrays(y: Any, name: str) -> Any:
    """A result, or several, with an array in place of each NumPy scalar."""
    if isinstance(y, tuple):
        return tuple([x if type(x) is ndarray else with_arrays(x, name) for x in y])
    if not hasattr(y, "dtype"):
        raise DtypeError(
            f"{name}: the operation returned {described(y)}\n  expected: an array\n"
            "  hint: np.asarray(y), or a function of NumPy's, gives one"
        )
    return np.asarray(y) if isinstance(y, np.generic) else y


_OUTLET = Rule(lambda g, i, count: Outputs(count, {i: g}), ["x", "i", "count", "y"], 0)


def outlet(node: Node, i: int, y: tuple[Any, ...]) -> Node:
    """The node of result ``i`` of ``node``, which sends its cotangent to place ``i`` there."""
    return Node(f"{node.name}[{i}]", [(node, _OUTLET, [i, len(y)])], y[i].shape, y[i].dtype)
