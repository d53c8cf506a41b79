"""Every test here is of the tier that ``--tier`` names."""

import pytest

from . import host
from .tiers import Tier


def pytest_collection_modifyitems(items):
    """What compiles all kernels that the others have launched comes after them."""
    items.sort(key=lambda item: "test_nvrtc" in item.nodeid)


def pytest_terminal_summary(terminalreporter, config):
    """What it was that has passed."""
    if config.getoption("--tier") == "host":
        terminalreporter.write_line(host.summary())


@pytest.fixture(scope="package")
def tier(request):
    """The tier in force; ``tier.counting()`` tells what something costs."""
    tier = Tier(request.config.getoption("--tier"))
    tier.start()
    yield tier
    tier.stop()


@pytest.fixture(autouse=True)
def on_device(request, tier):
    """The tier for every test; those of costs are skipped where nobody can count."""
    if request.node.get_closest_marker("costs") and not tier.counts:
        pytest.skip("launches and copies are counted on the simulator and on host memory")
