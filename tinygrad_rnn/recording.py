"""When calls are remembered, and when they are not: ``no_grad``.

Recording is on, until it is paused; what a recorded call leaves behind is told in ``engine.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar
from functools import wraps
from types import coroutine
from typing import Any

from .errors import DtypeError

__all__ = ["PAUSES", "is_recording", "no_grad", "recording"]

PAUSES: ContextVar[int] = ContextVar("pauses", default=0)
"""How many blocks of this thread pause recording; the engine asks once a call."""

# Flags of a code object.
_IS_GENERATOR, _IS_COROUTINE, _IS_ASYNC_GENERATOR = 0x20, 0x80, 0x200


class no_grad(ContextDecorator):
    """A context, and a decorator, in which no call is recorded.

    It holds for this thread (and this asyncio task) alone and ends with the block, however that is
    left.  A decorated generator or coroutine pauses recording only while its own body runs, not
    between its items.
    """

    def __new__(cls, function: Any = None) -> Any:
        """The context; or, written ``@no_grad`` without parentheses, the decorated function."""
        return super().__new__(cls) if function is None else cls()(function)

    def __enter__(self) -> None:
        PAUSES.set(PAUSES.get() + 1)  # a count, so that blocks may end in any order

    def __exit__(self, *exception: object) -> None:
        # Never below 0: a generator may be closed by another thread than the one that entered.
        PAUSES.set(max(0, PAUSES.get() - 1))

    def __call__(self, function: Any) -> Any:
        flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
        if flags & _IS_ASYNC_GENERATOR:
            raise DtypeError(
                "no_grad: an asynchronous generator cannot be decorated\n"
                "  hint: write with no_grad(): inside it, around what is not to be recorded"
            )
        if not flags & (_IS_GENERATOR | _IS_COROUTINE):
            return super().__call__(function)

        @wraps(function)
        def paused(*args: Any, **kwargs: Any) -> Iterator[Any]:
            generator, resume, sent = function(*args, **kwargs), "send", None
            while True:
                try:
                    with self:
                        item = getattr(generator, resume)(sent)
                except StopIteration as stop:
                    return stop.value
                try:
                    resume, sent = "send", (yield item)
                except GeneratorExit:
                    with self:
                        generator.close()
                    raise
                except BaseException as error:
                    resume, sent = "throw", error

        return coroutine(paused) if flags & _IS_COROUTINE else paused


def is_recording() -> bool:
    """Whether calls are recorded now, in this thread."""
    return not PAUSES.get()


@contextmanager
def recording(on: bool) -> Iterator[None]:
    """A context in which calls are recorded, or are not, whatever holds outside."""
    token = PAUSES.set(0 if on else 1)
    try:
        yield
    finally:
        PAUSES.reset(token)
