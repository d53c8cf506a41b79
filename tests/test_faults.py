"""Faults on purpose: a sample of what `python -m tests.faults` tries."""

import pytest

from tests import faults


@pytest.mark.parametrize("area", faults.AREAS)
def test_every_fault_is_survived(area):
    outcomes = list(faults.AREAS[area](8))
    assert len(outcomes) > 10
    assert [kind for kind, survived in outcomes if not survived] == []


def test_the_figures_count_what_was_not_survived_too(monkeypatch):
    outcomes = [("x", True), ("y", False), ("x", True)]
    monkeypatch.setattr(faults, "AREAS", {"faults": lambda most: iter(outcomes)})
    assert faults.figures(full=False) == {"faults": 3, "faults: survived": 2}
    assert faults.main() == 1
