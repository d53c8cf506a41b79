"""Encoder and decoder parse Python: a context of fixed size against attention, by source length.

The source is the tokens of an expression of the standard library, the target its syntax tree:

    N . N ( N [ 0 ] )    ->    Call( Attribute( N N ) Subscript( N 0 ) )

One net reads the source x_1 .. x_S, and another writes the target y_1 .. y_T, of another length:

    encoder     k_s = LSTM(x_s, k_{s-1})              C = tanh(P k_S + b)
    decoder     h_t = LSTM([y_{t-1}, C], h_{t-1})     y_t ~ softmax(V h_t + c)

All that the decoder knows of the source has to go through the numbers of C (Cho et al. 2014).  The
slide asks: how big should we pick C, especially when input sequence length can vary a lot?  Here
everything but C has a fixed size, and C several, up to that of k_S: more numbers than it is made of
hold no more.  With attention (Bahdanau et al. 2015; Luong et al. 2015) only the last line changes:
every step has, besides, a context of its own,

    y_t ~ softmax(V [h_t, sum_s a_ts k_s] + c)        a_t = softmax over s of score(h_t, k_s)

that is as long as the source, in effect, and nobody has to pick how long.  The score is `--score`:
q W k (multiplicative), q k (dot) or v tanh(W q + U k) (additive).

In training the decoder is fed the targets (teacher forcing), so all its steps are one call; in the
test it is fed what it wrote, by beam search.  Each model reads as many pairs, in the same order.
A test expression is of another file, and as a sequence of tokens in no training file.  Exact: the
whole tree is right.  Tokens: the share of places of the tree, or of what was written where that is
longer, with the right token.  The nearest neighbour gives the tree of the training expression that
shares most pairs of neighbouring tokens, relative to how many both have.

EXERCISE: Sutskever et al. (2014) read the source backwards, so that its beginning is near to that
of the target.  Write `turned(x, lengths)`: every row of `x` (B, S) reversed up to its length, the
padding where it was.  Let `encode` read it.  Does C gain here, and does attention?
"""

import hashlib
import platform
import time
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training
from demos._parses import nearest, read_pairs
from demos._pictures import heat_map

PADDING, END = 0, 1  # ids; END also starts every target
EMBEDDING = 32
BANDS = 4  # of lengths, by which the results are told
SCORES = {
    "multiplicative": tg.nn.MultiplicativeAttention,
    "dot": lambda query_size, key_size: tg.nn.DotAttention(query_size),
    "additive": lambda query_size, key_size: tg.nn.AdditiveAttention(
        query_size, key_size, key_size
    ),
}


# ---- the model ----


class Translator(tg.nn.Module):
    """Logits of the next target token at every step; with attention if `attend` is given."""

    def __init__(self, sources, targets, hidden_size, context_size, attend=None):
        H = hidden_size
        self.embed_source = tg.nn.Embedding(sources, EMBEDDING)
        self.encoder = tg.nn.LSTM(EMBEDDING, H, batch_first=True, forget_bias=1.0)
        self.squeeze = tg.nn.Linear(H, context_size)
        self.embed_target = tg.nn.Embedding(targets, EMBEDDING)
        D = EMBEDDING + context_size
        self.decoder = tg.nn.LSTM(D, H, batch_first=True, forget_bias=1.0)
        self.attend = attend
        self.readout = tg.nn.Linear(2 * H if attend else H, targets)

    def encode(self, x, lengths):
        """The fixed context C (B, context size), and the memory that attention reads, or None."""
        keys, (last, _) = self.encoder(self.embed_source(x), lengths=lengths)
        memory = self.attend.memory(keys, lengths) if self.attend else None
        return tg.tanh(self.squeeze(last[0])), memory

    def decode(self, y, C, memory, state=None, lengths=None):
        """What follows each of the tokens y (B, T): logits (B, T, V), weights, and the state."""
        C = tg.broadcast_to(C[:, None], (*y.shape, C.shape[1]))
        h, state = self.decoder(tg.concatenate([self.embed_target(y), C], -1), state, lengths)
        weights = None
        if self.attend:
            context, weights = self.attend.step(h, memory)
            h = tg.concatenate([h, context], -1)
        return self.readout(h), weights, state

    def step(self, tokens, state):
        """The step function of a beam search: of a state each hypothesis has a row."""
        C, memory, h, c = state
        logits, _, (h, c) = self.decode(tokens[:, None], C, memory, (h[None], c[None]))
        return tg.log_softmax(logits[:, 0]), (C, memory, h[0], c[0])


# ---- training ----


def fit(model, pairs, args, run, label):
    """Train `model` by teacher forcing; the loss of each step."""
    lengths = np.array([len(target) for _, target in pairs])

    def loss_of(batch):
        x, steps_in = kit.padded([pairs[i][0] for i in batch], PADDING)
        y, steps_out = kit.padded([[END, *pairs[i][1], END] for i in batch], PADDING)
        logits, _, _ = model.decode(y[:, :-1], *model.encode(x, steps_in), None, steps_out - 1)
        return tg.cross_entropy(logits, y[:, 1:], ignore_index=PADDING)

    def epoch(rng):
        return kit.batches(lengths, args.batch_size, rng)

    return training.fit(model, loss_of, epoch, args, run, label, clip=1.0)


# ---- testing ----


@tg.no_grad()
def translations(model, sources, beam, steps):
    """The best hypothesis of a beam search for each source, as a list of ids."""
    x, lengths = kit.padded(sources)
    C, memory = model.encode(x, lengths)
    h = tg.tensor(np.zeros((len(x), model.decoder.hidden_size), np.float32))
    start = np.full(len(x), END)
    found = tg.decode.beam_search(
        model.step, (C, memory, h, h), start, beam=beam, steps=steps, end=END
    )
    return [list(hypotheses[0].tokens) for hypotheses in found]


def exact(written, target):
    """1.0 if the whole tree is right."""
    return float(written == target)


def token_share(written, target):
    """The share of places with the right token, of those of the longer of the two."""
    right = sum(a == b for a, b in zip(written, target, strict=False))
    return right / max(len(written), len(target))


def bands_of(pairs):
    """Lengths of sources, (from, to), that cut the pairs into BANDS of about one size."""
    lengths = sorted(len(source) for source, _ in pairs)
    ends = sorted({lengths[(i + 1) * len(lengths) // BANDS - 1] for i in range(BANDS)})
    return list(zip([lengths[0], *[end + 1 for end in ends[:-1]]], ends, strict=True))


def by_length(score, written, pairs, bands):
    """The mean score of what was written for the sources of each band, and of all."""
    scores = np.array([score(w, target) for w, (_, target) in zip(written, pairs, strict=True)])
    lengths = np.array([len(source) for source, _ in pairs])
    inside = [(low <= lengths) & (lengths <= high) for low, high in bands]
    return [float(scores[i].mean()) for i in [*inside, lengths > 0]]


# ---- the demo ----


@tg.no_grad()
def weights_of(model, source, target):
    """The weights of attention (T, S) when `model` is fed this target."""
    x, lengths = kit.padded([source])
    _, weights, _ = model.decode(np.array([[END, *target]]), *model.encode(x, lengths))
    return weights.numpy()[0]


def read(args, run):
    """Pairs of ids to train on and to test on, what the nearest neighbour says, and the words."""
    train, test = read_pairs(args.data, args.longest)
    source = args.data or f"the standard library of Python {platform.python_version()}"
    digest = hashlib.sha256(repr((train, test)).encode()).hexdigest()[:16]
    test = [test[i] for i in np.random.default_rng(0).permutation(len(test))[: args.test]]
    run.say(f"{len(train):,} expressions of {source} to train on, sha256 with the rest {digest}")
    run.say(f"{len(test):,} of other files, with sources that are in none of these, to test on")
    sides = [kit.vocabulary([pair[k] for pair in train], ("padding", "end")) for k in (0, 1)]

    def encoded(pairs):
        """Pairs of lists of ids."""
        return [tuple(side.encode(p[k]).tolist() for k, side in enumerate(sides)) for p in pairs]

    guessed = [target for _, target in encoded(nearest(train, [pair.source for pair in test]))]
    return encoded(train), encoded(test), guessed, [side.words for side in sides]


def demo(args, run):
    train, test, guessed, words = read(args, run)
    sizes = [len(part) for part in words]
    scores = {"nearest neighbour": guessed}
    models = {f"fixed, C of {size}": (size, False) for size in sorted(args.context)}
    models[f"attention, C of {min(args.context)}"] = (min(args.context), True)
    for name, (size, attends) in models.items():
        tg.manual_seed(args.seed)
        H = args.hidden_size
        model = Translator(*sizes, H, size, SCORES[args.score](H, H) if attends else None)
        began = time.monotonic()
        losses = fit(model, train, args, run, name)
        seconds = time.monotonic() - began
        longest = max(len(target) for _, target in train) + 1
        scores[name] = translations(model, [source for source, _ in test], args.beam, longest)
        count = sum(p.size for p in model.parameters())
        run.say(f"{name}: {count:,} parameters, {len(losses)} updates in {seconds:.0f} s")
        run.log(name=name, parameters=count, seconds=seconds, loss=np.mean(losses[-50:]))
    right = [pair for pair, w in zip(test, scores[name], strict=True) if w == pair[1]] or test
    source, target = max(right, key=lambda pair: len(pair[1]))
    columns, rows = [words[0][i] for i in source], [words[1][i] for i in [*target, END]]
    labels = ("source, as read", "target, as written")
    table = weights_of(model, source, target)
    heat_map(run, "attention", table, rows, columns, labels, "weight")
    return report(scores, test, args, run)


def report(scores, test, args, run):
    """Print, plot and log the scores by length; the claims, each with whether it was seen."""
    bands, tables = bands_of(test), {}
    heads = [*[f"{low}-{high}" for low, high in bands], "all"]
    for title, score in {"exact match": exact, "tokens right": token_share}.items():
        table = {name: by_length(score, w, test, bands) for name, w in scores.items()}
        run.log(title=title, tokens_of_source=heads, **table)
        print(f"{title + ', by tokens of the source':38}" + "".join(f"{h:>8}" for h in heads))
        for name, shares in table.items():
            print(f"  {name:36}" + "".join(f"{share:8.1%}" for share in shares))
        tables[title] = table
    table = tables["exact match"]
    middles = {"tokens of the source": [(low + high) / 2 for low, high in bands]}
    run.curves("exact_match", middles | {n: t[:-1] for n, t in table.items()}, "share exact")
    if args.quick:  # too short to learn
        return {}
    neighbour, *fixed, attention = table.values()
    size = max(args.context)
    return {
        f"more in C helps: of {min(args.context)} to {size} numbers": fixed[0][-1] < fixed[-1][-1],
        "in this budget no fixed C is big enough: attention leads at every length": all(
            attention[i] > max(one[i] for one in fixed) for i in range(len(heads))
        ),
        f"from short to long the fixed C of {size} loses the larger part": (
            fixed[-1][-2] * attention[0] < attention[-2] * fixed[-1][0]
        ),
        "attention passes the nearest neighbour": attention[-1] > neighbour[-1],
    }


def main(argv=None):
    p = kit.parser("encoder_decoder", __doc__)
    p.add_argument("--data", type=Path, help="a folder of .py files to take expressions from")
    p.add_argument("--longest", type=kit.length, default=20, help="tokens of a source")
    p.add_argument("--test", type=kit.positive(int), default=800, help="expressions at most")
    p.add_argument(
        "--context",
        type=kit.positive(int),
        nargs="+",
        default=[4, 16, 64],
        metavar="SIZE",
        help="sizes of C, of use up to --hidden-size; attention has the smallest",
    )
    p.add_argument("--score", choices=SCORES, default="multiplicative", help="of attention")
    p.add_argument("--hidden-size", type=kit.size, default=64, help="units of both LSTMs")
    kit.training_flags(p, epochs=5, batch_size=32, lr=5e-3)
    p.add_argument("--beam", type=kit.positive(int), default=3, help="width of the search")
    args = p.parse_args(argv)
    if args.quick:
        args.longest, args.epochs, args.hidden_size, args.test = 7, 1, 16, 50
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
