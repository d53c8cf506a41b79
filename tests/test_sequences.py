"""Laws of layers in one operation: they are the loop that defines them, and the fold of a cell.

Nothing here runs under ``detect_anomaly``, which sees every step: the fold would run instead.
"""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn, sequences
from tinygrad_rnn.nn import recurrent
from tinygrad_rnn.observer import Observer, observing
from tinygrad_rnn.registry import ROWS, checkable
from tinygrad_rnn.testing import cases, laid_out

pytestmark = pytest.mark.unwatched

TRIES = settings.default.max_examples
ROWS = {row.name: row for row in ROWS if row.name in ("lstm", "gru", "elman")}
BLOCKS = {"lstm": 4, "gru": 3, "elman": 1}
every_kind = pytest.mark.parametrize("kind", BLOCKS)
LAYERS = {
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
    "elman": (nn.RNN, {}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "sigmoid": (nn.RNN, {"nonlinearity": "sigmoid"}),
}


class Run:
    """Arrays, a course through sequences of any lengths, and cotangents of some results."""

    def __init__(self, kind, seed, counts, backward, D, H, bias, dtype, nonlinearity, flowing):
        rng, k = np.random.default_rng(seed), BLOCKS[kind]
        N, B = sum(counts), counts[0]
        biases = [(k * H,)] * (2 if kind == "gru" else 1)
        states = [(B, H)] * (2 if kind == "lstm" else 1)
        shapes = [(N, D), (k * H, D), (k * H, H), *[s if bias else None for s in biases], *states]
        self.arrays = [s if s is None else rng.normal(size=s).astype(dtype) for s in shapes]
        results = [(N, H), *states]
        gs = [rng.normal(size=s).astype(dtype) for s in results]
        flowing = flowing[: len(gs)] if any(flowing[: len(gs)]) else [True] * len(gs)
        self.gs = [g if flows else None for g, flows in zip(gs, flowing, strict=True)]
        self.course = sequences.Course(counts, backward)
        self.operation, self.defined = (
            getattr(sequences, name) for name in (kind, f"{kind}_defined")
        )
        self.settings = [nonlinearity] if kind == "elman" else []

    def by(self, function, arrays=None):
        """The results, and the cotangents of all arguments that there are."""
        arrays = self.arrays if arrays is None else arrays
        xs = [x if x is None else tg.tensor(x, requires_grad=True) for x in arrays]
        for x, array in zip(xs, arrays, strict=True):
            if x is not None:
                x.array = array  # in the layout that it has
        ys = function(*xs, self.course, *self.settings)
        for y, g in zip(ys, self.gs, strict=True):
            if g is not None:
                y.backward(g, retain_graph=True)
        pairs = [(y, g) for y, g in zip(ys, self.gs, strict=True) if g is not None]
        leaves = [x for x in xs if x is not None]
        sum(tg.sum(y * g) for y, g in pairs).backward()  # all at once, and a second time
        for y in ys:
            assert y.dtype == leaves[0].dtype
        return [y.array for y in ys], [x.grad.array / 2 for x in leaves]

    def second(self, function):
        """The gradient of the squared length of the gradient of the squares of the results."""
        xs = [x if x is None else tg.tensor(x, requires_grad=True) for x in self.arrays]
        leaves = [x for x in xs if x is not None]
        h = xs[-1]
        xs[-1] = h + tg.sum(xs[0]) * 0.1  # a state that was computed from x
        ys = function(*xs, self.course, *self.settings)
        loss = sum(tg.sum(y * y * g) for y, g in zip(ys, self.gs, strict=True) if g is not None)
        first = tg.grad(loss, leaves, create_graph=True)
        return [g.array for g in tg.grad(sum(tg.sum(g * g) for g in first), leaves)]


def runs(kind, dtypes=(np.float64,)):
    counts = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(
        lambda counts: sorted(counts, reverse=True)
    )
    return st.builds(
        Run,
        st.just(kind),
        st.integers(0, 2**32 - 1),
        counts,
        st.booleans(),
        st.integers(1, 3),
        st.integers(1, 3),
        st.booleans(),
        st.sampled_from(dtypes),
        st.sampled_from(list(sequences.NONLINEARITIES)),
        st.lists(st.booleans(), min_size=3, max_size=3),
    )


def assert_close(got, expected, tolerance):
    for a, b in zip(got, expected, strict=True):
        size = max(1.0, float(np.abs(b).max(initial=0)))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * size, strict=True)


# ---- operation == definition -------------------------------------------------------------------


@every_kind
@given(data=st.data())
def test_an_operation_is_the_loop_that_defines_it(kind, data):
    """Values and every cotangent, in every dtype and layout, whichever results are used."""
    run = data.draw(runs(kind, [np.float64, np.float32, np.float16]))
    moved = [x if x is None else data.draw(laid_out(x)) for x in run.arrays]
    tolerance = {2: 3e-2, 4: 1e-4, 8: 1e-12}[run.arrays[0].itemsize]
    before = [x if x is None else x.copy() for x in moved]
    for one, other in zip(run.by(run.operation, moved), run.by(run.defined), strict=True):
        assert_close(one, other, tolerance)
    for x, old in zip(moved, before, strict=True):
        np.testing.assert_array_equal(x, old)


@every_kind
@settings(max_examples=TRIES // 4)
@given(data=st.data())
def test_second_derivatives_are_those_of_the_definition(kind, data):
    """Also where one argument was computed from another."""
    run = data.draw(runs(kind))
    assert_close(run.second(run.operation), run.second(run.defined), 1e-10)


@every_kind
@settings(max_examples=TRIES // 20)
@given(data=st.data())
def test_first_and_second_derivatives_equal_numerical_ones(kind, data):
    arrays, keywords = data.draw(cases(ROWS[kind]))
    report = tg.gradcheck(checkable(ROWS[kind], keywords), arrays, order=2)
    assert report.worst_by_order[0] < 1e-10 and report.worst_by_order[1] < 1e-9


@every_kind
@given(data=st.data())
def test_complex_numbers_and_complex_cotangents_go_through_the_definition(kind, data):
    """The complex step in an argument, and a cotangent that is complex, beside real payloads."""
    run = data.draw(runs(kind))
    step = [x if x is None else x + 1e-30j * x for x in run.arrays]
    for y, z in zip(
        run.operation(*step, run.course, *run.settings),
        run.defined(*step, run.course, *run.settings),
        strict=True,
    ):
        np.testing.assert_allclose(y, z, rtol=1e-13)
        np.testing.assert_allclose(y.imag, z.imag, rtol=1e-12, atol=1e-44)
    real, run.gs = run.gs, [g if g is None else g * 2j for g in run.gs]
    found = []
    for gs in (real, run.gs):
        xs = [x if x is None else tg.tensor(x, requires_grad=True) for x in run.arrays]
        ys = run.operation(*xs, run.course, *run.settings)
        loss = sum(tg.sum(y * g) for y, g in zip(ys, gs, strict=True) if g is not None)
        found.append([g.array for g in tg.grad(loss, [x for x in xs if x is not None])])
    for g, g_complex in zip(*found, strict=True):
        np.testing.assert_allclose(g_complex, 2j * g, rtol=1e-10, atol=1e-12)


def test_every_operation_stands_beside_its_definition():
    helpers = {"Course", "fits"}
    names = set(BLOCKS) | {f"{kind}_defined" for kind in BLOCKS}
    assert names | helpers == set(sequences.__all__)


# ---- layer == fold of its cell -----------------------------------------------------------------


def made(kind, seed=0, D=3, H=4, *args, dtype=np.float64, **more):
    """A layer with random parameters."""
    rng = np.random.default_rng(seed)
    make, own = LAYERS[kind]
    layer = make(D, H, *args, **own, **more)
    for name, x in layer.named_parameters():
        values = rng.normal(size=x.shape).astype(dtype)
        setattr(layer, name, tg.tensor(values, requires_grad=True))
    return layer


def names_of(*ys):
    """The names of all nodes that the results were computed by."""
    left, found = [y.node for y in ys if y.node is not None], {}
    while left:
        node = left.pop()
        if node not in found:
            found[node] = node.name
            left.extend(node.parents())
    return set(found.values())


def operations_of(layer, *args, **kwargs):
    """Which operations over whole sequences a call of the layer ran."""
    output, _ = layer(*args, **kwargs)
    return names_of(*(output if isinstance(output, list) else [output])) & set(BLOCKS)


def parts_of(state):
    return list(state) if isinstance(state, tuple) else [state]


def folded(monkeypatch):
    monkeypatch.setattr(recurrent, "_operation", lambda *arguments: None)


@pytest.mark.parametrize("kind", LAYERS)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    begun=st.sampled_from(["zeros", "given", "learned"]),
    bias=st.booleans(),
    as_list=st.booleans(),
)
@settings(max_examples=TRIES // 3)
def test_a_layer_is_the_fold_of_its_cell(
    kind, seed, lengths, layers, bidirectional, begun, bias, as_list
):
    """Values and every gradient, with any lengths, layers, directions, initial states."""
    learned = {"learn_initial": begun == "learned"}
    net = made(kind, seed, 3, 4, layers, bias=bias, bidirectional=bidirectional, **learned)
    rng = np.random.default_rng(seed)
    B, K = len(lengths), layers * (1 + bidirectional)
    padded = rng.normal(size=(max(lengths), B, 3))
    initial = [rng.normal(size=(K, B, 4)) for _ in net.cell_class.states]
    shape = (max(lengths), B, 4 * (1 + bidirectional))
    gs = [rng.normal(size=shape), *[rng.normal(size=h.shape) for h in initial]]

    def found():
        net.zero_grad()
        x = tg.tensor(padded, requires_grad=True)
        begin = [tg.tensor(h, requires_grad=True) for h in initial if begun == "given"]
        state = tuple(begin) if len(begin) > 1 else begin[0] if begin else None
        if as_list:
            outputs, final = net([x[:n, b] for b, n in enumerate(lengths)], state)
            pieces = [tg.sum(y * gs[0][:n, b]) for b, (y, n) in enumerate(zip(outputs, lengths))]
            names = names_of(*outputs)
            loss = sum(pieces)
        else:
            outputs, final = net(x, state, lengths)
            names = names_of(outputs)
            loss, outputs = tg.sum(outputs * gs[0]), [outputs]
        finals = parts_of(final)
        loss = loss + sum(tg.sum(h * g) for h, g in zip(finals, gs[1:], strict=True))
        loss.backward()
        tensors = [x, *begin, *net.parameters()]
        return names, [y.array for y in [*outputs, *finals]], [one.grad.array for one in tensors]

    names, values, gradients = found()
    with pytest.MonkeyPatch.context() as patch:
        folded(patch)
        others, expected, expected_gradients = found()
    assert names & set(BLOCKS) and not others & set(BLOCKS)
    assert_close(values, expected, 1e-12)
    assert_close(gradients, expected_gradients, 1e-10)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_passes_the_check(kind):
    net = made(kind, 0, 2, 2, 2, bidirectional=True)
    x = tg.tensor(np.random.default_rng(1).normal(size=(3, 2, 2)), requires_grad=True)
    tensors = [x, *net.parameters()]

    def func():
        output, final = net(x, None, [2, 3])
        return output, *parts_of(final)

    assert tg.gradcheck(func, tensors).worst_by_order[0] < 1e-10


def test_a_stack_in_two_windows_under_checkpoint_is_one_run():
    net = made("lstm", 0, 3, 4, 2, bidirectional=False)
    x = np.random.default_rng(1).normal(size=(6, 2, 3))

    def gradients(loss):
        net.zero_grad()
        loss().backward()
        return [p.grad.array for p in net.parameters()]

    def windows():
        y, state = tg.checkpoint(net, x[:4])
        z, _ = tg.checkpoint(net, x[4:], state)
        return tg.sum(y * y) + tg.sum(z * z)

    def whole():
        y, _ = net(x)
        return tg.sum(y * y)

    assert_close(gradients(windows), gradients(whole), 1e-12)


def test_a_hook_on_a_weight_sees_the_whole_cotangent_once():
    net, seen = made("lstm"), []
    net.weight_hh_l0.register_hook(lambda g: seen.append(g) or g * 2.0)
    y, _ = net(np.random.default_rng(1).normal(size=(5, 2, 3)))
    tg.sum(y).backward()
    assert len(seen) == 1 and seen[0].shape == (16, 4)
    np.testing.assert_array_equal(net.weight_hh_l0.grad.array, 2.0 * seen[0].array)


@pytest.mark.filterwarnings("error")
def test_the_way_back_through_a_relu_squares_no_state():
    net = made("relu", dtype=np.float32)
    x = tg.tensor(np.full((2, 1, 3), 1e25, np.float32), requires_grad=True)
    y, _ = net(x)
    assert y.array.max() > 1e20
    tg.sum(y[:1]).backward()
    assert np.isfinite(x.grad.array).all()


def test_a_nonlinearity_that_a_cell_was_not_made_with_is_taken_for_no_other():
    net = nn.RNN(3, 4)
    net.cells["l0"].nonlinearity = "softsign"
    with pytest.raises(KeyError, match="softsign"):
        net(X)


def test_without_recording_nothing_is_kept_for_the_way_back():
    net = made("lstm", 0, 8, 64, dtype=np.float32)
    x = np.zeros((200, 4, 8), np.float32)
    net(x)

    def most(call):
        tracemalloc.start()
        y = call(x)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        del y
        return peak

    kept = 6 * 64 * 200 * 4 * 4  # i, f, g, o, c, tanh(c') of every step
    assert most(tg.no_grad(net)) < most(net) - 0.9 * kept


# ---- the choice --------------------------------------------------------------------------------


class Loud(nn.LSTMCell):
    def step(self, u, state=None, mask=None):
        h, c = super().step(u, state, mask)
        return 2.0 * h, c


class Halved(nn.LSTMCell):
    def W(self, h, mask=None):
        return super().W(h, mask) * 0.5


class Shifted(nn.LSTMCell):
    def U(self, x):
        return super().U(x) + 1.0


class OneBias(nn.LSTMCell):
    def bias(self):
        return self.bias_ih


class Begun(nn.LSTMCell):
    def initial(self, name, lead):
        return super().initial(name, lead) + 1.0


class Counting(Observer):
    sees_steps = False


CHANGED = [Loud, Halved, Shifted, OneBias, Begun, nn.PeepholeLSTMCell, nn.LayerNormLSTMCell]
X = np.random.default_rng(1).normal(size=(4, 2, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_as_it_is_runs_in_one_operation(kind):
    name = kind if kind in BLOCKS else "elman"
    make, own = LAYERS[kind]
    net = make(3, 4, **own)
    assert operations_of(net, X) == {name}
    assert operations_of(net, X, lengths=[2, 4]) == {name}
    assert operations_of(net, [X[:, 0], X[:2, 1]]) == {name}
    assert operations_of(net, X[:, 0]) == {name}


@pytest.mark.parametrize("cell", CHANGED, ids=lambda cell: cell.__name__)
def test_a_cell_with_a_method_of_its_own_is_folded(cell):
    class Layer(nn.Recurrent):
        cell_class = cell

    net = Layer(3, 4)
    assert operations_of(net, X) == set()
    step, state = cell(3, 4), None
    step.load_state_dict({name.removesuffix("_l0"): x for name, x in net.state_dict().items()})
    for t in range(len(X)):
        state = step(X[t], state)
    np.testing.assert_allclose(net(X)[0].array[-1], state[0].array, rtol=1e-5, atol=1e-6)


def test_a_subclass_that_changes_no_method_runs_in_one_operation():
    class Named(nn.LSTMCell):
        def forward(self, x, state=None):
            return super().forward(x, state)

    class Layer(nn.Recurrent):
        cell_class = Named

    assert operations_of(Layer(3, 4), X) == {"lstm"}


def test_a_step_set_on_one_cell_is_folded():
    net = nn.LSTM(3, 4)
    cell = net.cells["l0"]
    cell.step = lambda u, state=None, mask=None: (u[:, :4], u[:, :4])
    assert operations_of(net, X) == set()


def test_a_gru_that_resets_before_the_product_is_folded():
    assert operations_of(nn.GRU(3, 4, reset_after=False), X) == set()


def test_variational_dropout_is_folded_in_training_alone():
    net = nn.LSTM(3, 4, dropout=0.5, variational=True)
    assert operations_of(net, X) == set()
    assert operations_of(net.eval(), X) == {"lstm"}


def test_an_observer_that_sees_steps_has_the_fold():
    net = nn.LSTM(3, 4)
    with tg.detect_anomaly():
        assert operations_of(net, X) == set()
    with observing(Counting()):
        assert operations_of(net, X) == {"lstm"}


def test_other_payloads_are_folded():
    net = nn.LSTM(3, 4)
    assert operations_of(net, X.astype(np.float64)) == set()  # two dtypes
    state = tuple(np.zeros((1, 2, 4)) for _ in "hc")
    assert operations_of(net, X, state) == set()
    for name, x in net.named_parameters():
        setattr(net, name, tg.tensor(x.array.astype(complex), requires_grad=True))
    assert operations_of(net, X.astype(complex)) == set()


def test_an_array_of_another_library_does_not_fit():
    class Foreign:
        dtype = np.dtype(float)

    x = np.zeros((2, 2))
    assert sequences.fits(x, tg.tensor(x), None)
    assert not sequences.fits(Foreign(), x)
    assert not sequences.fits(x, tg.Tensor(Foreign()))
    assert not sequences.fits(x, x.astype(np.float32))
    assert not sequences.fits(x.astype(int))
