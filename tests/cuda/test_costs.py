"""What a training step costs a device: launches, products, copies and waits, pinned.

A step is ``zero_grad``, the loss, ``backward``, ``clip_grad_norm_`` and a step of Adam.  It waits
for nothing and brings nothing back; what it takes along is its batch.  All of this is counted, so a
launch too many, or a ``float`` of the loss, is an error where there is no GPU.

On host memory CuPy itself counts.  The simulator counts the same, except inside a kernel's
function: it takes each for one launch and no product.  So where a layer is one operation, or rows
are added up, its launches and products are bounds from below, and stand beside the others.
"""

from dataclasses import replace

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim

from .models import MODELS, Net, WrittenOut, parts
from .tiers import Costs

pytestmark = pytest.mark.costs

V, D, H, K, B = 50, 16, 64, 7, 16


def language_model(make, T=5):
    """A language model whose recurrent part is a layer, or a cell in a loop of one's own."""
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, V, (2, T, B))
    net = Net(embed=nn.Embedding(V, D), core=make(D, H), out=nn.Linear(H, V))

    def looped(x):
        u, state, hs = net.core.U(x), None, []
        for t in range(T):
            state = net.core.step(u[t], state)
            hs.append(parts(state)[0])
        return tg.stack(hs)

    def loss():
        x = net.embed(ids)
        y = net.core(x)[0] if isinstance(net.core, nn.Recurrent) else looped(x)
        return tg.cross_entropy(net.out(y), targets)

    return net, loss


def tagger():
    """Tags of sentences of several lengths, from both directions."""
    rng, lengths = np.random.default_rng(0), np.array([5, 2, 4])
    ids, tags = rng.integers(0, V, (5, 3)), rng.integers(0, K, (5, 3))
    net = Net(
        embed=nn.Embedding(V, D), lstm=nn.LSTM(D, H, bidirectional=True), out=nn.Linear(2 * H, K)
    )
    return net, lambda: tg.cross_entropy(
        net.out(net.lstm(net.embed(ids), lengths=lengths)[0]), tags
    )


def table_and_loss():
    """Scores of the next word, a row for each word: nothing but a table and a loss."""
    ids, targets = np.random.default_rng(0).integers(0, V, (2, 5, B))
    net = Net(embed=nn.Embedding(V, V))
    return net, lambda: tg.cross_entropy(net.embed(ids), targets)


def of_trees(name):
    def made():
        net, loss = MODELS[name]()
        return net, lambda: loss(None)

    return made


LAYERS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "Elman": nn.RNN}
CELLS = {
    "LSTM cell": nn.LSTMCell,
    "LSTM cell, written out": WrittenOut,
    "GRU cell": nn.GRUCell,
    "Elman cell": nn.RNNCell,
}
STEPS = {
    **{name: lambda make=make: language_model(make) for name, make in (LAYERS | CELLS).items()},
    "tagger": tagger,
    "table and loss": table_and_loss,
    "Tree-LSTM, fold": of_trees("TreeLSTMCell, fold"),
    "Tree-LSTM, deferred": of_trees("TreeLSTMCell, deferred"),
}


class Step:
    """A model on the device, and the costs of each part of its training step, when it is warm."""

    def __init__(self, tier, made):
        self.tier = tier
        tg.manual_seed(0)
        self.model, self.loss = made
        self.model.to("cuda")
        self.optimizer = optim.Adam(self.model.named_parameters())
        for _ in range(2):  # compiles kernels, uploads layouts, makes memories
            self.costs = self.counted()

    def counted(self):
        self.optimizer.zero_grad()
        parameters = self.model.parameters()
        with self.tier.counting() as forward:
            loss = self.loss()
        with self.tier.counting() as backward:
            loss.backward()
        with self.tier.counting() as training:
            optim.clip_grad_norm_(parameters, 1.0)
            self.optimizer.step()
        return {"forward": forward, "backward": backward, "training": training}

    def total(self):
        parts = self.costs.values()
        return Costs(*[sum(getattr(one, name) for one in parts) for name in vars(Costs())])


# Launches and products of a step forward, and backward: on host memory, and on the simulator.
PINNED = {
    "LSTM": ((15, 7, 22, 10), (8, 1, 10, 4)),
    "GRU": ((13, 7, 23, 10), (7, 1, 10, 4)),
    "Elman": ((14, 7, 22, 10), (8, 1, 10, 4)),
    "LSTM cell": ((23, 7, 37, 9), (23, 7, 33, 9)),
    "LSTM cell, written out": ((108, 7, 160, 9), (108, 7, 156, 9)),
    "GRU cell": ((22, 7, 50, 9), (22, 7, 46, 9)),
    "Elman cell": ((23, 7, 47, 9), (23, 7, 43, 9)),
    "tagger": ((36, 13, 38, 18), (22, 1, 16, 6)),
    "table and loss": ((5, 0, 9, 0), (5, 0, 5, 0)),
    "Tree-LSTM, fold": ((48, 5, 58, 8), (46, 5, 47, 8)),
    "Tree-LSTM, deferred": ((49, 5, 62, 8), (47, 5, 48, 8)),
}

UPLOADS = {
    "Tree-LSTM, fold": ["words", "roots", "targets"],
    "Tree-LSTM, deferred": [
        "words, each once",
        "the leaves that each word is for",
        *["left children and right children of a height"] * 2 * 3,
        "roots",
        "targets",
    ],
}
"""What goes to the device in a step; where nothing is said, ids and targets."""

# Launches and products of one more time step, forward and backward, on host memory: where a layer
# is one operation, a kernel and a product for each.
EACH_STEP = {
    "LSTM": (1, 1, 1, 1),
    "GRU": (1, 1, 1, 1),
    "Elman": (1, 1, 1, 1),
    "LSTM cell": (3, 1, 5, 1),
    "LSTM cell, written out": (20, 1, 30, 1),
    "GRU cell": (3, 1, 8, 1),
    "Elman cell": (3, 1, 7, 1),
}


def launches_and_products(costs):
    forward, backward = costs["forward"], costs["backward"]
    return forward.launches, forward.products, backward.launches, backward.products


@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_costs_what_it_did(name, tier):
    step = Step(tier, STEPS[name]())
    assert launches_and_products(step.costs) == PINNED[name][tier.name == "simulator"]
    training = Costs(launches=4 + 2)  # to clip, and to look at gradients and move parameters
    assert step.costs["training"] == training


@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_waits_for_nothing_and_takes_its_batch_along(name, tier):
    total = Step(tier, STEPS[name]()).total()
    assert (total.syncs, total.to_host) == (0, 0)
    assert total.to_device == len(UPLOADS.get(name, ["ids", "targets"]))


@pytest.mark.parametrize("name", LAYERS | CELLS)
def test_a_time_step_more_costs_what_it_did(name, tier):
    five, six = (
        launches_and_products(Step(tier, language_model((LAYERS | CELLS)[name], T)).costs)
        for T in (5, 6)
    )
    inside_one_kernel = tier.name == "simulator" and name in LAYERS
    expected = (0, 0, 0, 0) if inside_one_kernel else EACH_STEP[name]
    assert tuple(np.subtract(six, five)) == expected


@pytest.mark.parametrize(("T", "joined"), [(8, []), (9, ["states", "cotangents", "rows"])])
def test_what_is_joined_of_nine_arrays_or_more_takes_their_addresses_along(T, joined, tier):
    """So CuPy joins them in one launch.  The last two are the factors of the gradient of W."""
    total = Step(tier, language_model(nn.LSTMCell, T)).total()
    assert total.to_device == len(["ids", "targets", *joined])
    assert total.syncs == 0


def test_a_fused_step_is_a_sixth_of_its_formula():
    """An LSTM's, forward and backward, without what a loop of one's own adds around it."""
    fused, written_out = EACH_STEP["LSTM cell"], EACH_STEP["LSTM cell, written out"]
    assert 6 * (fused[0] + fused[2]) <= written_out[0] + written_out[2]


@pytest.mark.parametrize("depth", [2, 6])
def test_a_new_structure_goes_to_the_device_in_few_pieces(depth, tier):
    """However high it is: all children, and the way back to the order of the nodes."""

    def tree(n):
        return [1, (tree(n - 1), 2), (3, tree(n - 1))][n % 2 + 1] if n else 0

    cell = nn.RecursiveCell(H, H).to("cuda")
    forest = tg.Structure.trees([tree(depth), 4, (tree(depth), tree(depth - 1))])
    words = tg.tensor(np.ones((len(forest.leaves), H), np.float32), device="cuda")
    costs = []
    for _ in range(2):
        with tier.counting() as one:
            tg.fold(cell, forest, {0: words})
        costs.append(one.to_device)
    assert costs == [2, 0]


# ---- what is worse is seen ---------------------------------------------------------------------


class Careless(nn.LSTMCell):
    """An LSTM with one operation more in a step."""

    def W(self, h, mask=None):
        return super().W(h, mask) + 0.0


def test_a_launch_too_many_is_seen(tier):
    five, six = (
        launches_and_products(Step(tier, language_model(Careless, T)).costs) for T in (5, 6)
    )
    forward, *_ = np.subtract(six, five)
    assert forward == EACH_STEP["LSTM cell"][0] + 1


def test_a_loss_that_is_read_is_a_wait_and_a_copy(tier):
    net, loss = language_model(nn.LSTM)
    step = Step(tier, (net, loss))
    with tier.counting() as costs:
        loss().item()
    unread = step.costs["forward"]
    assert (costs.syncs, costs.to_host) == (1, 1)
    assert costs == replace(unread, syncs=1, to_host=1)


def test_rows_of_a_sparse_table_wait_for_their_ids(tier):
    """How many there are depends on their values; no other gradient is made to wait for that."""
    ids, targets = np.random.default_rng(0).integers(0, V, (2, B))
    table = nn.Embedding(V, V, sparse=True).to("cuda")
    loss = tg.cross_entropy(table(ids), targets)
    with tier.counting() as costs:
        loss.backward()
        assert table.weight.grad.values.shape == (len(set(ids.tolist())), V)
    assert costs.syncs > 0
