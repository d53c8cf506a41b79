"""What the programs of `sequences.py` work on: sentences with tags, sequences, and parameters."""

import random
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path

import numpy as np

MODULES = "argparse ast datetime doctest inspect ipaddress pathlib pickle tarfile typing zipfile"
LONGEST = 100  # tokens
UNKNOWN = 0  # the id of words that occur once
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def read(path, size):
    """Batches of sentences (word ids, tag ids), and how many words and tags there are.

    `path` is a file in CoNLL-U; None is the standard library, whose logical lines are sentences.
    """
    found = [s for s in (standard_library() if path is None else conllu(path)) if s]
    sentences = [sentence for sentence in found if len(sentence) <= LONGEST]
    counts = Counter(word for sentence in sentences for word, _ in sentence)
    words = sorted(word for word, n in counts.items() if n > 1)
    word_ids = {word: i for i, word in enumerate(words, start=UNKNOWN + 1)}
    tags = sorted({tag for sentence in sentences for _, tag in sentence})
    examples = [
        ([word_ids.get(word, UNKNOWN) for word, _ in s], [tags.index(tag) for _, tag in s])
        for s in sentences
    ]
    random.Random(0).shuffle(examples)
    batches = [examples[i : i + size] for i in range(0, len(examples) - size + 1, size)]
    return batches, len(words) + 1, len(tags)


def conllu(path):
    """The sentences of a file in CoNLL-U: pairs of a word and its part of speech."""
    sentence = []
    for line in path.read_text(encoding="utf-8").splitlines():
        columns = line.split("\t")
        if columns[0].isdigit():  # else a comment, a word of several tokens, or one left out
            sentence.append((columns[1], columns[3]))
        elif not line:
            yield sentence
            sentence = []
    yield sentence


def standard_library():
    """The logical lines of some modules: pairs of a token and its kind."""
    for module in MODULES.split():
        line = []
        with tokenize.open(Path(sysconfig.get_path("stdlib"), f"{module}.py")) as file:
            for token in tokenize.generate_tokens(file.readline):
                if token.type == tokenize.NEWLINE:
                    yield line
                    line = []
                elif token.type not in LAYOUT:
                    line.append((token.string, tokenize.tok_name[token.exact_type]))


def tagger(V, D, H, K):
    """The arrays that every tagger begins with, in PyTorch's names, shapes and order of gates.

    E embeds the words; the logits of a token are `h @ R + r`, of both directions' h (2H,).
    """
    rng = np.random.default_rng(0)
    shapes = {"E": (V, D), "R": (2 * H, K), "r": (K,)}
    for direction in ("", "_reverse"):
        shapes |= {
            f"weight_ih_l0{direction}": (4 * H, D),
            f"weight_hh_l0{direction}": (4 * H, H),
            f"bias_ih_l0{direction}": (4 * H,),
            f"bias_hh_l0{direction}": (4 * H,),
        }
    return {
        name: rng.uniform(-1, 1, shape).astype(np.float32) * (1 if name == "E" else H**-0.5)
        for name, shape in shapes.items()
    }


def loop(T, B, D, H):
    """A sequence x (T, B, D), and W, U and b of an LSTM: `x @ W + h @ U + b` is i, f, g, o."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.uniform(-1, 1, shape).astype(np.float32) * H**-0.5
        for name, shape in {"W": (D, 4 * H), "U": (H, 4 * H), "b": (4 * H,)}.items()
    }
    return rng.standard_normal((T, B, D), np.float32), arrays
