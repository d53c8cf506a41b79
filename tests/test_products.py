"""What a product of many rows, and a softmax over many classes, must not cost."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn import backend, products, readout


@pytest.mark.parametrize("shape", [(5, 3, 4), (2, 5, 3, 4), (0, 3, 4)])
def test_a_stack_times_a_matrix_is_one_product_of_all_rows(shape, monkeypatch):
    """NumPy makes one for each matrix of the stack, several times as slow if these are small."""
    rng, made, product = np.random.default_rng(0), [], products.product
    a, b = rng.normal(size=shape), rng.normal(size=(4, 6))
    expected = a @ b
    monkeypatch.setattr(products, "product", lambda x, y: made.append(x.shape) or product(x, y))
    found = tg.matmul(tg.tensor(a, requires_grad=True), b)
    assert made == [(np.prod(shape[:-1]), 4)]
    np.testing.assert_allclose(found.array, expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 3, 4), (2, 5, 3, 4), (0, 3, 4)])
def test_the_way_back_through_a_stack_times_a_matrix(shape):
    rng = np.random.default_rng(0)
    a, b, g = (rng.normal(size=size) for size in (shape, (4, 6), (*shape[:-1], 6)))
    x, y = tg.tensor(a, requires_grad=True), tg.tensor(b, requires_grad=True)
    (x @ y).backward(g)
    np.testing.assert_allclose(x.grad.array, np.einsum("...k,jk->...j", g, b), atol=1e-12)
    total = np.tensordot(a, g, (range(a.ndim - 1), range(g.ndim - 1)))
    np.testing.assert_allclose(y.grad.array, total, atol=1e-12)


def test_a_product_over_no_entries():
    # Legal in NumPy: (2, 3, 0) @ (0, 4) is all zeros.
    a, b = (tg.tensor(np.ones(shape), requires_grad=True) for shape in ((2, 3, 0), (0, 4)))
    y = a @ b
    assert y.shape == (2, 3, 4) and not y.array.any()
    tg.sum(y).backward()
    assert a.grad.shape == a.shape and b.grad.shape == b.shape


def test_cross_entropy_records_no_second_array_of_all_classes():
    logits = tg.tensor(np.zeros((3, 50), np.float32), requires_grad=True)
    nodes, seen = [tg.cross_entropy(logits, np.array([0, 7, 49])).node], []
    while nodes:
        node = nodes.pop()
        seen.append(node)
        nodes += node.parents()
    assert {node for node in seen if node.shape == (3, 50)} == {logits.node}


LAYOUTS = [np.asarray, np.asfortranarray, np.flip, lambda x: np.repeat(x, 2, -1)[:, ::2]]
PRECISION = {np.float16: 2e-3, np.float32: 1e-6, np.float64: 1e-14}


@given(
    st.data(), st.sampled_from(list(PRECISION)), st.integers(1, 5), st.integers(1, 4), st.booleans()
)
def test_losses_gone_through_in_blocks_are_those_of_the_formula(data, dtype, N, V, masked):
    """However many rows fit into a block; rows of -inf, and single ones, too; to second order."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    scores = (3 * rng.standard_normal((N, V))).astype(dtype)
    ids, g = rng.integers(0, V, N), rng.standard_normal(N).astype(dtype)
    if masked and V > 1:
        scores[0, ids[0] - 1] = -np.inf
    scores = data.draw(st.sampled_from(LAYOUTS))(scores)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "_CACHED", data.draw(st.integers(1, 2)) * scores[:1].nbytes)
        for losses_of in (readout.softmax_losses, readout.softmax_losses_defined):
            x = tg.tensor(scores, requires_grad=True)
            losses = losses_of(x, ids)
            losses.backward(g)
            (again,) = tg.grad([losses_of(x, ids)], [x], [tg.tensor(g)], create_graph=True)
            second = tg.grad(tg.sum(again * again), x)
            found.append([losses, x.grad, again, second])
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype == dtype
        np.testing.assert_allclose(
            one.array, other.array, PRECISION[dtype], 10 * PRECISION[dtype], strict=True
        )


@pytest.mark.nonfinite
def test_a_row_of_scores_that_are_all_ruled_out_moves_nothing_but_its_target():
    x = tg.tensor(np.full((1, 3), -np.inf), requires_grad=True)
    with np.errstate(invalid="ignore"):
        readout.softmax_losses(x, np.array([1])).backward(np.ones(1))
    assert x.grad.array.tolist() == [[0.0, -1.0, 0.0]]


@pytest.mark.unwatched
def test_losses_make_one_array_of_all_classes_and_that_on_the_way_back(monkeypatch):
    """Measured: of 40 blocks' worth of scores, no more than a few blocks at a time."""
    monkeypatch.setattr(backend, "_CACHED", 4000)
    x = tg.tensor(np.zeros((40, 1000), np.float32), requires_grad=True)
    tracemalloc.start()
    try:
        losses = readout.softmax_losses(x, np.zeros(40, int))
        assert tracemalloc.get_traced_memory()[1] < 5 * 4000
        tracemalloc.reset_peak()
        tg.grad(losses, x, np.ones(40, np.float32))
        assert tracemalloc.get_traced_memory()[1] < 2.2 * x.array.nbytes
    finally:
        tracemalloc.stop()


@given(
    n=st.integers(0, 20),
    k=st.sampled_from([1, 64, 257, 512]),
    m=st.sampled_from([128, 600, 1025]),
    dtypes=st.lists(
        st.sampled_from([np.float32, np.float64, np.complex64]), min_size=2, max_size=2
    ),
    swapped=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 9),
)
def test_a_product_of_few_rows_is_that_of_its_entries(n, k, m, dtypes, swapped, seed):
    """In blocks of columns or at once, whatever the layout: by einsum, which calls no BLAS."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-3, 4, (n, k)).astype(dtypes[0]), rng.integers(-3, 4, (k, m))
    b = b.astype(dtypes[1])
    a, b = (np.asfortranarray(x) if flip else x for x, flip in zip((a, b), swapped, strict=True))
    y = tg.matmul(a, b)
    assert y.dtype == np.result_type(*dtypes)
    assert np.array_equal(y, np.einsum("ij,jk->ik", a, b))  # small integers
    assert np.array_equal(tg.matmul(a, b[:, ::2]), y[:, ::2])
