"""Labelled trees from Python source, or from bracketed text, in postfix order.

A tree is a list of words with a REDUCE wherever the last two subtrees become one, so that a loop
with a stack reads it and no depth of the data is too deep.  A node with more than two children is
binarised from the left.  A node of a syntax tree is its type followed by its fields:

    x + 1   ->   <BinOp> x REDUCE <Add> REDUCE <int> REDUCE   ->   (((<BinOp> x) <Add>) <int>)

Every item of the list is a node: a word a leaf, a REDUCE the node above two others.
"""

import ast
import re
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit

REDUCE = None
CONTEXT = ast.expr_context  # load or store: says nothing here
STDLIB = """
    asyncio collections concurrent ctypes email http importlib json logging multiprocessing re
    tkinter unittest urllib xml xmlrpc argparse.py ast.py configparser.py datetime.py difflib.py
    doctest.py enum.py inspect.py ipaddress.py mailbox.py optparse.py pathlib.py pdb.py pickle.py
    pydoc.py shutil.py smtplib.py ssl.py subprocess.py tarfile.py threading.py traceback.py
    typing.py zipfile.py
""".split()  # enough for the demo; parsing the whole library takes several seconds
UNREADABLE = (SyntaxError, ValueError, LookupError, RecursionError, MemoryError)  # of a parser
ROLES = {
    ast.Assign: ("ASSIGN", "value"),
    ast.AnnAssign: ("ASSIGN", "value"),
    ast.AugAssign: ("AUGMENT", "value"),
    ast.If: ("CONDITION", "test"),
    ast.While: ("CONDITION", "test"),
    ast.Assert: ("ASSERT", "test"),
    ast.Expr: ("STATEMENT", "value"),
    ast.Return: ("RETURN", "value"),
    ast.Raise: ("RAISE", "exc"),
    ast.For: ("ITERATE", "iter"),
    ast.AsyncFor: ("ITERATE", "iter"),
    ast.withitem: ("WITH", "context_expr"),
}


class Tree(NamedTuple):
    """An example: what to tell of each node, what to tell it from, and where it stood."""

    labels: list  # of each item of `postfix`; None for a node that has none
    postfix: list
    source: str

    @property
    def label(self):
        """The label of the root."""
        return self.labels[-1]


def read_trees(path):
    """The trees in a folder of .py files, in one .py file, or in a file of bracketed trees.

    If `path` is None, those of the standard library.  DataError if there are none.
    """
    if path is None:
        trees = standard_library()
    elif path.is_dir():
        trees = expressions(python_files(path), path)
    elif path.suffix == ".py":
        trees = expressions([path], path.parent)
    else:
        trees = bracketed(kit.read_text(path), path.name)
    if not trees:
        raise kit.DataError(
            f"{path}: no trees; expected: a folder of .py files, one .py file, or a file of trees"
            " such as (3 (2 It) (4 works)); name another by --data"
        )
    return trees


# ---- expressions of Python programs ----


def standard_library():
    """The trees of a fixed list of modules of the standard library, without their tests."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [file for name in STDLIB for file in python_files(root / name)]
    if not files:
        raise kit.DataError(f"no Python sources in {root}: give your own by --data")
    return expressions(files, root)


def python_files(path):
    """The .py files below a folder but those of tests, or the one file that `path` is."""
    if path.is_file():
        return [path]
    found = sorted(file for file in path.rglob("*.py") if file.is_file())
    return [file for file in found if not {"test", "tests"} & set(file.relative_to(path).parts)]


def expressions(files, root):
    """The trees of the expressions in `files`, labelled with what the statement does with each."""
    trees = []
    for file in files:
        name = file.relative_to(root).as_posix()
        for node in ast.walk(syntax_tree(file)):
            role, field = ROLES.get(type(node), ("", ""))
            expression = getattr(node, field, None)
            if expression and not isinstance(expression, (ast.Name, ast.Constant)):
                source = name if len(files) > 1 else f"{name}:{expression.lineno}"
                items = postfix(expression)
                trees.append(Tree([None] * (len(items) - 1) + [role], items, source))
    return trees


def syntax_tree(file):
    """The syntax tree of a file; an empty one, and a line on stderr, if Python cannot parse it."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of the file's own strange escapes
            return ast.parse(source_of(file))
    except UNREADABLE as error:
        print(f"skipped {file}: {str(error) or type(error).__name__}", file=sys.stderr)
        return ast.Module([], [])


def source_of(file):
    """The bytes of a Python file, in which every line ends with a line feed, as the parser sees."""
    return kit.read_bytes(file).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def postfix(expression):
    """The postfix list of a syntax tree."""
    out, todo = [], [expression]  # the next item of `todo` is its last
    while todo:
        item = todo.pop()
        if isinstance(item, ast.AST):
            first, *rest = words_and_children(item)
            out.append(first)
            for part in reversed(rest):
                todo += [REDUCE, part]
        else:
            out.append(item)
    return out


def words_and_children(node):
    """A syntax node as a list: a word for its type, then its fields that are names or nodes."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Constant):
        return [f"<{type(node.value).__name__}>"]
    out = [f"<{type(node).__name__}>"]
    for _, field in ast.iter_fields(node):
        items = field if isinstance(field, list) else [field]
        out += [i for i in items if isinstance(i, (ast.AST, str)) and not isinstance(i, CONTEXT)]
    return out


# ---- bracketed trees ----


def bracketed(text, name):
    """The trees of a text such as `(3 (2 It) (4 works))`, with the labels of all nodes.

    A node above one other is one with it, under the upper label.
    """
    trees, items, labels = [], [], []  # of this tree
    open_ = []  # [label, children so far] of each node that is not complete
    # ASCII, for a word may hold another kind of space: "8 1/2" with a no-break space is one.
    for token in re.finditer(r"\(\s*(?P<label>[^\s()]*)|\)|[^\s()]+", text, re.ASCII):
        if not open_:
            begun = token.start()
        if token["label"] is not None:
            open_.append([token["label"], 0])
            continue
        if not open_:
            raise no_tree(f"{kit.shown(token[0])} stands outside every tree", text, begun, name)
        if token[0] != ")":
            items.append(token[0])
            labels.append(None)
        else:
            label, children = open_.pop()
            if children == 0:
                raise no_tree("a node without a word or a child", text, token.start(), name)
            labels[-1] = label
        # Here a child is complete, be it a word or a subtree.
        if not open_:
            trees.append(Tree(labels, items, f"{name}, tree {len(trees) + 1}"))
            items, labels = [], []
            continue
        open_[-1][1] += 1
        if open_[-1][1] > 1:
            items.append(REDUCE)
            labels.append(None)
    if open_:
        raise no_tree("the text ends inside a tree that begins here", text, begun, name)
    return trees


def no_tree(what, text, place, name):
    """The DataError that says what is wrong at a place in the text of a file."""
    line = text.count("\n", 0, place) + 1
    return kit.DataError(
        f"{name}, line {line}: {what}; expected: trees such as (3 (2 It) (4 works)); mend it"
    )


# ---- what a postfix list says ----


def words_of(items):
    """The leaves of a postfix list, from left to right."""
    return [item for item in items if item is not REDUCE]


def structure_of(items):
    """The Structure of a tree, a node for each item of its postfix list, in that order."""
    counts, children, heights, stack = [], [], [], []
    for node, item in enumerate(items):
        own = [stack.pop(-2), stack.pop()] if item is REDUCE else []
        counts.append(len(own))
        children += own
        heights.append(1 + max([heights[child] for child in own], default=-1))
        stack.append(node)
    return tg.Structure(counts, children, heights=np.array(heights))


def spans_of(items):
    """The first and the last word, by number, below each node of a postfix list."""
    spans, stack, words = [], [], 0
    for item in items:
        if item is REDUCE:
            right, left = stack.pop(), stack.pop()
            stack.append((left[0], right[1]))
        else:
            stack.append((words, words))
            words += 1
        spans.append(stack[-1])
    return spans


# ---- wrong trees ----


def reshaped(tree, shape, rng):
    """Another tree over the words of `tree`, "left", "right" or "random"; "gold" is `tree` itself.

    Nodes with the words of a node of `tree` keep its label; the others have none.
    """
    if shape == "gold":
        return tree
    items = branching(words_of(tree.postfix), shape, rng)
    labels = dict(zip(spans_of(tree.postfix), tree.labels, strict=True))
    return Tree([labels.get(span) for span in spans_of(items)], items, tree.source)


def branching(words, shape, rng=None):
    """The postfix list of a tree over `words`.

    "left" splits off the last word of every phrase, "right" the first; "random" splits anywhere.
    """
    items, todo = [], [(0, len(words))]  # the next of `todo` is its last
    while todo:
        part = todo.pop()
        if part is REDUCE:
            items.append(REDUCE)
        elif part[1] - part[0] == 1:
            items.append(words[part[0]])
        else:
            start, stop = part
            at = {"left": stop - 1, "right": start + 1}.get(shape) or rng.integers(start + 1, stop)
            todo += [REDUCE, (at, stop), (start, at)]
    return items


# ---- to train on, to choose by, to test on ----


def split(trees):
    """The trees of four in five sources, and those of every fifth, in order of hashes."""
    sources = {tree.source for tree in trees}
    sources = sorted(sources, key=kit.digest)
    apart = set(sources[::5])
    return (
        [tree for tree in trees if tree.source not in apart],
        [tree for tree in trees if tree.source in apart],
    )
