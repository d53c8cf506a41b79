"""`python -m benchmarks.gpu`: the workloads on a GPU, beside PyTorch's CUDA and our own processor.

The programs are those of the other benchmarks, made on a device: tinygrad_rnn through CuPy, PyTorch
with cuDNN's layers, tinygrad_rnn through NumPy on the same machine.  Products are true float32 in
all of them: TF32 is off.  A case is not timed unless all programs agree in it: losses, gradients,
parameters after a step.  What fails is told, and the next case is measured.
"""

import argparse
import os
import platform
import re
import sys
import time
from datetime import date
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

os.environ["CUPY_TF32"] = "0"  # before CuPy is imported, which reads it

import numpy as np

from benchmarks import _gpu_report, _processes, _results, _suite
from benchmarks._gpu_report import CPU, TORCH
from benchmarks._gpu_systems import Ours, Torch, unequal
from benchmarks._results import OURS, Row, label
from benchmarks._timing import blas_threads, interleaved
from benchmarks.layers import case
from tinygrad_rnn import DeviceError

TOLERANCE = 1e-3  # of the largest entry of an array; the rounding of float32 is a hundredth of it
LONGEST = 5.0  # seconds for the rounds of a case, of which there are fewer if they take longer
LONGEST_TRACE = (
    500.0  # milliseconds of a step whose kernels are counted: each has a line in a trace
)
LEFT_OUT = ("PyTorch, a call and a loss a node",)  # takes a quarter of a minute for a step

CASES = {
    "layers": [
        *[case("LSTM", 64, 32, H, H) for H in (64, 128, 256, 512, 1024, 2048)],
        *[case("LSTM", 64, B, 256, 256) for B in (1, 256)],
        case("LSTM", 40, 32, 256, 256, layers=2, bidirectional=True),
        *[case(cell, 64, 32, 256, 256) for cell in ("GRU", "RNN")],
    ],
    "loops": [{"cell": "LSTM", "T": 64, "B": 32, "D": H, "H": H} for H in (128, 512)],
    "tagging": [{"D": H, "H": H, "sentences": n} for H, n in ((128, 32), (256, 256))],
    "language_model": [
        {"T": 35, "B": 20, "D": H, "H": H, "V": 10_000, "layers": layers}
        for H, layers in ((200, 2), (650, 2), (1500, 2))
    ],
    "translation": [{"S": 20, "T": 20, "B": 32, "D": 256, "H": 256, "V": 4000}],
    "optimizers": [
        {"rule": rule, "D": H, "H": H, "V": 10_000, "layers": 2}
        for rule, H in (("SGD", 200), ("Adam", 200), ("Adam", 1500))
    ],
    "operations": [
        {"kind": kind, "side": side}
        for kind, side in (("tanh", 32), ("mixed", 32), ("mixed", 1024), ("matmul", 1024))
    ],
    "recursive": [
        {"net": "Tree-LSTM", "trees": 25, "D": 300, "H": 150},
        {"net": "RNTN", "trees": 25, "D": 30, "H": 30},
        {"net": "Tree-LSTM", "nodes": 1001, "D": 64, "H": 64},
    ],
}


def main(argv=None):
    """The exit code: 1 if there is no device, or if a case failed."""
    args = parser().parse_args(argv)
    try:
        systems, missing = started()
    except DeviceError as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 1
    about = {name: machine(system) for name, system in systems.items()}
    for name, text in {**about, **missing}.items():
        print(f"{name}: {text}", flush=True)
    with TemporaryDirectory() as scratch:
        folder, page = (
            (Path(scratch), Path(scratch, "GPU.md"))
            if args.quick
            else (_results.FOLDER / "gpu", _gpu_report.PAGE)
        )
        failed = measure(systems, about | missing, args, folder, page)
        if page.exists():  # a case at least was measured
            print(page.read_text(encoding="utf-8") if args.quick else f"written: {page}")
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return int(bool(failed))


def parser():
    """The command line."""
    p = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    p.formatter_class = argparse.RawDescriptionHelpFormatter
    p.add_argument("--rounds", type=int, default=6, help="samples of each system at most, 6")
    p.add_argument("--only", default="", metavar="TEXT", help="cases whose names contain it")
    p.add_argument("--quick", action="store_true", help="small sizes, nothing is written")
    return p


def started():
    """The systems by name, and why one is missing; DeviceError if there is no GPU."""
    systems, missing = {OURS: Ours("cuda")}, {}
    try:
        systems[TORCH] = Torch("cuda")
    except (ImportError, RuntimeError, AssertionError) as error:
        missing[TORCH] = f"is left out: {error}"
    return systems | {CPU: Ours("cpu")}, missing


def measure(systems, about, args, folder, page):
    """Measure every case that is asked for; the cases that failed.

    As soon as one is done its samples are kept, and the page is written.
    """
    failed = []
    for name, cases in CASES.items():
        workload = _suite.workload(name)
        for sizes in small(workload, cases) if args.quick else cases:
            what = f"{name}: {label(sizes)}"
            if args.only not in what:
                continue
            begun = time.monotonic()
            try:
                rows = measured(workload, sizes, systems, 1 if args.quick else args.rounds)
            except Exception as error:  # whatever it is: the other cases are to be measured
                print(f"{what} failed: {type(error).__name__}: {error}", flush=True)
                failed.append(what)
                continue
            rows += [
                Row(label(sizes), system, "runs on", "", text) for system, text in about.items()
            ]
            _results.replace(name, rows, folder)
            _gpu_report.write(folder, page, CASES)
            print(f"{what} ({time.monotonic() - begun:.0f} s)")
            print(said(_results.Results(rows), label(sizes)), flush=True)
    return failed


def small(workload, cases):
    """The small sizes of the cases, each once."""
    found = [{n: workload.SMALL.get(n, x) for n, x in sizes.items()} for sizes in cases]
    return [sizes for n, sizes in enumerate(found) if sizes not in found[:n]]


def programs_of(workload, systems):
    """(name, system, module, class, settings) of the programs of a workload that can run."""
    for name, (module, kind, *settings) in workload.SYSTEMS.items():
        owner = OURS if name.startswith(OURS) else name.partition(",")[0]
        if owner in systems and name not in LEFT_OUT:
            yield name, systems[owner], module, kind, *settings
            if name == OURS:
                yield CPU, systems[CPU], module, kind, *settings


def measured(workload, sizes, systems, rounds):
    """The rows of one case: the programs agree, take turns, and show kernels and memory."""
    programs, rows = {}, []

    def add(system, quantity, value, number=""):
        rows.append(Row(label(sizes), system, quantity, str(number), str(value)))

    for name, system, module, kind, *settings in programs_of(workload, systems):
        try:
            programs[name] = system, system.made(module, kind, sizes | dict(*settings))
        except NotImplementedError as error:
            add(name, "skipped", error)
    add("", "agreed", agreed(programs))
    samplers = {name: sampler(*pair) for name, pair in programs.items()}
    taken = {name: [sample()] for name, sample in samplers.items()}
    seconds = sum(
        taken[name][0]["ms"] * x.units * x.count / 1e3 for name, (_, x) in programs.items()
    )
    if rounds > 1:
        taken = interleaved(samplers, max(1, min(rounds, int(LONGEST / seconds) - 1)))
    add("", "measured", f"{date.today()}")
    for name, samples in taken.items():
        for n, sample in enumerate(samples):
            add(name, "ms", f"{sample['ms']:.6g}", n)
    for name, (system, program) in programs.items():
        if system.device == "cuda":
            add(name, "MiB", f"{system.peak(program):.2f}", 0)
            if program.units * taken[name][-1]["ms"] > LONGEST_TRACE:
                continue
            try:
                for quantity, count in system.launches(program).items():
                    add(name, quantity, f"{count:g}", 0)
            except Exception as error:  # the times are worth keeping without
                add(name, "not counted", error)
    return rows


def agreed(programs):
    """In what all programs agree, as text; AssertionError, which says where, if they do not."""
    checks, arrays = {}, {}
    for name, (system, program) in programs.items():
        with system.running():
            checks[name], arrays[name] = program.checks(), system.arrays(program)
    figures = _processes.compared(checks, _suite.TOLERANCE)
    others = [name for name in programs if not name.startswith(OURS)] or [CPU]
    for name in programs:
        wrong = unequal(arrays[name], arrays[others[0]], TOLERANCE)
        assert not wrong, f"{name}, beside {others[0]}: {wrong}"
    own = arrays[OURS]
    scalars = [name for name in figures if name not in own and "|" not in name]
    what = f"all {sum(x.size for x in own.values()):,} entries of gradients and parameters"
    more = f", and to {_suite.TOLERANCE} in {', '.join(scalars)}" * bool(scalars)
    return f"{len(programs)} programs agree to {TOLERANCE} of the largest in {what}{more}"


def sampler(system, program):
    """A function that takes a sample of the program."""

    def sample():
        with system.running():
            return program.sample()

    return sample


def said(found, case):
    """The figures of a case as text: a line for each system."""
    lines = []
    for name in filter(None, found.systems):
        ms, reason = found.samples(case, name, "ms"), found.text(case, name, "skipped")
        if len(ms):
            ratios = _gpu_report.ratio(found.ratios(case, name))
            more = [f"{found.text(case, name, q)} {q}" for q in ("kernels", "copies", "MiB")]
            more = ", ".join(text for text in more if not text.startswith("None"))
            lines.append(f"  {name}: {median(ms):.4g} ms; ours / this {ratios}; {more}")
        elif reason:
            lines.append(f"  {name} is skipped: {reason}")
    return "\n".join(lines)


def machine(system):
    """What a system runs on, as text."""
    if isinstance(system, Torch):
        torch = system.torch
        cudnn = torch.backends.cudnn.version()
        return f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}, TF32 off"
    python = f"Python {platform.python_version()}, NumPy {np.__version__}"
    if system.device == "cpu":
        return f"{python}, {os.cpu_count()} cores, {blas_threads()}"
    cupy = system.backend.cupy
    version = cupy.cuda.runtime.runtimeGetVersion()
    return f"{card(cupy)}; CuPy {cupy.__version__}, CUDA {version}, TF32 off; {python}"


def card(cupy):
    """The name of the GPU and the version of its driver, as text."""
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    about = Path("/proc/driver/nvidia/version")
    driver = re.search(r"\d+\.\d+\.\d+|$", about.read_text() if about.exists() else "")[0]
    return f"{name}, driver {driver or 'unknown'}"


if __name__ == "__main__":
    raise SystemExit(main())
