"""The demos' plumbing: words and ids, padding, batches, and a training run that can be stopped."""

import argparse
import io
import itertools
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training

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


# ---- training that can be stopped ----


class Net(tg.nn.Module):
    """A recurrent net with dropout: it carries a state, and it draws random numbers."""

    def __init__(self):
        self.cell, self.dropout = tg.nn.LSTMCell(2, 3), tg.nn.Dropout(0.3)

    def forward(self, x, state):
        h, c = self.cell(x, state)
        return self.dropout(h), (h, c)


class Stopped(Exception):
    """What ends a run in the middle."""


def settings(folder, *flags):
    p = kit.parser("test_kit", "A run to be stopped.")
    kit.training_flags(p, epochs=3, batch_size=2, lr=0.05)
    kit.resume_flags(p)
    return p.parse_args(["--quiet", "--no-plot", "--out", str(folder), *flags])


def train(args, stop_at=None, scored=True):
    """The weights and the losses of a run that is stopped before so many steps, if at all."""
    data = np.random.default_rng(5).normal(size=(4, 2, 2))  # batches of two rows
    with kit.Run(args) as run:
        net, steps = Net(), []

        def loss_of(batch, state):
            if len(steps) == stop_at:
                raise Stopped
            steps.append(batch)
            y, state = net(data[batch], state)
            return (y * y).mean(), state

        def score():  # the best epoch is the second one
            return (1.0, 3.0, 2.0)[len(run.epochs("training"))]

        losses = training.fit(
            net,
            loss_of,
            lambda rng: rng.permutation(4).tolist(),
            args,
            run,
            carry=True,
            validate=score if scored else None,
        )
    return {name: x.copy() for name, x in net.state_dict().items()}, losses


@pytest.mark.parametrize("stop_at", range(12))
def test_a_run_stopped_at_any_step_goes_on_bit_by_bit(stop_at, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)  # a checkpoint after each step
    whole, losses = train(settings(tmp_path / "whole"))
    with pytest.raises(Stopped):
        train(settings(tmp_path / "parts"), stop_at)
    again, more = train(settings(tmp_path / "parts", "--resume"))
    assert more == losses
    assert all(np.array_equal(again[name], whole[name]) for name in whole)  # of the best epoch


def test_a_run_stopped_between_checkpoints_goes_on_from_the_last_epoch(tmp_path):
    whole, losses = train(settings(tmp_path / "whole"), scored=False)
    with pytest.raises(Stopped):
        train(settings(tmp_path / "parts"), 6, scored=False)  # in the second epoch of four steps
    again, more = train(settings(tmp_path / "parts", "--resume"), scored=False)
    assert more == losses and all(np.array_equal(again[name], whole[name]) for name in whole)


def test_a_finished_run_is_not_trained_again(tmp_path):
    whole, losses = train(settings(tmp_path))
    again, more = train(settings(tmp_path, "--resume"), stop_at=0)  # which would stop at any step
    assert more == losses and all(np.array_equal(again[name], whole[name]) for name in whole)


def test_the_model_ends_with_the_weights_of_the_best_epoch(tmp_path):
    best, _ = train(settings(tmp_path / "a"))
    with pytest.raises(Stopped):
        train(settings(tmp_path / "b"), stop_at=8, scored=False)  # after two epochs
    checkpoint = tg.load(tmp_path / "b" / "training.training.npz")
    for name, x in best.items():
        assert np.array_equal(x, checkpoint[f"model.{name}"])


def test_other_settings_are_refused_with_those_of_the_run(tmp_path):
    with pytest.raises(Stopped):
        train(settings(tmp_path), 5, scored=False)
    with pytest.raises(kit.DataError, match=r"--lr 0\.05"):
        train(settings(tmp_path, "--resume", "--lr", "0.1"))


def test_resume_without_a_checkpoint_begins_and_says_so(tmp_path, capsys):
    args = settings(tmp_path, "--resume")
    args.quiet = False
    _, losses = train(args, scored=False)
    assert len(losses) == 12 and "from the beginning" in capsys.readouterr().out


def test_init_from_gives_the_weights_to_begin_with(tmp_path):
    net, other = Net(), Net()
    tg.save(tmp_path / "model.npz", net.state_dict())
    training.start_from(other, argparse.Namespace(init_from=None))
    assert not np.array_equal(other.cell.weight_ih.array, net.cell.weight_ih.array)
    training.start_from(other, argparse.Namespace(init_from=tmp_path / "model.npz"))
    assert np.array_equal(other.cell.weight_ih.array, net.cell.weight_ih.array)


def test_a_resumed_run_adds_to_the_metrics(tmp_path):
    with pytest.raises(Stopped):
        train(settings(tmp_path), 6, scored=False)
    train(settings(tmp_path, "--resume"), scored=False)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2, 3]


def stopped_at(steps, folder):
    """The checkpoint and the metrics of a run that was stopped."""
    with pytest.raises(Stopped):
        train(settings(folder), steps, scored=False)
    return folder / "training.training.npz", folder / kit.METRICS


def test_a_line_of_metrics_that_was_cut_short_does_not_stop_a_run(tmp_path):
    _, metrics = stopped_at(6, tmp_path)
    metrics.write_bytes(metrics.read_bytes() + b'{"label": "training", "epo\xe2')
    train(settings(tmp_path, "--resume"), scored=False)
    found = [kit.figures_in(line) for line in metrics.read_text(errors="replace").splitlines()]
    assert [line["epoch"] for line in found if "epoch" in line] == [1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"5\n[]\nno metrics\n"])
def test_a_run_without_its_metrics_is_refused(content, tmp_path):
    checkpoint, metrics = stopped_at(6, tmp_path)
    metrics.write_bytes(content)
    with pytest.raises(kit.DataError, match="fewer epochs") as refused:
        train(settings(tmp_path, "--resume"), scored=False)
    assert str(checkpoint) in str(refused.value) and str(metrics) in str(refused.value)


def test_other_weights_are_no_checkpoint_to_go_on_from(tmp_path):
    checkpoint, _ = stopped_at(6, tmp_path)
    tg.save(checkpoint, Net().state_dict())
    with pytest.raises(kit.DataError, match="no weights in training"):
        train(settings(tmp_path, "--resume"), scored=False)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    args = settings(tmp_path)
    with kit.Run(args) as run, pytest.raises(kit.Diverged):
        net = Net()
        loss = net.cell.bias_ih.sum() * float("nan")
        training.fit(net, lambda batch: loss, lambda rng: [0], args, run)


def test_stopping_by_hand_says_how_to_go_on(tmp_path, capsys):
    def demo(args, run):
        raise KeyboardInterrupt

    assert kit.main(demo, settings(tmp_path)) == 130
    assert "--resume" in capsys.readouterr().err


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
