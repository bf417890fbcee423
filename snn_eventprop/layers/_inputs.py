"""Inputs of layers: checks, and events in their bins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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


def check_raster(layer: Any, raster: Tensor) -> None:
    if not isinstance(raster, Tensor):
        raise TypeError(f"input must be SpikeEvents or a tensor, got {type(raster).__name__}")
    if raster.layout != torch.strided:
        raise TypeError(
            f"a raster must be dense, got {raster.layout}; call raster.to_dense(), or "
            "SpikeEvents.from_dense(raster, dt) for spike counts"
        )
    if raster.ndim != 3 or raster.shape[2] != layer.in_features:
        raise ValueError(
            f"a raster must have shape [T, B, in_features={layer.in_features}], got "
            f"{tuple(raster.shape)}"
        )
    if raster.device != layer.weight.device:
        raise ValueError(
            f"input is on {raster.device} but the layer is on {layer.weight.device}; "
            "move them to one device"
        )
    check_backend(layer.weight)
    if raster.is_complex():
        raise TypeError(f"a raster must be real, got {raster.dtype}")


def events_on_grid(
    events: SpikeEvents, dt: float, steps: int, dtype: torch.dtype
) -> tuple[grid.Events, Tensor | None]:
    bins = bin_of(events.times, dt, steps)
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
