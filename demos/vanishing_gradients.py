"""Why a long memory is hard to learn: gradients that vanish, are kept, or explode on the way back.

    dh^T/dh^t = product over j = T, T-1, ..., t+1 of  diag(1 - h^j * h^j) W

No factor of a tanh net is larger than the spectral norm ||W||, so ||dh^T/dh^t|| <= ||W||^(T-t) in
that norm, and sqrt(H) ||W||^(T-t) in the Frobenius norm that is measured here.  The bound excludes
explosion where ||W|| < 1; it promises nothing where ||W|| > 1.  An orthogonal W times a gain has
||W|| = gain, and loses nothing but what tanh takes.  Of an LSTM, c is multiplied by f alone:

    dc^T/dc^t = product of diag(f^j), and more by way of h        f = sigmoid(forget bias) at first

Bengio et al. 1994; Pascanu et al. 2013; Gers et al. 2000.  The task is to say after T steps which
symbol came first; the steps between are noise.  Each net is measured by `time_report` before and
after training, all by Adam.  Then a net whose gradient explodes is trained by SGD with momentum,
with its gradient clipped and without.

EXERCISE: write `forget_bias(steps, kept)`, the forget bias with which an LSTM's gate by itself
keeps so large a share of c over so many steps.  --forget-bias tries it: 3.76 keeps half over 30.
"""

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit

GAINS = {"below 1": 0.8, "at 1": 1.0, "above 1": 1.5}
SMALL_INPUTS = 0.3  # of the orthogonal nets, to keep them where tanh is nearly linear
MEASURED = 32  # sequences; the norms are the root of the mean square over them
SMOOTHED = 20  # training steps over which the loss is averaged
LEARNED = 0.1  # nats
STARTS = 3  # of SGD, with other weights each


class Recall(tg.nn.Module):
    """The logits of the first symbol, and the states on the way, by any cell."""

    def __init__(self, cell, symbols):
        self.cell, self.readout = cell, tg.nn.Linear(cell.hidden_size, symbols)

    def forward(self, ids):
        """ids (T, B) -> logits (B, symbols), and the T states that the loop carried."""
        x = tg.tensor(np.eye(self.cell.input_size, dtype=np.float32)[ids])
        state, states = None, []
        for u in tg.unstack(self.cell.U(x), axis=0):
            state = self.cell.step(u, state)
            states.append(state)
        return self.readout(state[0] if isinstance(state, tuple) else state), states


def orthogonal(inputs, hidden, gain):
    """A tanh cell with W = gain * Q, Q^T Q = 1, small inputs and no bias."""
    cell = tg.nn.RNNCell(inputs, hidden)
    Q, R = np.linalg.qr(tg.default_rng().normal(size=(hidden, hidden)))
    W = gain * Q * np.sign(np.diag(R))
    cell.load_state_dict(cell.state_dict() | {"weight_hh": W})
    cell.weight_ih.array[...] *= SMALL_INPUTS
    cell.bias_ih.array[...] = cell.bias_hh.array[...] = 0.0
    return cell


def make_nets(args):
    """The nets to compare, by name."""
    sizes = 2 * args.symbols, args.hidden_size
    cells = {"tanh, PyTorch's W": tg.nn.RNNCell(*sizes)}
    cells |= {f"tanh, {gain} Q": orthogonal(*sizes, gain) for gain in GAINS.values()}
    cells["LSTM, forget bias 1"] = tg.nn.LSTMCell(*sizes, forget_bias=1.0)
    cells[f"LSTM, forget bias {args.forget_bias:g}"] = tg.nn.LSTMCell(
        *sizes, forget_bias=args.forget_bias
    )
    cells["GRU"] = tg.nn.GRUCell(*sizes)
    return {name: Recall(cell, args.symbols) for name, cell in cells.items()}


def examples(rng, T, symbols, n):
    """ids (T, n), and the first row (n,): the later ones are noise, other symbols."""
    ids = symbols + rng.integers(symbols, size=(T, n))
    ids[0] = rng.integers(symbols, size=n)
    return ids, ids[0]


def train(net, optimizer, clip, args, progress):
    """The loss and the norm of the gradient (before clipping) at each step of training."""
    rng, losses, norms = np.random.default_rng(args.seed), [], []
    for step in range(args.steps):
        ids, first = examples(rng, args.T, args.symbols, args.batch_size)
        loss = tg.cross_entropy(net(ids)[0], first)
        kit.check_finite(loss.item())
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(tg.optim.clip_grad_norm_(optimizer.parameters, clip)))
        optimizer.step()
        losses.append(loss.item())
        progress.reached((step + 1) / args.steps, f"{np.mean(losses[-SMOOTHED:]):.3f} nats")
    return losses, norms


def learned_after(losses):
    """The first step at which the smoothed loss is below LEARNED; infinity if there is none."""
    smooth = np.convolve(losses, np.full(SMOOTHED, 1 / SMOOTHED), "valid")
    found = np.flatnonzero(smooth < LEARNED)
    return found[0] + SMOOTHED if found.size else np.inf


# ---- what is measured ----


def reported(net, args):
    """The time_report of the net on sequences that are always the same."""
    ids, first = examples(np.random.default_rng(1), args.T, args.symbols, MEASURED)
    logits, states = net(ids)
    return tg.time_report(tg.cross_entropy(logits, first), states, net.cell)


def memory(report):
    """||dh^T/dh^t|| for t = 1 .. T-1, of an LSTM ||dh^T/dc^t||: c^T is of no use to h^T."""
    *_, last = report.jacobians
    return report.curves()[f"|dh_T/d{last}|"][:-1]


def rate(norms):
    """The factor per step back, as a geometric mean."""
    return (norms[0] / norms[-1]) ** (1 / (len(norms) - 1))


def bounded(net, report):
    """Whether ||dh^T/dh^t|| <= sqrt(H) ||W||^(T-t) at every t and for every sequence."""
    norms = report.jacobians["h"]
    back = np.arange(len(norms))[::-1, None]
    bound = np.sqrt(net.cell.hidden_size) * spectral_norm(net) ** back
    return bool((norms <= bound * (1 + 1e-4)).all())  # float32


def spectral_norm(net):
    return float(np.linalg.norm(net.cell.weight_hh.numpy().astype(float), 2))


def spectral_radius(net):
    return float(abs(np.linalg.eigvals(net.cell.weight_hh.numpy().astype(float))).max())


def measure(nets, args, run, when):
    """The rate per step of each net, and whether each tanh net keeps its bound; prints a table."""
    print(f"{when:24}||dL/dh^1||  ||dL/dh^T||  share of step 1 in dL/dU  rate    ||W||   radius")
    columns, rates, bounds = {"t": range(1, args.T)}, {}, []
    for name, net in nets.items():
        report = reported(net, args)
        dL, shares = report.gradients["h"], report.curves()["share of weight_ih"]
        columns[name] = memory(report)
        rates[name] = rate(columns[name])
        row = f"{name:24}{dL[0]:11.1e}{dL[-1]:13.1e}{shares[0] / shares.sum():26.1e}"
        row += f"{rates[name]:6.3f}"
        if isinstance(net.cell, tg.nn.RNNCell):
            row += f"{spectral_norm(net):9.3f}{spectral_radius(net):9.3f}"
            bounds.append(bounded(net, report))
        print(row)
        run.log(when=when, net=name, rate=rates[name], dL_dh=list(dL), shares=list(shares))
    title = "norm of dh_T/dh_t (LSTM: dh_T/dc_t)"
    run.curves(f"jacobians_{when.replace(' ', '_')}", columns, title, log_scale=True)
    return rates, all(bounds)


# ---- the demo ----


def trained(nets, args, run):
    """How many steps of Adam each net takes to learn the task."""
    after = {}
    for name, net in nets.items():
        optimizer = tg.optim.Adam(net.parameters(), lr=args.lr)
        with kit.Progress(run, name) as progress:
            losses, _ = train(net, optimizer, args.clip, args, progress)
        after[name], last = learned_after(losses), np.mean(losses[-SMOOTHED:])
        learned = after[name] < np.inf
        steps = f"learned after {after[name]} steps" if learned else "not learned"
        print(f"{name:24}{last:7.3f} nats at the end, {steps}")
        run.log(net=name, learned_after=after[name] if learned else None, loss=last)
    return after


def clipping(args, run):
    """How many of STARTS exploding nets SGD teaches the task: clipped, and left as they are."""
    learned, columns = {}, {"step": range(1, args.steps + 1)}
    for name, clip in {"clipped": args.clip, "not clipped": np.inf}.items():
        ends, largest = [], 0.0
        for start in range(STARTS):
            tg.manual_seed(args.seed + start)
            cell = orthogonal(2 * args.symbols, args.hidden_size, GAINS["above 1"])
            net = Recall(cell, args.symbols)
            optimizer = tg.optim.SGD(net.parameters(), lr=args.sgd_lr, momentum=0.9)
            with kit.Progress(run, f"SGD, {name}") as progress:
                losses, norms = train(net, optimizer, clip, args, progress)
            ends.append(np.mean(losses[-SMOOTHED:]))
            largest = max(largest, *norms)
            columns[f"{name}, start {start + 1}"] = losses
        learned[name] = sum(end < LEARNED for end in ends)
        losses = ", ".join(f"{end:.3f}" for end in ends)
        print(
            f"SGD, tanh, {GAINS['above 1']} Q, {name}: {losses} nats at the end, {learned[name]} of"
            f" {STARTS} learned; largest norm of a gradient {largest:.1e}"
        )
        run.log(sgd=name, losses=ends, largest_norm=largest)
    run.curves("clipping", columns, "nats", {"guess": np.log(args.symbols)})
    return learned


def demo(args, run):
    nets = make_nets(args)
    before, held = measure(nets, args, run, "untrained")
    below, kept, above = (before[f"tanh, {gain} Q"] for gain in GAINS.values())
    plain = before["tanh, PyTorch's W"]
    seen = {
        "orthogonal below 1: vanishes, no slower than the bound": below <= GAINS["below 1"],
        "orthogonal at 1: kept, within 5 % a step": 0.95 < kept <= 1.0,
        "orthogonal above 1: explodes": above > 1.0,
        "PyTorch's W: vanishes, though ||W|| > 1 does not promise it": plain < 0.8,
        "an LSTM's c forgets more slowly": before["LSTM, forget bias 1"] > plain,
    }
    after = trained(nets, args, run)
    _, held_after = measure(nets, args, run, "trained")
    seen["no tanh net passes its bound, before or after training"] = held and held_after
    learned = clipping(args, run)
    if not args.quick:  # too short to learn
        at_1 = after[f"tanh, {GAINS['at 1']} Q"]
        seen["what keeps its gradient learns, what loses it learns later or not"] = (
            at_1 < after[f"tanh, {GAINS['below 1']} Q"] and at_1 < after["tanh, PyTorch's W"]
        )
        seen["SGD learns with clipping from every start"] = learned["clipped"] == STARTS
        seen["and not without"] = learned["not clipped"] < STARTS
    return seen


def main(argv=None):
    p = kit.parser("vanishing_gradients", __doc__)
    p.add_argument("--T", type=kit.length, default=30, help="steps to remember over")
    p.add_argument("--symbols", type=kit.size, default=2, help="what may come first")
    p.add_argument("--hidden-size", type=kit.size, default=32, help="H, units of h")
    p.add_argument("--batch-size", type=kit.positive(int), default=32, help="sequences at once")
    p.add_argument("--steps", type=kit.positive(int), default=400, help="of training, each net")
    p.add_argument("--forget-bias", type=float, default=4.0, help="of the second LSTM")
    p.add_argument("--clip", type=kit.positive(float), default=0.3, help="largest gradient norm")
    p.add_argument("--lr", type=kit.positive(float), default=0.004, help="Adam's rate")
    p.add_argument("--sgd-lr", type=kit.positive(float), default=0.2, help="the rate of SGD")
    args = p.parse_args(argv)
    if args.quick:
        args.T, args.steps = 12, 10
    if args.T < 3:
        p.error("argument --T: at least 3 steps are needed to see a rate")
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
