"""Readers in one direction and in both: what will an identifier have been for?

What a name does in a line of Python often shows only behind it: x = ..., x(...), for x in ....  A
bidirectional net (Schuster and Paliwal 1997) reads every line from both ends, and the tag of word t
depends on all of them, with no search and no delay:

    forward    f^t = LSTM(x^t, f^{t-1})        both    h^t = [f^t, b^t]
    backward   b^t = LSTM(x^t, b^{t+1})                p(tag of word t) = softmax(V h^t + c)

All readers have the same number of units and training, both stacked has them twice.  They are
compared with look-up tables of the words around, and with what the bidirectional net makes of a
line that arrives word by word: it then tags the newest word with 0, 1, 2, ... words beyond it.
Lines of unequal lengths are read in one batch as they are, without padding.

EXERCISE: write `concatenated(forward, backward)` here: given the h of either direction for one line
of T words, each (T, H) in the order in which that direction reads, return [f^t, b^t] for every word
in the order of the line, (T, 2H).  `pytest -k concatenated` grades it.
"""

import collections
import hashlib
import platform
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training
from demos._tagging import STDLIB, read_lines, split

TEST_LINES = 3000
PREFIX_LINES = 400  # of those, to let arrive word by word
AHEAD = 6  # words beyond the newest, at most
POSITIONS = 12  # for the curve
NO_TAG = -1
WAYS = {  # direction of reading, layers
    "forward": ("forward", 1),
    "backward": ("backward", 1),
    "both": ("both", 1),
    "both stacked": ("both", 2),
}
TABLES = {"word": (0, 0), "1 left": (1, 0), "3 left": (3, 0), "1 on both sides": (1, 1)}
TABLES["2 on both sides"] = (2, 2)
GAP = 0.08  # that both directions are better by, on identifiers


# ---- the model ----


class Reader(tg.nn.Module):
    """Logits of the tag of every word, line after line, by an LSTM that reads one way or both."""

    def __init__(self, words, tags, size, way, layers, dropout):
        self.way = way
        self.embed = tg.nn.Embedding(words, size)
        self.embed.weight.array[...] *= 0.1  # rare words, hardly trained, should say little
        hidden = size // 2 if way == "both" else size
        self.lstm = tg.nn.LSTM(size, hidden, layers, bidirectional=way == "both")
        self.V = tg.nn.Linear(size, tags)
        self.dropout = tg.nn.Dropout(dropout)

    def forward(self, lines):
        """A list of id arrays (T_i,) -> (sum of T_i, tags)."""
        order = reversed_lines(lines) if self.way == "backward" else slice(None)
        x = self.dropout(self.embed(np.concatenate(lines)[order]))
        h, _ = self.lstm(tg.split(x, np.cumsum([len(line) for line in lines])[:-1].tolist()))
        return self.V(self.dropout(tg.concatenate(h)[order]))


def reversed_lines(lines):
    """The places, in the concatenation of all lines, that turn every line round, and back."""
    ends = np.cumsum([len(line) for line in lines])
    return np.concatenate(
        [np.arange(end - 1, end - len(line) - 1, -1) for end, line in zip(ends, lines, strict=True)]
    )


# ---- training and testing ----


def fit(model, x, y, args, run, label):
    """Train `model` to tell the tags `y` of the lines `x`; the loss of each step."""
    lengths = np.array([len(line) for line in x])

    def loss_of(batch):
        targets = np.concatenate([y[i] for i in batch])
        return tg.cross_entropy(model([x[i] for i in batch]), targets, ignore_index=NO_TAG)

    def epoch(rng):
        return kit.batches(lengths, args.batch_size, rng)

    return training.fit(model, loss_of, epoch, args, run, label)


@tg.no_grad()
def tags_of(model, x):
    """The most probable tag of every word, line after line."""
    model.eval()
    order = np.argsort([len(line) for line in x], kind="stable")
    said = [None] * len(x)
    for part in np.array_split(order, -(-len(x) // 100)):
        ends = np.cumsum([len(x[i]) for i in part])[:-1]
        found = model([x[i] for i in part]).numpy().argmax(axis=1)
        for i, tags in zip(part, np.split(found, ends), strict=True):
            said[i] = tags
    model.train()
    return np.concatenate(said)


def accuracy(said, right):
    """The share of the tagged words whose tag was said."""
    tagged = right != NO_TAG
    return np.mean((said == right)[tagged])


def while_it_arrives(model, x, y, ahead):
    """The accuracy on word t when the first t + `ahead` words of the line are known."""
    places = [(i, t) for i, line in enumerate(y) for t in np.flatnonzero(line != NO_TAG)]
    known = [x[i][: t + 1 + ahead] for i, t in places]
    ends = np.cumsum([len(line) for line in known]) - [len(line) for line in known]
    said = tags_of(model, known)[ends + [t for _, t in places]]
    return np.mean(said == [y[i][t] for i, t in places])


# ---- look-up tables ----


def table_accuracy(train, test, left, right):
    """The accuracy of the commonest training tag for the same words around.

    For words around that were never seen it is the table with fewer of them, and so on.
    """
    widths = [(min(left, n), min(right, n)) for n in range(max(left, right), -1, -1)]
    tables = [collections.defaultdict(collections.Counter) for _ in widths]
    total = collections.Counter()
    for around, tag in surroundings(*train, left, right):
        total[tag] += 1
        for table, (a, b) in zip(tables, widths, strict=True):
            table[around[left - a : left + 1 + b]][tag] += 1
    hits = []
    for around, tag in surroundings(*test, left, right):
        keys = [around[left - a : left + 1 + b] for a, b in widths]
        seen = (table[key] for table, key in zip(tables, keys, strict=True) if key in table)
        hits.append(next(seen, total).most_common(1)[0][0] == tag)
    return np.mean(hits)


def surroundings(x, y, left, right):
    """Every tagged word with so many others around, and its tag."""
    for line, tags in zip(x, y, strict=True):
        padded = [None] * left + line.tolist() + [None] * right
        for t in np.flatnonzero(tags != NO_TAG):
            yield tuple(padded[t : t + left + 1 + right]), tags[t]


# ---- the demo ----


def sample(lines, size, rng):
    """At most `size` of the lines, in random order."""
    return [lines[i] for i in rng.permutation(len(lines))[:size]]


def encoded(lines, vocabulary, tags):
    """The words and the tags of every line as numbers."""
    x = [vocabulary.encode(line.words) for line in lines]
    number = {None: NO_TAG} | {tag: i for i, tag in enumerate(tags)}
    return x, [np.array([number.get(tag, len(tags)) for tag in line.tags]) for line in lines]


def read_and_split(args, run):
    """What to train on and what to test on, encoded; the numbers of words and of tags."""
    lines = read_lines(args.data, STDLIB[:3] if args.quick else STDLIB)
    rng = np.random.default_rng(args.seed)
    train, test = split(lines, ("train", "test"))
    train = [line for line in train if any(line.tags)]
    train, test = sample(train, args.lines, rng), sample(test, TEST_LINES, rng)
    tags = sorted({tag for line in train for tag in line.tags} - {None})
    if len(tags) < 2 or not any(any(line.tags) for line in test):
        raise kit.DataError(
            f"{args.data or 'the library'}: {len(lines):,} lines, {len(tags)} tags to train on;"
            " expected: two tags or more, and tagged lines to test on; give more text"
        )
    words = kit.vocabulary([line.words for line in train], (kit.UNKNOWN,), 2, args.vocabulary)
    source = args.data or f"the standard library of Python {platform.python_version()}"
    digest = hashlib.sha256(repr(lines).encode()).hexdigest()[:16]
    run.say(f"{len(lines):,} lines of {source}, sha256 {digest}; tags: {', '.join(tags)}")
    run.say(f"{len(train):,} of them to train on, {len(test):,} from elsewhere to test on")
    return encoded(train, words, tags), encoded(test, words, tags), len(words), len(tags)


def demo(args, run):
    train, (x, y), words, tags = read_and_split(args, run)
    right = np.concatenate(y)
    position = np.concatenate([np.arange(1, len(line) + 1) for line in x])
    shares = {
        f"table: {name}": table_accuracy(train, (x, y), *widths) for name, widths in TABLES.items()
    }
    models, curve = {}, {"position in the line": range(1, POSITIONS + 1)}
    for name, (way, layers) in WAYS.items():
        model = models[name] = Reader(words, tags, args.hidden_size, way, layers, args.dropout)
        run.say(f"{name}: {sum(p.size for p in model.parameters()):,} parameters")
        losses = fit(model, *train, args, run, name)
        said = tags_of(model, x)
        shares[name] = accuracy(said, right)
        tagged = [(position == p) & (right != NO_TAG) for p in curve["position in the line"]]
        curve[name] = [np.mean((said == right)[at]) if at.any() else np.nan for at in tagged]
        run.log(reader=name, last_losses=np.mean(losses[-100:]))
    few = x[:PREFIX_LINES], y[:PREFIX_LINES]
    arriving = {
        "words beyond the newest": range(AHEAD + 1),
        "both": [while_it_arrives(models["both"], *few, ahead) for ahead in range(AHEAD + 1)],
    }
    whole = accuracy(tags_of(models["both"], few[0]), np.concatenate(few[1]))
    forward = accuracy(tags_of(models["forward"], few[0]), np.concatenate(few[1]))
    levels = {"forward": forward, "both, the whole line": whole}
    run.curves("accuracy_by_position", curve, "share of tags right")
    run.curves("word_by_word", arriving, "share of tags right", levels)
    run.log(accuracy=shares, word_by_word=arriving["both"], whole_line=whole)
    return report(shares, arriving["both"], levels, args)


def report(shares, arriving, levels, args):
    """Print the figures; what the slide says, with whether it was seen."""
    for name, share in shares.items():
        print(f"{name:24}{share:7.1%} of the tags right")
    print(f"of {PREFIX_LINES} lines, as they arrive:", end="")
    for name, share in levels.items():
        print(f"  {name} {share:.1%}", end="")
    print()
    for ahead, share in enumerate(arriving):
        print(f"  both, {ahead} words beyond the newest known: {share:.1%}")
    gap = shares["both"] - shares["forward"]
    print(f"both directions are right more often than forward by {gap:.1%}")
    if args.quick or args.data:  # too short to learn; other lines may be another matter
        return {}
    return {f"reading both ways is right more often, by {GAP:.0%} or more": gap > GAP}


def main(argv=None):
    p = kit.parser("identifier_roles", __doc__)
    p.add_argument("--data", type=Path, help="your lines: .py or CoNLL-U, a file or a folder")
    p.add_argument("--lines", type=kit.positive(int), default=15_000, help="how many to train on")
    kit.training_flags(p, epochs=2, batch_size=64, lr=1e-2)
    p.add_argument("--vocabulary", type=kit.positive(int), default=2000, help="words told apart")
    p.add_argument("--hidden-size", type=kit.size, default=64, help="units of h, even")
    p.add_argument("--dropout", type=kit.fraction, default=0.1, help="share of x and h dropped")
    args = p.parse_args(argv)
    if args.hidden_size % 2:
        p.error("--hidden-size must be even: half of it for each direction")
    if args.quick:
        args.lines, args.hidden_size, args.epochs = 2000, 32, 2
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
