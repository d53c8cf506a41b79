"""The same work done twice, in two processes: with one BLAS thread and two, with other hashes.

``python -m tests.again FILE`` is the work for the law of BLAS threads: it trains a model, and
writes what it found to FILE.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn

ROOT = Path(__file__).parent.parent

# ---- BLAS threads ------------------------------------------------------------------------------

T, B, H, STEPS = 12, 32, 64, 6


class Net(nn.Module):
    """A layer of an LSTM over time, a Tree-LSTM over parses, and products of every sort above."""

    def __init__(self, dtype):
        rng = np.random.default_rng(0)
        self.lstm, self.tree = nn.LSTM(H, H, rng=rng), nn.TreeLSTMCell(H, H, rng=rng)
        self.wide, self.vector = nn.Linear(H, 4 * H, rng=rng), nn.Linear(4 * H, 1, rng=rng)
        for x in self.parameters():
            x.array = x.array.astype(dtype)
        self.x, self.words = (rng.standard_normal((n, B, H)).astype(dtype) for n in (T, 8))
        self.forest = tg.Structure.trees([balanced(8)] * B)
        self.noise = rng.standard_normal((T + 15) * B * 4 * H).astype(dtype)

    def forward(self):
        output, _ = self.lstm(self.x)
        h, _ = tg.fold(self.tree, self.forest, {0: self.words.reshape(-1, H)})
        y = tg.tanh(self.wide(tg.concatenate([output.reshape(-1, H), h])))
        scores = y @ self.vector.weight[0] + self.vector.bias
        along = y.reshape(-1) @ self.noise / len(self.noise) ** 0.5  # one long sum, of both signs
        return ((y.T @ y) ** 2).mean() / T + ((scores - 0.5) ** 2).mean() + along


def balanced(leaves):
    """A binary tree."""
    return "x" if leaves == 1 else (balanced(leaves // 2), balanced(leaves // 2))


def work(dtype):
    """The gradients of the first step of training, and losses and weights after STEPS of them."""
    net = Net(dtype)
    names = [name for name, _ in net.named_parameters()]
    optimizer = tg.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
    found, losses = {}, []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = net()
        loss.backward()
        if step == 0:
            grads = [x.grad.array for x in net.parameters()]
            found |= {f"gradient.{name}": g for name, g in zip(names, grads, strict=True)}
        tg.optim.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
        losses.append(loss.item())
    found |= {f"weights.{name}": x.array for name, x in net.named_parameters()}
    return found | {"losses": np.array(losses, dtype)}


def with_blas_threads(threads, path):
    """What ``python -m tests.again PATH`` found with so many BLAS threads, by name, as float64."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    run(["tests.again", str(path)], dict.fromkeys(names, str(threads)), ROOT)
    return tg.load(path)


def run(command, variables, folder):
    """The output of ``python -m COMMAND`` in ``folder``; RuntimeError with it if that failed."""
    env = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=env, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def bound(what, eps):
    """How far, relative to the largest entry, the order of its sums may move a result.

    A sum of n terms is off by at most n eps / 2 of their sizes, in whatever order it is added up;
    so two orders differ by n eps at most.  To first order such errors add up along the way: the
    longest goes T steps there and T back through sums of 4H terms (the trees are lower), then
    through the wide product, y'y and their cotangents, and the sum over all rows that the gradient
    of a weight is.  Slopes of gates are below 1, and the weights too small to make errors grow.
    The loss has one sum over all of y, whose terms cancel: their sizes are sqrt(n) times the sum,
    but errors cancel as well, which takes as much away.
    """
    rows = (T + 15) * B  # steps, and nodes of the trees
    terms = 2 * T * 4 * H + 2 * (H + 4 * H) + 3 * rows
    return eps * (4 * H * rows if what == "losses" else terms)


def difference(a, b):
    """The largest difference between two arrays, relative to the largest entry."""
    return float(np.abs(a - b).max() / np.abs(a).max())


def differences(one, two):
    """``{(dtype, what): (the largest relative difference, its bound)}``, of all that was found."""
    found = {}
    for name in one:
        dtype, what = name.split(".")[:2]
        before, _ = found.get((dtype, what), (0.0, None))
        limit = bound(what, float(np.finfo(dtype).eps))
        found[dtype, what] = max(before, difference(one[name], two[name])), limit
    return found


# ---- the demos ---------------------------------------------------------------------------------

TIMES = {"seconds", "minutes", "milliseconds", "times_as_fast", "bytes", "claims"}  # in metrics
TIMED = {"speed", "time"}  # tables and pictures of milliseconds
WITHOUT_FLAGS = {"bptt_by_hand", "engine_on_one_page"}  # these print, and leave no files


def left_by(name, folder, hash_seed):
    """What ``python -m demos NAME --quick`` leaves, by file, but for what it measured by a clock.

    Of a demo that leaves no files, what it prints.
    """
    variables = {"PYTHONHASHSEED": str(hash_seed), "OPENBLAS_NUM_THREADS": "1"}
    flags = [] if name in WITHOUT_FLAGS else ["--quick", "--quiet", "--out", "out"]
    folder.mkdir()
    printed = run([f"demos.{name}", *flags], variables, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    left = {str(path.relative_to(folder)): repeatable(path) for path in files}
    return left or {"printed": printed}


def repeatable(path):
    """What has to be the same in the file if a run is repeated: as a rule every byte."""
    if path.stem in TIMED or "MB at once" in head(path.with_suffix(".csv")):
        return None
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    if path.suffix == ".npz" and "checkpoint" in (state := tg.load(path)).metadata:
        arrays = {name: (x.dtype.str, x.shape, x.tobytes()) for name, x in state.items()}
        return arrays, without_times(state.metadata)  # which say how long training has taken
    return path.read_bytes()


def head(path):
    """The first line of a text, "" if there is none."""
    return path.read_text("utf-8").partition("\n")[0] if path.exists() else ""


def without_times(figures):
    """Figures, nested in dicts and lists, without those of TIMES."""
    if isinstance(figures, dict):
        return {key: without_times(x) for key, x in figures.items() if key not in TIMES}
    return [without_times(x) for x in figures] if isinstance(figures, list) else figures


def unlike(name, folder):
    """The files of a demo that are not the same in a second run, and how many there are in all."""
    one, two = (left_by(name, folder / f"{name}.{i}", i) for i in (1, 2))
    return sorted(x for x in one.keys() | two.keys() if one.get(x) != two.get(x)), len(one)


if __name__ == "__main__":
    found = {
        f"{np.dtype(dtype)}.{name}": x
        for dtype in (np.float64, np.float32)
        for name, x in work(dtype).items()
    }
    # What other threads than this one have computed: those of BLAS, for there are no more.
    tg.save(sys.argv[1], found, {"seconds elsewhere": time.process_time() - time.thread_time()})
