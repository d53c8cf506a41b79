"""A recurrent net and a convolutional one on the same sequences: weights, windows, waiting.

    CNN    S(t) = (I * K)(t) = sum_m I(t - m) K(m),  m = 0 ... k - 1       a layer; L are stacked
    RNN    h^t = tanh(U x^t + W h^{t-1} + b)

Both use the same weights at every step, so that they have as many for a long sequence as for a
short one; a fully connected layer has not.  Where they differ:

    window      S(T) of L stacked layers depends on the last L (k - 1) + 1 inputs and on no other;
                h^T depends on all.  Measured by which dS(T)/dI(t) and dh^T/dx^t are not zero, and
                by what it costs: nets are asked for the first symbol of a sequence, a delay later.
    parallel    h^t must wait for h^{t-1}; the S(t) of a layer wait for the layer below, and not for
                each other.  Counted, as the longest chain of calls of which each needs the one
                before, and timed, for one sequence of T steps, forward and backward.

EXERCISE: with gaps of d - 1 steps between its k inputs, dilation d, a layer sees further for the
same cost (van den Oord et al. 2016).  Write `window(widths, dilations)` here: how many steps there
are from the first to the last input that the top of a stack of such layers depends on, S(t) of the
slide being that of dilation 1.  `pytest -k dilated` grades it.
"""

import itertools
import time

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training

STACKS = [(1, 3), (2, 3), (4, 3), (4, 5)]  # (L, k)
SYMBOLS = 8  # that may come first; as many others follow
STEPS_BACK = 32  # for the curve of gradients
NOISES = 25  # continuations for each first symbol and delay, to test on
STEPS_AN_EPOCH = 50
OFTEN = 6  # times as often as chance a net is right that remembers
MARGIN = 1.25  # by which the ratio of times must grow with T: 2.4 alone, 1.7 beside other programs


# ---- the two nets: x (B, T, D) -> states (B, T, H), and an answer after the last step ----


def convolved(x, layer):
    """S(t) of a Conv1d for every step t of x (B, C, T), with I = 0 before the first step."""
    width = layer.weight.shape[2]
    return layer(tg.pad(x, [(0, 0), (0, 0), (width - 1, 0)]))


class Convolutional(tg.nn.Module):
    """L layers of S(t) = sum_m I(t - m) K(m) + b, with tanh behind each."""

    def __init__(self, inputs, size, outputs, layers, width):
        sizes = [inputs] + layers * [size]
        self.layers = [tg.nn.Conv1d(a, b, width) for a, b in itertools.pairwise(sizes)]
        self.V = tg.nn.Linear(size, outputs)

    def states(self, x):
        s = tg.swapaxes(x, 1, 2)
        for layer in self.layers:
            s = tg.tanh(convolved(s, layer))
        return tg.swapaxes(s, 1, 2)

    def forward(self, x):
        return self.V(self.states(x)[:, -1])


class Recurrent(tg.nn.Module):
    """h^t = tanh(U x^t + W h^{t-1} + b)."""

    def __init__(self, inputs, size, outputs):
        self.rnn = tg.nn.RNN(inputs, size, batch_first=True)
        self.V = tg.nn.Linear(size, outputs)

    def states(self, x):
        return self.rnn(x)[0]

    def forward(self, x):
        return self.V(self.states(x)[:, -1])


def nets(args, inputs, outputs):
    """{name: net}: all stacks, and the recurrent net."""
    stacks = {
        name_of(layers, width): Convolutional(inputs, args.hidden_size, outputs, layers, width)
        for layers, width in STACKS
    }
    return stacks | {"recurrent": Recurrent(inputs, args.hidden_size, outputs)}


def name_of(layers, width):
    """The name of a stack."""
    return f"{layers} x width {width}"


# ---- what is measured of them ----


def formula(signal, layer):
    """S(t) = sum_m I(t - m) K(m) + b as on the slide, for every t, of signal (C, T): (C_out, T)."""
    K = layer.weight.numpy()[:, :, ::-1]  # (C_out, C, k): the weights are in the order of time
    T, width = signal.shape[1], K.shape[2]
    S = [sum(K[:, :, m] @ signal[:, t - m] for m in range(width) if t >= m) for t in range(T)]
    return np.transpose(S) + layer.bias.numpy()[:, None]


def gradient_by_step(net, x):
    """The length of the gradient of a random sum of the last state, at each step of x, (T,)."""
    x = tg.tensor(x, requires_grad=True)
    last = net.states(x)[:, -1]
    g = tg.default_rng().standard_normal(last.shape).astype(np.float32)
    last.backward(tg.tensor(g))
    return np.sqrt((x.grad.numpy() ** 2).sum(axis=(0, 2)))


def longest_chain(y):
    """The number of recorded calls behind `y` of which each needs the result of the one before."""
    found, todo = set(), [y.node]
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += node.parents()
    length = {}
    for node in sorted(found, key=lambda node: node.birth):
        length[node] = max([1 + length[parent] for parent in node.parents()], default=0)
    return length[y.node]


def seconds(net, x, repeats):
    """The seconds that one sequence takes, forward and backward, without what others took."""
    took = []
    for _ in range(repeats):
        begun = time.perf_counter()
        total = net.states(x).sum()
        total.item()  # which is there when a device has done all that it was asked for
        between = time.perf_counter()
        total.backward()
        total.item()
        took.append((between - begun, time.perf_counter() - between))
    return np.min(took, axis=0)


# ---- the task: what was the first symbol? ----


def vectors(ids):
    """Symbols as vectors with a one at their place."""
    return np.eye(2 * SYMBOLS, dtype=np.float32)[ids]


def questions(first, delay, rng):
    """Sequences, (B, delay + 1, D): a first symbol, then others that say nothing."""
    noise = rng.integers(SYMBOLS, 2 * SYMBOLS, (len(first), delay))
    return vectors(np.concatenate([first[:, None], noise], axis=1))


def training_batches(args, rng):
    """An epoch: batches of questions with delays of all sizes, and their answers."""
    out = []
    for delay in rng.integers(0, args.delay + 1, STEPS_AN_EPOCH):
        first = rng.integers(0, SYMBOLS, args.batch_size)
        out.append((questions(first, delay, rng), first))
    return out


@tg.no_grad()
def right_by_delay(net, args):
    """The share of right answers at each delay.

    All first symbols are asked for with the same continuations, so that answers that do not depend
    on it are right once in SYMBOLS, exactly.
    """
    rng, shares = np.random.default_rng(args.seed + 1), []
    for delay in range(args.delay + 1):
        x = questions(np.zeros(NOISES, int), delay, rng)
        right = []
        for symbol in range(SYMBOLS):
            x[:, 0] = vectors(symbol)
            right.append(net(tg.tensor(x)).numpy().argmax(axis=1) == symbol)
        shares.append(np.mean(right))
    return np.array(shares)


# ---- the demo ----


def compare_weights(models, args, run):
    """Print the numbers of weights, beside a linear layer from all steps to the last state."""
    lengths = (16, 64, 256)
    run.say(f"weights, for sequences of {', '.join(map(str, lengths))} steps:")
    numbers = {name: len(lengths) * [weights(net)] for name, net in models.items()}
    numbers["fully connected"] = [T * 2 * SYMBOLS * args.hidden_size for T in lengths]
    for name, own in numbers.items():
        run.say(f"  {name:16}" + "".join(f"{number:12,}" for number in own))
    run.log(lengths=lengths, weights=numbers)


def weights(net):
    """The number of weights of a net."""
    return sum(p.size for p in net.parameters())


def compare_windows(models, run):
    """How many of the last inputs reach the last state of each net."""
    x = tg.default_rng().standard_normal((4, STEPS_BACK, 2 * SYMBOLS)).astype(np.float32)
    curves, windows = {"steps before the last": range(STEPS_BACK)}, {}
    for name, net in models.items():
        curves[name] = gradient_by_step(net, x)[::-1]
        windows[name] = int(np.flatnonzero(curves[name]).max()) + 1
    run.curves("gradient_by_step", curves, "size of dS(T)/dI(t), dh(T)/dx(t)", log_scale=True)
    run.log(windows=windows)
    return windows


def compare_waiting(models, args, run):
    """{name: steps that must wait for each other}, {name: seconds}, at each T of `args.lengths`."""
    models = {name: models[name] for name in (name_of(*STACKS[-1]), "recurrent")}
    chains, times = {name: [] for name in models}, {}
    for T in args.lengths:
        x = tg.tensor(tg.default_rng().standard_normal((1, T, 2 * SYMBOLS)).astype(np.float32))
        for name, net in models.items():
            with tg.detect_anomaly():  # where a layer, elsewhere one operation, shows its steps
                chains[name].append(longest_chain(net.states(x)))
            forward, backward = seconds(net, x, args.repeats)
            times.setdefault(f"{name}, forward", []).append(1000 * forward)
            times.setdefault(f"{name}, backward", []).append(1000 * backward)
    run.curves(
        "waiting", {"steps of the sequence": args.lengths} | chains, "longest chain of calls"
    )
    columns = {"steps of the sequence": args.lengths} | times
    run.curves("time", columns, "milliseconds for one sequence", log_scale=True)
    run.log(lengths=args.lengths, longest_chains=chains, milliseconds=times)
    return chains, times


def compare_memory(models, args, run):
    """{name: the shares of right answers at the delays 0, 1, ...}."""
    shares = {}
    for name, net in models.items():
        losses = training.fit(
            net,
            lambda batch, net=net: tg.cross_entropy(net(tg.tensor(batch[0])), batch[1]),
            lambda rng: training_batches(args, rng),
            args,
            run,
            name,
        )
        shares[name] = right_by_delay(net, args)
        run.log(net=name, last_losses=np.mean(losses[-50:]), right_by_delay=shares[name].tolist())
    delays = {"delay, steps": range(args.delay + 1)}
    run.curves("first_symbol", delays | shares, "right answers", {"chance": 1 / SYMBOLS})
    return shares


def report(windows, chains, times, shares, args):
    """Print what came of the comparisons."""
    print("inputs that the last state depends on, and right answers by the delay of the question:")
    delays = sorted({0, *(w - 1 for w in windows.values()), *windows.values(), args.delay})
    delays = [delay for delay in delays if delay <= args.delay]
    print(f"  {'':16}{'inputs':>8}" + "".join(f"{f'd = {delay}':>9}" for delay in delays))
    for name, window in windows.items():
        many = "all" if window == STEPS_BACK else window
        right = "".join(f"{shares[name][delay]:9.1%}" for delay in delays)
        print(f"  {name:16}{many:>8}{right}")
    print("the longest chain of calls, and milliseconds for one sequence, by its steps T:")
    print(f"  {'':26}" + "".join(f"{f'T = {T}':>10}" for T in args.lengths))
    for name, chain in chains.items():
        print(f"  {name + ', chain':26}" + "".join(f"{calls:10,}" for calls in chain))
    for name, milliseconds in times.items():
        print(f"  {name:26}" + "".join(f"{one:10.2f}" for one in milliseconds))


def growth(times):
    """By how much the ratio of times, recurrent to stack, is larger for long T than for short."""
    forward, backward, *recurrent = map(np.array, times.values())
    ratios = sum(recurrent) / (forward + backward)
    return ratios[-1] / ratios[0]


def demo(args, run):
    rng = tg.default_rng()
    models = nets(args, 2 * SYMBOLS, SYMBOLS)
    compare_weights(models, args, run)
    windows = compare_windows(models, run)
    expected = {name_of(L, k): L * (k - 1) + 1 for L, k in STACKS} | {"recurrent": STEPS_BACK}
    signal = rng.standard_normal((3, 20)).astype(np.float32)
    layer = tg.nn.Conv1d(3, 2, 5)
    found = convolved(tg.tensor(signal[None]), layer).numpy()[0]
    gap = np.abs(found - formula(signal, layer)).max()
    chains, times = compare_waiting(models, args, run)
    shares = compare_memory(models, args, run)
    report(windows, chains, times, shares, args)
    stacks = [name for name in models if name != "recurrent"]
    within = np.concatenate([shares[name][: windows[name]] for name in stacks])
    beyond = np.concatenate([shares[name][windows[name] :] for name in stacks])
    often = OFTEN / SYMBOLS
    if args.quick:
        return {}
    return {
        "Conv1d is the slide's sum": gap < 1e-5,
        f"the window of L layers of width k is L (k - 1) + 1; all {STEPS_BACK} inputs reach h^T": (
            windows == expected
        ),
        "beyond its window a stack is right as often as chance, to the last digit": (
            (beyond == 1 / SYMBOLS).all()
        ),
        f"within it, {OFTEN} times as often or more": within.min() >= often,
        "the recurrent net is at every delay, too": shares["recurrent"].min() >= often,
        "a stack's chain of calls is as long for every T, the recurrent net's grows with T": (
            len(set(chains[name_of(*STACKS[-1])])) == 1
            and all(np.diff(chains["recurrent"]) >= np.diff(args.lengths))
        ),
        f"the ratio of their times grows with T, {MARGIN:g}-fold or more": growth(times) > MARGIN,
    }


def main(argv=None):
    p = kit.parser("rnn_vs_cnn", __doc__)
    kit.training_flags(p, epochs=30, batch_size=32, lr=5e-3)
    p.add_argument("--hidden-size", type=kit.size, default=32, help="units, or channels")
    p.add_argument("--delay", type=kit.length, default=24, help="the longest to ask over")
    args = p.parse_args(argv)
    args.lengths, args.repeats = [16, 64, 256, 1024], 9
    if args.quick:
        args.epochs, args.lengths, args.repeats = 1, [16, 64], 2
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
