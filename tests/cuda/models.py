"""Small nets of every kind, and a loss for each: the same from one seed, on whichever device."""

import numpy as np

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.fused import lstm_gates_defined

T, B, D, H, V, K = 5, 3, 4, 6, 11, 3
LENGTHS = np.array([5, 2, 4])
TREES = [((0, 1), 2), 3, ((4, (5, 6)), (7, 8)), (9, 1)]
SENTENCES = [(4, (2, 0, 1), 3), (7, 5), (6, (8, 9))]  # every node a word: the first is the head's

_rng = np.random.default_rng(7)
X = _rng.standard_normal((T, B, D)).astype(np.float32)
IDS, TARGETS = _rng.integers(0, V, (T, B)), _rng.integers(0, V, (T, B))
TAGS = _rng.integers(0, K, (T, B))

MODELS = {}
"""By name, a function that makes a model and ``loss(put)``; ``put`` takes arrays to the device."""


def model(function):
    MODELS[function.__name__] = function
    return function


class Net(nn.Module):
    """Parts by name."""

    def __init__(self, **parts):
        vars(self).update(parts)


def weighed(y):
    """A loss in which every entry of ``y`` has a weight of its own."""
    device = y.device
    weights = np.sin(np.arange(y.size, dtype=np.float32)).reshape(y.shape)
    return (y * tg.tensor(weights, device=device)).sum()


def parts(state):
    return state if isinstance(state, tuple) else (state,)


# ---- layers ------------------------------------------------------------------------------------


def layer(make, lengths=None, ragged=False):
    def made():
        net = make()

        def loss(put):
            if ragged:
                ys, state = net([put(X[:n, b]) for b, n in enumerate(LENGTHS)])
                return sum((weighed(y) for y in ys), start=weighed(parts(state)[0]))
            y, state = net(put(X), lengths=lengths)
            return sum((weighed(h) for h in parts(state)), start=weighed(y))

        return net, loss

    return made


for _kind in (nn.RNN, nn.LSTM, nn.GRU):
    _name = _kind.__name__
    MODELS[_name] = layer(lambda kind=_kind: kind(D, H))
    MODELS[f"{_name}, padded"] = layer(
        lambda kind=_kind: kind(D, H, num_layers=2, bidirectional=True), lengths=LENGTHS
    )
    MODELS[f"{_name}, ragged"] = layer(
        lambda kind=_kind: kind(D, H, bidirectional=True, learn_initial=True), ragged=True
    )
    MODELS[f"{_name}, dropout"] = layer(lambda kind=_kind: kind(D, H, num_layers=2, dropout=0.5))
    MODELS[f"{_name}, variational"] = layer(
        lambda kind=_kind: kind(D, H, num_layers=2, dropout=0.5, variational=True),
        lengths=LENGTHS,
    )
MODELS["RNN, relu"] = layer(lambda: nn.RNN(D, H, nonlinearity="relu"))
MODELS["GRU, reset before"] = layer(lambda: nn.GRU(D, H, reset_after=False), lengths=LENGTHS)


def given_state(make):
    """A layer over padded sequences that goes on from a state, which has a gradient, too."""

    def made():
        net, rng = make(), np.random.default_rng(9)
        shape = (len(net.cells), B, H)
        h = tg.tensor(rng.standard_normal(shape).astype("f"), requires_grad=True)
        net.begin = h

        def loss(put):
            y, state = net(put(X), net.begin, LENGTHS)
            return weighed(y) + weighed(state)

        return net, loss

    return made


for _kind in (nn.RNN, nn.GRU):
    MODELS[f"{_kind.__name__}, given a state"] = given_state(
        lambda kind=_kind: kind(D, H, bidirectional=True)
    )
MODELS["fold of a GRU, given a state"] = given_state(
    lambda: nn.GRU(D, H, bidirectional=True, reset_after=False)
)


# ---- cells in a loop of one's own --------------------------------------------------------------


def loop(make):
    def made():
        cell = make()

        def loss(put):
            x, state, total = put(X), None, 0.0
            for t in range(T):
                state = cell(x[t], state)
                total = total + weighed(parts(state)[0])
            return total

        return cell, loss

    return made


for _kind in (
    nn.RNNCell,
    nn.LSTMCell,
    nn.GRUCell,
    nn.LayerNormLSTMCell,
    nn.PeepholeLSTMCell,
):
    MODELS[_kind.__name__] = loop(lambda kind=_kind: kind(D, H))
MODELS["LSTMCell, learned state"] = loop(lambda: nn.LSTMCell(D, H, learn_initial=True))
MODELS["JordanCell"] = loop(lambda: nn.JordanCell(D, H, K, output="softmax"))
MODELS["ElmanJordanCell"] = loop(lambda: nn.ElmanJordanCell(D, H, K))


class WrittenOut(nn.LSTMCell):
    """An LSTM of a dozen operations a step."""

    def step(self, u, state=None, mask=None):
        h, c = self.begun(u, state)
        return lstm_gates_defined(u + self.W(h, mask), c)


MODELS["LSTMCell, written out"] = loop(lambda: WrittenOut(D, H))


# ---- language, tags, translation ---------------------------------------------------------------


def language_model(sparse):
    def made():
        net = Net(embed=nn.Embedding(V, D, sparse=sparse), lstm=nn.LSTM(D, H), out=nn.Linear(H, V))

        def loss(put):
            y, _ = net.lstm(net.embed(IDS))
            return tg.cross_entropy(net.out(y), TARGETS)

        return net, loss

    return made


MODELS["language model"] = language_model(sparse=False)
MODELS["language model, sparse"] = language_model(sparse=True)


@model
def embedding_and_cross_entropy():
    net = Net(embed=nn.Embedding(V, V))
    return net, lambda put: tg.cross_entropy(
        net.embed(IDS), TARGETS, ignore_index=int(TARGETS[0, 0])
    )


@model
def tagger():
    net = Net(
        embed=nn.Embedding(V, D), lstm=nn.LSTM(D, H, bidirectional=True), out=nn.Linear(2 * H, K)
    )

    def loss(put):
        y, _ = net.lstm(net.embed(IDS), lengths=LENGTHS)
        return tg.cross_entropy(net.out(y), TAGS)

    return net, loss


@model
def tagger_with_crf():
    net = Net(embed=nn.Embedding(V, D), gru=nn.GRU(D, H), out=nn.Linear(H, K), crf=nn.CRF(K))

    def loss(put):
        words = [net.embed(IDS[:n, b]) for b, n in enumerate(LENGTHS)]
        ys, _ = net.gru(words)
        scores = net.out(tg.concatenate(ys))
        tags = np.concatenate([TAGS[:n, b] for b, n in enumerate(LENGTHS)])
        return -net.crf(scores, tags, LENGTHS).mean()

    return net, loss


def encoder_decoder(attention):
    def made():
        net = Net(
            embed=nn.Embedding(V, D),
            encoder=nn.GRU(D, H, batch_first=True),
            attention=attention(),
            decoder=nn.GRUCell(D + H, H),
            out=nn.Linear(2 * H, V),
        )

        def loss(put):
            keys, h = net.encoder(net.embed(IDS.T), lengths=LENGTHS)
            memory, h, scores = net.attention.memory(keys, LENGTHS), h[0], []
            for t in range(3):
                context, _ = net.attention.step(h, memory)
                h = net.decoder(tg.concatenate([net.embed(TARGETS[t]), context], axis=-1), h)
                scores.append(net.out(tg.concatenate([h, context], axis=-1)))
            return tg.cross_entropy(tg.stack(scores), TARGETS[1:4])

        return net, loss

    return made


MODELS["encoder-decoder"] = encoder_decoder(lambda: nn.AdditiveAttention(H, H, H))
MODELS["encoder-decoder, dot"] = encoder_decoder(lambda: nn.DotAttention(H))


# ---- trees -------------------------------------------------------------------------------------


def structure_of(trees):
    """A forest, and the numbers of the words at its leaves."""
    forest = tg.Structure.trees(trees)
    return forest, np.array([forest.items[i] for i in forest.leaves])


FOREST, WORDS = structure_of(TREES)
HEADS = tg.Structure.trees(SENTENCES, lambda t: t[1:] if isinstance(t, tuple) else ())
HEAD_WORDS = np.array([t[0] if isinstance(t, tuple) else t for t in HEADS.items])


def walked(leaf, compose):
    """What plain recursion over each of the trees gives."""

    def walk(tree):
        return leaf(tree) if isinstance(tree, int) else compose(*map(walk, tree))

    return [walk(tree) for tree in TREES]


def over_trees(make, how):
    """A net over binary trees, its nodes run by ``fold``, ``deferred`` or one by one."""

    def made():
        net = Net(embed=nn.Embedding(V, H), cell=make(), out=nn.Linear(H, K))

        def embedded(word):
            return net.cell(net.embed(np.atleast_1d(word)))

        def compose(left, right):
            return net.cell(None, left, right)

        def folded():
            state = tg.fold(net.cell, FOREST, {0: net.embed(WORDS)})
            return parts(state)[0][FOREST.roots]

        def deferred():
            return parts(tg.stack(walked(tg.deferred(embedded), tg.deferred(compose))))[0]

        def plain():
            return tg.concatenate([parts(state)[0] for state in walked(embedded, compose)])

        def loss(put):
            roots = {"fold": folded, "deferred": deferred, "plain": plain}[how]()
            return tg.cross_entropy(net.out(roots), TAGS.ravel()[: len(TREES)])

        return net, loss

    return made


for _how in ("fold", "deferred", "plain"):
    MODELS[f"RecursiveCell, {_how}"] = over_trees(lambda: nn.RecursiveCell(H, H), _how)
    MODELS[f"RNTNCell, {_how}"] = over_trees(lambda: nn.RNTNCell(H), _how)
    MODELS[f"TreeLSTMCell, {_how}"] = over_trees(lambda: nn.TreeLSTMCell(H, H), _how)


@model
def child_sum():
    """A Child-Sum Tree-LSTM over dependency trees, up and down again."""
    net = Net(
        embed=nn.Embedding(V, D),
        up=nn.ChildSumTreeLSTMCell(D, H),
        down=nn.ChildSumTreeLSTMCell(H, H),
    )

    def loss(put):
        h, _ = tg.fold(net.up.step, HEADS, net.up.U(net.embed(HEAD_WORDS)))
        above, _ = tg.fold(net.down.step, HEADS.reversed(), net.down.U(h))
        return weighed(above)

    return net, loss


# ---- ways of going back ------------------------------------------------------------------------


@model
def windows():
    """Backpropagation through time that is cut every two steps."""
    net = nn.GRUCell(D, H)

    def loss(put):
        x, h, total = put(X), None, 0.0
        for window in tg.windows(T, 2):
            h = None if h is None else tg.detach(h)
            for t in range(T)[window]:
                h = net(x[t], h)
                total = total + weighed(h)
        return total

    return net, loss


@model
def checkpointed():
    net = nn.LSTM(D, H, num_layers=2)

    def loss(put):
        y, _ = tg.checkpoint(net, put(X))
        return weighed(y)

    return net, loss


@model
def gradient_penalty():
    """The squared length of the gradient with respect to the input is part of the loss."""
    net = Net(lstm=nn.LSTM(D, H), tree=nn.TreeLSTMCell(D, H))

    def loss(put):
        x = put(X)
        x = tg.tensor(x.array, requires_grad=True, device=x.device)
        leaf = net.tree(x[0])
        y = weighed(net.lstm(x)[0]) + weighed(net.tree(x[1], leaf, leaf)[0])
        (g,) = tg.grad([y], [x], create_graph=True)
        return y + (g * g).sum()

    return net, loss
