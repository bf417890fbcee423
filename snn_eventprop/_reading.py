"""What people bring as spike trains and rasters, as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def check_integers(name: str, value: Tensor) -> None:
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got {value.dtype}")


def raster_tensor(raster: Any, like: Tensor | None = None) -> Tensor:
    """A raster as a dense tensor; of an array, on the device of ``like``.

    Raises:
        TypeError: neither a tensor nor an array of numbers.
    """
    if isinstance(raster, np.ndarray):
        if raster.dtype.kind not in "biufc":
            raise TypeError(
                f"a raster must hold numbers, got an array of {raster.dtype}; events are packed by "
                "SpikeEvents.from_list"
            )
        # A copy where the array is read-only, of which torch would warn.
        whole = np.require(raster, requirements=["C", "W"])
        return torch.from_numpy(whole).to(None if like is None else like.device)
    if not isinstance(raster, Tensor):
        raise TypeError(
            f"raster must be a tensor or an array [T, B, N], got {type(raster).__name__}"
        )
    return raster if raster.layout == torch.strided else raster.to_dense()


def spike_train(sample: Any, index: int, time_unit: float | None) -> tuple[Tensor, Tensor]:
    """Times in seconds (float64) and units of one sample of a list.

    Args:
        sample: a pair (times, units), or a structured array with fields t and x.
        index: its place in the list, for errors.
        time_unit: what times are multiples of, in seconds; None: a pair is in seconds.
    """
    if getattr(getattr(sample, "dtype", None), "names", None) is not None:
        sample = _fields(sample, index, time_unit)
    try:
        times, units = sample
        len(times), len(units)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"sample {index} must be a pair of lists (times, units), got {sample!r:.60}; "
            "one sample is given as [(times, units)]"
        ) from error
    t = torch.as_tensor(times, dtype=torch.float64).flatten()
    if time_unit is not None:
        t = t * time_unit
    u = torch.as_tensor(units).flatten()
    if u.numel() == 0:
        u = u.long()
    check_integers(f"sample {index}: units", u)
    if t.shape != u.shape:
        raise ValueError(
            f"sample {index}: {t.numel()} times but {u.numel()} units; give one unit a time"
        )
    return t, u


def _fields(
    events: np.ndarray, index: int, time_unit: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Times and units of tonic's structured array: fields t and x, and of sensors y and p."""
    names = events.dtype.names or ()
    if "t" not in names or "x" not in names:
        raise TypeError(
            f"sample {index} is a structured array with fields {', '.join(names)}; it needs t and "
            "x, or give a pair (times, units)"
        )
    if time_unit is None:
        raise ValueError(
            f"sample {index} is a structured array, whose t may be in any unit: pass "
            "time_unit=1e-6 if they are microseconds, as in tonic's data sets"
        )
    for name, what in (("y", "rows"), ("p", "polarities")):
        if name in names and events.size and np.ptp(events[name].astype(np.int64)):
            raise ValueError(
                f"sample {index} has events of several {what} (field {name}), which x alone does "
                "not tell apart; give a pair (times, units) with a unit number for each, such as "
                "x + width * (y + height * p)"
            )
    return np.ascontiguousarray(events["t"]), np.ascontiguousarray(events["x"])
