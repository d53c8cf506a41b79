"""Laws of the fold: it is the recursion over each node by itself, in value and every gradient."""

from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.testing import forests

Structure = tg.Structure

D, H, PLACES = 2, 3, 3  # inputs, states; children are told apart by their place
graphs = st.booleans().flatmap(lambda shared: forests(shared=shared))
seeds = st.integers(0, 2**32 - 1)


def leaf(rng, *shape, dtype=float):
    return tg.tensor((0.7 * rng.standard_normal(shape)).astype(dtype), requires_grad=True)


class Net:
    """Weights, and cells of one state or of two that tell children apart."""

    def __init__(self, seed=0, dtype=float):
        self.rng = np.random.default_rng(seed)
        self.U = leaf(self.rng, D, H, dtype=dtype)
        self.W = [leaf(self.rng, H, H, dtype=dtype) for _ in range(PLACES)]
        self.R = leaf(self.rng, H, H, dtype=dtype)

    def weights(self):
        return [self.U, *self.W, self.R]

    def one(self, x, *children):
        a = x @ self.U
        for h, W in zip(children, self.W, strict=False):
            a = a + h @ W
        return tg.tanh(a)

    def two(self, x, *children):
        a = self.one(x, *[h for h, _ in children])
        c = a * a
        for k, (_, c_k) in enumerate(children, 1):
            c = c + tg.sigmoid(a @ self.R) * c_k / k
        return a * c, c


def node_by_node(cell, children, x, initial=None):
    """The states by plain recursion: the cell is called for each node by itself."""
    states = {}
    leaves = [i for i, own in enumerate(children) if not own]

    def state(i):
        if i not in states:
            below = [state(j) for j in children[i]]
            if not below and initial is not None:
                below = [
                    each(initial, lambda s: row(s, leaves.index(i)) if s.ndim > 1 else s[None])
                ]
            chosen = cell[len(children[i])] if isinstance(cell, dict) else cell
            states[i] = chosen(None if x is None else each(x, lambda one: row(one, i)), *below)
        return states[i]

    every = [state(i) for i in range(len(children))]
    if isinstance(every[0], tuple):
        return tuple(tg.concatenate(parts) for parts in zip(*every, strict=True))
    return tg.concatenate(every)


def row(x, i):
    return x[i : i + 1]


def each(x, function):
    return tuple(map(function, x)) if isinstance(x, tuple) else function(x)


def loss_of(state, seed=0):
    """A number that depends on every entry in its own way."""
    rng = np.random.default_rng(seed)
    parts = state if isinstance(state, tuple) else (state,)
    return sum((tg.sum(part * rng.standard_normal(part.shape)) for part in parts), 0.0)


def gradients(loss, leaves, **how):
    """By ``backward``, which leaves nothing in ``.grad``."""
    loss.backward(**how)
    found = [np.zeros(x.shape) if x.grad is None else x.grad.array for x in leaves]
    for x in leaves:
        x.grad = None
    return found


def assert_close(found, expected, rtol=1e-11):
    for a, b in zip(found, expected, strict=True):
        a, b = (np.asarray(getattr(x, "array", x)) for x in (a, b))
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * (1 + np.abs(b).max(initial=0)))


def assert_same_run(one, other, leaves):
    """Two states are equal, and so is every gradient of a loss of all their entries."""
    pair = [state if isinstance(state, tuple) else (state,) for state in (one, other)]
    assert_close(*pair)
    assert_close(gradients(loss_of(one), leaves), gradients(loss_of(other), leaves))


# ---- the recursion -------------------------------------------------------------------------------


@given(graphs, seeds, st.sampled_from(["one", "two"]), st.sampled_from([None, "rows", "all"]))
def test_a_fold_is_the_recursion_over_each_node(children, seed, which, begin):
    net = Net(seed)
    cell, x = getattr(net, which), leaf(net.rng, len(children), D)
    structure = Structure.dag(children)
    shape = {"rows": (len(structure.leaves), H), "all": (H,)}.get(begin)
    initial, more = None, []
    if shape is not None:
        more = [leaf(net.rng, *shape) for _ in range(1 + (which == "two"))]
        initial = tuple(more) if which == "two" else more[0]
    one = tg.fold(cell, structure, x, initial)
    other = node_by_node(cell, children, x, initial)
    assert_same_run(one, other, [x, *net.weights(), *more])


@given(graphs, seeds)
def test_its_values_are_those_of_the_recursion_in_numpy(children, seed):
    net = Net(seed)
    x, U, W = net.rng.standard_normal((len(children), D)), net.U.array, [w.array for w in net.W]

    def state(i):
        return np.tanh(x[i] @ U + sum(state(j) @ w for j, w in zip(children[i], W, strict=False)))

    h = tg.fold(net.one, Structure.dag(children), x)
    assert_close([h], [np.array([state(i) for i in range(len(children))])])


@settings(max_examples=6)
@given(forests(max_nodes=4, shared=True), seeds, st.sampled_from(["one", "two"]))
def test_derivatives_of_derivatives(children, seed, which):
    net, structure = Net(seed), Structure.dag(children)
    x, h0 = (0.5 * net.rng.standard_normal(shape) for shape in ((len(children), D), (H,)))

    def function(x, h0, U, *W):
        net.U, net.W = U, W
        state = tg.fold(getattr(net, which), structure, x, (h0, h0) if which == "two" else h0)
        return state if which == "one" else state[0] * state[1]

    tg.gradcheck(function, [x, h0, net.U.array, *[w.array for w in net.W]], order=2, seed=seed)


def test_third_derivatives():
    net, structure = Net(1), Structure.dag([[], [0, 0], [1, 0]])

    def function(x, W):
        net.W = [W] * 3
        return tg.fold(net.one, structure, x)

    tg.gradcheck(function, [net.rng.standard_normal((3, D)), net.W[0].array], order=3)


@given(graphs, seeds)
def test_a_recorded_backward_gives_the_same_gradients(children, seed):
    net, structure = Net(seed), Structure.dag(children)
    leaves = [leaf(net.rng, len(children), D), *net.weights()]
    x, (h, c) = leaves[0], tg.fold(net.two, structure, leaves[0])
    used = [w for w in leaves if w is x or w is net.U]
    plain = tg.grad(loss_of((h, c)), used, retain_graph=True)
    recorded = tg.grad(loss_of((h, c)), used, create_graph=True)
    assert_close(plain, recorded)
    assert all(g.requires_grad for g in recorded)


@given(graphs, seeds, st.data())
def test_a_loss_of_some_nodes(children, seed, data):
    net, structure = Net(seed), Structure.dag(children)
    x = leaf(net.rng, len(children), D)
    one, other = tg.fold(net.two, structure, x), node_by_node(net.two, children, x)
    nodes = data.draw(st.lists(st.integers(0, len(children) - 1), min_size=1))
    for part in (0, 1):
        assert_same_run(one[part][nodes], other[part][nodes], [x, *net.weights()])
        one, other = tg.fold(net.two, structure, x), node_by_node(net.two, children, x)
    got = tg.grad(tg.sum(one[0][structure.roots]), x)
    assert_close([got], [tg.grad(tg.sum(other[0][structure.roots]), x)])


# ---- what changes nothing ------------------------------------------------------------------------


@given(graphs, seeds, st.data())
def test_the_numbering_of_the_nodes_changes_nothing_but_their_order(children, seed, data):
    net, n = Net(seed), len(children)
    to = data.draw(st.permutations(range(n)))
    back = np.argsort(to)
    renamed = [[to[j] for j in children[i]] for i in back]
    x = leaf(net.rng, n, D)
    one = tg.fold(net.one, Structure.dag(children), x)
    other = tg.fold(net.one, Structure.dag(renamed), x[back])[np.array(to)]
    assert_same_run(one, other, [x, *net.weights()])


@given(st.lists(graphs, min_size=1, max_size=4), seeds)
def test_a_batch_is_each_instance_by_itself(parts, seed):
    net, structures = Net(seed), [Structure.dag(part) for part in parts]
    xs = [leaf(net.rng, len(part), D) for part in parts]
    one = tg.fold(net.two, Structure.join(structures), tg.concatenate(xs))
    pairs = [tg.fold(net.two, *pair) for pair in zip(structures, xs, strict=True)]
    other = tuple(tg.concatenate(states) for states in zip(*pairs, strict=True))
    assert_same_run(one, other, [*xs, *net.weights()])


@given(graphs, seeds, st.data())
def test_the_order_of_children_does_not_matter_to_a_symmetric_cell(children, seed, data):
    net = Net(seed)
    net.W = [net.W[0]] * PLACES
    x = leaf(net.rng, len(children), D)
    mixed = [data.draw(st.permutations(own)) for own in children]
    one, other = (tg.fold(net.one, Structure.dag(own), x) for own in (children, mixed))
    assert_same_run(one, other, [x, *net.weights()])


# ---- chains --------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), seeds, st.booleans())
def test_a_fold_over_chains_is_the_loop_over_time_in_either_direction(lengths, seed, backward):
    net, chains = Net(seed), Structure.chains(lengths)
    x, h0 = leaf(net.rng, len(chains), D), leaf(net.rng, len(lengths), H)
    one = tg.fold(net.one, chains.reversed() if backward else chains, x, h0)
    states, first = [None] * len(chains), 0
    for b, length in enumerate(lengths):
        h, steps = h0[b : b + 1], range(first, first + length)
        for t in reversed(steps) if backward else steps:
            states[t] = h = net.one(row(x, t), h)
        first += length
    assert_same_run(one, tg.concatenate(states), [x, h0, *net.weights()])


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), seeds)
def test_two_windows_with_the_state_carried_over_are_one(B, early, late, seed):
    net = Net(seed)
    x = leaf(net.rng, B, early + late, D)
    begin = tuple(leaf(net.rng, B, H) for _ in "hc")

    def folded(x, state):
        T = x.shape[1]
        state = tg.fold(net.two, Structure.chains([T] * B), tg.reshape(x, (B * T, D)), state)
        return tuple(tg.reshape(part, (B, T, H)) for part in state)

    one = folded(x, begin)
    first = folded(x[:, :early], begin)
    second = folded(x[:, early:], tuple(part[:, -1] for part in first))
    other = tuple(tg.concatenate(parts, axis=1) for parts in zip(first, second, strict=True))
    assert_same_run(one, other, [x, *begin, *net.weights()])


# ---- what it takes -------------------------------------------------------------------------------


@given(graphs, seeds)
def test_cells_and_inputs_by_kind(children, seed):
    """Leaves read a word, inner nodes a tag of another width, or nothing."""
    net, structure = Net(seed), Structure.dag(children)
    counts = [len(own) for own in children]
    words = leaf(net.rng, max(counts.count(0), 1), D)
    tags = leaf(net.rng, max(counts.count(2), 1), H)

    def tagged(x, *hs):
        return tg.tanh(x @ net.R + hs[0] * hs[1])

    def bare(x, *hs):
        assert x is None
        return tg.tanh(sum((h @ W for h, W in zip(hs, net.W, strict=False)), 0.0))

    cells = {0: lambda x: tg.tanh(x @ net.U), 1: bare, 2: tagged, 3: bare}
    one = tg.fold(cells, structure, {0: words[: counts.count(0)], 2: tags[: counts.count(2)]})
    states = {}

    def state(i):
        kind = counts[i]
        place = counts[:i].count(kind)
        x = {0: row(words, place), 2: row(tags, place)}.get(kind)
        return states[i] if i in states else cells[kind](x, *map(state, children[i]))

    for i in range(len(children)):
        states[i] = state(i)
    other = tg.concatenate([states[i] for i in range(len(children))])
    assert_same_run(one, other, [words, tags, *net.weights()])


def test_kinds_name_cells_whatever_the_number_of_children():
    structure = Structure.dag([[], [0], [], [2, 1]], ["a", "b", "b", "a"])
    cells = {"a": lambda x, *hs: sum(hs, x), "b": lambda x, *hs: sum(hs, 10 * x)}
    h = tg.fold(cells, structure, {"a": np.array([1, 2]), "b": np.array([3, 4])})
    assert h.tolist() == [1, 31, 40, 73]


@given(graphs, seeds)
def test_tuples_of_inputs(children, seed):
    net = Net(seed)
    pair = leaf(net.rng, len(children), D), leaf(net.rng, len(children), H)

    def cell(xs, *hs):
        return net.one(xs[0], *hs) * xs[1]

    one = tg.fold(cell, Structure.dag(children), pair)
    assert_same_run(one, node_by_node(cell, children, pair), [*pair, *net.weights()])


@given(graphs, seeds)
def test_top_down_is_a_fold_over_the_reversed(children, seed):
    net, turned = Net(seed), Structure.dag(children).reversed()
    net.W = [leaf(net.rng, H, H) for _ in range(3 * len(children))]  # one for each parent there is
    parents = [
        [i for i, own in enumerate(children) for j in own if j == k] for k in range(len(turned))
    ]
    x = leaf(net.rng, len(children), D)
    assert_same_run(
        tg.fold(net.one, turned, x), node_by_node(net.one, parents, x), [x, *net.weights()]
    )


@given(graphs, st.sampled_from([np.float32, np.float64, np.complex128]))
def test_arrays_in_arrays_out_in_their_own_precision(children, dtype):
    U, W = (np.full(shape, 0.3, dtype) for shape in ((D, H), (H, H)))
    x = np.random.default_rng(0).standard_normal((len(children), D)).astype(dtype)

    def cell(x, *hs):
        return tg.tanh(x @ U + sum([h @ W for h in hs], np.zeros((), dtype)))

    h = tg.fold(cell, Structure.dag(children), x)
    assert type(h) is np.ndarray and h.dtype == dtype
    assert_close([h], [node_by_node(cell, children, x)], 1e-5 if dtype == np.float32 else 1e-11)


@given(graphs, seeds, st.sampled_from(["leaves", "inner", "odd"]))
def test_cells_of_two_precisions_meet_in_the_higher(children, seed, single):
    net, narrow, structure = Net(seed), Net(seed, np.float32), Structure.dag(children)
    kinds = {"leaves": [0], "inner": [1, 2, 3], "odd": [1, 3]}[single]

    def rounded(x, *hs):
        h = net.one(x, *hs)
        return h.astype(np.float32)

    cells = {k: rounded if k in kinds else net.one for k in range(4)}
    x = leaf(net.rng, len(children), D)
    one, other = tg.fold(cells, structure, x), node_by_node(cells, children, x)
    assert one.dtype == (np.float32 if all(len(c) in kinds for c in children) else np.float64)
    leaves = [x, *net.weights()]
    assert_close([one], [other], 1e-5)
    assert_close(gradients(loss_of(one), leaves), gradients(loss_of(other), leaves), 1e-5)
    assert narrow.U.dtype == np.float32


def test_the_leaves_may_be_constant_and_the_inner_nodes_tracked():
    W = leaf(np.random.default_rng(0), H, H)
    words = np.random.default_rng(1).standard_normal((2, H))
    cells = {0: lambda x: x, 2: lambda x, a, b: tg.tanh((a - b) @ W)}
    h = tg.fold(cells, Structure.trees([("a", "b")]), {0: words})
    loss_of(h).backward()
    other = tg.grad(loss_of(tg.concatenate([words, tg.tanh((words[:1] - words[1:]) @ W)])), W)
    assert_close([W.grad], [other])
    assert not tg.fold(lambda x: x, Structure.chains([1]), tg.tensor(words[:1])).requires_grad


def test_nothing_is_recorded_under_no_grad():
    net, x = Net(), np.ones((3, D))
    with tg.no_grad():
        h = tg.fold(net.one, Structure.chains([3]), x)
    assert not h.requires_grad
    assert_close([h], [tg.fold(net.one, Structure.chains([3]), x)])


def test_the_structure_may_come_again():
    net, structure = Net(), Structure.dag([[2], [], [1, 1]])
    with patch.object(np, "lexsort", side_effect=np.lexsort) as sorts:
        runs = [tg.fold(net.one, structure, np.ones((3, D))) for _ in range(3)]
    assert sorts.call_count == 1
    assert_close([runs[0]] * 2, runs[1:])
