"""How many lines a reader meets: each file in reading order, which is the order of import.

Lines of code and of docstrings count, blank lines and comments do not.
"""

import ast
import io
import subprocess
import sys
import tokenize
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from benchmarks._timing import print_table

BACKWARD_TARGET, ENGINE_TARGET = 200, 1500

# sys.modules lists modules in the order in which their imports end: each after those that it needs.
ORDER = "import sys, tinygrad_rnn; print(*[m for m in sys.modules if m.startswith('tinygrad_rnn')])"

NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


class Lines(NamedTuple):
    """How many lines of a file are code, and how many are docstrings."""

    code: int
    docstrings: int


def main():
    """Print the lines of each module, and the sums that have a target."""
    read, rows = {}, []
    for name in import_order():
        lines = count(Path(find_spec(name).origin).read_text(encoding="utf-8"))
        read[name.removeprefix("tinygrad_rnn.")] = sum(lines)
        rows.append([name, *lines, sum(lines), sum(read.values())])
    print("count: lines in reading order; neither blank lines nor comments count")
    print_table(["module", "code", "docstrings", "both", "so far"], rows)
    sweep = read["cotangents"] + read["sweep"]
    print(f"the backward pass, cotangents and sweep: {sweep}; target: {BACKWARD_TARGET}")
    print(f"  and how it is asked for, backward: {sweep + read['backward']}")
    print(f"  and how calls are recorded, engine: {sweep + read['backward'] + read['engine']}")
    engine = rows[list(read).index("tensor")][-1]
    print(f"the engine with all operations, up to tensor: {engine}; target: about {ENGINE_TARGET}")


def import_order():
    """The names of the package's modules in the order of import, in a fresh process."""
    order = [sys.executable, "-c", ORDER]
    return subprocess.run(order, capture_output=True, text=True, check=True).stdout.split()


def count(source):
    """The Lines of a Python source.

    A string that is a statement of its own is a docstring: under a field too, as dataclasses have.
    """
    docstrings = {
        row
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node.value.value, str)
        for row in range(node.lineno, node.end_lineno + 1)
    }
    rows = {
        row
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in NO_CODE
        for row in range(token.start[0], token.end[0] + 1)
    }
    rows &= {row for row, line in enumerate(source.split("\n"), start=1) if line.strip()}
    return Lines(len(rows - docstrings), len(rows & docstrings))


if __name__ == "__main__":
    main()
