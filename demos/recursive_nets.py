"""Recursive nets over trees, and what they lose when the tree is wrong.

A recursive net has a state at every node of a tree, made from the states of the node's children.
The slide asks what V, U and W are: what takes a word, a left and a right child to that state.

    RecNN       leaf h = tanh(V x + b)    node h = tanh(U h_left + W h_right + b)
    RNTN        leaf h = x                node h = tanh(p T p^T + W p + b), p = [h_left; h_right]
    Tree-LSTM   leaf (h, c) from x        node c = i * g + f_left * c_left + f_right * c_right
    any         p(label of the node) = softmax(S h + s)

x is the vector of the word, plus those of its first four and six letters and of its last three,
which is what can be known of a word that training did not have.  First, a recurrent net is shown to
be a recursive net over trees that branch to the left: U is what recurs, W takes the input.  Then
the nets learn: from syntax trees of Python's standard library what each expression is there for
(labels at roots only), or with --data from the Stanford Sentiment Treebank, which has a label from
0 to 4 at every node.  Binary figures are of the same net: p(0) + p(1) against p(3) + p(4), at nodes
that are not 2.  The epoch is chosen by the roots of the dev trees.

What if the tree is wrong?  A net that learned from the right trees is given the same words in
others, branching to the left, to the right or at random; and one that learned from such trees is
given such.  Fewer of their nodes have labels; `--labels shared` gives all shapes the same ones, of
words and roots: on the treebank hardly anything depends on the shape then, and roots are told worse
by far.  What a right tree has is a place for the labels of phrases.  Two runs of the benchmark:

    --data SST --cells Tree-LSTM --trees gold --hidden-size 150 --dropout 0.4 --epochs 6
        --batch-size 25 --lr 1e-3 --test
    --data SST --cells Tree-LSTM --labels shared --hidden-size 100 --dropout 0.5 --epochs 5
        --lr 2e-3

With `--models`, nothing is trained: saved nets, of the first of --cells, are tested and averaged.

EXERCISE: write `balanced(words)` here: the postfix list of the tree over `words` that splits every
phrase in the middle, the left half getting the odd word.  No tree is lower.  `pytest -k balanced`
grades it.
"""

import itertools
from pathlib import Path

import numpy as np

import tinygrad_rnn as tg
from demos import _kit as kit
from demos import _training as training
from demos import _tree_pictures as pictures
from demos._forests import NO_LABEL, Reader, joined, predictions, read_parts, shares_right
from demos._trees import branching, reshaped, structure_of, words_of

SHAPES = ["gold", "random", "left", "right"]
WORD_DROPOUT = 0.1  # of the words in training to be unknown, and as many in their pieces
SENTIMENT = ["0", "1", "2", "3", "4"]
LENGTHS = 6  # groups of trees, for the curve
PICTURED = range(7, 15)  # words of the tree to draw
MOST_UNITS = 1000  # of a saved net: the file says how many, and an RNTN takes their cube


# ---- the models ----


class RecursiveNet(tg.nn.Module):
    """Logits of the labels of every node of a forest."""

    def __init__(self, words, pieces, labels, cell, size, dropout):
        self.words = parameter(noise(0.1, words, size))
        self.pieces = parameter(noise(0.1, pieces, size))
        self.cell = CELLS[cell](size)
        self.S = tg.nn.Linear(size, labels)
        self.dropout = tg.nn.Dropout(dropout)

    def forward(self, forest):
        return self.S(self.dropout(hidden(self.states(forest))))

    def states(self, forest):
        """h, or (h, c), of every node."""
        words, pieces = forest.words, forest.pieces
        if self.training:
            known = tg.default_rng().random((2, len(words), 1)) >= WORD_DROPOUT
            words, pieces = words * known[0, :, 0], pieces * known[1]  # what is unknown is 0
        x = tg.embedding(words, self.words) + tg.embedding(pieces, self.pieces).sum(1)
        return tg.fold(self.cell, forest.structure, {0: self.dropout(x)})


def hidden(state):
    """h of a state that is h, or (h, c)."""
    return state[0] if isinstance(state, tuple) else state


def recursive_cell(size):
    """A RecNN's cell that begins by nearly adding up the leaves, those near the root the most."""
    cell = tg.nn.RecursiveCell(size, size)
    cell.V = parameter(np.eye(size) + noise(0.01, size, size))
    cell.U, cell.W = (parameter(0.7 * np.eye(size) + noise(0.01, size, size)) for _ in range(2))
    cell.b = parameter(np.zeros(size))
    return cell


class RNTNCell(tg.nn.RNTNCell):
    """An RNTN's cell that begins so too; T = t / 10 moves a tenth as far as W in a step of Adam.

    T has so many entries that with all else it would move too far at once.
    """

    def __init__(self, size):
        self.input_size = self.hidden_size = size
        self.t = parameter(noise(0.01, size, 2 * size, 2 * size))
        self.W = parameter(0.7 * np.hstack([np.eye(size)] * 2) + noise(0.01, size, 2 * size))
        self.b = parameter(np.zeros(size))

    @property
    def T(self):
        return self.t / 10


CELLS = {
    "RecNN": recursive_cell,
    "RNTN": RNTNCell,
    "Tree-LSTM": lambda size: tg.nn.TreeLSTMCell(size, size),
}


def parameter(values):
    return tg.tensor(values, dtype=np.float32, requires_grad=True)


def noise(scale, *shape):
    return scale * tg.default_rng().standard_normal(shape)


# ---- a recurrent net is a linear recursive net ----


def difference_from_recurrent_net(size, steps):
    """How far a RecNN over a tree that branches to the left is from a recurrent net at most.

    In its states and in the gradients of its weights, in float64.
    """
    tree, net = tg.nn.RecursiveCell(size, size), tg.nn.RNNCell(size, size)
    for name, p in tree.named_parameters():
        setattr(tree, name, tg.tensor(p.numpy().astype(float), requires_grad=True))
    net.weight_hh, net.weight_ih, net.bias_ih = (
        tg.tensor(p.numpy(), requires_grad=True) for p in (tree.U, tree.W, tree.b)
    )
    net.bias_hh = tg.tensor(np.zeros(size), requires_grad=True)
    words = tg.tensor(noise(1.0, steps, size))
    linear = structure_of(branching(range(steps), "left"))
    along_tree = tg.fold(tree, linear, {0: words})[np.flatnonzero(linear.counts)]
    x = tg.tanh(words @ tree.V.T + tree.b)  # the leaves are the input, the first one is h^1
    in_time = [net(x[1], x[0])]
    for t in range(2, steps):
        in_time.append(net(x[t], in_time[-1]))
    in_time = tg.stack(in_time)
    ours = tg.grad((along_tree * along_tree).sum(), [tree.U, tree.W])
    theirs = tg.grad((in_time * in_time).sum(), [net.weight_hh, net.weight_ih])
    pairs = zip([along_tree, *ours], [in_time, *theirs], strict=True)
    return max(np.abs(a.numpy() - b.numpy()).max() for a, b in pairs)


# ---- training and testing ----


def train(name, net, forests, shape, known, args, run):
    """Train `net` on trees of this shape; its weights are those of the epoch best on dev."""
    trees, dev = forests["train", shape], forests["dev", shape]

    def batches(rng):
        return np.array_split(rng.permutation(len(trees)), -(-len(trees) // args.batch_size))

    def loss_of(batch):
        forest = joined([trees[i] for i in batch])
        return tg.cross_entropy(net(forest), forest.labels, ignore_index=NO_LABEL)

    run.say(f"{name}: {sum(p.size for p in net.parameters()):,} parameters")
    how = {"validate": lambda: score(net, dev)["roots"], "vocabulary": known}
    training.fit(net, loss_of, batches, args, run, name, **how)


def score(net, forests, sentiment=False):
    """The shares of the labels that `net` tells right, by name."""
    return shares_right(*predictions(net, forests), sentiment)


# ---- the demo ----


def demo(args, run):
    difference = difference_from_recurrent_net(size=8, steps=20)
    print(f"a RecNN branching to the left differs from a recurrent net by {difference:.1e}")
    rng = np.random.default_rng(args.seed)
    parts = read_parts(args.data, args.limit, rng)
    if args.models:
        return together(args, parts, run)
    reader = Reader.of(parts["train"], args.labels == "shared")
    run.say(", ".join(f"{len(trees):,} {part} trees" for part, trees in parts.items()))
    run.say(f"{len(reader.words):,} words, {len(reader.pieces):,} pieces; labels: {reader.labels}")
    shapes = {"train": args.trees, "dev": SHAPES, "test": SHAPES if args.test else []}
    forests = {
        (part, shape): [reader.read(reshaped(tree, shape, rng)) for tree in trees]
        for part, trees in parts.items()
        for shape in shapes[part]
    }
    scores, nets = {}, {}
    for cell, learned in itertools.product(args.cells, args.trees):
        sizes = len(reader.words), len(reader.pieces), len(reader.labels)
        net = nets[cell, learned] = RecursiveNet(*sizes, cell, args.hidden_size, args.dropout)
        training.start_from(net, args, reader.known())
        train(f"{cell} {learned}", net, forests, learned, reader.known(), args, run)
        training.save_model(run, f"{cell}_{learned}", net, reader.known())
        for part, given in list(forests):
            if part != "train" and learned in ("gold", given):
                shares = score(net, forests[part, given], reader.labels == SENTIMENT)
                scores[cell, learned, part, given] = shares["roots"]
                tell(cell, learned, part, given, shares, run)
    draw_lengths(nets, forests, args, run)
    if "gold" in args.trees:
        picture(nets[args.cells[-1], "gold"], parts["dev"], reader, run)
    return {} if args.quick else claims(difference, scores, args)


def together(args, parts, run):
    """Tell what saved nets say of the right trees, each by itself and by the mean of their p."""
    nets = [saved_net(path, args) for path in args.models]
    for path, (reader, _) in zip(args.models, nets, strict=True):
        if reader.labels != nets[0][0].labels:
            raise kit.DataError(
                f"{path} tells other labels than {args.models[0]}; expected: the same, so that p"
                " has a mean; name nets of the same data"
            )
    for part in ["dev", "test"] if args.test else ["dev"]:
        every = []
        for reader, net in nets:
            p, labels, roots = predictions(net, [reader.read(tree) for tree in parts[part]])
            every.append(p)
            shares = shares_right(p, labels, roots, reader.labels == SENTIMENT)
            tell(args.cells[0], "gold", part, "gold", shares, run)
        shares = shares_right(np.mean(every, axis=0), labels, roots, reader.labels == SENTIMENT)
        tell("mean of p", "gold", part, "gold", shares, run)


def saved_net(path, args):
    """The Reader and the net that a run has saved; CheckpointError or DataError if it is none."""
    saved = tg.load(path)
    known, rows = saved.metadata.get("vocabulary"), saved.get("words", np.zeros(0))
    known = known if isinstance(known, dict) else {}
    lists = [known.get(name) for name in ("words", "pieces", "labels")]
    is_net = rows.ndim == 2 and rows.shape[1] <= MOST_UNITS and all(map(is_vocabulary, lists))
    if not is_net or lists[0][0] != kit.UNKNOWN or lists[1][0] != kit.UNKNOWN:
        raise kit.DataError(
            f"{path} is no net with its words, pieces and labels; expected: what this demo saves,"
            " such as Tree-LSTM_gold.npz; name that by --models"
        )
    sizes = map(len, lists)
    net = RecursiveNet(*sizes, args.cells[0], rows.shape[1], args.dropout)
    net.load_state_dict(saved)
    return Reader(*lists), net


def is_vocabulary(words):
    """Whether it is a list of different words, as `Reader.known` has it; not an empty one."""
    texts = isinstance(words, list) and all(isinstance(word, str) for word in words)
    return texts and 0 < len(set(words)) == len(words)


def tell(cell, learned, part, given, shares, run):
    """Print the figures of a net that learned from some trees, given others."""
    run.log(cell=cell, learned=learned, part=part, given=given, right=shares)
    figures = "".join(f"{name:>14}{share:7.1%}" for name, share in shares.items())
    print(f"{cell:9} learned {learned:6} {part} given {given:6}{figures}", flush=True)


def draw_lengths(nets, forests, args, run):
    """Draw the share of dev roots that nets tell right, among trees of about one length."""
    lengths = np.array([len(forest.words) for forest in forests["dev", "gold"]])
    parts = np.array_split(np.argsort(lengths, kind="stable"), min(LENGTHS, len(lengths)))
    for cell in args.cells:
        columns = {"words of the tree": [lengths[part].mean() for part in parts]}
        for shape in args.trees:
            p, labels, roots = predictions(nets[cell, shape], forests["dev", shape])
            right = (p.argmax(axis=1) == labels)[roots]
            columns[shape] = [right[part].mean() for part in parts]
        run.curves(f"roots_by_length_{cell}", columns, f"share of dev roots right, {cell}")


def claims(difference, scores, args):
    """What the slides say, with whether it was seen on the dev trees."""
    seen = {"a recurrent net is a recursive net, to 1e-12": difference < 1e-12}
    compared = "gold" in args.trees and args.labels == "all"
    for cell in args.cells if compared else []:
        roots = {given: scores[cell, "gold", "dev", given] for given in SHAPES}
        right = roots.pop("gold")
        seen[f"given wrong trees the {cell} is right less often"] = right > max(roots.values())
    return seen


# ---- a picture ----


def picture(net, trees, reader, run):
    """Draw the tree of PICTURED words over which the predictions vary the most.

    Its nodes are coloured by what is told there and by the gradient of the root's loss.
    """
    trees = [tree for tree in trees if len(words_of(tree.postfix)) in PICTURED]
    trees = [tree for tree in trees if tree.label in reader.labels]
    if not trees:
        return
    net.eval()
    tree = max(trees, key=lambda tree: told(net, tree, reader).std())
    forest = reader.read(tree)
    state = net.states(forest)
    loss = tg.cross_entropy(net.S(hidden(state)[-1:]), forest.labels[-1:])
    report = tg.time_report(loss, state, net, forest.structure, probes=1)
    gradient = np.sqrt(sum(norms**2 for norms in report.gradients.values()))
    pictures.draw(run, tree, told(net, tree, reader), gradient, reader.labels == SENTIMENT)
    net.train()


@tg.no_grad()
def told(net, tree, reader):
    """A number for each node: the expected sentiment, or p of what the root is said to be."""
    p = tg.softmax(net(reader.read(tree))).numpy()
    return p @ np.arange(5) if reader.labels == SENTIMENT else p[:, p[-1].argmax()]


def main(argv=None):
    p = kit.parser("recursive_nets", __doc__)
    p.add_argument("--data", type=Path, help="train.txt, dev.txt, test.txt; or as expression_roles")
    p.add_argument("--limit", type=kit.positive(int), default=9000, help="trees to train on")
    p.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), help="to compare")
    p.add_argument("--trees", nargs="+", choices=SHAPES, default=SHAPES, help="to learn from")
    p.add_argument("--labels", choices=["all", "shared"], default="all", help="of which nodes")
    p.add_argument("--test", action="store_true", help="read the test trees too, when all is set")
    p.add_argument("--models", nargs="+", type=Path, help="saved nets to test, and to average")
    p.add_argument("--hidden-size", type=kit.size, default=24, help="units of h and of x")
    p.add_argument("--dropout", type=kit.fraction, default=0.25, help="share of x and of h dropped")
    kit.training_flags(p, epochs=3, batch_size=50, lr=4e-3)
    kit.resume_flags(p)
    args = p.parse_args(argv)
    if args.init_from and len(args.cells) * len(args.trees) > 1:
        p.error("--init-from is for one of --cells and one of --trees")
    if args.quick:
        args.limit, args.epochs, args.hidden_size = 200, 1, 8
        args.trees = ["gold", "left"]
    return kit.main(demo, args)


if __name__ == "__main__":
    raise SystemExit(main())
