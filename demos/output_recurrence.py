"""Why output-to-hidden recurrence is less powerful, and how much less, on two tasks of one input.

    Elman:  h^t = tanh(U x^t + W h^{t-1} + b)        o^t = V h^t + c
    Jordan: h^t = tanh(U x^t + R y^{t-1} + b)        o^t = V h^t + c

At every step x^t stores one of K values, holds, or asks for the value stored last.  Of this input
two tasks are made, by two sorts of target:

    on demand   y^t is the value if x^t asks, else the class "wait"
    always      y^t is the value, asked or not

Both ask for the same memory.  What a Jordan net knows of the past is y^{t-1}, and on demand that
is mostly "wait", which says nothing.  By the data processing inequality no weights get its loss
below what is then unknown, the conditional entropy

    floor = H(y^t | x^t, y^{t-1}) = - mean over t of log p(y^t | x^t, y^{t-1})

with p the frequencies in the test data themselves: the least loss there of any function of x^t and
y^{t-1}.  On demand it is P(an ask, not after an ask) log K; always, it is 0: the targets carry what
must be remembered, and Jordan suffices.  The Elman net may keep in h what no target says.

That is teacher forcing: y^{t-1} is the target.  The same net is then run on its own choices, where
a guess, once made, is believed.  The floor is none for a net trained through its own real numbers,
o^{t-1} in the place of y^{t-1}: many o give the same answer, and in what tells them apart it can
hide a memory.  A third net does, and fails when run on log softmax(o), which answers alike.

EXERCISE: a Jordan net can do the first task if "wait" comes in kinds.  Write `waits(x, values)`:
targets that answer an ask as `on_demand` does, that at all other steps are classes from `values`
up, and whose `floor` is 0.  How many classes does it take?
"""

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training

ASK_SHARE, STORE_SHARE = 0.25, 0.25  # of the steps; in the others the input holds
REPORTS = 100  # points of a curve
TEST_SEQUENCES = 500
THROUGH_TIME = "Jordan on o, errors through time"
WIDER = 3  # Jordan's hidden layer, so that it has no fewer weights than Elman's net
MISSED = 0.05  # what training may leave above the floor, as a share of what was to be remembered


# ---- one input, two tasks: arrays (B, T) of ids ----


def stream(sequences, steps, values, rng):
    """Inputs: an id below `values` stores it, `values` holds, `values + 1` asks."""
    shares = [STORE_SHARE / values] * values + [1 - STORE_SHARE - ASK_SHARE, ASK_SHARE]
    x = rng.choice(values + 2, (sequences, steps), p=shares)
    x[:, 0] = rng.integers(values, size=sequences)  # so that there is something to ask for
    return x


def always(x, values):
    """Targets: the value that was stored last."""
    y = x.copy()
    for t in range(1, x.shape[1]):
        y[:, t] = np.where(x[:, t] < values, x[:, t], y[:, t - 1])
    return y


def on_demand(x, values):
    """Targets: the value that was stored last where it is asked for, elsewhere "wait"."""
    return np.where(x == values + 1, always(x, values), values)


def before(y):
    """The target of the step before; -1 at the first step."""
    return np.concatenate([np.full_like(y[:, :1], -1), y[:, :-1]], axis=1)


def floor(x, y):
    """H(y^t | x^t, y^{t-1}) in these data, in nats."""
    return entropy(x, before(y), y) - entropy(x, before(y))


def entropy(*variables):
    """The entropy of these variables together, by their frequencies."""
    _, counts = np.unique(np.stack([v.ravel() for v in variables]), axis=1, return_counts=True)
    p = counts / counts.sum()
    return -(p * np.log(p)).sum()


# ---- nets: x, y (B, T) -> logits (B T, classes), the rows sequence after sequence ----


class Elman(tg.nn.Module):
    """W h^{t-1}: its state is h."""

    def __init__(self, values, classes, hidden_size):
        self.cell = tg.nn.RNNCell(values + 2, hidden_size)
        self.V = tg.nn.Linear(hidden_size, classes)

    def forward(self, x, y):
        return self.V(tg.fold(self.cell.step, chains(x), self.cell.U(inputs(self.cell, x))))


class Jordan(tg.nn.Module):
    """R y^{t-1}: the target of the step before; nothing is carried, all steps are one call."""

    def __init__(self, values, classes, hidden_size):
        self.cell = tg.nn.JordanCell(values + 2, WIDER * hidden_size, classes)

    def forward(self, x, y):
        targets = one_hot(before(y).ravel(), self.cell.output_size)
        return self.cell.V(self.cell.hidden(self.cell.U(inputs(self.cell, x)), targets))


class Free(Jordan):
    """R o^{t-1}: its own output; its state is o, and errors go back through all steps."""

    def forward(self, x, y):
        return tg.fold(self.cell.step, chains(x), self.cell.U(inputs(self.cell, x)))


def chains(x):
    return tg.Structure.chains([x.shape[1]] * x.shape[0])


def inputs(cell, x):
    return one_hot(x.ravel(), cell.input_size)


def one_hot(ids, size):
    """Rows of one 1; of zeros for -1."""
    return tg.tensor((ids[:, None] == np.arange(size)).astype(np.float32))


@tg.no_grad()
def on_its_own(cell, x, fed_back):
    """The logits where R is applied to `fed_back(o^{t-1})`, and zeros before the first step."""
    y, logits = tg.tensor(np.zeros((len(x), cell.output_size), np.float32)), []
    for u in tg.unstack(tg.reshape(cell.U(inputs(cell, x)), (*x.shape, -1)), axis=1):
        o = cell.V(cell.hidden(u, y))
        y = fed_back(o)
        logits.append(o.numpy())
    return np.stack(logits, axis=1).reshape(x.size, -1)


def choice(o):
    """What the net answers."""
    return one_hot(o.numpy().argmax(axis=-1), o.shape[-1])


# ---- training and testing ----


def fit(net, targets, args, run, label):
    """Train on new sequences all the time; the loss of each step."""

    def batches(rng):
        size = args.batch_size, args.length, args.values
        return [stream(*size, rng) for _ in range(args.steps)]

    def loss_of(x):
        y = targets(x, args.values)
        return tg.cross_entropy(net(x, y), y.ravel())

    return training.fit(net, loss_of, batches, args, run, label, epochs=1, clip=1.0)


def score(logits, x, y, values):
    """Nats per step, and the share of the asks that are answered rightly."""
    right = (np.asarray(logits).argmax(axis=-1) == y.ravel())[x.ravel() == values + 1]
    return tg.cross_entropy(logits, y.ravel()).item(), right.mean()


# ---- the demo ----


def trained(task, targets, kinds, test, args, run):
    """The nets of one task by name, and their losses on the test data, which are printed."""
    y = targets(test, args.values)
    least = floor(test, y)
    run.log(task=task, floor=least)
    nets, losses, curves = {}, {"floor": least}, {}
    print(f"{task}: floor of any function of x^t and y^(t-1): {least:.4f} nats per step")
    for name, kind in kinds.items():
        net = nets[name] = kind(args.values, args.values + 1, args.hidden_size)
        curves[name] = fit(net, targets, args, run, f"{task}, {name}")
        weights = sum(p.size for p in net.parameters())
        with tg.no_grad():
            losses[name], share = score(net(test, y).numpy(), test, y, args.values)
        show(name, losses[name], share, f"   {weights:,} weights")
        run.log(task=task, net=name, loss=losses[name], asks_right=share)
    parts = np.array_split(np.arange(args.steps), min(REPORTS, args.steps))
    columns = {"sequences read": [(part[-1] + 1) * args.batch_size for part in parts]}
    columns |= {name: [np.mean(np.take(c, part)) for part in parts] for name, c in curves.items()}
    run.curves(task.replace(" ", "_"), columns, "nats per step", {"floor": least})
    return nets, losses


def show(name, loss, share, more=""):
    print(f"  {name:32}{loss:8.4f} nats{share:8.1%} of the asks right{more}")


def demo(args, run):
    test = stream(TEST_SEQUENCES, args.length, args.values, tg.default_rng())
    y = on_demand(test, args.values)
    if not floor(test, y) > 0:
        raise kit.DataError("nothing to remember: --values and --length should be 2 at least")
    plain = {"Elman": Elman, "Jordan on targets": Jordan}
    nets, demand = trained("on demand", on_demand, plain | {THROUGH_TIME: Free}, test, args, run)
    for name, fed_back, called in [
        ("Jordan on targets", choice, "  the same, on its own choices"),
        (THROUGH_TIME, tg.log_softmax, "  the same, on log softmax(o)"),
    ]:
        logits = on_its_own(nets[name].cell, test, fed_back)
        demand[called], share = score(logits, test, y, args.values)
        show(called, demand[called], share)
        run.log(task="on demand", net=called.strip(), loss=demand[called], asks_right=share)
    _, carried = trained("always", always, plain, test, args, run)

    least, allowed = demand["floor"], MISSED * demand["floor"]
    gap = demand["Jordan on targets"] - demand["Elman"]
    print(f"the gap on demand is {gap:.4f} nats per step, the floor {least / gap:.1%} of it")
    return {
        "on demand, Elman learns": demand["Elman"] <= allowed,
        "on demand, Jordan is at its floor": abs(demand["Jordan on targets"] - least) < allowed,
        "where targets carry the value, Jordan learns": carried["Jordan on targets"] <= allowed,
        "outputs that may hide a memory do": demand[THROUGH_TIME] < least / 2,
        "the memory is not in the answers": demand["  the same, on log softmax(o)"] > least,
    }


def main(argv=None):
    p = kit.parser("output_recurrence", __doc__)
    p.add_argument("--values", type=kit.size, default=4, help="K, different values")
    p.add_argument("--length", type=kit.length, default=20, help="steps of a sequence")
    p.add_argument("--hidden-size", type=kit.size, default=32, help="units of Elman's h")
    p.add_argument("--batch-size", type=kit.positive(int), default=32, help="sequences at once")
    p.add_argument("--steps", type=kit.positive(int), default=1500, help="updates of each net")
    p.add_argument("--lr", type=kit.positive(float), default=1e-2, help="Adam's rate at the start")
    args = p.parse_args(argv)
    if args.quick:
        args.values, args.length, args.steps = 2, 10, 350
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
