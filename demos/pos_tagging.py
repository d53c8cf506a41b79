"""Part-of-speech tagging on real data: what is lost by answering at once, and how to get it back.

The tag of a word often shows only behind it ("entertaining the audience", "entertaining and
informative").  So the slides go from a net that must answer at once to others:

    forward       h^t = LSTM(U x^t + W h^{t-1}),  p(y^t) = softmax(V h^t + c)
    conditioned   h^t = LSTM(U x^t + W h^{t-1} + R y^{t-1}): each tag is read by the next step;
                  tagged greedily, or by beam search over whole tag sequences, with equal weights
    delayed-d     tag t is said after word t + d
    both          h^t = [f^t, b^t], one LSTM from each end of the line

+characters behind a name adds to the vector of a word the last states of a bidirectional LSTM over
its letters; +crf scores the tags of a line as a whole, in a conditional random field.  A word is
otherwise known by its lower-cased form and its pattern of capitals, and the rarer it is, the more
often it is hidden in training, so that nets learn what to make of unknown words.

A beam can only choose among what the net holds probable.  Every p(y^t | y^{t-1}, ...) sums to 1,
after a wrong tag too, so that later words take little from a wrong branch, and a word whose own tag
is certain takes nothing: label bias.  Measured is by how much greedy choice prefers its mistake,
and by how much all later words speak against it; where that is less, no beam helps.  forward+crf
reads the same words from left to right, but a pair of tags that do not go together costs what it
costs, and so the word behind can still change the tag before it.

Data are the roles of identifiers in the standard library, where what tells is an operator behind;
operators and keywords have their own spelling for a tag, which does not count.  Or, by --data, they
are CoNLL-U files with UPOS.  After every epoch a net is tried on the dev part, the best is kept,
and test is read once.  For the English Web Treebank:

    python -m demos.pos_tagging --data DIR --epochs 8 --hidden-size 300 --dropout 0.5 --lr 4e-3
      --readers forward conditioned forward+crf delayed-1 both both+characters

EXERCISE: write `viterbi(scores, moves)` here: of all sequences y of T tags out of K, the list y for
which the sum of scores[t, y[t]] over t and of moves[y[t-1], y[t]] over t > 0 is greatest, given
arrays (T, K) and (K, K), in a time that grows as T K^2.  `pytest -k viterbi` grades it.
"""

import collections
from functools import partial
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training
from demos._tagging import STDLIB, Forms, encoded, read_lines, split, tag_numbers

PARTS = ("train", "dev", "test")
MARKS = 20  # words without a tag that stand for themselves, at most
WORD, CASE, LETTER, SPELLING = 100, 8, 32, 128  # sizes of vectors
BEAMS = (2, 4, 8)
DEFAULT = "forward conditioned forward+crf delayed-1 both forward+characters".split()
LATER, FIELD, LOST = 0.08, 0.05, 0.01  # of the tags of identifiers


# ---- nets: a loss to train, and tags ----


class Spelling(tg.nn.Module):
    """The last states of an LSTM over the letters, in both directions: (N, SPELLING)."""

    def __init__(self, forms):
        self.forms = forms
        self.embed = tg.nn.Embedding(forms.letters, LETTER)
        self.lstm = tg.nn.LSTM(LETTER, SPELLING // 2, bidirectional=True)

    def forward(self, ids):
        distinct, place = np.unique(ids, return_inverse=True)  # each form is read once
        lengths = self.forms.lengths[distinct]
        letters = self.forms.spelling[distinct, : lengths.max()]
        _, (h, _) = self.lstm(self.embed(letters.T), lengths=lengths)
        return tg.concatenate([h[0], h[1]], axis=1)[place]


class Reader(tg.nn.Module):
    """Says the tag of word t after word t + delay, or after all words."""

    def __init__(self, forms, tags, args, both=False, delay=0, characters=False, more=0):
        self.forms, self.tags, self.delay = forms, tags, delay
        self.embed = tg.nn.Embedding(forms.words, WORD)
        self.case = tg.nn.Embedding(16, CASE)
        for table in (self.embed, self.case):
            table.weight.array[...] *= 0.1  # what is rare and hardly trained should say little
        self.spelling = Spelling(forms) if characters else None
        size = WORD + CASE + SPELLING * characters + more
        self.lstm = tg.nn.LSTM(size, args.hidden_size // (1 + both), bidirectional=both)
        self.V = tg.nn.Linear(args.hidden_size, tags)
        self.dropout = tg.nn.Dropout(args.dropout)

    def x(self, ids):
        """The vectors of words, (N, size)."""
        word = self.forms.word[ids]
        if self.training:
            hidden = tg.default_rng().random(len(ids)) < self.forms.hidden[ids]
            word = np.where(hidden, 0, word)
        parts = [self.embed(word), self.case(self.forms.case[ids])]
        if self.spelling:
            parts.append(self.spelling(ids))
        return self.dropout(tg.concatenate(parts, axis=1))

    def logits(self, lines, more=()):
        """o of every word, line after line: (N, tags)."""
        beyond = np.zeros(self.delay, int)
        lines = [np.concatenate([line, beyond]) for line in lines]
        x = tg.concatenate([self.x(np.concatenate(lines)), *more], axis=1)
        h, _ = self.lstm(tg.split(x, np.cumsum([len(line) for line in lines])[:-1].tolist()))
        return self.V(self.dropout(tg.concatenate([one[self.delay :] for one in h])))

    def loss(self, lines, tags):
        """The nats that the right tags cost, a word."""
        return tg.cross_entropy(self.logits(lines), np.concatenate(tags))

    def said(self, lines):
        """The tags of lines of one length, (B, T)."""
        return self.logits(lines).numpy().argmax(-1).reshape(lines.shape)


class RandomField(Reader):
    """A conditional random field over the tags of a line, whose scores are the logits."""

    def __init__(self, forms, tags, *args, **how):
        super().__init__(forms, tags, *args, **how)
        self.field = tg.nn.CRF(tags)

    def loss(self, lines, tags):
        lengths = [len(line) for line in lines]
        log_p = self.field(self.logits(lines), np.concatenate(tags), lengths)
        return -log_p.sum() / sum(lengths)

    def said(self, lines):
        B, T = lines.shape
        return np.array(self.field.decode(self.logits(lines), [T] * B))


class Conditioned(Reader):
    """Reads, with every word, the tag before: the last columns of weight_ih are R."""

    def __init__(self, forms, tags, args, **how):
        super().__init__(forms, tags, args, more=tags, **how)
        self.y = np.eye(tags + 1, tags, dtype=np.float32)  # zeros: no tag before

    def vectors(self, tags):
        """What stands for tags, (N, tags)."""
        return tg.tensor(self.y[tags])

    def log_p(self, lines, tags):
        """log p of the given tags, each after those before it: (N,)."""
        before = np.concatenate([np.append(self.tags, line[:-1]) for line in tags])
        o = self.logits(lines, [self.vectors(before)])
        return (tg.log_softmax(o) * self.vectors(np.concatenate(tags))).sum(axis=1)

    def loss(self, lines, tags):
        return -self.log_p(lines, tags).mean()

    def search(self, lines, beam):
        """For each of lines (B, T) the best tag sequences; a beam of 1 is greedy choice."""
        B, T = lines.shape
        x = tg.reshape(self.x(lines.ravel()), (B, T, -1))
        zeros = tg.tensor(np.zeros((B, self.lstm.hidden_size), np.float32))

        def step(before, state):
            t, line, h, c = state
            x_and_y = tg.concatenate([x[line, t], self.vectors(before)], axis=1)
            output, (h, c) = self.lstm(x_and_y[None], (h[None], c[None]))
            return tg.log_softmax(self.V(output[0])), (t + 1, line, h[0], c[0])

        state, start = (0, np.arange(B), zeros, zeros), np.full(B, self.tags)
        return tg.decode.beam_search(step, state, start, beam=beam, steps=T)

    def said(self, lines, beam=1):
        return np.array([best.tokens for best, *_ in self.search(lines, beam)])


READERS = {
    "forward": (Reader, {}),
    "conditioned": (Conditioned, {}),
    "delayed-1": (Reader, {"delay": 1}),
    "delayed-2": (Reader, {"delay": 2}),
    "both": (Reader, {"both": True}),
    "forward+crf": (RandomField, {}),
    "both+crf": (RandomField, {"both": True}),
}
READERS |= {
    f"{name}+characters": (kind, how | {"characters": True})
    for name, (kind, how) in READERS.items()
}


# ---- training and tagging ----


@tg.no_grad()
def of_lines(model, function, x):
    """`function` of lines of one length (B, T) at a time; its results in the order of `x`."""
    model.eval()
    found, lengths = [None] * len(x), np.array([len(line) for line in x])
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length)
        for part in np.array_split(same, -(-len(same) // 100)):
            results = function(np.array([x[i] for i in part]))
            for i, result in zip(part, results, strict=True):
                found[i] = result
    model.train()
    return found


def train(model, name, data, vocabulary, args, run):
    """Train `model`; it ends with the weights of the epoch that was best on dev."""
    (x, y, _), dev = data["train"], data["dev"]
    lengths = np.array([len(line) for line in x])

    def loss_of(batch):
        return model.loss([x[i] for i in batch], [y[i] for i in batch])

    def epoch(rng):
        return kit.batches(lengths, args.batch_size, rng)

    def validate():
        hits = np.concatenate(of_lines(model, model.said, dev.x)) == np.concatenate(dev.y)
        return hits[np.concatenate(dev.counts)].mean()

    settings = {"validate": validate, "vocabulary": vocabulary}
    training.fit(model, loss_of, epoch, args, run, name, **settings)


# ---- figures ----


def gap(said, other, part):
    """By how much the accuracy of `said` exceeds that of `other`, and its standard error.

    Lines are independent, words of a line are not.
    """
    more = [
        np.sum(((a == y).astype(int) - (b == y))[counts])
        for a, b, y, counts in zip(said, other, part.y, part.counts, strict=True)
    ]
    n = np.array([counts.sum() for counts in part.counts])
    share = np.sum(more) / n.sum()
    return share, np.sqrt(np.sum((more - share * n) ** 2)) / n.sum()


def branches(model, x, y):
    """For each line in which greedy choice is wrong once, what speaks for that and against, (N, 2).

    In nats: how much more probable the wrong tag was there; how much more probable the later tags,
    all of them right, are after the right one.
    """
    greedy = of_lines(model, lambda lines: [one for (one,) in model.search(lines, 1)], x)
    found = []
    for line, tags, best in zip(x, y, greedy, strict=True):
        wrong = np.flatnonzero(tags != best.tokens)
        if len(wrong) == 1 and tags.max() < model.tags:  # which is a tag that training had
            with tg.no_grad():
                ahead = np.array(best.token_scores) - model.eval().log_p([line], [tags]).numpy()
            found.append((ahead[wrong[0]], -ahead[wrong[0] + 1 :].sum()))
    return np.array(found).reshape(-1, 2)


# ---- the demo ----


def read(args, run):
    """{part: its lines}, the forms, and the tags."""
    lines = read_lines(args.data, STDLIB[:3] if args.quick else STDLIB)
    parts = split([line for line in lines if any(line.tags)], PARTS)
    rng, taken = np.random.default_rng(args.seed), {}
    for name, lines in zip(PARTS, parts, strict=True):
        size = args.lines if name == "train" else args.held_out
        taken[name] = [lines[i] for i in rng.permutation(len(lines))[:size]]
        run.say(f"{name}: {len(taken[name]):,} lines of {len(lines):,}")
    if not all(taken.values()):
        raise kit.DataError(
            f"{args.data}: {', '.join(f'{len(v)} lines to {k}' for k, v in taken.items())};"
            " expected: some in each; give more text"
        )
    forms, tags = Forms(*taken.values()), tag_numbers(taken["train"], MARKS)
    run.say(f"tags: {', '.join(tags)}")
    return {name: encoded(lines, forms, tags) for name, lines in taken.items()}, forms, list(tags)


def kinds_of_words(train, test):
    """Masks over the tagged words of `test`, of the kinds that there are.

    All words, those that have several tags in `train`, and those that are not in it.
    """
    tags = collections.defaultdict(set)
    for form, tag in zip(*map(np.concatenate, train[:2]), strict=True):
        tags[form].add(tag)
    count = np.array([len(tags.get(form, ())) for form in np.concatenate(test.x)])
    tagged = np.concatenate(test.counts)
    kinds = {"all": tagged, "ambiguous": tagged & (count > 1), "unknown": tagged & (count == 0)}
    return {kind: mask for kind, mask in kinds.items() if mask.any()}


def demo(args, run):
    data, forms, tags = read(args, run)
    test = data[args.on]
    said, models, vocabulary = {}, {}, forms.vocabulary | {"tags": tags}
    for name in args.readers:
        kind, how = READERS[name]
        tg.manual_seed(args.seed)  # so that it does not matter which other nets there are
        model = models[name] = kind(forms, len(tags), args, **how)
        training.start_from(model, args, vocabulary)
        run.say(f"{name}: {sum(p.size for p in model.parameters()):,} parameters")
        train(model, name, data, vocabulary, args, run)
        training.save_model(run, name, model, vocabulary)
        said[name] = of_lines(model, model.said, test.x)
        if isinstance(model, Conditioned):
            for beam in BEAMS:
                wide = partial(model.said, beam=beam)
                said[f"{name}, beam {beam}"] = of_lines(model, wide, test.x)
    shares = report(said, test, kinds_of_words(data["train"], test), run)
    for name, model in models.items():
        if isinstance(model, Conditioned):
            report_branches(name, branches(model, test.x, test.y), run)
            draw_beams(name, shares, run)
    return {} if args.quick or args.data or args.readers != DEFAULT else claims(shares)


def report(said, test, kinds, run):
    """Print the share of right tags of every kind of word; those shares."""
    first, right, shares = next(iter(said)), np.concatenate(test.y), {}
    print(f"{'share of tags right':32}" + "".join(f"{kind:>11}" for kind in kinds))
    for name, tags in said.items():
        hits = np.concatenate(tags) == right
        shares[name] = {kind: hits[words].mean() for kind, words in kinds.items()}
        greedy = name.split(", ")[0]  # the same weights, if the name says a beam
        other = first if greedy == name else greedy
        more, error = gap(tags, said[other], test)
        run.log(reader=name, accuracy=shares[name], other=other, more=more, standard_error=error)
        row = "".join(f"{share:11.2%}" for share in shares[name].values())
        print(f"{name:32}{row}   {other} {100 * more:+.2f} \u00b1 {100 * error:.2f}")
    return shares


def report_branches(name, found, run):
    """Print why a beam repairs few of the mistakes of greedy choice."""
    ahead, against = np.median(found, axis=0) if len(found) else (0.0, 0.0)
    outweighed = np.sum(found[:, 1] > found[:, 0])
    run.log(branches=name, lines=len(found), ahead=ahead, against=against, outweighed=outweighed)
    print(f"{name}: {len(found):,} lines in which greedy choice is wrong once, where the wrong tag")
    print(f"  is ahead by {ahead:.2f} nats (median).  All later words speak against it by")
    print(
        f"  {against:.2f} nats (median), and outweigh it in {outweighed:,}: in others no beam helps"
    )


def draw_beams(name, shares, run):
    """Draw the share of right tags against the width of the beam, beside the other readers."""
    widths = {1: name} | {beam: f"{name}, beam {beam}" for beam in BEAMS}
    curve = {"beam": list(widths), name: [shares[one]["all"] for one in widths.values()]}
    others = {one: share["all"] for one, share in shares.items() if name not in one}
    run.curves(f"{name}_beam", curve, "share of tags right", others)


def claims(shares):
    """What the slides say, each with whether it was seen."""
    more = {name: share["all"] - shares["forward"]["all"] for name, share in shares.items()}
    beam = more[f"conditioned, beam {BEAMS[-1]}"] - more["conditioned"]
    unknown = [shares[name]["unknown"] for name in ("forward", "forward+characters")]
    return {
        f"a word's delay, or the other direction, gains {LATER:.0%} or more": (
            min(more["delayed-1"], more["both"]) > LATER
        ),
        f"label bias: a beam of {BEAMS[-1]} gains less than {LOST:.0%} over greedy choice": beam
        < LOST,
        f"a random field over the forward net gains {FIELD:.0%} or more": more["forward+crf"]
        > FIELD,
        "letters tell more of unknown words": unknown[1] > unknown[0],
    }


def main(argv=None):
    p = kit.parser("pos_tagging", __doc__)
    p.add_argument("--data", type=Path, help="a folder of CoNLL-U files, or your own .py files")
    nets = "nets to compare, of " + ", ".join(READERS)
    p.add_argument(
        "--readers", choices=READERS, nargs="+", default=DEFAULT, help=nets, metavar="NET"
    )
    p.add_argument("--on", choices=PARTS[1:], default="test", help="dev to choose settings by")
    p.add_argument("--lines", type=kit.positive(int), default=15_000, help="how many to train on")
    kit.training_flags(p, epochs=2, batch_size=64, lr=1e-2)
    p.add_argument("--hidden-size", type=kit.size, default=64, help="units of h, even")
    p.add_argument("--dropout", type=kit.fraction, default=0.1, help="share of x and h dropped")
    kit.resume_flags(p)
    p.set_defaults(held_out=2500)
    args = p.parse_args(argv)
    if args.init_from and len(args.readers) > 1:
        p.error("--init-from is for one of --readers")
    if args.hidden_size % 2:
        p.error("--hidden-size must be even: half of it for each direction")
    if args.quick:
        args.lines, args.held_out, args.hidden_size, args.batch_size = 300, 60, 32, 16
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
