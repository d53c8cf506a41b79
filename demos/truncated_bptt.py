"""Truncated BPTT: what a gradient that looks back a steps costs, and what it cannot see.

    dE/dW = sum_t dE^t/dW        dE^t/dW = sum_{k = t-a}^t  dE^t/dh^t  dh^t/dh^k  dh^k/dW

The lecture's form lets every error look back a steps.  The cheaper form cuts the sequence into
windows of a + 1 steps: an error looks back to the beginning of its own window, so only the last
one of each window looks back a steps.  In both the values of h are carried on without a cut.

The task is an echo, y^t = x^{t-d} of random symbols: what E^t has to teach U is d steps back, so
a < d cannot learn it, and a >= d can.  (Except what a random W happens to remember, which the
readout finds for any a: with 2 symbols and a delay of 4 that was, for one seed, nearly all.)
Before and after training are measured, against all of BPTT, the cosine and the relative error of
dE/dU and dE/dW, and the memory and the time they take.  With --data TEXT the task is the next
character of a text instead, y^t = x^{t+1}: there is no d then, and most is to be had from nearby.

EXERCISE: write `share(length, d)`, the share of the errors in a window of so many steps that look
back at least d steps; it says how much of the data teaches a delay d.
"""

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos.char_lm import codes

NOTHING = -1  # the target of the first d steps: what came d steps before is not there
FORMS = ("every error", "windows")
SYMBOLS = 10_000  # different characters at most, for a step reads a number for each
LAST = 20  # training steps whose loss counts; each has new sequences


# ---- what is to be learned ----


class Task(NamedTuple):
    """Sequences of symbols: `draw(rng, T)` is one-hot inputs (T, B, symbols) and targets (T, B).

    The first `silent` steps have no target; a `guess` from what is frequent costs so many nats.
    """

    draw: Callable
    symbols: int
    silent: int
    guess: float


def echo(symbols, delay, batch_size):
    """The task to say again, `delay` steps later, which of random symbols came."""

    def draw(rng, T):
        ids = rng.integers(symbols, size=(T, batch_size))
        late = np.full_like(ids, NOTHING)
        late[delay:] = ids[: T - delay]
        return np.eye(symbols, dtype=np.float32)[ids], late

    return Task(draw, symbols, delay, np.log(symbols))


def next_character(text, batch_size):
    """The task to say what comes next in pieces of a text."""
    characters, ids, count = np.unique(codes(text), return_inverse=True, return_counts=True)

    def draw(rng, T):
        places = rng.integers(len(ids) - T, size=batch_size) + np.arange(T + 1)[:, None]
        pieces = ids[places]  # (T + 1, B)
        return (pieces[:-1, :, None] == np.arange(len(characters))).astype(np.float32), pieces[1:]

    p = count / count.sum()
    return Task(draw, len(characters), 0, -(p * np.log(p)).sum())


# ---- training, in both forms ----


class Net(tg.nn.Module):
    """A tanh net and its readout; `error` is the share of one step in the mean over `counted`."""

    def __init__(self, symbols, hidden, counted):
        self.cell = tg.nn.RNNCell(symbols, hidden)
        self.readout = tg.nn.Linear(hidden, symbols)
        self.counted = counted

    def error(self, h, y):
        """E^t, such that their sum is in nats per symbol."""
        return tg.cross_entropy(self.readout(h), y, ignore_index=NOTHING) / self.counted


def by_windows(net, xs, ys, length):
    """The sum of all E^t; adds to each `grad` what is seen inside of windows."""
    h, total = tg.tensor(np.zeros((xs.shape[1], net.cell.hidden_size), np.float32)), 0.0
    for window in tg.windows(len(xs), length):
        h, E = tg.detach(h), 0.0
        for x, y in zip(xs[window], ys[window], strict=True):
            h = net.cell(x, h)
            E = E + net.error(h, y)
        E.backward()
        total += E.item()
    return total


def backward(form, net, xs, ys, a):
    """E, and its truncated gradient in each `grad`."""
    net.zero_grad()
    if form == "windows":
        return by_windows(net, xs, ys, a + 1)
    return tg.truncated_bptt(net.cell, net.error, xs, ys, a)[0]


def train(form, a, task, args, progress):
    """A new net and its losses."""
    tg.manual_seed(args.seed)
    net = Net(task.symbols, args.hidden_size, args.T - task.silent)
    optimizer, rng = tg.optim.Adam(net.parameters(), lr=args.lr), np.random.default_rng(args.seed)
    losses = []
    for step in range(args.steps):
        xs, ys = task.draw(rng, args.T)
        losses.append(backward(form, net, tg.tensor(xs), ys, a))
        kit.check_finite(losses[-1])
        tg.optim.clip_grad_norm_(optimizer.parameters, 1.0)
        optimizer.step()
        progress.reached((step + 1) / args.steps, f"{np.mean(losses[-LAST:]):.3f} nats")
    return net, losses


# ---- the gradient itself ----


def gradients(form, net, xs, ys, a):
    """dE/dU and dE/dW in float64, as flat vectors."""
    backward(form, net, xs, ys, a)
    cell = net.cell
    return {
        name: w.grad.numpy().astype(float).ravel()
        for name, w in {"U": cell.weight_ih, "W": cell.weight_hh}.items()
    }


def compared(g, full):
    """The cosine of two gradients, and the norm of their difference relative to the second."""
    size = np.linalg.norm(full)
    return g @ full / (np.linalg.norm(g) * size), np.linalg.norm(g - full) / size


def cost(form, net, xs, ys, a):
    """Seconds of one gradient, and then, of one more, the bytes that it needs at its peak."""
    start = time.perf_counter()
    backward(form, net, xs, ys, a)
    seconds = time.perf_counter() - start
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    backward(form, net, xs, ys, a)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return seconds, peak


def quality(net, when, task, args, run):
    """Print and draw how good the gradients of `net` are for each a; returns what was found."""
    T = 4 * args.T  # so that a can be small beside it
    net.counted = T - task.silent
    xs, ys = task.draw(np.random.default_rng(args.seed), T)
    xs = tg.tensor(xs)
    full = gradients("windows", net, xs, ys, T - 1)
    lengths = sorted({0, 1, 2, *range(args.delay - 1, args.delay + 3), 2 * args.delay, T - 1})
    cost(FORMS[0], net, xs, ys, 0)  # what is set up once is not of the first row
    found, columns = {}, {"a": lengths[:-1]}  # the last would leave no room for the others
    print(f"\ngradients, {when}; T = {T}")
    print(f"{'':14}  a   cosine U      W   error U      W   KB at once   seconds")
    for form in FORMS:
        for a in lengths:
            g = gradients(form, net, xs, ys, a)
            (cos_U, off_U), (cos_W, off_W) = (compared(g[name], full[name]) for name in "UW")
            seconds, peak = cost(form, net, xs, ys, a)
            found[form, a] = row = {"cosine_U": cos_U, "error_U": off_U, "bytes": peak}
            print(
                f"{form:14}{a:3}{cos_U:11.3f}{cos_W:7.3f}{off_U:10.1e}{off_W:8.1e}"
                f"{peak / 1024:12.0f}{seconds:10.3f}"
            )
            run.log(
                when=when, form=form, a=a, cosine_W=cos_W, error_W=off_W, seconds=seconds, **row
            )
        columns[f"{form}: error of dE/dU"] = [found[form, a]["error_U"] for a in lengths[:-1]]
        columns[f"{form}: MB at once"] = [found[form, a]["bytes"] / 2**20 for a in lengths[:-1]]
    run.curves(f"gradient_{when}", columns, "relative error; MB", log_scale=True)
    return found


# ---- the demo ----


def learning(task, args, run):
    """The last loss for each form and a, and the net that looked back furthest."""
    lengths = sorted({0, args.delay - 1, args.delay, args.delay + 1, 2 * args.delay, args.T - 1})
    losses, columns = {}, {"a": lengths}
    what = args.data or f"an echo of {args.delay} steps back"
    print(f"{what}: a guess costs {task.guess:.3f} nats")
    for form in FORMS:
        for a in lengths:
            with kit.Progress(run, f"{form}, a = {a}") as progress:
                net, curve = train(form, a, task, args, progress)
            losses[form, a] = np.mean(curve[-LAST:])
            print(f"{form:14}{a:3}{losses[form, a]:8.3f} nats")
            run.log(form=form, a=a, loss=losses[form, a])
        columns[form] = [losses[form, a] for a in lengths]
    run.curves("loss", columns, "nats per symbol at the end", {"guess": task.guess})
    return losses, net


def read(path, T):
    """The text of a file, which has several characters and pieces of T + 1."""
    text = kit.read_text(path)
    if len(text) <= T or not 2 <= len(set(text)) <= SYMBOLS:
        raise kit.DataError(
            f"{path}: {len(text):,} characters, {len(set(text)):,} different; expected: {T + 1:,}"
            f" or more, 2 to {SYMBOLS:,} different; give another text or lower --T"
        )
    return text


def demo(args, run):
    if args.data:
        task = next_character(read(args.data, 4 * args.T), args.batch_size)
    else:
        task = echo(args.symbols, args.delay, args.batch_size)
    losses, net = learning(task, args, run)
    tg.manual_seed(args.seed)
    untrained = Net(task.symbols, args.hidden_size, 1)
    found = quality(untrained, "untrained", task, args, run)
    if not args.quick:
        quality(net, "trained", task, args, run)
    if args.data or args.quick:  # a text may teach something else, and --quick is too short
        return {}
    longest, d = max(a for _, a in found), args.delay
    step, window = ({a: found[form, a] for f, a in found if f == form} for form in FORMS)
    seen = {
        "a = T - 1 is all of BPTT": step[longest]["error_U"] < 1e-4,
        "equal a, windows are further from it": window[d]["error_U"] > step[d]["error_U"],
        "from a = d - 1 to d the error of dE/dU falls to less than half": (
            step[d]["error_U"] < step[d - 1]["error_U"] / 2
        ),
    }
    if args.device == "cpu":  # tracemalloc does not see what lies on a device
        seen["less memory than all of BPTT"] = step[d]["bytes"] < window[longest]["bytes"] / 2
    near = [loss for (_, a), loss in losses.items() if a < d]
    far = [loss for (_, a), loss in losses.items() if a >= d]
    return seen | {
        "a < d does not learn the echo": min(near) > 0.85 * task.guess,
        "a >= d learns it": max(far) < 0.7 * task.guess,
    }


def main(argv=None):
    p = kit.parser("truncated_bptt", __doc__)
    p.add_argument("--data", type=Path, help="a UTF-8 text to predict instead of an echo")
    p.add_argument("--delay", type=kit.length, default=5, help="d, steps to look back")
    p.add_argument("--T", type=kit.length, default=16, help="steps of a sequence")
    p.add_argument("--symbols", type=kit.size, default=4, help="different symbols")
    p.add_argument("--hidden-size", type=kit.size, default=32, help="units of h")
    p.add_argument("--batch-size", type=kit.positive(int), default=32, help="sequences at once")
    p.add_argument("--steps", type=kit.positive(int), default=200, help="of training, each net")
    p.add_argument("--lr", type=kit.positive(float), default=0.01, help="Adam's rate")
    args = p.parse_args(argv)
    if args.quick:
        args.steps, args.batch_size, args.T = 2, 4, 2 * args.delay + 1
    if args.symbols < 2:
        p.error("argument --symbols: what is said again must be one of two or more")
    if 2 * args.delay >= args.T:
        p.error("argument --T: sequences must be longer than two delays")
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
