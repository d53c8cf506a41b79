"""`python -m benchmarks [NAME ...]`: run the benchmarks that are named, or all of them."""

import argparse
import ast
from importlib import import_module
from pathlib import Path

NAMES = ["count", "bptt", "memory", "import_time", "overhead"]


def main():
    """Run what the command line names, one after the other."""
    helps = "\n".join(f"  {name:<12} {first_line(name)}" for name in NAMES)
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description="Print what the engine costs, against the figures that it is to reach.",
        epilog=f"benchmarks:\n{helps}\n\nPeers are optional: pip install '.[bench]' brings them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="one of those below; all if none")
    chosen = parser.parse_args().names or NAMES
    unknown = sorted(set(chosen) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    for n, name in enumerate(chosen):
        if n:
            print()
        import_module(f"benchmarks.{name}").main()


def first_line(name):
    """The first line of a benchmark's docstring, read and not run."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


if __name__ == "__main__":
    main()
