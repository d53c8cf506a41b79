"""RESULTS.md and its pictures, made from the samples alone: no figure in it is typed."""

import re
from pathlib import Path

import numpy as np

from benchmarks import _suite
from benchmarks._results import FOLDER, OURS, Results, label, read
from benchmarks._targets import TARGETS
from benchmarks._timing import spread

RESULTS = Path(__file__).with_name("RESULTS.md")
ALONE = "products alone"
BUSY = 0.1  # share of the cores that other programs took, from which on nothing is judged

HEAD = """\
# What tinygrad_rnn costs, beside its peers

`make bench` measures and writes this page; `python -m benchmarks NAME` measures one workload anew
and writes the page again. Every figure is computed from the samples in `results/`.

Each system has a process of its own, pinned to as many cores as its libraries have threads. All of
them first agree in what they compute (loss, norms of gradients, loss after a step). Then they take
turns, every other round backwards, a sample of at least 0.15 s each, after a round that does not
count. A ratio is ours / peer within a round: below 1 is faster. Shown is the median over the rounds
and, in brackets, the quartiles.

Programs with two threads, which wait for each other, are held up by whatever else runs: the last
column says which share of the cores other programs took meanwhile. Above 10 % no figure is judged.

Peak memory is what Linux counts (VmHWM): in a fresh process that has already run the same program
in small, and that holds the parameters and the data but has given back what was free, the most that
three steps add.
"""


def write(folder=FOLDER, page=RESULTS):
    """Write the page and the pictures from what has been measured so far."""
    results = {name: Results(read(name, folder)) for name in _suite.WORKLOADS}
    results = {name: found for name, found in results.items() if found.cases}
    parts = [HEAD, targets(results)]
    for name, found in results.items():
        parts.append(section(name, _suite.workload(name), found, picture(name, found, folder)))
    page.write_text("\n".join(parts), encoding="utf-8")


# ---- figures as text ---------------------------------------------------------------------------


def table(head, rows):
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def figure(value):
    """A number in three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio(ratios):
    """The median of ratios, with quartiles where there are several; a dash if there are none."""
    if not len(ratios):
        return "-"
    return f"{ratios[0]:.2f}" if len(ratios) == 1 else spread(ratios, "{:.2f}")


def verdict(reached, target):
    """Whether a ratio is what was hoped for, at least what was asked, or neither."""
    if reached <= target.aim:
        return "aim reached"
    return "reached" if reached <= target.most else "missed"


# ---- parts of the page -------------------------------------------------------------------------


def targets(results):
    """The table of the figures to reach, beside what was."""
    rows = []
    for target in TARGETS:
        row = [target.what, f"`{target.case}`", target.peer, target.most, target.aim]
        found = results.get(target.workload, Results([]))
        ratios = found.ratios(target.case, target.peer, target.quantity, target.ours)
        said = verdict(np.median(ratios), target) if len(ratios) else "not measured"
        if target.quantity == "ms" and others(found, target.case) > BUSY:
            said = "measure again: the machine was busy"
        rows.append([*row, ratio(ratios), said])
    head = ["workload", "case", "against", "at most", "aim", "reached", ""]
    return "## The figures to reach\n\n" + table(head, rows)


def section(name, workload, found, pictures):
    """What a page says of one workload."""
    unit, scale = getattr(workload, "UNIT", ("ms", 1))
    peers = [s for s in found.systems if s != OURS and any_of(found, s, "ms")]
    parts = [f"## {name}\n", f"{workload.__doc__.strip()}\n"]
    parts.append(times(found, peers, unit, scale))
    if any_of(found, OURS, "MiB"):
        parts.append(memory(found, [s for s in peers if any_of(found, s, "MiB")]))
    if hasattr(workload, "flops"):
        parts.append(speeds(workload, found))
    if hasattr(workload, "NATS"):
        parts.append(to_loss(workload, found))
    if pictures:
        parts.append(f"![cost of {name}]({pictures})\n")
    return "\n".join([*parts, notes(found)])


def any_of(found, system, quantity):
    """Whether there is a sample of it in any case."""
    return any(len(found.samples(case, system, quantity)) for case in found.cases)


def others(found, case):
    """The share of the cores that other programs took during the rounds; 0 if unknown."""
    return max(np.nan_to_num(found.samples(case, "", "others")), default=0.0)


def times(found, peers, unit, scale):
    """The times of all cases: ours, and ours / peer with the peer's time."""
    rows = []
    for case in found.cases:
        mine = found.samples(case, OURS, "ms")
        row = [f"`{case}`", figure(scale * np.median(mine)) if len(mine) else "-"]
        for peer in peers:
            its, ratios = found.samples(case, peer, "ms"), found.ratios(case, peer)
            text = f"{ratio(ratios)} of " if len(ratios) else ""
            row.append(f"{text}{figure(scale * np.median(its))}" if len(its) else "-")
        rows.append([*row, f"{100 * others(found, case):.0f}"])
    head = [f"{unit}; ours / peer [quartiles] of its time", OURS, *peers]
    return table([*head, "cores taken by others, %"], rows)


def memory(found, peers):
    """The peaks of memory, and ours / peer."""
    rows = []
    for case in found.cases:
        mine = found.samples(case, OURS, "MiB")
        if len(mine):
            row = [f"`{case}`", figure(mine[0])]
            for peer in peers:
                its = found.samples(case, peer, "MiB")
                ratios = ratio(found.ratios(case, peer, "MiB"))
                row.append(f"{ratios} of {figure(its[0])}" if len(its) else "-")
            rows.append(row)
    return table(["peak memory, MiB; ours / peer", OURS, *peers], rows)


def speeds(workload, found):
    """GFLOP/s of every system, and the share of our time that the products alone take."""
    flops = {label(sizes): workload.flops(**sizes) for sizes in workload.CASES}
    systems = [s for s in found.systems if any_of(found, s, "ms")]
    rows = []
    for case in [case for case in found.cases if case in flops]:
        row = [f"`{case}`"]
        for system in systems:
            ms = found.samples(case, system, "ms")
            row.append(figure(flops[case] / np.median(ms) / 1e6) if len(ms) else "-")
        shares = found.ratios(case, OURS, ours=ALONE)
        rows.append([*row, spread(100 * shares, "{:.0f}") if len(shares) else "-"])
    head = ["GFLOP/s of the products", *systems, "share of products in our time, %"]
    if ALONE not in systems:
        head, rows = head[:-1], [row[:-1] for row in rows]
    return table(head, rows)


def to_loss(workload, found):
    """The seconds until a validation loss is reached, and the curves."""
    rows = []
    for case in found.cases:
        for system in found.systems:
            nats, ms = (found.samples(case, system, q) for q in ("nats", "ms"))
            reached = np.flatnonzero(nats <= workload.NATS)
            seconds = f"{ms[: reached[0] + 1].sum() / 1e3:.1f}" if len(reached) else "not reached"
            if len(ms):
                curve = ", ".join(f"{value:.3f}" for value in nats)
                rows.append([system, seconds, f"{ms.sum() / 1e3:.1f}", curve])
    head = ["", f"seconds to {workload.NATS} nats", "of all epochs", "nats after each"]
    return table(head, rows)


def notes(found):
    """What ran on what, what was skipped and why, in what all agreed, when and where."""
    words = {"runs on": "runs on", "skipped": "is skipped"}
    lines = {}
    for case in found.cases:
        texts = {
            f"{name} {words[quantity]}": found.text(case, name, quantity)
            for name in found.systems
            for quantity in words
        }
        for quantity in ("agreed", "measured"):
            texts[quantity] = found.text(case, "", quantity)
        for what, text in texts.items():
            if text:
                lines.setdefault(what, {})[text] = None  # each once
    return "\n".join([*[f"- {what}: {'; '.join(said)}" for what, said in lines.items()], ""])


# ---- pictures ----------------------------------------------------------------------------------


def curves(found, axis):
    """{system: (x, ms)} for the cases that differ only in `axis` (and D where D = H); None if few.

    Of several such families it is the largest.
    """
    families = {}
    for case in found.cases:
        sizes = dict(re.findall(r"(\w+)=(\d+)", case))
        if axis in sizes:
            rest = re.sub(rf"\b{axis}=\d+", "", case)
            if axis == "H" and sizes.get("D") == sizes["H"]:
                rest = re.sub(r"\bD=\d+", "", rest)
            families.setdefault(rest.split()[0] + rest, []).append((int(sizes[axis]), case))
    family = sorted(max(families.values(), key=len, default=[]))
    if len(family) < 3:
        return None
    lines = {}
    for system in found.systems:
        points = [(x, found.samples(case, system, "ms")) for x, case in family]
        points = [(x, np.median(ms)) for x, ms in points if len(ms)]
        if points:
            lines[system] = np.array(points).T
    return lines


def picture(name, found, folder):
    """The path of a picture of what the workload costs along its axes; None if there is none."""
    axes = getattr(_suite.workload(name), "AXES", [])
    panels = {axis: lines for axis in axes if (lines := curves(found, axis))}
    if not panels:
        return None
    try:
        import matplotlib as mpl
    except ImportError:
        print("no pictures: matplotlib is not installed")
        return None
    mpl.use("svg")
    from matplotlib import pyplot as plt

    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        size = 3.6 * len(panels) + 2.2, 3.2
        fig, axs = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
        for ax, (axis, lines) in zip(axs[0], panels.items(), strict=True):
            for system, (x, ms) in lines.items():
                ax.loglog(x, ms, marker="o", markersize=3, label=system)
            sizes = sorted({int(n) for x, _ in lines.values() for n in x})
            ax.xaxis.minorticks_off()
            ax.set_xticks(sizes, [f"{n:,}" for n in sizes], fontsize=7)
            ax.set(xlabel=axis, ylabel="ms", title=f"{name}: cost against {axis}")
            ax.grid(alpha=0.3)
        lines = axs[0][0].get_legend_handles_labels()
        fig.legend(*lines, loc="outside right upper", fontsize=7)
        fig.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(fig)
    return f"{folder.name}/{name}.svg"
