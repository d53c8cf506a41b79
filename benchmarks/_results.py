"""The samples of all workloads: a CSV each, in which a case can be measured anew by itself.

A row is a case, a system, a quantity, a round and a value.  Besides `ms` and `MiB` there are
quantities in words, without a round: what the system `runs on`, why it was `skipped`, in what all
`agreed`, how it was `measured`.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

FOLDER = Path(__file__).with_name("results")
OURS = "tinygrad_rnn"


class Row(NamedTuple):
    """One line of a CSV."""

    case: str
    system: str
    quantity: str
    round: str
    value: str


def label(sizes, threads=2):
    """The name of a case, from its sizes: words as they are, numbers with their letters."""
    words = [
        name if value is True else value if isinstance(value, str) else f"{name}={value}"
        for name, value in sizes.items()
        if value is not False
    ]
    return " ".join([*words, *([f"threads={threads}"] if threads != 2 else [])])


def read(name, folder=FOLDER):
    """The rows of a workload; none if it has not been measured."""
    path = folder / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [Row(*line) for line in list(csv.reader(file))[1:]]


def replace(name, rows, folder=FOLDER):
    """Write the rows of some cases in place of what the workload's file has of these."""
    new = {row.case for row in rows}
    kept = [row for row in read(name, folder) if row.case not in new]
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([Row._fields, *kept, *rows])


class Results:
    """The rows of one workload, looked up."""

    def __init__(self, rows):
        self.cases = list(dict.fromkeys(row.case for row in rows))
        self.systems = list(dict.fromkeys(name for _, name, *_ in rows if name))
        self.values = {}
        for case, name, quantity, _, value in rows:
            self.values.setdefault((case, name, quantity), []).append(value)

    def samples(self, case, system, quantity):
        """The figures of all rounds (rounds,), none if there are none."""
        return np.array(self.values.get((case, system, quantity), []), float)

    def text(self, case, system, quantity):
        """A quantity in words, or None."""
        return self.values.get((case, system, quantity), [None])[0]

    def ratios(self, case, peer, quantity="ms", ours=OURS):
        """Ours / peer, round by round, of rounds that both took part in; none of a peer's 0."""
        mine, its = (self.samples(case, system, quantity) for system in (ours, peer))
        return mine / its if len(mine) == len(its) and its.all() else mine[:0]
