"""Lines of tagged words: identifiers in Python source with their roles, or CoNLL-U with UPOS.

The role of an identifier is what the syntax tree knows and its spelling does not say.  A line is a
logical line of the program, and its words are tokens: every number is 0, every string is "".

    names.sort(key=len)     names LOAD, sort ATTR_CALL, key KWARG, len LOAD
"""

import ast
import io
import keyword
import sysconfig
import tokenize
from pathlib import Path
from typing import NamedTuple

from demos import _kit as kit
from demos._trees import STDLIB, python_files, syntax_tree

LONGEST = 80  # tokens; a longer line of a program is a table of data, and left out
CONTEXTS = {ast.Load: "LOAD", ast.Store: "STORE", ast.Del: "DEL"}
CUT = {tokenize.NEWLINE, tokenize.ENDMARKER}
SILENT = {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}


class Line(NamedTuple):
    """Words, a tag or None for each, and where they stood."""

    words: tuple
    tags: tuple
    source: str


def read_lines(path, modules=STDLIB):
    """The tagged lines in .py files or .conllu files: one file, or all of a folder.

    If `path` is None, those of some modules of the standard library.  DataError if there are none.
    """
    if path is None:
        root = Path(sysconfig.get_path("stdlib"))
        files = [file for name in modules for file in python_files(root / name)]
        if not files:
            raise kit.DataError(f"no Python sources in {root}: give your own by --data")
    elif path.is_dir():
        root, files = path, sorted(path.rglob("*.conllu")) or python_files(path)
    else:
        root, files = path.parent, [path]
    lines = []
    for file in files:
        name = file.relative_to(root).as_posix()
        lines += program(file, name) if file.suffix == ".py" else conllu(kit.read_text(file), name)
    if not any(line.tags != (None,) * len(line.tags) for line in lines):
        raise kit.DataError(f"no tagged words in {path}")
    return lines


# ---- Python ----


def program(file, name):
    """The lines of a Python file in which there is an identifier with a role."""
    found = roles(syntax_tree(file))
    if not found:  # or no Python at all, which `syntax_tree` has said
        return []
    lines, words, tags = [], [], []
    for token in tokenize.tokenize(io.BytesIO(file.read_bytes()).readline):
        if token.type in CUT:
            if any(tags) and len(words) <= LONGEST:
                lines.append(Line(tuple(words), tuple(tags), name))
            words, tags = [], []
        elif token.type not in SILENT:
            row, column = token.start
            place = row, len(token.line[:column].encode())  # a syntax tree counts bytes
            named = token.type == tokenize.NAME and not keyword.iskeyword(token.string)
            words.append(word(token))
            tags.append(found.get(place) if named else None)
    return lines


def word(token):
    """What a model reads of a token."""
    if token.type in (tokenize.NAME, tokenize.OP):
        return token.string
    return "0" if token.type == tokenize.NUMBER else '""'


def roles(tree):
    """{(line, column): role} of the identifiers of a syntax tree; not of those in f-strings."""
    found, todo = {}, [(tree, "")]
    while todo:
        node, suffix = todo.pop()  # the suffix says whether the node is what a call calls
        if isinstance(node, ast.JoinedStr):
            continue  # whose places are unreliable before Python 3.12
        place = getattr(node, "lineno", 0), getattr(node, "col_offset", 0)
        if isinstance(node, ast.Name):
            found[place] = suffix or CONTEXTS[type(node.ctx)]
        elif isinstance(node, ast.Attribute):
            place = node.end_lineno, node.end_col_offset - len(node.attr.encode())
            context = CONTEXTS[type(node.ctx)]
            found[place] = {"LOAD": "ATTR", "STORE": "ATTR_STORE"}.get(context, context)
            if suffix:
                found[place] = "ATTR_CALL"
        elif isinstance(node, ast.arg):
            found[place] = "PARAM"
        elif isinstance(node, ast.keyword) and node.arg:
            found[place] = "KWARG"
        called = node.func if isinstance(node, ast.Call) else None
        todo += [(n, "CALL" if n is called else "") for n in ast.iter_child_nodes(node)]
    return found


# ---- CoNLL-U ----


def conllu(text, name):
    """The sentences of a CoNLL-U text; comments, ranges (1-2) and empty nodes (1.1) are skipped."""
    lines, words, tags = [], [], []
    for number, row in enumerate([*text.splitlines(), ""], 1):
        if row.startswith("#"):
            continue
        if not row.strip():
            if words:
                lines.append(Line(tuple(words), tuple(tags), name))
            words, tags = [], []
            continue
        columns = row.split("\t")
        if len(columns) != 10:
            raise kit.DataError(f"{name}, line {number}: {len(columns)} columns, not 10 with tabs")
        if columns[0].isdigit():
            words.append(columns[1])
            tags.append(None if columns[3] == "_" else columns[3])
        elif not columns[0].replace("-", "", 1).replace(".", "", 1).isdigit():
            raise kit.DataError(f"{name}, line {number}: {columns[0]!r} is no id of a word")
    return lines
