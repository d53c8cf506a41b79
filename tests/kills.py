"""Kill a run of a demo at random instants, and again as it goes on: it must end with the same bits.

    python -m tests.kills --points 100

The run is `demos.char_lm` on a small text: it carries a state, draws dropout masks, is moved by
Adam, is validated after each of three epochs, and writes a checkpoint after every step, so that
many instants fall into the writing.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tinygrad_rnn as tg
from tinygrad_rnn.errors import CheckpointError

ROOT = Path(__file__).parents[1]
FLAGS = "--cell lstm --hidden-size 8 --bptt 8 --batch-size 4 --epochs 3 --lr 0.01 --sample 0"
FLAGS += " --save-every 0 --no-plot"
TEXT = "".join(random.Random(0).choices("abcdef ", k=1500))
TRAINS = "parameters: "  # begins the line that is printed when training begins


def start(folder, *flags, before=()):
    """A process that runs the demo, with its files in `folder`; `before` is what comes first."""
    (folder / "text.txt").write_text(TEXT)
    command = [*before, sys.executable, "-m", "demos.char_lm", *FLAGS.split(), *flags]
    command += ["--data", str(folder / "text.txt"), "--out", str(folder / "out")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes)


def until_it_trains(process):
    """Wait until the process trains."""
    for line in process.stdout:
        if line.startswith(TRAINS):
            return


def ended(process):
    """The exit code of a process, what it wrote to stderr, and the rest of what it printed."""
    out, err = process.communicate()
    return process.returncode, err, out


def weights(folder):
    """The bytes of the model that a run has left."""
    return (folder / "out" / "model.npz").read_bytes()


def figures(full):
    """What was tried and survived: 100 kills, or 10."""
    return killed(100 if full else 10, seed=0)


def killed(points, seed):
    """What came of so many kills, by English phrase; runs begin until there are as many."""
    chance, survived, writing, lengths, damaged = random.Random(seed), 0, 0, [], []
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place, "whole")
        whole.mkdir()
        begun, process = time.monotonic(), start(whole)
        until_it_trains(process)
        prepared = time.monotonic() - begun
        assert ended(process)[:2] == (0, "")
        trained = time.monotonic() - begun - prepared
        while sum(lengths) < points:
            folder, kills = Path(place, f"run{len(lengths)}"), 0
            folder.mkdir()
            while True:
                goes_on = expected(folder / "out")
                process = start(folder, *(["--resume"] if kills else []))
                if sum(lengths) + kills < points:
                    if chance.random() < 0.2:  # any instant, also while Python starts
                        time.sleep(chance.uniform(0, prepared + trained))
                    else:
                        until_it_trains(process)
                        time.sleep(chance.uniform(0, trained / 2))  # so that a run has several
                    process.kill()
                code, err, out = ended(process)
                if code == 0:
                    break
                assert code == -9, err
                kills += 1
                writing += any(folder.glob("out/.*.saving-*"))
                damaged += [path for path in folder.glob("out/*.npz") if not is_whole(path)]
            lengths.append(kills)
            same = weights(folder) == weights(whole) and not err
            survived += kills * (same and goes_on in out)
    return {
        "kill points tried": sum(lengths),
        "kill points survived: the run went on to the same bits": survived,
        "kills in the middle of writing a file": writing,
        "files damaged by a kill": len(damaged),
        "runs": len(lengths),
        "most kills of one run": max(lengths),
    }


def expected(folder):
    """What a run says that goes on with the checkpoints in this folder."""
    saved = tg.Checkpoints(folder, "training").latest()
    return "from the beginning" if saved is None else f"goes on after {len(saved['losses'])} steps"


def is_whole(path):
    """Whether a file can be loaded."""
    try:
        tg.load(path)
    except CheckpointError:
        return False
    return True


def main(argv=None):
    p = argparse.ArgumentParser("python -m tests.kills", description=__doc__.splitlines()[0])
    p.add_argument("--points", type=int, default=100, help="kills")
    p.add_argument("--seed", type=int, default=0, help="of the instants")
    args = p.parse_args(argv)
    found = killed(args.points, args.seed)
    for what, figure in found.items():
        print(f"{what}: {figure}")
    tried, survived = list(found.values())[:2]
    return int(tried != survived)


if __name__ == "__main__":
    raise SystemExit(main())
