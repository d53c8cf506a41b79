"""The demos' plumbing: words and ids, padding, batches, and how a run ends."""

import io
import itertools
import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from demos import __main__ as demos
from demos import _kit as kit
from tests.runs import settings

words = st.lists(st.text("abcd", min_size=1, max_size=2), min_size=1, max_size=8)
sequences = st.lists(words, min_size=1, max_size=6)


# ---- words, padding, batches ----


@given(sequences, st.integers(1, 3))
def test_a_vocabulary_reads_back_what_it_has_and_the_rest_as_unknown(texts, least):
    v = kit.vocabulary(texts, (kit.UNKNOWN,), least)
    everything = [word for text in texts for word in text]
    frequent = {word for word in everything if everything.count(word) >= least}
    assert (
        v.words[0] == kit.UNKNOWN and set(v.words[1:]) == frequent and len(set(v.words)) == len(v)
    )
    counts = [everything.count(word) for word in v.words[1:]]
    assert counts == sorted(counts, reverse=True)
    for text in texts:
        back = [v.words[i] for i in v.encode(text)]
        assert back == [word if word in frequent else kit.UNKNOWN for word in text]


def test_a_vocabulary_without_unknown_refuses_other_words_and_names_them():
    v = kit.vocabulary([["a", "b"]])
    with pytest.raises(kit.DataError, match="'z'"):
        v.encode(["a", "z"])


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), min_size=1, max_size=5))
def test_padding_keeps_every_row_up_to_its_length(rows):
    array, lengths = kit.padded(rows)
    assert array.shape == (len(rows), max(map(len, rows)))
    for row, line, n in zip(rows, array, lengths, strict=True):
        assert line[:n].tolist() == row and not line[n:].any()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 9), st.integers(0, 9))
def test_batches_are_an_epoch_of_neighbours_in_length(lengths, size, seed):
    lengths = np.array(lengths)
    parts = kit.batches(lengths, size, np.random.default_rng(seed))
    assert sorted(np.concatenate(parts)) == list(range(len(lengths)))
    assert max(map(len, parts)) <= size
    for a, b in itertools.combinations([lengths[part] for part in parts], 2):
        assert a.max() <= b.min() + 1 or b.max() <= a.min() + 1  # the noise of the order


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n")
    assert kit.read_text(tmp_path / "text.txt") == "one\ntwo\n"


# ---- how a run ends ----


def test_stopping_by_hand_says_how_to_go_on(tmp_path, capsys):
    def demo(args, run):
        raise KeyboardInterrupt

    command = f"python -m demos.test_kit --quiet --no-plot --out '{tmp_path}/a b' --lr 0.1"
    for more in ([], ["--resume"]):
        assert kit.main(demo, settings(tmp_path / "a b", "--lr", 0.1, *more)) == 130
        assert capsys.readouterr().err == f"stopped; go on with {command} --resume\n"


def test_a_disk_that_refuses_is_one_line_with_the_name_of_the_file(tmp_path, capsys):
    def demo(args, run):
        run.metrics.close()
        run.metrics = Path("/dev/full").open("w")  # noqa: SIM115, the run closes it
        run.log(figure=1)

    assert kit.main(demo, settings(tmp_path)) == 1
    told = f"error: [Errno 28] No space left on device: '{tmp_path / kit.METRICS}'\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("kind", [tg.CheckpointError, tg.SettingError])
def test_an_error_of_the_package_is_told_without_a_place_in_the_demo(kind, tmp_path, capsys):
    def demo(args, run):
        raise kind("no\n  hint: yes")

    assert kit.main(demo, settings(tmp_path)) == 1
    assert capsys.readouterr().err == "error: no\n  hint: yes\n"


def test_a_run_that_another_program_is_writing_is_not_called_damaged(tmp_path, monkeypatch, capsys):
    def latest(self):
        raise tg.SettingError("another program is writing")

    (tmp_path / "training-000001.npz").write_text("of the other")
    monkeypatch.setattr(tg.Checkpoints, "latest", latest)
    assert kit.main(lambda args, run: None, settings(tmp_path)) == 1
    assert capsys.readouterr().err == "error: another program is writing\n"
    assert (tmp_path / "training-000001.npz").exists()


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    (tmp_path / ".model.npz.saving-x").write_text("half")
    checkpoint = ".training-000001.npz.saving-x"  # another program may be writing it
    (tmp_path / checkpoint).write_text("half")
    (tmp_path / "model.npz").write_text("whole")
    kit.Run(settings(tmp_path)).metrics.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        checkpoint,
        kit.METRICS,
        "model.npz",
    ]


def test_whatever_the_metrics_of_a_finished_run_say_only_its_checkpoints_are_removed(tmp_path):
    labels = ["a b", None, 3, ["x"], {}, "../c", "*", "a b/../../c"]
    lines = [{"epoch": 1, "loss": 1.0, "label": label} for label in labels]
    lines += [{"epoch": 1, "loss": 1.0}, {"label": "other"}, 5, {"claims": None}]
    (tmp_path / "run").mkdir()
    (tmp_path / "c-000001.npz").write_text("elsewhere")
    (tmp_path / "run" / kit.METRICS).write_text("\n".join(map(json.dumps, lines)) + "\n{")
    for name in ["a_b-000001.npz", "a_b-1.npz", "a_b-000001.txt", "other-000001.npz", "a.npz"]:
        (tmp_path / "run" / name).write_text("content")
    kit.Run(settings(tmp_path / "run")).metrics.close()
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == ["a.npz", "a_b-000001.txt", "a_b-1.npz", kit.METRICS, "other-000001.npz"]
    assert (tmp_path / "c-000001.npz").exists()


@pytest.mark.parametrize("told", ["", "Unable to allocate 931. GiB"])
def test_too_little_memory_is_one_line(told, tmp_path, capsys):
    def demo(args, run):
        raise MemoryError(told)

    assert kit.main(demo, settings(tmp_path)) == 1
    assert capsys.readouterr().err == f"error: {told or 'not enough memory'}\n"


def test_characters_that_a_terminal_lacks_are_escaped(tmp_path, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii", newline="\n")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert kit.main(lambda args, run: print("x\u2032"), settings(tmp_path)) == 0
    terminal.flush()
    assert terminal.buffer.getvalue().startswith(b"x\\u2032\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_meant_for_all_demos(number, tmp_path, monkeypatch, capsys):
    """Told by the exit code that a shell gives to who ends by this signal."""
    ran = []

    def stopped(args, run):
        ran.append(1)
        raise KeyboardInterrupt(number)

    one = SimpleNamespace(main=lambda argv: kit.main(stopped, settings(tmp_path)))
    monkeypatch.setattr(demos, "demo", lambda name: one)
    monkeypatch.setattr(demos.gradcheck, "main", lambda argv: 0)
    assert demos.main(["main"]) == 128 + number and ran == [1]
    assert "what was shown" not in capsys.readouterr().out


@pytest.mark.parametrize("points, seen", [(1, "."), (2, ""), (9, "")])
def test_a_curve_of_one_point_is_a_dot(tmp_path, monkeypatch, points, seen):
    with kit.Run(settings(tmp_path)) as run:
        figure = pytest.importorskip("matplotlib.figure").Figure()
        monkeypatch.setattr(run, "figure", lambda *_: figure)
        run.curves("loss", {"step": range(points), "loss": [1.0] * points}, "nats")
    (line,) = figure.axes[0].lines
    assert line.get_marker() == seen
