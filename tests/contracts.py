"""The readers of the demos: how each is called, what it must keep, and small valid files for it."""

import io
import itertools
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import tinygrad_rnn as tg
from demos import (
    _brackets,
    _forests,
    _glyphs,
    _labelled,
    _parallel,
    _parses,
    _training,
    char_lm,
    expression_roles,
    identifier_roles,
    pos_tagging,
    recursive_nets,
    sequence_classification,
    translation,
    truncated_bptt,
    word_lm,
    word_vectors,
)
from demos import _kit as kit
from demos._trees import Tree, spans_of, structure_of, words_of

QUIET = SimpleNamespace(say=lambda *_: None, log=lambda **_: None)


def args(path, **settings):
    return SimpleNamespace(data=path, seed=0, quick=False, **settings)


def in_range(ids, size):
    ids = np.asarray(ids)
    assert ids.dtype.kind in "iu" and ids.ndim == 1
    assert not ids.size or (ids.min() >= 0 and ids.max() < size)


def are_words(words):
    assert all(isinstance(word, str) and word for word in words)
    "".join(words).encode()  # no half characters


# ---- plain text ----

PLAIN = "The cat sat on the mat.\nA dog saw it, and ran.\n\nThe cat did not see the dog.\n" * 3


def check_text(text):
    assert text.strip() and not {"\r", "\0"} & set(text)
    text.encode()


def read_characters(path):
    return char_lm.read(args(path, batch_size=2, bptt=4, prime=None), QUIET)


def check_characters(found):
    chars, train, valid, prime = found
    assert chars == sorted(set(chars)) and len(train) > 8 and len(valid) >= 4 and len(prime)
    in_range(np.concatenate([train, valid, prime]), len(chars))
    text = "".join(chars[i] for i in np.concatenate([train, valid])[:1000])
    assert [chars[i] for i in prime] == list(text[:20])


def read_task(path):
    task = truncated_bptt.next_character(truncated_bptt.read(path, 8), 3)
    return task, task.draw(np.random.default_rng(0), 8)


def check_task(found):
    task, (xs, ys) = found
    assert xs.shape == (8, 3, task.symbols) and (xs.sum(axis=-1) == 1).all()
    in_range(ys.ravel(), task.symbols)
    assert (ys[:-1] == xs[1:].argmax(axis=-1)).all()
    assert 0 < task.guess <= np.log(task.symbols) * (1 + 1e-12)


def read_words(path):
    settings = args(path, words=50, batch_size=2)
    parts, least = word_lm.read(settings)
    return parts, *word_lm.encoded(parts, least, settings)


def check_words(found):
    parts, vocabulary, ids = found
    for words, own in zip(parts, ids, strict=True):
        assert len(words) == len(own) >= 1
        are_words(words[:1000])
        in_range(own, len(vocabulary))
        assert not any(set(" \n") & set(word) for word in words[:1000])


def read_company(path):
    settings = args(path, twins=5, fewest=1, words=60)
    return word_vectors.read(settings, np.random.default_rng(0))


def check_company(found):
    ids, number, counts, twins = found
    assert len(number) == len(counts) and (counts > 0).all()
    in_range(ids, len(number))
    in_range(twins.ravel(), len(number))
    assert (np.bincount(ids, minlength=len(counts)) == counts).all()


COMPANY = " ".join(f"{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(56)) + "\n"

# ---- trees ----

SST = "(3 (2 It) (4 works))\n(1 (1 (2 not) (3 (2 very) (3 good))) (2 .))\n(0 bad)\n" * 4
PTB = """(ROOT (S (NP-SBJ=2 (DT The) (NN cat)) (VP (VBD sat) (ADVP-TMP (RB then))) (. .)))
( (S (NP (PRP It)) (VP (VBZ works))))
(NP (NP (NN cat)) (-LRB- -LRB-) (NP-X (NN dog)))
"""


def check_tree(tree):
    assert isinstance(tree, Tree) and len(tree.labels) == len(tree.postfix)
    are_words(words_of(tree.postfix))
    assert isinstance(tree.label, str)
    assert {type(label) for label in tree.labels} <= {str, type(None)}
    spans = spans_of(tree.postfix)
    assert spans[-1] == (0, len(words_of(tree.postfix)) - 1)
    assert structure_of(tree.postfix).root == len(spans) - 1


def read_roles(path):
    return expression_roles.read_and_split(args(path, trees=100), QUIET)


def check_roles(found):
    train, test, roles = found
    assert len(roles) > 1 and train and test
    for tree in [*train, *test][:50]:
        check_tree(tree)
        assert tree.label in roles
    in_range(expression_roles.encoded(train, {}, roles)[1], len(roles))


def read_forests(path):
    parts = _forests.read_parts(path, 50, np.random.default_rng(0))
    reader = _forests.Reader.of(parts["train"])
    return reader, parts, {k: _forests.joined(map(reader.read, v)) for k, v in parts.items()}


def check_forests(found):
    reader, parts, forests = found
    for part, forest in forests.items():
        for tree in parts[part]:
            check_tree(tree)
        assert len(forest.structure) == len(forest.labels)
        assert len(forest.structure.leaves) == len(forest.words) == len(forest.pieces)
        in_range(forest.words, len(reader.words))
        in_range(forest.pieces.ravel(), len(reader.pieces))
        in_range(forest.labels + 1, len(reader.labels) + 2)


def check_treebank(parts):
    assert len(parts) == 3 and all(parts)
    for example in itertools.chain(*(part[:20] for part in parts)):
        tree = _brackets.tree_of(example.target)
        assert _brackets.linearised(tree) == example.target
        words = [node.label for node in tree if node.children is None]
        assert words == [_brackets.WORD] * len(words)
        assert example.words == (len(words),) and len(words) == len(example.source) - 1 <= 9
        are_words(example.source)


# ---- programs ----


def program(number):
    """A Python file with a few of the expressions of some names and signs."""
    signs = list(itertools.product("+-*@", repeat=3))[number::10]
    lines = [f"x = a{p}b{q}(c{r}d)\nif f(a{p}b): y.z = a{q}b{r}x\n" for p, q, r in signs]
    return "".join(lines).encode()


PROGRAMS = {f"{name}.py": program(i) for i, name in enumerate("abcdefghij")}


def check_pairs(found):
    for pair in itertools.chain(*(part[:20] for part in found)):
        assert 0 < len(pair.source) <= 12 and pair.target
        are_words(pair.source)
        tree = _brackets.tree_of(pair.target)
        assert _brackets.linearised(tree) == pair.target
        assert _parses.target_of(pair.source) == pair.target
    assert not {p.source for p in found[0]} & {p.source for p in found[1]}


# ---- tagged words ----

CONLLU = "".join(
    f"# text = {i}\n1-2\tit's\t_\t_\t_\t_\t_\t_\t_\t_\n"
    + "".join(
        f"{n}\t{form}{i % 3}\t_\t{tag}\t_\t_\t_\t_\t_\t_\n"
        for n, (form, tag) in enumerate([("it", "PRON"), ("Is", "AUX"), ("Ok", "ADJ")], 1)
    )
    + "3.1\te\t_\t_\t_\t_\t_\t_\t_\t_\n\n"
    for i in range(12)
).encode()


def read_tags(path):
    return pos_tagging.read(args(path, lines=50, held_out=50), QUIET)


def check_tags(found):
    data, forms, tags = found
    for part in data.values():
        assert len(part.x) == len(part.y) == len(part.counts) >= 1
        for x, y, counts in zip(*part, strict=True):
            assert len(x) == len(y) == len(counts) >= 1
            in_range(x, len(forms.numbers))
            in_range(y, len(tags) + 1)
    in_range(forms.word, forms.words)
    in_range(forms.spelling.ravel(), forms.letters)
    in_range(forms.case, 16)


def read_identifiers(path):
    return identifier_roles.read_and_split(args(path, lines=50, vocabulary=20), QUIET)


def check_identifiers(found):
    *parts, words, tags = found
    for x, y in parts:
        assert len(x) == len(y) >= 1
        for a, b in zip(x, y, strict=True):
            assert len(a) == len(b) >= 1
            in_range(a, words)
            in_range(b + 1, tags + 2)


# ---- labelled texts ----

TABBED = "".join(f"{'AB'[i % 2]}\tword {i} and {i * i}\n" for i in range(60)).encode()
TREC = "".join(f"{('HUM', 'LOC')[i % 2]}:ind Who {i} ?\n" for i in range(30)).encode()


def read_labelled(path):
    sets = _labelled.read_sets(path)
    encoder = sequence_classification.Encoder(sets.train, sequence_classification.of_words, 2)
    return encoder, sets, [encoder(some) for some in sets]


def check_labelled(found):
    encoder, sets, encoded = found
    for some, (x, y) in zip(sets, encoded, strict=True):
        assert len(some) == len(x) == len(y) >= 1
        in_range(y, len(encoder.labels))
        for text, ids in zip(some, x, strict=True):
            are_words([text.label, *text.words])
            assert len(ids) == len(text.words) >= 1
            in_range(ids.ravel(), len(encoder.vocabulary))
        assert not any(set(" \t\n") & set(word) for text in some for word in text.words)


# ---- parallel texts ----

ENGLISH = b"a cat sat\nthe dog ran\nit did not\n"
GERMAN = "eine Katze saß\nder Hund lief\nes tat nicht\n".encode()
PAIRS = {f"{part}.{language}": text for part in ("train", "val", "test")
         for language, text in (("en", ENGLISH), ("de", GERMAN))}  # fmt: skip


def read_translations(pieces):
    settings = {"languages": ["en", "de"], "test": "test", "pieces": pieces}
    return lambda path: translation.read(args(path, **settings))


def check_translations(corpus):
    for part, pairs in corpus.words.items():
        assert len(pairs) == len(corpus.ids[part]) >= 1
        for pair, ids in zip(pairs, corpus.ids[part], strict=True):
            for words, own, language in zip(pair, ids, corpus.languages, strict=True):
                are_words(words)
                in_range(own, len(language))
                assert 1 <= len(words) <= _parallel.LONGEST and own
                assert len(own) == len(words) or language.cutter


# ---- pictures ----


def archive(**change):
    arrays = {
        "images": np.arange(40 * 64).reshape(40, 8, 8).astype(np.uint8),
        "captions": np.array(["A CAT", "A DOG"] * 20),
        "parts": np.array(["train"] * 20 + ["dev", "test"] * 10),
    }
    file = io.BytesIO()
    np.savez_compressed(file, **arrays | change)
    return file.getvalue()


def a_font():
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSansMono.ttf")
    return path.read_bytes()


def check_pictures(found):
    assert found.images.ndim == 4 and found.images.dtype == np.float32
    assert len(found.images) == len(found.captions) == len(found.parts) >= 3
    assert found.images.min() >= 0 and found.images.max() <= 1
    for caption in found.captions:
        are_words(caption)
    for part in _glyphs.PARTS:
        assert len(found.of(part)[0]) == len(found.of(part)[1]) >= 1


# ---- what a run has left, or somebody has made to look like it ----

EPOCHS = [{"label": "training", "epoch": i, "loss": 1.0 / i, "validation": None} for i in (1, 2, 3)]
METRICS = "".join(json.dumps(line) + "\n" for line in [{"settings": {}}, *EPOCHS]).encode()


def read_epochs(path):
    return kit.Run.epochs(SimpleNamespace(out=path), "training")


def check_epochs(lines):
    for line in lines:
        assert float(line["loss"]) is not None and isinstance(line["epoch"], int)
        assert line["validation"] is None or -line["validation"] is not None


def saved(arrays, metadata):
    """The bytes of a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.npz")
        tg.save(path, arrays, metadata)
        return path.read_bytes()


def a_net():
    tg.manual_seed(0)
    return recursive_nets.RecursiveNet(3, 2, 5, "RecNN", 4, 0.0)


VOCABULARY = {
    "words": [kit.UNKNOWN, "it", "is"],
    "pieces": [kit.UNKNOWN, "^it"],
    "labels": list("01234"),
}
KNOWN = {"vocabulary": VOCABULARY}


def read_net(path):
    reader, net = recursive_nets.saved_net(path, args(path, cells=["RecNN"], dropout=0.0))
    tree = Tree([None, None, "1"], ["It", "is", None], "")
    return reader, _forests.predictions(net, [reader.read(tree)])


def check_net(found):
    reader, (p, labels, roots) = found
    assert p.shape == (3, len(reader.labels)) and len(labels) == len(roots) == 3
    assert not np.isfinite(p).all() or np.allclose(p.sum(axis=1), 1)


def read_start(path):
    net = a_net()
    _training.start_from(net, SimpleNamespace(init_from=path), {"words": VOCABULARY["words"]})
    return net


def check_start(net):
    assert net.state_dict().keys() == a_net().state_dict().keys()
    assert all(x.shape == a_net().state_dict()[name].shape for name, x in net.state_dict().items())


ARRAYS = a_net().state_dict()
STARTED = {"vocabulary": {"words": VOCABULARY["words"]}}
LOADED = (kit.DataError, tg.CheckpointError)
