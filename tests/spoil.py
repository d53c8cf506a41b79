"""How to spoil a function on purpose, so that a test can show that it would be noticed."""

import __future__

import inspect
import textwrap
import types


def respelled(function, right, wrong):
    """A spoiler: ``function`` as if its source had ``wrong`` in the one place of ``right``.

    Its code is exchanged, so that whoever holds the function has the wrong one.
    """

    source = textwrap.dedent(inspect.getsource(function))

    def spoil(patch):
        assert source.count(right) == 1, f"{function.__qualname__} should once have:\n{right}"
        flags = __future__.annotations.compiler_flag
        compiled = compile(source.replace(right, wrong), "spoiled", "exec", flags)
        (code,) = [
            constant
            for constant in compiled.co_consts
            if isinstance(constant, types.CodeType) and constant.co_name == function.__name__
        ]
        qualified = code.replace(co_qualname=function.__code__.co_qualname)
        patch.setattr(function, "__code__", qualified)

    return spoil


def replaced(holder, name, value):
    """A spoiler: another value for an attribute."""
    return lambda patch: patch.setattr(holder, name, value)


class Shared:
    """A context variable that every thread sees."""

    def __init__(self, value):
        self.value = value

    def get(self):
        return self.value

    def set(self, value):
        self.value = value
