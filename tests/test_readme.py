"""The README's code runs, and prints what its comments say it prints."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from benchmarks import count

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.unwatched  # a profile looks on alone
def test_the_code_prints_what_the_comments_say():
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.S))
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.M)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue().splitlines() == expected and len(expected) >= 3


def test_it_says_early_that_it_is_not_tinygrad():
    assert "Not affiliated" in "\n".join(README.splitlines()[:6])


def test_the_reading_order_and_its_lines_are_those_counted(capsys):
    count.main()
    counted = re.findall(r"^tinygrad_rnn\.(\S+) +\d+ +\d+ +(\d+)", capsys.readouterr().out, re.M)
    files = [(name, lines) for name, lines in counted if name not in ("nn", "gradcheck")]
    assert re.findall(r"^\| `(\S+)` \| (\d+) \|", README, re.M) == files
