"""Laws of the tree cells: their equations node by node in NumPy, and a chain is a tree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn
from tinygrad_rnn.errors import DtypeError, ShapeError
from tinygrad_rnn.testing import forests, trees

from .test_fold import (
    Structure,
    assert_close,
    assert_same_run,
    each,
    gradients,
    loss_of,
    row,
    seeds,
)

D, H = 2, 3


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def in_double(cell):
    """The cell with parameters in float64, larger than those it begins with."""
    rng = np.random.default_rng(0)
    for name, p in cell.named_parameters():
        setattr(cell, name, tg.tensor(0.7 * rng.standard_normal(p.shape), requires_grad=True))
    return cell


def arrays_of(cell):
    return {name: p.array for name, p in cell.named_parameters()}


# ---- the equations, one node at a time; they take complex numbers too ----------------------------


def recursive(p, x, children):
    """h = tanh(V x + b); h = tanh(U h_left + W h_right + b)."""
    if not children:
        return np.tanh(p["V"] @ x + p["b"])
    left, right = children
    return np.tanh(p["U"] @ left + p["W"] @ right + p["b"])


def tensor_net(p, x, children):
    """h_j = tanh(p T_j p^T + W_j p + b_j)."""
    if not children:
        return x
    both = np.concatenate(children)
    terms = [both @ p["T"][j] @ both + p["W"][j] @ both + p["b"][j] for j in range(H)]
    return np.tanh(np.array(terms))


def n_ary(p, x, children):
    """Tai et al. 2015, equations 9 to 14."""
    N = p["weight_hh"].shape[1] // H

    def U(k):
        rows = slice(k * H, (k + 1) * H)
        return p["bias"][rows] + (0.0 if x is None else p["weight_ih"][rows] @ x)

    def W(block, place):
        return p["weight_hh"][block * H : (block + 1) * H, place * H : (place + 1) * H]

    def gate(k, block):
        return U(k) + sum(W(block, place) @ h for place, (h, _) in enumerate(children))

    i, g, o = gate(0, 0), gate(2, N + 1), gate(3, N + 2)
    c = sigmoid(i) * np.tanh(g)
    for k, (_, c_k) in enumerate(children):
        c = c + sigmoid(gate(1, 1 + k)) * c_k
    return sigmoid(o) * np.tanh(c), c


def child_sum(p, x, children):
    """Tai et al. 2015, equations 2 to 8."""

    def gate(k, h):
        rows = slice(k * H, (k + 1) * H)
        b = p["bias_ih"][rows] + p["bias_hh"][rows] if "bias_ih" in p else 0.0
        return b + (0.0 if x is None else p["weight_ih"][rows] @ x) + p["weight_hh"][rows] @ h

    h = sum([h for h, _ in children], np.zeros(H))
    i, g, o = sigmoid(gate(0, h)), np.tanh(gate(2, h)), sigmoid(gate(3, h))
    c = i * g + sum(sigmoid(gate(1, h_k)) * c_k for h_k, c_k in children)
    return o * np.tanh(c), c


BINARY = st.lists(trees(st.just("word"), arity=2), min_size=1, max_size=3)
ANY = st.lists(trees(st.just("word")), min_size=1, max_size=3)
CELLS = {  # the cell, its equations, the width of an input, the trees that it takes
    "recursive": (lambda H=H: nn.RecursiveCell(D, H), recursive, D, BINARY),
    "neural tensor": (lambda H=H: nn.RNTNCell(H), tensor_net, H, BINARY),
    "binary Tree-LSTM": (lambda H=H: nn.TreeLSTMCell(D, H), n_ary, D, BINARY),
    "ternary Tree-LSTM": (lambda H=H: nn.TreeLSTMCell(D, H, 3), n_ary, D, ANY),
    "Child-Sum": (lambda H=H: nn.ChildSumTreeLSTMCell(D, H), child_sum, D, ANY),
    "without a bias": (lambda H=H: nn.ChildSumTreeLSTMCell(D, H, False), child_sum, D, ANY),
}


def by_equations(equations, p, structure, x):
    """The states of all nodes; ``x`` has a row for each node, or for each leaf."""
    ends, states = np.cumsum(structure.counts), {}
    read = list(range(len(structure)) if len(x) == len(structure) else structure.leaves)
    for i in range(len(structure)):  # children have lower numbers in ``Structure.trees``
        below = structure.children[ends[i] - structure.counts[i] : ends[i]]
        mine = x[read.index(i)] if i in read else None
        states[i] = equations(p, mine, [states[j] for j in below])
    if isinstance(states[0], tuple):
        return tuple(np.array([states[i][k] for i in states]) for k in (0, 1))
    return np.array([states[i] for i in states])


def slopes(function, arrays):
    """The gradients of a real number by the complex step, one entry at a time."""
    found = []
    for x in arrays:
        g = np.zeros(x.shape)
        for place in np.ndindex(x.shape):
            moved = x.astype(complex)
            moved[place] += 1e-30j
            g[place] = function([moved if y is x else y for y in arrays]).imag / 1e-30
        found.append(g)
    return found


@pytest.mark.parametrize("name", CELLS)
@settings(max_examples=20)
@given(st.data(), seeds, st.booleans())
def test_a_tree_cell_is_its_equations(name, data, seed, inner):
    """In value and in every gradient, with inputs at the leaves alone or at all nodes."""
    make, equations, width, forest = CELLS[name]
    structure, cell = Structure.trees(data.draw(forest)), in_double(make())
    rng = np.random.default_rng(seed)
    n = len(structure) if inner and equations in (n_ary, child_sum) else len(structure.leaves)
    x = tg.tensor(rng.standard_normal((n, width)), requires_grad=True)
    state = tg.fold(cell, structure, x if n == len(structure) else {0: x})
    names, leaves = list(arrays_of(cell)), [x, *cell.parameters()]
    parts = state if isinstance(state, tuple) else (state,)
    weights = [rng.standard_normal(part.shape) for part in parts]

    def loss(arrays):
        p = dict(zip(names, arrays[1:], strict=True))
        found = by_equations(equations, p, structure, arrays[0])
        found = found if isinstance(found, tuple) else (found,)
        return sum(np.sum(part * w) for part, w in zip(found, weights, strict=True))

    arrays = [y.array for y in leaves]
    expected = by_equations(equations, arrays_of(cell), structure, arrays[0])
    assert_close(parts, expected if isinstance(expected, tuple) else (expected,))
    total = sum((tg.sum(part * w) for part, w in zip(parts, weights, strict=True)), 0.0)
    assert_close(gradients(total, leaves), slopes(loss, arrays))


@pytest.mark.parametrize("name", CELLS)
def test_second_derivatives_of_the_tree_cells(name):
    cell, structure = in_double(CELLS[name][0](H=2)), Structure.trees([(("a", "b"), "c")])
    given = arrays_of(cell)
    words = np.random.default_rng(0).standard_normal((3, cell.input_size))

    def function(x, *parameters):
        for name, p in zip(given, parameters, strict=True):
            setattr(cell, name, p)
        state = tg.fold(cell, structure, {0: x})
        return state[0] * state[1] if isinstance(state, tuple) else state

    tg.gradcheck(function, [words, *given.values()], order=2)


# ---- a chain is a tree ---------------------------------------------------------------------------

lengths = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@given(lengths, seeds, st.booleans(), st.booleans())
def test_an_lstm_is_a_child_sum_tree_lstm_on_a_chain(lengths, seed, bias, begun):
    """The same parameters, name by name; value and every gradient."""
    rng, chains = np.random.default_rng(seed), Structure.chains(lengths)
    lstm, tree = in_double(nn.LSTMCell(D, H, bias)), in_double(nn.ChildSumTreeLSTMCell(D, H, bias))
    tree.load_state_dict(lstm.state_dict())
    x = tg.tensor(rng.standard_normal((len(chains), D)), requires_grad=True)
    begin = [tg.tensor(rng.standard_normal((len(lengths), H)), requires_grad=True) for _ in "hc"]
    states, first = [], 0
    for b, length in enumerate(lengths):
        state = tuple(row(part, b) for part in begin) if begun else None
        for t in range(first, first + length):
            state = lstm(row(x, t), state)
            states.append(state)
        first += length
    one = tg.fold(tree, chains, x, tuple(begin) if begun else None)
    other = tuple(tg.concatenate(parts) for parts in zip(*states, strict=True))
    assert_close(one, other)
    more = [x, *(begin if begun else [])]
    assert_close(
        gradients(loss_of(one), [*more, *tree.parameters()]),
        gradients(loss_of(other), [*more, *lstm.parameters()]),
    )


@given(lengths, seeds)
def test_an_lstm_is_a_tree_lstm_of_one_place(lengths, seed):
    rng, chains = np.random.default_rng(seed), Structure.chains(lengths)
    lstm, tree = in_double(nn.LSTMCell(D, H)), in_double(nn.TreeLSTMCell(D, H, 1))
    bias = lstm.bias_ih.array + lstm.bias_hh.array
    tree.load_state_dict({"weight_ih": lstm.weight_ih, "weight_hh": lstm.weight_hh, "bias": bias})
    x = tg.tensor(rng.standard_normal((len(chains), D)), requires_grad=True)
    one, other = tg.fold(tree, chains, x), tg.fold(lstm, chains, x, (np.zeros(H), np.zeros(H)))
    assert_close(one, other)
    shared = [x, lstm.weight_ih, lstm.weight_hh, lstm.bias_ih]
    assert_close(
        gradients(loss_of(one), [x, tree.weight_ih, tree.weight_hh, tree.bias]),
        gradients(loss_of(other), shared),
    )


@given(st.integers(1, 6), seeds)
def test_a_tree_that_branches_to_the_left_is_a_recurrent_net(T, seed):
    """As the docstring of RecursiveCell has it: U is recurrent, W reads what the leaves make."""
    rng = np.random.default_rng(seed)
    recursive, rnn = in_double(nn.RecursiveCell(D, H)), in_double(nn.RNNCell(H, H))
    state = {"weight_ih": recursive.W, "weight_hh": recursive.U, "bias_ih": recursive.b}
    rnn.load_state_dict({**state, "bias_hh": np.zeros(H)})
    x = tg.tensor(rng.standard_normal((T, D)), requires_grad=True)
    V, b = recursive.V, recursive.b
    tree = 0
    for t in range(1, T):
        tree = (tree, t)
    structure = Structure.trees([tree])
    one = tg.fold(recursive, structure, {0: x})[structure.root]
    words = tg.tanh(x @ V.T + b)
    h = words[:1]
    for t in range(1, T):
        h = rnn(words[t : t + 1], h)
    assert_close([one], [h[0]])
    found = gradients(loss_of(one), [x, V, b, recursive.U, recursive.W])
    expected = gradients(loss_of(h[0]), [x, V, b, rnn.weight_hh, rnn.weight_ih, rnn.bias_ih])
    expected[2] = expected[2] + expected.pop()  # b acts at the leaves and above them
    assert_close(found, expected)


@given(lengths, seeds)
def test_a_fold_of_an_rnn_over_chains_is_bptt_by_hand(lengths, seed):
    rng, cell = np.random.default_rng(seed), in_double(nn.RNNCell(D, H))
    U, W, b = cell.weight_ih.array, cell.weight_hh.array, cell.bias_ih.array + cell.bias_hh.array
    chains = Structure.chains(lengths)
    x = tg.tensor(rng.standard_normal((len(chains), D)), requires_grad=True)
    h0 = tg.tensor(rng.standard_normal((len(lengths), H)), requires_grad=True)
    dE_dh = rng.standard_normal((len(chains), H))
    hs, dx, dh0 = np.zeros((len(chains), H)), np.zeros(x.shape), np.zeros(h0.shape)
    dU, dW, db = np.zeros_like(U), np.zeros_like(W), np.zeros(H)
    first = 0
    for s, length in enumerate(lengths):
        before = h0.array[s]
        for t in range(first, first + length):
            before = hs[t] = np.tanh(U @ x.array[t] + W @ before + b)
        carried = np.zeros(H)
        for t in reversed(range(first, first + length)):
            before = hs[t - 1] if t > first else h0.array[s]
            delta = (dE_dh[t] + carried) * (1 - hs[t] ** 2)
            dU, dW, db = dU + np.outer(delta, x.array[t]), dW + np.outer(delta, before), db + delta
            dx[t], carried = U.T @ delta, W.T @ delta
        dh0[s] = carried
        first += length
    h = tg.fold(cell, chains, x, h0)
    assert_close([h], [hs])
    leaves = [x, h0, cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
    assert_close(gradients(tg.sum(h * dE_dh), leaves), [dx, dh0, dU, dW, db, db])


@given(BINARY, seeds)
def test_a_fold_of_a_recursive_net_is_backpropagation_through_structure_by_hand(given_trees, seed):
    """Goller and Kuechler 1996: the error of a node goes down to both children, and on."""
    rng, cell = np.random.default_rng(seed), in_double(nn.RecursiveCell(D, H))
    V, U, W, b = (p.array for p in (cell.V, cell.U, cell.W, cell.b))
    structure = Structure.trees(given_trees)
    words = tg.tensor(rng.standard_normal((len(structure.leaves), D)), requires_grad=True)
    dE_dh, hs, count = rng.standard_normal((len(structure), H)), {}, iter(range(len(structure)))
    dV, dU, dW, db = (np.zeros_like(p) for p in (V, U, W, b))
    dx, word = np.zeros(words.shape), iter(range(len(words)))

    def forward(tree):
        """(number, word, left, right) of a node, numbered from the leaves up, left to right."""
        if not isinstance(tree, tuple):
            i, w = next(count), next(word)
            hs[i] = np.tanh(V @ words.array[w] + b)
            return i, w, None, None
        left, right = map(forward, tree)
        i = next(count)
        hs[i] = np.tanh(U @ hs[left[0]] + W @ hs[right[0]] + b)
        return i, None, left, right

    def backward(node, from_above):
        nonlocal dV, dU, dW, db
        i, w, left, right = node
        delta = (dE_dh[i] + from_above) * (1 - hs[i] ** 2)
        db = db + delta
        if left is None:
            dV, dx[w] = dV + np.outer(delta, words.array[w]), V.T @ delta
            return
        dU, dW = dU + np.outer(delta, hs[left[0]]), dW + np.outer(delta, hs[right[0]])
        backward(left, U.T @ delta)
        backward(right, W.T @ delta)

    for tree in given_trees:
        backward(forward(tree), np.zeros(H))
    h = tg.fold(cell, structure, {0: words})
    assert_close([h], [np.array([hs[i] for i in range(len(hs))])])
    leaves = [words, cell.V, cell.U, cell.W, cell.b]
    assert_close(gradients(tg.sum(h * dE_dh), leaves), [dx, dV, dU, dW, db])


@given(forests(), seeds, st.data())
def test_a_child_sum_does_not_see_the_order_of_children(children, seed, data):
    cell, rng = in_double(nn.ChildSumTreeLSTMCell(D, H)), np.random.default_rng(seed)
    x = tg.tensor(rng.standard_normal((len(children), D)), requires_grad=True)
    mixed = [data.draw(st.permutations(own)) for own in children]
    one, other = (tg.fold(cell, Structure.dag(own), x) for own in (children, mixed))
    assert_same_run(one, other, [x, *cell.parameters()])


@pytest.mark.parametrize("name", ["Child-Sum", "ternary Tree-LSTM"])
@given(forests(), seeds)
def test_the_inputs_of_all_nodes_may_be_taken_at_once(name, children, seed):
    """One product in place of one a level: what a node of a dependency tree is given."""
    cell, structure = in_double(CELLS[name][0]()), Structure.dag(children)
    rng = np.random.default_rng(seed)
    x = tg.tensor(rng.standard_normal((len(children), D)), requires_grad=True)
    one, other = tg.fold(cell, structure, x), tg.fold(cell.step, structure, cell.U(x))
    assert_same_run(one, other, [x, *cell.parameters()])


@pytest.mark.parametrize("name", CELLS)
def test_the_cells_run_deferred_as_they_are(name):
    make, _, width, _ = CELLS[name]
    cell, tree = in_double(make()), ((0, 1), (2, (3, 4)))
    words = tg.tensor(np.random.default_rng(0).standard_normal((5, width)), requires_grad=True)
    call, leaves = tg.deferred(cell), [words, *cell.parameters()]

    def embed(tree):
        return call(None, *map(embed, tree)) if isinstance(tree, tuple) else call(words[tree])

    structure = Structure.trees([tree])
    one, other = tg.stack([embed(tree)]), tg.fold(cell, structure, {0: words})
    other = each(other, lambda part: part[structure.roots])
    pairs = [state if isinstance(state, tuple) else (state,) for state in (one, other)]
    assert_close(*pairs)
    assert_close(gradients(loss_of(one), leaves), gradients(loss_of(other), leaves))


def test_parameters_begin_small_float32_and_from_the_generator_given():
    for make in (nn.RecursiveCell, nn.TreeLSTMCell, nn.ChildSumTreeLSTMCell):
        one, other = (make(D, H, rng=np.random.default_rng(5)) for _ in range(2))
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            assert p.dtype == np.float32 and 0 < abs(p.array).max() <= H**-0.5
            np.testing.assert_array_equal(p.array, q.array)


# ---- refusals ------------------------------------------------------------------------------------

word, h = np.ones((1, D), "f"), np.ones((1, H), "f")
NAMES = ["RecursiveCell", "RNTNCell", "TreeLSTMCell", "ChildSumTreeLSTMCell"]


def made(name):
    return getattr(nn, name)(*((H,) if name == "RNTNCell" else (D, H)))


@pytest.mark.parametrize("name", NAMES)
def test_a_leaf_needs_an_input_of_the_right_width(name):
    for x in (None, np.ones((1, 7), "f"), 3.0):
        with pytest.raises(ShapeError, match=rf"{name}: x is .*\n  expected: \(n, input_size="):
            made(name)(x)


@pytest.mark.parametrize("name", NAMES)
def test_states_of_children_have_the_right_width(name):
    wrong = np.ones((1, 4), "f")
    child = (wrong, wrong) if "LSTM" in name else wrong
    good = (h, h) if "LSTM" in name else h
    with pytest.raises(ShapeError, match=rf"{name}: a state of child 1 is float32 \(1, 4\)"):
        made(name)(None, good, child)


@pytest.mark.parametrize("name", NAMES[2:])
@pytest.mark.parametrize("child", [h, 1.0, (h,), (h, h, h)])
def test_states_of_children_are_pairs(name, child):
    with pytest.raises(DtypeError, match=rf"{name}: child 0 is .*\n  expected: a pair \(h, c\)"):
        made(name)(word, child)


@pytest.mark.parametrize("name, count, allowed", [
    ("RecursiveCell", 1, "2"), ("RecursiveCell", 3, "2"), ("RNTNCell", 1, "2"),
    ("TreeLSTMCell", 3, "1 or 2"),
])  # fmt: skip
def test_the_number_of_children_is_limited(name, count, allowed):
    child = (h, h) if "LSTM" in name else h
    message = rf"{name}: a node has {count} children\n  expected: {allowed}\n"
    with pytest.raises(ShapeError, match=message):
        made(name)(word, *[child] * count)
    with pytest.raises(ShapeError, match="arity 0"):
        nn.TreeLSTMCell(D, H, 0)
