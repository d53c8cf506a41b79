"""Each planted mistake is caught by the tiers that are there to catch it, in words that help."""

import inspect
import re
import warnings

import pytest

import tinygrad_rnn as tg

from ..required import skip
from .lapses import LAPSES
from .mistakes import claims, compare, refused_by_nvrtc, verdict
from .planted import KERNELS, MISTAKES, TIERS
from .simulator import Hazard

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
    expected = getattr(MISTAKES[name], tier.name)
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


# ---- in the package itself -----------------------------------------------------------------------


def arguments(check, chosen, tier):
    return chosen | ({"tier": tier} if "tier" in inspect.signature(check).parameters else {})


@pytest.mark.costs
def test_the_checks_of_lapses_pass(tier):
    for _, check, chosen in LAPSES.values():
        check(**arguments(check, chosen, tier))


@pytest.mark.costs
@pytest.mark.parametrize("name", LAPSES)
def test_a_lapse_is_noticed(name, tier):
    """By a comparison that fails, or by whoever refuses the call: CuPy, or the simulator."""
    spoil, check, chosen = LAPSES[name]
    noticed = AssertionError, pytest.fail.Exception, TypeError, tg.TinygradRNNError, Hazard
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
        spoil(patch)
        with pytest.raises(noticed):
            check(**arguments(check, chosen, tier))
