"""A recursive net over syntax trees, by plain recursion, which must beat a bag of the same words.

What is an expression of the standard library there for: is it assigned, tested, returned, ...?
The net is the lecture's recursive net, for binary trees with a word at every leaf:

    leaf: h = V[word]        node: h = tanh(U h_left + W h_right + b)        root: o = R h + c

The node is a deferred cell: called for each node, and run for all nodes of one height at once.
What is left behind is a tree for each expression, and `backward` goes through it as it goes through
a sentence.  The bag is logistic regression on how often each word occurs in the tree.

EXERCISE: before training, and for small V, h of a root is almost the sum over its leaves of
0.7**depth * V[word], where depth is the number of nodes above the leaf.  Write `leaf_depths(tree)`
here: the depth of every leaf of a tree in postfix order, from left to right.  `pytest -k
leaf_depths` grades it.
"""

import collections
import hashlib
import platform
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training
from demos._trees import REDUCE, read_trees, split, words_of

TEST_TREES = 3000
UNKNOWN = 0  # the number of a word that the vocabulary leaves out
BAG_EPOCHS, BAG_LR = 15, 1e-2  # where the bag is at its best


# ---- two models: trees of word ids -> logits (trees, roles) ----


class RecursiveNet(tg.nn.Module):
    """Reads off the role at the root."""

    def __init__(self, words, roles, hidden_size, dropout):
        H = hidden_size
        self.V = parameter(noise(0.3, words, H))
        # Before training h is nearly a sum of the leaves, those near the root counting most: a bag
        # of words already, which training has only to improve on.
        self.U = parameter(0.7 * np.eye(H) + noise(0.01, H, H))
        self.W = parameter(0.7 * np.eye(H) + noise(0.01, H, H))
        self.b = parameter(np.zeros(H))
        self.dropout = tg.nn.Dropout(dropout)
        self.readout = tg.nn.Linear(H, roles)

    def forward(self, trees):
        ids = np.concatenate([words_of(tree) for tree in trees])
        words = self.dropout(tg.embedding(ids, self.V))
        leaf = tg.deferred(lambda places: words[places])
        leaves = map(leaf, range(len(ids)))
        roots = [self.root(tree, leaves) for tree in trees]
        return self.readout(self.dropout(tg.stack(roots)))

    def root(self, tree, leaves):
        """The state of the root of a tree in postfix order, its leaves being the next ones."""
        stack = []
        for word in tree:
            if word is REDUCE:
                right, left = stack.pop(), stack.pop()
                stack.append(self.node(left, right))
            else:
                stack.append(next(leaves))
        return stack.pop()

    @tg.deferred
    def node(self, left, right):
        return tg.tanh(left @ self.U + right @ self.W + self.b)


class Bag(tg.nn.Module):
    """Logistic regression on how often each word occurs in the tree."""

    def __init__(self, words, roles):
        self.words = words
        self.readout = tg.nn.Linear(words, roles)

    def forward(self, trees):
        counts = [np.bincount(words_of(tree), minlength=self.words) for tree in trees]
        return self.readout(tg.tensor(np.array(counts, np.float32)))


def parameter(values):
    return tg.tensor(values, dtype=np.float32, requires_grad=True)


def noise(scale, *shape):
    return scale * tg.default_rng().standard_normal(shape)


# ---- training and testing, the same for both ----


def fit(model, trees, roles, epochs, lr, name, known, args, run):
    """Train `model` to tell the roles of the trees; the loss of each step."""

    def batches(rng):
        return np.array_split(rng.permutation(len(trees)), -(-len(trees) // args.batch_size))

    def loss_of(batch):
        return tg.cross_entropy(model([trees[i] for i in batch]), roles[batch])

    optimizer = tg.optim.Adam(model.parameters(), lr=lr)
    how = {"epochs": epochs, "optimizer": optimizer, "vocabulary": known}
    return training.fit(model, loss_of, batches, args, run, name, **how)


@tg.no_grad()
def accuracy(model, trees, roles):
    """The share of the trees whose role `model` tells."""
    model.eval()
    said = [model(trees[i : i + 100]).numpy().argmax(axis=1) for i in range(0, len(trees), 100)]
    model.train()
    return np.mean(np.concatenate(said) == roles)


# ---- the demo ----


def sample(trees, size):
    """At most `size` of the trees, in random order."""
    return [trees[i] for i in tg.default_rng().permutation(len(trees))[:size]]


def vocabulary(trees, least):
    """The words that occur in so many of the trees, and one that stands for all others."""
    words = [sorted(set(words_of(tree.postfix))) for tree in trees]
    return kit.vocabulary(words, special=[kit.UNKNOWN], least=least)


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
        raise kit.DataError(
            f"{args.data}: {len(trees):,} trees with {len(roles)} labels; expected: two labels or"
            " more, of two sources or more; give more trees"
        )
    train, test = sample(rest, args.trees), sample(held_out, TEST_TREES)
    source = args.data or f"the standard library of Python {platform.python_version()}"
    digest = hashlib.sha256(repr(trees).encode()).hexdigest()[:16]
    run.say(f"{len(trees):,} trees of {source}, sha256 {digest}; roles: {', '.join(roles)}")
    run.say(f"{len(train):,} of them to train on, {len(test):,} from other sources to test on")
    return train, test, roles


def train_and_test(name, model, words, task, epochs, lr, args, run):
    """The share of the test trees that `model` gets right, and its losses in training."""
    train, test, roles = task
    run.say(f"{name}: {sum(p.size for p in model.parameters()):,} parameters")
    known = {"words": words.words, "roles": roles}
    losses = fit(model, *encoded(train, words.ids, roles), epochs, lr, name, known, args, run)
    return accuracy(model, *encoded(test, words.ids, roles)), losses


def demo(args, run):
    task = train, test, roles = read_and_split(args, run)
    # Words that occur once help the bag and mislead the net.
    every, repeated = vocabulary(train, least=1), vocabulary(train, least=2)
    bag = Bag(len(every), len(roles))
    net = RecursiveNet(len(repeated), len(roles), args.hidden_size, args.dropout)
    known = {"words": repeated.words, "roles": roles}
    training.start_from(net, args, known)
    bag_share, _ = train_and_test("bag of words", bag, every, task, BAG_EPOCHS, BAG_LR, args, run)
    net_share, losses = train_and_test(
        "recursive net", net, repeated, task, args.epochs, args.lr, args, run
    )
    accuracies = {
        "commonest role": table_accuracy(train, test, key=lambda tree: None),
        "first word (root type)": table_accuracy(train, test, key=lambda tree: tree.postfix[0]),
        "bag of words": bag_share,
        "recursive net": net_share,
    }
    windows = np.array_split(losses, min(100, len(losses)))
    trees_read = np.cumsum([args.batch_size * len(window) for window in windows])
    curve = {"trees read": trees_read, "training": [window.mean() for window in windows]}
    run.curves("loss", curve, "nats per tree")
    training.save_model(run, "model", net, known)
    run.log(accuracy=accuracies)
    for name, share in accuracies.items():
        print(f"{name:24}{share:7.1%} of the roles right")
    if args.quick:
        return {}
    return {"the recursive net is right more often than the bag": net_share > bag_share}


def main(argv=None):
    p = kit.parser("expression_roles", __doc__)
    p.add_argument("--data", type=Path, help="your trees: .py files, or a file of bracketed trees")
    p.add_argument("--trees", type=kit.positive(int), default=20_000, help="how many to train on")
    p.add_argument("--hidden-size", type=kit.size, default=64, help="units of h")
    p.add_argument("--dropout", type=kit.fraction, default=0.4, help="share of V[word] dropped")
    kit.training_flags(p, epochs=8, batch_size=25, lr=3e-3)
    kit.resume_flags(p)
    args = p.parse_args(argv)
    if args.quick:
        args.trees, args.epochs, args.hidden_size = 100, 1, 16
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
