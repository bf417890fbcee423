"""Warnings that point at the line of the caller, and what they warn of."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

_HERE = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)
_LONGEST_BIN = 0.5  # s; a wider one was meant in milliseconds
_SHORT_RECORDING = 0.1  # s; fewer bins than that may be a batch
_said: set[object] = set()


def warn(message: str, *, once: object = None) -> None:
    """Warn at the line outside of this package and of torch that led here.

    Args:
        message: the warning.
        once: a key; the same one warns once in a process. None: as often as Python's filters let.
    """
    if once is not None:
        if once in _said:
            return
        _said.add(once)
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_HERE, _TORCH)):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, stacklevel=depth + 1)


def warn_of_wide_bins(dt: float) -> None:
    """Warn of a ``dt`` that was probably meant in milliseconds."""
    if dt >= _LONGEST_BIN:
        warn(f"dt={dt:g} s is long for a bin; it is in seconds: 1 ms is 1e-3", once=("dt", dt))


def warn_of_batch_first(shape: Sequence[int], dt: float) -> None:
    """Warn of a raster whose first two dimensions look exchanged: few bins, and many samples."""
    if len(shape) != 3 or torch.compiler.is_compiling():
        return
    steps, batch = shape[:2]
    if batch >= 2 * steps > 2 and steps * dt < _SHORT_RECORDING:
        warn(
            f"a raster of shape {tuple(shape)} is read as [T, B, N]: T={steps} bins of "
            f"{dt * 1e3:g} ms and B={batch} samples. If it is [B, T, N], pass "
            "raster.transpose(0, 1)",
            once=("batch first", steps, batch),
        )
