"""A plugin for pytest that counts what was tried: ``python -m pytest -p tests.tally tests/...``.

For each test function how many of its items passed, failed and were skipped, how many cases
hypothesis drew that satisfied its assumptions and passed, and the sum of each number that the test
recorded with ``record_property``.
"""

import functools
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

COUNTS = defaultdict(Counter)  # by the name of the test, path::function


def name_of(nodeid):
    return nodeid.partition("[")[0]


def pytest_addoption(parser):
    parser.addoption("--tally", metavar="FILE", help="write the counts to this file, as JSON")


def counted(inner, counts):
    """The body of a law, counting the cases in which it returned."""

    @functools.wraps(inner)
    def run(*args, **kwargs):
        inner(*args, **kwargs)
        counts["cases"] += 1

    return run


@pytest.hookimpl(trylast=True)  # once those that were not selected are gone
def pytest_collection_modifyitems(items):
    laws = {item.function: item for item in items if hasattr(item.function, "hypothesis")}
    for function, item in laws.items():  # once each, whatever the parameters
        handle = function.hypothesis
        handle.inner_test = counted(handle.inner_test, COUNTS[name_of(item.nodeid)])


def pytest_runtest_logreport(report):
    counts = COUNTS[name_of(report.nodeid)]
    if report.when == "call" or report.outcome != "passed":
        counts[report.outcome] += 1
    if report.when == "call":
        counts.update(dict(report.user_properties))


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--tally"):
        Path(config.getoption("--tally")).write_text(json.dumps(COUNTS), encoding="utf-8")
    for name, counts in COUNTS.items():
        numbers = ", ".join(f"{n} {what}" for what, n in counts.items())
        terminalreporter.write_line(f"{name}: {numbers}")
