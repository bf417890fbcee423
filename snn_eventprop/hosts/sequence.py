"""Whole sequences of a host library's cells on the fused grid engine.

The engine runs one step after another from the state it is given to the state it returns, so a
chunk may follow another one, or single steps of ``hosts.step``. Gradients cross the border between
them: the returned membrane carries the slopes of the last bin's spikes, and the next bin sends its
share of their gradient back through it, as ``step`` describes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..diagnostics import LayerRecord, new_probe
from ..neurons.lif import RESETS, is_later
from ..ops import grid as op
from ..ops.packing import sample_of_each
from .linear_current import LinearDrive
from .step import beside_the_drop
from .step_memory import Earlier, remember_spikes, was_followed

KERNEL_DTYPES = (torch.float32, torch.float64)


class Sequence(NamedTuple):
    spikes: Tensor  # [T, B, ...]
    current: Tensor  # [B, ...] I of the last bin, before it is scaled by s
    membrane: Tensor  # [B, ...] V of the last bin
    trace: Tensor | None  # [T, B, ...] V of every bin
    record: LayerRecord


class _FirstBin(torch.autograd.Function):
    """Send the first bin's share of the gradient back to the spikes of the bin before it."""

    @staticmethod
    def forward(raster, membrane, threshold, end, inverse, drop, delayed):
        return raster.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, _, _, _, inverse, drop, ctx.delayed = inputs
        ctx.save_for_backward(inverse, drop)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_raster):
        inverse, drop = ctx.saved_tensors
        sent = grad_raster[0] * inverse / (1 - drop * inverse)
        grad_threshold = sent.sum(0) if ctx.delayed else None
        grad_end = sent.new_ones(()).expand_as(sent)
        return grad_raster, -sent, grad_threshold, grad_end, None, None, None


class _Raster(torch.autograd.Function):
    """``op.to_raster``; the end of the last bin is that of the recording where nothing follows.

    The second result is ``Earlier.end``.
    """

    @staticmethod
    def forward(stamps, bins, units, offsets, last, sample, steps, size):
        raster = op.raster_of(stamps, bins, units, offsets, steps, size, False)
        return raster, stamps.new_zeros(()).expand(len(offsets) - 1, size)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, *saved, _, _ = inputs
        ctx.save_for_backward(*saved)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_raster, end):
        bins, units, offsets, last, sample = ctx.saved_tensors
        change = op.raster_worth_change(grad_raster, bins, units, offsets, False)
        change[last] *= was_followed(end[sample, units[last]])
        return change, *(None,) * 7


class _CountsToo(torch.autograd.Function):
    """Let a raster's gradient act on V - threshold as well, as if d(spike)/dV were ``slope``.

    What that adds to dL/dV reaches the engine through the trace and, at spikes, through their
    marks, which the jump leaves alone.
    """

    @staticmethod
    def forward(raster, trace, marks, threshold, slope, *at):
        return raster.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[4:])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_raster):
        slope, *at = ctx.saved_tensors
        added = grad_raster * slope
        grad_threshold = -added.sum((0, 1)) if ctx.needs_input_grad[3] else None
        spikes = tuple(at)
        grad_marks = added[spikes]
        added[spikes] = 0
        return grad_raster, added, grad_marks, grad_threshold, None, *(None for _ in at)


_PIECE = 2**16  # numbers that fit into a cache with all that surrogates make of them


def count_slopes(count_slope: Callable[[Tensor], Tensor], over: Tensor) -> Tensor:
    """``count_slope`` of V - threshold [T, B, ...], a few steps at a time, written over it."""
    for piece in over.split(max(_PIECE // max(over[:1].numel(), 1), 1)):
        piece.copy_(count_slope(piece))
    return over


def _with_counts(
    raster: Tensor,
    spikes: op.GridSpikes,
    voltage0: Tensor,
    coefficients: Tensor,
    delayed: bool,
    count_slope: Callable[[Tensor], Tensor],
) -> Tensor:
    """``raster`` [T, B, H] with a straight-through gradient in addition to that of spike times.

    ``count_slope`` maps V - theta [T, B, H] to a straight-through d(spike)/dV.
    """
    m, threshold = coefficients[2:]
    sample = sample_of_each(spikes.offsets, spikes.bins.numel())
    at = (spikes.bins.long(), sample, spikes.units)
    over = spikes.trace.detach() - threshold.detach()
    if not delayed:
        # The trace holds V after the reset; before it, V - theta = m (V_last - theta) + V' dt. An
        # infinite slope is that of a spike whose bin began at the threshold, to the last digit.
        last = torch.cat([voltage0[None], spikes.trace[:-1]]).detach()[at] - threshold[at[2]]
        rise = torch.where(torch.isfinite(spikes.slopes), spikes.slopes, 0)
        over[at] = (m[at[2]] * last + rise).detach()
    return _CountsToo.apply(raster, spikes.trace, spikes.marks, threshold, count_slope(over), *at)


class _LastJump(torch.autograd.Function):
    """The membrane of the last bin, whose spikes jump by other slopes than the engine's.

    What later bins send for those spikes is divided by f = 1 - drop / slope (see ``step``), so
    the jump has to scale it with the same f. It does with the engine's; the difference, ``more``,
    reaches a at each spike through the spike's mark, which the jump leaves alone.
    """

    @staticmethod
    def forward(voltage, marks, threshold, more, last, sample, units):
        return voltage.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, marks, threshold, *saved = inputs
        ctx.save_for_backward(*saved)
        ctx.sizes = marks.numel(), threshold.numel()

    @staticmethod
    @once_differentiable
    def backward(ctx, p):
        more, last, sample, units = ctx.saved_tensors
        spikes, size = ctx.sizes
        added = p.reshape(len(p), size)[sample, units] * more
        grad_marks = p.new_zeros(spikes).index_put((last,), added)
        grad_threshold = p.new_zeros(size).index_put((units,), -added, accumulate=True)
        return p, grad_marks, grad_threshold, None, None, None, None


class _Last(NamedTuple):
    """Spikes of the last bin."""

    place: Tensor  # [S] among those of all bins
    sample: Tensor  # [S]
    units: Tensor  # [S]


def _of_last_bin(spikes: op.GridSpikes, steps: int) -> _Last:
    last = (spikes.bins == steps - 1).nonzero().squeeze(1)
    sample = sample_of_each(spikes.offsets, spikes.bins.numel())[last]
    return _Last(last, sample, spikes.units[last].long())


def _handed_on(
    spikes: op.GridSpikes,
    of_last: _Last,
    end: Tensor,
    shape: list[int],
    threshold: Tensor,
    floor: Tensor,
    drop: Tensor,
) -> Tensor:
    """The membrane [B, *shape] of the last bin, which remembers its spikes."""
    voltage = spikes.last_voltage.view(len(spikes.last_voltage), *shape)
    last, sample, units = of_last
    with torch.no_grad():
        height = drop[units]
        engines = torch.maximum(spikes.slopes[last], floor[units])
        slope = beside_the_drop(engines, height)
        inverse = torch.zeros_like(spikes.last_voltage)
        inverse[sample, units] = 1 / slope
        more = torch.where(slope == engines, 0, height * (1 / engines - 1 / slope))
    membrane = _LastJump.apply(voltage, spikes.marks, threshold, more, last, sample, units)
    remember_spikes(membrane, Earlier(inverse.view_as(membrane), end.reshape(membrane.shape)))
    return membrane


class Dynamics(NamedTuple):
    """One step: I <- I + X[k]; V <- m V + c I; spike where V > threshold; reset; I <- s I.

    All broadcast against the neurons' shape [...].
    """

    s: Tensor
    c: Tensor
    m: Tensor
    threshold: Tensor
    floor: Tensor  # smallest slope per step used in the jump
    reset: str  # one of ``neurons.lif.RESETS``
    v_reset: Tensor | float = 0.0  # without a gradient


class Before(NamedTuple):
    """What a sequence starts from, [B, ...]."""

    membrane: Tensor
    current: Tensor | None = None  # after scaling by s; None: 0
    earlier: Earlier | None = None  # ``step.earlier_spikes`` of the membrane that came in
    spikes: Tensor | None = None  # of the bin before, which reach synapses and later resets


def run_sequence(
    current: Tensor | LinearDrive,
    dynamics: Dynamics,
    before: Before,
    *,
    recurrent: Tensor | None = None,
    trace: bool = False,
    count_slope: Callable[[Tensor], Tensor] | None = None,
) -> Sequence:
    """T steps of a population of neurons.

    Args:
        current: [T, B, ...] X, float32 or float64; or a sparse ``LinearDrive`` of [T, B, H].
        recurrent: [H, H], one row per presynaptic neuron, H neurons numbered over [...].
        trace: return V of every bin.
        count_slope: straight-through d(spike)/dV as a function of V - threshold [T, B, ...], added
            to the exact gradient (a heuristic; not of recurrent layers, whose spikes have a
            sensitivity of their own).
    """
    delayed = is_later(RESETS[dynamics.reset])
    earlier = before.earlier
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

    coefficients = torch.stack([per_neuron(value) for value in dynamics[:4]])
    rest = per_neuron(dynamics.v_reset).detach()
    floors = per_neuron(dynamics.floor).detach()
    drop = coefficients[3].detach() - rest
    voltage0 = before.membrane.to(like.dtype).reshape(batch, size)
    spikes0 = per_sample(before.spikes)
    slopes0 = None
    if earlier is not None:
        inverse = earlier.inverse.to(like.dtype).reshape(batch, size)
        slopes0 = 1 / inverse
        if spikes0 is None:
            spikes0 = (inverse != 0).to(like.dtype)
    first = per_sample(before.current)
    state0 = torch.stack([torch.zeros_like(voltage0) if first is None else first, voltage0])
    probe = new_probe(like)
    spikes = op.grid_lif(
        events, steps, weight,
        op.Population("lif", torch.cat([coefficients, rest[None]]), floors, dynamics.reset),
        recurrent=recurrent, drive=op.Drive(**inputs), start=op.State(state0, spikes0, slopes0),
        record=trace or count_slope is not None, probe=probe,
    )  # fmt: skip
    if spikes.stamps.requires_grad:
        of_last = _of_last_bin(spikes, steps)
        out, end = _Raster.apply(
            spikes.stamps, spikes.bins, spikes.units, spikes.offsets, of_last.place, of_last.sample,
            steps, size,
        )  # fmt: skip
        membrane = _handed_on(spikes, of_last, end, shape, coefficients[3], floors, drop)
    else:
        out = op.to_raster(spikes, steps, size, hold=False)
        membrane = spikes.last_voltage.view(batch, *shape).clone()
    if count_slope is not None and out.requires_grad:
        out = _with_counts(
            out, spikes, voltage0, coefficients, delayed,
            lambda over: count_slopes(count_slope, over.view(steps, batch, *shape)).view_as(over),
        )  # fmt: skip
    if earlier is not None:
        out = _FirstBin.apply(
            out,
            voltage0,
            coefficients[3],
            earlier.end.reshape(batch, size),
            inverse,
            drop,
            delayed,
        )
    return Sequence(
        out.view(steps, batch, *shape),
        spikes.last_current.view(batch, *shape).clone(),
        membrane,
        spikes.trace.view(steps, batch, *shape) if trace else None,
        LayerRecord(spikes.units, spikes.offsets, size, probe),
    )
