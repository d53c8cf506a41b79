"""Kernels for a GPU: each does in one launch what the body of the same name does on NumPy."""

from __future__ import annotations
