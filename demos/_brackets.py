"""Parse trees as strings of brackets, and back; how much of a tree is right; treebanks.

A tree is the tuple of its nodes, every node before its children, with the number of children that
it has, None for a word.  So nothing here recurs, and no tree is too deep.

    text         (S (NP the cat) (VP sat))
    tokens       S( NP( the cat ) VP( sat ) )
    tree         S 2, NP 2, the, cat, VP 1, sat

The tokens are what a net reads and writes.  A node may be empty, as `List( )` of Python is; a tree
that is a word alone is none.
"""

import collections
import re
from typing import NamedTuple

import numpy as np

from demos import _kit as kit

CLOSE = ")"
WORD = "XX"  # stands for every word in the tree of a sentence
ROOT = "ROOT"
PARTS = ("train", "dev", "test")
CHAIN = 100  # nodes, each the only child of the one above: no sentence has so many
TOKEN = re.compile(r"\(\s*(?P<label>[^\s()]*)|[^\s()]+|\)")


class Node(NamedTuple):
    """A node of a tree: its label and the number of its children, None for a word."""

    label: str
    children: int | None


class Example(NamedTuple):
    """What a parser reads and the tokens of its tree; how many words of each kind are in both."""

    source: tuple
    target: tuple
    words: tuple


class BracketError(ValueError):
    """Brackets that are no tree, or a tree that brackets cannot say; the message says why."""


# ---- from text to tokens to a tree, and back ----


def tokens_of(text):
    """The tokens of bracketed text."""
    found = TOKEN.finditer(text)
    return tuple([t[0] if t["label"] is None else t["label"] + "(" for t in found])


def text_of(tokens):
    """Bracketed text with these tokens."""
    parts = [f"({token[:-1]}" if token.endswith("(") else token for token in tokens]
    return " ".join(parts).replace(" )", ")")


def tree_of(tokens):
    """The tree that tokens say; BracketError if they are not exactly one."""
    labels, counts, unclosed = [], [], []  # the last: places in the other two
    for place, token in enumerate(tokens, 1):
        if place > 1 and not unclosed:
            what = f"token {place}, {kit.shown(token)}"
            raise BracketError(f"{what}, stands behind the end of the tree")
        if token == CLOSE:
            if not unclosed:
                raise BracketError(f"token {place} closes what nothing opened")
            unclosed.pop()
            continue
        if unclosed:
            counts[unclosed[-1]] += 1
        if token == "(":
            raise BracketError(f"token {place} is a bracket without a label")
        if token.endswith("("):
            unclosed.append(len(labels))
        elif not unclosed:
            raise BracketError(f"token {place}, {kit.shown(token)}, stands outside every bracket")
        labels.append(token.removesuffix("("))
        counts.append(0 if token.endswith("(") else None)
    if unclosed or not labels:
        raise BracketError(f"the end comes with {len(unclosed)} brackets open")
    return tuple(map(Node, labels, counts))


def linearised(tree):
    """The tokens of a tree; BracketError if they would not say the same tree."""
    out = []
    for (label, children), ends in with_ends(tree):
        if not re.fullmatch(r"[^\s()]+", label):
            raise BracketError(f"a label must be a word with no bracket, got {kit.shown(label)}")
        out += [label if children is None else label + "(", *[CLOSE] * ends]
    return tuple(out)


def with_ends(tree):
    """Every node of a tree and the number of nodes that are complete with it."""
    to_come = []  # children of every node that is not complete
    for place, node in enumerate(tree):
        if (place > 0) == (not to_come) or (place == 0 and node.children is None):
            raise BracketError(f"node {place + 1}, {kit.shown(node.label)}, is no part of the tree")
        if to_come:
            to_come[-1] -= 1
        if node.children is not None:
            to_come.append(node.children)
        ends = 0
        while to_come and to_come[-1] == 0:
            to_come.pop()
            ends += 1
        yield node, ends
    if to_come:
        raise BracketError(f"{sum(to_come)} children are missing at the end of the tree")


# ---- measures ----


def depth(tree):
    """The number of brackets around the innermost node, its own included."""
    deepest = now = 0
    for node, ends in with_ends(tree):
        now += node.children is not None
        deepest, now = max(deepest, now), now - ends
    return deepest


def spans(tree, words):
    """{(label, first, end): how often} of the brackets of a tree, over what in it is in `words`."""
    found, unclosed, place = collections.Counter(), [], 0
    for (label, children), ends in with_ends(tree):
        if children is None:
            place += label in words
        else:
            unclosed.append((label, place))
        for _ in range(ends):
            found[*unclosed.pop(), place] += 1
    return found


def scores(written, right, words):
    """{measure: value} of token sequences that were written for trees, compared with the right.

    A bracket is right if the right tree has one with its label over the same `words`; of equal
    brackets, such as those of a chain NP( NP( XX ) ), as many as the right tree has.  A sequence
    that is no tree has no brackets.
    """
    pairs = list(zip(written, right, strict=True))
    found = [tree_or_none(tokens) for tokens in written]
    whole = [
        a is not None and words_in(w, words) == words_in(r, words)
        for a, (w, r) in zip(found, pairs, strict=True)
    ]
    both = said = wanted = 0
    for a, target in zip(found, right, strict=True):
        a, b = spans(a or (), words), spans(tree_of(target), words)
        both, said, wanted = both + (a & b).total(), said + a.total(), wanted + b.total()
    return {
        "tree": sum(a is not None for a in found) / len(pairs),
        "words": sum(whole) / len(pairs),
        "exact": sum(a == b for a, b in pairs) / len(pairs),
        "precision": both / max(said, 1),
        "recall": both / wanted,
        "F1": 2 * both / (said + wanted),
    }


def tree_or_none(tokens):
    """The tree that tokens say, None if they say none."""
    try:
        return tree_of(tokens)
    except BracketError:
        return None


def words_in(tokens, words):
    """How often each of `words` is among the tokens."""
    found = collections.Counter(tokens)
    return tuple([found[word] for word in words])


def distances(tree):
    """How many tokens behind the bracket of its parent every node but the root stands."""
    found, parents, place = [], [], 0
    for node, ends in with_ends(tree):
        if parents:
            found.append(place - parents[-1])
        if node.children is not None:
            parents.append(place)
        del parents[len(parents) - ends :]
        place += 1 + ends
    return np.array(found, int)


# ---- treebanks ----


def read_treebank(path, longest, rare):
    """[train, dev, test]: the examples of at most `longest` words in files such as x-dev.ptb.

    A file has one tree a line, (ROOT (S (NP-SBJ (DT the) (NN cat)) ...)); ROOT may be left out, as
    the Penn Treebank does, or the bracket with it.  Words in fewer than
    `rare` sentences of training are read as their tags.  What is read begins with what it is,
    ROOT( for a sentence; to train on are also all constituents of some words, NP( the cat, each
    once.  DataError for what cannot be read.
    """
    parts = []
    for part in PARTS:
        files = [file for file in path.glob("*.ptb") if kit.part_in(file.name, PARTS) == part]
        if len(files) != 1:
            raise kit.DataError(
                f"{path}: {len(files)} files such as x-{part}.ptb; expected: one of train, one of"
                " dev and one of test"
            )
        lines = enumerate(kit.read_text(files[0]).split("\n"), 1)
        parts.append([sentence(line, f"{files[0]}, line {n}") for n, line in lines if line.strip()])
    often = collections.Counter(word for words, _, _ in parts[0] for word in set(words))
    parts = [
        [(known(words, tags, often, rare), tree) for words, tags, tree in part] for part in parts
    ]
    found = [[example(ROOT, *one) for one in part if len(one[0]) <= longest] for part in parts]
    if not all(found):
        raise kit.DataError(
            f"{path}: no sentence of at most {longest} words in one of the files; expected: some in"
            " each; raise --longest"
        )
    inner = [one for words, tree in parts[0] for one in constituents(words, tree, longest)]
    short = {e.source: e for e in (example(*one) for one in inner if len(one[1]) > 1)}
    return [found[0] + list(short.values()), *found[1:]]


def known(words, tags, often, rare):
    """The words; the tags of those that are not often enough."""
    pairs = zip(words, tags, strict=True)
    return tuple([word if often[word] >= rare else f"<{tag}>" for word, tag in pairs])


def example(kind, words, tree):
    """The example of words, what they are as a whole, and their tree."""
    return Example((kind + "(", *words), linearised(tree), (len(words),))


def constituents(words, tree, longest):
    """The label, the words and the tree of every node of a tree that is over `longest` at most."""
    unclosed, end = [], 0
    for place, (node, ends) in enumerate(with_ends(tree)):
        if node.children is None:
            end += 1
        else:
            unclosed.append((place, end))
        for _ in range(ends):
            start, first = unclosed.pop()
            if end - first <= longest:  # copies of all would take the square of the words
                yield tree[start].label, words[first:end], tree[start : place + 1]


def sentence(line, where):
    """The words, tags and tree of a line of a treebank; DataError, with `where`, if it is none."""
    tokens = tokens_of(line)
    if tokens[:1] == ("(",):
        tokens = (ROOT + "(", *tokens[1:])
    try:
        return without_tags(tree_of(tokens))
    except BracketError as error:
        raise kit.DataError(
            f"{where}: {error}; expected: a tree on a line, (S (NP (NN words)) ...); leave it out"
        ) from None


def without_tags(tree):
    """The words of a tree, their tags, and the tree without them, functions such as -SBJ, and ROOT.

    In it every word is WORD; a chain of nodes, each the only child of the one above, stays.
    """
    words, tags, nodes, chain = [], [], [], 0
    for place, (label, children) in enumerate(tree):
        chain = chain + 1 if children == 1 else 0
        if chain > CHAIN:
            raise BracketError(f"more than {CHAIN} brackets, each the only child of the one above")
        if children is None:
            if tree[place - 1].children != 1:  # it is then no parent of this word alone
                raise BracketError(f"{kit.shown(label)} has no tag of its own")
            words.append(label)
        elif children == 0:
            raise BracketError(f"{kit.shown(label)} has neither a word nor a child")
        elif tree[place + 1].children is None:
            tags.append(label)
            nodes.append(Node(WORD, None))
        else:
            nodes.append(Node(re.split("(?<=.)[-=](?=.)", label)[0], children))
    if nodes[0] == (ROOT, 1) and nodes[1].children is not None:
        del nodes[0]  # which every sentence has
    if nodes[0].children is None:
        raise BracketError("a word with its tag alone is no tree")
    return tuple(words), tuple(tags), tuple(nodes)
