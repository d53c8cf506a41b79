"""The names that CuPy has, with their signatures: ``table.txt``, written from an installed CuPy.

    python -m tests.cuda.simulator     # writes it again

A line is ``module.name(signature)``, or ``module.name nin nout`` for a ufunc.  There are the names
that NumPy has as well, since what the simulator runs is NumPy, and those of arrays and generators.
"""

from __future__ import annotations

import inspect
import re
from functools import cache
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("table.txt")
_ABSENT_OR_OURS = {"asnumpy", "get_array_module", "is_available"}  # NumPy does not have them


def written() -> str:
    """The text of the table for the CuPy that is installed; no device is needed."""
    import cupy
    import cupyx

    parts = {
        "cupy": (cupy, lambda name: hasattr(np, name) or name in _ABSENT_OR_OURS),
        "cupy.linalg": (cupy.linalg, lambda name: hasattr(np.linalg, name)),
        "cupy.lib.stride_tricks": (
            cupy.lib.stride_tricks,
            lambda name: hasattr(np.lib.stride_tricks, name),
        ),
        "cupy.ndarray": (cupy.ndarray, lambda name: True),
        "cupy.random": (cupy.random, lambda name: name in ("default_rng", "Generator")),
        "cupy.random.Generator": (cupy.random.Generator, lambda name: True),
        "cupyx": (cupyx, lambda name: name.startswith("scatter_")),
    }
    numpys = ".".join(np.__version__.split(".")[:2])
    lines = [f"# cupy {cupy.__version__} with numpy {numpys}, by python -m {__package__}"]
    for part, (owner, wanted) in parts.items():
        for name in sorted(dir(owner)):
            if not name.startswith("_") and wanted(name):
                lines.append(f"{part}.{name}{_described(getattr(owner, name))}")
    return "\n".join(line for line in lines if not line.endswith("?")) + "\n"


def _described(thing) -> str:
    """``(signature)``, `` nin nout`` of a ufunc, nothing of a value or a type, "?" to leave out."""
    if inspect.ismodule(thing):
        return "?"
    if hasattr(thing, "nin") and hasattr(thing, "nout"):
        return f" {thing.nin} {thing.nout}"
    if isinstance(thing, type) or not callable(thing):
        return ""
    try:
        text = str(inspect.signature(thing))
    except (TypeError, ValueError):  # Cython: the first line of the docstring has it
        found = re.match(r"[\w.]*(\(.*?\))(\s*->.*)?$", (thing.__doc__ or "").split("\n")[0])
        text = found[1] if found else "(*args, **kwargs)"
        text = re.sub(r"\b(?:_ndarray_base|Py_ssize_t|int|bint|str|tuple|list)\s+(?=\w)", "", text)
    text = re.sub(r"\s*->.*$|: '[^']*'|^\(self\b(, )?", lambda m: "(" * (m[0][0] == "("), text)
    return re.sub(r"\s*=\s*(<class '([\w.]*)'>)?", lambda m: "=" + (m[2] or ""), text)


@cache
def read() -> dict[str, str]:
    """What follows each full name: ``read()["cupy.sum"]`` is its signature."""
    return parsed(FILE.read_text())


def parsed(text: str) -> dict[str, str]:
    """The same of another text."""
    found = [re.match(r"([\w.]+)(.*)", line) for line in text.splitlines()[1:]]
    return {m[1]: m[2] for m in found if m}


@cache
def signature(text: str) -> inspect.Signature:
    """The signature that ``(a, axis=None, ...)`` stands for."""
    return inspect.signature(
        eval(f"lambda {text[1:-1]}: 0", {"int": int, "float": float, "numpy": np})
    )
