"""Hostile files: some that somebody thought of, and some that nobody did.

`GROWING` and `FIXED` are bytes for any reader, `monsters(reader)` puts them in its files, `spoilt`
puts there what is no file, and `cases` are random bytes and texts, and valid files with parts
deleted, doubled, swapped, cut and spliced.
"""

import gzip
import os
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from demos import _kit as kit
from tests.contracts import saved
from tests.readers import READERS, write

SMALL = 1_000  # parts of a monster that may be of any size

# ---- by hand ----


def row(number, form, tag="NOUN"):
    """A line of CoNLL-U."""
    return "\t".join([str(number), form, "_", tag, *"______"]).encode() + b"\n"


WORD = b"(N x)"
GROWING = {  # what it is, and the bytes of one of about n parts
    "empty lines": lambda n: b"\n" * n,
    "one long word": lambda n: b"x" * n,
    "one long word of three bytes a letter": lambda n: "\u2581".encode() * (n // 3),
    "one long line of short words": lambda n: b"a b " * (n // 4),
    "one long line of tabs": lambda n: b"\t" * n,
    "one long line of blanks and a word": lambda n: b" " * n + b"x",
    "one long line of digits": lambda n: b"7" * n,
    "blanks after a line feed, many times": lambda n: b"\n \t" * (n // 3) + b"x",
    "carriage returns": lambda n: b"\r" * n + b"x",
    "short lines": lambda n: b"A\tx\n" * (n // 4),
    "many different words": lambda n: " ".join(map(str, range(n // 8))).encode(),
    "brackets open": lambda n: b"(" * n,
    "brackets with labels open": lambda n: b"(S " * (n // 3),
    "brackets close": lambda n: b")" * n,
    "brackets to the right": lambda n: b"(S (N x) " * n + WORD + b")" * n,
    "brackets to the left": lambda n: b"(S " * n + WORD + b" (N x))" * n,
    "brackets to the left, numbered": lambda n: b"(1 " * n + b"(0 a)" + b" (2 b))" * n,
    "brackets to both sides": lambda n: b"(S (N x) " * n + WORD + b" (N x))" * n,
    "a chain of brackets": lambda n: b"(S " * n + WORD + b")" * n,
    "a chain of brackets over two": lambda n: b"(S " * n + WORD + WORD + b")" * n,
    "one bracket too few": lambda n: b"(S (N x) " * n + WORD + b")" * (n - 1),
    "one bracket too many": lambda n: b"(S (N x) " * n + WORD + b")" * (n + 1),
    "a tree with many children": lambda n: b"(S " + b"(N x) " * (n // 6) + b")",
    "many NULs": lambda n: b"\0" * n,
    "JSON, deep": lambda n: b"[" * n,
    "Python, deep brackets": lambda n: b"x = " + b"(" * n + b")" * n,
    "Python, deep signs": lambda n: b"x = " + b"-" * n + b"1",
    "Python, a long sum": lambda n: b"x = " + b"+".join([b"a"] * n),
    "Python, a long chain": lambda n: b"x = a" + b".b" * n,
    "Python, a long list": lambda n: b"x = [" + b"a, " * (n // 3) + b"]",
    "Python, a long list of letters beyond ASCII": lambda n: (
        "x = [" + "é, " * (n // 4) + "]"
    ).encode(),
}
FIXED = {
    "one line feed": b"\n",
    "an empty tree": b"()\n(S)\n(S ())\n",
    "a tree of one leaf": b"(S x)\n",
    "a label with no tree": b"(S\n",
    "a bare leaf": b"x)\n",
    "a NUL": b"A\tone\n\0\nB\ttwo\n",
    "no UTF-8": b"A\tone\n\xff\xfe\xfd\n",
    "a surrogate alone": b"A\tone \xed\xa0\x80\n",
    "a character too large": b"\xf4\x90\x80\x80\n",
    "an overlong slash": b"\xc0\xaf\n",
    "line ends of Unicode": "A\tone\u2028B\ttwo\x85C\tthree\x0b\x0c\x1c\x1d\n".encode(),
    "text to the left": "A\t\u202eone\u202c\n".encode(),
    "escapes of a terminal": b"A\t\x1b[2J\x1b]0;x\x07\n" * 3,
    "numbers that are too long": b"1" * 5000 + b"\t" + b"9" * 5000 + b"\n",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "a PDF": b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n",
    "a program": b"import os\nprint(f'{os.name}')\n",
    "JSON of an epoch": b'{"label": "training", "epoch": "x", "loss": [], "validation": {}}\n',
    "JSON, not an object": b'[1]\n"epoch"\nnull\n{"label": []}\n{"label": "training"}\n',
    "Python, an unknown coding": b"# coding: nonsense\nx = y(1)\n",
    "Python, a coding that is none of text": b"# coding: hex\nx = y(1)\n",
    "Python, a coding of surrogates": b"# coding: raw_unicode_escape\nx = y('\\ud800')\n",
    "Python, a coding that never works": b"# coding: undefined\nx = y(1)\n",
    "Python, a form feed": b"x = y(1)\x0c\n\x0cz = (x.w,\n\x0c q)\n",
    "Python, letters beyond ASCII": "é = ü(ñ=1)\nif é: ü.ø = é.å\n".encode(),
    "Python, strange tokens": b"x = y if 0x1for x in z else 1_000j\nx = y[...]; x @= -y\n",
    "CoNLL-U, nine columns": row(1, "a")[:-3] + b"\n",
    "CoNLL-U, eleven columns": row(1, "a")[:-1] + b"\t_\n",
    "CoNLL-U, comments alone": b"# text = none\n" * 20,
    "one label only": b"A\tone\nA\ttwo\n" * 50,
    "one example only": b"A\tone\n",
    "labels without texts": b"A\t\n" * 50,
    "texts without labels": b"\tone\n" * 50,
    "nothing": b"",
    "a byte order mark alone": b"\xef\xbb\xbf",
    "one character": b"x",
    "many different characters": "".join(map(chr, range(0x4E00, 0x9000))).encode(),
    "half a character": b"A\t\xe2\x82",
    "letters that lower to two": ("\u0130" * 50 + " ").encode() * 50,
    "a zip": b"PK\x05\x06" + b"\0" * 18,
    "a gzip": gzip.compress(b"one two three " * 50),
    "Python, a long number": b"x = " + b"7" * 10_000 + b" + y",
    "Python, carriage returns alone": b"x = y(1)\rz = x.w\r",
    "CoNLL-U, the same id twice": row(1, "a") + row(1, "b"),
    "CoNLL-U, a gap": row(1, "a") + row(3, "b"),
    "CoNLL-U, an id that is no number": row("x", "a"),
    "CoNLL-U, an id of Arabic digits": row("\u0661", "a"),
    "CoNLL-U, a long id": row("1" * 10_000, "a"),
    "CoNLL-U, no form": row(1, ""),
    "CoNLL-U, ranges and empty nodes": row("1-2", "x")
    + row(1, "a")
    + row("1.1", "e")
    + row(2, "b"),
    "CoNLL-U, ranges alone": row("1-2", "aux") + row("8.1", "e"),
}


def disguised(files):
    """{what it is: files} of the same files, in bytes that another program might have written."""
    ways = {
        "with a byte order mark": lambda b: b"\xef\xbb\xbf" + b,
        "with byte order marks inside": lambda b: b.replace(b"\n", b"\n\xef\xbb\xbf"),
        "with carriage returns": lambda b: b.replace(b"\n", b"\r\n"),
        "with carriage returns alone": lambda b: b.replace(b"\n", b"\r"),
        "with U+2028 for blanks": lambda b: b.replace(b" ", "\u2028".encode()),
        "with U+0085 for line feeds": lambda b: b.replace(b"\n", b"\xc2\x85"),
        "with no-break spaces": lambda b: b.replace(b" ", b"\xc2\xa0"),
        "without the last line feed": lambda b: b.removesuffix(b"\n"),
        "with empty lines between": lambda b: b.replace(b"\n", b"\n\n"),
        "in UTF-16": lambda b: b.decode("latin-1").encode("utf-16"),
        "in UTF-16 without a mark": lambda b: b.decode("latin-1").encode("utf-16-le"),
        "in UTF-32": lambda b: b.decode("latin-1").encode("utf-32"),
        "packed": gzip.compress,
        "twice": lambda b: b + b,
        "half": lambda b: b[: len(b) // 2],
        "backwards": lambda b: b[::-1],
        "in capitals": lambda b: b.upper(),
    }
    return {way: {name: f(b) for name, b in files.items()} for way, f in ways.items()}


def monsters(reader):
    """(what it is, {name: bytes}) of all monsters for a reader, in all its files and in one."""
    grown = {what: make(SMALL) for what, make in GROWING.items()}
    files, first = reader.files, next(iter(reader.files))
    yield "as they should be", files
    yield from disguised(files).items()
    others = {next(iter(r.files.values())): f"a file of {r.name}" for r in READERS}
    for what, content in {**grown, **FIXED, **{what: b for b, what in others.items()}}.items():
        if len(files) < 4:
            yield f"{what}, in every file", dict.fromkeys(files, content)
        if len(files) > 1:
            yield f"{what}, in one file", {**files, first: content}
    if len(files) > 1:
        yield "one file is missing", {name: files[name] for name in [*files][1:]}


# ---- what is no file ----


def spoilt(reader, folder):
    """(what it is, folder) with the reader's files, one of which is no file, or none to be read."""
    name = next(iter(reader.files))
    ways = {
        "a folder": lambda p: p.mkdir(),
        "a pipe": os.mkfifo,
        "a link to itself": lambda p: p.symlink_to(p.name),
        "a link to nothing": lambda p: p.symlink_to("nowhere"),
        "a link to a device": lambda p: p.symlink_to("/dev/zero"),
        "a file that may not be read": lambda p: (p.write_bytes(b"x"), p.chmod(0)),
        "a file that is too large": lambda p: (p.touch(), os.truncate(p, kit.LARGEST + 1)),
        "a folder that links to itself": lambda p: (p.mkdir(), (p / "in").symlink_to(p)),
    }
    for number, (what, make) in enumerate(ways.items()):
        place = Path(folder, str(number))
        write(reader.files, place)
        Path(place, name).unlink()
        make(Path(place, name))
        yield what, place


# ---- monsters by chance ----

TOKENS = [
    b"\n",
    b"\t",
    b" ",
    b"(",
    b")",
    b"()",
    b"\r\n",
    b"\0",
    b"\xff",
    b"1",
    b"-1",
    b"1-2",
    b"1.1",
]
TOKENS += [
    b"_",
    b"#",
    b"A:b ",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"\xef\xbb\xbf",
    b"9" * 25,
    b"'",
    b'"',
]
TOKENS += [
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"NaN",
    b"null",
    b"\xf0\x9f\x98\x80",
    b"\xcc\x81",
]
HOWS = ("delete", "double", "swap", "cut", "splice", "insert")
texts = st.text(st.sampled_from("\0\t\n\r \x85\u2028\ufeff\ud800()_#'\"aB1é") | st.characters())


@st.composite
def mutated(draw, files):
    """{name: bytes}: some of `files` with pieces deleted, doubled, swapped, cut and spliced."""
    files, names = dict(files), list(files)
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(names))
        glue = draw(st.sampled_from([b"\n", b"\t", b" ", b""]))
        pieces = (
            files[name].split(glue)
            if glue
            else [files[name][i : i + 1] for i in range(len(files[name]))]
        )
        i, j = (draw(st.integers(0, max(len(pieces) - 1, 0))) for _ in range(2))
        how = draw(st.sampled_from(HOWS))
        if not pieces or how == "insert":
            pieces.insert(i, draw(st.sampled_from(TOKENS)))
        elif how == "delete":
            del pieces[i]
        elif how == "double":
            pieces[i:i] = pieces[min(i, j) : max(i, j) + 1]
        elif how == "swap":
            pieces[i], pieces[j] = pieces[j], pieces[i]
        elif how == "cut":
            del pieces[i:]
        else:
            pieces[i] = draw(st.sampled_from(TOKENS)) + pieces[j][: draw(st.integers(0, 9))]
        files[name] = glue.join(pieces)
    return files


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(width=32) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def changed(draw, arrays, metadata):
    """{model.npz: bytes} of a checkpoint whose arrays or metadata are not what they should be."""
    arrays, metadata = dict(arrays), dict(metadata)
    names = st.sampled_from([*arrays])
    shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
    for _ in range(draw(st.integers(1, 3))):
        how = draw(st.sampled_from(["drop", "shape", "kind", "key", "value", "entry"]))
        if how == "drop":
            arrays.pop(draw(names), None)
        elif how == "shape":
            arrays[draw(names)] = np.zeros(draw(shapes), np.float32)
        elif how == "kind":
            name = draw(names)
            kinds = st.sampled_from([np.int8, np.bool_, np.float64, np.uint64])
            arrays[name] = np.ones(np.shape(arrays.get(name, 0)), draw(kinds))
        elif metadata:
            key = draw(st.sampled_from([*metadata]))
            if how == "key":
                metadata[draw(st.text(max_size=5))] = metadata.pop(key)
            elif how == "entry" and isinstance(metadata[key], list):
                metadata[key] = [*metadata[key][1:], draw(values)]
            else:
                metadata[key] = draw(values)
    return {"model.npz": saved(arrays, metadata)}


def cases(reader):
    """A strategy for hostile {name: bytes}."""
    text = texts.map(lambda t: t.encode("utf-8", "surrogatepass"))
    anything = st.fixed_dictionaries(dict.fromkeys(reader.files, st.binary() | text))
    some = st.dictionaries(st.sampled_from([*reader.files]), st.binary() | text)
    own = changed(*reader.checkpoint) if reader.checkpoint else mutated(reader.files)
    return own | own | anything | some.map(lambda change: {**reader.files, **change})
