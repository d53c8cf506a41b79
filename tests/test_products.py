"""What a product of many rows, and a softmax over many classes, must not cost."""

import numpy as np
import pytest

import tinygrad_rnn as tg


@pytest.mark.parametrize("shape", [(5, 3, 4), (2, 5, 3, 4), (0, 3, 4)])
def test_a_stack_times_a_matrix_is_one_product_of_all_rows(shape, monkeypatch):
    """NumPy makes one for each matrix of the stack, several times as slow if these are small."""
    rng, products, matmul = np.random.default_rng(0), [], np.matmul
    a, b = rng.normal(size=shape), rng.normal(size=(4, 6))
    expected = a @ b
    monkeypatch.setattr(np, "matmul", lambda x, y: products.append(x.shape) or matmul(x, y))
    found = tg.matmul(tg.tensor(a, requires_grad=True), b)
    assert products == [(np.prod(shape[:-1]), 4)]
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


def test_cross_entropy_records_no_second_array_of_all_classes():
    logits = tg.tensor(np.zeros((3, 50), np.float32), requires_grad=True)
    nodes, seen = [tg.cross_entropy(logits, np.array([0, 7, 49])).node], []
    while nodes:
        node = nodes.pop()
        seen.append(node)
        nodes += node.parents()
    assert {node for node in seen if node.shape == (3, 50)} == {logits.node}
