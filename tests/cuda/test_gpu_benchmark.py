"""benchmarks.gpu: what disagrees is not timed, what fails is told, and the page has what was taken.

It asks CuPy for its pool and its device, which the simulator does not have.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_rnn as tg
from benchmarks import _gpu_report, _ours, _programs, _results, gpu
from benchmarks._gpu_systems import Ours, unequal
from benchmarks._results import Row
from tinygrad_rnn import backend


@pytest.fixture
def device(tier, monkeypatch):
    """A device that CuPy has, or has on host memory, whose name nobody can tell."""
    if tier.name == "simulator":
        pytest.skip("benchmarks.gpu needs CuPy itself: --tier host")
    monkeypatch.setattr(_programs, "SAMPLE", 0.01)
    if tier.name == "host":
        monkeypatch.setattr(gpu, "card", lambda cupy: "host memory")


def quick(*only):
    return gpu.main(["--quick", "--only", *only])


def test_a_case_is_measured_and_told_and_nothing_is_written(device, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(_results, "FOLDER", tmp_path)
    monkeypatch.setattr(_gpu_report, "PAGE", tmp_path / "GPU.md")
    assert quick("layers: RNN") == 0
    said = capsys.readouterr().out
    for name in ("tinygrad_rnn: ", "tinygrad_rnn, CPU: "):
        assert f"\n  {name}" in said
    assert "| `layers: RNN T=5 B=3 D=8 H=8` |" in said
    assert "agree to 0.001 of the largest in all 528 entries" in said
    assert not list(tmp_path.iterdir())


def test_a_whole_run_leaves_samples_and_the_page(device, monkeypatch, tmp_path):
    sizes = {"rule": "SGD", "D": 3, "H": 3, "V": 5, "layers": 1}
    monkeypatch.setattr(gpu, "CASES", {"optimizers": [sizes]})
    monkeypatch.setattr(_results, "FOLDER", tmp_path)
    monkeypatch.setattr(_gpu_report, "PAGE", tmp_path / "GPU.md")
    assert gpu.main(["--rounds", "2"]) == 0
    found = _results.Results(_results.read("optimizers", tmp_path / "gpu"))
    (case,) = found.cases
    assert len(found.samples(case, "tinygrad_rnn", "ms")) == 2
    assert len(found.ratios(case, "tinygrad_rnn, CPU")) == 2
    assert case in (tmp_path / "GPU.md").read_text(encoding="utf-8")


def test_what_disagrees_is_refused_by_name_and_the_next_case_is_measured(
    device, capsys, monkeypatch
):
    right = Ours.arrays

    def arrays(self, program):
        found = right(self, program)
        if self.device == "cuda" and isinstance(program, _ours.Layer):
            found["d x"] = found["d x"] * 1.01
        return found

    monkeypatch.setattr(Ours, "arrays", arrays)
    rnn, sgd = {"cell": "RNN", "T": 2, "B": 2, "D": 3, "H": 3}, {"rule": "SGD"}
    sgd |= {"D": 3, "H": 3, "V": 5, "layers": 1}
    monkeypatch.setattr(gpu, "CASES", {"layers": [rnn], "optimizers": [sgd]})
    assert quick("") == 1
    out, err = capsys.readouterr()
    assert "layers: RNN T=5 B=3 D=8 H=8 failed: AssertionError: tinygrad_rnn" in out
    assert "d x differs by" in out
    assert "\noptimizers: SGD" in out and "## layers" not in out
    assert err.startswith("failed: layers: RNN")
    monkeypatch.setattr(gpu, "CASES", {"layers": [rnn]})
    assert quick("") == 1  # and where no case was measured there is no page


def test_a_program_that_stays_on_the_host_is_not_measured_as_one_on_a_device(device, monkeypatch):
    monkeypatch.setattr(tg, "use_device", lambda device: gpu.Torch.running(None))
    with pytest.raises(AssertionError, match="x is on cpu"):
        Ours("cuda").made("_ours", "Chain", {"kind": "tanh", "side": 2})


def test_without_a_device_there_is_one_clear_error(capsys, monkeypatch):
    def none():
        raise tg.DeviceError("device 'cuda' cannot be used: no CUDA device\n  hint: stay here")

    monkeypatch.setattr(backend, "_cupy", none)
    assert gpu.main([]) == 1
    out, err = capsys.readouterr()
    assert (
        not out
        and err == "error: device 'cuda' cannot be used: no CUDA device\n  hint: stay here\n"
    )


@given(st.integers(0, 5), st.sampled_from([1.1, -1.0, np.nan]), st.booleans())
def test_one_entry_that_differs_is_found_in_weights_however_they_lie(entry, factor, turned):
    right = np.arange(1.0, 7.0).reshape(2, 3)
    wrong = right.copy()
    wrong.ravel()[entry] *= factor
    same, other = ({"w": x.T.copy() if turned else x} for x in (right, wrong))
    assert unequal(same, {"w": right}, 1e-3) is None
    assert unequal(other, {"w": right}, 1e-3).startswith("w differs")


def test_the_page_says_where_a_gpu_pays_worst_first_and_what_was_counted(tmp_path):
    rows = []
    for case, ours, cpu in (("RNN T=1", 1.0, 4.0), ("RNN T=2", 6.0, 2.0)):
        rows += [Row(case, "tinygrad_rnn", "ms", "0", str(ours))]
        rows += [Row(case, "tinygrad_rnn, CPU", "ms", "0", str(cpu))]
        rows += [Row(case, "tinygrad_rnn", "kernels", "0", "17")]
        rows += [Row(case, "PyTorch", "not counted", "", "no profiler")]
    _results.replace("layers", rows, tmp_path)
    _gpu_report.write(tmp_path, tmp_path / "GPU.md", ["layers", "loops"])
    page = (tmp_path / "GPU.md").read_text(encoding="utf-8")
    pays = page.partition("begins to pay")[2].partition("## layers")[0]
    assert pays.index("| 3.00 |") < pays.index("| 0.25 |")
    assert "| `RNN T=1` | tinygrad_rnn | 1 | 1.00 | 17 | - | - |" in page
    assert "PyTorch is not counted: no profiler" in page and "## loops" not in page
