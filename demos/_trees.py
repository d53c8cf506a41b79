"""Labelled trees from Python source, or from bracketed text, in postfix order.

A tree is a list of words with a REDUCE wherever the last two subtrees become one, so that a loop
with a stack reads it and no depth of the data is too deep.  A node with more than two children is
binarised from the left.  A node of a syntax tree is its type followed by its fields:

    x + 1   ->   <BinOp> x REDUCE <Add> REDUCE <int> REDUCE   ->   (((<BinOp> x) <Add>) <int>)
"""

import ast
import re
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import NamedTuple

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
    """An example: what to tell, what to tell it from, and where it stood."""

    label: str
    postfix: list
    source: str


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
        raise kit.DataError(f"no trees in {path}")
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
    found = sorted(path.rglob("*.py"))
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
                trees.append(Tree(role, postfix(expression), source))
    return trees


def syntax_tree(file):
    """The syntax tree of a file; an empty one, and a line on stderr, if Python cannot parse it."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of the file's own strange escapes
            return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        print(f"skipped {file}: {error or type(error).__name__}", file=sys.stderr)
        return ast.Module([], [])


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
    """The trees of a text such as `(3 (2 It) (4 works))`, with the labels of their roots."""
    trees, words, children = [], [], []  # the words of this tree; the children of each open node
    for token in re.finditer(r"\(\s*(?P<label>[^\s()]*)|\)|[^\s()]+", text):
        where = f"{name}, tree {len(trees) + 1}"
        if token["label"] is not None:
            if not children:
                label = token["label"]
            children.append(0)
            continue
        if not children:
            raise kit.DataError(f"{where}: {token[0]!r} stands outside every tree")
        if token[0] != ")":
            words.append(token[0])
        elif children.pop() == 0:
            raise kit.DataError(f"{where}: a node without a word or a child")
        # Here a child is complete, be it a word or a subtree.
        if not children:
            trees.append(Tree(label, words, where))
            words = []
        else:
            children[-1] += 1
            words += [REDUCE] * (children[-1] > 1)
    if children:
        raise kit.DataError(f"{where}: the text ends inside it")
    return trees
