"""Plain recursion, run batched: a deferred call waits until somebody asks for a value.

    @deferred
    def compose(left, right): return tanh(left @ W_left + right @ W_right + b)

    def embed(tree):
        return leaf(tree.word) if tree.is_leaf else compose(embed(tree.left), embed(tree.right))

A call returns a ``Handle``.  When one of them is asked for its value, all calls that wait are run,
lowest first, those of one cell, one height and like arguments in one batch: the schedule of
``fold``, over the same ``Rows``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import update_wrapper
from threading import local
from typing import Any, NoReturn
from weakref import ref

import numpy as np

from . import linear
from .backend import backend_for, is_array
from .engine import TensorCore
from .errors import DeferredError, DtypeError, ShapeError, TinygradRNNError, described
from .fold import name_of
from .place import described_calls
from .random import drawing_refused
from .recording import is_recording, recording
from .rows import Rows, batch_of, likeness, read

__all__ = ["Handle", "deferred", "stack"]

_COPIED = frozenset([list, tuple, np.ndarray])  # for later changes must not reach the cell


class Handle:
    """What a deferred call will give: an argument of further calls, or an entry of ``stack``.

    ``handle[i]`` is part i of a result that is a tuple.  A handle is no array: arithmetic on it
    would have to run it by itself, which would undo the batching unseen, so it is refused.
    """

    __slots__ = ("__weakref__",)

    @property
    def value(self) -> Any:
        """The result, a Tensor, or an array if the cell was given none.  Runs all that waits."""
        raise NotImplementedError

    def _refused(self, *_: Any, **__: Any) -> NoReturn:
        raise DeferredError(
            f"{self!r} is a handle, no array: there is no arithmetic on it\n"
            "  hint: gather handles in a list and compute with stack(handles), which runs them\n"
            "  batched, or compute inside the cell; handle.value runs everything that waits"
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _refused
    __rtruediv__ = __pow__ = __rpow__ = __matmul__ = __rmatmul__ = __neg__ = __abs__ = _refused
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __divmod__ = __pos__ = __round__ = _refused
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refused
    __bool__ = __float__ = __int__ = __index__ = __complex__ = __len__ = _refused
    __hash__ = object.__hash__
    __array__ = __array_ufunc__ = __array_function__ = _refused

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        self._refused()

    def __iter__(self) -> NoReturn:
        raise DeferredError(
            f"{self!r} is a handle, no tuple: it cannot be unpacked\n"
            "  hint: h, c = state[0], state[1]; or pass the whole state on"
        )


class Call(Handle):
    """A deferred call: what to run, and once it has been run, the row of its result.

    ``height`` is one more than that of the highest argument that waits too; -1 once it is run.
    """

    __slots__ = ("args", "at", "cell", "code", "height", "records", "row", "rows")

    row: int
    i = None  # all of the result; a Part has the number of one

    def __init__(self, cell: Callable[..., Any], args: tuple[Any, ...], frame: Any) -> None:
        self.cell = cell
        self.args: Any = args
        self.height = 1 + _height(args)
        self.records = is_recording()
        self.rows: Rows | None = None
        self.code, self.at = frame.f_code, frame.f_lasti  # the line is looked up when needed

    def home(self) -> Rows:
        """The rows that hold the result; all that waits is run if it has not been."""
        if self.rows is None:
            if not _here.running:
                run()
            if self.rows is None:
                raise DeferredError(
                    f"{self!r} will not be run\n"
                    "  hint: it waits in another thread, was dropped when a call beside it failed,"
                    " or\n  is asked for inside a cell: there it has to be an argument"
                )
        return self.rows

    @property
    def value(self) -> Any:
        return self.home().take(self.row)

    def __getitem__(self, i: int) -> Handle:
        if not isinstance(i, int):
            self._refused()
        return Part(self, i)

    def __repr__(self) -> str:
        return f"<deferred {name_of(self.cell)}, called at {self.place()}>"

    def place(self) -> str:
        """File and line of the call."""
        lines = [line for start, end, line in self.code.co_lines() if start <= self.at < end]
        return f"{self.code.co_filename}:{lines[0] if lines else self.code.co_firstlineno}"


class Part(Handle):
    """Part ``i`` of the tuple that a call gives."""

    __slots__ = ("call", "i")

    def __init__(self, call: Call, i: int) -> None:
        self.call, self.i = call, i

    @property
    def value(self) -> Any:
        rows = self.call.home()
        self.check(rows)
        return rows.take(self.call.row, part=self.i)

    def check(self, rows: Rows) -> None:
        """Raise DeferredError unless the states in ``rows`` have this part."""
        n = len(rows.arrays)
        if not rows.many or not -n <= self.i < n:
            raise DeferredError(
                f"{self!r}: the cell returned {n} array{'s' * rows.many}\n"
                f"  expected: a tuple with a part {self.i}\n"
                "  hint: pass a state that is one array on whole; take entries inside the cell"
            )

    __getitem__ = Handle._refused

    def __repr__(self) -> str:
        return f"part {self.i} of {self.call!r}"


class _Here(local):
    """What waits in this thread, weakly, so that what nobody can ask for is not run."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self.many = 100  # so many are looked through for those that have been dropped
        self.running = False

    def forget_dropped(self) -> None:
        """Let the calls go that nobody can ask for, so that those never run do not add up."""
        self.waiting = [one for one in self.waiting if one() is not None]
        self.many = 100 + 2 * len(self.waiting)


_here = _Here()


def deferred(cell: Callable[..., Any]) -> Callable[..., Any]:
    """The decorator of a cell whose calls wait and are run batched.

    A call takes the arguments for *one* node; the cell gets those of many, with a leading axis:

        in a call                              in the cell
        a handle                               its state, (n, ...), or a tuple of such
        a list or a tuple, of handles say      a list or tuple of as many
        an array or a Tensor (...)             (n, ...)
        a number                               (n,), integers, or float32 as of ``use_device``
        anything else: None, a word, self      itself; only calls with an equal one are batched

    The cell returns a state with n rows, or a tuple of such; calls with equal whole numbers and
    nothing else share a row.  Its body runs once for a whole batch, later than it was called: it
    must not print, or draw random numbers (a dropout mask is an argument), and what it closes over
    must not change in between.  Calls made under ``no_grad`` are run so.  Value and gradient are
    those of calling the cell for each node.  What waits in a thread is run at once, as one graph,
    so a task of asyncio should ask for its values before it awaits.

    Raises DeferredError for arithmetic on a handle.  An error in the cell bears a note that tells
    where it was called; what waits is dropped then.
    """

    if not callable(cell):
        raise DtypeError(
            f"deferred(cell): cell is {described(getattr(cell, 'array', cell))}\n"
            "  expected: a function on batches\n  hint: @deferred stands above its definition"
        )

    def call(*args: Any) -> Any:
        if _here.running:
            return cell(*args)  # inside another cell, where the arguments are a batch already
        if not _COPIED.isdisjoint(map(type, args)):
            args = _kept(args)
        handle, waiting = Call(cell, args, sys._getframe(1)), _here.waiting
        waiting.append(ref(handle))
        if len(waiting) > _here.many:
            _here.forget_dropped()
        return handle

    return update_wrapper(call, cell, updated=())


def stack(arrays: Sequence[Any], axis: int = 0) -> Any:
    """The arrays, all of one shape, side by side along a new axis; handles are run for it.

    If the handles stand for states that are tuples, a tuple of such arrays.
    """
    handles = [x for x in arrays if isinstance(x, Handle)]
    if not handles:
        return linear.stack(arrays, axis)
    if len(handles) < len(arrays):
        return linear.stack([getattr(x, "value", x) for x in arrays], axis)
    state = _gathered(handles)
    if isinstance(state, tuple):
        return tuple([linear.moveaxis(part, 0, axis) for part in state])
    return linear.moveaxis(state, 0, axis) if axis else state


# ---- running what waits ------------------------------------------------------------------------


def run() -> None:
    """Run every call that waits in this thread."""
    calls = [call for one in _here.waiting if (call := one()) is not None]
    _here.waiting.clear()
    _here.forget_dropped()
    _here.running = True
    try:
        rooms: dict[Any, Rows] = {}
        with drawing_refused("a deferred cell runs once for a whole batch"):
            for batch in _batches(calls):
                _run_batch(batch, rooms, len(calls))
    except BaseException:
        for call in calls:
            call.args = call.rows = None
        raise
    finally:
        _here.running = False


def _batches(calls: list[Call]) -> Iterator[list[Call]]:
    """The calls of one height, cell, recording and likeness of arguments, lowest first."""
    heights: dict[int, list[Call]] = {}
    for call in calls:
        heights.setdefault(call.height, []).append(call)
    for height in sorted(heights):
        groups: dict[Any, list[Call]] = {}
        for call in heights[height]:  # their arguments have been run, so their shapes are known
            key = (call.cell, call.records, *map(_likeness, call.args))
            groups.setdefault(key, []).append(call)
        yield from groups.values()


def _run_batch(calls: list[Call], rooms: dict[Any, Rows], capacity: int) -> None:
    """Run the cell once for all of ``calls``, and write the states to the room for their like."""
    first, (distinct, places) = calls[0], _distinct(calls)  # place.py reads calls and name
    name = f"deferred {name_of(first.cell)}"
    try:
        with recording(first.records):
            args = [_batch([one[i] for one in distinct]) for i in range(len(first.args))]
            state = batch_of(first.cell(*args), len(distinct), name)
            if places is not None:
                state = _repeated(state, places)
            rows = rooms.setdefault((first.records, likeness(state)), Rows(capacity))
            start = rows.write(state, name)
    except Exception as error:
        if not isinstance(error, TinygradRNNError):  # those tell by themselves
            error.add_note(f"in {described_calls(calls, name)}")
        raise
    for row, call in enumerate(calls, start):
        call.rows, call.row, call.args, call.height = rows, row, None, -1


def _distinct(calls: list[Call]) -> tuple[list[Any], Any]:
    """The arguments of the calls, those that repeat left out, and the place of each call there.

    Only whole numbers are compared: the words of leaves, of which every other comes again.  The
    places are None if nothing repeats.
    """
    if set(map(type, calls[0].args)) != {int}:
        return [call.args for call in calls], None
    places: dict[Any, int] = {}
    own = [places.setdefault(call.args, len(places)) for call in calls]
    return list(places), np.array(own) if len(places) < len(own) else None


def _repeated(state: Any, places: Any) -> Any:
    """The rows of ``state`` at ``places``, so that each call has one: what reads a row of several
    calls would have to look, going back, which cotangents meet.
    """
    if isinstance(state, tuple):
        return tuple([read(part, places, False) for part in state])
    return read(state, places, False)


# ---- arguments ---------------------------------------------------------------------------------


def _kept(arg: Any) -> Any:
    """``arg`` with copies of the lists and arrays in it."""
    if type(arg) is np.ndarray:
        return arg.copy()
    return type(arg)(map(_kept, arg)) if type(arg) in _COPIED else arg


def _height(args: Any) -> int:
    """The height of the highest call that waits among ``args``, -1 if none does."""
    highest = -1
    for arg in args:
        kind = type(arg)
        if kind is Call:
            height = arg.height
        elif kind is Part:
            height = arg.call.height
        elif isinstance(arg, (list, tuple)):
            height = _height(arg)
        else:
            continue
        if height > highest:
            highest = height
    return highest


def _likeness(arg: Any) -> Any:
    """What arguments of calls must share to stand in one batch."""
    kind = type(arg)
    if kind is Call:
        return (arg.rows or arg.home()).likeness
    if kind is Part:
        return arg.i, (arg.call.rows or arg.call.home()).likeness
    if kind is int or kind is float:
        return kind
    if isinstance(arg, (list, tuple)):
        return (type(arg), *map(_likeness, arg))
    if _is_array(arg):
        return type(arg), arg.shape, arg.dtype
    if _is_number(arg):
        return int if isinstance(arg, (int, np.integer)) else float
    try:
        hash(arg)
    except TypeError:
        raise DtypeError(
            f"deferred: an argument is {described(arg)}\n"
            "  expected: handles, lists of them, arrays, numbers, or what can be a key of a dict\n"
            "  hint: pass the numbers in it as an array"
        ) from None
    return type(arg), arg


def _is_array(arg: Any) -> bool:
    return isinstance(arg, TensorCore) or is_array(arg)


def _is_number(arg: Any) -> bool:
    return isinstance(arg, (int, float, np.integer, np.floating)) and not isinstance(arg, bool)


def _batch(column: list[Any]) -> Any:
    """One argument of many calls, with a leading axis."""
    first = column[0]
    if isinstance(first, Handle):
        return _gathered(column)
    if isinstance(first, (list, tuple)):
        parts = [_batch([arg[i] for arg in column]) for i in range(len(first))]
        return getattr(type(first), "_make", type(first))(parts)  # a named tuple stays one
    if _is_array(first):
        return linear.stack(column)
    if _is_number(first):
        return _numbers(column)
    return first


def _numbers(column: list[Any]) -> Any:
    """The numbers (n,), integers, which are ids, or float32, on the device in use."""
    if not isinstance(column[0], (int, np.integer)):
        return backend_for(None).asarray(np.array(column, np.float32))
    try:
        return np.array(column, np.intp)
    except OverflowError as error:
        whole = np.iinfo(np.intp)
        wide = next(x for x in column if not whole.min <= x <= whole.max)
        raise DtypeError(
            f"deferred: an argument is {described(int(wide))}\n"
            f"  expected: whole numbers of {whole.bits} bits at most, as arrays have them\n"
            "  hint: float(x) if it is a quantity; an id counts the rows of a table"
        ) from error


def _gathered(handles: Sequence[Any]) -> Any:
    """The states that the handles stand for, side by side."""
    calls: list[Any] = [one.call if type(one) is Part else one for one in handles]
    wholes, picked = {call.rows or call.home() for call in calls}, {one.i for one in handles}
    if len(wholes) == len(picked) == 1:  # nearly always: one array to take from
        (rows,), (part,) = wholes, picked
        if part is not None:
            handles[0].check(rows)
        return _taken(rows, part, [call.row for call in calls])
    places: dict[tuple[Rows, int | None], list[int]] = {}
    for i, (call, one) in enumerate(zip(calls, handles, strict=True)):
        places.setdefault((call.home(), one.i), []).append(i)
    for (rows, part), mine in places.items():
        if part is not None:
            handles[mine[0]].check(rows)
    if len({rows.many and part is None for rows, part in places}) > 1:
        raise ShapeError(
            "stack: some of the handles stand for tuples, and some for arrays\n"
            "  hint: handle[i] is part i of a tuple"
        )
    states = [
        _taken(rows, part, [calls[i].row for i in mine]) for (rows, part), mine in places.items()
    ]
    back = np.argsort(np.array([i for mine in places.values() for i in mine]))  # to the old order
    if isinstance(states[0], tuple):
        merged = [linear.concatenate(parts) for parts in zip(*states, strict=True)]
        return tuple([read(part, back, True) for part in merged])
    return read(linear.concatenate(states), back, True)


def _taken(rows: Rows, part: int | None, numbers: list[int]) -> Any:
    """The states of these rows: copies, for a view would keep all rows alive."""
    return rows.take(np.array(numbers), len(set(numbers)) == len(numbers), part)
