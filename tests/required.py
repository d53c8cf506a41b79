"""What a machine may lack, and must not where it is said to be there."""

import os

import pytest


def skip(what: str, reason: str) -> None:
    """Skip a test for want of ``what``; fail where ``TINYGRAD_RNN_REQUIRE`` names it."""
    if what in os.environ.get("TINYGRAD_RNN_REQUIRE", "").split(","):
        pytest.fail(f"{what} is required here: {reason}", pytrace=False)
    pytest.skip(reason)
