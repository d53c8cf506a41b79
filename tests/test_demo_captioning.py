"""Captioning: the pictures, the nets in both forms, the scores, the demo, its exercise."""

import argparse
import csv
import io
import itertools
import json
import math
import unicodedata
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from demos import _glyphs, _pictures
from demos import _kit as kit
from demos import captioning as demo
from tests.runs import goes_on

pytest.importorskip("matplotlib")
VOCABULARY = kit.Vocabulary(["<end>", kit.UNKNOWN, "A", "B", "C"])


def run(out, *flags):
    return demo.main(["--quick", "--out", str(out), *map(str, flags)])


# ---- the demo ----


def test_a_quick_run_leaves_scores_captions_and_pictures(tmp_path, capsys):
    assert run(tmp_path, "--quiet") == 0
    table = capsys.readouterr().out
    assert all(name in table for name in [*demo.NETS, demo.NEIGHBOUR])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    scores = {line["name"]: line for line in lines if "name" in line}
    with (tmp_path / "captions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name, score in scores.items():
        exact = np.mean([row[name] == row["right"] for row in rows])
        assert score["exact"] == pytest.approx(exact)
    assert scores[demo.NEIGHBOUR]["word-F1"] > 0.5 and scores[demo.NEIGHBOUR]["a name"] == 1.0
    for name in ("captions.png", "begun.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def own(n=40, size=8, channels=()):
    """Arrays of an .npz of n pictures of stripes, with captions that tell where."""
    images = np.zeros((n, size, size, *channels), np.uint8)
    for i in range(n):
        images[i, i % size] = 255
    return {
        "images": images,
        "captions": np.array([f"A stripe in row {i % size}" for i in range(n)]),
        "parts": np.array([("train", "train", "dev", "test")[i % 4] for i in range(n)]),
    }


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_pictures_of_your_own(channels, tmp_path):
    path = npz(tmp_path / "own.npz", **own(channels=channels))
    assert run(tmp_path / "out", "--data", path, "--no-plot") == 0
    images, captions = _glyphs.read_captioned(path, 1).of("dev")
    assert images.shape == (10, 8, 8, *(channels or (1,))) and images.max() == 1.0
    assert captions[0] == ("A", "stripe", "in", "row", "2")


def test_the_test_part_has_no_part_in_any_choice(tmp_path):
    """What is told of each epoch is the same for two of them, of which one is of other captions."""
    found = []
    for change in (str, lambda caption: "row row row"):
        arrays = own()
        test = arrays["parts"] == "test"
        arrays["captions"][test] = [change(caption) for caption in arrays["captions"][test]]
        flags = ["--data", npz(tmp_path / "own.npz", **arrays), "--no-plot", "--epochs", 2]
        assert run(tmp_path / "out", *flags) == 0
        lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
        lines = [json.loads(line) for line in lines]
        epochs = [line for line in lines if "epoch" in line]
        scores = [line["word-F1"] for line in lines if "word-F1" in line]
        found.append((epochs, scores))
    (epochs, scores), (same, others) = found
    assert epochs == same and scores != others


def test_a_run_goes_on(tmp_path, capsys):
    flags = ["--data", npz(tmp_path / "own.npz", **own()), "--quiet", "--no-plot"]
    assert goes_on(run, tmp_path / "a", tmp_path / "b", 3, *flags)
    lines = capsys.readouterr().out.splitlines()
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]


@pytest.mark.parametrize(
    "change, told",
    [
        ({"images": None}, "images is no array"),
        ({"images": np.zeros((40, 8, 8))}, "images is float64"),
        ({"images": np.zeros((40, 8, 8), np.uint16)}, "uint16"),
        ({"images": np.zeros((40, 64), np.uint8)}, "images is uint8"),
        ({"images": np.zeros((40, 7, 8), np.uint8)}, "8 or more"),
        ({"images": np.zeros((39, 8, 8), np.uint8)}, "one caption"),
        ({"images": np.zeros((40, 8, 8, 0), np.uint8)}, "(40, 8, 8, 0)"),
        ({"captions": np.array(["A"] * 39 + [" "])}, "picture 39"),
        ({"captions": np.arange(40)}, "captions is int64"),
        ({"captions": np.array(["\ud800"] * 40)}, "captions are no text"),
        ({"captions": np.array(["A"] * 40, object)}, "pickle"),
        ({"parts": np.array(["train"] * 39 + ["valid"])}, "picture 39"),
        ({"parts": np.array(["train"] * 40)}, "in the part dev"),
    ],
)
def test_arrays_that_cannot_be_used_get_one_line(change, told, tmp_path, capsys):
    arrays = {name: x for name, x in (own() | change).items() if x is not None}
    path = npz(tmp_path / "own.npz", **arrays)
    assert run(tmp_path / "out", "--data", path) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and str(path) in err and told in err


def zipped(content):
    """The bytes of an archive with one file images.npy of that content."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", content)
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", zipped(b"no array")])
def test_files_that_are_no_archive_of_arrays_get_one_line(content, tmp_path, capsys):
    (tmp_path / "own.npz").write_bytes(content)
    assert run(tmp_path / "out", "--data", tmp_path / "own.npz") == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "own.npz" in err


def test_a_folder_without_fonts_or_with_something_else_gets_one_line(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "absent"):
        assert run(tmp_path / "out", "--data", path) == 1
        assert str(path) in capsys.readouterr().err
    (tmp_path / "a.ttf").write_bytes(b"no font")
    assert run(tmp_path / "out", "--data", tmp_path) == 1
    assert "a.ttf is not a font" in capsys.readouterr().err


# ---- the pictures ----


@pytest.fixture(scope="module")
def letters():
    return _glyphs.read_captioned(None, 2)


def test_captions_are_the_names_of_letters_that_have_only_words_of_several_names(letters):
    drawn = [_glyphs.drawn(font)[1] for font in _glyphs.dejavu()[:2]]
    names = set(drawn[0] + drawn[1])
    rare = {w for w in set().union(*names) if sum(w in name for name in names) < _glyphs.LEAST}
    assert set(letters.captions) == {name for name in names if not rare & set(name)} != names
    for caption in set(letters.captions):
        assert unicodedata.category(unicodedata.lookup(" ".join(caption))).startswith("L")
    assert len(letters.captions) == len(letters.images) > 2000


def test_no_caption_is_in_two_parts_and_the_parts_are_always_the_same(letters):
    parts = {part: set(letters.of(part)[1]) for part in _glyphs.PARTS}
    for a, b in itertools.combinations(parts.values(), 2):
        assert a and b and not a & b
    again = _glyphs.split(letters.captions[::-1])[::-1]
    np.testing.assert_array_equal(again, letters.parts)
    assert 0.7 < np.mean(letters.parts == "train") < 0.9


def test_the_pictures_show_the_letters(letters):
    """The ink of a letter with a mark above is that of the letter and more, higher up."""
    found = {name: image for image, name in zip(letters.images, letters.captions, strict=True)}
    plain, marked = (
        found[tuple(name.split())][..., 0]
        for name in ("LATIN SMALL LETTER O", "LATIN SMALL LETTER O WITH MACRON")
    )
    np.testing.assert_allclose(plain[8:], marked[8:], atol=0.3)
    assert plain[:5].sum() == 0.0 < marked[:8].sum() and plain[_glyphs.BASELINE + 2 :].sum() == 0.0


def test_dollar_signs_in_a_picture_are_no_mathematics(tmp_path):
    args = argparse.Namespace(out=tmp_path, quiet=True, no_plot=False, seed=0)
    words, image = ["$x^{$", "y"], np.zeros((8, 8, 1))
    with kit.Run(args) as run:
        _glyphs.gallery(run, "gallery", [image], [words])
        _pictures.heat_map(run, "map", np.eye(2), words, words, ("x", "y"), "weight")
    assert (tmp_path / "gallery.png").exists() and (tmp_path / "map.png").exists()


def test_the_fonts_of_a_folder_are_read_like_those_of_matplotlib(tmp_path):
    first = _glyphs.dejavu()[0]
    (tmp_path / "copy.ttf").write_bytes(first.read_bytes())
    a, b = _glyphs.read_captioned(tmp_path, 12), _glyphs.read_captioned(None, 1)
    np.testing.assert_array_equal(a.images, b.images)
    assert a.captions == b.captions


# ---- the net ----


def net(name, size=6, shape=(8, 9, 1)):
    tg.manual_seed(0)
    return demo.Captioner(shape, len(VOCABULARY), size, *demo.NETS[name], dropout=0.0)


def pictures(n, shape=(8, 9, 1), seed=0):
    return np.random.default_rng(seed).random((n, *shape)).astype(np.float32)


@given(st.integers(1, 7), st.integers(1, 7))
def test_windows_are_what_a_loop_takes(height, width):
    x = np.random.default_rng(height).random((2, height, width, 3))
    found = demo.windows(x)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    assert found.shape == (2, math.ceil(height / 2), math.ceil(width / 2), 27)
    for i, j in np.ndindex(found.shape[1:3]):
        window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        np.testing.assert_array_equal(found[:, i, j], window.reshape(2, -1))


@pytest.mark.parametrize("name", demo.NETS)
def test_the_loss_is_that_of_the_step_function_fed_each_caption_alone(name):
    model, images, ids = net(name), pictures(3), [[2, 3, 4, 2], [], [4]]
    total = 0.0
    for image, caption in zip(images, ids, strict=True):
        v = model.encode(image[None])
        state, word = (v, *model.first_state(v)), demo.END
        for next_word in [*caption, demo.END]:
            log_probs, state = model.step(np.array([word]), state)
            total -= log_probs.numpy()[0, next_word]
            word = next_word
    assert demo.loss_of(model, images, ids).item() == pytest.approx(total / 8, abs=1e-5)
    captions = [tuple(VOCABULARY.words[i] for i in caption) for caption in ids]
    part = demo.Pictures(images, captions, VOCABULARY)
    assert demo.nats(model, part) == pytest.approx(total / 3, abs=1e-5)


@pytest.mark.parametrize("name", demo.NETS)
def test_what_a_net_conditions_on(name):
    """Always on the picture, on earlier words only with y^{t-1}, and never on later ones."""
    model = net(name)

    def logits(images, words):
        v = model.encode(images)
        return model.decode(np.array([words]), v, model.first_state(v))[0].numpy()[0]

    before = logits(pictures(1), [0, 2, 3])
    assert (logits(pictures(1, seed=1), [0, 2, 3]) != before).any(axis=1).all()
    changed = (logits(pictures(1), [0, 4, 3]) != before).any(axis=1)
    assert changed.tolist() == ([False, True, True] if demo.NETS[name][1] else [False] * 3)


@pytest.mark.parametrize("name", demo.NETS)
def test_every_parameter_of_a_net_is_trained(name):
    model = net(name)
    demo.loss_of(model, pictures(3), [[2, 3], [4], [3, 3, 4]]).backward()
    unmoved = [n for n, p in model.named_parameters() if not np.abs(p.grad.numpy()).sum() > 0]
    assert not unmoved


def test_with_y_two_names_of_one_picture_are_kept_apart_without_they_are_mixed():
    """Trained on one picture with the names A A and B B, each net samples what theory says."""
    image, ids = pictures(1), [[2, 2], [3, 3]]
    shares = {}
    for name in demo.NETS:
        model = net(name, size=8)
        optimizer = tg.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(80):
            loss = demo.loss_of(model, np.repeat(image, 2, axis=0), ids)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        shares[name] = demo.share_sampled(
            model, np.repeat(image, 80, axis=0), [{("A", "A"), ("B", "B")}] * 80, VOCABULARY
        )
        floor = math.log(2) / 3 if demo.NETS[name][1] else 2 * math.log(2) / 3
        assert loss.item() == pytest.approx(floor, abs=0.02)
    for name, share in shares.items():
        assert share > 0.95 if demo.NETS[name][1] else share == pytest.approx(0.5, abs=0.1)


# ---- the scores ----

words = st.lists(st.sampled_from("ABC"), max_size=5).map(tuple)


@given(words, words.filter(len))
def test_word_f1_is_the_harmonic_mean_of_precision_and_recall(said, right):
    left, hits = list(right), 0
    for word in said:
        if word in left:
            left.remove(word)
            hits += 1
    expected = 0.0
    if hits:
        precision, recall = hits / len(said), hits / len(right)
        expected = 2 * precision * recall / (precision + recall)
    assert demo.word_f1(said, right) == pytest.approx(expected)


def test_captions_begin_names_up_to_the_word_that_no_name_has():
    names = {("A", "B"), ("A", "C", "C")}
    captions = [("A", "B"), ("A", "C"), ("B",), ("A", "B", "C")]
    found = demo.begun(captions, names, range(1, 5))
    np.testing.assert_array_equal(found, [3 / 4, 3 / 4, 1 / 4, 1 / 4])


def test_scores_of_captions():
    images = pictures(2)[[0, 0, 1, 1]]
    right = [("A", "B"), ("A", "C"), ("A", "B"), ("B",)]
    part = demo.Pictures(images, right, VOCABULARY)
    found = [("A", "B"), ("A", "B"), ("A", "C"), ("C",)]
    scores = demo.scores_of(found, part, demo.looks_of([part]), set(right))
    assert scores == {
        "word-F1": (1 + 1 / 2 + 1 / 2) / 4,
        "exact": 1 / 4,
        "fits": 1 / 2,
        "a name": 3 / 4,
    }


@given(st.integers(0, 99))
def test_the_nearest_neighbour_is_that_of_a_loop(seed):
    train = demo.Pictures(
        pictures(5, seed=seed), [("A",), ("B",), ("C",), (), ("A", "A")], VOCABULARY
    )
    asked = pictures(4, seed=seed + 100)
    for image, found in zip(asked, demo.nearest(train, asked), strict=True):
        distances = [((image - other) ** 2).sum() for other in train.images]
        assert found == train.captions[int(np.argmin(distances))]


def test_pictures_with_several_names():
    a, b, c = pictures(3)
    part = demo.Pictures(
        np.stack([a, b, a, c, b, b]), [("A",), ("B",), ("C",), ("A",), ("B",), ("B",)], VOCABULARY
    )
    images, names = demo.with_several(part, 9)
    np.testing.assert_array_equal(images, a[None])
    assert names == [{("A",), ("C",)}]


# ---- the exercise ----


def reference(names):
    """The probability that words taken at their places make one of the names."""
    total = 0.0
    for name in set(names):
        share = 1.0
        for t, word in enumerate((*name, "")):
            there = [(*other, "")[t] for other in names if len(other) >= t]
            share *= there.count(word) / len(there)
        total += share
    return total


independent = getattr(demo, "independent", reference)  # the learner's, once it is there


def test_independent_words_make_a_name_of_the_a_five_times_in_nine():
    names = ["LATIN CAPITAL LETTER A", "GREEK CAPITAL LETTER ALPHA", "CYRILLIC CAPITAL LETTER A"]
    assert independent([tuple(name.split()) for name in names]) == pytest.approx(5 / 9)


@given(st.lists(st.lists(st.sampled_from("AB"), max_size=3).map(tuple), min_size=1, max_size=4))
def test_independent_words_are_drawn_from_all_that_could_be_said(names):
    """By a walk through all sequences of words and ends."""

    def walk(so_far):
        there = [(*name, "")[len(so_far)] for name in names if len(name) >= len(so_far)]
        for word in set(there):
            share = there.count(word) / len(there)
            if not word:
                yield so_far, share
            else:
                for found, rest in walk((*so_far, word)):
                    yield found, share * rest

    sequences = list(walk(()))
    assert sum(share for _, share in sequences) == pytest.approx(1.0)
    expected = sum(share for found, share in sequences if found in names)
    assert independent(names) == pytest.approx(expected)
