"""The benchmark data that `python -m demos fetch` downloads: from where, and what must arrive.

Sizes and checksums were computed from copies of these repositories.  No network was at hand when
this was written: none of these addresses has been asked yet, and `tried` says so.
"""

import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import NamedTuple

HOST = "raw.githubusercontent.com"
MB = 2**20


class File(NamedTuple):
    """A file to be written, pinned by its checksum; `path` is where its repository has it."""

    sha256: str
    size: int
    name: str
    path: str


def files(table):
    """The files in a table of their four fields, separated by blanks."""
    rows = zip(*[iter(table.split())] * 4, strict=True)
    return tuple(File(sha256, int(size), name, path) for sha256, size, name, path in rows)


# ---- from the answer of a server to the file ----


def unchanged(answer, file):
    """The answer itself."""
    return answer


def beginning(answer, file):
    """As many bytes of the answer as the file has."""
    return answer[: file.size]


def member(answer, file):
    """A file out of a zip archive, in whichever folder there; it is read, not extracted.

    `file.path` is ARCHIVE!NAME.  ValueError if the archive has no such file, or cannot be read.
    """
    name = file.path.partition("!")[2]
    try:
        with zipfile.ZipFile(io.BytesIO(answer)) as archive:
            found = [x for x in archive.infolist() if PurePosixPath(x.filename).name == name]
            if len(found) != 1:
                raise ValueError(f"the archive has {len(found)} files {name}, expected 1")
            with archive.open(found[0]) as opened:
                return opened.read(file.size + 1)  # one byte more than right tells of any more
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"the archive cannot be read: {error!s:.100}") from error


def words_tags_heads(answer, file):
    """CoNLL-U without comments, ranges and empty nodes, all columns but these set to `_`."""
    lines = []
    for line in answer.split(b"\n"):
        fields = line.split(b"\t")
        if line.startswith(b"#") or b"-" in fields[0] or b"." in fields[0]:
            continue
        if len(fields) == 10:
            fields[2] = fields[5] = fields[8] = fields[9] = b"_"
        lines.append(b"\t".join(fields))
    return b"\n".join(lines)


# ---- what there is ----


class Data(NamedTuple):
    """Files out of one repository at one commit, and what their users must know."""

    what: str
    demos: str  # that read it
    licence: str
    cite: str
    repository: str
    commit: str
    files: tuple
    make: Callable = unchanged
    most: int = 0  # bytes of an answer; 0: as many as the file has
    tried: bool = False  # whether this download has ever been seen to work

    @property
    def size(self):
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def url(self, file):
        """The address to ask for a file: that of one commit, so that it never changes."""
        return f"https://{HOST}/{self.repository}/{self.commit}/{file.path.partition('!')[0]}"


NLTK = ("nltk/nltk_data", "5db857e6f7df11eabb5e5665836db9ec8df07e28")

DATA = {
    "shakespeare": Data(
        "Tiny Shakespeare, 1.1 million characters",
        "char_lm, truncated_bptt",
        "public domain; the repository says MIT",
        "Karpathy 2015, The Unreasonable Effectiveness of Recurrent Neural Networks",
        "karpathy/char-rnn",
        "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e",
        files("""
            86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed
            1115394 tinyshakespeare.txt data/tinyshakespeare/input.txt
        """),
    ),
    "trec": Data(
        "TREC questions, 5,452 and 500, in six classes",
        "sequence_classification",
        "none stated, offered for experiments",
        "Li and Roth 2002, Learning Question Classifiers",
        *NLTK,
        files("""
            9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3
            335858 trec.train.txt packages/corpora/qc.zip!train.txt
            033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e
            23354 trec.test.txt packages/corpora/qc.zip!test.txt
        """),
        member,
        most=4 * MB,
    ),
    "polarity": Data(
        "Sentence polarity, 2 x 5,331 snippets of film reviews",
        "sequence_classification",
        "CC BY 4.0",
        "Bo Pang and Lillian Lee 2005, Seeing stars",
        *NLTK,
        files("""
            c2dc6b2f55bcf725725372916287cc3f8f9b19402edaa9167de5287cb3ade421
            626334 rt-polarity.pos packages/corpora/sentence_polarity.zip!rt-polarity.pos
            614274f81185a850e5a88d533d4679f916d6f62e9af6f0b4ec71fb94bf466ea5
            612441 rt-polarity.neg packages/corpora/sentence_polarity.zip!rt-polarity.neg
        """),
        member,
        most=4 * MB,
    ),
    # In this repository the trees of dev.txt stand behind those of train.txt once more.
    "sst": Data(
        "Stanford Sentiment Treebank, 8,544, 1,101 and 2,210 trees",
        "recursive_nets, sequence_classification",
        "none stated, customary for research",
        "Socher et al. 2013, Recursive Deep Models for Semantic Compositionality",
        "munikarmanish/RNTN",
        "12bb731ba9fbdcdf2368b8515a241773f2b97547",
        files("""
            e2f3f41b0b1e6d4dddc0effe3bfc2d27ed8928079aa9a03d652311614fc5feb7
            2160058 train.txt trees/train.txt
            0e9336aed6e4730e19f58d00a77b3f0297efdb755f7b5e598c98a05e3f97ea40
            280825 dev.txt trees/dev.txt
            6e54806dee95cf80cd918e7dfb3f6770f6df24bf826f289a4d1f709e1c8f6761
            559614 test.txt trees/test.txt
        """),
        beginning,
        most=4 * MB,
    ),
    "multi30k": Data(
        "Multi30k, English and German, 29,000, 1,014 and 1,000 pairs",
        "translation",
        "CC BY-NC-SA 4.0 for the text: not commercial",
        "Elliott, Frank, Sima'an and Specia 2016, Multi30K",
        "multi30k/dataset",
        "a3d2e0d26b56f3846f66a952536ffed4e401d05a",
        files("""
            08925f8e0572bcd5a006702fc5fe20e2d77c6917d4eebd576fc20de6693c2119
            1837696 train.lc.norm.tok.en data/task1/tok/train.lc.norm.tok.en
            cb5a23529b65ec2061f1dc446192a9c37382b63cc75f81a0be59d34894b3a505
            2150008 train.lc.norm.tok.de data/task1/tok/train.lc.norm.tok.de
            46573ce391ae227f1c72f873392436a20ef18e0a6d518098cfbd70b77c8572ec
            64608 val.lc.norm.tok.en data/task1/tok/val.lc.norm.tok.en
            97232bd273eceb7207f689527386a97e4be2616b18ada47576bdaf96c8ae1f00
            77273 val.lc.norm.tok.de data/task1/tok/val.lc.norm.tok.de
            5b7f32627cf99eced828311b955dae9800bb52bc8b91cf8b6526829e605b29d2
            63307 test_2016_flickr.lc.norm.tok.en data/task1/tok/test_2016_flickr.lc.norm.tok.en
            c6a33d39d48f9f510de147651316cd9d918e09ad0219df734a2f16b6baccacc4
            71917 test_2016_flickr.lc.norm.tok.de data/task1/tok/test_2016_flickr.lc.norm.tok.de
        """),
    ),
    "ewt": Data(
        "UD English Web Treebank, 12,544, 2,001 and 2,077 sentences (words, tags, heads)",
        "pos_tagging",
        "CC BY-SA 4.0 for the annotations; the texts remain with their owners",
        "Silveira et al. 2014, A Gold Standard Dependency Corpus for English",
        "UniversalDependencies/UD_English-EWT",
        "15d613d8447b3478787d4c278730a1e48a945efb",
        files("""
            2fc33f5eecf4115bce06145a3a3f652e3c7449860ca2e5119261ad7459489e05
            6528052 en_ewt-train.conllu en_ewt-ud-train.conllu
            ae03ea4dbc2b306a9ea74b7d75ccd526fd0ebc2ce3998375a2d1709beb68cc75
            800308 en_ewt-dev.conllu en_ewt-ud-dev.conllu
            0ddbd2e83912b1572111bfcd77ae76c40a4af7cf29a615b3d6e0af8b1ef6b693
            797969 en_ewt-test.conllu en_ewt-ud-test.conllu
        """),
        words_tags_heads,
        most=16 * MB,
    ),
}
LEFT_OUT = (
    "GUM's constituency trees (parsing): six of its genres, each tree put on a line, are no file of"
    " its repository (amir-zeldes/gum)."
)
