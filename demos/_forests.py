"""Labelled trees as nets read them: numbers of words, of pieces of words and of labels."""

from typing import NamedTuple

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos._trees import read_trees, split, structure_of, words_of

NO_LABEL = -1
HELD_OUT = 2500  # trees to choose by, and to test on, at most
PARTS = ["train", "dev", "test"]


class Forest(NamedTuple):
    """Trees, one after the other: words (leaves,), pieces (leaves, 3) and labels (nodes,)."""

    structure: tg.Structure
    words: np.ndarray
    pieces: np.ndarray
    labels: np.ndarray


class Reader:
    """Knows the words, their pieces and the labels of the trees to train on.

    With `shared_labels` it reads those of words and roots alone.
    """

    def __init__(self, trees, shared_labels=False):
        words = [lower_words(tree) for tree in trees]
        self.words = kit.vocabulary(words, special=[kit.UNKNOWN])
        pieces = map(pieces_of, self.words.words[1:])
        self.pieces = kit.vocabulary(pieces, special=[kit.UNKNOWN], least=2)
        self.labels = sorted({label for tree in trees for label in tree.labels} - {None})
        self.ids = {label: i for i, label in enumerate(self.labels)} | {None: NO_LABEL}
        self.shared_labels = shared_labels

    def read(self, tree):
        """The Forest of one tree."""
        structure, words = structure_of(tree.postfix), lower_words(tree)
        # A label that training did not have has a number that no net says.
        labels = np.array([self.ids.get(label, len(self.labels)) for label in tree.labels])
        if self.shared_labels:
            labels[:-1][structure.counts[:-1] > 0] = NO_LABEL
        pieces = np.array([self.pieces.encode(pieces_of(word)) for word in words])
        return Forest(structure, self.words.encode(words), pieces, labels)

    def known(self):
        """What it knows, by name, in the order of the numbers."""
        return {"words": self.words.words, "pieces": self.pieces.words, "labels": self.labels}


def lower_words(tree):
    """The words of a tree in small letters."""
    return [word.lower() for word in words_of(tree.postfix)]


def pieces_of(word):
    """The first four and six letters of a word, and its last three."""
    return ["^" + word[:4], "^^" + word[:6], word[-3:] + "$"]


def joined(forests):
    """One Forest of several."""
    structures, *arrays = zip(*forests, strict=True)
    return Forest(tg.Structure.join(structures), *map(np.concatenate, arrays))


def read_parts(path, most, rng):
    """The trees to train on, at most so many, to choose by and to test on, by name.

    They are train.txt, dev.txt and test.txt of a folder that has them; else what `read_trees` finds
    in `path`: the test trees those of every fifth source, the dev trees those of every fifth other.
    """
    files = [path / f"{part}.txt" for part in PARTS] if path else []
    if files and all(file.is_file() for file in files):
        parts = dict(zip(PARTS, map(read_trees, files), strict=True))
    else:
        rest, test = split(read_trees(path))
        parts = dict(zip(PARTS, [*split(rest), test], strict=True))
    sizes = dict.fromkeys(PARTS, min(most, HELD_OUT)) | {"train": most}
    for part, trees in parts.items():
        parts[part] = [trees[i] for i in rng.permutation(len(trees))[: sizes[part]]]
    if not all(parts.values()) or len({tree.label for tree in parts["train"]}) < 2:
        raise kit.DataError(f"nothing to learn from {path}: one label, or too few sources")
    return parts
