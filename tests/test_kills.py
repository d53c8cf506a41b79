"""A run of a demo, in a process of its own, that is killed or interrupted, and goes on."""

import shlex
import signal
import subprocess
import sys
import time

import pytest

import tinygrad_rnn as tg
from tests import kills


def test_runs_killed_at_random_instants_end_with_the_same_bits():
    found = kills.figures(full=False)
    tried, survived = list(found.values())[:2]
    assert tried == survived == 10
    assert found["files damaged by a kill"] == 0


LONGER = ("--epochs", "12", "--save-every", "0.05")  # so that it does not end before the signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_asks_to_stop_is_told_the_command_that_goes_on_to_the_same_bits(number, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "a folder"
    whole.mkdir(), parts.mkdir()
    assert kills.ended(kills.start(whole, *LONGER))[:2] == (0, "")
    process = kills.start(parts, *LONGER)
    while not list(parts.glob("out/training-*.npz")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    code, err, _ = kills.ended(process)
    asked, told = err.strip().splitlines()
    assert code == 128 + number and asked.startswith("stopping after this step")
    saved = tg.Checkpoints(parts / "out", "training").latest()
    assert saved["figures"]["share"] < 1
    python, *command = shlex.split(told.removeprefix("stopped; go on with "))
    assert python == "python" and command[-1] == "--resume"
    done = subprocess.run([sys.executable, *command], cwd=kills.ROOT, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert kills.weights(parts) == kills.weights(whole)


def test_output_that_nobody_reads_ends_a_run_quietly(tmp_path):
    process = kills.start(tmp_path, *LONGER)
    kills.until_it_trains(process)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 1
    process.stderr.close()


def test_a_run_needs_no_output(tmp_path):
    process = kills.start(tmp_path, before=["sh", "-c", 'exec "$@" >&-', "sh"])
    assert kills.ended(process) == (0, "", "")
    assert len(kills.weights(tmp_path))


@pytest.mark.parametrize("module", ["demos", "demos.char_lm"])
def test_ctrl_c_while_python_imports_shows_no_traceback(module, tmp_path):
    command = [sys.executable, "-v", "-m", module, "char_lm"]
    process = subprocess.Popen(command, cwd=kills.ROOT, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith("import 'tinygrad_rnn.errors'"):  # it has begun, and much is to come
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate()[1]
    assert process.returncode == -signal.SIGINT
    assert "stopped\n" in rest and "Traceback" not in rest
