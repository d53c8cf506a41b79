"""The benchmarks: all programs compute the same, and the page is made of the samples alone."""

import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as command
from benchmarks import (
    _cells,
    _data,
    _numpy,
    _ours,
    _processes,
    _programs,
    _report,
    _results,
    _sentences,
    _suite,
)
from benchmarks import _recursive_ours as recursive
from benchmarks._programs import Program
from benchmarks._results import Results, Row
from benchmarks._targets import TARGETS

pytestmark = pytest.mark.unwatched  # which costs time, and is not what is timed

# ---- programs -----------------------------------------------------------------------------------


def checks_of(name, system, sizes):
    """The checks of a workload's program, or a skip."""
    module, kind, sizes = _suite.programs_of(_suite.workload(name), sizes)[system]
    program, reason = _processes.made(module, kind, sizes)
    if reason:
        pytest.skip(reason)
    return program.checks()


def small_cases():
    """(workload, sizes) of all that compute something, and in which PyTorch takes part."""
    for name in _suite.WORKLOADS:
        workload = _suite.workload(name)
        if "tinygrad_rnn" in workload.SYSTEMS and name != "import_time":
            for sizes in _suite.cases_of(workload, quick=True):
                yield pytest.param(name, sizes, id=f"{name} {_results.label(sizes)}")


@pytest.mark.torch
@pytest.mark.parametrize(("name", "sizes"), list(small_cases()))
def test_pytorch_computes_the_same(name, sizes):
    pytest.importorskip("torch")
    peers = [peer for peer in _suite.workload(name).SYSTEMS if peer.startswith("PyTorch")]
    found = {peer: checks_of(name, peer, sizes) for peer in ["tinygrad_rnn", *peers[:1]]}
    assert _processes.compared(found, _suite.TOLERANCE)


@pytest.mark.parametrize("kind", _cells.LINKS)
def test_chains_have_the_gradients_by_hand(kind):
    found = {"ours": _ours.Chain(kind, 4).checks(), "by hand": _numpy.Chain(kind, 4).checks()}
    assert "|d x|" in _processes.compared(found, 1e-4)


def test_a_layer_is_the_loop_over_its_cell():
    """The two programs have one formula: with equal weights, they have one last state."""
    T, B, D, H = 4, 3, 5, 6
    layer = _ours.Layer("LSTM", T, B, D, H)
    W, U, b = (getattr(layer.layer, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih"))
    b = b.array + layer.layer.bias_hh_l0.array
    zeros = np.zeros((B, H), np.float32)
    xs = layer.x.array
    last = _cells.last_state(_ours.OPS, "LSTM", xs, zeros, W.array.T, U.array.T, b)
    np.testing.assert_allclose(layer.loss(None).array[-1], last, atol=1e-6)


@pytest.mark.parametrize("net", ["Tree-LSTM", "RNTN"])
def test_recursion_fold_and_plain_operations_agree(net):
    kinds = [recursive.Deferred, recursive.Fold, *[recursive.Plain] * (net == "Tree-LSTM")]
    found = {kind.__name__: kind(net, D=6, H=6, nodes=21).checks() for kind in kinds}
    assert "|d U|" in _processes.compared(found, 1e-4)


@pytest.mark.parametrize("rule", _data.RULES)
def test_every_optimiser_moves_the_parameters(rule):
    program = _ours.Optimizer(rule, D=3, H=4, V=5, layers=1)
    before = program.parameters["E"].numpy()
    program.step(0)
    assert np.abs(program.parameters["E"].numpy() - before).min() > 0


def test_what_others_took_is_what_no_program_here_did(monkeypatch):
    """Of 5 s on two cores, which were busy for 10 s, this process took 1 and the worker 6."""

    class Worker:
        seconds = iter([2.0, 8.0])

        def ask(self, method):
            return next(self.seconds)

    clock = {"monotonic": iter([100.0, 105.0]), "process_time": iter([1.0, 2.0])}
    clock = SimpleNamespace(**{name: partial(next, values) for name, values in clock.items()})
    monkeypatch.setattr(_processes, "time", clock)
    monkeypatch.setattr(_processes, "busy", partial(next, iter([10.0, 20.0])))
    monkeypatch.setattr(_processes.os, "cpu_count", lambda: 2)
    with _processes.watched({"a": Worker()}) as others:
        pass
    assert others() == pytest.approx(0.3)


def test_a_figure_in_which_programs_differ_is_told_with_both():
    with pytest.raises(AssertionError, match=r"the loss: b has 2\.0, a has 1\.0"):
        _processes.compared({"a": {"the loss": 1.0}, "b": {"the loss": 2.0}}, 0.1)


@given(st.integers(1, 5_000))
def test_a_sample_is_the_time_of_one_unit(steps):
    """However many steps are in a sample, each of 1 s: the clock is the test's."""

    class Clocked(Program):
        units, count = 4, steps

        def seconds(self, count):
            return 1.0 * count

    assert Clocked().sample() == {"ms": pytest.approx(250.0)}


def test_the_clock_is_read_when_all_is_done_that_was_asked_for(monkeypatch):
    """A device works later: each step takes it a second, and 5 were asked for before."""

    class Queued(Program):
        now, queued = 0.0, 5.0

        def step(self, n):
            self.queued += 1.0

        def wait(self):
            self.now, self.queued = self.now + self.queued, 0.0

    program = Queued()
    monkeypatch.setattr(_programs, "time", SimpleNamespace(perf_counter=lambda: program.now))
    assert program.seconds(3) == 3.0


def test_what_was_a_module_may_be_a_package_in_a_later_python(monkeypatch):
    monkeypatch.setattr(_sentences, "MODULES", "json")
    assert sum(1 for _ in _sentences.standard_library()) > 20


def test_the_command_measures_and_writes(capsys):
    command.main(["products", "--quick", "--threads", "1"])
    said = capsys.readouterr().out
    assert "products: n=16 threads=1" in said
    assert re.search(r"NumPy: [\d.e-]+ ms", said)


def test_a_case_that_fails_is_told_and_the_others_are_measured(capsys, monkeypatch):
    def measured(workload, sizes, rounds, threads):
        if sizes["n"] == 1:
            raise AssertionError("the trace: they differ")
        return rows_of(_results.label(sizes, threads), {"NumPy": [1.0]})

    monkeypatch.setattr(_suite, "measured", measured)
    monkeypatch.setattr(_suite, "cases_of", lambda workload, quick: [{"n": 1}, {"n": 2}])
    with pytest.raises(SystemExit, match="products: n=1"):
        command.main(["products", "--quick"])
    said = capsys.readouterr().out
    assert "products: n=1 failed: the trace: they differ" in said
    assert "products: n=2 (" in said


def test_a_peer_that_fails_is_skipped_with_what_it_said_but_we_are_not():
    def worker(answer):
        def ask(method):
            if isinstance(answer, Exception):
                raise RuntimeError("failed") from answer
            return answer

        return SimpleNamespace(ask=ask)

    skipped = {}
    workers = {_results.OURS: worker({"loss": 1.0}), "peer": worker(OSError("no such file"))}
    assert _suite.checked(workers, skipped) == {_results.OURS: {"loss": 1.0}}
    assert list(workers) == [_results.OURS]
    assert skipped == {"peer": "OSError('no such file')"}
    with pytest.raises(RuntimeError):
        _suite.checked({f"{_results.OURS}, fold": worker(OSError("no such file"))}, {})


def test_an_unknown_benchmark_is_refused_by_name(capsys):
    with pytest.raises(SystemExit):
        command.main(["overheat"])
    assert "overheat" in capsys.readouterr().err


# ---- results and the page -----------------------------------------------------------------------


def rows_of(case, times):
    """Rows of a case from {system: samples}."""
    return [
        Row(case, name, "ms", str(n), str(ms))
        for name, row in times.items()
        for n, ms in enumerate(row)
    ]


positive = st.floats(0.01, 100)


@given(st.lists(st.tuples(positive, positive), min_size=1), positive)
def test_ratios_are_taken_within_a_round(pairs, factor):
    """A machine that is slower in some rounds changes no ratio."""
    ours, peer = zip(*pairs, strict=True)
    slow = [1 + n * factor for n in range(len(pairs))]
    busy = [[ms * by for ms, by in zip(row, slow, strict=True)] for row in (ours, peer)]
    quiet, loud = (
        Results(rows_of("c", {"tinygrad_rnn": a, "peer": b})).ratios("c", "peer")
        for a, b in [(ours, peer), busy]
    )
    np.testing.assert_allclose(quiet, loud)
    np.testing.assert_allclose(quiet, np.divide(ours, peer))


def test_a_case_measured_anew_replaces_its_rows_alone(tmp_path):
    for value in (1.0, 2.0):
        _results.replace("w", rows_of("a", {"x": [value]}), tmp_path)
        if value == 1.0:
            _results.replace("w", rows_of("b, with a comma", {"x": [7.0]}), tmp_path)
    found = Results(_results.read("w", tmp_path))
    assert found.samples("a", "x", "ms") == [2.0]
    assert found.samples("b, with a comma", "x", "ms") == [7.0]


@pytest.mark.parametrize(
    ("reached", "said"),
    [(0.5, "aim reached"), (0.7, "reached"), (1.0, "reached"), (1.01, "missed")],
)
def test_a_verdict_is_by_what_was_asked(reached, said):
    target = TARGETS[0]._replace(most=1.0, aim=0.6)
    assert _report.verdict(reached, target) == said


def test_every_target_is_a_case_of_its_workload():
    for target in TARGETS:
        workload = _suite.workload(target.workload)
        assert target.case in map(_results.label, workload.CASES)
        assert {target.ours, target.peer} <= set(workload.SYSTEMS)
        assert target.aim < target.most
        assert target.quantity == "ms" or {target.ours, target.peer} <= set(workload.MEMORY)


def test_every_workload_runs_or_says_why_not():
    for name in _suite.WORKLOADS:
        workload = _suite.workload(name)
        assert all(workload.SKIPPED.values())
        assert workload.__doc__


def test_a_page_has_what_was_measured_and_no_more(tmp_path):
    case = "LSTM T=64 B=32 D=256 H=256"
    rows = rows_of(case, {"tinygrad_rnn": [30, 60, 90], "PyTorch": [20, 20, 20]})
    _results.replace("layers", [*rows, Row(case, "JAX", "skipped", "", "no wheel")], tmp_path)
    _report.write(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| 3.00 [2.25-3.75] | missed |" in page
    assert "3.00 [2.25-3.75] of 20" in page
    assert "- JAX is skipped: no wheel" in page
    assert "## layers" in page
    assert "## loops" not in page
    assert page.count("not measured") == len(TARGETS) - 1


def test_what_was_measured_on_a_busy_machine_is_not_judged(tmp_path):
    target = next(target for target in TARGETS if target.quantity == "ms")
    rows = rows_of(target.case, {target.ours: [1.0], target.peer: [9.0]})
    for share, said in [("0.02", "aim reached"), ("0.3", "measure again"), ("nan", "aim reached")]:
        others = Row(target.case, "", "others", "0", share)
        _results.replace(target.workload, [*rows, others], tmp_path)
        _report.write(tmp_path, tmp_path / "page.md")
        assert f"| 0.11 | {said}" in (tmp_path / "page.md").read_text(encoding="utf-8")


@given(st.lists(st.integers(1, 1000), min_size=3, max_size=6, unique=True))
def test_a_curve_is_of_the_cases_that_differ_in_one_size(sizes):
    rows = [row for T in sizes for row in rows_of(f"LSTM T={T} B=3", {"tinygrad_rnn": [2 * T]})]
    others = rows_of("GRU T=5 B=3", {"tinygrad_rnn": [1.0]})
    x, ms = _report.curves(Results(rows + others), "T")["tinygrad_rnn"]
    assert list(x) == sorted(sizes)
    assert list(ms) == [2 * T for T in sorted(sizes)]
    assert _report.curves(Results(others), "T") is None
