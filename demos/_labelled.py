"""Labelled texts out of files, one a line, to train on, to choose settings by, and to test on.

    a label, a tab, a text            HUM<TAB>Who was Galileo ?
    TREC (Li and Roth 2002)           HUM:desc Who was Galileo ?          the label is HUM
    a sentiment treebank              (3 (2 It) (4 works))                the root's label, 3
    sentence polarity                 rt-polarity.pos and rt-polarity.neg, texts alone

A folder is read whole.  If the names of its files say train and test, and perhaps dev, each as a
word of its own (train.txt, trec-test.tsv), that is how they are split; then all names must.  All
else is split by the hash of a text, every tenth to test on, and so is a tenth from the training
files where no file is for dev; so the same text is never on both sides.
"""

import codecs
import hashlib
import re
from typing import NamedTuple

from demos import _kit as kit
from demos._trees import bracketed, words_of

SUFFIXES = {".txt", ".tsv", ".pos", ".neg"}
POLARITY = {".pos", ".neg"}  # what is in such a file has no other label than its name
TREC = re.compile(r"([A-Z]+):\w+ (.*)")
DEV, TEST = 0, 1  # of ten
EXPECTED = "LABEL<TAB>text, or as in TREC LABEL:fine text, or a tree (3 (2 It) (4 works))"


class Labelled(NamedTuple):
    """A text, as a tuple of words or of characters, and what to tell of it."""

    label: str
    words: tuple


class Sets(NamedTuple):
    """Lists of Labelled: to train on, to choose settings by, to test on."""

    train: list
    dev: list
    test: list


def read_sets(path):
    """The texts of a file or a folder, as `Sets`; DataError if they cannot be used."""
    files = files_of(path)
    said = [kit.part_in(file.name, Sets._fields) for file in files] if path.is_dir() else [None]
    if {"train", "test"} <= set(said) and None not in said:
        sets = Sets([], [], [])
        for file, part in zip(files, said, strict=True):
            getattr(sets, part).extend(read_file(file))
        if not sets.dev:
            rest = [x for x in sets.train if tenth(x) != DEV]
            sets = sets._replace(train=rest, dev=[x for x in sets.train if tenth(x) == DEV])
    elif any(said):
        names = kit.shown(", ".join(file.name for file in files), 200)
        raise kit.DataError(
            f"{path}: files {names}; expected: train, test, or dev in the name of every file, such"
            " as x-train.txt, and one of train and of test at least; or in no name"
        )
    else:
        everything = [text for file in files for text in read_file(file)]
        sets = Sets(
            [x for x in everything if tenth(x) not in (DEV, TEST)],
            [x for x in everything if tenth(x) == DEV],
            [x for x in everything if tenth(x) == TEST],
        )
    labels = {text.label for text in sets.train}
    if len(labels) < 2 or not sets.dev or not sets.test:
        raise kit.DataError(
            f"{path}: {len(sets.train)} texts to train on, {len(sets.dev)} and {len(sets.test)} to"
            " test on; expected: at least two labels and some texts for each; give more"
        )
    for text in [*sets.dev, *sets.test]:
        if text.label not in labels:
            raise kit.DataError(
                f"{path}: no text to train on has the label {kit.shown(text.label)}, of which there"
                " are some to test on; expected: the same labels in both; give more texts of it"
            )
    return sets


def files_of(path):
    """The files of texts that `path` is or that it holds."""
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise kit.DataError(
            f"{path} has no files of texts; expected: names that end in"
            f" {', '.join(sorted(SUFFIXES))}; rename them, or name one file by --data"
        )
    return files


def tenth(text):
    """Into which of ten parts a text falls, whatever its label."""
    return int(hashlib.sha256(" ".join(text.words).encode()).hexdigest(), 16) % 10


def read_file(file):
    """The texts of one file; its first line says what it is."""
    raw = kit.read_bytes(file)
    first = raw.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")[0].decode("latin-1")
    if TREC.match(first) and "\t" not in first:
        return labelled_lines(kit.decoded(raw, file, "latin-1"), file.name, trec)
    text = kit.decoded(raw, file)
    if first.startswith("("):
        return [
            Labelled(tree.label, tuple(words_of(tree.postfix)))
            for tree in bracketed(text, file.name)
        ]
    if file.suffix in POLARITY:
        return labelled_lines(text, file.name, lambda line: (file.suffix[1:], line))
    return labelled_lines(text, file.name, tabbed)


def labelled_lines(text, name, parse):
    """The texts of lines that `parse` makes (label, text) of; None is what is no such line."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        label, words = parse(line) or ("", "")
        if not label.strip() or not words.split():
            raise kit.DataError(
                f"{name}, line {number}: {kit.shown(line)}; expected: {EXPECTED}; mend it"
            )
        found.append(Labelled(label.strip(), tuple(words.split())))
    return found


def trec(line):
    """(coarse label, text) of a line of TREC."""
    match = TREC.match(line)
    return match and match.groups()


def tabbed(line):
    """(label, text) of a line with a tab between them."""
    return line.split("\t", 1) if "\t" in line else None
