"""Whole sequences of a host library's cells on the fused grid engine.

The engine runs one step after another from the state it is given to the state it returns, so a
chunk may follow another one, or single steps of ``snn_eventprop.step``, and gradients cross the
border between them: the returned membrane carries the slopes of the last bin's spikes, and what
those are worth in the next bin is sent back through it as ``step`` describes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import op
from .drive import LinearDrive
from .step import remember_spikes

KERNEL_DTYPES = (torch.float32, torch.float64)


class Sequence(NamedTuple):
    spikes: Tensor  # [T, B, ...]
    current: Tensor  # [B, ...] I of the last bin, before it is scaled by s
    membrane: Tensor  # [B, ...] V of the last bin
    trace: Tensor | None  # [T, B, ...] V of every bin


class _WorthBeforeTheFirstBin(torch.autograd.Function):
    """Send back what the raster's first bin would pay for the spikes of the bin before it."""

    @staticmethod
    def forward(ctx, raster, membrane, threshold, inverse, drop, delayed):
        ctx.save_for_backward(inverse, drop)
        ctx.delayed = delayed
        return raster.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, worth):
        inverse, drop = ctx.saved_tensors
        sent = worth[0] * inverse / (1 - drop * inverse)
        grad_threshold = sent.sum(0) if ctx.delayed else None
        return worth, -sent, grad_threshold, None, None, None


def _last_inverse_slopes(spikes: op.GridSpikes, steps: int, floor: Tensor, drop: Tensor) -> Tensor:
    """Inverse slopes [B, H] of the spikes of the last bin; 0 elsewhere."""
    last = spikes.bins == steps - 1
    batch = spikes.offsets.numel() - 1
    sample = torch.repeat_interleave(
        torch.arange(batch, device=last.device), spikes.offsets.diff(), output_size=last.numel()
    )[last]
    units = spikes.units[last].long()
    slope = torch.maximum(spikes.slopes[last], floor[units])
    # Nothing can be sent through a spike whose slope is the reset to the last digit (see step).
    tiny = 4 * torch.finfo(slope.dtype).eps
    inverse = slope.new_zeros(batch, floor.numel())
    inverse[sample, units] = torch.where((slope - drop[units]).abs() <= tiny * slope, 0, 1 / slope)
    return inverse


def run_sequence(
    current: Tensor | LinearDrive,
    *,
    s: Tensor,
    c: Tensor,
    m: Tensor,
    threshold: Tensor,
    v_reset: Tensor | float = 0.0,
    floor: Tensor,
    reset: str,
    delayed: bool,
    current0: Tensor | None,
    membrane0: Tensor,
    earlier: Tensor | None = None,
    spikes0: Tensor | None = None,
    recurrent: Tensor | None = None,
    trace: bool = False,
    tag: int = 0,
) -> Sequence:
    """T steps of I <- I + X[k]; V <- m V + c I; spike where V > threshold; reset; I <- s I.

    Args:
        current: [T, B, ...] X, float32 or float64; or a sparse ``LinearDrive`` of [T, B, H].
        s, c, m, threshold, v_reset, floor: broadcast against [...] (``v_reset`` has no gradient).
        reset, delayed: as for ``op.grid_lif``.
        current0: [B, ...] I after scaling by s, or None for 0.   membrane0: [B, ...].
        earlier: ``step.earlier_spikes`` of the membrane that came in.
        spikes0: [B, ...] spikes of the bin before the first one, which reach recurrent synapses
            and delayed resets.
        recurrent: [H, H], one row per presynaptic neuron, H neurons numbered over [...].
        trace: return V of every bin.
    """
    if isinstance(current, LinearDrive):
        raster, weight = current.rows()
        steps, batch, size, shape = *raster.shape[:2], weight.shape[1], [weight.shape[1]]
        like = raster
        inputs = {"raster": raster if raster.requires_grad else None}
        events = op.dense_events(raster, raster.dtype)
    else:
        steps, batch, *shape = current.shape
        like = current.flatten(2) if shape else current.unsqueeze(2)
        size = like.shape[2]
        inputs = {"input_current": like}
        events, weight = op.no_events(batch, like), like.new_empty(0, size)

    def per_neuron(value: Tensor | float) -> Tensor:
        value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
        return value.expand(shape).reshape(size)

    def per_sample(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(like.dtype).reshape(batch, size)

    coefficients = torch.stack([per_neuron(value) for value in (s, c, m, threshold)])
    rest = per_neuron(v_reset).detach()
    floors = per_neuron(floor).detach()
    drop = coefficients[3].detach() - rest
    voltage0 = per_sample(membrane0)
    before = per_sample(spikes0)
    slopes0 = None
    if earlier is not None:
        earlier = earlier.reshape(batch, size)
        slopes0 = 1 / earlier
        if before is None:
            before = (earlier != 0).to(like.dtype)
    spikes = op.grid_lif(
        events, steps, weight, coefficients, rest, floors,
        recurrent=recurrent, current0=per_sample(current0), voltage0=voltage0, spikes0=before,
        slopes0=slopes0, reset=reset, delayed=delayed, record=trace, tag=tag, **inputs,
    )  # fmt: skip
    out = op.to_raster(spikes, steps, size, hold=False)
    if earlier is not None:
        out = _WorthBeforeTheFirstBin.apply(
            out, voltage0, coefficients[3], earlier, drop, delayed
        )
    membrane = spikes.last_voltage.view(batch, *shape).clone()
    if membrane.requires_grad:
        with torch.no_grad():
            inverse = _last_inverse_slopes(spikes, steps, floors, drop)
        remember_spikes(membrane, inverse.view(batch, *shape))
    return Sequence(
        out.view(steps, batch, *shape),
        spikes.last_current.view(batch, *shape).clone(),
        membrane,
        spikes.trace.view(steps, batch, *shape) if trace else None,
    )
