"""``python -m tinygrad_rnn.gradcheck``: check every registered operation and print the table."""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Sequence

from ..errors import TinygradRNNError
from ..registry import ROWS, RandomDraw, Row, checkable
from .check import gradcheck


class Line:
    """What was found for one operation: numbers compared and the worst error, order by order."""

    def __init__(self, row: Row, cases: int, order: int, seed: int) -> None:
        self.row, self.drawn, self.compared = row, 0, 0
        self.worst = [0.0] * order
        for i in range(cases):
            draw = RandomDraw(zlib.crc32(row.name.encode()) + 1000 * seed + i)
            arrays, keywords = row.case(draw)
            if not sum(x.size for x in arrays):
                continue
            report = gradcheck(checkable(row, keywords), arrays, order=order, seed=i)
            self.drawn += 1
            self.compared += report.cases
            self.worst = [max(a, b) for a, b in zip(self.worst, report.worst_by_order, strict=True)]

    @property
    def method(self) -> str:
        """What judged the operation with the tightest tolerance."""
        return "complex step" if self.row.analytic else "differences"

    def __str__(self) -> str:
        errors = "".join(f"{error:>12.1e}" for error in self.worst)
        return f"{self.row.name:<33}{self.method:<14}{self.drawn:>6}{self.compared:>9}{errors}"


def worst_errors(lines: Sequence[Line]) -> dict[str, str]:
    """For each order and method the largest error, with the operation's name."""
    found = {}
    for k in range(max((len(line.worst) for line in lines), default=0)):
        for method in dict.fromkeys(line.method for line in lines):
            line = max((x for x in lines if x.method == method), key=lambda x: x.worst[k])
            name = f" ({line.row.name})" if line.worst[k] else ""
            found[f"order {k + 1}, {method}"] = f"{line.worst[k]:.1e}{name}"
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 if every operation passed."""
    parser = argparse.ArgumentParser(
        prog="python -m tinygrad_rnn.gradcheck",
        description="Check the derivatives of every operation against numerical ones.",
    )
    parser.add_argument("names", nargs="*", help="operations to check (default: all)")
    parser.add_argument(
        "--cases", type=int, default=8, help="cases for each (default: %(default)s)"
    )
    parser.add_argument("--order", type=int, default=2, help="highest order (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    options = parser.parse_args(argv)
    known = {row.name: row for row in ROWS}
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"unknown operation {', '.join(unknown)}; known: {', '.join(known)}")
    orders = "".join(f"{'order ' + str(k + 1):>12}" for k in range(options.order))
    print(
        f"{'operation':<33}{'method':<14}{'cases':>6}{'numbers':>9}{orders}"
        "   (worst |error| / max |g|, in float64)"
    )
    failed, lines = [], []
    for name in options.names or known:
        try:
            line = Line(known[name], options.cases, options.order, options.seed)
            lines.append(line)
            print(line, flush=True)
        except TinygradRNNError as error:
            failed.append(name)
            print(f"{name:<33}FAILED\n{error}", flush=True)
    checked, cases = len(options.names or known), sum(line.drawn for line in lines)
    numbers = sum(line.compared for line in lines)
    print(
        f"{checked - len(failed)} of {checked} operations passed:"
        f" {cases} cases, {numbers} numbers compared"
    )
    for which, worst in worst_errors(lines).items():
        print(f"worst error, {which}: {worst}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
