"""Parallel text: two files aligned by line, or what Unicode's CLDR writes in two languages.

A pair is (source words, target words).
"""

import io
import random
import re
from datetime import date, timedelta
from functools import cache

from demos import _kit as kit

BLANK = "\u2581"  # how sentencepiece writes the blank before a word

PADDING, END = 0, 1  # ids; END also starts every target
SPECIAL = ("<no word>", "<end of sentence>", kit.UNKNOWN)  # two hold blanks, as no word can
LONGEST = 250  # words of a line: beyond that no sentence, and more than memory may hold


# ---- files ----


def read_pairs(folder, part, languages):
    """The pairs of the two files of `folder` whose names are `part`*.`language`."""
    paths = [the_file(folder, part, language) for language in languages]
    source, target = (read_lines(path) for path in paths)
    if len(source) != len(target):
        raise kit.DataError(
            f"{paths[0]} has {len(source):,} lines and {paths[1]} {len(target):,}; expected: line i"
            " of one is the translation of line i of the other; give them equal numbers"
        )
    return list(zip(source, target, strict=True))


def the_file(folder, part, language):
    """The path of the one file of this part and language."""
    files = folder.iterdir() if folder.is_dir() else ()  # no pattern: the user may have said "**"
    found = [p for p in files if p.name.startswith(part) and p.name.endswith(f".{language}")]
    if len(found) != 1:
        names = kit.shown(", ".join(sorted(path.name for path in found)) or "none", 200)
        raise kit.DataError(
            f"{folder}: files {names}; expected: one file {part}*.{language}; rename or add it"
        )
    return found[0]


def read_lines(path):
    """The words of every line of a file."""
    lines = kit.read_text(path).removesuffix("\n").split("\n")
    for number, line in enumerate(lines, 1):
        if not 0 < len(line.split()) <= LONGEST:
            raise kit.DataError(
                f"{path}, line {number}: {len(line.split())} words; expected: 1 to {LONGEST}"
                " separated by blanks; leave the line out, in the file of both languages"
            )
    return [line.split() for line in lines]


# ---- words and ids ----


class Language:
    """One side of the pairs: its words, cut into pieces or whole, and their ids."""

    def __init__(self, sentences, pieces=0):
        self.cutter = byte_pairs(sentences, pieces) if pieces else None
        self.vocabulary = kit.vocabulary([self.cut(words) for words in sentences], SPECIAL, least=2)

    def __len__(self):
        return len(self.vocabulary)

    def cut(self, words):
        """The pieces of these words."""
        return self.cutter.encode(" ".join(words), out_type=str) if self.cutter else words

    def encode(self, words):
        """The ids of the pieces of these words."""
        return self.vocabulary.encode(self.cut(words)).tolist()

    def pieces(self, ids):
        """The pieces that have these ids."""
        return [self.vocabulary.words[i] for i in ids]

    def words(self, ids):
        """The words that these pieces make."""
        pieces = self.pieces(ids)
        return "".join(pieces).replace(BLANK, " ").split() if self.cutter else pieces


def byte_pairs(sentences, size):
    """What cuts words into pieces: letters, and pairs of pieces that are frequent side by side."""
    try:
        import sentencepiece
    except ImportError:
        raise kit.DataError(
            "--pieces needs sentencepiece: pip install 'tinygrad_rnn[demos]'"
        ) from None
    learned = io.BytesIO()
    settings = {"model_type": "bpe", "normalization_rule_name": "identity", "minloglevel": 2}
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=map(" ".join, sentences),
            model_writer=learned,
            vocab_size=size,
            character_coverage=1.0,
            **settings,
        )
    except (RuntimeError, ValueError) as error:
        raise kit.DataError(
            f"--pieces {size}: no {size} pieces can be made of these words:"
            f" {kit.shown(str(error), 300)}; expected: more than there are letters, fewer than"
            " there are parts of words"
        ) from None
    return sentencepiece.SentencePieceProcessor(model_proto=learned.getvalue())


class Corpus:
    """Pairs of words, {part: [(source, target)]}, the same pairs as ids, and the two languages."""

    def __init__(self, words, pieces=0):
        self.words = words
        self.languages = [Language([pair[k] for pair in words["train"]], pieces) for k in (0, 1)]
        self.ids = {part: [self.encode(pair) for pair in own] for part, own in words.items()}
        sides = zip(("source's words", "target's words"), self.languages, strict=True)
        self.vocabulary = {what: side.vocabulary.words for what, side in sides}

    def encode(self, pair):
        """A pair of words as a pair of ids."""
        return tuple([one.encode(side) for one, side in zip(self.languages, pair, strict=True)])

    def describe(self, say):
        """Say how much there is of each part, and how many of its sources training has, too."""
        known = {tuple(source) for source, _ in self.words["train"]}
        for part, own in self.words.items():
            count = [f"{sum(len(pair[k]) for pair in own):,}" for k in (0, 1)]
            met = sum(tuple(source) in known for source, _ in own)
            again = f"; training has {met:,} of the sources" if part != "train" else ""
            say(f"{part}: {len(own):,} pairs of {count[0]} and {count[1]} words{again}")
        say("vocabularies: {:,} and {:,}".format(*map(len, self.languages)))


# ---- CLDR ----


def cldr_pairs(count, most, seed):
    """`count` lists of 1 to `most` things, each list once, as CLDR puts them in either language."""
    try:
        import babel
        from babel import lists
    except ImportError:
        raise kit.DataError(
            "the default data are made by Babel: pip install 'tinygrad_rnn[demos]', or give --data"
        ) from None
    locales, rng, pairs = [babel.Locale("en"), babel.Locale("de")], random.Random(seed), {}
    while len(pairs) < count:
        things = [rng.choice(KINDS)(rng, locales) for _ in range(rng.randint(1, most))]
        style = rng.choice(["standard", "or"])
        source, target = (
            words(lists.format_list(side, style, locale))
            for side, locale in zip(zip(*things, strict=True), locales, strict=True)
        )
        pairs[tuple(source)] = target
    return [(list(source), target) for source, target in pairs.items()]


def words(text):
    """Lower-cased words, numbers and signs."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def a_date(rng, locales):
    """A date in full, say "Thursday, November 26, 2026", in each language."""
    from babel.dates import format_date

    day, style = date(1990, 1, 1) + timedelta(rng.randrange(20000)), rng.choice(["full", "long"])
    return [format_date(day, style, locale) for locale in locales]


def a_distance_in_time(rng, locales):
    """Something like "3 hours ago" or "in 2 weeks"."""
    from babel.dates import format_timedelta

    unit, seconds = rng.choice([("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400)])
    delta = timedelta(seconds=rng.choice([-1, 1]) * seconds * rng.randrange(1, 60))
    how = {"granularity": unit, "threshold": 1e9, "add_direction": True}
    return [format_timedelta(delta, locale=locale, **how) for locale in locales]


def a_measure(rng, locales):
    """A number of one of the units, say "12 kilometers"."""
    from babel.units import format_unit

    unit = rng.choice(shared("unit_display_names", *locales))
    number = rng.randrange(2, 60)
    return [format_unit(number, unit, locale=locale) for locale in locales]


def a_territory(rng, locales):
    """The name of a country or a continent."""
    code = rng.choice(shared("territories", *locales))
    return [locale.territories[code] for locale in locales]


@cache
def shared(table, one, other):
    """What has a name in this table of both locales."""
    return sorted(getattr(one, table).keys() & getattr(other, table).keys())


KINDS = [a_date, a_distance_in_time, a_measure, a_territory]
