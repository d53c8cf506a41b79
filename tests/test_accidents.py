"""One cannot lose a graph by accident: copies, conversions, assignments, comparisons."""

import copy
import pickle

import numpy as np
import pytest

import tinygrad_rnn as tg

from .leaves import assert_apart, leaf


def test_copies_of_leaves_are_leaves_and_results_refuse():
    x = leaf(3)
    c = tg.tensor([1, 2])
    for twin in (
        copy.deepcopy(x),
        copy.deepcopy({"x": x})["x"],
        pickle.loads(pickle.dumps(x)),
        copy.copy(x),
    ):
        assert twin.requires_grad and twin.is_leaf and twin.dtype == x.dtype
        np.testing.assert_array_equal(twin.array, x.array)
        assert_apart(twin.array, x.array)
    assert not copy.deepcopy(c).requires_grad and copy.deepcopy(c).dtype == c.dtype
    y = x * 2.0
    for refused in (copy.deepcopy, copy.copy, pickle.dumps, lambda y: copy.deepcopy([y])):
        with pytest.raises(tg.DtypeError, match=r"multiply(.*\n)+.*detach"):
            refused(y)
    y.sum().backward()  # not even when the graph is gone
    with pytest.raises(tg.DtypeError):
        copy.deepcopy(y)


def test_tied_weights_stay_tied_in_a_copy():
    x = leaf(3)
    first, second = copy.deepcopy([x, x])
    assert first is second


def test_a_tensor_does_not_turn_into_an_array_unseen():
    x = leaf(3)
    for turn in (np.asarray, np.array, lambda x: np.concatenate([x]), lambda x: np.stack([x, x])):
        with pytest.raises(tg.DtypeError, match=r"\.numpy\(\)"):
            turn(x)
    copied = x.numpy()
    assert type(copied) is np.ndarray
    assert_apart(copied, x.array)


def test_assignment_refuses_and_names_what_to_use():
    x = leaf(3)
    with pytest.raises(tg.DtypeError, match=r"stack.*where|where.*stack"):
        x[0] = 1.0


def test_iteration_indexing_and_length_agree():
    x = leaf(3, 2)
    rows = list(x)
    assert len(rows) == len(x) == 3
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(row.array, x[i].array)
    a, _, _ = x
    tg.sum(a).backward()
    np.testing.assert_array_equal(x.grad.array, [[1, 1], [0, 0], [0, 0]])
    for scalar in (leaf(), x[0, 0]):
        with pytest.raises(TypeError):
            iter(scalar)
        with pytest.raises(TypeError):
            len(scalar)


def test_numbers_of_single_entries():
    x = tg.tensor([[2.5]], requires_grad=True)
    assert float(x) == x.item() == 2.5 and int(x) == 2 and bool(x)
    assert type(x.item()) is float and not tg.tensor([0.0])
    for convert in (float, int, bool, tg.Tensor.item):
        with pytest.raises(tg.ShapeError, match=r"\(2,\)"):
            convert(tg.tensor([1.0, 2.0]))


def test_identity_hash_and_comparisons_by_value():
    x, y = tg.tensor([1.0, 2.0]), tg.tensor([1.0, 3.0])
    assert (x == y).tolist() == [True, False] and (x != y).tolist() == [False, True]
    assert (x < y).tolist() == [False, True] and (x >= 2).tolist() == [False, True]
    assert len({x, y, x}) == 2 and hash(x) != hash(tg.tensor([1.0, 2.0]))


def test_payloads_of_tensor_are_copies_of_the_data():
    data = np.ones(3)
    x = tg.tensor(data, requires_grad=True)
    y = tg.tensor(x)
    assert_apart(data, x.array, y.array)
    assert not y.requires_grad
