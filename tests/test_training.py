"""The training loop of the demos: stopped at any step it goes on bit by bit, or says why not."""

import argparse
import json
import os
import signal
import threading
import warnings
from unittest import mock

import numpy as np
import pytest

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training
from tests.runs import STEPS, WORDS, Net, Stopped, same, settings, stop_at, train, trained


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights and the losses of a run that nothing stops."""
    tg.manual_seed(0)
    return train(settings(tmp_path_factory.mktemp("whole")))


def stopped(folder, step, *flags, **how):
    """The checkpoints, oldest first, and the metrics of a run that was stopped before a step."""
    with pytest.raises(Stopped):
        train(settings(folder, *flags), stop_at(step), **how)
    return sorted(folder.glob("*.npz")), folder / kit.METRICS


# ---- going on ----


@pytest.mark.parametrize("step", range(STEPS))
def test_a_run_stopped_at_any_step_goes_on_bit_by_bit(step, tmp_path, whole):
    stopped(tmp_path, step, "--save-every", 0)
    assert same(train(settings(tmp_path, "--resume")), whole)  # of the best epoch


def test_a_run_stopped_again_and_again_goes_on_bit_by_bit(tmp_path, whole):
    for steps in (3, 1, 0, 4, 2):
        stopped(tmp_path, steps, "--save-every", 0, "--resume")
    assert same(train(settings(tmp_path, "--resume")), whole)
    assert len(list(tmp_path.glob("training-*.npz"))) in (3, 4)  # the last three and the best


def test_a_run_stopped_between_checkpoints_goes_on_from_the_last_epoch(tmp_path, whole):
    checkpoints, _ = stopped(tmp_path, 6)  # in the second epoch of four steps
    assert len(checkpoints) == 1
    assert same(train(settings(tmp_path, "--resume")), whole)


def test_a_finished_run_is_not_trained_again(tmp_path, whole):
    train(settings(tmp_path))
    assert same(train(settings(tmp_path, "--resume"), stop_at(0)), whole)


def test_the_model_ends_with_the_weights_of_the_best_epoch(tmp_path, whole):
    (*_, last), _ = stopped(tmp_path, 8, scored=False)  # after two epochs
    saved = tg.load(last)
    for name, x in whole[0].items():
        assert np.array_equal(x, saved[f"state.model.{name}"])


def test_of_equal_scores_the_first_is_the_best(tmp_path):
    now = halfway(tmp_path, 0)
    best = now.model.state_dict()
    for score in (float("nan"), float("-inf"), 1.0, 1.0, float("nan"), 0.5):
        now.end_epoch(score)
        assert now.best  # even a bad score is better than no weights to end with
        if score == 1.0:
            now.model.load_state_dict({name: x + 1 for name, x in best.items()})
    assert now.best_score == 1.0 and flat(now.best) == flat(best)


def test_the_best_is_among_the_checkpoints(tmp_path, whole):
    train(settings(tmp_path, "--save-every", 0))
    best = tg.Checkpoints(tmp_path, "training").best()
    assert best["figures"]["epoch"] == 2
    assert all(np.array_equal(x, best["model"][name]) for name, x in whole[0].items())


def test_resume_without_a_checkpoint_begins_and_says_so(tmp_path, capsys, whole):
    args = settings(tmp_path, "--resume")
    args.quiet = False
    assert same(train(args), whole) and "from the beginning" in capsys.readouterr().out


def test_a_resumed_run_adds_to_the_metrics(tmp_path):
    stopped(tmp_path, 6)
    train(settings(tmp_path, "--resume"))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2, 3]


def test_a_line_of_metrics_that_was_cut_short_does_not_stop_a_run(tmp_path, whole):
    _, metrics = stopped(tmp_path, 6)
    metrics.write_bytes(metrics.read_bytes() + b'{"label": "training", "epo\xe2')
    assert same(train(settings(tmp_path, "--resume")), whole)
    found = [kit.figures_in(line) for line in metrics.read_text(errors="replace").splitlines()]
    assert [line["epoch"] for line in found if "epoch" in line] == [1, 2, 3]
    assert sum("settings" in line for line in found) == 2


class Clock:
    """A clock in the place of the module `time` that goes so many seconds in each step."""

    def __init__(self, seconds, begins=0.0):
        self.now, self.seconds = begins, seconds

    def monotonic(self):
        return self.now

    def before_step(self, i):
        self.now += self.seconds


@pytest.fixture
def saves(monkeypatch):
    """After how many steps each checkpoint was written."""
    steps, real = [], tg.Checkpoints.save

    def save(self, state, score=None):
        real(self, state, score)
        steps.append(len(state["losses"]))

    monkeypatch.setattr(tg.Checkpoints, "save", save)
    return steps


def test_checkpoints_are_written_every_so_many_seconds_and_after_each_epoch(
    tmp_path, monkeypatch, saves
):
    clock = Clock(seconds=1.0)
    monkeypatch.setattr(training, "time", clock)
    train(settings(tmp_path, "--save-every", 2.5), clock.before_step)
    assert saves == [3, 4, 7, 8, 11, 12]


def test_minutes_are_counted_on_when_a_run_goes_on(tmp_path, monkeypatch):
    def run(folder, begins, *flags, stop=None):
        clock = Clock(6.0, begins)
        monkeypatch.setattr(training, "time", clock)

        def before_step(i):
            clock.before_step(i)
            stop_at(stop)(i)

        return train(settings(folder, "--save-every", 0, *flags), before_step, minutes=1)

    whole = run(tmp_path / "whole", 100.0)
    assert len(whole[1]) == 10
    with pytest.raises(Stopped):
        run(tmp_path / "parts", 100.0, stop=7)
    assert same(run(tmp_path / "parts", 5000.0, "--resume"), whole)


def test_what_is_on_the_disk_when_the_power_fails_is_enough_to_go_on(tmp_path, monkeypatch, whole):
    folder, disk, real = tmp_path / "run", {}, os.fsync

    def fsync(descriptor):
        real(descriptor)
        metrics = folder / kit.METRICS
        if os.path.samestat(os.fstat(descriptor), metrics.stat()):
            disk[metrics.name] = metrics.read_bytes()

    def save(self, *arguments, real=tg.Checkpoints.save):
        real(self, *arguments)
        disk.update({path.name: path.read_bytes() for path in folder.glob("*.npz")})
        states.append(dict(disk))

    states = []
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        patched.setattr(tg.Checkpoints, "save", save)
        train(settings(folder, "--save-every", 0))
    for i, state in enumerate(states):
        (other := tmp_path / str(i)).mkdir()
        for name, content in state.items():
            (other / name).write_bytes(content)
        assert same(train(settings(other, "--resume")), whole)
    assert len(states) == STEPS + 2  # with both, after a step and after its epoch


def test_a_disk_that_refuses_a_checkpoint_is_told_in_a_line_with_how_to_go_on(
    tmp_path, monkeypatch, capsys
):
    error = OSError(28, "No space left on device", "x.npz")
    with monkeypatch.context() as patched:
        patched.setattr(tg.Checkpoints, "save", mock.Mock(side_effect=error))
        assert kit.main(trained, args := settings(tmp_path)) == 1
    assert capsys.readouterr().err == (
        "error: [Errno 28] No space left on device: 'x.npz'; the checkpoints from before are whole:"
        f" when that is mended, go on with {args.command} --resume\n"
    )


# ---- beginning anew ----


def contents(folder):
    """What is in a folder: {name: bytes}."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused_anew(folder, *parts):
    """That a run without --resume is refused in a line, before anything is touched."""
    before = contents(folder)
    with pytest.raises(kit.DataError) as caught:
        train(settings(folder), lambda i: pytest.fail("it trains"))
    assert contents(folder) == before and "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in (str(folder), "--resume", "--out", *parts))


def test_a_run_that_was_stopped_is_not_lost_when_resume_is_forgotten(tmp_path, whole):
    for saved in (4, 8):  # with each epoch
        stopped(tmp_path, 6, "--resume")
        refused_anew(
            tmp_path, f"training: after {saved} steps", f"remove {tmp_path}/training-*.npz"
        )
    (tmp_path / ".model.npz.saving-x").write_text("what a kill left")
    refused_anew(tmp_path)
    assert same(train(settings(tmp_path, "--resume")), whole)


def test_a_run_stopped_in_its_first_epoch_is_not_lost_either(tmp_path, whole):
    stopped(tmp_path, 2, "--save-every", 0)  # of which the metrics know nothing
    refused_anew(tmp_path, "training: after 2 steps")
    assert same(train(settings(tmp_path, "--resume")), whole)


def test_damaged_checkpoints_are_not_overwritten(tmp_path):
    checkpoints, _ = stopped(tmp_path, 6, "--save-every", 0)
    checkpoints[-1].write_bytes(checkpoints[-1].read_bytes()[:-100])
    refused_anew(tmp_path, "training: after 5 steps")
    for path in checkpoints:
        path.write_bytes(path.read_bytes()[:100])
    refused_anew(tmp_path, "training: no checkpoint can be read")


def test_a_run_of_several_nets_is_not_finished_with_the_first_of_them(tmp_path):
    def demo(args, run):
        trained(args, run, label="the first")
        trained(args, run, stop_at(0), label="the second")

    with pytest.raises(Stopped):
        kit.main(demo, settings(tmp_path))
    refused_anew(tmp_path, "the_first: after 12 steps", f"remove {tmp_path}/the_first-*.npz")
    tg.Checkpoints(tmp_path, "the_second").save("half")
    refused_anew(tmp_path, "after 12 steps and the_second: no", f"npz {tmp_path}/the_second-*.npz")


def test_to_begin_anew_is_to_remove_what_the_line_names(tmp_path, whole):
    for path in stopped(tmp_path, 6, "--save-every", 0)[0]:
        path.unlink()
    assert same(train(settings(tmp_path)), whole)


def test_a_finished_run_may_be_overwritten_and_the_new_one_stopped_at_any_time(tmp_path, whole):
    mine = tmp_path / "mine-000001.npz"
    for step in (0, 2, 5):
        assert kit.main(lambda args, run: trained(args, run) and None, settings(tmp_path)) == 0
        mine.write_text("of the user")
        stopped(tmp_path, step)
        mine.unlink()
        assert same(train(settings(tmp_path, "--resume")), whole)
        for path in tmp_path.iterdir():
            path.unlink()


# ---- what it does not go on from ----


def test_a_damaged_checkpoint_is_named_in_a_line_and_the_one_before_it_taken(
    tmp_path, whole, capsys
):
    (*_, last), _ = stopped(tmp_path, 6, "--save-every", 0)
    last.write_bytes(last.read_bytes()[:-100])
    assert same(train(settings(tmp_path, "--resume")), whole)
    err = capsys.readouterr().err
    assert err.startswith(f"warning: {last}: it cannot be read") and err.count("\n") == 1


def refused(folder, error, match, *flags, **how):
    """That --resume is refused, and leaves the checkpoints as they were."""
    before = {path: path.read_bytes() for path in folder.glob("*.npz")}
    with pytest.raises(error, match=match) as caught:
        train(settings(folder, "--resume", *flags), **how)
    assert before == {path: path.read_bytes() for path in folder.glob("*.npz")}
    return str(caught.value)


def test_if_no_checkpoint_is_whole_that_is_an_error(tmp_path):
    checkpoints, _ = stopped(tmp_path, 6, "--save-every", 0)
    for path in checkpoints:
        path.write_bytes(path.read_bytes()[:-100])
    told = refused(tmp_path, tg.CheckpointError, "no file is whole")
    assert all(str(path) in told for path in checkpoints)


def test_other_settings_are_refused_with_those_of_the_run(tmp_path):
    stopped(tmp_path, 5)
    refused(tmp_path, kit.DataError, r"--lr 0\.05", "--lr", "0.1")
    refused(tmp_path, kit.DataError, r"schedule.*'clip': 5\.0.*'clip': 1\.0", clip=1.0)


def test_another_vocabulary_and_other_data_are_refused(tmp_path):
    stopped(tmp_path, 5)
    told = "number 1 of its words is 'b', and here "
    refused(tmp_path, kit.DataError, told + "'c'", vocabulary={"words": ["a", "c"]})
    refused(tmp_path, kit.DataError, told + "none", vocabulary={"words": ["a"]})
    refused(tmp_path, kit.DataError, "not one of tags", vocabulary={"tags": ["a", "b"]})
    refused(tmp_path, kit.DataError, "5 batches and had 4", batches=5)


def test_a_vocabulary_that_cannot_be_saved_is_refused_before_the_training(tmp_path):
    most = training.MOST_TEXT
    for n, words in [(most, ["x" * (most - 15)]), (most + 1, ["x" * (most - 14)])]:
        assert len(json.dumps({"words": words})) == n
        with pytest.raises(kit.DataError if n > most else Stopped):
            train(settings(tmp_path, "--save-every", 0), stop_at(2), vocabulary={"words": words})
    assert len(tg.Checkpoints(tmp_path, "training").latest()["losses"]) == 2


@pytest.mark.parametrize("content", [b"", b"5\n[]\nno metrics\n"])
def test_a_run_without_its_metrics_is_refused(content, tmp_path):
    _, metrics = stopped(tmp_path, 6)
    metrics.write_bytes(content)
    assert str(metrics) in refused(tmp_path, kit.DataError, "fewer epochs")


def test_other_weights_are_no_checkpoint_to_go_on_from(tmp_path):
    (checkpoint,), _ = stopped(tmp_path, 6)
    tg.save(checkpoint, Net().state_dict())
    refused(tmp_path, tg.CheckpointError, "no state of Checkpoints")
    checkpoint.unlink()
    tg.Checkpoints(tmp_path, "training").save({"model": Net().state_dict()})
    refused(tmp_path, tg.CheckpointError, "no training run")


def halfway(folder, epochs):
    """A Training after some epochs, and what it saves."""
    args, net = settings(folder), Net()
    optimizer = tg.optim.Adam(net.parameters(), lr=0.1)
    now = training.Training(net, optimizer, args, {"lr": 0.1}, WORDS)
    for _ in range(epochs):
        (net(np.ones((2, 2), "f4"), None)[0] ** 2).sum().backward()
        optimizer.step()
        now.losses.append(0.5)
        now.end_epoch(len(now.losses))
    return now


def flat(state):
    """All that a state holds, in a form that compares bits."""
    if isinstance(state, dict):
        return {key: flat(part) for key, part in state.items()}
    if isinstance(state, (list, tuple)):
        return [flat(part) for part in state]
    array = getattr(state, "array", state)
    return (array.dtype, array.shape, array.tobytes()) if hasattr(array, "tobytes") else array


MISFITS = {
    "model": {"cell.weight_ih": np.zeros((1, 1), np.float32)},
    "optimizer": {"0.m": np.zeros((1, 1), np.float32)},
    "best": {"cell.weight_ih": np.zeros((1, 1), np.float32)},
    "losses": "none",
    "epoch_began": {"bit_generator": "MT19937"},
    "drawn": {"bit_generator": "MT19937"},
    "figures": {"epoch": 1.5},
    "settings": 3,
    "vocabulary": {"words": 3},
    "schedule": None,
}


@pytest.mark.parametrize("part", MISFITS)
def test_nothing_is_half_loaded(part, tmp_path):
    saved, now = halfway(tmp_path, 2).saved(), halfway(tmp_path, 1)
    other, before = MISFITS[part], flat(now.saved())
    merged = saved[part] | other if isinstance(other, dict) else other
    with pytest.raises((tg.CheckpointError, kit.DataError)):
        now.load(saved | {part: merged})
    assert flat(now.saved()) == before
    with pytest.raises(tg.CheckpointError):
        now.load({name: x for name, x in saved.items() if name != part})
    assert flat(now.saved()) == before
    now.load(saved)
    assert flat(now.saved()) == flat(saved)


# ---- Ctrl-C and SIGTERM ----

ASKS = [signal.SIGINT, signal.SIGTERM]


def as_usual():
    """Whether signals are handled as in a program that says nothing of them."""
    return [*map(signal.getsignal, ASKS)] == [signal.default_int_handler, signal.SIG_DFL]


def press(step, *numbers):
    """What presses Ctrl-C, or sends these signals, in the middle of that step."""

    def before_step(i):
        if i == step:
            for number in numbers or [signal.SIGINT]:
                os.kill(os.getpid(), number)

    return before_step


@pytest.mark.parametrize("step", [0, 2, 3, 4, 11])  # 3 and 11 are the last of their epochs
def test_ctrl_c_saves_after_the_step_and_the_run_goes_on_bit_by_bit(step, tmp_path, whole, capfd):
    with pytest.raises(KeyboardInterrupt):
        train(settings(tmp_path), press(step))
    assert "stopping after this step" in capfd.readouterr().err
    saved = tg.Checkpoints(tmp_path, "training").latest()
    assert len(saved["losses"]) == step + 1
    assert as_usual()
    assert same(train(settings(tmp_path, "--resume")), whole)


@pytest.mark.parametrize("first", ASKS)
def test_a_second_ctrl_c_stops_at_once_and_leaves_what_was_saved_before(first, tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        train(settings(tmp_path), press(6, first, signal.SIGINT))
    assert len(tg.Checkpoints(tmp_path, "training").latest()["losses"]) == 4
    assert as_usual()
    assert same(train(settings(tmp_path, "--resume")), whole)


def test_a_run_without_checkpoints_stops_at_once(tmp_path):
    args, begun = settings(tmp_path), []
    del args.resume
    with pytest.raises(KeyboardInterrupt):
        train(args, lambda i: begun.append(i) or press(2)(i))
    assert begun == [0, 1, 2] and not list(tmp_path.glob("*.npz"))


@pytest.mark.parametrize("number", ASKS)
def test_who_handles_a_signal_otherwise_goes_on_to(number, tmp_path, whole):
    told = []
    for name, handler in {"own": lambda *_: told.append(1), "none": signal.SIG_IGN}.items():
        old = signal.signal(number, handler)
        try:
            ended = train(settings(tmp_path / name), press(2, number))
            assert signal.getsignal(number) == handler and same(ended, whole)
        except KeyboardInterrupt:
            pytest.fail("the handler of before was not asked")
        finally:
            signal.signal(number, old)
    assert told == [1]


def test_a_thread_trains_too(tmp_path, whole):
    ended = []
    thread = threading.Thread(target=lambda: ended.append(train(settings(tmp_path))))
    thread.start()
    thread.join()
    assert same(ended[0], whole)


# ---- weights to begin with ----


def test_init_from_gives_the_weights_to_begin_with(tmp_path, capsys):
    net, other, run = Net(), Net(), argparse.Namespace(path=tmp_path.joinpath)
    training.save_model(run, "model", net, WORDS, hidden_size=3)
    training.start_from(other, argparse.Namespace(init_from=None), WORDS)
    assert not np.array_equal(other.cell.weight_ih.array, net.cell.weight_ih.array)
    training.start_from(other, argparse.Namespace(init_from=tmp_path / "model.npz"), WORDS)
    assert np.array_equal(other.cell.weight_ih.array, net.cell.weight_ih.array)
    assert tg.load(tmp_path / "model.npz").metadata == {"vocabulary": WORDS, "hidden_size": 3}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"words": ["b", "a"]}, "number 0 of its words is 'a', and here 'b'"),
        ({"words": ["a", "b", "c"]}, "number 2 of its words is none, and here 'c'"),
        ({"words": ["a", "b"], "tags": []}, "its vocabulary is not one of words and of tags"),
    ],
)
def test_weights_for_other_words_are_refused(tmp_path, words, told):
    net, other, run = Net(), Net(), argparse.Namespace(path=tmp_path.joinpath)
    training.save_model(run, "model", net, WORDS)
    before = other.cell.weight_ih.numpy()
    with pytest.raises(kit.DataError, match=told):
        training.start_from(other, argparse.Namespace(init_from=tmp_path / "model.npz"), words)
    assert np.array_equal(other.cell.weight_ih.array, before)


def test_weights_that_do_not_say_for_which_words_are_taken_with_a_warning(tmp_path, capsys):
    net, other = Net(), Net()
    tg.save(tmp_path / "model.npz", net.state_dict())
    training.start_from(other, argparse.Namespace(init_from=tmp_path / "model.npz"), WORDS)
    assert np.array_equal(other.cell.weight_ih.array, net.cell.weight_ih.array)
    assert capsys.readouterr().err.endswith("does not say what its rows stand for\n")


# ---- what cannot be trained ----


def test_an_epoch_without_batches_is_refused(tmp_path):
    with pytest.raises(kit.DataError, match="no batches"):
        train(settings(tmp_path), batches=0)


@pytest.mark.nonfinite
@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e30])
def test_a_loss_that_is_no_number_ends_the_run(factor, tmp_path):
    args = settings(tmp_path)
    with kit.Run(args) as run, warnings.catch_warnings(action="error"):
        net = Net()
        with pytest.raises(kit.Diverged, match=r"the loss is .*; try a smaller --lr"):
            training.fit(
                net,
                lambda batch: (net.cell.bias_ih.sum() + 1) * factor,
                lambda rng: [0],
                args,
                run,
            )


@pytest.mark.nonfinite
def test_a_gradient_that_is_no_number_ends_the_run_in_one_line_and_moves_nothing(tmp_path):
    args = settings(tmp_path)
    with kit.Run(args) as run, warnings.catch_warnings(action="error"):
        net = Net()
        before = flat(net.state_dict())
        with pytest.raises(kit.Diverged, match=r"the gradient of cell\.bias_ih, ") as caught:
            training.fit(
                net,
                lambda batch: tg.sqrt(net.cell.bias_ih * 0.0).sum(),
                lambda rng: [0],
                args,
                run,
            )
        assert str(caught.value).count("\n") == 0 and flat(net.state_dict()) == before
