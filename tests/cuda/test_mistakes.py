"""Each planted mistake is caught by the tiers that are there to catch it, in words that help."""

import re
import warnings

import pytest

from ..required import skip
from .mistakes import KERNELS, MISTAKES, TIERS, claims, compare, refused_by_nvrtc, verdict

PROGRAMS = {mistake.program.__name__: mistake.program for mistake in MISTAKES.values()}
ON_NUMPY = [name for name, mistake in MISTAKES.items() if mistake.program not in KERNELS]


def test_every_mistake_is_caught_somewhere():
    assert len(MISTAKES) >= 30
    assert set(MISTAKES) == {name for tier in TIERS for name in claims(tier)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_right_programs_are_right(name, tier):
    program = PROGRAMS[name]
    if program in KERNELS and tier.name == "simulator":
        pytest.skip("the simulator has no kernels")
    compare(program("cuda"), program("cpu"))


@pytest.mark.parametrize("name", ON_NUMPY)
def test_numpy_accepts_the_mistake(name):
    mistake = MISTAKES[name]
    with warnings.catch_warnings(action="ignore"):
        compare(mistake.spoilt()("cpu"), mistake.program("cpu"))


@pytest.mark.parametrize("name", MISTAKES)
def test_the_mistake_is_caught(name, tier):
    expected = getattr(MISTAKES[name], tier.name, "")
    if not expected:
        pytest.skip(f"{tier.name} is not there to catch this")
    said = verdict(MISTAKES[name], tier)
    assert re.search(expected, said), said


def test_nvrtc_refuses_what_gxx_may_let_pass(tier):
    if tier.name != "host":
        pytest.skip("on tier host")
    from .host import nvrtc

    if reason := nvrtc.missing():
        skip("cupy", reason)
    said = refused_by_nvrtc(claims("nvrtc"))
    for name in claims("nvrtc"):
        assert re.search(MISTAKES[name].nvrtc, said[name]), said[name]
