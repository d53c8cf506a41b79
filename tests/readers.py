"""Every reader of the demos, in one table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from demos import _brackets, _glyphs, _parses, word_lm
from demos import _kit as kit
from tests import contracts as c


class Reader(NamedTuple):
    """What turns a user's bytes into something.

    `files` are valid ones, by name; `given` is what the user names of them, "." the folder.
    `check` raises AssertionError if what was read breaks its contract.  `checkpoint`, if given,
    is what the file says: bytes of it changed at random would only break a checksum.
    """

    name: str
    demos: str
    read: Callable[[Path], Any]
    check: Callable[[Any], None]
    files: dict[str, bytes]
    given: str
    errors: tuple = (kit.DataError,)
    checkpoint: tuple = ()
    cost: int = 1  # so many times less is tried


def write(files, folder):
    """Write {name: bytes} to a folder."""
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def three(content, suffix, prefix="x-"):
    return {f"{prefix}{part}.{suffix}": content for part in ("train", "dev", "test")}


TEXTS = {"text.txt": c.PLAIN.encode()}
CONLLU = {"a.conllu": c.CONLLU}
PARTS = {f"{part}.txt": c.PLAIN.encode() for part in word_lm.PARTS}

READERS = [
    Reader("text", "", kit.read_text, c.check_text, TEXTS, "text.txt"),
    Reader("characters", "char_lm", c.read_characters, c.check_characters, TEXTS, "text.txt"),
    Reader("next characters", "truncated_bptt", c.read_task, c.check_task, TEXTS, "text.txt"),
    Reader("paragraphs", "word_lm", c.read_words, c.check_words, TEXTS, "text.txt"),
    Reader("lines of words", "word_lm", c.read_words, c.check_words, PARTS, "."),
    Reader("neighbours", "word_vectors", c.read_company, c.check_company,
           {"text.txt": c.COMPANY.encode() * 6}, "text.txt"),
    Reader("trees in brackets", "expression_roles", c.read_roles, c.check_roles,
           {"trees.txt": c.SST.encode()}, "trees.txt"),
    Reader("trees of programs", "expression_roles", c.read_roles, c.check_roles, c.PROGRAMS,
           ".", cost=3),
    Reader("trees with all labels", "recursive_nets", c.read_forests, c.check_forests,
           three(c.SST.encode(), "txt", ""), "."),
    Reader("treebank", "parsing", lambda path: _brackets.read_treebank(path, 9, 1),
           c.check_treebank, three(c.PTB.encode(), "ptb"), "."),
    Reader("expressions", "encoder_decoder parsing", lambda path: _parses.read_pairs(path, 12),
           c.check_pairs, c.PROGRAMS, ".", cost=8),
    Reader("tagged words", "pos_tagging", c.read_tags, c.check_tags, CONLLU, "a.conllu"),
    Reader("tagged words in parts", "pos_tagging", c.read_tags, c.check_tags,
           three(c.CONLLU, "conllu"), "."),
    Reader("tagged identifiers", "pos_tagging", c.read_tags, c.check_tags, c.PROGRAMS, ".", cost=4),
    Reader("tags", "identifier_roles", c.read_identifiers, c.check_identifiers,
           CONLLU, "a.conllu"),
    Reader("identifiers", "identifier_roles", c.read_identifiers, c.check_identifiers,
           c.PROGRAMS, ".", cost=4),
    Reader("labelled texts", "sequence_classification", c.read_labelled, c.check_labelled,
           {"all.tsv": c.TABBED}, "all.tsv", cost=2),
    Reader("labelled texts in parts", "sequence_classification", c.read_labelled, c.check_labelled,
           {"x.train.txt": c.TREC, "x.test.txt": c.TREC}, ".", cost=2),
    Reader("polarity", "sequence_classification", c.read_labelled, c.check_labelled,
           {f"rt.{label}": c.TABBED.replace(b"\t", b" ") for label in ("pos", "neg")}, ".", cost=2),
    Reader("translations", "translation", c.read_translations(0), c.check_translations,
           c.PAIRS, "."),
    Reader("translations in pieces", "translation", c.read_translations(24), c.check_translations,
           c.PAIRS, ".", cost=8),
    Reader("pictures", "captioning", lambda path: _glyphs.read_captioned(path, 1), c.check_pictures,
           {"pictures.npz": c.archive()}, "pictures.npz"),
    Reader("fonts", "captioning", lambda path: _glyphs.read_captioned(path, 1), c.check_pictures,
           {"font.ttf": c.a_font()}, ".", cost=20),
    Reader("metrics", "", c.read_epochs, c.check_epochs, {"metrics.jsonl": c.METRICS}, "."),
    Reader("saved nets", "recursive_nets --models", c.read_net, c.check_net,
           {"model.npz": c.saved(c.ARRAYS, c.KNOWN)}, "model.npz", c.LOADED,
           (c.ARRAYS, c.KNOWN), cost=2),
    Reader("weights to begin with", "--init-from", c.read_start, c.check_start,
           {"model.npz": c.saved(c.ARRAYS, c.STARTED)}, "model.npz", c.LOADED,
           (c.ARRAYS, c.STARTED), cost=2),
]  # fmt: skip
