"""Expressions of Python programs as pairs: the tokens, and the syntax tree as tokens.

    f(x, 1) + y    ->    N ( N , 0 ) + N    ->    BinOp( Call( N N 0 ) Add N )

In both, every name is N, every number 0 and every string ".  A node of the tree is its type with an
opening bracket, then its fields, then the closing bracket.  Python's own parser makes the target of
the source, so it can judge any other translation, too.
"""

import ast
import collections
import io
import keyword
import re
import sysconfig
import tokenize
from pathlib import Path
from typing import NamedTuple

import numpy as np

from demos import _brackets, _trees
from demos import _kit as kit

SELECTION = _trees.STDLIB
RARE = 20  # a pair with a word that occurs in fewer pairs is left out
WORDS = ("N", "0", '"', "None", "True", "False", "...")  # leaves that are also in the source
ROOM = 12  # characters for each token; what is longer is not even looked at
LEFT_OUT = (ast.JoinedStr, ast.Lambda, ast.comprehension, ast.NamedExpr)  # big words, and rare
TOKEN = re.compile(
    r"""[rRbBuU]{0,2}(?P<string>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")
    |(?P<number>\.?\d(?:[eE][+-]|[\w.])*)
    |(?P<name>\w+)
    |\.\.\.|\*\*|//|<<|>>|[<>=!]=|\S""",
    re.VERBOSE,
)


class Pair(NamedTuple):
    """An expression: its tokens, its tree in brackets, and how somebody wrote it."""

    source: tuple
    target: tuple
    text: str


def read_pairs(path, longest, modules=SELECTION):
    """Pairs to train on and pairs to test on, each source once, of at most `longest` tokens.

    They are the expressions in a folder of .py files, or if `path` is None in these modules of the
    standard library.  Those of every fifth file, in order of hashes, are for the test, but for the
    sources that are also in the others.  DataError if there are too few.
    """
    root = Path(sysconfig.get_path("stdlib")) if path is None else path
    names = modules if path is None else [""]
    files = [file for name in names for file in _trees.python_files(root / name)]
    if not files:
        raise kit.DataError(
            f"{root}: no Python sources; expected: a folder of .py files; name another by --data"
        )
    files.sort(key=lambda file: kit.digest(file.relative_to(root).as_posix()))
    train = pairs_in([file for i, file in enumerate(files) if i % 5], longest)
    test = pairs_in(files[::5], longest)
    count = collections.Counter(word for p in train.values() for word in {*p.source, *p.target})
    known = {word for word in count if count[word] >= RARE}
    train = {s: pair for s, pair in train.items() if known.issuperset(s + pair.target)}
    test = {s: p for s, p in test.items() if s not in train and known.issuperset(s + p.target)}
    if not train or not test:
        raise kit.DataError(
            f"{root}: {len(train)} expressions to train on and {len(test)} others to test on, of"
            f" words that {RARE} have; expected: some of both, so a larger --longest or more files"
        )
    return list(train.values()), list(test.values())


def pairs_in(files, longest):
    """The pairs of all expressions in `files`, also of parts of expressions, by their source."""
    pairs, texts = {}, set()
    for file in files:
        nodes = list(ast.walk(_trees.syntax_tree(file)))
        lines = source_lines(file) if len(nodes) > 1 else []
        for node in nodes:
            if not isinstance(node, ast.expr) or isinstance(node, (ast.Name, ast.Constant)):
                continue
            text = text_of(node, lines, ROOM * longest)
            if text and text not in texts:
                texts.add(text)
                source = tokens(text)
                if len(source) <= longest and source not in pairs:
                    pairs[source] = Pair(source, target_of(source), text)
    return {source: pairs[source] for source in sorted(pairs) if pairs[source].target}


def all_modules():
    """The names of everything in the standard library but its tests, and what is installed."""
    root = Path(sysconfig.get_path("stdlib"))
    found = [p.name for p in root.iterdir() if p.is_dir() or p.suffix == ".py"]
    return sorted(set(found) - {"test", "site-packages", "dist-packages"})


def source_lines(file):
    """The lines of a file as UTF-8, in which a syntax tree counts columns."""
    source = _trees.source_of(file)
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    return source.decode(encoding).encode(errors="surrogatepass").split(b"\n")


def text_of(node, lines, room):
    """An expression as it is written, on one line; "" if it is too long or has a comment."""
    first, last = node.lineno - 1, node.end_lineno - 1
    if node.end_col_offset + sum(map(len, lines[first:last])) - node.col_offset > room:
        return ""
    part = lines[first : last + 1]
    part[-1] = part[-1][: node.end_col_offset]
    part[0] = part[0][node.col_offset :]
    text = b" ".join(line.strip() for line in part).decode(errors="replace")
    return "" if "#" in text else text


def tokens(text):
    """The tokens of an expression, names, numbers and strings without their letters."""
    return tuple([masked(token) for token in TOKEN.finditer(text)])


def masked(token):
    """The token that stands for a match of TOKEN."""
    if token["string"]:
        return '"'
    if token["number"]:
        return "0"
    return "N" if token["name"] and not keyword.iskeyword(token[0]) else token[0]


def target_of(source):
    """The tree of these tokens in brackets; () if they are no expression, or one left out."""
    try:
        tree = ast.parse(" ".join(source).replace('"', '""'), mode="eval").body
    except _trees.UNREADABLE:
        return ()  # a part that is none by itself: the 1:2 in x[1:2]
    return () if any(isinstance(node, LEFT_OUT) for node in ast.walk(tree)) else linearised(tree)


def linearised(tree):
    """The bracketed tokens of a syntax tree."""
    out, todo = [], [tree]  # the next item of `todo` is its last
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Constant):
            out.append(constant(node.value))
        elif isinstance(node, (ast.operator, ast.unaryop, ast.cmpop, ast.boolop)):
            out.append(type(node).__name__)
        elif isinstance(node, ast.AST) and not isinstance(node, ast.Name):
            out.append(type(node).__name__ + "(")
            todo += [")", *reversed(fields(node))]
        else:
            out.append(")" if node == ")" else "N")
    return tuple(out)


def fields(node):
    """The fields of a syntax node that are names or nodes, in order."""
    values = [value for _, value in ast.iter_fields(node)]
    items = [item for v in values for item in (v if isinstance(v, list) else [v])]
    return [i for i in items if isinstance(i, (ast.AST, str)) and not isinstance(i, _trees.CONTEXT)]


def constant(value):
    """The token of a constant, as in the source."""
    if isinstance(value, (str, bytes)):
        return '"'
    if value is ...:
        return "..."
    return str(value) if value is None or isinstance(value, bool) else "0"


def example(pair):
    """A pair as an Example: both sides have these words, in some order; " " is one string."""
    before = (None, *pair.source)
    words = [w for w, b in zip(pair.source, before, strict=False) if (w, b) != ('"', '"')]
    return _brackets.Example(pair.source, pair.target, _brackets.words_in(words, WORDS))


# ---- a baseline ----


def nearest(train, sources):
    """For each source that pair of `train` that shares most bigrams with it, relative to both."""
    column = collections.defaultdict(lambda: len(column))
    known = [[column[b] for b in bigrams(pair.source)] for pair in train]
    asked = [[column[b] for b in bigrams(source)] for source in sources]
    table = np.zeros((len(column), len(train)), np.float32)
    for i, own in enumerate(known):
        table[own, i] = 1.0
    sizes = table.sum(axis=0)
    return [train[np.argmax(table[own].sum(axis=0) / (sizes + len(own)))] for own in asked]


def bigrams(tokens):
    """All pairs of neighbours, ends included, each with how often it has come before."""
    count = collections.Counter()
    for pair in zip((None, *tokens), (*tokens, None), strict=True):
        yield *pair, count[pair]
        count[pair] += 1
