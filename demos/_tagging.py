"""Lines of tagged words: identifiers in Python source with their roles, or CoNLL-U with UPOS.

The role of an identifier is what the syntax tree knows and its spelling does not say.  A line is a
logical line of the program, and its words are tokens: every number is 0, every string is "".

    names.sort(key=len)     names LOAD, sort ATTR_CALL, key KWARG, len LOAD
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

from demos import _kit as kit
from demos._trees import STDLIB, python_files, source_of, syntax_tree

HIDE = 1.0  # a word seen n times is hidden with probability HIDE / (HIDE + n)
LETTERS = 24  # of a word that are read, the last ones
START, STOP = "<start>", "<stop>"  # of a word, among its letters
KINDS = [(1, str.isupper), (0, str.islower), (0, str.isdigit)]  # from which letter on
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
            raise kit.DataError(
                f"{root}: no Python sources; expected: the standard library; give --data"
            )
    elif path.is_dir():
        root, files = path, sorted(path.rglob("*.conllu")) or python_files(path)
    else:
        root, files = path.parent, [path]
    lines = []
    for file in files:
        name = file.relative_to(root).as_posix()
        lines += program(file, name) if file.suffix == ".py" else conllu(kit.read_text(file), name)
    if not any(any(line.tags) for line in lines):
        raise kit.DataError(
            f"{path}: no tagged words; expected: .py files, or .conllu files with tags in column 4;"
            " name another by --data"
        )
    return lines


# ---- Python ----


def program(file, name):
    """The lines of a Python file in which there is an identifier with a role."""
    found = roles(syntax_tree(file))
    if not found:  # or no Python at all, which `syntax_tree` has said
        return []
    lines, words, tags = [], [], []
    for token in tokenize.tokenize(io.BytesIO(source_of(file)).readline):
        if token.type in CUT:
            if any(tags) and len(words) <= LONGEST:
                lines.append(Line(tuple(words), tuple(tags), name))
            words, tags = [], []
        elif token.type not in SILENT:
            named = token.type == tokenize.NAME and not keyword.iskeyword(token.string)
            words.append(word(token))
            # The place takes time that grows with the line; a line that is left out needs none.
            tags.append(found.get(place(token)) if named and len(words) <= LONGEST else None)
    return lines


def place(token):
    """The line and the column of a token; a syntax tree counts bytes."""
    row, column = token.start
    return row, len(token.line[:column].encode())


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

WORD_ID = re.compile(r"[0-9]+")
OTHER_ID = re.compile(r"[0-9]+-[0-9]+|[0-9]+\.[0-9]+")  # a range of words, an empty node


def conllu(text, name):
    """The sentences of a CoNLL-U text; comments, ranges (1-2) and empty nodes (1.1) are skipped."""
    lines, words, tags = [], [], []
    for number, row in enumerate([*text.split("\n"), ""], 1):  # a word may hold other line breaks
        row = row.removesuffix("\r")
        if row.startswith("#"):
            continue
        if not row.strip():
            if words:
                lines.append(Line(tuple(words), tuple(tags), name))
            words, tags = [], []
            continue
        columns = row.split("\t")
        if len(columns) != 10:
            raise not_conllu(f"{len(columns)} columns, not 10 with tabs between them", number, name)
        if WORD_ID.fullmatch(columns[0]):
            if columns[0] != str(len(words) + 1):
                raise not_conllu(
                    f"word {kit.shown(columns[0])} where {len(words) + 1} comes next; between"
                    " sentences there should be an empty line",
                    number,
                    name,
                )
            if not columns[1] or not columns[3]:
                raise not_conllu("a word without a form or without a tag, not even _", number, name)
            words.append(columns[1])
            tags.append(None if columns[3] == "_" else columns[3])
        elif not OTHER_ID.fullmatch(columns[0]):
            what = f"{kit.shown(columns[0])} is no id of a word, such as 1, 1-2 or 1.1"
            raise not_conllu(what, number, name)
    return lines


def not_conllu(what, number, name):
    """The DataError that says what is wrong in a line of a file."""
    return kit.DataError(f"{name}, line {number}: {what}; expected: CoNLL-U; mend or leave it out")


# ---- parts to train on and to test on ----


def split(lines, parts=("train", "dev", "test")):
    """The lines of each part; the first is to train on.

    If the names of files say so, as those of a treebank do, that; else every tenth source, in the
    order of hashes, is in the last part, the next of each in the part before, and so on; a lone
    file is cut into single lines.  DataError if the names say a part and leave out another.
    """
    sources = {line.source for line in lines}
    said = {source: kit.part_in(Path(source).stem, parts) for source in sources}
    if len(sources) > 1 and any(said.values()) and all(one.endswith(".conllu") for one in sources):
        named = [[line for line in lines if said[line.source] == part] for part in parts]
        for part, own in zip(parts, named, strict=True):
            if not own:
                found = kit.shown(", ".join(sorted(sources)), 200)
                raise kit.DataError(
                    f"no file for {part!r}, only {found}; expected: one for each of"
                    f" {', '.join(parts)}, such as x-{part}.conllu"
                )
        return named
    keys = [line.source if len(sources) > 1 else " ".join(line.words) for line in lines]
    by_hash = sorted(set(keys), key=kit.digest)
    part_of = dict.fromkeys(by_hash, 0)
    for place in range(1, len(parts)):
        part_of |= dict.fromkeys(by_hash[place - 1 :: 10], len(parts) - place)
    return [
        [line for line, key in zip(lines, keys, strict=True) if part_of[key] == i]
        for i in range(len(parts))
    ]


# ---- what a net reads of a word ----


class Forms:
    """Every form that occurs, with a number, and by number what a net reads of it.

    Form 0 is empty: what is read beyond the end of a line.
    """

    def __init__(self, train, *others):
        words = sorted(word for line in train for word in line.words)  # in any order the same
        count = collections.Counter(word.lower() for word in words)
        known = kit.vocabulary([[word.lower() for word in words]], (kit.UNKNOWN,), least=2)
        letters = kit.vocabulary(words, (kit.UNKNOWN, START, STOP))
        self.words, self.letters = len(known), len(letters)
        self.vocabulary = {"words": known.words, "letters": letters.words}
        forms = sorted({word for part in (train, *others) for line in part for word in line.words})
        self.numbers = kit.Vocabulary(["", *forms])
        self.word = known.encode([form.lower() for form in self.numbers.words])
        self.hidden = np.array([HIDE / (HIDE + count[x.lower()]) for x in self.numbers.words])
        self.case = np.array([capitals(form) for form in self.numbers.words])
        spelt = [[START, *form[-LETTERS:], STOP] for form in self.numbers.words]
        self.spelling, self.lengths = kit.padded([letters.encode(form) for form in spelt])


def capitals(form):
    """The pattern of capitals and digits in a word, 0 .. 15."""
    inner, small, digit = (any(map(test, form[i:])) for i, test in KINDS)
    return 8 * form[:1].isupper() + 4 * inner + 2 * small + digit


# ---- lines as numbers ----


class Part(NamedTuple):
    """For every line the numbers of its words, those of their tags, and which of them count."""

    x: list
    y: list
    counts: list


def labels(line):
    """The tag of each word and True or, where it has none, its own spelling and False."""
    pairs = zip(line.words, line.tags, strict=True)
    return [(tag, True) if tag else (repr(word), False) for word, tag in pairs]


def tag_numbers(lines, most):
    """{tag: number}: 0 and up to `most` spellings of words that have no tag, then all tags."""
    tags = sorted({tag for line in lines for tag in line.tags} - {None})
    if len(tags) < 2:
        raise kit.DataError(
            f"{lines[0].source}: no tags but {kit.shown(', '.join(tags))}; expected: two or more to"
            " train on; give more text"
        )
    untagged = [[label for label, counts in labels(line) if not counts] for line in lines]
    words = kit.vocabulary(untagged, (kit.UNKNOWN,), most=most).words
    return kit.Vocabulary([*words, *tags]).ids


def encoded(lines, forms, tags):
    """The lines as a Part; a tag that is not among `tags` has a number that no tag has."""
    x = [forms.numbers.encode(line.words) for line in lines]
    pairs = [labels(line) for line in lines]
    y = [[tags.get(tag, len(tags) if counts else 0) for tag, counts in line] for line in pairs]
    counts = [[counts for _, counts in line] for line in pairs]
    return Part(x, list(map(np.array, y)), list(map(np.array, counts)))
