"""The catalogue of errors, `ERRORS.md`: every message in it is what its program ends with.

`python -m tests.test_golden_errors` writes the messages anew, for review.
"""

import copy
import pickle
import re
import sys
from contextlib import chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn import backend, engine

from .cuda.tiers import Tier

pytestmark = pytest.mark.unwatched  # messages as they are outside anomaly mode

PAGE = Path(__file__).with_name("ERRORS.md")
ENTRY = re.compile(r"### (?P<title>.+)\n\n```python\n(?P<code>[^`]*)```\n\n```text\n([^`]*)```\n")
FOREIGN = {  # the errors that are not of our family, and why
    "A name of PyTorch's": "hasattr needs an AttributeError",
    "The data, as PyTorch calls it": "hasattr needs an AttributeError",
    "A layer of PyTorch's": "hasattr needs an AttributeError",
    "A ufunc of NumPy": "NumPy refuses by itself what it must leave to us, ndarray * Tensor too",
    "A module without forward": "a method that a subclass has to define is Python's own subject",
    "A VJP that fails": "the body of a VJP is the learner's, and so is its error",
    "An error of Python's inside a fold": "the body of a cell is the learner's too",
}


def entries(page):
    """The entries by title: the program and the message."""
    return {title: (code, text) for title, code, text in ENTRY.findall(page)}


class NoCuPy:
    """A finder that knows of every module but CuPy: what the page says is of a machine without."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "cupy":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextmanager
def without_cupy():
    """``import cupy`` fails, be it installed or not."""
    kept = sys.modules.pop("cupy", None)
    sys.meta_path.insert(0, NoCuPy)
    backend._cupy.cache_clear()
    try:
        yield
    finally:
        backend._cupy.cache_clear()
        sys.meta_path.remove(NoCuPy)
        if kept:
            sys.modules["cupy"] = kept


@contextmanager
def with_a_gpu():
    """What stands in for one in the ordinary tests of devices does so here."""
    tier = Tier("simulator")
    tier.start()
    try:
        yield
    finally:
        tier.stop()


def raised(code, opening):
    """The error that a program ends with; None if it ends well."""
    machine = with_a_gpu if "# where there is a GPU" in code else without_cupy
    names = {"__name__": "learner"}
    exec(opening, names)
    tg.manual_seed(0)
    operations = dict(engine.OPERATIONS)
    with TemporaryDirectory() as folder, chdir(folder), np.errstate(all="ignore"), machine():
        try:
            exec(compile(code, "learner.py", "exec"), names)
        except Exception as error:
            return error
        finally:  # the learner's operations are none of ours
            engine.OPERATIONS.clear()
            engine.OPERATIONS.update(operations)
    return None


def told(error):
    """What Python prints of an error below its traceback."""
    notes = getattr(error, "__notes__", [])
    return "\n".join([f"{type(error).__name__}: {error}", *notes]) + "\n"


TEXT = PAGE.read_text(encoding="utf-8")
OPENING = re.search(r"```python\n([^`]*)```", TEXT)[1]
ENTRIES = entries(TEXT)


@pytest.fixture(scope="module")
def errors():
    """The error of each program."""
    return {title: raised(code, OPENING) for title, (code, _) in ENTRIES.items()}


@pytest.mark.parametrize("title", ENTRIES)
def test_the_message_is_that_of_the_page(title):
    code, text = ENTRIES[title]
    error = raised(code, OPENING)
    assert error is not None, "this program ends well"
    assert told(error) == text


def test_every_heading_is_an_entry():
    assert len(ENTRIES) == TEXT.count("\n### ") == TEXT.count("```text\n") >= 60


def test_every_error_is_of_our_family_or_is_listed(errors):
    foreign = {title for title, e in errors.items() if not isinstance(e, tg.TinygradRNNError)}
    assert foreign == set(FOREIGN)


def test_every_error_of_our_family_ends_in_one_hint_and_names_the_line(errors):
    for title, error in errors.items():
        if title not in FOREIGN:
            lines = str(error).splitlines()
            hints = [i for i, line in enumerate(lines) if line.startswith("  hint: ")]
            assert len(hints) == 1, title
            assert lines[1:].count(lines[0]) == 0
            where = [i for i, line in enumerate(lines) if line.startswith("  at: learner.py:")]
            assert len(where) == 1 and where < hints, title


def test_no_message_runs_on_or_shows_what_is_private(errors):
    for title, error in errors.items():
        first, *rest = str(error).splitlines()
        assert not first.startswith("_") and len(first) < 200, title
        assert all(line.startswith("  ") and len(line) < 160 for line in rest), title
        assert len(rest) < 12, title
        assert not re.search(r"(?<![\w.])_(?!shape)[a-z]\w+|tensor\(\[| at 0x", str(error)), title


def test_errors_survive_pickle_and_copy(errors):
    for error in errors.values():
        for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert type(copied) is type(error)
            assert str(copied) == str(error)
            assert {**vars(copied)} == {**vars(error)}


def test_the_bare_message_is_the_only_argument(errors):
    for title, error in errors.items():
        if title not in FOREIGN:
            (bare,) = error.args
            assert str(error).splitlines()[0] == bare.splitlines()[0] and "\n  at: " not in bare


def rewritten(page):
    """The page with the messages that its programs end with."""

    def entry(match):
        title, code, _ = match.groups()
        error = raised(code, OPENING)
        if error is None:
            raise SystemExit(f"{title}: this program ends well")
        return f"### {title}\n\n```python\n{code}```\n\n```text\n{told(error)}```\n"

    return ENTRY.sub(entry, page)


if __name__ == "__main__":
    PAGE.write_text(rewritten(TEXT), encoding="utf-8")
    print(f"{len(ENTRIES)} messages in {PAGE.name}; git diff shows what has changed")
