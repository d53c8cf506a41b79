"""Every demo that trains a net, in small: on a device it logs what it logs on the host.

Data and sizes are so small that an emulated device takes a second or two for each.  Weights are not
compared: where a gradient is 0 but for rounding, a step of Adam goes as far as anywhere else, and
what a net says does not depend on it.  So losses and figures are compared, after some steps each of
which began from rounding of its own.
"""

import importlib
import json
from contextlib import nullcontext

import numpy as np
import pytest

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training
from tinygrad_rnn import backend

from .tiers import Costs

OF_MACHINE = {"settings", "minutes", "cores", "seconds", "milliseconds", "times_as_fast", "bytes"}
OF_MACHINE |= {"claims"}  # some are of times; the figures that the others rest on are compared
MANY_LAUNCHES = {"rnn_vs_cnn", "truncated_bptt"}  # more than 20,000
STOPPED = 9  # the step in which a run of some 14 steps an epoch is stopped
WITHIN = 1e-3  # relative, and absolute; float32 rounds to 1e-7, and training may multiply that


# ---- data --------------------------------------------------------------------------------------


def text(folder):
    """A text of 65 words, again and again, in any order."""
    words = [a + b + c for a in "bdgkl" for b in "aiu" for c in ("n", "s", "m", "ra", "")][:65]
    drawn = np.random.default_rng(0).choice(words, 900)
    path = folder / "text.txt"
    path.write_text("\n\n".join(" ".join(drawn[i : i + 20]) for i in range(0, 900, 20)))
    return path


def code(folder):
    """Python files whose names stand behind and before operators, in expressions of any shape."""
    path = folder / "code"
    path.mkdir()
    names, rng = "alpha beta gamma delta".split(), np.random.default_rng(0)

    def expression(depth):
        if depth == 0:
            return str(rng.choice(names))
        parts = [expression(rng.integers(depth)) for _ in range(2)]
        return str(rng.choice(["{} + {}", "-{} * {}", "{}({})", "({}) * {}"])).format(*parts)

    for n in range(10):
        a, b, c = (names[(n + k) % 4] for k in range(3))
        lines = [f"import {a}", f"{b} = {a}.{c}({n})", f"if {b} > {c}:", f"    return_{a} = -{b}"]
        lines += [f"def {c}({a}):", f"    return {a} + {b}[{n}]", f"assert {a}({b}, {c})"]
        lines += [f"{c} = {expression(3)}" for _ in range(12)]
        (path / f"{a}_{n}.py").write_text("\n".join(lines) + "\n")
    return path


def trees(folder):
    """A treebank of two labels, in three parts."""
    path = folder / "trees"
    path.mkdir()
    for seed, part in enumerate(("train", "dev", "test")):
        rng, lines = np.random.default_rng(seed), []
        for _ in range(12):
            words = rng.choice(["good", "bad", "film", "plot"], 4)
            label = int("good" in words)
            a, b, c, d = (f"({int(word == 'good')} {word})" for word in words)
            lines.append(f"({label} ({label} {a} {b}) ({label} {c} {d}))")
        (path / f"{part}.txt").write_text("\n".join(lines) + "\n")
    return path


def bracketed(folder):
    """One file of a treebank."""
    return trees(folder) / "train.txt"


def conllu(folder):
    """Sentences in which the word behind tells the tag, as CoNLL-U."""
    path = folder / "conllu"
    path.mkdir()
    slide = ["the/DET man/NOUN was/AUX entertaining/VERB us/PRON"]
    slide += ["the/DET man/NOUN was/AUX entertaining/ADJ and/CCONJ old/ADJ", "yes/INTJ"]
    for part, copies in (("train", 4), ("dev", 1), ("test", 2)):
        out = ""
        for sentence in slide * copies:
            for i, pair in enumerate(sentence.split(), 1):
                word, tag = pair.split("/")
                out += f"{i}\t{word}\t{word}\t{tag}" + "\t_" * 6 + "\n"
            out += "\n"
        (path / f"xx-ud-{part}.conllu").write_text(out)
    return path


def pictures(folder):
    """Stripes, with captions that tell where they are."""
    images = np.zeros((24, 8, 8), np.uint8)
    images[np.arange(24), np.arange(24) % 8] = 255
    captions = [
        f"STRIPE {'TOP' if i % 8 < 4 else 'LOW'} {'ODD' if i % 2 else 'EVEN'}" for i in range(24)
    ]
    parts = ["train"] * 16 + ["dev"] * 4 + ["test"] * 4
    path = folder / "pictures.npz"
    np.savez(path, images=images, captions=captions, parts=parts)
    return path


def labelled(folder):
    """Texts, a label before each."""
    path = folder / "labelled.tsv"
    lines = [f"{label}\t{word} is thing {i}" for i in range(40) for label, word in ("Aa", "Bb")]
    path.write_text("\n".join(lines) + "\n")
    return path


def parallel(folder):
    """Pairs of lines: the translation of a word is the word in capitals."""
    path = folder / "parallel"
    path.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 32), ("val", 4), ("test", 4)):
        lines = [" ".join(rng.choice(["a", "man", "dogs", "eat"], 3)) for _ in range(count)]
        (path / f"{part}.en").write_text("\n".join(lines) + "\n")
        (path / f"{part}.de").write_text("\n".join(line.upper() for line in lines) + "\n")
    return path


SMALL = {  # what is read, and the sizes
    "word_vectors": (text, "--dim 8 --fewest 2 --epochs 1 --twins 4 --window 2 --negatives 2"),
    "word_lm": (text, "--words 20 --hidden-size 4 --bptt 8 --batch-size 8 --epochs 2"),
    "char_lm": (text, "--hidden-size 6 --bptt 16 --batch-size 16 --epochs 2 --sample 5"),
    "rnn_vs_cnn": (None, "--quick --hidden-size 4 --delay 4 --batch-size 8"),
    "output_recurrence": (None, "--values 2 --length 4 --batch-size 8 --steps 5 --hidden-size 4"),
    "teacher_forcing": (None, "--length 6 --test-length 6 --hidden-size 4 --steps 5"),
    "truncated_bptt": (None, "--quick --delay 1 --hidden-size 4"),
    "vanishing_gradients": (None, "--T 5 --hidden-size 4 --steps 2 --batch-size 4"),
    "two_sentences": (None, "--steps 8 --lr 0.1 --hidden-size 6"),
    "pos_tagging": (
        conllu,
        "--readers conditioned forward+crf both+characters --hidden-size 8 --epochs 1",
    ),
    "identifier_roles": (code, "--lines 30 --epochs 1 --hidden-size 4 --batch-size 16"),
    "encoder_decoder": (code, "--context 2 4 --hidden-size 4 --epochs 1 --test 4 --beam 2"),
    "translation": (parallel, "--embedding 4 --hidden-size 4 --epochs 1 --beam 1 2"),
    "sequence_classification": (labelled, "--epochs 1 --input-size 4 --hidden-size 4"),
    "captioning": (pictures, "--epochs 1 --hidden-size 8 --beam 2"),
    "design_patterns": (None, "--steps 3 --examples 20 --hidden-size 4"),
    "parsing": (code, "--hidden-size 8 --epochs 1 --test 4 --beam 2"),
    "expression_roles": (bracketed, "--trees 10 --hidden-size 4 --epochs 1"),
    "recursive_nets": (trees, "--limit 10 --hidden-size 4 --epochs 1 --trees gold"),
}


# ---- runs --------------------------------------------------------------------------------------


def run(name, folder, device, capsys):
    """The lines of the metrics of a small run."""
    data, flags = SMALL[name]
    out = folder / device
    flags = [*flags.split(), "--quiet", "--no-plot", "--out", str(out), "--device", device]
    if data:
        (folder / "data").mkdir(exist_ok=True)
        path = folder / f"data-{device}"
        path.mkdir()
        flags += ["--data", str(data(path))]
    importlib.import_module(f"demos.{name}").main(flags)  # 1, if so small a run shows no claim
    said = capsys.readouterr()
    assert "error: " not in said.err, said.err
    lines = (out / kit.METRICS).read_text(encoding="utf-8").splitlines()
    return [dict(leaves(json.loads(line))) for line in lines]


def leaves(figures, path=""):
    """(path, number or text) of all that a line of metrics says but what the machine decides."""
    if isinstance(figures, dict):
        for key, value in figures.items():
            if key not in OF_MACHINE:
                yield from leaves(value, f"{path}.{key}")
    elif isinstance(figures, list):
        for i, value in enumerate(figures):
            yield from leaves(value, f"{path}[{i}]")
    else:
        yield path, figures


def equal(found, expected):
    """Raise unless two runs have logged the same, but for rounding."""
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for mine, right in zip(found, expected, strict=True):
        for path, value in right.items():
            if isinstance(value, float):
                np.testing.assert_allclose(mine[path], value, WITHIN, WITHIN, err_msg=path)
            else:
                assert mine[path] == value, path


@pytest.mark.parametrize("name", SMALL)
def test_a_demo_logs_the_same_on_a_device(name, tmp_path, capsys, tier):
    if tier.name == "host" and name in MANY_LAUNCHES:
        pytest.skip("takes half a minute on host memory; the simulator and a GPU run it")
    expected = run(name, tmp_path, "cpu", capsys)
    with tier.counting() if tier.counts else nullcontext(Costs(launches=1)) as costs:
        found = run(name, tmp_path, "cuda", capsys)
    assert costs.launches > 0  # it was there
    equal(found, expected)


@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_that_was_stopped_goes_on_on_the_other_device(
    first, then, tmp_path, capsys, monkeypatch
):
    """In the middle of an epoch, with a state that is carried from window to window."""
    real, steps, data = training.step_of, [], str(text(tmp_path))

    def step_of(*arguments):
        steps.append(1)
        if len(steps) == STOPPED:
            raise KeyboardInterrupt
        real(*arguments)

    def told(out, device, *flags):
        flags = [*SMALL["char_lm"][1].split(), "--save-every", "0", "--device", device, *flags]
        flags += ["--quiet", "--no-plot", "--data", data, "--out", str(tmp_path / out)]
        code = importlib.import_module("demos.char_lm").main(flags)
        lines = kit.figures_of(tmp_path / out)
        return code, [dict(leaves(line)) for line in lines if "epoch" in line]

    _, expected = told("whole", "cpu")
    with monkeypatch.context() as patched:
        patched.setattr(training, "step_of", step_of)
        code, before = told("parts", first)
    assert code == 130 and not before
    code, found = told("parts", then, "--resume")
    assert code == 0
    equal(found, expected)


def test_without_a_device_there_is_one_clear_error_and_no_folder(tmp_path, capsys, monkeypatch):
    def none():
        raise tg.DeviceError("device 'cuda' cannot be used: no CUDA device\n  hint: stay here")

    monkeypatch.setattr(backend, "_cupy", none)
    out = tmp_path / "out"
    main = importlib.import_module("demos.two_sentences").main
    assert main(["--device", "cuda", "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert said.err == "error: device 'cuda' cannot be used: no CUDA device\n  hint: stay here\n"
    assert not said.out and not out.exists()
