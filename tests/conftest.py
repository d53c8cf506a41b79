"""How hard hypothesis tries, and what every test starts from and must leave behind."""

import contextlib
import gc
import os
import signal

import pytest
from hypothesis import settings

import tinygrad_rnn as tg
from tinygrad_rnn import engine
from tinygrad_rnn.recording import PAUSES

from .cuda import tiers

settings.register_profile("dev", deadline=None, max_examples=60)
settings.register_profile(
    "ci", settings.get_profile("dev"), derandomize=True, database=None, print_blob=True
)
settings.register_profile("thorough", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)


def pytest_addoption(parser):
    """Which stand-in for a GPU the tests of tests/cuda use."""
    parser.addoption("--tier", choices=tiers.NAMES, default="simulator", help=tiers.__doc__)


def pytest_configure():
    """Ctrl-C as in the foreground, where a shell has told it to be ignored: some tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_slate(request):
    """The same random numbers for every test; recording on, and only our operations, after it.

    Every array that a graph keeps is watched, and every NaN is an error, but in tests marked
    otherwise: ``nonfinite``, which make NaN on purpose, and ``unwatched``, which count costs.
    """
    tg.manual_seed(0)
    operations = dict(engine.OPERATIONS)
    with detect_anomaly(request):
        yield
    engine.OPERATIONS.clear()
    engine.OPERATIONS.update(operations)
    recording = (tg.tensor(1.0, requires_grad=True) * 2).requires_grad
    if not recording:
        PAUSES.set(0)  # so that only the guilty test fails
    assert recording, "this test left recording off"


def detect_anomaly(request):
    """The context for one test; a demo is tested as it is run, where layers are one operation.

    So is what is for a device, which it would make wait after each operation.
    """
    *_, folder, name = ("", *request.module.__name__.split("."))
    if (
        folder == "cuda"
        or name.startswith("test_demo")
        or request.node.get_closest_marker("unwatched")
    ):
        return contextlib.nullcontext()
    return tg.detect_anomaly(nan=request.node.get_closest_marker("nonfinite") is None)


@pytest.fixture
def no_collector():
    """Memory that comes back without the cyclic collector, or not at all."""
    gc.collect()
    gc.freeze()  # what is there already: to count objects then does not take as long as the suite
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()
