"""What `import tinygrad_rnn` adds to `import numpy`, in fresh processes that take turns.

With bytecode, as `pip install` leaves the package, and without, as a checkout is first imported.
Beside the time that passes stands that of the CPU alone, which matters less who else is busy.
"""

import compileall
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks._timing import interleaved, machine, print_table, spread

ROUNDS = 15
PROFILES, SHOWN = 5, 12  # processes of which the least counts, and modules of which it is printed
TARGET = 60  # ms, with bytecode

TIMED = """
from time import perf_counter, process_time
times = [(perf_counter(), process_time())]
import numpy
times.append((perf_counter(), process_time()))
import tinygrad_rnn
times.append((perf_counter(), process_time()))
for (start, cpu_start), (end, cpu_end) in zip(times, times[1:]):
    print(1e3 * (end - start), 1e3 * (cpu_end - cpu_start))
"""

PROFILED = "import sys, numpy; print('---', file=sys.stderr); import tinygrad_rnn"


def main():
    """Print the milliseconds, and the modules that take most of them."""
    print("import_time: what `import tinygrad_rnn` adds to `import numpy`, in fresh processes")
    print(machine())
    with TemporaryDirectory() as folder:
        compiled = copy_of_package(Path(folder, "compiled"))
        fresh = copy_of_package(Path(folder, "fresh"))
        compileall.compile_dir(compiled, quiet=1)
        cases = {"with bytecode": compiled, "without bytecode": fresh}
        times = interleaved({name: importer(place) for name, place in cases.items()}, ROUNDS)
        modules = costs_of_modules(compiled)
    print(f"ms, median [quartiles] of {ROUNDS} processes each")
    rows = [[name, *[spread(ms, "{:.1f}") for ms in times[name].T]] for name in times]
    print_table(["", "numpy", "CPU", "then tinygrad_rnn", "CPU"], rows)
    print(f"target: {TARGET} ms with bytecode; reached: {rows[0][3]}, of the CPU {rows[0][4]}")
    print(f"the {SHOWN} costliest modules after numpy, each without what it imports in turn")
    print_table(["", "ms"], [[name, f"{ms:.1f}"] for name, ms in modules[:SHOWN]])


def copy_of_package(folder):
    """`folder`, with a copy of the package in it, and of no bytecode."""
    source = Path(find_spec("tinygrad_rnn").origin).parent
    shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def importer(folder):
    """A function that imports numpy and the package in `folder`: the table's milliseconds."""
    return lambda: [float(ms) for ms in python(folder, "-c", TIMED).stdout.split()]


def costs_of_modules(folder):
    """[(module, ms)] for what is imported after numpy, the costliest first."""
    costs = {}
    for _ in range(PROFILES):
        report = python(folder, "-X", "importtime", "-c", PROFILED).stderr
        for line in report.partition("---\n")[2].splitlines():
            us, _, name = line.removeprefix("import time:").split("|")
            costs.setdefault(name.strip(), []).append(float(us) / 1e3)
    least = [(name, min(ms)) for name, ms in costs.items()]
    return sorted(least, key=lambda cost: -cost[1])


def python(folder, *arguments):
    """The finished process of a Python that finds modules in `folder` and writes no bytecode."""
    command = [sys.executable, "-B", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)


if __name__ == "__main__":
    main()
