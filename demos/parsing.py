"""Parsing as translation: a net writes the tree of what it reads as a string of brackets.

The slide turns a parse tree into a sequence.  Then a parser is a translator (Vinyals et al. 2015):

    N ( N , 0 ) + N         ->    BinOp( Call( N N 0 ) Add N )         expressions of Python
    The cat sat .           ->    S( NP( XX XX ) VP( XX ) XX )         sentences, by --data

    encoder    k_s = [LSTM(x_s, k_{s-1}), LSTM(x_s, k_{s+1})]
    decoder    h_t = LSTM(y_{t-1}, h_{t-1})        a_t = softmax over s of h_t W k_s
               y_t ~ softmax(V tanh(P [h_t, sum_s a_ts k_s]))

No tree is lost in its string: `_brackets` reads each one back.  What is lost is the shape: a node
and its parent, one step apart in the tree, are many tokens apart in the string, and nothing in the
net says that brackets come in pairs.  It has to learn what a tree is.  How well, is measured:

    tree        the share of outputs whose brackets are one tree
    words       ... and that have each word of the source exactly once
    exact       the share in which all is right
    F1          of brackets, each a label with the words from its first to its last; what is no tree
                has none

The rest is search.  A step function that gives a token the log-probability -inf forbids it, so a
small machine beside the net, `_tree_machine`, can hold the search to trees with the words of the
source.  Then even an untrained net writes trees.

Expressions to test on are of other files than those in training, and no source is in both.  The
nearest neighbour gives the tree of the training expression that shares most pairs of neighbouring
tokens.  As of expressions all parts are expressions, to train on, so of sentences are all their
phrases; what is read then begins with what it is, "ROOT(" or "NP(".  Words in fewer than --rare
sentences of training are read as their tags.  Punctuation counts as words do.

EXERCISE: write `repaired(tokens, words)` here, which makes a tree with so many words of whatever a
net wrote that opens a bracket: drop all that stands outside the first node, close what is open at
the end; then put XX before the last ")", or drop the last XX, as often as the number is wrong.  How
much of what the machine gains does it gain?  `pytest -k repaired` grades it.
"""

import hashlib
import platform
from pathlib import Path
from typing import NamedTuple

import numpy as np

import tinygrad_rnn as tg
from demos import _brackets as brackets
from demos import _kit as kit
from demos import _parses
from demos import _training as training
from demos._pictures import heat_map
from demos._tree_machine import END, PADDING, Trees

AT_ONCE = 100  # sources searched together
DEV = 300  # examples by which the best epoch is told
BANDS = 5  # of depths, by which the results are told
NEIGHBOUR, ONLY = "nearest neighbour", "trees only"
ROOM, POINTS = 40, 100  # in pictures: tokens of a tree, points of a curve


# ---- the model ----


class Parser(tg.nn.Module):
    """Logits of the next token of the tree at every step."""

    def __init__(self, sources, targets, size, dropout):
        E = size // 2
        self.embed_source = tg.nn.Embedding(sources, E)
        self.encoder = tg.nn.LSTM(E, E, batch_first=True, bidirectional=True, forget_bias=1.0)
        self.first = tg.nn.Linear(size, size)
        self.embed_target = tg.nn.Embedding(targets, E)
        self.decoder = tg.nn.LSTM(E, size, batch_first=True, forget_bias=1.0)
        self.attend = tg.nn.MultiplicativeAttention(size, size)
        self.P = tg.nn.Linear(2 * size, size)
        self.V = tg.nn.Linear(size, targets)
        self.dropout = tg.nn.Dropout(dropout)

    def encode(self, x, lengths):
        """What attention reads of the sources x (B, S), and the first state of the decoder."""
        keys, (last, _) = self.encoder(self.dropout(self.embed_source(x)), lengths=lengths)
        h = tg.tanh(self.first(tg.concatenate([last[0], last[1]], -1)))
        c = tg.tensor(np.zeros(h.shape, np.float32))
        return self.attend.memory(self.dropout(keys), lengths), (h, c)

    def decode(self, y, memory, state, lengths=None):
        """What follows each of the tokens y (B, T): logits (B, T, V), weights, and the state."""
        h, c = (one[None] for one in state)
        h, state = self.decoder(self.dropout(self.embed_target(y)), (h, c), lengths)
        context, weights = self.attend.step(h, memory)
        h = tg.tanh(self.P(tg.concatenate([h, context], -1)))
        return self.V(self.dropout(h)), weights, [one[0] for one in state]

    def loss(self, x, y):
        """The mean -log p of the targets y, lists of ids, fed in; so all steps are one call."""
        y, steps = kit.padded([[END, *target, END] for target in y], PADDING)
        logits, _, _ = self.decode(y[:, :-1], *self.encode(*kit.padded(x)), steps - 1)
        return tg.cross_entropy(logits, y[:, 1:], ignore_index=PADDING)

    def step(self, tokens, state):
        """The step function of a beam search."""
        memory, state = state
        logits, _, state = self.decode(tokens[:, None], memory, state)
        return tg.log_softmax(logits[:, 0]), (memory, state)


# ---- training and testing ----


class Task(NamedTuple):
    """Examples to train on, to choose by and to test on, and what they have in common."""

    train: list
    dev: list
    test: list
    kinds: tuple  # of words
    sources: kit.Vocabulary
    targets: kit.Vocabulary
    steps: int  # to write at most

    def vocabulary(self):
        """What the rows of a model's weights stand for."""
        return {"source's words": self.sources.words, "target's words": self.targets.words}

    def ids(self, examples):
        """The sources and the targets as ids."""
        x = [self.sources.encode(example.source) for example in examples]
        return x, [self.targets.encode(example.target) for example in examples]


def task_of(train, dev, test, kinds):
    """The Task of these examples: it knows the words of training, and its longest target."""
    sources = kit.vocabulary([e.source for e in train], ("<padding>", "<end>", kit.UNKNOWN))
    targets = kit.vocabulary([e.target for e in train], ("<padding>", "<end>"))
    return Task(train, dev, test, kinds, sources, targets, max(len(e.target) for e in train) + 1)


def fit(model, task, args, run):
    """Train `model`; the loss of every step.  The best epoch is that with most brackets right."""
    x, y = task.ids(task.train)
    lengths = np.array([len(target) for target in y])
    dev = task.dev[:DEV]

    def validate():
        written = search(model, task, dev, beam=1)
        return brackets.scores(written, [e.target for e in dev], task.kinds)["F1"]

    return training.fit(
        model,
        lambda batch: model.loss([x[i] for i in batch], [y[i] for i in batch]),
        lambda rng: kit.batches(lengths, args.batch_size, rng),
        args,
        run,
        validate=validate,
        vocabulary=task.vocabulary(),
    )


@tg.no_grad()
def search(model, task, examples, beam, trees=None):
    """What `model` writes for each source, as tokens; with `trees` only what that allows."""
    model.eval()
    x, _ = task.ids(examples)
    written = [None] * len(x)
    order = np.argsort([len(source) for source in x], kind="stable")
    step = trees.constrained(model.step) if trees else model.step
    for part in np.array_split(order, -(-len(x) // AT_ONCE)):
        state = model.encode(*kit.padded([x[i] for i in part]))
        if trees:
            state = state, trees.begin(np.array([examples[i].words for i in part]), task.steps)
        start = np.full(len(part), END)
        found = tg.decode.beam_search(step, state, start, beam=beam, steps=task.steps, end=END)
        for i, (best, *_) in zip(part, found, strict=True):
            written[i] = tuple([task.targets.words[token] for token in best.tokens])
    model.train()
    return written


def allows(trees, task, example):
    """Whether the machine lets the right tree of an example be written."""
    state = trees.begin(np.array([example.words]), task.steps)
    target = task.targets.encode(example.target)
    for token, following in zip([END, *target], [*target, END], strict=True):
        state = trees.after(np.array([token]), state)
        if not trees.allowed(state)[0, following]:
            return False
    return True


# ---- the data ----


def read(args, run):
    """The Task, and guesses of what is tested: the trees of nearest neighbours, or none."""
    if args.data and any(args.data.glob("*.ptb")):
        run.say(f"phrases and sentences of {args.data}, of at most {args.longest} words")
        parts = brackets.read_treebank(args.data, args.longest, args.rare)
        return task_of(*parts, kinds=(brackets.WORD,)), []
    modules = _parses.all_modules() if args.all else _parses.SELECTION
    train, test = _parses.read_pairs(args.data, args.longest, modules)
    source = args.data or f"the standard library of Python {platform.python_version()}"
    digest = hashlib.sha256(repr((train, test)).encode()).hexdigest()[:16]
    run.say(f"{len(train) + len(test):,} expressions of {source}, sha256 {digest}")
    rng = np.random.default_rng(0)
    train, test = ([part[i] for i in rng.permutation(len(part))] for part in (train, test))
    test = test[: args.test]
    guesses = [pair.target for pair in _parses.nearest(train, [pair.source for pair in test])]
    train, test = ([_parses.example(pair) for pair in part] for part in (train, test))
    held = min(DEV, len(train) // 10)
    return task_of(train[held:], train[:held], test, kinds=_parses.WORDS), guesses


# ---- the demo ----


def demo(args, run):
    task, guesses = read(args, run)
    run.say(f"{len(task.train):,} to train on, {len(task.dev):,} to choose the epoch by")
    back = all_come_back(task, run)
    trees = Trees(task.targets, task.kinds, {e.target for e in task.train})
    model = Parser(len(task.sources), len(task.targets), args.hidden_size, args.dropout)
    run.say(f"{sum(p.size for p in model.parameters()):,} parameters")
    written = {NEIGHBOUR: guesses} if guesses else {}
    written |= searched("untrained", model, task, task.test, 1, trees)
    training.start_from(model, args, task.vocabulary())
    losses = fit(model, task, args, run)
    training.save_model(run, "model", model, task.vocabulary())
    draw_losses(losses, run)
    written |= searched("greedy", model, task, task.test, 1, trees)
    written |= searched(f"beam of {args.beam}", model, task, task.test, args.beam, trees)
    draw_attention(model, task, task.test, written["greedy"], run)
    allowed = np.mean([allows(trees, task, example) for example in task.test])
    table = tell(written, task.test, task.kinds, allowed, run)
    by_depth = tell_by_depth(written, task.test, run)
    return {} if args.quick else claims(table, by_depth, back)


def all_come_back(task, run):
    """Whether every target is the string of the tree that it is read as."""
    targets = [e.target for part in (task.train, task.dev, task.test) for e in part]
    found = [brackets.tree_of(target) for target in targets]
    back = sum(brackets.linearised(tree) == t for tree, t in zip(found, targets, strict=True))
    away = np.concatenate([brackets.distances(tree) for tree in found])
    print(
        f"{back:,} of {len(targets):,} trees come back from their strings, in which a node stands"
    )
    print(f"behind the bracket of its parent by {away.mean():.1f} tokens, {away.max()} at most")
    run.log(trees=len(targets), back=back, distance=away.mean(), longest_distance=away.max())
    return back == len(targets)


def searched(name, model, task, examples, beam, trees):
    """{name: what the model writes, name + only: what it writes where only trees are allowed}."""
    return {
        name: search(model, task, examples, beam),
        f"{name}, {ONLY}": search(model, task, examples, beam, trees),
    }


def tell(written, tested, kinds, allowed, run):
    """Print and log the scores of everything written; a table of them."""
    right = [e.target for e in tested]
    table = {name: brackets.scores(tokens, right, kinds) for name, tokens in written.items()}
    print(f"{len(right):,} sources, unseen" + "".join(f"{h:>11}" for h in table["greedy"]))
    for name, row in table.items():
        print(f"{name:24}" + "".join(f"{share:11.1%}" for share in row.values()))
    print(f"the machine allows {allowed:.2%} of the right trees")
    run.log(scores=table, right_trees_allowed=allowed)
    return table


def tell_by_depth(written, tested, run):
    """Print, log and draw the shares of exact trees by depth; those of all.

    And again of trees of about one length, for deep trees are long.
    """
    depths = np.array([brackets.depth(brackets.tree_of(e.target)) for e in tested])
    lengths = np.array([len(e.target) for e in tested])
    exact = {
        name: np.array([tokens == e.target for tokens, e in zip(w, tested, strict=True)])
        for name, w in written.items()
        if not name.startswith("untrained")
    }
    bands, of_all = tell_bands("exact by depth of the tree", depths, lengths, exact, run)
    middles = [(first + last) / 2 for first, last in bands]
    run.curves("exact_by_depth", {"depth": middles, **of_all}, "share exact")
    low, high = np.quantile(lengths, [1 / 3, 2 / 3])
    near = (low <= lengths) & (lengths <= high)
    if near.any():  # of two trees none may be
        exact = {name: hits[near] for name, hits in exact.items()}
        title = f"  the same, of {low:.0f} to {high:.0f} tokens"
        tell_bands(title, depths[near], lengths[near], exact, run)
    return of_all


def tell_bands(title, depths, lengths, exact, run):
    """Print and log what share of trees is exact in each band of depths; the bands, the shares."""
    bands = bands_of(depths)
    inside = [(first <= depths) & (depths <= last) for first, last in bands]
    rows = {name: [hits[i].mean() for i in inside] for name, hits in exact.items()}
    print(f"{title:36}" + "".join(f"{f'{a}-{b}' if a < b else a:>9}" for a, b in bands))
    print(f"{'  number of trees':36}" + "".join(f"{i.sum():9}" for i in inside))
    print(f"{'  tokens, mean':36}" + "".join(f"{lengths[i].mean():9.1f}" for i in inside))
    for name, shares in rows.items():
        print(f"  {name:34}" + "".join(f"{share:9.1%}" for share in shares))
    run.log(title=title, depths=bands, **rows)
    return bands, rows


def bands_of(depths):
    """Depths, (first, last), that cut the trees into at most BANDS parts of about one size."""
    depths = sorted(depths.tolist())
    ends = sorted({depths[(i + 1) * len(depths) // BANDS - 1] for i in range(BANDS)})
    return list(zip([depths[0], *[end + 1 for end in ends[:-1]]], ends, strict=True))


def claims(table, by_depth, back):
    """What is said above, each with whether it was seen."""
    *_, greedy, _, beam, beam_only = table  # in the order in which they were searched
    seen = {
        "every tree comes back from its string": back,
        f"{ONLY}: whatever is written, also by a net that learned nothing, is one": all(
            row["words"] == 1 for name, row in table.items() if name.endswith(ONLY)
        ),
        f"{ONLY}: more are exact than without": table[beam_only]["exact"] > table[beam]["exact"],
        "of the deepest trees fewer are exact than of the flattest": (
            by_depth[greedy][-1] < by_depth[greedy][0]
        ),
    }
    if NEIGHBOUR in table:
        seen["the net passes the nearest neighbour, in exact trees and in brackets"] = all(
            table[greedy][measure] > table[NEIGHBOUR][measure] for measure in ("exact", "F1")
        )
    return seen


def draw_losses(losses, run):
    """Draw the losses of the steps, the mean of so many that there are POINTS at most."""
    size = -(-len(losses) // POINTS)
    parts = [losses[i : i + size] for i in range(0, len(losses), size)]
    steps = [min((i + 1) * size, len(losses)) for i in range(len(parts))]
    run.curves("loss", {"step": steps, "loss": [np.mean(p) for p in parts]}, "nats a token")


@tg.no_grad()
def draw_attention(model, task, examples, written, run):
    """Draw what the net reads as it is fed the longest tree that it gets right, if not too long."""
    short = [i for i, e in enumerate(examples) if len(e.target) < ROOM] or [0]
    right = [i for i in short if written[i] == examples[i].target] or short
    example = examples[max(right, key=lambda i: len(examples[i].target))]
    model.eval()
    [x], [y] = task.ids([example])
    _, weights, _ = model.decode(np.array([[END, *y]]), *model.encode(*kit.padded([x])))
    rows, labels = [*example.target, "<end>"], ("source, as read", "tree, as written")
    heat_map(run, "attention", weights.numpy()[0], rows, example.source, labels, "weight")


def main(argv=None):
    p = kit.parser("parsing", __doc__)
    p.add_argument("--data", type=Path, help="a folder of .py files, or of trees in *.ptb")
    p.add_argument("--all", action="store_true", help="all of the standard library, not a part")
    p.add_argument("--longest", type=kit.length, default=20, help="tokens of a source")
    p.add_argument("--test", type=kit.positive(int), default=800, help="expressions at most")
    p.add_argument("--rare", type=kit.positive(int), default=5, help="sentences with a known word")
    p.add_argument("--hidden-size", type=kit.size, default=128, help="of h, even")
    p.add_argument("--dropout", type=kit.fraction, default=0.1, help="of what the nets read")
    p.add_argument("--beam", type=kit.positive(int), default=5, help="width of the search")
    kit.training_flags(p, epochs=8, batch_size=32, lr=3e-3)
    kit.resume_flags(p)
    args = p.parse_args(argv)
    if args.hidden_size % 2:
        p.error("--hidden-size must be even: half of it for each direction")
    if args.quick:
        args.longest, args.epochs, args.hidden_size, args.test = 7, 1, 16, 50
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
