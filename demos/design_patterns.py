"""The five design patterns of recurrent nets: one net and one small task for each.

    one to one                        y   = V tanh(U x)                      no recurrence
    one to many                       h^0 = tanh(U x),  then a decoder       (image captioning)
    many to one                       y   = V h^T                            (classification)
    many to many, of different size   h^0 = the encoder's h^T, a decoder     (translation)
    many to many, of the same size    y^t = V h^t                            (tagging)

    encoder:  h^t = tanh(U x^t + W h^{t-1} + b)
    decoder:  h^t = tanh(U y^{t-1} + W h^{t-1} + b),  y^t = V h^t

The patterns differ in where inputs come in and where outputs are taken, and in nothing else: each
is a few lines on the same parts, and one loop trains all.  The circuits that `tg.draw` finds in
what was recorded have 0, 1, 1, 2 and 1 loops.  An answer is right if all of it is, for inputs that
were not trained on; a net with a decoder then reads its own answers.  To answer blindly, which the
results are compared with, is to take the most frequent output at each place, whatever the input.

EXERCISE: the slide has a second form of one to many: the same input at each step, and h^0 = 0.
Write `ManyFromOne`, a net with the arguments of `OneToMany` in that form.  It has one loop too, but
the way from x to the last output no longer leads through the first state alone.
"""

import itertools

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training
from tinygrad_rnn import nn

END = 0  # the id that ends an answer, fills it up, and stands before its first symbol
RIGHT = 0.9  # the share of right answers that a claim asks for
LOOPS = [0, 1, 1, 2, 1]  # of the circuits
SHOWN = 3  # steps of the drawings


# ---- the patterns: net(x, y) is the list of the logits (B, K) of all outputs ----


class OneToOne(nn.Module):
    """x (B, D) -> one output."""

    def __init__(self, D, H, K):
        self.U, self.V = nn.Linear(D, H), nn.Linear(H, K)

    def forward(self, x, y):
        return [self.V(tg.tanh(self.U(tg.tensor(x))))]


class OneToMany(nn.Module):
    """x (B, D) -> as many outputs as y (B, S) has: x makes the state before the first."""

    def __init__(self, D, H, K):
        self.U, self.decoder = nn.Linear(D, H), Decoder(H, K)

    def forward(self, x, y):
        return self.decoder(tg.tanh(self.U(tg.tensor(x))), y)


class ManyToOne(nn.Module):
    """x (B, T), ids -> one output, from the last state."""

    def __init__(self, D, H, K):
        self.encoder, self.V = Encoder(D, H), nn.Linear(H, K)

    def forward(self, x, y):
        return [self.V(self.encoder(x)[-1])]


class ManyToOthers(nn.Module):
    """x (B, T), ids -> as many outputs as y (B, S) has: the last state is all that is handed on."""

    def __init__(self, D, H, K):
        self.encoder, self.decoder = Encoder(D, H), Decoder(H, K)

    def forward(self, x, y):
        return self.decoder(self.encoder(x)[-1], y)


class ManyToMany(nn.Module):
    """x (B, T), ids -> an output for each input, from the state after it."""

    def __init__(self, D, H, K):
        self.encoder, self.V = Encoder(D, H), nn.Linear(H, K)

    def forward(self, x, y):
        return [self.V(h) for h in self.encoder(x)]


class Encoder(nn.Module):
    """The states h^1 .. h^T after reading x (B, T), ids below D."""

    def __init__(self, D, H):
        self.embed, self.cell = nn.Embedding(D, H), nn.RNNCell(H, H)

    def forward(self, x):
        h, states = None, []
        for ids in x.T:
            h = self.cell(self.embed(ids), h)
            states.append(h)
        return states


class Decoder(nn.Module):
    """The logits of y^1 .. y^S, each given those before it, from the state h^0."""

    def __init__(self, H, K):
        self.embed, self.cell, self.V = nn.Embedding(K, H), nn.RNNCell(H, H), nn.Linear(H, K)

    def forward(self, h, y):
        outputs = []
        for before in [np.full(len(y), END), *y.T[:-1]]:
            h = self.cell(self.embed(before), h)
            outputs.append(self.V(h))
        return outputs


# ---- the tasks: all inputs, or as many as asked for, and the answers (B, S) ----


def quadrants(rng, count):
    """A point of the plane: do its two coordinates have the same sign?"""
    x = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    return x, (x[:, 0] * x[:, 1] > 0).astype(int)[:, None]


def inventory(rng, count, things=8):
    """Which of 8 things are in a picture: name them in order."""
    x = np.array(list(itertools.product([0, 1], repeat=things)), np.float32)
    named = [[1 + i for i in np.flatnonzero(row)] for row in x]
    return x, filled(named, things + 1)


def order(rng, count, T=12):
    """A 1 and a 2 among zeros: which comes first?  To count does not help."""
    places = np.array(list(itertools.permutations(range(T), 2)))
    x = np.zeros((len(places), T), int)
    np.put_along_axis(x, places, [[1, 2]], axis=1)
    return x, (places[:, 0] < places[:, 1]).astype(int)[:, None]


def backwards(rng, count, T=5, symbols=4):
    """A word with gaps (0): its symbols from the last to the first, without the gaps."""
    x = np.array(list(itertools.product(range(symbols + 1), repeat=T)))
    return x, filled([[i for i in row[::-1] if i] for row in x], T + 1)


def records(rng, count, T=8, numbers=6):
    """Numbers: which are greater than all before them?"""
    x = rng.integers(numbers, size=(count, T))
    before = np.maximum.accumulate(np.concatenate([np.full((count, 1), -1), x], axis=1), axis=1)
    return x, (x > before[:, :-1]).astype(int)


def filled(answers, S):
    """Answers of unequal lengths as one array, filled up with END."""
    return np.array([[*answer, *[END] * (S - len(answer))] for answer in answers])


PATTERNS = {  # name: net, task, numbers or ids of an input, classes of an output
    "one to one": (OneToOne, quadrants, 2, 2),
    "one to many": (OneToMany, inventory, 8, 9),
    "many to one": (ManyToOne, order, 3, 2),
    "many to many, different size": (ManyToOthers, backwards, 5, 5),
    "many to many, same size": (ManyToMany, records, 6, 2),
}


# ---- one loop for all ----


def error(net, x, y):
    """The mean of -log softmax(o)[y] over all outputs, the right ones fed back."""
    return tg.cross_entropy(tg.stack(net(x, y), axis=1), y)


def train(net, x, y, args, run, label):
    """The losses of training on random batches."""

    def batches(rng):
        return rng.integers(len(x), size=(args.steps, args.batch_size))

    def loss_of(rows):
        return error(net, x[rows], y[rows])

    return training.fit(net, loss_of, batches, args, run, label, epochs=1, clip=args.clip)


@tg.no_grad()
def answers(net, x, S):
    """What the net answers, (B, S): each output is chosen, and fed back, before the next."""
    y = np.full((len(x), S), END)
    for t in range(S):
        y[:, t] = net(x, y)[t].numpy().argmax(1)
    return y


def right(found, y):
    """The share of answers that are right throughout."""
    return np.mean((found == y).all(1))


def drawings(net, x, y):
    """The circuit of the net, and the net unfolded, on the first steps of one example."""
    x = x[:1, :SHOWN] if x.dtype.kind == "i" else x[:1]
    outputs = net(x, y[:1, :SHOWN])
    names = {"": net, "y": outputs}
    return tg.draw(outputs, collapsed=True, names=names), tg.draw(outputs, names=names)


def loops(circuit):
    """How many arrows of a circuit lead back."""
    return sum(arrow.lane is not None for arrow in circuit.arrows)


# ---- the demo ----


def demo(args, run):
    columns, seen, counts = {"step": range(1, args.steps + 1)}, {}, []
    for i, (name, (kind, task, D, K)) in enumerate(PATTERNS.items()):
        rng = np.random.default_rng([args.seed, i])
        x, y = task(rng, 5 * args.examples)
        rows = rng.permutation(np.unique(x, axis=0, return_index=True)[1])  # each input once
        test, others = np.split(rows, [len(rows) // 5])
        net = kind(D, args.hidden_size, K)
        columns[name] = train(net, x[others], y[others], args, run, name)
        guess = np.array([np.bincount(column).argmax() for column in y[others].T])
        share = right(answers(net, x[test], y.shape[1]), y[test])
        blind = right(guess, y[test])
        circuit, unfolded = drawings(net, x, y)
        counts.append(loops(circuit))
        file = name.replace(",", "").replace(" ", "_")
        circuit.save(run.path(f"{file}.svg"))
        unfolded.save(run.path(f"{file}_unfolded.svg"))
        print(
            f"{name:29}{share:7.1%} of {len(test)} unseen inputs answered right throughout,"
            f" blindly {blind:.1%}; {counts[-1]} loop{'s' * (counts[-1] != 1)}"
        )
        run.log(pattern=name, right=share, blindly=blind, loops=counts[-1])
        if not args.quick:  # too short to learn
            seen[f"{name}: at least {RIGHT:.0%} right, more than blindly"] = share >= max(
                RIGHT, blind
            )
    run.curves("loss", columns, "nats per output", log_scale=True)
    seen["the circuits have 0, 1, 1, 2, 1 loops"] = counts == LOOPS
    return seen


def main(argv=None):
    p = kit.parser("design_patterns", __doc__)
    p.add_argument("--hidden-size", type=kit.size, default=48, help="H, units of h")
    p.add_argument("--steps", type=kit.positive(int), default=1000, help="of training, each net")
    p.add_argument("--batch-size", type=kit.positive(int), default=64, help="examples at once")
    p.add_argument("--lr", type=kit.positive(float), default=0.005, help="Adam's rate, at first")
    p.add_argument("--clip", type=kit.positive(float), default=1.0, help="largest gradient norm")
    p.add_argument(
        "--examples",
        type=kit.positive(int),
        default=500,
        help="to test on, of the tasks without end",
    )
    args = p.parse_args(argv)
    if args.quick:
        args.steps, args.examples = 30, 100
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
