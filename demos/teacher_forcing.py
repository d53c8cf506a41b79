"""Teacher forcing: all steps in parallel, what is risked by it, and scheduled sampling as a remedy.

    h^t = tanh(U x^t + R y^{t-1} + b)        o^t = V h^t + c        E^t = -log softmax(o^t)[y^t]

In training y^{t-1} is the target of the step before; in use it is what the net itself chose.  The
task is to follow a slow state through noise, both among K classes:

    y^t = y^{t-1} with probability s, else drawn anew      (s = 0.95)
    x^t = y^t     with probability r, else drawn anew      (r = 0.6)

Parallel.  With targets in the place of outputs, no step needs another one: U, R and V are applied
to the rows of all T steps at once.  The gradients are those of the loop over time, but for
rounding; the demo compares and times both.

The risk.  With targets, y^{t-1} is nearly always y^t, and no x^t outweighs it.  So the net learns
to repeat y^{t-1}, which is wrong in (1 - s)(1 - 1/K) of the steps.  On its own it repeats itself:
after t steps it is wrong with probability (1 - s^t)(1 - 1/K), up to that of a blind guess.

Scheduled sampling (Bengio et al. 2015).  In training, too, y^{t-1} is sometimes the net's own
choice, by a coin for each step; the share of targets falls from 1 to 0.  So the net meets its
mistakes, and learns to go by x^t, wrong in (1 - r)(1 - 1/K) of the steps however long the sequence.
A choice has no gradient: choices are made in a loop that records nothing, and are then trained on
in parallel.  Best of all is Bayes' filter, which keeps the probabilities of all states: a memory.

EXERCISE: are these many mistakes, or few that last?  Write `run_length(wrong)`, the mean length of
the unbroken runs of True in the rows of an array (B, T), 0.0 if there are none.
"""

import time

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training

STAY, RIGHT = 0.95, 0.6  # s and r
DECAY = 0.8  # the share of the training after which no targets are fed in any more
TEST_SEQUENCES, PIECES = 1000, 40  # pieces of a test sequence to average errors over
ROUNDING = 1e-12  # relative, of float64
REPEATS = 7  # of which the median time counts


# ---- the task: arrays (B, T) of classes ----


def sequences(count, length, classes, rng):
    """Inputs x, targets y, and the targets before them."""
    anew = rng.integers(classes, size=(2, count, length + 1))
    stays, seen = rng.random((2, count, length + 1)) < [[[STAY]], [[RIGHT]]]
    y = anew[0]
    for t in range(1, length + 1):
        y[:, t] = np.where(stays[:, t], y[:, t - 1], y[:, t])
    x = np.where(seen, y, anew[1])
    return x[:, 1:], y[:, 1:], y[:, :-1]


def bayes_filter(x, first, classes):
    """The most probable state at each step, given all inputs so far and the state before them."""
    belief, chosen = one_hot(first, classes), []
    for seen in x.T:
        belief = STAY * belief + (1 - STAY) / classes
        belief = belief * (RIGHT * one_hot(seen, classes) + (1 - RIGHT) / classes)
        belief = belief / belief.sum(axis=1, keepdims=True)
        chosen.append(belief.argmax(axis=1))
    return np.stack(chosen, axis=1)


def one_hot(ids, classes, dtype=np.float32):
    return np.eye(classes, dtype=dtype)[ids]


# ---- the net: x and what is fed in, (B, T) -> logits (B, T, K) ----


def vectors(cell, ids):
    return tg.tensor(one_hot(ids, cell.output_size, cell.weight_ih.dtype))


def in_parallel(cell, x, before):
    """All steps by one call."""
    x, y = (vectors(cell, ids) for ids in (x, before))
    return cell.V(cell.hidden(cell.U(x), y))


def step_by_step(cell, x, before):
    """The same by a loop over time, such as W h would need; U x stays outside of it."""
    x, y = (vectors(cell, ids) for ids in (x, before))
    steps = tg.unstack(cell.U(x), axis=1)
    logits = [cell.V(cell.hidden(u, y[:, t])) for t, u in enumerate(steps)]
    return tg.stack(logits, axis=1)


@tg.no_grad()
def on_its_own(cell, x, before, forced):
    """What was fed in and what was chosen, (B, T) each.

    Fed in is the net's own last choice, but a target at the first step and where `forced`.
    """
    fed, chosen = before.copy(), np.empty_like(before)
    for t in range(x.shape[1]):
        if t:
            fed[:, t] = np.where(forced[:, t], before[:, t], chosen[:, t - 1])
        now = slice(t, t + 1)
        chosen[:, now] = in_parallel(cell, x[:, now], fed[:, now]).numpy().argmax(axis=-1)
    return fed, chosen


def error(logits, y):
    return tg.cross_entropy(logits.reshape((-1, logits.shape[-1])), y.ravel())


# ---- parallel: the same gradients, sooner ----


def gradients(cell, way, x, y, before):
    """The gradients of all weights, by name."""
    cell.zero_grad()
    error(way(cell, x, before), y).backward()
    return {name: weight.grad.numpy() for name, weight in cell.named_parameters()}


def largest_difference(args):
    """Of the gradients of both ways in float64, relative to the largest entry of a weight's."""
    cell = tg.nn.JordanCell(args.classes, args.hidden_size, args.classes)
    for name, weight in cell.named_parameters():
        setattr(cell, name, tg.tensor(weight.numpy(), dtype=np.float64, requires_grad=True))
    batch = sequences(args.batch_size, args.length, args.classes, tg.default_rng())
    one, other = (gradients(cell, way, *batch) for way in (in_parallel, step_by_step))
    return max(abs(one[name] - other[name]).max() / abs(one[name]).max() for name in one)


def times(args, run):
    """How many times as fast the parallel way is at the greatest length; the others are drawn."""
    cell = tg.nn.JordanCell(args.classes, args.hidden_size, args.classes)
    table = {"T": [], "in parallel": [], "loop over time": []}
    for length in sorted({-(-args.length // k) for k in (8, 4, 2, 1)}):
        batch = sequences(args.batch_size, length, args.classes, tg.default_rng())
        taken = {in_parallel: [], step_by_step: []}
        for way in [*taken] * REPEATS:
            start = time.perf_counter()
            gradients(cell, way, *batch)
            taken[way].append(1e3 * (time.perf_counter() - start))
        row = length, *map(np.median, taken.values())
        for column, figure in zip(table.values(), row, strict=True):
            column.append(figure)
    run.curves("speed", table, "milliseconds, forward and backward")
    run.log(milliseconds=table)
    return table["loop over time"][-1] / table["in parallel"][-1]


# ---- training ----


def fit(cell, args, share, run, label):
    """Train with the `share(done)` of targets among what is fed in, once `done` is behind."""
    coins = tg.default_rng()

    def batches(rng):
        size = args.batch_size, args.length, args.classes
        return [(step / args.steps, *sequences(*size, rng)) for step in range(args.steps)]

    def loss_of(batch):
        done, x, y, fed = batch
        if share(done) < 1:
            fed, _ = on_its_own(cell, x, fed, coins.random(fed.shape) < share(done))
        return error(in_parallel(cell, x, fed), y)

    training.fit(cell, loss_of, batches, args, run, label, epochs=1)


def always_targets(done):
    return 1.0


def scheduled(done):
    """A straight line from 1 to 0."""
    return max(0.0, 1 - done / DECAY)


# ---- the demo ----


def demo(args, run):
    if args.classes < 2 or args.test_length < 2:
        raise kit.DataError("nothing to follow: --classes and --test-length should be 2 at least")
    off, faster = largest_difference(args), times(args, run)
    print(f"in parallel: gradients differ by {off:.1e} (at most {ROUNDING:.0e} allowed), ", end="")
    print(f"{faster:.1f} times as fast at T = {args.length}")
    run.log(difference=off, times_as_fast=faster)

    x, y, before = sequences(TEST_SEQUENCES, args.test_length, args.classes, tg.default_rng())
    wrong = {}
    for name, share in [("teacher forcing", always_targets), ("scheduled sampling", scheduled)]:
        cell = tg.nn.JordanCell(args.classes, args.hidden_size, args.classes)
        fit(cell, args, share, run, name)
        for fed, forced in ("on targets", True), ("on its own", False):
            _, chosen = on_its_own(cell, x, before, np.full(x.shape, forced))
            wrong[f"{name}, {fed}"] = (chosen != y).mean(axis=0)
    wrong["Bayes' filter"] = (bayes_filter(x, before[:, 0], args.classes) != y).mean(axis=0)
    report(wrong, args, run)
    half = args.test_length // 2
    targets, own, _, remedied, _ = wrong.values()
    return {
        "all steps at once give the gradients of the loop": off < ROUNDING,
        "and sooner": faster > 1,
        "on its own it errs far more than on targets": own.mean() > 3 * targets.mean(),
        "errors gather over the sequence": own[half:].mean() > 1.2 * own[:half].mean(),
        "scheduled sampling makes them fewer": remedied.mean() < 0.7 * own.mean(),
    }


def report(wrong, args, run):
    """Print and draw the errors by place in the sequence."""
    blind, t = 1 - 1 / args.classes, np.arange(1, args.test_length + 1)
    names = [*wrong]
    expected = dict.fromkeys(names, np.nan)
    expected[names[0]] = (1 - STAY) * blind * np.ones(t.size)
    expected[names[1]] = (1 - STAY**t) * blind
    expected[names[3]] = (1 - RIGHT) * blind * np.ones(t.size)
    print(f"{'share of wrong steps':32}{'all':>8}{'expected':>10}{'first half':>12}{'second':>8}")
    half = args.test_length // 2
    for name, e in wrong.items():
        means = e.mean(), np.mean(expected[name]), e[:half].mean(), e[half:].mean()
        cells = [f"{mean:.1%}" if mean == mean else "" for mean in means]
        print(f"  {name:30}{cells[0]:>8}{cells[1]:>10}{cells[2]:>12}{cells[3]:>8}")
        run.log(net=name, wrong=means[0], first_half=means[2], second_half=means[3])
    pieces = np.array_split(t, min(PIECES, t.size))
    curves = {name: [e[piece - 1].mean() for piece in pieces] for name, e in wrong.items()}
    columns = {"t": [piece[-1] for piece in pieces], **curves}
    run.curves("wrong", columns, "share of wrong steps", {"blind guess": blind})


def main(argv=None):
    p = kit.parser("teacher_forcing", __doc__)
    p.add_argument("--classes", type=kit.size, default=4, help="K")
    p.add_argument("--length", type=kit.length, default=100, help="T in training")
    p.add_argument("--test-length", type=kit.length, default=200, help="T in the test")
    p.add_argument("--hidden-size", type=kit.size, default=32, help="units of h")
    p.add_argument("--batch-size", type=kit.positive(int), default=32, help="sequences at once")
    p.add_argument("--steps", type=kit.positive(int), default=500, help="updates of each net")
    p.add_argument("--lr", type=kit.positive(float), default=1e-2, help="Adam's rate at the start")
    args = p.parse_args(argv)
    if args.quick:
        args.steps, args.length, args.test_length = 150, 50, 100
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
