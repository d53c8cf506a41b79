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
    """Numbers words, pieces and labels; with `shared` only the labels of words and roots."""

    def __init__(self, words, pieces, labels, shared=False):
        self.words, self.pieces = kit.Vocabulary(words), kit.Vocabulary(pieces)
        self.labels, self.shared = labels, shared
        self.ids = {label: i for i, label in enumerate(labels)} | {None: NO_LABEL}

    @classmethod
    def of(cls, trees, shared=False):
        """One that knows what there is in the trees to train on."""
        words = kit.vocabulary(map(lower_words, trees), special=[kit.UNKNOWN]).words
        pieces = kit.vocabulary(map(pieces_of, words[1:]), special=[kit.UNKNOWN], least=2).words
        labels = sorted({label for tree in trees for label in tree.labels} - {None})
        return cls(words, pieces, labels, shared)

    def read(self, tree):
        """The Forest of one tree."""
        structure, words = structure_of(tree.postfix), lower_words(tree)
        # A label that training did not have has a number that no net says.
        labels = np.array([self.ids.get(label, len(self.labels)) for label in tree.labels])
        if self.shared:
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
        sizes = ", ".join(f"{len(trees)} {part}" for part, trees in parts.items())
        raise kit.DataError(
            f"{path}: {sizes} trees; expected: some in each part, and two labels or more to train"
            " on; give more trees, or files train.txt, dev.txt and test.txt"
        )
    return parts


# ---- what a net says ----


@tg.no_grad()
def predictions(net, forests):
    """Of the trees in order: p of each label at each node, the right labels, which are roots."""
    net.eval()
    p, labels, roots = [], [], []
    for start in range(0, len(forests), 100):
        forest = joined(forests[start : start + 100])
        p.append(tg.softmax(net(forest)).numpy())
        labels.append(forest.labels)
        roots.append(np.isin(np.arange(len(forest.labels)), forest.structure.roots))
    net.train()
    return tuple(map(np.concatenate, (p, labels, roots)))


def shares_right(p, labels, roots, sentiment=False):
    """The shares of the labels that are told right, by name; of `sentiment` binary ones too."""
    right, told = p.argmax(axis=1) == labels, labels != NO_LABEL
    shares = {"roots": right[roots].mean()}
    if (told & ~roots).any():
        shares["all nodes"] = right[told].mean()
    if sentiment:
        positive = p[:, 3:].sum(axis=1) > p[:, :2].sum(axis=1)
        right, told = positive == (labels > 2), told & (labels != 2)
        shares["binary roots"] = right[told & roots].mean()
        shares["binary nodes"] = right[told].mean()
    return shares
