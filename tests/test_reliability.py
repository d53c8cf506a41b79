"""The page of figures is in step with the code: its words, its sections, what can be counted now.

What takes minutes to count stays as it was printed; where the code has moved on since, a test says
which section to run again.
"""

import json
import re
import shutil
import subprocess
import sys

import pytest

from tinygrad_rnn import errors
from tinygrad_rnn.registry import ROWS

from . import reliability, tally, test_fold_mutants, test_golden_errors, test_mutants
from .guards import GUARDS
from .readers import READERS

TEXT = reliability.PAGE.read_text(encoding="utf-8")
RESULTS = reliability.results_on(TEXT)
every_section = pytest.mark.parametrize("name", reliability.SECTIONS)


def figures(name):
    return RESULTS[name].figures


def test_the_page_is_what_the_command_writes_with_these_figures():
    assert [*RESULTS] == [*reliability.SECTIONS], "run: python -m tests.reliability"
    assert reliability.page(RESULTS) == TEXT


@every_section
def test_a_section_tells_how_much_was_tried_and_when(name):
    tried = [x for x in figures(name).values() if re.fullmatch(r"[\d,]+", x) and x != "0"]
    assert tried, "a claim without a number of what was tried"
    assert re.match(
        r"\d{4}-\d\d-\d\d, \d+ s: Python .+, NumPy .+, \d+ cores$", RESULTS[name].origin
    )


def assert_counted(name, expected):
    """The page has these figures; else its section has to be run again."""
    found = {key: figures(name).get(key) for key in expected}
    expected = {key: reliability.shown(value) for key, value in expected.items()}
    assert found == expected, f"run: python -m tests.reliability {name}"


def test_every_operation_is_counted():
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert_counted("operations", reliability.primitive_and_composed())


def test_every_message_is_counted():
    assert_counted(
        "errors",
        {
            "kinds of errors in the family": len(errors.__all__),
            "wrong programs whose message is compared letter by letter": len(
                test_golden_errors.ENTRIES
            ),
        },
    )


def test_every_reader_is_counted():
    assert_counted("monsters", {"readers of what a user gives": len(READERS)})


def test_every_mutant_is_counted():
    vjps = [
        mutant
        for key in test_mutants.KEYS
        for mutant in test_mutants.mutants_of(key, test_mutants.RULES[key])
    ]
    assert_counted(
        "mutants",
        {
            "VJPs": len(test_mutants.KEYS),
            "spoiled VJPs: injected": len(vjps),
            "spoiled sweeps: injected": len(test_mutants.SWEEPS),
            "spoiled folds: injected": len(test_fold_mutants.FOLD),
            "spoiled deferred calls: injected": len(test_fold_mutants.DEFERRED),
            "spoiled guards: injected": len(GUARDS),
        },
    )


def test_every_mutant_on_the_page_was_killed_or_has_a_reason():
    counted = {key: int(x.replace(",", "")) for key, x in figures("mutants").items()}
    for key, injected in counted.items():
        kind, _, what = key.partition(": ")
        if what == "injected":
            excused = counted.get(f"{kind}: equivalent, so not wrong", 0)
            assert counted[f"{kind}: killed"] + excused == injected > 0
    assert counted["spoiled VJPs: equivalent, so not wrong"] == len(test_mutants.EQUIVALENT)


SURVIVED = [  # section, what was tried, and what has to be as many
    ("kills", "kill points tried", "kill points survived: the run went on to the same bits"),
    ("liars", "lies of a server told", "lies of a server survived"),
    ("liars", "forged checkpoint files loaded", "forged checkpoint files refused"),
]
NEVER = [  # section, what was tried, and what must not have happened
    ("kills", "kill points tried", "files damaged by a kill"),
    ("monsters", "hostile files by chance", "crashes, warnings and hangs"),
    ("soak", "programs run in a crowd", "programs that found other bits in a crowd than alone"),
]


@pytest.mark.parametrize("name, tried, survived", SURVIVED)
def test_all_of_what_was_tried_was_survived(name, tried, survived):
    assert figures(name)[survived] == figures(name)[tried] != "0"


@pytest.mark.parametrize("name, tried, harm", NEVER)
def test_what_must_not_happen_did_not(name, tried, harm):
    assert figures(name)[harm] == "0" != figures(name)[tried]


def test_every_demo_leaves_the_same_bytes_again():
    assert figures("again")["files that were not the same again"] == "none"


def test_every_fault_was_survived():
    areas = {key.removesuffix(": survived") for key in figures("faults")}
    assert all(figures("faults")[area] == figures("faults")[f"{area}: survived"] for area in areas)


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch, tmp_path):
    """The command with two sections of its own, and a page elsewhere."""
    sections = {
        "first": reliability.Section(
            "One", "It counts.", "much.", lambda: {"tried": 1234, "|": 0.5}
        ),
        "second": reliability.Section("Two", "It too.", "more.", lambda: {"tried": 2}),
    }
    monkeypatch.setattr(reliability, "SECTIONS", sections)
    monkeypatch.setattr(reliability, "PAGE", tmp_path / "PAGE.md")
    monkeypatch.setattr(reliability, "ROOT", tmp_path)
    return sections


def test_a_section_run_again_leaves_the_figures_of_the_others(short, capsys):
    assert reliability.main([]) == 0
    before = reliability.results_on(reliability.PAGE.read_text())
    assert before["first"].figures == {"tried": "1,234", "|": "0.5"}
    short["first"] = short["first"]._replace(figures=lambda: pytest.fail("it was run"))
    short["second"] = short["second"]._replace(figures=lambda: {"tried": 3})
    capsys.readouterr()
    assert reliability.main(["second"]) == 0
    after = reliability.results_on(reliability.PAGE.read_text())
    assert after["first"] == before["first"] and after["second"].figures == {"tried": "3"}
    printed = capsys.readouterr().out
    assert "| tried | 3 |" in printed and "1,234" not in printed


def test_a_section_that_fails_keeps_its_last_figures_and_the_others_are_run(short, capsys):
    assert reliability.main([]) == 0
    before = reliability.results_on(reliability.PAGE.read_text())

    def fail():
        raise reliability.Failed("2 of 3 survived")

    short["first"] = short["first"]._replace(figures=fail)
    short["second"] = short["second"]._replace(figures=lambda: {"tried": 5})
    assert reliability.main([]) == 1
    after = reliability.results_on(reliability.PAGE.read_text())
    assert after["first"] == before["first"] and after["second"].figures == {"tried": "5"}
    assert "2 of 3 survived" in capsys.readouterr().out


def test_an_unknown_section_is_refused(capsys):
    with pytest.raises(SystemExit):
        reliability.main(["mutant"])
    assert "unknown section mutant; known: operations, " in capsys.readouterr().err


# ---- what counts ---------------------------------------------------------------------------------

COUNTED = """
import pytest
from hypothesis import assume, given, settings, strategies as st

@settings(max_examples=7, database=None)
@given(st.integers())
def test_law(n):
    assume(n % 2)

@pytest.mark.parametrize("n", [1, 2, pytest.param(3, marks=pytest.mark.skip)])
def test_numbers(n, record_property):
    record_property("weight", 10 * n)
"""


def test_cases_and_recorded_numbers_are_counted(tmp_path):
    """Those that satisfy what they assume, and those of tests that ran."""
    (tmp_path / "test_counted.py").write_text(COUNTED)
    command = [sys.executable, "-m", "pytest", "-p", "tests.tally", "-p", "no:cacheprovider"]
    command += ["--tally", tmp_path / "tally.json", "--rootdir", tmp_path, tmp_path]
    done = subprocess.run(
        command, cwd=reliability.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert json.loads((tmp_path / "tally.json").read_text()) == {
        "test_counted.py::test_law": {"passed": 1, "cases": 7},
        "test_counted.py::test_numbers": {"passed": 2, "skipped": 1, "weight": 30},
    }


def test_a_test_that_fails_fails_the_section(monkeypatch, tmp_path):
    (tmp_path / "tests").mkdir()
    shutil.copy(tally.__file__, tmp_path / "tests")
    (tmp_path / "tests" / "test_wrong.py").write_text("def test_wrong():\n    assert 1 == 2\n")
    monkeypatch.setattr(reliability, "ROOT", tmp_path)
    with pytest.raises(reliability.Failed, match="assert 1 == 2"):
        reliability.tallied("test_wrong")
