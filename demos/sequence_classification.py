"""Many inputs to one output: what to keep of all the states of a recurrent net.

A net has read x^1 ... x^T and is to say one thing of it: what a question asks for, whether a
sentence is kind, what language a name is in.  One vector s must come of the T states, o = V s + c:

    last    s = h^T                      all that x^1 says must live through T steps of the net
    mean    s = (h^1 + ... + h^T) / T    every step has a way of its own to s, of weight 1 / T
    max     s_i = max over t of h^t_i    each unit keeps the step at which it was strongest

with h^t = LSTM(x^t, h^{t-1}), in one direction, or in both, h^t = [f^t, b^t] with half the units
for each; the last states are then f^T and b^1, the one at either end.  So there are six nets, with
as many units and epochs.  They are compared with each other and with Naive Bayes on n-grams, which
knows no order beyond three steps; by length, too; and by the gradient of their loss at steps long
before the end, untrained and trained: by it the net must learn to remember what it does not yet.

Without --data they read a name, letter by letter, and say in which of 12 languages it is.

EXERCISE: write `attention(h, there, u)` here: of states h (T, B, H), with `there` as in SUMMARIES,
the mean over the steps of each text with weights softmax(u . h^t), u (H,): s (B, H).  With u = 0 it
is the mean.  `pytest -k attention` grades it.
"""

import argparse
import collections
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training
from demos._labelled import read_sets
from demos._languages import FEW, MANY, read_names

# Of the states h (T, B, H) of B texts; `there` (T, B, 1) is 1, but 0 beyond the end of a text.
SUMMARIES = {
    "mean": lambda h, there: (h * there).sum(axis=0) / there.sum(axis=0),
    "max": lambda h, there: (h + 2 * (there - 1)).max(axis=0),  # for h is above -1
}
WAYS = {  # directions, summary
    "last": (1, "last"),
    "mean": (1, "mean"),
    "max": (1, "max"),
    "both, last": (2, "last"),
    "both, mean": (2, "mean"),
    "both, max": (2, "max"),
}
GRAMS = 3  # of Naive Bayes: the longest
ALPHAS = (1.0, 0.3, 0.1, 0.03)  # what is added to its counts, to choose from
BANDS = 5  # of length, with as many texts in each
STEPS = 13  # the last ones, for the curves of gradients
FAINT = 0.1  # of a gradient, relative to that at the mean step


# ---- texts as numbers ----


def of_words(words):
    """What a net reads at each step of a text: a word, how it is written, and it with the last."""
    out, before = [], "<s>"
    for word in words:
        shape = "".join("X" if c.isupper() else "0" if c.isdigit() else "x" for c in word)
        low = word.lower()
        out.append((low, f"{shape[:2]}~{shape[-1]}", f"{before} {low}"))
        before = low
    return out


def of_letters(letters):
    """What a net reads at each step of a name: a letter, alone and behind one and two others.

    A space stands for what is before the name and for its end.
    """
    text = "  " + "".join(letters) + " "
    return [(text[i], text[i - 1 : i + 1], text[i - 2 : i + 1]) for i in range(2, len(text))]


class Encoder:
    """Numbers for texts and for labels, from those to train on."""

    def __init__(self, train, forms, least):
        self.forms = forms
        read = [form for text in train for form in forms(text.words)]
        self.vocabulary = kit.vocabulary(read, special=[kit.UNKNOWN], least=least)
        count = collections.Counter(form for forms in read for form in forms)
        self.counts = np.array([count[form] for form in self.vocabulary.words])
        self.labels = kit.Vocabulary(sorted({text.label for text in train}))

    def __call__(self, texts):
        """Ids (T, F) of the F forms of the T steps of each text, and the label of each."""
        steps = [self.forms(text.words) for text in texts]
        ids = self.vocabulary.encode([form for some in steps for one in some for form in one])
        ids = ids.reshape(sum(map(len, steps)), -1)
        x = np.split(ids, np.cumsum([len(some) for some in steps])[:-1])
        return x, self.labels.encode([text.label for text in texts])


# ---- the model ----


class Classifier(tg.nn.Module):
    """Logits of the label of every text, by what one summary keeps of the states of an LSTM."""

    def __init__(self, encoder, args, directions, summary):
        self.summary = summary
        self.unread = args.unknown / (args.unknown + encoder.counts)  # rare forms, mostly
        self.embed = tg.nn.Embedding(len(encoder.vocabulary), args.input_size)
        self.embed.weight.array[...] *= 0.1  # rare words, hardly trained, should say little
        self.lstm = tg.nn.LSTM(
            args.input_size, args.hidden_size // directions, bidirectional=directions == 2
        )
        self.V = tg.nn.Linear(args.hidden_size, len(encoder.labels))
        self.dropout = tg.nn.Dropout(args.dropout)

    def forward(self, texts):
        """A list of B id arrays (T, F) -> (B, labels)."""
        lengths = np.array([len(text) for text in texts])
        return self.read(self.vectors(texts), lengths)

    def vectors(self, texts):
        """x (T, B, D) of all steps: the sum of the vectors of their forms."""
        ids = np.zeros((max(map(len, texts)), len(texts), texts[0].shape[1]), int)
        for b, text in enumerate(texts):
            ids[: len(text), b] = text
        if self.training:  # so that a form never seen before means something, too
            ids = np.where(tg.default_rng().random(ids.shape) < self.unread[ids], 0, ids)
        return self.embed(ids).sum(axis=2)

    def read(self, x, lengths):
        """The logits, (B, labels), from x (T, B, D)."""
        h, (last, _) = self.lstm(self.dropout(x), lengths=lengths)
        if self.summary == "last":
            s = tg.concatenate(list(last), axis=-1)  # the final state of either direction
        else:
            there = (np.arange(len(x))[:, None] < lengths)[:, :, None].astype(np.float32)
            s = SUMMARIES[self.summary](h, tg.tensor(there))
        return self.V(self.dropout(s))


def train_on(model, x, y, dev, args, run, label):
    """Train `model` on texts x with labels y; it ends as it was when it was best on `dev`."""
    lengths = np.array([len(text) for text in x])
    training.fit(
        model,
        lambda batch: tg.cross_entropy(model([x[i] for i in batch]), y[batch]),
        lambda rng: kit.batches(lengths, args.batch_size, rng),
        args,
        run,
        label,
        validate=lambda: np.mean(said_by(model, dev[0]) == dev[1]),
    )


@tg.no_grad()
def said_by(model, x):
    """The most probable label of every text."""
    model.eval()
    order = np.argsort([len(text) for text in x], kind="stable")
    said = np.empty(len(x), int)
    for part in np.array_split(order, -(-len(x) // 200)):
        said[part] = model([x[i] for i in part]).numpy().argmax(axis=1)
    model.train()
    return said


def gradient_by_distance(model, x, y, steps):
    """The mean length of dE/dx^t at the last `steps`, last first, relative to their mean."""
    model.eval()
    long = [i for i, text in enumerate(x) if len(text) >= steps][:200]
    texts, lengths = [x[i] for i in long], np.array([len(x[i]) for i in long])
    vectors = tg.tensor(model.vectors(texts).array, requires_grad=True)
    tg.cross_entropy(model.read(vectors, lengths), y[long]).backward()
    model.train()
    sizes = np.linalg.norm(vectors.grad.numpy(), axis=2)
    back = np.array([sizes[lengths - 1 - n, np.arange(len(long))] for n in range(steps)])
    return back.mean(axis=1) / back.mean()


# ---- the baseline ----


def grams_of(words):
    """All n-grams of a text up to GRAMS words, its beginning and its end among the words."""
    words = ("<s>", *words, "</s>")
    return [words[i : i + n] for n in range(1, GRAMS + 1) for i in range(len(words) - n + 1)]


def naive_bayes(train, test, labels, alpha):
    """The share of `test` that p(label) times the p(n-gram | label) of its n-grams gets right.

    A count has `alpha` added; n-grams that `train` lacks say nothing.
    """
    grams = [grams_of(text.words) for text in train]
    ids = kit.vocabulary(grams).ids
    y = labels.encode([text.label for text in train])
    counts = np.full((len(ids), len(labels)), alpha)
    seen = np.array([ids[gram] for some in grams for gram in some])
    np.add.at(counts, (seen, np.repeat(y, [len(some) for some in grams])), 1)
    scores = np.log(counts / counts.sum(axis=0))
    prior = np.log(np.bincount(y, minlength=len(labels)))
    said = [
        np.argmax(prior + scores[[ids[g] for g in grams_of(text.words) if g in ids]].sum(axis=0))
        for text in test
    ]
    return np.mean(said == labels.encode([text.label for text in test]))


# ---- the demo ----


def by_length(right, lengths):
    """The mean length, and the share of right answers, of each of BANDS of texts by length."""
    bands = np.array_split(np.argsort(lengths, kind="stable"), min(BANDS, len(lengths)))
    return [lengths[band].mean() for band in bands], [right[band].mean() for band in bands]


def baseline(sets, labels):
    """What Naive Bayes gets right of the texts to test on, its alpha the best on dev."""
    alpha = max(ALPHAS, key=lambda alpha: naive_bayes(sets.train, sets.dev, labels, alpha))
    return naive_bayes(sets.train, sets.test, labels, alpha)


def demo(args, run):
    sets = read_sets(args.data) if args.data else read_names(MANY if args.all_languages else FEW)
    sets = sets._replace(train=sets.train[:: args.every])
    encoder = Encoder(sets.train, of_words if args.data else of_letters, args.least)
    train, dev = encoder(sets.train), encoder(sets.dev)
    run.say(
        f"{', '.join(f'{len(some):,} {name}' for name, some in sets._asdict().items())} texts;"
        f" {len(encoder.labels)} labels, {len(encoder.vocabulary):,} forms"
    )
    steps = min(STEPS, max(map(len, dev[0])))
    models, fresh, later = {}, {}, {}
    for seed in range(args.seed, args.seed + args.repeats):
        own = argparse.Namespace(**vars(args) | {"seed": seed})
        for way in args.ways:
            tg.manual_seed(seed)
            model = Classifier(encoder, args, *WAYS[way])
            fresh[way] = gradient_by_distance(model, *dev, steps)
            train_on(model, *train, dev, own, run, f"{way}, seed {seed}")
            later[way] = gradient_by_distance(model, *dev, steps)
            models[way, seed] = model
    chosen = {key: np.mean(said_by(model, dev[0]) == dev[1]) for key, model in models.items()}
    x, y = encoder(sets.test)  # read when all nets are trained
    right = {key: said_by(model, x) == y for key, model in models.items()}
    lengths, bands = np.array([len(text) for text in x]), {}
    for way in args.ways:
        bands["length"], bands[way] = by_length(right[way, args.seed], lengths)
    distances = {"steps before the last": range(steps)}
    run.curves("accuracy_by_length", bands, "share of labels right")
    label = "size of dE/dx(t), mean 1"
    run.curves("gradient_before_training", distances | fresh, label, log_scale=True)
    run.curves("gradient_after_training", distances | later, label)
    for way, model in models.items():
        run.log(net=way, weights=sum(p.size for p in model.parameters()))
    return report(right, chosen, fresh, later, baseline(sets, encoder.labels), args, run)


def report(right, chosen, fresh, later, bayes, args, run):
    """Print the figures; what the slide says, with whether it was seen."""
    seeds = range(args.seed, args.seed + args.repeats)
    dev = {way: np.mean([chosen[way, seed] for seed in seeds]) for way in args.ways}
    each = {way: [right[way, seed].mean() for seed in seeds] for way in args.ways}
    test = {way: np.mean(shares) for way, shares in each.items()}
    far = {way: (fresh[way][-1], later[way][-1]) for way in args.ways}
    steps = len(fresh[args.ways[0]])
    print(f"labels right; dE/dx^t {steps - 1} steps before the end, in that at the mean step:")
    print(
        f"  {'':12}{'dev':>8}{'test':>8}{'lowest':>9}{'highest':>9}{'untrained':>13}{'trained':>9}"
    )
    for way in args.ways:
        print(
            f"  {way:12}{dev[way]:8.1%}{test[way]:8.1%}{min(each[way]):9.1%}{max(each[way]):9.1%}"
            f"{far[way][0]:13.4f}{far[way][1]:9.2f}"
        )
    print(f"  {'Naive Bayes':20}{bayes:8.1%}")
    best = max(args.ways, key=dev.get)
    error = (test[best] * (1 - test[best]) / len(right[best, args.seed])) ** 0.5
    print(f"chosen by dev: {best}, {test[best]:.1%} right, with a standard error of {error:.1%}")
    run.log(dev=dev, test=each, naive_bayes=bayes, chosen=best, gradient_far_back=far)
    if args.quick or args.data or set(args.ways) != set(WAYS):
        return {}
    return {
        "the net chosen by dev is right more often than Naive Bayes": test[best] > bayes,
        "untrained, the last state hardly hears what is far from the end, and pooled ones do": (
            far["last"][0] < FAINT and min(far[way][0] for way in ("mean", "max")) > FAINT
        ),
    }


def main(argv=None):
    p = kit.parser("sequence_classification", __doc__)
    p.add_argument("--data", type=Path, help="labelled texts, a file or a folder: TREC, SST, ...")
    p.add_argument(
        "--all-languages", action="store_true", help="names in 30, in three times the time"
    )
    p.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="nets to compare")
    p.add_argument("--repeats", type=kit.positive(int), default=1, help="seeds, from --seed on")
    kit.training_flags(p, epochs=6, batch_size=64, lr=1e-2)
    p.add_argument("--input-size", type=kit.size, default=64, help="numbers of a form")
    p.add_argument("--hidden-size", type=kit.size, default=64, help="units of h, even")
    p.add_argument("--dropout", type=kit.fraction, default=0.3, help="share of x and s dropped")
    about = "a: what occurred n times is read as unknown with probability a / (a + n)"
    p.add_argument("--unknown", type=kit.positive(float), default=1.0, help=about)
    p.add_argument("--least", type=kit.positive(int), default=2, help="times a form must occur")
    args = p.parse_args(argv)
    if args.hidden_size % 2:
        p.error("--hidden-size must be even: half of it for each direction")
    args.every = 1  # of the texts to train on, which
    if args.quick:
        args.epochs, args.every = 1, 10
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
