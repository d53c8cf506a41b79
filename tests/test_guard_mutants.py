"""The guards can fail to guard: each is taken away, and the check that stands for it has to notice.

A check that ends in another error than a failed comparison does not count as having noticed.
"""

import contextlib
import inspect

import pytest

import tinygrad_rnn as tg

from .guards import GUARDS, WATCHED
from .test_fetch import folder, pem  # noqa: F401  fixtures of the checks
from .test_training import whole  # noqa: F401

pytestmark = pytest.mark.unwatched


def arguments_of(check, chosen, request):
    """What a check is called with: the fixtures that it names, and what is chosen."""
    names = inspect.signature(check).parameters
    return {name: request.getfixturevalue(name) for name in names if name not in chosen} | chosen


def watched(check):
    return tg.detect_anomaly() if check in WATCHED else contextlib.nullcontext()


CHECKS = {}  # each once, under the name of the first guard that it stands for
for name, (_, *check) in GUARDS.items():
    if check not in CHECKS.values():
        CHECKS[name] = check


@pytest.mark.parametrize("name", CHECKS)
def test_the_right_guards_pass(name, request):
    check, chosen = CHECKS[name]
    with watched(check):
        check(**arguments_of(check, chosen, request))


@pytest.mark.parametrize("name", GUARDS)
def test_every_spoiled_guard_is_noticed(name, request):
    spoil, check, chosen = GUARDS[name]
    arguments = arguments_of(check, chosen, request)
    with pytest.MonkeyPatch.context() as patch, watched(check):
        spoil(patch)
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            check(**arguments)
