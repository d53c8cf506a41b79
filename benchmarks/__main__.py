"""`python -m benchmarks [NAME ...]`: run the benchmarks that are named, or all of them."""

import argparse
import ast
import sys
from importlib import import_module
from itertools import takewhile
from pathlib import Path

WITH_FLAGS = ["trees", "sequences"]
NAMES = "count bptt memory through_time import_time overhead watching".split() + WITH_FLAGS


def main():
    """Run what the command line names, one after the other; flags go to the one they follow."""
    arguments = sys.argv[1:]
    names = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    flags = arguments[len(names) :]
    helps = "\n".join(f"  {name:<12} {first_line(name)}" for name in NAMES)
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        usage="%(prog)s [-h] [NAME ...] [flags]",
        description="Print what the engine costs, against the figures that it is to reach.",
        epilog=f"benchmarks:\n{helps}\n\nPeers are optional: pip install '.[bench]' brings them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="one of those below; all if none")
    parser.add_argument(
        "--quick", action="store_true", help="of trees and sequences, only see that they work"
    )
    if len(names) != 1 or names[0] not in WITH_FLAGS:
        parser.parse_args(arguments)  # one that has flags of its own reads them itself
    chosen = names or NAMES
    unknown = sorted(set(chosen) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    for n, name in enumerate(chosen):
        if n:
            print()
        run = import_module(f"benchmarks.{name}").main
        run(flags) if name in WITH_FLAGS else run()


def first_line(name):
    """The first line of a benchmark's docstring, read and not run."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


if __name__ == "__main__":
    main()
