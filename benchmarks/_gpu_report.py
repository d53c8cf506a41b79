"""GPU.md, made from the samples alone: no figure in it is typed."""

from pathlib import Path

import numpy as np

from benchmarks import _suite
from benchmarks._report import figure, ratio, table
from benchmarks._results import OURS, Results, read

PAGE = Path(__file__).with_name("GPU.md")
CPU = f"{OURS}, CPU"
TORCH = "PyTorch"

HEAD = """\
# What tinygrad_rnn costs on a GPU

`python -m benchmarks.gpu` measures and writes this page; every figure is computed from the samples
in `results/gpu/`. All systems of a case are in one process. They first agree, entry by entry, in
losses, gradients and parameters after a step; then they take turns, every other round backwards, a
sample of at least 0.15 s each, the device waited for before the clock is read. A ratio is ours /
this system within a round: below 1 is faster. Shown is the median over the rounds and, in brackets,
the quartiles. Float32, and TF32 is off.

Kernels, and copies between host and device, are those of one training step, as the driver (CUPTI)
told them to PyTorch's profiler. MiB are of the device: the most that a step takes beyond what is
held before it.
"""


def write(folder, page, names):
    """Write the page from what has been measured so far of the workloads of these names."""
    results = {name: Results(read(name, folder)) for name in names}
    results = {name: found for name, found in results.items() if found.cases}
    parts = [HEAD, ran_on(results), where_it_pays(results)]
    for name, found in results.items():
        doc = _suite.workload(name).__doc__.strip()
        parts.append(f"## {name}\n\n{doc}\n\n{systems(found)}\n{notes(found)}")
    page.write_text("\n".join(parts), encoding="utf-8")


def ran_on(results):
    """What was measured on what, and when: a line for each system and set of versions."""
    lines = {}
    for found in results.values():
        for case in found.cases:
            day = found.text(case, "", "measured")
            for system in (OURS, TORCH, CPU):
                lines[f"- {system}: {found.text(case, system, 'runs on')}; {day}"] = None
    return "\n".join([*lines, ""])


def where_it_pays(results):
    """Our time on the GPU / our time on the processor, of all cases, the worst first."""
    rows = []
    for name, found in results.items():
        for case in found.cases:
            ratios = found.ratios(case, CPU)
            if len(ratios):
                ms = [figure(np.median(found.samples(case, s, "ms"))) for s in (OURS, CPU)]
                rows.append((np.median(ratios), [f"`{name}: {case}`", *ms, ratio(ratios)]))
    rows.sort(key=lambda row: -row[0])
    head = ["", "GPU, ms", "processor, ms", "GPU / processor"]
    return "## Where a GPU begins to pay\n\n" + table(head, [row for _, row in rows])


def systems(found):
    """A row for each system of each case."""
    rows = []
    for case in found.cases:
        for name in found.systems:
            ms = found.samples(case, name, "ms")
            if len(ms):
                own = OURS + name.removeprefix(TORCH) if name.startswith(TORCH) else OURS
                ratios = found.ratios(case, name, ours=own if own in found.systems else OURS)
                more = [found.samples(case, name, q) for q in ("kernels", "copies", "MiB")]
                first = "" if rows and rows[-1][-1] == case else f"`{case}`"
                cells = [figure(x[0]) if len(x) else "-" for x in more]
                rows.append([first, name, figure(np.median(ms)), ratio(ratios), *cells, case])
    head = ["", "", "ms", "ours / this", "kernels", "copies", "MiB"]
    return table(head, [row[:-1] for row in rows])


def notes(found):
    """What was skipped and why, and in what all agreed."""
    lines = {}
    for case in found.cases:
        for name in found.systems:
            for what in ("skipped", "not counted"):
                if reason := found.text(case, name, what):
                    lines[f"- {name} is {what}: {reason}"] = None
        lines[f"- `{case}`: {found.text(case, '', 'agreed')}"] = None
    return "\n".join([*lines, ""])
