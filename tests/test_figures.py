"""The figures that can be counted rather than timed; and every benchmark runs."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks import _timing, bptt, count, memory, through_time, watching
from tinygrad_rnn.products import _matmul

pytestmark = pytest.mark.unwatched  # which costs time, memory and products of its own

# ---- the work of backpropagation through time ---------------------------------------------------


@st.composite
def batch_and_sides(draw):
    """B, D, H, all different, so that only a weight's gradient has the shape of the weight."""
    D, H = draw(st.lists(st.integers(1, 40), min_size=2, max_size=2, unique=True))
    return draw(st.integers(1, 300).filter(lambda B: B not in (D, H))), D, H


def products_for_weights(use, T, B, D, H):
    """How many matrix products the gradient of W took, and how many that of U."""
    products = bptt.backward_work(use, T, B, D, H).products
    return products[bptt.weight_shape(use, D, H)], products[H, H]


@pytest.mark.parametrize("use", bptt.USES)
@pytest.mark.parametrize("sides", [(32, 16, 24), (1, 5, 7), (7, 3, 40), (64, 24, 8)])
def test_work_is_linear_in_the_number_of_steps(use, sides):
    lengths = [50, 100, 200, 400]
    works = [bptt.backward_work(use, T, *sides) for T in lengths]
    per_step = [work.entries / T for work, T in zip(works, lengths, strict=True)]
    assert max(per_step) < 1.05 * min(per_step)
    assert [work.scatters for work in works] == lengths


def test_counting_would_show_quadratic_work():
    with bptt.slices_written_out():
        short, long = [bptt.backward_work("h @ U", T, 32, 16, 24).entries for T in (50, 200)]
    assert long > 12 * short


@pytest.mark.parametrize("use", ["h @ U", "h @ U.T"])  # U @ h of middling size: a product a step
@given(st.integers(1, 40), batch_and_sides())
@example(1, (1, 2, 3))
@example(40, (255, 2, 3))
@example(40, (256, 2, 3))
@example(40, (257, 2, 3))
def test_a_weight_takes_few_products_however_often_it_is_used(use, T, sides):
    found = products_for_weights(use, T, *sides)
    assert min(found) >= 1  # so the count does see them
    assert max(found) <= bptt.bound(T, sides[0])


def test_counting_would_show_a_product_for_each_step(monkeypatch):
    rule = _matmul.operation.rules[1][1]
    monkeypatch.setattr(rule, "vjp", lambda g, a, b_shape: a.T @ g)
    assert products_for_weights("h @ U", 50, 32, 16, 24) == (50, 50)


# ---- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("T", "B", "D", "H"), [(64, 32, 128, 128), (64, 256, 16, 16), (640, 256, 16, 16)]
)
def test_the_peak_of_a_step_is_little_more_than_what_the_vjps_name(T, B, D, H):
    use = memory.memory_of_step(T, B, D, H)
    assert 1 <= use["kept for the way back"] <= use["peak of the step"] <= memory.TARGET


def test_the_arrays_kept_are_those_that_the_vjps_name():
    arrays, _ = memory.kept_by_kind(64, 32, 128, 128)
    assert 0.98 < arrays <= 1.001


# ---- lines --------------------------------------------------------------------------------------

SOURCE = '''\
"""A docstring

of two lines."""

import sys  # a comment beside code

# a comment alone

TEXT = """no docstring

"""
FIELD = 1
"""What FIELD is."""


def f(
    x,
):
    """One line."""
    return x
'''


def test_code_and_docstrings_count_but_not_blanks_and_comments():
    assert count.count(SOURCE) == count.Lines(code=8, docstrings=4)
    assert count.count("\n# a comment\n") == count.Lines(0, 0)


def test_the_order_of_import_starts_with_what_needs_nothing():
    order = count.import_order()
    assert order[0] == "tinygrad_rnn.place"
    assert order[-1] == "tinygrad_rnn"


# ---- the benchmarks themselves ------------------------------------------------------------------


def test_rounds_go_back_and_forth_and_the_first_does_not_count():
    calls = []
    samplers = {name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}
    times = _timing.interleaved(samplers, 2)
    assert "".join(calls) == "cba" + "abc" + "cba"
    assert {name: list(ms) for name, ms in times.items()} == {"a": [4, 9], "b": [5, 8], "c": [6, 7]}


def test_spread_names_the_median_and_the_quartiles():
    assert _timing.spread(np.arange(5.0)) == "2.00 [1.00-3.00]"


@pytest.mark.parametrize("module", [count, bptt, memory, through_time, watching])
def test_every_count_runs_and_says_what_it_counted(module, monkeypatch, capsys):
    for where, name, value in [
        (bptt, "LENGTHS", [3]),
        (memory, "LENGTHS", [3]),
        (through_time, "STEPS", 50),
        (through_time, "WARM", 20),
        (through_time, "LENGTHS", [5]),
        (through_time, "ROUNDS", 1),
        (watching, "ROUNDS", 1),
    ]:
        monkeypatch.setattr(where, name, value)
    module.main()
    assert f"{module.__name__.rpartition('.')[2]}: " in capsys.readouterr().out
