"""The figures behind the promises: ``python -m tests.reliability [SECTION...]`` writes the page.

``RELIABILITY.md`` is a function of this file and of the figures: the words stand here, and a
section that is not run again keeps the figures, the date and the versions that the page has.
"""

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinygrad_rnn import engine
from tinygrad_rnn.errors import __all__ as error_names
from tinygrad_rnn.gradcheck.__main__ import Line, worst_errors
from tinygrad_rnn.registry import ROWS

from . import faults, kills, liars, monsters, soak

PAGE = Path(__file__).with_name("RELIABILITY.md")
ROOT = PAGE.parents[1]

INTRODUCTION = """# Reliability

What has been tried to make this project fail, and what came of it. The command under a section runs
it again and replaces its figures here; without a name, `python -m tests.reliability` runs them all.
The page is in step with the code, or `tests/test_reliability.py` fails.
"""

# ---- running tests and counting ------------------------------------------------------------------


class Failed(Exception):
    """A section that did not end as it should; its figures are not published."""


def tallied(*files, profile="dev", select=""):
    """What ``tests/tally.py`` counted in a run of these tests, by ``file::test``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tally.json")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.tally",
            "--tally",
            path,
            "-k",
            select,
        ]
        command += [f"tests/{file}.py" for file in files]
        environment = os.environ | {"HYPOTHESIS_PROFILE": profile}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Failed(done.stdout + done.stderr)
        counts = json.loads(path.read_text(encoding="utf-8"))
    short = {
        name.removeprefix("tests/").replace(".py::", "::"): own for name, own in counts.items()
    }
    return {name: Counter(own) for name, own in short.items()}


def laws_and_cases(what, tally):
    """Of the tests with hypothesis among those counted: how many laws, how many cases."""
    cases = [own["cases"] for own in tally.values() if own["cases"]]
    return {f"{what}: laws": len(cases), f"{what}: cases tried": sum(cases)}


# ---- the sections --------------------------------------------------------------------------------

CASES, ORDER = 100, 3  # of the gradient checks


def primitive_and_composed():
    """The registry in numbers, which the test of the page counts again."""
    primitive = [row.name for row in ROWS if row.name in engine.OPERATIONS]
    return {
        "operations checked": len(ROWS),
        "of these recorded as one operation, with derivatives of their own": len(primitive),
        "of these composed of others": len(ROWS) - len(primitive),
    }


def operations():
    lines = [Line(row, CASES, ORDER, seed=0) for row in ROWS]
    figures = primitive_and_composed() | {
        "cases tried for each": CASES,
        "cases tried in all": sum(line.drawn for line in lines),
        "numbers compared": sum(line.compared for line in lines),
        "orders of derivative": f"1 to {ORDER}",
        "precision": "float64",
    }
    return figures | {f"worst error, {which}": x for which, x in worst_errors(lines).items()}


def programs():
    tally = tallied("test_programs", profile="thorough")
    return laws_and_cases("random programs", tally)


def equivalences():
    """The laws that set two ways of computing one thing beside each other."""
    figures = {}
    for what, (files, select) in EQUIVALENT_WAYS.items():
        figures |= laws_and_cases(what, tallied(*files, select=select))
    return figures


EQUIVALENT_WAYS = {
    "an operation and NumPy": (["test_operations"], "numpy_twin"),
    "a fused operation and its composed form": (["test_operations"], "fused_operation_is"),
    "a cell and its equations": (["test_cells", "test_trees"], "equations"),
    "a layer and its equations, ragged, stacked, both ways": (["test_recurrent"], "equations"),
    "a fold and the recursion over each node": (["test_fold"], ""),
    "deferred calls and calls one by one": (["test_deferred"], ""),
    "an LSTM and a Child-Sum Tree-LSTM on a chain": (["test_trees"], "lstm_is"),
    "BPTT and BPTS by hand and the sweep": (["test_trees"], "by_hand"),
    "recomputed and kept": (["test_recompute"], ""),
}


def mutants():
    tally = tallied("test_mutants", "test_fold_mutants", "test_guard_mutants")
    vjps = tally["test_mutants::test_every_spoiled_vjp_is_caught"]
    figures = {
        "VJPs": vjps["passed"],
        "spoiled VJPs: injected": vjps["injected"],
        "spoiled VJPs: killed": vjps["killed"],
        "spoiled VJPs: equivalent, so not wrong": vjps["injected"] - vjps["killed"],
    }
    for kind, test in SPOILED.items():
        tried = tally[test].total()
        figures |= {f"{kind}: injected": tried, f"{kind}: killed": tally[test]["passed"]}
    return figures | {"unspoiled controls passed": sum(tally[test]["passed"] for test in CONTROLS)}


SPOILED = {
    "spoiled sweeps": "test_mutants::test_every_spoiled_sweep_is_caught",
    "spoiled folds": "test_fold_mutants::test_every_spoiled_fold_is_caught",
    "spoiled deferred calls": "test_fold_mutants::test_every_spoiled_deferred_is_caught",
    "spoiled guards": "test_guard_mutants::test_every_spoiled_guard_is_noticed",
}
CONTROLS = [
    "test_mutants::test_the_right_sweep_passes",
    "test_fold_mutants::test_the_laws_hold",
    "test_guard_mutants::test_the_right_guards_pass",
]


def errors():
    tally = tallied("test_golden_errors", "test_errors", "test_deferred_errors")
    golden = tally["test_golden_errors::test_the_message_is_that_of_the_page"]["passed"]
    tests = sum(own["passed"] for own in tally.values())
    return {
        "kinds of errors in the family": len(error_names),
        "wrong programs whose message is compared letter by letter": golden,
        "further tests of refusals": tests - golden,
    }


class Section(NamedTuple):
    """One heading of the page: what its figures mean, what they leave out, how they are made."""

    title: str
    about: str
    missing: str
    figures: Callable[[], dict[str, object]]


SECTIONS = {
    "operations": Section(
        "Derivatives of every operation",
        """Each operation is called with drawn arguments (shapes that broadcast, axes from either
        end, tuples of axes, repeated indices), and each entry of its derivatives of each order is
        compared with a numerical one: the complex step where the operation is analytic, central
        differences where it is not.  An error is divided by the largest entry of the gradient.
        One operation alone: `python -m tinygrad_rnn.gradcheck NAME`.""",
        """kinks, ties and infinities, where a derivative is a choice: `tests/test_choices.py` pins
        each choice.  float32 is held to float64 by a law of `tests/test_operations.py`, not by
        differences.  Nothing here ran on a GPU.""",
        operations,
    ),
    "programs": Section(
        "Random programs",
        """Programs of up to 12 operations on three inputs, with values used again, broadcast,
        indexed and of every shape.  NumPy, which knows nothing of the engine, says what is right:
        the gradient by complex steps, second derivatives by differences of these.  Further laws:
        linear in the cotangent, the same bits twice, recorded or not, no memory shared, float32
        close to float64.""",
        """long programs, large arrays, and operations at kinks, from which the generator stays
        away.""",
        programs,
    ),
    "equivalences": Section(
        "Two ways to the same number",
        """Laws that set two computations side by side: values and gradients, and where it says so
        second derivatives, have to agree.""",
        """other frameworks: cells, layers and optimisers are compared with PyTorch only where that
        is installed, which it was not for this page.""",
        equivalences,
    ),
    "mutants": Section(
        "The checks can fail",
        """The code is spoiled on purpose in one place at a time: each rule of differentiation in
        each of several ways (scaled by 1 + 1e-6, negated, zeroed, transposed, cotangent ignored,
        value detached), then the sweep, the fold, deferred calls, and each guard against silent
        faults, lost files and bad input.  A mutant is killed if the check that is there for it
        fails, by a comparison; one that dies of an error of its own does not count.""",
        """mutants nobody thought of: these are written by hand, not drawn from all the edits that
        could be made.  Equivalent are mutants that change no result, listed with reasons in
        `tests/test_mutants.py`: the cotangent of `sign` is 0 whatever is done to it, and VJPs that
        read values only to compare them have no second derivative to lose.""",
        mutants,
    ),
    "errors": Section(
        "Errors that teach",
        """`tests/ERRORS.md` has short programs, each with a learner's mistake, and the message that
        it ends with, every letter of which is compared: what was expected, what came, the line,
        the modules and the time step, a hint that mends it.""",
        """whether a learner finds them helpful: nobody was asked.""",
        errors,
    ),
    "kills": Section(
        "Killed at any instant",
        """A demo that carries a state, draws dropout masks, is moved by Adam and validated after
        each epoch is killed (signal 9) at random instants and gone on with by `--resume`, again and
        again, until it ends. It has survived a kill if its last weights have the bytes of those of
        a run that nothing stopped.""",
        """a machine that loses its power: then the disk has to keep what fsync asked of it. That
        each file is synced before it gets its name is in the gate above.""",
        partial(kills.figures, True),
    ),
    "faults": Section(
        "Faults of disks and files",
        """Full disks, folders that cannot be written to, calls of the system that fail at any point
        of a write; then files cut off at any byte, with bits flipped, exchanged. A fault in writing
        is survived if it is told as what it is, the files from before keep their bytes, and the
        next write succeeds; one in a file if it is noticed or does no harm, and the checkpoint
        before it is taken.""",
        """disks that return other bytes than they were given and say nothing, beyond what a CRC-32
        finds; two programs that write checkpoints of one name into one folder.""",
        partial(faults.figures, True),
    ),
    "liars": Section(
        "Lying servers, forged files",
        """`python -m demos fetch` against a server on this machine, over real TLS, that truncates,
        redirects, is slow, lies about lengths, names and archives, and sends other bytes; it has
        survived if there is one line of error and no file. Then checkpoint files made to harm:
        pickles, archives that unpack to more than they say, headers that claim too much, code.""",
        """the servers themselves: no download was tried from here, and `python -m demos fetch` says
        so. What safetensors and Python's zipfile do inside is theirs.""",
        partial(liars.figures, True),
    ),
    "monsters": Section(
        "Hostile texts",
        """For every reader of the demos files made to break it: brackets 100,000 deep, unbalanced
        and empty trees, lines of 100 MB, NUL bytes, lone surrogates, byte order marks, missing
        columns, ids twice; then files by chance, from valid ones that are cut, spliced and swapped.
        A reader has to return what keeps its contract, or to raise the error that it documents,
        with a line that names the file; anything else is a crash.""",
        """texts that are well formed and wrong.""",
        partial(monsters.figures, True),
    ),
    "soak": Section(
        "Load and long runs",
        """24 threads train, differentiate twice, save, raise and recover at the same time, each on
        its own model; all of them read one model. Runs of a million updates and graphs that are
        dropped, with the cyclic collector off, may leave no object and no memory behind.""",
        """threads that train one model, which add to the same gradients and are not supported;
        machines with more cores than this one.""",
        partial(soak.figures, True, soak.PARTS[:3]),
    ),
    "again": Section(
        "The same bytes again",
        """The results of one and of two BLAS threads differ by no more than the bound that stands
        beside them. Every demo is run twice with one seed, in processes that hash otherwise, and
        all files that it leaves are compared byte by byte.""",
        """other machines, other versions of NumPy and BLAS, and demos at full size.""",
        partial(soak.figures, True, soak.PARTS[3:]),
    ),
}

# ---- the page ------------------------------------------------------------------------------------


HEAD = "| what | |\n| --- | ---: |"


class Result(NamedTuple):
    """The figures of a section as they were printed, and the line that says when and where."""

    figures: dict[str, str]
    origin: str


def shown(value):
    """A figure as it stands on the page."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "/")


def machine():
    """The versions and the size of what these figures were made on."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    threads = os.environ.get("OMP_NUM_THREADS", "one for each core")
    return (
        f"Python {platform.python_version()}, NumPy {np.__version__}, {blas['name']}"
        f" {blas['version']} (threads: {threads}), {os.cpu_count()} cores"
    )


def run(name):
    """The Result of running a section now."""
    begun = time.monotonic()
    figures = SECTIONS[name].figures()
    took = round(time.monotonic() - begun)
    today = datetime.date.today().isoformat()
    return Result({key: shown(x) for key, x in figures.items()}, f"{today}, {took} s: {machine()}")


def section_text(name, result):
    """A section of the page."""
    section = SECTIONS[name]
    rows = [f"| {key} | {value} |" for key, value in result.figures.items()]
    return "\n".join(
        [
            f"## {section.title}\n",
            wrapped(section.about) + "\n",
            HEAD,
            *rows,
            "",
            wrapped("Not covered: " + section.missing) + "\n",
            f"    python -m tests.reliability {name}\n",
            f"{result.origin}\n",
        ]
    )


def wrapped(text):
    return textwrap.fill(" ".join(text.split()), 100, break_long_words=False)


def page(results):
    """The whole page, for the sections that have been run."""
    texts = [section_text(name, results[name]) for name in SECTIONS if name in results]
    return "\n".join([INTRODUCTION, *texts])


def results_on(text):
    """The results that a page shows, by the name of the section."""
    results = {}
    for part in text.split("\n## ")[1:]:
        name = re.search(r"^ {4}python -m tests\.reliability (\w+)$", part, re.M)[1]
        rows = re.findall(r"^\| (.+) \| (.+) \|$", part.partition(HEAD)[2], re.M)
        results[name] = Result(dict(rows), part.rstrip().splitlines()[-1])
    return results


def main(argv=None):
    """The exit status: 0 if every section ended as it should."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability",
        description=f"Run what stands behind {PAGE.relative_to(ROOT)}, and write it.",
    )
    about = f"to run again: {', '.join(SECTIONS)} (default: all)"
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=about)
    names = parser.parse_args(argv).sections or [*SECTIONS]
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        parser.error(f"unknown section {', '.join(unknown)}; known: {', '.join(SECTIONS)}")
    failed = []
    for name in names:
        try:
            result = run(name)
        except (AssertionError, Failed) as error:
            failed.append(name)
            print(f"{name}: FAILED, the page keeps its last figures\n{error}", flush=True)
            continue
        results = results_on(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
        PAGE.write_text(page(results | {name: result}), encoding="utf-8")
        print(section_text(name, result), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
