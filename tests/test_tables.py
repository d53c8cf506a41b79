"""Laws of the gradients of tables, which are kept as the rows that were looked up."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import optim


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
