"""A recursive net over syntax trees, node by node, which must beat a bag of the same words.

What is an expression of the standard library there for: is it assigned, tested, returned, ...?
The net is the lecture's recursive net, for binary trees with a word at every leaf,

    leaf: h = V[word]        node: h = tanh(U h_left + W h_right + b) + h_left + h_right

with the children added once more.  Their sum alone would make h a bag of the words, however deep
the tree; tanh(...) is what nesting and order add to it.  One call for each node leaves a tree
behind, and `backward` goes through it as it goes through a sentence.
"""

import collections
import hashlib
import math
import platform
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos._trees import REDUCE, read_trees

BATCH = 25  # trees
TEST_TREES = 3000
UNKNOWN = 0  # the id of a word that the vocabulary leaves out
BAG_EPOCHS, BAG_LR = 15, 1e-2  # where the bag is at its best


# ---- two models: trees of word ids -> logits (trees, roles) ----


class RecursiveNet(tg.nn.Module):
    """Reads off the role at the root."""

    def __init__(self, words, roles, hidden_size, dropout):
        H = hidden_size
        self.V = uniform(0.2, words, H)
        self.U, self.W = uniform(H**-0.5, H, H), uniform(H**-0.5, H, H)
        self.b = tg.tensor(np.zeros(H, np.float32), requires_grad=True)
        self.dropout = tg.nn.Dropout(dropout)
        self.readout = tg.nn.Linear(H, roles)

    def forward(self, trees):
        ids = np.concatenate([words_of(tree) for tree in trees])
        leaves = iter(tg.unstack(self.dropout(tg.embedding(ids, self.V)), axis=0))
        roots = [self.root(tree, leaves) for tree in trees]
        return self.readout(self.dropout(tg.stack(roots, axis=0)))

    def root(self, tree, leaves):
        """The state (H,) of the root of a tree in postfix order, its leaves being the next ones."""
        stack = []
        for word in tree:
            if word is REDUCE:
                right, left = stack.pop(), stack.pop()
                stack.append(self.node(left, right))
            else:
                stack.append(next(leaves))
        return stack.pop()

    def node(self, left, right):
        return tg.tanh(left @ self.U + right @ self.W + self.b) + left + right


class Bag(tg.nn.Module):
    """Logistic regression on how often each word occurs in the tree."""

    def __init__(self, words, roles):
        self.words = words
        self.readout = tg.nn.Linear(words, roles)

    def forward(self, trees):
        counts = [np.bincount(words_of(tree), minlength=self.words) for tree in trees]
        return self.readout(np.array(counts, np.float32))


def uniform(bound, *shape):
    """A parameter with entries between -bound and bound."""
    values = tg.default_rng().uniform(-bound, bound, shape)
    return tg.tensor(values, dtype=np.float32, requires_grad=True)


def words_of(tree):
    """The leaves of a postfix list, from left to right."""
    return [word for word in tree if word is not REDUCE]


# ---- training and testing, the same for both ----


def batches(size, epochs, rng):
    """Arrays of indices: all of range(size) in random order, once in every epoch."""
    for _ in range(epochs):
        yield from np.array_split(rng.permutation(size), math.ceil(size / BATCH))


def fit(model, trees, roles, epochs, lr, progress):
    """Train `model` to tell the roles of the trees; the loss of each step."""
    parameters = model.parameters()
    optimizer = tg.optim.Adam(parameters, lr=lr)
    steps, losses = epochs * math.ceil(len(trees) / BATCH), []
    for batch in batches(len(trees), epochs, tg.default_rng()):
        loss = tg.cross_entropy(model([trees[i] for i in batch]), roles[batch])
        kit.check_finite(loss.item())
        optimizer.zero_grad()
        loss.backward()
        tg.optim.clip_grad_norm_(parameters, 5.0)
        optimizer.lr = lr * (1 - len(losses) / steps)
        optimizer.step()
        losses.append(loss.item())
        progress.reached(len(losses) / steps, f"loss {np.mean(losses[-100:]):.3f}")
    return losses


@tg.no_grad()
def accuracy(model, trees, roles):
    """The share of the trees whose role `model` tells."""
    model.eval()
    said = [model(trees[i : i + 100]).argmax(axis=1) for i in range(0, len(trees), 100)]
    model.train()
    return np.mean(np.concatenate(said) == roles)


# ---- the demo ----


def split(trees):
    """Trees to train on and trees to test on: those of every fifth source, in order of hashes."""
    sources = {tree.source for tree in trees}
    sources = sorted(sources, key=lambda source: hashlib.sha256(source.encode()).digest())
    tested = set(sources[::5])
    return (
        [tree for tree in trees if tree.source not in tested],
        [tree for tree in trees if tree.source in tested],
    )


def sample(trees, size):
    """At most `size` of the trees, in random order."""
    return [trees[i] for i in tg.default_rng().permutation(len(trees))[:size]]


def vocabulary(trees):
    """Ids from 1 up for the words that occur in two of the trees or more."""
    count = collections.Counter(word for tree in trees for word in set(words_of(tree.postfix)))
    return {word: i for i, word in enumerate(sorted(w for w in count if count[w] > 1), 1)}


def encoded(trees, ids, roles):
    """What the models read: the trees with ids for words, and the roles as numbers."""
    x = [[REDUCE if w is REDUCE else ids.get(w, UNKNOWN) for w in tree.postfix] for tree in trees]
    return x, np.array([roles.index(tree.label) for tree in trees])


def table_accuracy(train, test, key):
    """The accuracy of saying the commonest role of the training trees that have the same key."""
    table = collections.defaultdict(collections.Counter)
    for tree in train:
        table[key(tree)][tree.label] += 1
    best = {key: roles.most_common(1)[0][0] for key, roles in table.items()}
    return np.mean([best.get(key(tree)) == tree.label for tree in test])


def read_and_split(args, run):
    """Trees to train on, trees to test on, and the roles."""
    trees = read_trees(args.data)
    roles = sorted({tree.label for tree in trees})
    rest, held_out = split(trees)
    if len(roles) < 2 or not rest:
        raise kit.DataError("nothing to learn: one label only, or trees from one source only")
    train, test = (
        sample(part, size) for part, size in ((rest, args.trees), (held_out, TEST_TREES))
    )
    source = args.data or f"the standard library of Python {platform.python_version()}"
    digest = hashlib.sha256(repr(trees).encode()).hexdigest()[:16]
    run.say(
        f"trees: {len(trees):,} of {source} (sha256 {digest}), of these {len(train):,} to train"
    )
    run.say(f"  and, from other files, {len(test):,} to test; roles: {', '.join(roles)}")
    return train, test, roles


def demo(args, run):
    train, test, roles = read_and_split(args, run)
    accuracies = {
        "commonest role": table_accuracy(train, test, key=lambda tree: None),
        "type of the root": table_accuracy(train, test, key=lambda tree: tree.postfix[0]),
    }
    ids = vocabulary(train)
    words = 1 + len(ids)
    x, y = encoded(train, ids, roles)
    x_test, y_test = encoded(test, ids, roles)
    net = RecursiveNet(words, len(roles), args.hidden_size, args.dropout)
    for name, model, epochs, lr in (
        ("bag of words", Bag(words, len(roles)), BAG_EPOCHS, BAG_LR),
        ("recursive net", net, args.epochs, args.lr),
    ):
        run.say(f"{name}: {sum(p.array.size for p in model.parameters()):,} parameters")
        with kit.Progress(run, name, total=1.0) as progress:
            losses = fit(model, x, y, epochs, lr, progress)
        accuracies[name] = accuracy(model, x_test, y_test)

    windows = np.array_split(losses, min(100, len(losses)))  # of the net, which came last
    trees_read = np.cumsum([len(w) for w in windows]) * BATCH
    run.curves("loss", {"trees read": trees_read, "training loss": [w.mean() for w in windows]})
    tg.save(run.path("model.npz"), net.state_dict(), {"words": sorted(ids), "roles": roles})
    run.log(accuracy=accuracies)
    for name, share in accuracies.items():
        print(f"{name:18}{share:7.1%}")
    lead = accuracies["recursive net"] - accuracies["bag of words"]
    print(f"the recursive net {'beats' if lead > 0 else 'misses'} the bag by {abs(lead):.1%}")


def main(argv=None):
    p = kit.parser("expression_roles", __doc__)
    p.add_argument("--data", type=Path, help="your trees: .py files, or a file of bracketed trees")
    p.add_argument("--trees", type=kit.positive(int), default=3000, help="how many to train on")
    p.add_argument("--epochs", type=kit.positive(int), default=12, help="times the net reads them")
    p.add_argument("--hidden-size", type=kit.positive(int), default=64, help="units of h")
    p.add_argument("--lr", type=kit.positive(float), default=3e-3, help="Adam's rate at the start")
    p.add_argument("--dropout", type=kit.fraction, default=0.4, help="share of V[word] dropped")
    args = p.parse_args(argv)
    if args.quick:
        args.trees, args.epochs, args.hidden_size = 100, 1, 16
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
