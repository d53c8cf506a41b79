"""`python -m benchmarks [NAME ...]`: measure the workloads that are named, or all of them."""

import argparse
import ast
import time
from importlib import import_module
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks import _report, _results, _suite

COUNTED = "count bptt memory through_time watching".split()  # print, and compare nobody


def main(argv=None):
    """Measure what the command line names, and write the page; or only see that all of it works."""
    args = parser().parse_args(argv)
    unknown = sorted(set(args.names) - {*_suite.WORKLOADS, *COUNTED})
    if unknown:
        there = ", ".join([*_suite.WORKLOADS, *COUNTED])
        parser().error(f"no benchmark {', '.join(unknown)}; there are {there}")
    for name in [name for name in args.names if name in COUNTED]:
        import_module(f"benchmarks.{name}").main()
    chosen = [name for name in args.names or _suite.WORKLOADS if name in _suite.WORKLOADS]
    failed = []
    if args.quick:
        with TemporaryDirectory() as folder:
            failed = measure(chosen, args, Path(folder))
            _report.write(Path(folder), Path(folder, "RESULTS.md"))
    elif chosen or args.write:
        failed = measure([] if args.write else chosen, args, _results.FOLDER)
        _report.write()
        print(f"written: {_report.RESULTS.name}")
    if failed:
        raise SystemExit(f"failed: {'; '.join(failed)}")


def parser():
    """The command line."""
    names = "\n".join(f"  {name:<15} {first_line(name)}" for name in [*_suite.WORKLOADS, *COUNTED])
    p = argparse.ArgumentParser(
        "python -m benchmarks",
        description="Measure what the engine costs beside its peers; write RESULTS.md.",
        epilog=f"workloads, and what is counted rather than compared:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("names", nargs="*", metavar="NAME", help="one of those below; all if none")
    p.add_argument("--quick", action="store_true", help="small sizes: only see that it works")
    p.add_argument("--rounds", type=int, default=10, help="samples of each system, 10")
    p.add_argument("--threads", type=int, default=2, help="of each system, 2")
    p.add_argument("--only", default="", metavar="TEXT", help="cases whose names contain it")
    p.add_argument("--write", action="store_true", help="measure nothing, write the page")
    return p


def measure(names, args, folder):
    """Measure the cases of these workloads, and keep the samples of each as soon as it is done.

    Returned are the names of the cases in which programs failed or did not agree.
    """
    failed = []
    for name in names:
        workload = _suite.workload(name)
        for sizes in _suite.cases_of(workload, args.quick):
            case = _results.label(sizes, args.threads)
            if args.only not in case:
                continue
            begun = time.monotonic()
            rounds = 1 if args.quick else getattr(workload, "ROUNDS", args.rounds)
            try:
                rows = _suite.measured(workload, sizes, rounds, args.threads)
            except (AssertionError, RuntimeError) as error:
                print(f"{name}: {case} failed: {error}", flush=True)
                failed.append(f"{name}: {case}")
                continue
            _results.replace(name, rows, folder)
            print(f"{name}: {case} ({time.monotonic() - begun:.0f} s)")
            print(said(_results.Results(rows), case), flush=True)
    return failed


def said(found, case):
    """The case's figures as text: a line for each system."""
    lines = []
    for system in found.systems:
        reason, ms = found.text(case, system, "skipped"), found.samples(case, system, "ms")
        line = f"skipped: {reason}"
        if not reason:
            line = f"{median(ms):.4g} ms; ours / this {_report.ratio(found.ratios(case, system))}"
        lines.append(f"  {system}: {line}")
    return "\n".join(lines)


def first_line(name):
    """The first line of a benchmark's docstring, read and not run."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


if __name__ == "__main__":
    main()
