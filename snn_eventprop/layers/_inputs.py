"""Inputs of layers: checks, and events in their bins."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._reading import raster_tensor
from .._warnings import warn_of_batch_first
from ..events import SpikeEvents
from ..ops import grid
from ..ops.bin_times import bin_of
from ..ops.checks import check_backend


def check_units(layer: Any, events: SpikeEvents) -> None:
    check_backend(layer.weight)
    if events.num_units != layer.in_features:
        raise ValueError(
            f"events have num_units={events.num_units} but the layer has "
            f"in_features={layer.in_features}"
        )
    if events.device != layer.weight.device:
        raise ValueError(
            f"events are on {events.device} but the layer is on {layer.weight.device}; "
            f"call events.to({str(layer.weight.device)!r})"
        )


def checked_raster(layer: Any, raster: Any) -> Tensor:
    """A raster ``[T, B, N]`` of real numbers on the layer's device, from ``[T, N]`` too, sparse
    tensors and arrays."""
    if not isinstance(raster, (Tensor, np.ndarray)):
        raise TypeError(
            f"input must be SpikeEvents, a tensor or an array, got {type(raster).__name__}"
        )
    raster = raster_tensor(raster, layer.weight)
    if raster.ndim not in (2, 3) or raster.shape[-1] != layer.in_features:
        raise ValueError(
            f"a raster must have shape [T, B, in_features={layer.in_features}], or [T, "
            f"in_features] of one sample, got {tuple(raster.shape)}"
        )
    warn_of_batch_first(raster.shape, layer.dt)
    if raster.device != layer.weight.device:
        raise ValueError(
            f"input is on {raster.device} but the layer is on {layer.weight.device}; "
            "move them to one device"
        )
    check_backend(layer.weight)
    if raster.is_complex():
        raise TypeError(f"a raster must be real, got {raster.dtype}")
    return raster if raster.ndim == 3 else raster[:, None]


def unbatched(input: Any) -> bool:
    """Whether a raster is of one sample, ``[T, N]``; its output is too."""
    return not isinstance(input, SpikeEvents) and input.ndim == 2


def events_on_grid(
    events: SpikeEvents, dt: float, steps: int, dtype: torch.dtype
) -> tuple[grid.Events, Tensor | None]:
    bins = events._bins(dt, steps)
    stamps = events.times.to(dtype) / dt if events.times.requires_grad else None
    ones = events.times.new_empty(0, dtype=dtype)
    return grid.Events(bins, events.units, ones, events.offsets), stamps


def raster_of_peaks(events: SpikeEvents, dt: float, steps: int) -> Tensor | None:
    """The raster that gives peaks among the events their gradient, or None."""
    peaks = events.peaks
    if peaks is None:
        return None
    bins = peaks.bins
    if peaks.dt != dt:
        bins = bin_of(bins.double() * peaks.dt, dt, steps)
    return grid.raster_of_peaks(
        peaks.values, bins, peaks.units, peaks.offsets, steps, events.num_units
    )


def wanted(raster: Tensor, dtype: torch.dtype) -> Tensor | None:
    return raster.to(dtype) if raster.requires_grad else None


def within_own_durations(spikes: SpikeEvents, dt: float | None = None) -> SpikeEvents:
    """Without the spikes that a layer made after the end of their own sample.

    A batch runs until its longest sample ends. In bins of ``dt`` a sample ends with its last bin;
    None: at its duration.
    """
    if spikes.of_one_length:
        return spikes
    samples = spikes.samples()
    if dt is None:
        return spikes._within(spikes.times <= spikes.durations.to(spikes.dtype)[samples])
    bins = bin_of(spikes.times.detach(), dt)
    ends = spikes.num_bins(dt)
    kept = spikes._within(bins < ends[samples])
    kept.peaks = None if spikes.peaks is None else spikes.peaks.before(ends)
    return kept
