"""Names of territories, languages and currencies in languages of Latin script, out of Babel's CLDR.

    Deutschland  de     Saksa  fi     Almanya  tr     Njemačka  hr

A name that several of these languages share is left out.  All names of one thing, whatever the
language, are in one part: a net that is asked about Saksa has not been trained on Deutschland.
"""

import collections
import hashlib

from demos import _kit as kit
from demos._labelled import Labelled, Sets

FEW = "da de en es fi fr hu it nl pl pt sv".split()  # what a net learns in seconds
MANY = """
    af az ca cs cy da de en es et eu fi fr ga hr hu id is it lt lv nl pl pt ro sk sl sv sw tr
""".split()
KINDS = ("territories", "languages", "currencies")


def names(languages=FEW):
    """The names of every thing that CLDR has a name for: {(kind, code): {language: name}}."""
    try:
        from babel import Locale
    except ImportError:
        raise kit.DataError(
            "the names of languages need Babel: pip install 'tinygrad_rnn[demos]', or give --data"
        ) from None
    found = collections.defaultdict(dict)
    for language in languages:
        for kind in KINDS:
            for code, name in getattr(Locale.parse(language), kind).items():
                if "(" not in name:  # years, mostly, of a currency
                    found[kind, code][language] = name
    return found


def of_one_language(found):
    """The same without names that two of the languages have in common, for one thing or for two."""
    speakers = collections.defaultdict(set)
    for named in found.values():
        for language, name in named.items():
            speakers[name.casefold()].add(language)
    return {
        key: {lang: name for lang, name in named.items() if len(speakers[name.casefold()]) == 1}
        for key, named in found.items()
    }


def read_names(languages=FEW):
    """The names as characters, with their language, split by a hash of what they name: `Sets`."""
    sets = Sets([], [], [])
    for (kind, code), named in sorted(of_one_language(names(languages)).items()):
        share = int(hashlib.sha256(f"{kind} {code}".encode()).hexdigest(), 16) % 10
        part = {0: sets.test, 1: sets.dev}.get(share, sets.train)
        part += [Labelled(language, tuple(name)) for language, name in named.items()]
    return sets
