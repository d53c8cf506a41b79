"""Laws of doing the same again: in another process, with other hashes, with more BLAS threads."""

import pytest

from demos import __main__ as demos
from tests import again

QUICK = ["bptt_by_hand", "char_lm", "design_patterns"]


@pytest.fixture(scope="module")
def by_threads(tmp_path_factory):
    """What a training program finds with one BLAS thread, and with two."""
    folder = tmp_path_factory.mktemp("blas")
    return [again.with_blas_threads(n, folder / f"{n}.npz") for n in (1, 2)]


def test_results_do_not_depend_on_the_number_of_blas_threads(by_threads):
    for what, (difference, bound) in again.differences(*by_threads).items():
        assert difference < bound, what


def test_a_term_that_is_lost_is_more_than_the_bound(by_threads):
    one, _ = by_threads
    g = one["float64.gradient.wide.weight"]
    rows = (again.T + 15) * again.B  # of which the gradient is a sum, so one is about g / rows
    spoilt = one | {"float64.gradient.wide.weight": g * (1 + 1 / rows)}
    difference, bound = again.differences(one, spoilt)["float64", "gradient"]
    assert difference > 1e6 * bound


@pytest.mark.parametrize("name", QUICK)
def test_a_demo_leaves_the_same_bytes_again(name, tmp_path):
    files, count = again.unlike(name, tmp_path)
    assert files == [] and count > 0


def test_every_demo_has_its_turn_in_the_long_run():
    assert set(QUICK) | again.WITHOUT_FLAGS <= set(demos.MINUTES)


def test_a_byte_that_differs_is_found(tmp_path, monkeypatch):
    left = {1: {"a.csv": b"1", "b.csv": b"2"}, 2: {"a.csv": b"1", "b.csv": b"3", "c.png": b""}}
    monkeypatch.setattr(again, "left_by", lambda name, folder, i: left[i])
    assert again.unlike("demo", tmp_path) == (["b.csv", "c.png"], 2)


def test_only_what_a_clock_measures_may_differ(tmp_path):
    def of(name, text):
        (tmp_path / name).write_text(text)
        return again.repeatable(tmp_path / name)

    assert of("metrics.jsonl", '{"loss": 1.5, "seconds": 2}') == [{"loss": 1.5}]
    assert of("loss.csv", "step,loss\n1,2\n") != of("loss.csv", "step,loss\n1,3\n")
    assert of("speed.csv", "T,ms\n1,2\n") == of("speed.csv", "T,ms\n1,3\n")
