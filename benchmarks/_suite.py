"""Workloads: how one is measured.

A workload is a module with a docstring and

    SYSTEMS    {name: (module, class)} or {name: (module, class, settings)}: the programs
    CASES      sizes by name, for each case
    SMALL      sizes that take the place of those: they only show that it works, and warm up
    SKIPPED    {name: reason}: peers that cannot do it
    MEMORY     the systems whose peak of memory is measured, too
"""

from datetime import date
from importlib import import_module

from benchmarks._processes import compared, peak, started, watched
from benchmarks._results import OURS, Row, label
from benchmarks._timing import interleaved, machine

TOLERANCE = 2e-3  # of figures that all systems must agree in; they are float32
WORKLOADS = (
    "operations layers loops tagging language_model translation recursive decoding inference"
    " optimizers end_to_end import_time products"
).split()


def workload(name):
    """The module of a workload."""
    return import_module(f"benchmarks.{name}")


def cases_of(workload, quick):
    """The sizes of all cases; of small ones, each once, if `quick`."""
    if not quick:
        return workload.CASES
    small = [{n: workload.SMALL.get(n, x) for n, x in sizes.items()} for sizes in workload.CASES]
    return [sizes for n, sizes in enumerate(small) if sizes not in small[:n]]


def programs_of(workload, sizes):
    """The programs of a case by name: module, class, and what it is made with."""
    return {
        name: (module, kind, sizes | (settings[0] if settings else {}))
        for name, (module, kind, *settings) in workload.SYSTEMS.items()
    }


def measured(workload, sizes, rounds, threads):
    """The rows of one case: all programs agree, take turns, and show their peaks of memory."""
    case, programs = label(sizes, threads), programs_of(workload, sizes)
    rows = []

    def add(system, quantity, value, number=""):
        rows.append(Row(case, system, quantity, str(number), str(value)))

    with started(programs, threads) as (workers, skipped):
        agreed = compared(checked(workers, skipped), TOLERANCE)
        add("", "agreed", f"{len(workers)} systems to {TOLERANCE}: {', '.join(agreed)}")
        for name, worker in workers.items():
            add(name, "runs on", worker.ask("libraries"))
        with watched(workers) as others:
            taken = interleaved({name: worker.sample for name, worker in workers.items()}, rounds)
    add("", "measured", f"{date.today()}, {threads} threads each; {machine()}")
    add("", "others", f"{others():.3f}", 0)
    for name, samples in taken.items():
        for n, sample in enumerate(samples):
            for quantity, value in sample.items():
                add(name, quantity, f"{value:.6g}", n)
    small = programs_of(workload, {n: workload.SMALL.get(n, x) for n, x in sizes.items()})
    for name in [name for name in workload.MEMORY if name in taken]:
        add(name, "MiB", f"{peak(programs[name], small[name], threads):.2f}", 0)
    for name, reason in {**skipped, **workload.SKIPPED}.items():
        add(name, "skipped", reason)
    return rows


def checked(workers, skipped):
    """The checks of each program, by its name; a peer that fails moves to what is skipped."""
    found = {}
    for name, worker in list(workers.items()):
        try:
            found[name] = worker.ask("checks")
        except RuntimeError as error:
            if name.startswith(OURS):
                raise
            skipped[name] = f"{error.__cause__!r}"
            del workers[name]
    return found
