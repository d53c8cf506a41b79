"""Gradient checks that can fail: ``gradcheck`` for any function, and a table for every operation.

``python -m tinygrad_rnn.gradcheck`` checks all that is registered and prints the table.
"""

from .check import Report, gradcheck, gradgradcheck

__all__ = ["Report", "gradcheck", "gradgradcheck"]
