"""``time_report`` of recursions and folds against backpropagation through structure, by hand."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn

from .test_report import D, H, assert_close, seeds


def random_tree(rng, leaves):
    """A binary tree as nested pairs over leaves 0, 1, ..."""
    trees = list(range(leaves))
    while len(trees) > 1:
        i = rng.integers(len(trees) - 1)
        trees[i : i + 2] = [(trees[i], trees[i + 1])]
    return trees[0]


class TreeByHand:
    """h = tanh(L left + R right), tanh(V x) at a leaf; E = |h_root|^2 / 2 + the sum of all h."""

    def __init__(self, rng, tree, V, L, R, xs):
        self.nodes, self.V, self.L, self.R, self.xs = [], V, L, R, xs
        self.h, self.children = [], []
        self.grow(tree)
        n = len(self.h)
        self.g = [np.ones(H) for _ in range(n)]
        self.g[-1] = self.g[-1] + self.h[-1]
        self.J = [None] * n
        self.J[-1] = np.eye(H)
        self.shares = {name: np.zeros((n, *x.shape)) for name, x in [("V", V), ("L", L), ("R", R)]}
        for i in reversed(range(n)):  # children come before their parents
            a = self.g[i] * (1 - self.h[i] ** 2)
            slope = (1 - self.h[i] ** 2)[:, None]
            if isinstance(self.children[i], tuple):
                for name, M, j in zip("LR", (L, R), self.children[i], strict=True):
                    self.shares[name][i] = np.outer(a, self.h[j])
                    self.g[j] = self.g[j] + a @ M
                    self.J[j] = self.J[i] @ (slope * M)
            else:
                self.shares["V"][i] = np.outer(a, xs[self.children[i]])

    def grow(self, tree):
        if isinstance(tree, tuple):
            left, right = map(self.grow, tree)
            self.children.append((left, right))
            self.h.append(np.tanh(self.L @ self.h[left] + self.R @ self.h[right]))
        else:
            self.children.append(tree)
            self.h.append(np.tanh(self.V @ self.xs[tree]))
        return len(self.h) - 1


def matrices(rng):
    return rng.standard_normal((H, D)), rng.standard_normal((H, H)), rng.standard_normal((H, H))


@given(seeds, st.integers(1, 6))
def test_the_report_of_a_recursion_is_backpropagation_through_structure_by_hand(seed, leaves):
    rng = np.random.default_rng(seed)
    tree, xs = random_tree(rng, leaves), rng.standard_normal((leaves, D))
    V, L, R = matrices(rng)
    hand = TreeByHand(rng, tree, V, L, R, xs)
    weights = dict(zip("VLR", [tg.tensor(x, requires_grad=True) for x in (V, L, R)], strict=True))
    states = {}

    def embed(tree):
        if isinstance(tree, tuple):
            left, right = map(embed, tree)
            h = tg.tanh(weights["L"] @ left + weights["R"] @ right)
        else:
            h = tg.tanh(weights["V"] @ xs[tree])
        states[str(tree)] = h
        return h

    root = embed(tree)
    loss = 0.5 * tg.sum(root * root) + sum(tg.sum(h) for h in states.values())
    report = tg.time_report(loss, states, weights)
    assert report.labels == list(states) and report.kind == "node"
    for name, share in hand.shares.items():
        assert_close(report.shares[name], share)
    assert_close(report.gradients["h"], np.linalg.norm(hand.g, axis=1))
    assert_close(report.jacobians["h"], np.linalg.norm(hand.J, axis=(1, 2)))


@given(seeds, st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_the_report_of_a_fold_is_that_of_its_trees(seed, sizes):
    rng = np.random.default_rng(seed)
    V, L, R = matrices(rng)
    counts, children, xs, hands = [], [], [], []
    for leaves in sizes:
        tree, own = random_tree(rng, leaves), rng.standard_normal((leaves, D))
        hand = TreeByHand(rng, tree, V, L, R, own)
        for node in hand.children:
            inner = isinstance(node, tuple)
            children += [j + len(counts) for j in node] if inner else []
            xs.append(np.zeros(D) if inner else own[node])
        counts += [2 if isinstance(node, tuple) else 0 for node in hand.children]
        hands.append(hand)
    structure = tg.Structure(counts, children)
    weights = dict(zip("VLR", [tg.tensor(x, requires_grad=True) for x in (V, L, R)], strict=True))
    VT, LT, RT = (x.T for x in weights.values())
    cell = {0: lambda x: tg.tanh(x @ VT), 2: lambda x, a, b: tg.tanh(a @ LT + b @ RT)}
    h = tg.fold(cell, structure, np.array(xs))
    roots = h[structure.roots]
    loss = 0.5 * tg.sum(roots * roots) + tg.sum(h)
    report = tg.time_report(loss, h, weights, structure=structure)
    assert_close(
        report.gradients["h"], np.concatenate([np.linalg.norm(o.g, axis=1) for o in hands])
    )
    jacobians = [np.linalg.norm(o.J, axis=(1, 2)) for o in hands]
    assert_close(report.jacobians["h"], np.concatenate(jacobians))
    for name in "VLR":
        of_nodes = np.concatenate([o.shares[name] for o in hands])
        for height, share in enumerate(report.shares[name]):
            assert_close(share, of_nodes[structure.heights == height].sum(0))
    loss.backward()
    for name, x in weights.items():
        g = np.zeros(x.shape) if x.grad is None else x.grad.array
        assert_close(report.shares[name].sum(0) + report.rest[name], g)


def test_a_fold_over_chains_is_the_loop():
    rng = np.random.default_rng(0)
    cell, xs = nn.LSTMCell(D, H, rng=rng), rng.standard_normal((4, 1, D)).astype("f")
    state, states = (np.zeros((1, H), "f"), np.zeros((1, H), "f")), []
    for x in xs:
        state = cell(x, state)
        states.append(state)
    loop = tg.time_report(tg.sum(state[0]), states, cell)
    structure = tg.Structure.chains([4])
    zeros = (np.zeros((1, H), "f"), np.zeros((1, H), "f"))
    h, c = tg.fold(cell, structure, xs[:, 0], zeros)
    fold = tg.time_report(tg.sum(h[3]), (h, c), cell, structure=structure)
    for part in "hc":
        assert_close(fold.gradients[part], loop.gradients[part], rtol=1e-4)
        assert_close(fold.jacobians[part], loop.jacobians[part][:, 0], rtol=1e-4)
    for name, share in loop.shares.items():
        assert_close(fold.shares[name], share, rtol=1e-4)


def test_probes_come_near_the_exact_norms_of_a_fold():
    rng = np.random.default_rng(0)
    cell, structure = nn.RNNCell(D, H, rng=rng), tg.Structure.chains([4, 2])
    h = tg.fold(cell, structure, rng.standard_normal((6, D)).astype("f"), np.zeros(H, "f"))
    exact, near = (
        tg.time_report(tg.sum(h), h, cell, structure=structure, probes=probes).jacobians["h"]
        for probes in (None, 400)
    )
    assert (np.abs(near / exact - 1) < 4 / np.sqrt(800)).all()


def test_a_state_may_be_a_number():
    w, structure = tg.tensor(0.5, requires_grad=True), tg.Structure.chains([3, 1])
    h = tg.fold({0: lambda x: x * w, 1: lambda x, h: h * w + x}, structure, np.ones(4))
    report = tg.time_report(tg.sum(h), h, {"w": w}, structure=structure)
    assert report.gradients["h"].tolist() == [1.75, 1.5, 1, 1]
    assert report.jacobians["h"].tolist() == [0.25, 0.5, 1, 1]
    assert report.shares["w"].tolist() == [2.75, 1.5 * 0.5, 1.25]


def test_nodes_that_need_no_gradient_get_none():
    w, structure = tg.tensor(0.5, requires_grad=True), tg.Structure.chains([3, 1])
    h = tg.fold({0: lambda x: x, 1: lambda x, h: h * w}, structure, np.ones(4))
    report = tg.time_report(tg.sum(h), h, {"w": w}, structure=structure)
    assert report.gradients["h"].tolist() == [0, 1.5, 1, 0]
    assert report.shares["w"].tolist() == [0, 1.5, 0.5]
