"""Laws of structured cotangents: any mixture of terms, in any order, is the dense sum."""

import functools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from tinygrad_rnn.backend import Backend
from tinygrad_rnn.cotangents import Outputs, Sum, Term, add
from tinygrad_rnn.linear import Placed
from tinygrad_rnn.products import OuterProduct

DTYPES = [np.float64, np.float32, np.complex128]

# ---- what is drawn ------------------------------------------------------------------------------


def entries(rng, shape, dtype):
    """Normal entries of a dtype."""
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype == np.complex128 else x).astype(dtype)


@st.composite
def indices(draw, shape):
    """Any index that ``ndarray[...]`` takes: also repeated, negative, empty, of narrow integers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = shape[0]
    kinds = ["rows", "integer", "slice", "reversed", "mask", "dots", "list of none", "matrix"]
    kinds += ["whole mask"]
    if len(shape) > 1:
        kinds += ["pairs", "rows and slice", "row and integer", "mask and integer", "new axis"]
    kind = draw(st.sampled_from(kinds))
    integers = draw(st.sampled_from([np.int64, np.int32, np.int8, np.uint8, np.uint64]))
    low = -n if np.issubdtype(integers, np.signedinteger) else 0
    rows = rng.integers(low, n, draw(st.integers(0, 6))).astype(integers)
    return {
        "rows": rows,
        "integer": draw(st.integers(-n, n - 1)),
        "slice": slice(draw(st.integers(0, n)), None, draw(st.integers(1, 2))),
        "reversed": slice(None, None, -1),
        "mask": rng.random(n) < 0.5,
        "dots": ...,
        "list of none": np.zeros(0, int),
        "matrix": rng.integers(low, n, (2, 3)).astype(integers),
        "whole mask": rng.random(shape) < 0.5,
        "pairs": (rows, rng.integers(0, [*shape, 1][1], rows.shape)),
        "rows and slice": (rows, slice(None, None, -1)),
        "row and integer": (rows, -1),
        "mask and integer": (rng.random(n) < 0.5, 0),
        "new axis": (None, slice(1, None)),
    }[kind]


@st.composite
def pieces(draw, shape, dtypes=DTYPES, depth=1):
    """A cotangent for a matrix of this shape, and the array that it stands for."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from(dtypes))
    kind = draw(st.sampled_from(["array", "outer", "placed", "sum"][: 4 if depth else 3]))
    if kind == "array":
        x = entries(rng, shape, dtype)
        return x, x.copy()
    if kind == "outer":
        n = draw(st.sampled_from([1, 2, 0, 300]))
        x = entries(rng, (n, shape[0]), draw(st.sampled_from(dtypes)))
        g = entries(rng, (n, shape[1]), dtype)
        return OuterProduct(x, g), x.T @ g
    if kind == "placed":
        index = draw(indices(shape))
        g = entries(rng, np.zeros(shape)[index].shape, dtype)
        dense = np.zeros(shape, dtype)
        np.add.at(dense, index, g)
        return Placed(g, index, shape), dense
    parts = draw(st.lists(pieces(shape, dtypes, depth=0), min_size=1, max_size=3))
    total = Sum(shape, parts[0][0].dtype)
    for part, _ in parts:
        total = total.include(part)
    return total, sum(dense for _, dense in parts)


shapes = st.tuples(st.integers(1, 4), st.integers(1, 4))
mixtures = shapes.flatmap(lambda shape: st.lists(pieces(shape), min_size=1, max_size=8))


def held(x):
    """The arrays that a cotangent was made of."""
    if isinstance(x, Sum):
        return [array for term in x.terms() for array in held(term)]
    if isinstance(x, OuterProduct):
        return [x.x, x.g]
    return [x.g] if isinstance(x, Placed) else [x]


def written_out(x):
    return x.dense() if isinstance(x, Term) else x


def assert_equal(x, expected):
    """Equal in shape and in dtype: a narrow term must not swallow a wide or a complex one."""
    x = written_out(x)
    assert (x.shape, x.dtype) == (expected.shape, expected.dtype)
    scale = 1 + np.abs(expected).max(initial=0)
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-4 * scale)  # some are float32


# ---- sums ---------------------------------------------------------------------------------------


@given(mixtures)
def test_any_mixture_adds_up_to_the_dense_sum(mixture):
    before = [[array.copy() for array in held(term)] for term, _ in mixture]
    arrays = [held(term) for term, _ in mixture]
    total = functools.reduce(add, [term for term, _ in mixture])
    expected = sum(dense for _, dense in mixture)
    assert_equal(total, expected)
    for now, then in zip(arrays, before, strict=True):
        for a, b in zip(now, then, strict=True):
            np.testing.assert_array_equal(a, b)


@given(st.lists(pieces((3, 3), [np.float64]), min_size=2, max_size=6), st.randoms())
def test_order_and_grouping_do_not_matter(mixture, random):
    # As trees of sums: a Sum that is included must bring its total and all of its terms.
    expected = sum(dense for _, dense in mixture)
    terms = [term for term, _ in mixture]
    while len(terms) > 1:
        random.shuffle(terms)
        a, b = terms.pop(), terms.pop()
        terms.append(add(a, b))
    np.testing.assert_allclose(written_out(terms[0]), expected, atol=1e-10)


@given(mixtures)
def test_transposing_the_sum_transposes_the_dense_sum(mixture):
    total = functools.reduce(add, [term for term, _ in mixture])
    expected = sum(dense for _, dense in mixture)
    if isinstance(total, Term):
        assert total.T.shape == expected.T.shape
    assert_equal(total.T.T, expected)
    flipped = total.T
    assert_equal(flipped, expected.T)
    ones = np.ones(expected.T.shape, expected.dtype)
    assert_equal(add(flipped, ones), expected.T + ones)


@given(mixtures)
def test_writing_out_twice_counts_once(mixture):
    total = Sum(mixture[0][1].shape, mixture[0][1].dtype)
    for term, _ in mixture:
        total = total.include(term)
    first = total.dense().copy()
    np.testing.assert_array_equal(total.dense(), first)
    total = add(total, np.ones(first.shape))
    np.testing.assert_allclose(total.dense(), first + 1, rtol=1e-6)


@given(mixtures)
def test_the_sum_shares_no_memory_with_what_it_was_made_of(mixture):
    arrays = [array for term, _ in mixture for array in held(term)]
    total = Sum(mixture[0][1].shape, mixture[0][1].dtype)
    for term, _ in mixture:
        total = total.include(term)
    dense = total.dense()
    assert not any(np.shares_memory(dense, array) for array in arrays)


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.integers(1, 64), st.integers(1, 40))
@example((1, 1), 1, 600)
def test_pending_terms_hold_no_more_than_the_weight_or_256_rows(shape, rows, uses):
    limit = max(shape[0] * shape[1], 256 * sum(shape)) * 8
    rng = np.random.default_rng(0)
    total = Sum(shape, np.dtype(float))
    exact = np.zeros(shape)
    for _ in range(uses):
        x, g = rng.standard_normal((rows, shape[0])), rng.standard_normal((rows, shape[1]))
        total = add(total, OuterProduct(x, g))
        exact += x.T @ g
        pending = sum(term.x.nbytes + term.g.nbytes for term in total.terms())
        assert pending <= limit and pending == total.nbytes
    np.testing.assert_allclose(total.dense(), exact, atol=1e-10)


def test_a_narrow_sum_does_not_round_a_wide_term():
    one = np.ones((1, 1))
    exact = one + 1e-12
    narrow = np.zeros((1, 1), np.float32)
    for first in (narrow, OuterProduct(narrow, narrow), Placed(narrow, ..., (1, 1))):
        for wide in (exact, OuterProduct(one, exact), Placed(exact, np.array([0]), (1, 1))):
            assert written_out(add(first, wide)).item() == exact.item()


# ---- several results ----------------------------------------------------------------------------


@given(st.permutations(range(4)), st.integers(1, 4))
def test_outputs_gather_by_place_whatever_the_order(order, count):
    parts = {i: np.full(2, float(i)) for i in order[:count]}
    gathered = functools.reduce(add, [Outputs(4, {i: g}) for i, g in parts.items()])
    dense = gathered.dense()
    assert len(dense) == 4
    for i, g in enumerate(dense):
        assert g is parts.get(i)


def test_outputs_that_come_to_one_place_add_up():
    # A VJP that names a result reads it through an outlet of its own when it is recorded.
    both = add(Outputs(2, {1: np.ones(2)}), Outputs(2, {1: np.full(2, 2.0), 0: np.zeros(2)}))
    np.testing.assert_array_equal(np.array(both.dense()), [[0, 0], [3, 3]])


# ---- the same through the engine ----------------------------------------------------------------


@st.composite
def uses_of_a_table(draw):
    """Ways to use a (5, 3) table, in some order."""
    return draw(
        st.lists(
            st.one_of(
                st.tuples(st.just("rows"), indices((5, 3))),
                st.tuples(st.just("rows of T"), indices((3, 5))),
                st.tuples(st.sampled_from(["x W", "x W.T", "W x", "W + 1", "W.T twice"])),
            ),
            min_size=1,
            max_size=6,
        )
    )


X5, X3 = np.random.default_rng(1).standard_normal((2, 4, 5)), np.ones((4, 3)) / 3


@given(uses_of_a_table(), st.booleans())
def test_a_table_used_in_many_ways_gets_the_sum_of_its_gradients(uses, create_graph):
    # Tied embedding: rows and outer products, and transposes of both.
    w = tg.tensor(np.random.default_rng(0).standard_normal((5, 3)), requires_grad=True)
    turned = w.T

    def use(kind, index=None):
        return {
            "rows": lambda: w[index],
            "rows of T": lambda: turned[index],
            "x W": lambda: X5 @ w,
            "x W.T": lambda: X3 @ w.T,
            "W x": lambda: w @ X3.T,
            "W + 1": lambda: w + 1.0,
            "W.T twice": lambda: (X3 @ turned) * (X3 @ turned),
        }[kind]()

    losses = [tg.sum(tg.sin(use(*one))) for one in uses]
    separate = sum(tg.grad(loss, w, retain_graph=True).array for loss in losses)
    together = tg.grad(sum(losses), w, create_graph=create_graph)
    np.testing.assert_allclose(together.array, separate, atol=1e-12)


def test_a_tied_embedding_in_closed_form():
    w = tg.tensor(np.random.default_rng(0).standard_normal((5, 3)), requires_grad=True)
    ids = np.array([1, 1, 4])
    h = tg.embedding(ids, w)  # rows
    tg.sum(h @ w.T).backward()  # outer products, transposed
    expected = np.ones((5, 1)) * w.array[ids].sum(0)
    np.add.at(expected, ids, np.ones((3, 1)) * w.array.sum(0))
    np.testing.assert_allclose(w.grad.array, expected)


# ---- scatter-add --------------------------------------------------------------------------------


@st.composite
def scatters(draw):
    """A target of whole numbers, an index, and values of whole numbers: sums are exact."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    if draw(st.booleans()):
        shape = (draw(st.sampled_from([127, 128, 200, 256, 300])), *shape[1:])
    index = draw(indices(shape))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from(DTYPES))
    out = rng.integers(-9, 9, shape).astype(dtype)
    values = rng.integers(-9, 9, out[index].shape).astype(dtype)
    if values.ndim and draw(st.booleans()):
        values = values[..., :1]  # to be broadcast
    return out, index, values


@given(scatters())
def test_scatter_add_is_numpys_add_at(scatter):
    out, index, values = scatter
    expected, ours, before = out.copy(), out.copy(), values.copy()
    np.add.at(expected, index, values)
    Backend().scatter_add(ours, index, values)
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("index", [[0, 0], ([0, 0], [1, 1]), range(-1, 3)], ids=str)
def test_an_index_written_as_any_sequence_counts_repeats(index):
    # NumPy takes lists, and ranges too: range(-1, 3) names entry 2 of 3 twice.
    x = tg.tensor(np.ones((3, 3)), requires_grad=True)
    tg.sum(x[index]).backward()
    expected = np.zeros((3, 3))
    np.add.at(expected, index, 1.0)
    np.testing.assert_array_equal(x.grad.array, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int64, np.uint64])
@pytest.mark.parametrize("size", [100, 127, 128, 255, 256, 300])
def test_ids_of_any_integer_dtype(dtype, size):
    # Bytes of a text as ids into a table of 256 rows, for one.
    rng = np.random.default_rng(0)
    ids = rng.integers(0, min(size, np.iinfo(dtype).max + 1), 50).astype(dtype)
    w = tg.tensor(rng.standard_normal((size, 2)), requires_grad=True)
    tg.sum(tg.embedding(ids, w)).backward()
    counts = np.bincount(ids.astype(int), minlength=size)
    np.testing.assert_array_equal(w.grad.array, np.stack([counts, counts], 1))
    logits = tg.tensor(rng.standard_normal((50, size)), requires_grad=True)
    tg.cross_entropy(logits, ids).backward()
    picked = logits.grad.array[np.arange(50), ids.astype(int)]
    assert (picked < 0).all()
