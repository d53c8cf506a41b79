"""Whether a planted mistake is caught, and in what words.

    python -m tests.cuda.mistakes     # the table: which tier catches what, and with what words

A mistake is one change of the text of a program.  It is caught where the spoilt program raises an
error, gives other values than on NumPy, or costs more than the right one.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path

from .compared import close, several
from .planted import MISTAKES, TIERS, Mistake
from .tiers import Costs, Tier


def verdict(mistake: Mistake, tier: Tier) -> str:
    """What ``tier`` says of the mistake; "" if it finds nothing wrong."""
    spoilt = mistake.spoilt()
    try:
        with warnings.catch_warnings(action="ignore"):  # of NumPy, before it raises
            found = spoilt("cuda")
        compare(found, mistake.program("cpu"))
    except AssertionError as error:
        reason = " ".join(str(error).split()) or "another dtype or shape"
        return f"other values than on NumPy: {reason}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return dearer(spoilt, mistake.program, tier)


def compare(found, expected):
    """Raise unless all results are those of NumPy."""
    for got, wanted in zip(several(found), several(expected), strict=True):
        if isinstance(wanted, list):
            assert got == wanted
        else:
            close(got, wanted)


def dearer(spoilt, program, tier) -> str:
    """What ``spoilt`` costs more than ``program``; "" if nothing."""
    costs = []
    for one in (program, spoilt):
        with tier.counting() as counted:
            one("cuda")
        costs.append(counted)
    more = {field.name: getattr(costs[1], field.name) - getattr(costs[0], field.name)
            for field in fields(Costs)}  # fmt: skip
    return ", ".join(f"costs {name} {n} more" for name, n in more.items() if n > 0)


def kernel_text(mistake: Mistake) -> str:
    """The CUDA C++ of the spoilt program."""
    source = inspect.getsource(mistake.program).replace(mistake.right, mistake.wrong)
    (text,) = re.findall(r'r"""(.*?)"""', source, re.DOTALL)
    return text


def refused_by_nvrtc(chosen) -> dict[str, str]:
    """What NVIDIA's compiler says of each of these mistakes that it refuses."""
    from .host import nvrtc

    sources = {name: (kernel_text(MISTAKES[name]), ("--std=c++17",)) for name in chosen}
    return nvrtc.refused(sources)["sm_80"]


def claims(tier: str) -> list[str]:
    """The mistakes that ``tier`` must catch."""
    return [name for name, mistake in MISTAKES.items() if getattr(mistake, tier)]


def report(tier: str) -> None:
    """The rows of the table for one tier."""
    if tier == "nvrtc":
        said = refused_by_nvrtc(claims(tier))
    else:
        there = Tier(tier)
        there.start()
        said = {name: verdict(MISTAKES[name], there) for name in claims(tier)}
    for name in claims(tier):
        words = " ".join(said.get(name, "").split())
        print(f"{tier:10}{name:45}{words[:100] or 'NOT CAUGHT'}")


if __name__ == "__main__":
    if sys.argv[1:]:
        report(sys.argv[1])
    else:
        for name in TIERS:  # each in a process of its own: there is one CuPy in a process
            subprocess.run(
                [sys.executable, "-m", "tests.cuda.mistakes", name], cwd=Path(__file__).parents[2]
            )
