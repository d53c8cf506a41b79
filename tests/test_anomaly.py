"""Silent faults made loud: no write to what a graph keeps, and no NaN, goes unnoticed.

``detect_anomaly`` is on in every test (see conftest), so in these too, unless they say otherwise.
"""

import copy
import threading

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.backward import rows_of_grad
from tinygrad_rnn.observer import OBSERVER
from tinygrad_rnn.recording import recording
from tinygrad_rnn.registry import ROWS, RandomDraw
from tinygrad_rnn.testing import cases

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
TRIES = settings.default.max_examples


def arrays_in(value):
    """The arrays in a keyword: an index or targets, alone or in tuples and lists."""
    if isinstance(value, (tuple, list)):
        return [x for part in value for x in arrays_in(part)]
    return [value] if isinstance(value, np.ndarray) else []


class Recorded:
    """One call of a row, recorded, with cotangents for its results."""

    def __init__(self, row, arrays, keywords):
        self.leaves = [tg.tensor(x, requires_grad=True) for x in arrays]
        y = row.function(*self.leaves, **keywords)
        self.ys = y if isinstance(y, (tuple, list)) else [y]
        rng = np.random.default_rng(1)
        self.gs = [tg.tensor(rng.standard_normal(one.shape)) for one in self.ys]

    def gradients(self):
        for x in self.leaves:
            x.grad = None
        for y, g in zip(self.ys, self.gs, strict=True):
            y.backward(g, retain_graph=True)
        return [None if x.grad is None else x.grad.numpy() for x in self.leaves]


def write_to(array, rng):
    """Give one entry of ``array`` another value; whether there was one to write to."""
    if not array.size or not array.flags.writeable:
        return False
    where = tuple(int(rng.integers(n)) for n in array.shape)
    array[where] = not array[where] if array.dtype == bool else array[where] + 1
    return True


def same(xs, ys):
    return all(
        (x is None and y is None) or np.array_equal(x, y, equal_nan=True)
        for x, y in zip(xs, ys, strict=True)
    )


@every_row
@settings(max_examples=TRIES // 2)
@given(data=st.data())
def test_a_write_between_forward_and_backward_is_noticed_or_does_no_harm(row, data):
    arrays, keywords = copy.deepcopy(data.draw(cases(row)))
    call = Recorded(row, arrays, keywords)
    expected = call.gradients()
    victims = [x.array for x in [*call.leaves, *call.ys]] + arrays_in([*keywords.values()])
    victim = victims[data.draw(st.integers(0, len(victims) - 1))]
    assume(write_to(victim, np.random.default_rng(data.draw(st.integers(0, 9)))))
    try:
        found = call.gradients()
    except tg.ValueChangedError as error:
        assert "has been written to" in str(error)
        assert all(x.grad is None for x in call.leaves) or len(call.ys) > 1  # nothing half-added
    else:
        assert same(found, expected)


@pytest.mark.unwatched
def test_without_detect_anomaly_such_writes_would_be_silent():
    # The law above could not fail if no write ever changed a gradient.
    harmed = set()
    for row in ROWS:
        for seed in range(20):
            call = Recorded(row, *row.case(RandomDraw(seed)))
            expected = call.gradients()
            write_to(call.leaves[0].array, np.random.default_rng(seed))
            with np.errstate(all="ignore"):
                if not same(call.gradients(), expected):
                    harmed.add(row.name)
    assert {"multiply", "matmul", "log", "power", "sin", "prod"} <= harmed


INDEX = ("index", "indices", "ids", "targets")  # the names of arguments that point into an axis


def index_arrays(keywords):
    """The arrays among the arguments that point into an axis."""
    found = arrays_in([keywords[name] for name in INDEX if name in keywords])
    return [x for x in found if x.dtype.kind in "iub" and x.size]


POINTING = [
    row for row in ROWS if any(index_arrays(row.case(RandomDraw(seed))[1]) for seed in range(20))
]


@pytest.mark.parametrize("row", POINTING, ids=lambda row: row.name)
@pytest.mark.unwatched
@settings(max_examples=TRIES // 3)
@given(data=st.data())
def test_index_arguments_are_copied(row, data):
    arrays, keywords = copy.deepcopy(data.draw(cases(row)))
    indices = index_arrays(keywords)
    assume(indices)
    call = Recorded(row, arrays, keywords)
    expected = call.gradients()
    for x in indices:
        x[...] = 0
    assert same(call.gradients(), expected)


@given(seed=st.integers(0, 99))
def test_tensor_copies_its_data(seed):
    data = np.random.default_rng(seed).standard_normal((3, 2))
    x = tg.tensor(data, requires_grad=True)
    y = tg.sum(x * x)
    data[...] = 0
    y.backward()
    np.testing.assert_array_equal(x.grad.array, 2 * x.array)
    assert x.array.any()


def test_a_plain_array_that_was_given_to_an_operation_is_watched():
    x, mask = tg.tensor(np.ones((2, 3)), requires_grad=True), np.ones((2, 3))
    y = tg.sum(x * mask)
    mask[0, 0] = 0
    with pytest.raises(tg.ValueChangedError, match=r"multiply read b, float64 \(2, 3\)"):
        y.backward()
    assert x.grad is None


def test_what_the_backward_pass_does_not_read_may_be_written_to():
    x = tg.tensor(np.ones((2, 3)), requires_grad=True)
    y = tg.sum(x + 1.0)
    x.array[...] = 5.0
    y.backward()
    np.testing.assert_array_equal(x.grad.array, np.ones((2, 3)))


# ---- NaN and infinities --------------------------------------------------------------------------

NAN = np.array([1.0, np.nan])


@pytest.mark.parametrize("inf", [False, True])
def test_a_result_with_nan_is_an_error_and_one_with_infinity_only_if_asked(inf):
    x = tg.tensor([0.0, 1.0], requires_grad=True)
    with tg.detect_anomaly(inf=inf), np.errstate(all="ignore"):
        if inf:
            with pytest.raises(tg.NonFiniteError, match=r"log: its result .* 1 of 2 entries inf"):
                tg.log(x)
        else:
            assert np.isinf(tg.log(x).array[0])
        with pytest.raises(tg.NonFiniteError, match=r"log: its result is .*1 of 2 entries NaN"):
            tg.log(x - 0.5)
    with tg.detect_anomaly(nan=False), np.errstate(all="ignore"):
        assert np.isnan(tg.log(x - 0.5).array[0])


def test_an_argument_that_had_nan_before_is_named():
    x = tg.tensor([1.0, 1.0], requires_grad=True)
    with pytest.raises(tg.NonFiniteError, match="hint: b had them before: it comes from data"):
        x * NAN


def test_the_vjp_that_makes_nan_is_named_and_nothing_is_added_to_any_gradient():
    x = tg.tensor([0.0, 4.0], requires_grad=True)
    w = tg.tensor([1.0, 1.0], requires_grad=True)
    y = tg.sum(tg.sqrt(x * w) * 0.0)
    with np.errstate(all="ignore"), pytest.raises(tg.NonFiniteError, match="what sqrt sends back"):
        y.backward()
    assert x.grad is None and w.grad is None


def test_the_gradient_that_backward_is_given_is_looked_at():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(tg.NonFiniteError, match="the gradient that it was given is"):
        (x * 2.0).backward(NAN)


@given(st.integers(1, 12), st.integers(0, 11))
def test_the_step_of_a_loop_is_counted(steps, broken):
    assume(broken < steps)
    w = tg.tensor(np.eye(2), requires_grad=True)
    h = tg.tensor(np.ones((1, 2)))
    with np.errstate(all="ignore"):
        with pytest.raises(tg.NonFiniteError) as caught:
            for t in range(steps):
                h = tg.sqrt(h @ w - 2.0 * (t == broken))
        place = [f"  pass: number {broken + 1} through"] if broken else []
    assert [line[: len(p)] for line, p in zip(caught.value.place[1:], place, strict=True)] == place


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_module_and_the_step_are_named_inside_a_layer(bidirectional):
    class Tagger(tg.nn.Module):
        def __init__(self):
            self.layers = [tg.nn.LSTM(2, 3, bidirectional=bidirectional)]

        def forward(self, x):
            return self.layers[0](x)[0]

    tagger, x = Tagger(), np.zeros((4, 1, 2))
    x[2] = np.nan
    with tg.detect_anomaly(nan=False):  # the product with all inputs would be the first to tell
        y = tagger(x)
    cell = tagger.layers[0].cells["l0"]
    step = cell.step
    cell.step = lambda *args: tg.detect_anomaly()(step)(*args)
    assert np.isnan(y.array).any()
    with tg.detect_anomaly(nan=False), pytest.raises(tg.NonFiniteError) as caught:
        tagger(x)
    assert "in: Tagger.layers.0, step t=2 of fold(" in str(caught.value)


# ---- where it holds ------------------------------------------------------------------------------


@pytest.mark.unwatched
def test_it_holds_inside_its_block_alone_and_in_this_thread():
    assert OBSERVER.get() is None
    found = []
    with tg.detect_anomaly():
        outer = OBSERVER.get()
        with tg.detect_anomaly(inf=True):
            assert OBSERVER.get() is not outer
        assert OBSERVER.get() is outer
        with pytest.raises(KeyError), tg.detect_anomaly():
            raise KeyError
        assert OBSERVER.get() is outer
        thread = threading.Thread(target=lambda: found.append(OBSERVER.get()))
        thread.start()
        thread.join()
    assert OBSERVER.get() is None and found == [None]


@pytest.mark.unwatched
def test_as_a_decorator_it_may_be_used_again():
    @tg.detect_anomaly()
    def logarithm(x):
        return tg.log(x)

    x = tg.tensor([-1.0], requires_grad=True)
    for _ in range(2):
        with np.errstate(all="ignore"), pytest.raises(tg.NonFiniteError):
            logarithm(x)
    assert OBSERVER.get() is None


@pytest.mark.unwatched
def test_a_graph_from_outside_is_checked_for_nan_on_the_way_back():
    x = tg.tensor([0.0], requires_grad=True)
    y = tg.sum(tg.sqrt(x) * 0.0)
    with (
        tg.detect_anomaly(),
        np.errstate(all="ignore"),
        pytest.raises(tg.NonFiniteError, match=r"sqrt sends .*(\n.*)+outside of detect_anomaly"),
    ):
        y.backward()


def test_nothing_is_written_down_where_nothing_is_recorded():
    with recording(False), np.errstate(all="ignore"):
        y = tg.log(tg.tensor([-1.0], requires_grad=True))
    assert np.isnan(y.array).all() and y.node is None


def test_second_derivatives_are_watched_as_well():
    x = tg.tensor([4.0, 0.0], requires_grad=True)
    g = tg.grad(tg.sum(x * x * x), x, create_graph=True)
    x.array[0] = 9.0
    with pytest.raises(tg.ValueChangedError):
        tg.grad(tg.sum(g), x)


# ---- what is not an array yet, and what comes together -------------------------------------------


def test_a_nan_in_an_outer_product_is_seen():
    # The cotangent is finite, 0, and so is the product with it but for an infinite input.
    layer = tg.nn.Linear(2, 1)
    x = np.array([[1.0, 2.0], [np.inf, 1.0]], np.float32)
    y = tg.sum(tg.where(np.array([[True], [False]]), layer(x), 0.0))
    sent = r"(matmul|affine) sends back"
    with np.errstate(all="ignore"), pytest.raises(tg.NonFiniteError, match=sent):
        y.backward()
    assert layer.weight.grad is None


def test_a_nan_in_the_rows_of_a_table_is_seen():
    table = tg.tensor(np.zeros((4, 2)), requires_grad=True)
    with np.errstate(all="ignore"), pytest.raises(tg.NonFiniteError, match=r"sqrt|getitem"):
        tg.sum(tg.sqrt(tg.embedding([1], table)) * 0.0).backward()


def test_parts_that_are_infinite_and_cancel_are_seen_where_they_meet():
    w = tg.tensor(np.ones(2), requires_grad=True)
    ys = [w * 1e300, w * 1e300]
    with np.errstate(all="ignore"), pytest.raises(tg.NonFiniteError, match="came to leaf, is"):
        tg.grad(ys, [w], [np.full(2, 1e10), np.full(2, -1e10)])


def test_a_hook_that_returns_nan_is_not_laid_at_anothers_door():
    x = tg.tensor(np.ones(2), requires_grad=True)
    h = tg.tanh(x)
    for y in (x, h):
        remove = y.register_hook(lambda g: g * np.nan)
        with pytest.raises(tg.NonFiniteError, match=r"came to (leaf|tanh), with its hooks, is"):
            tg.sum(h * 2.0).backward(retain_graph=True)
        remove()


def test_a_gradient_kept_as_rows_stays_so_under_watch():
    table = tg.tensor(np.ones((9, 2)), requires_grad=True)
    y = tg.sum(tg.embedding([1, 3, 3], table) ** 2) + tg.sum(tg.embedding([2], table))
    y.backward()
    assert rows_of_grad(table)


def test_a_second_backward_pass_is_told_as_such():
    x = tg.tensor(np.ones(2), requires_grad=True)
    y = tg.sum(x * x)
    y.backward()
    with pytest.raises(tg.GraphFreedError):
        y.backward()


def test_a_leaf_that_has_changed_is_told_with_the_line_that_read_it():
    w = tg.tensor(np.ones(2), requires_grad=True)
    y = tg.sum(w * w)
    w.grad = tg.tensor(np.ones(2))
    tg.optim.SGD([w], lr=0.1).step()
    with pytest.raises(tg.ValueChangedError) as caught:
        y.backward()
    here = test_a_leaf_that_has_changed_is_told_with_the_line_that_read_it.__code__.co_firstlineno
    at, back = caught.value.place
    assert f":{here + 2}, in test_a_leaf" in at and f":{here + 6}, in test_a_leaf" in back


@pytest.mark.unwatched
@pytest.mark.parametrize("wrong", [lambda: None, np.ones(2), 1])
def test_a_decorator_without_parentheses_is_refused(wrong):
    with pytest.raises(tg.DtypeError, match=r"hint: a decorator has parentheses"):
        tg.detect_anomaly(wrong)


def test_an_operation_that_writes_to_its_argument_does_not_pass_the_gradient_check():
    @tg.op(x=lambda g: g * 3)
    def tripled(x):
        x *= 3
        return x

    with pytest.raises(tg.GradcheckError, match=r"func writes to inputs\[0\]"):
        tg.gradcheck(tripled, [np.array([1.0, 2.0])])


HIDING = {
    "masked": lambda: np.ma.array([3.0, 4.0], mask=[False, True]),
    "matrix": lambda: np.asmatrix([[3.0, 4.0]]),
}


@pytest.mark.parametrize("kind", HIDING)
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_arrays_that_compute_in_another_way_are_refused(kind):
    w, x = tg.tensor([1.0, 2.0], requires_grad=True), HIDING[kind]()
    for use in (lambda: w * x, lambda: x + w, lambda: tg.tensor(x)):
        with pytest.raises(tg.DtypeError, match=r"expected: a plain array(\n.*)*hint: np\.asarray"):
            use()
