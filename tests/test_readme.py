"""The README's code runs, and prints what its comments say it prints."""

import contextlib
import io
import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_code_prints_what_the_comments_say():
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.S))
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.M)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue().splitlines() == expected and len(expected) >= 3


def test_it_says_early_that_it_is_not_tinygrad():
    assert "Not affiliated" in "\n".join(README.splitlines()[:6])
