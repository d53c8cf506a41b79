"""Sentences with tags: the logical lines of the standard library, tokens and their kinds."""

import random
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path

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


def read(size):
    """Batches of `size` sentences (word ids, tag ids), and how many words and tags there are."""
    sentences = [s for s in standard_library() if 0 < len(s) <= LONGEST]
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


def standard_library():
    """The logical lines of some modules: pairs of a token and its kind."""
    for module in MODULES.split():
        line = []
        path = Path(sysconfig.get_path("stdlib"), module)
        package = path / "__init__.py"  # what is a module here is one in a later Python
        with tokenize.open(package if path.is_dir() else path.with_suffix(".py")) as file:
            for token in tokenize.generate_tokens(file.readline):
                if token.type == tokenize.NEWLINE:
                    yield line
                    line = []
                elif token.type not in LAYOUT:
                    line.append((token.string, tokenize.tok_name[token.exact_type]))
