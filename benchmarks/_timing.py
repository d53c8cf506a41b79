"""Times that can be compared: all programs take turns, and ratios are taken within a round.

A machine that is busy elsewhere is busy for every program of a round, so these ratios mean
something where the seconds do not.  Their median over the rounds is shown, and the quartiles say
how far to trust it.
"""

import os
import platform

import numpy as np


def interleaved(samplers, rounds):
    """What each sampler returned in each round, `{name: array with one row a round}`.

    A sampler measures its program once and returns a time, or several.  Every other round goes
    backwards, so that nobody always runs first; a round before the first does not count.
    """
    names = list(samplers)
    taken = {name: [] for name in names}
    for n in range(rounds + 1):
        for name in names if n % 2 else reversed(names):
            taken[name].append(samplers[name]())
    return {name: np.array(rows[1:]) for name, rows in taken.items()}


def spread(values, form="{:.2f}"):
    """The median of `values` and, in brackets, their quartiles, as text."""
    low, median, high = (form.format(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    return f"{median} [{low}-{high}]"


def print_table(head, rows):
    """Print `rows` in columns under `head`: the first column as text, the others as figures."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *rest in cells:
        figures = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *figures]))


def machine():
    """One line on what the figures were measured with: a matrix product is its library's."""
    blas = np.show_config("dicts")["Build Dependencies"]["blas"]
    return (
        f"Python {platform.python_version()}, NumPy {np.__version__}, {os.cpu_count()} cores, "
        f"BLAS {blas['name']} {blas['version']}, {blas_threads()}"
    )


def blas_threads():
    """How many threads NumPy's matrix products use, as text, if anything installed can tell."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "threads unknown (threadpoolctl is not installed)"
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return ", ".join(f"{pool['num_threads']} threads ({pool['internal_api']})" for pool in pools)
