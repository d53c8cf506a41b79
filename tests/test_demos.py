"""The demos run, refuse what they cannot use, and show what they say they show."""

import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import tinygrad_rnn as tg
from demos import __main__ as demos
from demos import bptt_by_hand, char_lm, engine_on_one_page, expression_roles


def test_the_list_names_every_demo(capsys):
    assert demos.main([]) == 0
    out = capsys.readouterr().out
    files = Path(demos.__file__).parent.glob("[!_]*.py")
    for name in [*(file.stem for file in files), "all"]:
        assert f" {name} " in out


def test_an_unknown_demo_is_refused_with_the_list(capsys):
    assert demos.main(["char_ml"]) == 2
    assert "char_lm" in capsys.readouterr().err


def test_ctrl_c_ends_all_demos(capsys, monkeypatch):
    begun = []
    monkeypatch.setattr(demos, "MAIN", ("char_lm", "word_lm", "parsing"))
    monkeypatch.setattr(demos.gradcheck, "main", lambda argv: 0)
    codes = {"char_lm": 1, "word_lm": 130}

    def demo(name):
        begun.append(name)
        return types.SimpleNamespace(main=lambda flags: codes[name])

    monkeypatch.setattr(demos, "demo", demo)
    assert demos.main(["main"]) == 130
    assert begun == ["char_lm", "word_lm"] and "what was shown" not in capsys.readouterr().out


@pytest.mark.parametrize("seed", range(5))
def test_bptt_by_hand_agrees_three_ways_and_catches_the_broken_one(seed, capsys):
    assert bptt_by_hand.main(["--seed", str(seed)]) == 0
    out = capsys.readouterr().out
    assert "caught" in out and "NOT CAUGHT" not in out


def test_bptt_by_hand_fails_when_the_engine_is_wrong(capsys, monkeypatch):
    rule = tg.tanh.operation.rules[0][1]
    monkeypatch.setattr(rule, "vjp", lambda g, y: g * (1 - y))
    assert bptt_by_hand.main([]) == 1


def initial_by_hand(V, W, U, b, c, h0, xs, targets):
    """One backward loop: dE/dh^t is what step t sends, and what comes back from step t + 1."""
    h = [h0]
    for x in xs:
        h.append(np.tanh(U @ x + W @ h[-1] + b))
    dh = np.zeros_like(h0)
    for t in range(len(xs), 0, -1):
        p = np.exp(V @ h[t] + c)
        dh = dh + (p / p.sum() - np.eye(len(c))[targets[t - 1]]) @ V
        dh = dh * (1 - h[t] * h[t]) @ W
    return dh


@pytest.mark.parametrize("seed", range(3))
def test_the_exercise_initial_by_hand_is_the_complex_step(seed):
    solution = getattr(bptt_by_hand, "initial_by_hand", initial_by_hand)  # the learner's, if there
    weights, rest = bptt_by_hand.example(np.random.default_rng(seed))
    expected = engine_on_one_page.complex_step(
        lambda h0: bptt_by_hand.error(**weights, **(rest | {"h0": h0})), rest["h0"]
    )
    np.testing.assert_allclose(solution(**weights, **rest), expected, rtol=1e-12)


def test_the_engine_on_one_page_is_short_and_gives_the_gradients_of_the_package():
    rng = np.random.default_rng(1)
    xs, U, W, b = (rng.normal(size=shape) for shape in [(5, 2, 3), (3, 2), (2, 2), (2,)])
    page = [engine_on_one_page.Tensor(w) for w in (U, W)]
    found = engine_on_one_page.backward(engine_on_one_page.rnn(xs, *page, b))
    ours = [tg.tensor(w, requires_grad=True) for w in (U, W)]
    h = np.zeros((1, 2))
    for x in xs:
        h = tg.tanh(x @ ours[0] + h @ ours[1] + b)
    h.sum().backward()
    for theirs, mine in zip(page, ours, strict=True):
        np.testing.assert_allclose(found[theirs], mine.grad.array, rtol=1e-13)
    source = Path(engine_on_one_page.__file__).read_text(encoding="utf-8").splitlines()
    lines = [line for line in source if line.strip() and not line.lstrip().startswith("#")]
    assert len(lines) < 80


@pytest.mark.parametrize("demo", [char_lm, expression_roles], ids=lambda demo: demo.__name__)
def test_quick_runs_leave_metrics_curves_and_a_checkpoint(demo, tmp_path):
    assert demo.main(["--quick", "--quiet", "--out", str(tmp_path)]) == 0
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) >= 2 and all(json.loads(line) for line in lines)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "loss.csv").read_text().splitlines()) >= 2
    assert tg.load(tmp_path / "model.npz")


@pytest.mark.parametrize("demo", [char_lm, expression_roles], ids=lambda demo: demo.__name__)
@pytest.mark.parametrize("content", [None, b"", b"   \n", b"\xff\xfe\x00broken"])
def test_data_that_cannot_be_used_gets_one_line(demo, content, tmp_path, capsys):
    path = tmp_path / "data.txt"
    if content is not None:
        path.write_bytes(content)
    status = demo.main(["--quick", "--quiet", "--data", str(path), "--out", str(tmp_path / "out")])
    err = capsys.readouterr().err
    assert status == 1 and err.startswith("error: ") and err.count("\n") == 1


def test_divergence_is_an_exit_code(tmp_path, capsys):
    flags = ["--quick", "--quiet", "--lr", "1e30", "--out", str(tmp_path)]
    with np.errstate(all="ignore"):
        assert char_lm.main(flags) == 1
    assert "error: " in capsys.readouterr().err


def test_the_trees_of_the_user_are_read_however_deep(tmp_path):
    deep = "(1 " + "(0 a " * 4_000 + "b" + ")" * 4_000 + ")\n"  # four times what Python recurses
    shallow = "".join(f"({i % 2} (0 w{i % 3}) (1 v{i % 5}))\n" for i in range(60))
    path = tmp_path / "trees.txt"
    path.write_text(shallow + deep)
    flags = ["--quick", "--quiet", "--data", str(path), "--out", str(tmp_path / "out")]
    assert expression_roles.main(flags) == 0


@pytest.mark.parametrize("name", ["char_lm", "expression_roles", "bptt_by_hand"])
def test_help_explains_the_flags(name):
    run = subprocess.run(
        [sys.executable, "-m", f"demos.{name}", "--help"], capture_output=True, text=True
    )
    assert run.returncode == 0 and "--seed" in run.stdout and not run.stderr
