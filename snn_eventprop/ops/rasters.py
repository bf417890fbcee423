"""Rasters to events, and spikes to rasters."""

import torch
from torch import Tensor

from ._operator import no_second_derivative, operator
from .packing import sample_of_each


@operator("snn_eventprop::dense_events")
def raster_events(raster: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    index = raster.transpose(0, 1).nonzero()
    sample, bins, units = index.unbind(1)
    values = raster[bins, sample, units]
    if bool((values == 1).all()):
        values = values[:0]
    offsets = torch.zeros(raster.shape[1] + 1, dtype=torch.int64, device=raster.device)
    torch.cumsum(torch.bincount(sample, minlength=raster.shape[1]), 0, out=offsets[1:])
    return bins.int(), units.clone(), values.clone(), offsets


@raster_events.register_fake
def _(raster):
    ctx = torch.library.get_ctx()
    events, weighted = ctx.new_dynamic_size(), ctx.new_dynamic_size()
    new = raster.new_empty
    return (
        new(events, dtype=torch.int32),
        new(events, dtype=torch.int64),
        new(weighted),
        new(raster.shape[1] + 1, dtype=torch.int64),
    )


@operator("snn_eventprop::to_raster")
def raster_of(
    stamps: Tensor, bins: Tensor, units: Tensor, offsets: Tensor, steps: int, size: int, hold: bool
) -> Tensor:
    batch = offsets.numel() - 1
    sample = sample_of_each(offsets, bins.numel())
    raster = stamps.new_zeros((steps, batch, size))
    raster[bins.long(), sample, units] = 1
    return raster


@raster_of.register_fake
def _(stamps, bins, units, offsets, steps, size, hold):
    return stamps.new_empty((steps, offsets.shape[0] - 1, size))


@operator("snn_eventprop::raster_worth_change")
def raster_worth_change(
    grad: Tensor, bins: Tensor, units: Tensor, offsets: Tensor, hold: bool
) -> Tensor:
    steps = grad.shape[0]
    sample = sample_of_each(offsets, bins.numel())
    k, n = bins.long(), units
    last = k == steps - 1
    now = grad[k, sample, n]
    later = grad[(k + 1).clamp(max=max(steps - 1, 0)), sample, n]
    return torch.where(last, now if hold else torch.zeros_like(now), later) - now


@raster_worth_change.register_fake
def _(grad, bins, units, offsets, hold):
    return grad.new_empty(bins.shape)


raster_worth_change.register_autograd(no_second_derivative)


def _raster_setup(ctx, inputs, output) -> None:
    _, bins, units, offsets, _, _, ctx.hold = inputs
    ctx.save_for_backward(bins, units, offsets)


def _raster_backward(ctx, grad):
    change = raster_worth_change(grad, *ctx.saved_tensors, ctx.hold)
    return change, None, None, None, None, None, None


raster_of.register_autograd(_raster_backward, setup_context=_raster_setup)




@operator("snn_eventprop::peaks_raster")
def raster_of_peaks(
    values: Tensor, bins: Tensor, units: Tensor, offsets: Tensor, steps: int, size: int
) -> Tensor:
    """Zeros ``[T, B, H]``, of which only the gradient is kept: that of the bins of peaks."""
    return values.new_zeros(1).expand(steps, offsets.numel() - 1, size)


@raster_of_peaks.register_fake
def _(values, bins, units, offsets, steps, size):
    return values.new_zeros(1).expand(steps, offsets.shape[0] - 1, size)


@operator("snn_eventprop::at_peaks")
def at_peaks(grad: Tensor, bins: Tensor, units: Tensor, offsets: Tensor) -> Tensor:
    """Entries ``[S3]`` of ``grad`` [T, B, H]."""
    return grad[bins.long(), sample_of_each(offsets, bins.numel()), units]


@at_peaks.register_fake
def _(grad, bins, units, offsets):
    return grad.new_empty(bins.shape)


at_peaks.register_autograd(no_second_derivative)


def _peaks_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[1:4])


def _peaks_backward(ctx, grad):
    return at_peaks(grad, *ctx.saved_tensors), None, None, None, None, None


raster_of_peaks.register_autograd(_peaks_backward, setup_context=_peaks_setup)
