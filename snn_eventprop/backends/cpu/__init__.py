"""Numba kernels for the CPU."""

from __future__ import annotations

from . import bin_times, exact_launch, grid, readout  # noqa: F401
