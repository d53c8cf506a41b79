"""Laws of the gradients of tables, which are kept as the rows that were looked up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import nn, optim
from tinygrad_rnn.backward import rows_of_grad
from tinygrad_rnn.sparse import RowGradient

seeds = st.integers(0, 999)


@given(
    st.integers(0, 999),
    st.integers(1, 30),
    st.sampled_from([0.0, 0.9]),
    st.sampled_from([0.0, 0.03]),
    st.integers(1, 3),
)
def test_rows_of_a_table_move_as_the_whole_gradient_says(seed, n, momentum, weight_decay, uses):
    rng = np.random.default_rng(seed)
    start, looked_up = rng.normal(size=(n, 2)), [rng.integers(0, n, 4) for _ in range(uses)]
    tables = [tg.tensor(start, requires_grad=True) for _ in range(2)]
    for _ in range(2):
        for table, written_out in zip(tables, (False, True), strict=True):
            optimiser = optim.SGD([table], 0.1, momentum, weight_decay=weight_decay)
            for ids in looked_up:  # several backward passes gather in one gradient
                tg.sum(tg.tanh(tg.embedding(ids, table))).backward()
            if written_out:
                assert table.grad.shape == table.shape
            optimiser.step()
            optimiser.zero_grad()
    np.testing.assert_allclose(tables[0].array, tables[1].array, rtol=1e-12, atol=1e-15)


def test_a_table_that_somebody_holds_is_not_moved_in_place():
    table = tg.tensor(np.ones((1000, 2)), requires_grad=True)
    held, before = table.array, table.array.copy()
    tg.sum(tg.embedding(np.array([3]), table)).backward()
    optim.SGD([table], 1.0).step()
    np.testing.assert_array_equal(held, before)
    assert table.array[3, 0] == 0 and (table.array != before).sum() == 2


def test_a_gradient_kept_as_rows_does_not_change_with_what_it_was_made_from():
    table, g = tg.tensor(np.ones((1000, 2)), requires_grad=True), np.ones((1, 2))
    tg.embedding(np.array([3]), table).backward(tg.tensor(g))
    y = tg.embedding(np.array([4]), table)
    y.backward(g)
    g[:] = 7.0
    assert table.grad.array[3:5].tolist() == [[1, 1], [1, 1]]


# ---- tables whose gradient is seen as rows -------------------------------------------------------

TAKE_ROWS = [(optim.SGD, {}), (optim.Adagrad, {}), (optim.Adagrad, {"eps": 0.1})]
TAKE_NONE = [
    (optim.SGD, {"momentum": 0.9}),
    (optim.SGD, {"weight_decay": 0.1}),
    (optim.Adagrad, {"weight_decay": 0.1}),
    (optim.Adagrad, {"eps": 0.0}),
    (optim.RMSprop, {}),
    (optim.Adam, {}),
    (optim.AdamW, {}),
]


def two_tables(seed, n):
    """A table whose gradient is kept as rows, and the same whose gradient is written out."""
    return [nn.Embedding(n, 3, np.random.default_rng(seed), sparse=on) for on in (True, False)]


@given(seeds, st.integers(1, 9), st.sampled_from(TAKE_ROWS), st.integers(1, 3))
def test_rows_move_bit_by_bit_as_the_gradient_that_is_written_out(seed, n, drawn, passes):
    """Ids repeated, several backward passes before a step, more ids than the table has rows."""
    kind, chosen = drawn
    rng = np.random.default_rng(seed)
    tables = two_tables(seed, n)
    optimisers = [kind(table.parameters(), lr=0.1, **chosen) for table in tables]
    for _ in range(3):
        for _ in range(passes):
            ids, g = rng.integers(0, n, (2, 6)), rng.normal(size=(2, 6, 3)).astype(np.float32)
            for table in tables:
                table(ids).backward(g)
        rows, whole = (table.weight.grad for table in tables)
        assert isinstance(rows, RowGradient) and isinstance(whole, tg.Tensor)
        assert rows.dtype == np.float32 and rows.shape == (n, 3)
        assert (np.diff(rows.ids) > 0).all() and rows.values.shape == (len(rows.ids), 3)
        np.testing.assert_array_equal(rows.dense(), whole.array)
        for table, optimiser in zip(tables, optimisers, strict=True):
            optimiser.step()
            optimiser.zero_grad()
            assert table.weight.grad is None
        np.testing.assert_array_equal(*[table.weight.array for table in tables])
        states = [optimiser.state_dict() for optimiser in optimisers]
        assert states[0].keys() == states[1].keys()
        for name, x in states[0].items():
            np.testing.assert_array_equal(x, states[1][name])


@pytest.mark.parametrize(("kind", "chosen"), TAKE_NONE)
def test_rows_are_refused_by_what_would_move_all_and_nothing_has_moved(kind, chosen):
    table, other = nn.Embedding(9, 3, sparse=True), nn.Linear(3, 1)
    parameters = [*other.named_parameters(), *table.named_parameters()]
    optimiser = kind(parameters, lr=0.1, **chosen)
    before = [x.numpy() for _, x in parameters]
    tg.sum(other(table([1, 1, 4]))).backward()
    told = rf"{kind.__name__}\.step: the gradient of weight, .* is kept as rows"
    with pytest.raises(tg.SettingError, match=told):
        optimiser.step()
    for (_, x), old in zip(parameters, before, strict=True):
        np.testing.assert_array_equal(x.array, old)
    table.sparse = False  # what the hint says
    table.weight.requires_grad = False
    table.weight.requires_grad = True
    optimiser.zero_grad()
    tg.sum(other(table([1, 1, 4]))).backward()
    with np.errstate(invalid="ignore"):  # 0 / 0 without eps
        optimiser.step()


@given(seeds, st.integers(3, 40), st.booleans(), st.sampled_from([0.1, 0.9, 2.0]))
def test_rows_are_clipped_as_the_gradient_that_is_written_out(seed, n, seen, ratio):
    """The rows of an id that occurs twice are added up before they are measured."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(7, 3)).astype(np.float32)
    ids, scores = rng.integers(0, n, 7), tg.tensor(rng.normal(size=4), requires_grad=True)
    grads = []
    for table in two_tables(seed, n):
        table(ids).backward(g)
        scores.grad = scores.detach()
        expected = np.zeros((n, 3))
        np.add.at(expected, ids, g)
        if seen:
            assert table.weight.grad is not None
        held = table.weight.grad if seen else None
        norm = np.sqrt((expected**2).sum() + (scores.array**2).sum())
        found = optim.clip_grad_norm_([table.weight, scores], ratio * norm)
        assert found == pytest.approx(norm, rel=1e-5)
        factor = min(1.0, ratio * norm / (norm + 1e-6))
        if held is not None:
            old = held.dense() if table.sparse else held.array
            np.testing.assert_allclose(old, expected, rtol=1e-5, atol=1e-6)
        assert isinstance(table.weight.grad, RowGradient) == table.sparse
        whole = table.weight.grad.dense() if table.sparse else table.weight.grad.array
        np.testing.assert_allclose(whole, expected * factor, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(scores.grad.array, scores.array * factor, rtol=1e-5)
        grads.append(whole)
    np.testing.assert_array_equal(*grads)


@pytest.mark.nonfinite
def test_rows_that_are_not_finite_are_named():
    table = nn.Embedding(9, 2, sparse=True)
    optimiser = optim.Adagrad(table.named_parameters())
    tg.sum(table([1, 3]) * np.array([[1.0, np.nan], [1.0, 1.0]], np.float32)).backward()
    for refuse in (optimiser.step, lambda: optim.clip_grad_norm_(table.parameters(), 1.0)):
        with pytest.raises(tg.NonFiniteError, match="are NaN"):
            refuse()


def test_a_table_that_is_used_in_other_ways_too_has_rows_of_all_that_comes_to_it():
    tables = two_tables(0, 6)
    for table in tables:
        h = table([0, 2, 2])
        (tg.sum(tg.tanh(h @ table.weight.T)) + tg.sum(table.weight[4:] ** 2)).backward()
        tg.grad(tg.sum(table([1])), table.weight)  # leaves .grad alone
    rows, whole = (table.weight.grad for table in tables)
    assert isinstance(rows, RowGradient)
    np.testing.assert_array_equal(rows.dense(), whole.array)
    for table in tables:
        tg.sum(table([5]) ** 2).backward(create_graph=True)
        assert isinstance(table.weight.grad, tg.Tensor)  # what is recorded is written out
    np.testing.assert_array_equal(*[table.weight.grad.array for table in tables])


def test_rows_move_with_their_model_and_can_be_set():
    table = nn.Embedding(5, 2, sparse=True)
    tg.sum(table([3, 1, 3])).backward()
    rows = table.weight.grad
    moved = rows.detach().to("cpu")
    np.testing.assert_array_equal(moved.dense(), rows.dense())
    assert "ids=[1 3]" in repr(moved)
    table.zero_grad()
    table.weight.grad = moved
    assert table.weight.grad is moved
    table.to("cpu")
    with pytest.raises(tg.ShapeError):
        nn.Embedding(4, 2).weight.grad = moved


def test_ids_counted_from_the_end_are_the_rows_that_they_name():
    table = tg.tensor(np.ones((50, 2)), requires_grad=True)
    tg.sum(table[np.array([-1, 49, 3])]).backward()
    assert optim.clip_grad_norm_([table], np.inf) == pytest.approx(np.sqrt(2 * (2**2 + 1)))
    rows = rows_of_grad(table)
    assert rows.ids.tolist() == [3, 49] and rows.values.tolist() == [[1, 1], [2, 2]]


def test_rows_that_are_clipped_stay_rows_and_what_nobody_holds_is_clipped_in_place():
    table, w = nn.Embedding(50, 2), tg.tensor(np.ones((3, 2)), requires_grad=True)
    (tg.sum(table([3, 1, 3])) + tg.sum(w)).backward()
    place = w.grad.array.ctypes.data
    optim.clip_grad_norm_([table.weight, w], 1e-3)
    assert rows_of_grad(table.weight).ids.tolist() == [1, 3]
    assert w.grad.array.ctypes.data == place


def test_rows_have_the_dtype_of_their_table():
    table = nn.Embedding(5, 2, sparse=True)
    table([2, 1]).backward(np.ones((2, 2)))  # float64
    tg.sum(table([2, 1]).astype(np.float64) * np.ones((2, 2))).backward()
    assert table.weight.grad.dtype == table.weight.grad.values.dtype == np.float32


USES = {
    "asarray": np.asarray,
    "times": lambda g: g * 2,
    "of a float": lambda g: 0.1 * g,
    "of a NumPy scalar": lambda g: np.float32(0.1) * g,
    "of an array": lambda g: np.ones((5, 2)) - g,
    "of a Tensor": lambda g: tg.tensor(np.ones((5, 2))) - 0.1 * g,
    "operation": lambda g: tg.tensor(np.ones((5, 2))) * g,
    "over": lambda g: g / 2,
    "sum": lambda g: g + g,
    "more": lambda g: 1 + g,
    "less": lambda g: g - 1,
    "rest": lambda g: 1 - g,
    "square": lambda g: g**2,
    "product": lambda g: g @ np.ones(2),
    "product from the left": lambda g: np.ones(5) @ g,
    "size": abs,
    "number": float,
    "minus": lambda g: -g,
    "row": lambda g: g[3],
    "rows": list,
    "ufunc": np.exp,
    "norm": np.linalg.norm,
    "our norm": tg.norm,
}


@pytest.mark.parametrize("use", USES)
def test_whoever_takes_rows_for_an_array_is_told_what_they_are(use):
    table = nn.Embedding(5, 2, sparse=True)
    tg.sum(table([3, 1, 3])).backward()
    with pytest.raises(tg.DtypeError, match=r"RowGradient \(5, 2\).*2 rows[^$]*hint: grad.dense()"):
        USES[use](table.weight.grad)


def test_sparse_is_a_choice_of_two():
    with pytest.raises(tg.DtypeError, match="sparse is str 'yes'"):
        nn.Embedding(5, 2, sparse="yes")


@given(seeds, st.sampled_from(TAKE_ROWS[1:]))
def test_rows_of_a_float16_table_move_as_the_gradient_that_is_written_out(seed, drawn):
    kind, chosen = drawn
    rng, tables = np.random.default_rng(seed), two_tables(seed, 5)
    for table in tables:
        table.weight = tg.tensor(table.weight.array.astype(np.float16), requires_grad=True)
    optimisers = [kind(table.parameters(), lr=0.1, **chosen) for table in tables]
    for _ in range(3):
        ids, g = rng.integers(0, 5, 4), 1e-4 * rng.normal(size=(4, 3)).astype(np.float16)
        for table, optimiser in zip(tables, optimisers, strict=True):
            optimiser.zero_grad()
            table(ids).backward(g)
            optimiser.step()
    found = [table.weight.array for table in tables]
    assert found[0].dtype == np.float16 and isinstance(tables[0].weight.grad, RowGradient)
    np.testing.assert_array_equal(*found)
