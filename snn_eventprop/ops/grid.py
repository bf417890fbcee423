"""The grid solver as PyTorch operators: registration, shapes for tracing, autograd.

``grid_lif`` is the one entry. Spikes leave it as two differentiable vectors over the spikes,

    stamps  bin index of each spike; its gradient is the change of the spike's worth per bin, S' dt
    marks   ones; their gradient is the straight-through worth of each spike's existence

from which layers build event times (``stamps * dt``) or rasters (``to_raster``).
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from .._extras import installed, require
from ..backends.cpu import bin_times as cpu_bins
from ..backends.cpu import delayed as cpu_delays
from ..backends.cpu import grid as cpu_grid
from ..backends.cpu.compile import PAD
from ..backends.cpu.memory import Workspace
from ..backends.cpu.threads import over_samples, share_cores
from ..backends.cpu.weights import in_memory_of, read_rows, sum_rows
from ..discretisation import largest_response
from ..synapses.delays import LONGEST
from . import _jumps as _report
from ._operator import no_second_derivative, operator, or_zeros
from .packing import sample_of_each

RESETS = {
    "none": cpu_grid.RESET_NONE,
    "subtract": cpu_grid.RESET_SUBTRACT,
    "zero": cpu_grid.RESET_ZERO,
    "zero_all": cpu_grid.RESET_ZERO_ALL,
}

# Bins between two stored states, from which the backward pass replays the forward one. A GPU keeps
# the replayed bins of all samples at once.
SEGMENT = {"cpu": cpu_grid.SEGMENT, "cuda": 128}


class Events(NamedTuple):
    """Input events of a batch on the grid (``values`` empty: all one)."""

    bins: Tensor  # [S] int32, ascending within each sample
    units: Tensor  # [S] int64
    values: Tensor  # [S] or [0]
    offsets: Tensor  # [B + 1] int64


class GridSpikes(NamedTuple):
    """What ``grid_lif`` returns. S2 is the number of spikes of the batch."""

    stamps: Tensor  # [S2] float bin index, differentiable
    marks: Tensor  # [S2] ones, differentiable
    bins: Tensor  # [S2] int32
    units: Tensor  # [S2] int64
    slopes: Tensor  # [S2] V' dt at each spike
    offsets: Tensor  # [B + 1] int64
    last_current: Tensor  # [B, H] I of the last bin, before it is scaled by s
    last_voltage: Tensor  # [B, H]
    trace: Tensor  # [T, B, H] or empty


def _array(tensor: Optional[Tensor], dtype: torch.dtype, ndim: int) -> np.ndarray:
    """The tensor's memory as a NumPy array; an empty one stands for None."""
    if tensor is None:
        tensor = torch.empty((0,) * ndim, dtype=dtype)
    return tensor.detach().contiguous().numpy()


def _zeros(shape: tuple, like: Tensor, wanted: bool = True) -> Tensor:
    return like.new_zeros(shape if wanted else (0,) * len(shape))


def check_delays(name: str, shortest: float, longest: float) -> None:
    """Raise ValueError unless delays are bins that can be counted."""
    if not 0 <= shortest <= longest <= LONGEST:
        raise ValueError(f"{name} must be 0 to {LONGEST} bins, got {shortest:g} to {longest:g}")


def _delay_bins(name: str, delay: Optional[Tensor], shape: tuple[int, int]) -> np.ndarray:
    """Delays [from, to] in whole bins, [to, from]; none are zeros."""
    if delay is None:
        return np.zeros(shape[::-1], np.uint16)
    check_finite(DIVERGED, **{name: delay})
    bins = delay.detach().t().contiguous().round().numpy()
    if bins.size:
        check_delays(name, bins.min(), bins.max())
    return bins.astype(np.uint16)


def _prepared_delays(
    delay: Optional[Tensor],
    recurrent_delay: Optional[Tensor],
    weight: Tensor,
    recurrent: Optional[Tensor],
    steps: int,
    values: Tensor,
    counts: Tensor,
    backward: bool,
) -> Callable[[int, int], Optional[cpu_delays.Delays]]:
    """For a range of samples, of which each has at most ``counts`` [B] events of a kind."""
    if delay is None and recurrent_delay is None:
        return lambda lo, hi: None
    inputs, size = weight.shape
    bins = _delay_bins("delay", delay, (inputs, size))
    recurrent_bins = _delay_bins("recurrent_delay", recurrent_delay, (size, size))
    rows = weight.detach().t().contiguous().numpy()
    prepared = cpu_delays.prepare(
        rows, bins, recurrent_bins if recurrent is not None else recurrent_bins[:0, :0],
        min(steps, cpu_grid.SEGMENT), values.numel() > 0, backward,
    )  # fmt: skip
    return lambda lo, hi: prepared(int(counts[lo:hi].numpy().max(initial=0)))


def _weights(
    weight: Tensor, recurrent: Optional[Tensor], delayed: bool, work: Workspace
) -> tuple[np.ndarray, np.ndarray]:
    """Rows as kernels read them, those of delayed synapses without padding."""
    pad = 0 if delayed else PAD
    if recurrent is None:
        recurrent = weight.new_empty(0, weight.shape[1])
    return read_rows(weight, work, pad), read_rows(recurrent, work, pad)


DIVERGED = "lower the learning rate or clip gradients"
_BAD_DATA = "look at the data, or at the layers before this one"


def check_finite(mend: str, **tensors: Optional[Tensor]) -> None:
    for name, tensor in tensors.items():
        # One NaN or infinity makes the sum NaN or infinite.
        if tensor is not None and tensor.numel() and not torch.isfinite(tensor.sum()):
            finite = torch.isfinite(tensor)
            if not bool(finite.all()):
                raise ValueError(
                    f"{name} holds {int((~finite).sum())} NaN or infinite values of "
                    f"{finite.numel()}; {mend}"
                )


@operator("snn_eventprop::grid_forward", device_types="cpu")
def _forward(
    bins: Tensor,
    units: Tensor,
    values: Tensor,
    offsets: Tensor,
    raster: Optional[Tensor],
    event_stamps: Optional[Tensor],
    input_current: Optional[Tensor],
    weight: Tensor,
    recurrent: Optional[Tensor],
    coefficients: Tensor,
    v_reset: Tensor,
    floor: Tensor,
    current0: Optional[Tensor],
    voltage0: Optional[Tensor],
    spikes0: Optional[Tensor],
    slopes0: Optional[Tensor],
    steps: int,
    reset: int,
    delayed: bool,
    record: bool,
    keep_states: bool,
    tag: int,
    delay: Optional[Tensor],
    recurrent_delay: Optional[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype, batch, size = coefficients.dtype, offsets.numel() - 1, coefficients.shape[1]
    check_finite(
        DIVERGED, weight=weight, recurrent_weight=recurrent, time_constants=coefficients[:3]
    )
    check_finite(_BAD_DATA, input=values, current=input_current)
    last_current = _zeros((batch, size), coefficients)
    last_voltage = _zeros((batch, size), coefficients)
    trace = _zeros((steps, batch, size), coefficients, record)
    segments = -(-steps // cpu_grid.SEGMENT)
    states = _zeros((batch, segments, 2, size), coefficients, keep_states)
    s, c, m, threshold = (row.contiguous() for row in coefficients)
    start = _zeros((batch, size), coefficients)
    synapses, work = delay is not None or recurrent_delay is not None, Workspace()
    arguments = (
        steps, bins.numpy(), units.numpy(), values.numpy(), offsets.numpy(),
        _array(input_current, dtype, 3), *_weights(weight, recurrent, synapses, work),
        s.numpy(), c.numpy(), m.numpy(), threshold.numpy(), _array(v_reset, dtype, 1),
        largest_response(s, c, m).numpy(), reset, delayed,
        _array(start if current0 is None else current0, dtype, 2),
        _array(start if voltage0 is None else voltage0, dtype, 2),
        _array(spikes0, dtype, 2),
        last_current.numpy(), last_voltage.numpy(), trace.numpy(), states.numpy(),
    )  # fmt: skip
    delays = _prepared_delays(
        delay, recurrent_delay, weight, recurrent, steps, values,
        offsets.diff(), backward=False,
    )  # fmt: skip
    share_cores()
    parts = over_samples(
        lambda lo, hi: cpu_grid.forward(lo, hi, *arguments, delays(lo, hi)),
        offsets.diff().numpy() + steps,
        per_thread=4,
    )
    work.give_back()
    out_offsets = torch.zeros(batch + 1, dtype=torch.int64)
    np.cumsum(np.concatenate([[0], *(part[3] for part in parts)]), out=out_offsets.numpy())
    spikes = int(out_offsets[-1])
    stamps = torch.empty(spikes, dtype=dtype)
    marks, slopes = torch.empty_like(stamps), torch.empty_like(stamps)
    out_bins = torch.empty(spikes, dtype=torch.int32)
    out_units = torch.empty(spikes, dtype=torch.int64)
    whole = [out.numpy() for out in (out_bins, out_units, slopes, stamps, marks)]
    starts = np.cumsum([0, *(len(part[0]) for part in parts)])

    def collect(lo: int, hi: int) -> None:
        for part, start in zip(parts[lo:hi], starts[lo:hi], strict=True):
            cpu_grid.collect(start, *part[:3], *whole)

    over_samples(collect, np.diff(starts))
    return (
        stamps, marks, out_bins, out_units, slopes, out_offsets,
        last_current, last_voltage, trace, states,
    )  # fmt: skip


@_forward.register_fake
def _(
    bins, units, values, offsets, raster, event_stamps, input_current, weight, recurrent,
    coefficients, v_reset, floor, current0, voltage0, spikes0, slopes0,
    steps, reset, delayed, record, keep_states, tag, delay, recurrent_delay,
):  # fmt: skip
    batch, size = offsets.shape[0] - 1, coefficients.shape[1]
    spikes = torch.library.get_ctx().new_dynamic_size()
    new = coefficients.new_empty
    segments = -(-steps // SEGMENT.get(coefficients.device.type, cpu_grid.SEGMENT))
    return (
        new(spikes), new(spikes), new(spikes, dtype=torch.int32), new(spikes, dtype=torch.int64),
        new(spikes), new(batch + 1, dtype=torch.int64), new((batch, size)), new((batch, size)),
        new((steps, batch, size) if record else (0, 0, 0)),
        new((batch, segments, 2, size) if keep_states else (0, 0, 0, 0)),
    )  # fmt: skip


@operator("snn_eventprop::grid_backward", device_types="cpu")
def _backward(
    bins: Tensor,
    units: Tensor,
    values: Tensor,
    offsets: Tensor,
    input_current: Optional[Tensor],
    weight: Tensor,
    recurrent: Optional[Tensor],
    coefficients: Tensor,
    v_reset: Tensor,
    floor: Tensor,
    spikes0: Optional[Tensor],
    slopes0: Optional[Tensor],
    out_bins: Tensor,
    out_units: Tensor,
    slopes: Tensor,
    out_offsets: Tensor,
    states: Tensor,
    grad_stamps: Tensor,
    grad_marks: Tensor,
    grad_last_current: Tensor,
    grad_last_voltage: Tensor,
    grad_trace: Optional[Tensor],
    steps: int,
    reset: int,
    delayed: bool,
    want_weight: bool,
    want_values: bool,
    want_stamps: bool,
    want_dense: bool,
    tag: int,
    delay: Optional[Tensor],
    recurrent_delay: Optional[Tensor],
) -> tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor
]:
    dtype, batch, size = coefficients.dtype, offsets.numel() - 1, coefficients.shape[1]
    s, c, m, threshold = (row.contiguous() for row in coefficients)
    kind = s.numpy().dtype
    grad_current = _zeros((steps, batch, size), coefficients, want_dense)
    grad_values = _zeros((bins.numel(),), coefficients, want_values)
    grad_changes = _zeros((bins.numel(),), coefficients, want_stamps)
    grad_current0 = _zeros((batch, size), coefficients)
    grad_voltage0 = _zeros((batch, size), coefficients)
    grad_spikes0 = _zeros((batch, size), coefficients, spikes0 is not None)
    synapses, work = delay is not None or recurrent_delay is not None, Workspace()
    arguments = (
        steps, bins.numpy(), units.numpy(), values.numpy(), offsets.numpy(),
        _array(input_current, dtype, 3), *_weights(weight, recurrent, synapses, work),
        s.numpy(), c.numpy(), m.numpy(), threshold.numpy(), _array(v_reset, dtype, 1),
        reset, delayed, _array(spikes0, dtype, 2), _array(slopes0, dtype, 2), states.numpy(),
        bool(torch.isfinite(largest_response(s, c, m)).all()),
        out_bins.numpy(), out_units.numpy(), slopes.numpy(), out_offsets.numpy(),
        _array(grad_stamps, dtype, 1), _array(grad_marks, dtype, 1), _array(floor, dtype, 1),
        _array(grad_trace, dtype, 3), _array(grad_last_current, dtype, 2),
        _array(grad_last_voltage, dtype, 2),
    )  # fmt: skip
    dense = (
        grad_current.numpy(), grad_values.numpy(), grad_changes.numpy(),
        grad_current0.numpy(), grad_voltage0.numpy(), grad_spikes0.numpy(),
    )  # fmt: skip

    delays = _prepared_delays(
        delay, recurrent_delay, weight, recurrent, steps, values,
        torch.maximum(offsets.diff(), out_offsets.diff()), backward=True,
    )  # fmt: skip

    shapes = (
        (len(weight) if want_weight and not synapses else 0, size + PAD),
        (size if recurrent is not None and not synapses else 0, size + PAD),
        (4, size),
    )

    def run(lo: int, hi: int) -> tuple[list[np.ndarray], tuple[np.ndarray, ...], int, float]:
        grads = [work.array(*shape, kind, zeros=True) for shape in shapes]
        learned = delays(lo, hi)
        into = (*grads, *dense, learned, work)
        guarded, largest = cpu_grid.backward(lo, hi, *arguments, *into)
        of_delays = () if learned is None else cpu_delays.gradients(learned)
        return grads, of_delays, guarded, float(largest)

    parts = over_samples(run, offsets.diff().numpy() + steps) or [run(0, 0)]
    _report.record_jumps(tag, sum(part[2] for part in parts), max(part[3] for part in parts))
    by_rows, of_delays = (
        list(zip(*(part[which] for part in parts), strict=True)) for which in (0, 1)
    )
    absent = weight.new_empty(0, 0)
    grad_weight = grad_recurrent = grad_delay = grad_recurrent_delay = absent
    if want_weight and not synapses:
        grad_weight = sum_rows(by_rows[0], weight)
    if recurrent is not None and not synapses:
        grad_recurrent = sum_rows(by_rows[1], recurrent)
    if of_delays:
        summed = [torch.from_numpy(np.sum(arrays, axis=0)).t() for arrays in of_delays]
        if want_weight:
            grad_weight = in_memory_of(weight, summed[0])
        if delay is not None:
            grad_delay = in_memory_of(weight, summed[1] * weight)
        if recurrent is not None:
            grad_recurrent = in_memory_of(recurrent, summed[2])
        if recurrent is not None and recurrent_delay is not None:
            grad_recurrent_delay = in_memory_of(recurrent, summed[3] * recurrent)
    grad_coefficients = torch.from_numpy(np.sum(by_rows[2], axis=0))
    work.give_back()
    return (
        grad_weight, grad_recurrent, grad_coefficients, grad_current,
        grad_values, grad_changes, grad_current0, grad_voltage0, grad_spikes0,
        grad_delay, grad_recurrent_delay,
    )  # fmt: skip


@operator("snn_eventprop::delayed_worth", device_types="cpu")
def _delayed_worth(grad_current: Tensor, weight: Tensor, delay: Tensor) -> Tensor:
    """What one unit of each input is worth in each bin, ``[T, B, N]``, without delays
    ``grad_current @ weight.T``: sum over j of weight[i, j] grad_current[k + delay[i, j], :, j]."""
    steps, batch, size = grad_current.shape
    inputs = weight.shape[0]
    worth = grad_current.new_zeros((batch, inputs, steps))
    arrays = (
        grad_current.permute(1, 2, 0).contiguous().numpy(), _array(weight, weight.dtype, 2),
        np.ascontiguousarray(_delay_bins("delay", delay, (inputs, size)).T), worth.numpy(),
    )  # fmt: skip
    over_samples(
        lambda lo, hi: cpu_delays.dense_worth(lo, hi, *arrays), np.full(batch, max(steps, 1))
    )
    return worth.permute(2, 0, 1).contiguous()


@_delayed_worth.register_fake
def _(grad_current, weight, delay):
    steps, batch, _ = grad_current.shape
    return grad_current.new_empty((steps, batch, weight.shape[0]))


@_backward.register_fake
def _(
    bins, units, values, offsets, input_current, weight, recurrent, coefficients, v_reset, floor,
    spikes0, slopes0, out_bins, out_units, slopes, out_offsets, states, grad_stamps, grad_marks,
    grad_last_current, grad_last_voltage, grad_trace,
    steps, reset, delayed, want_weight, want_values, want_stamps, want_dense, tag,
    delay, recurrent_delay,
):  # fmt: skip
    batch, size, events = offsets.shape[0] - 1, coefficients.shape[1], bins.shape[0]
    new = coefficients.new_empty
    absent = new((0, 0))
    return (
        torch.empty_like(weight) if want_weight else absent,
        absent.clone() if recurrent is None else torch.empty_like(recurrent),
        new((4, size)),
        new((steps, batch, size) if want_dense else (0, 0, 0)),
        new((events,) if want_values else (0,)),
        new((events,) if want_stamps else (0,)),
        new((batch, size)),
        new((batch, size)),
        new((batch, size) if spikes0 is not None else (0, 0)),
        absent.clone() if delay is None else torch.empty_like(weight),
        absent.clone()
        if recurrent is None or recurrent_delay is None
        else torch.empty_like(recurrent),
    )


_backward.register_autograd(no_second_derivative)

_FORWARD_ARGUMENTS = (
    "bins units values offsets raster event_stamps input_current weight recurrent coefficients "
    "v_reset floor current0 voltage0 spikes0 slopes0 steps reset delayed record keep_states tag "
    "delay recurrent_delay"
).split()


def _setup_context(ctx, inputs, output) -> None:
    given = dict(zip(_FORWARD_ARGUMENTS, inputs, strict=True))
    _, _, out_bins, out_units, slopes, out_offsets, _, _, _, states = output
    ctx.mark_non_differentiable(out_bins, out_units, slopes, out_offsets, states)
    ctx.set_materialize_grads(False)  # zeros for ten outputs, of which most losses read one
    ctx.save_for_backward(
        given["bins"], given["units"], given["values"], given["offsets"],
        given["input_current"] if given["keep_states"] else None,  # for the replay alone
        given["weight"], given["recurrent"], given["coefficients"], given["v_reset"],
        given["floor"], given["spikes0"], given["slopes0"],
        out_bins, out_units, slopes, out_offsets, states, given["delay"], given["recurrent_delay"],
    )  # fmt: skip
    ctx.scalars = (given["steps"], given["reset"], given["delayed"])
    ctx.record, ctx.tag = given["record"], given["tag"]


def _autograd_backward(
    ctx, grad_stamps, grad_marks, _b, _u, _s, _o, grad_last_current, grad_last_voltage,
    grad_trace, _states,
):  # fmt: skip
    *saved, delay, recurrent_delay = ctx.saved_tensors
    values, offsets, weight, coefficients, slopes = (saved[i] for i in (2, 3, 5, 7, 14))
    state = (offsets.numel() - 1, coefficients.shape[1])
    needs = dict(zip(_FORWARD_ARGUMENTS, ctx.needs_input_grad, strict=True))
    want_dense = needs["input_current"] or needs["raster"]
    (
        grad_weight, grad_recurrent, grad_coefficients, grad_current, grad_values, grad_changes,
        grad_current0, grad_voltage0, grad_spikes0, grad_delay, grad_recurrent_delay,
    ) = _backward(
        *saved, or_zeros(grad_stamps, slopes, slopes.shape),
        or_zeros(grad_marks, slopes, slopes.shape),
        or_zeros(grad_last_current, coefficients, state),
        or_zeros(grad_last_voltage, coefficients, state),
        grad_trace if ctx.record else None, *ctx.scalars,
        needs["weight"], needs["values"], needs["event_stamps"], want_dense, ctx.tag,
        delay, recurrent_delay,
    )  # fmt: skip
    grads = dict.fromkeys(_FORWARD_ARGUMENTS)
    if needs["weight"]:
        grads["weight"] = grad_weight
    if needs["recurrent"]:
        grads["recurrent"] = grad_recurrent
    if needs["coefficients"]:
        grads["coefficients"] = grad_coefficients
    if needs["input_current"]:
        grads["input_current"] = grad_current
    if needs["delay"]:
        grads["delay"] = grad_delay
    if needs["recurrent_delay"]:
        grads["recurrent_delay"] = grad_recurrent_delay
    if needs["raster"] and delay is None:
        grads["raster"] = grad_current @ weight.T
    elif needs["raster"]:
        grads["raster"] = _delayed_worth(grad_current, weight, delay)
    if needs["values"]:
        grads["values"] = grad_values
    if needs["event_stamps"]:
        grads["event_stamps"] = grad_changes * values if values.numel() else grad_changes
    if needs["current0"]:
        grads["current0"] = grad_current0
    if needs["voltage0"]:
        grads["voltage0"] = grad_voltage0
    if needs["spikes0"]:
        grads["spikes0"] = grad_spikes0
    return tuple(grads[name] for name in _FORWARD_ARGUMENTS)


_forward.register_autograd(_autograd_backward, setup_context=_setup_context)


@operator("snn_eventprop::dense_events")
def _dense_events(raster: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    index = raster.transpose(0, 1).nonzero()
    sample, bins, units = index.unbind(1)
    values = raster[bins, sample, units]
    if bool((values == 1).all()):
        values = values[:0]
    offsets = torch.zeros(raster.shape[1] + 1, dtype=torch.int64, device=raster.device)
    torch.cumsum(torch.bincount(sample, minlength=raster.shape[1]), 0, out=offsets[1:])
    return bins.int(), units.clone(), values.clone(), offsets


@_dense_events.register_kernel("cpu")
def _(raster: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    entries, (steps, batch, units) = raster.detach().contiguous().numpy(), raster.shape
    work = np.full(batch, steps * units)
    counts, others = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
    over_samples(lambda lo, hi: cpu_bins.count_entries(lo, hi, entries, counts, others), work)
    offsets = torch.zeros(batch + 1, dtype=torch.int64)
    np.cumsum(counts, out=offsets.numpy()[1:])
    total = int(offsets[-1])
    out = (
        torch.empty(total, dtype=torch.int32), torch.empty(total, dtype=torch.int64),
        raster.new_empty(total if others.any() else 0),
    )  # fmt: skip
    arrays = [offsets.numpy(), *(tensor.numpy() for tensor in out)]
    over_samples(lambda lo, hi: cpu_bins.list_entries(lo, hi, entries, *arrays), work)
    return *out, offsets


@_dense_events.register_fake
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


def to_raster(spikes: GridSpikes, steps: int, size: int, *, hold: bool) -> Tensor:
    """Spikes as a raster ``[T, B, H]`` of zeros and ones.

    Backwards, the gradient G of the raster is the worth of a spike in each bin; moving a spike
    by one bin changes the loss by G[k + 1] - G[k]. Beyond the last bin G is 0, or with ``hold``
    its last value, so that a spike in the last bin does not feel the end of the recording.
    """
    return raster_of(spikes.stamps, spikes.bins, spikes.units, spikes.offsets, steps, size, hold)


def has_backend(device: torch.device) -> bool:
    """Whether the operators run on tensors of this device."""
    return device.type == "cpu" or (device.type == "cuda" and installed("numba_cuda"))


def transformed() -> bool:
    """Whether a transform of ``torch.func`` runs: it has no rules for torch.library's operators."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def check_backend(parameter: Tensor) -> None:
    """Raise unless a backend can run layers with such parameters.

    Raises:
        ImportError: the layer is on a GPU, for which an extra is not installed.
        NotImplementedError: a device without a backend.
        TypeError: parameters that are neither float32 nor float64.
    """
    kind = parameter.device.type
    if kind == "cuda" and not torch.compiler.is_compiling():
        require("numba_cuda", extra="cuda")
    elif kind not in ("cpu", "cuda"):
        raise NotImplementedError(
            f"the layer is on {parameter.device}, but only CPU and CUDA backends exist; move the "
            "model and its input with .to('cpu') or .to('cuda')"
        )
    if parameter.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"the layer's parameters are {parameter.dtype}, but spike times need float32 or "
            "float64; call layer.float() (autocast leaves it in float32)"
        )


def dense_events(raster: Tensor, dtype: torch.dtype) -> Events:
    """The nonzero entries of a raster ``[T, B, N]``."""
    return Events(*_dense_events(raster.detach().to(dtype)))


def no_events(batch: int, like: Tensor) -> Events:
    """A batch without input events, for layers driven by currents alone."""
    bins = torch.empty(0, dtype=torch.int32, device=like.device)
    offsets = torch.zeros(batch + 1, dtype=torch.int64, device=like.device)
    return Events(bins, bins.long(), like.new_empty(0), offsets)


def grid_lif(
    events: Events,
    steps: int,
    weight: Tensor,
    coefficients: Tensor,
    v_reset: Tensor,
    floor: Tensor,
    *,
    recurrent: Optional[Tensor] = None,
    input_current: Optional[Tensor] = None,
    raster: Optional[Tensor] = None,
    event_stamps: Optional[Tensor] = None,
    current0: Optional[Tensor] = None,
    voltage0: Optional[Tensor] = None,
    spikes0: Optional[Tensor] = None,
    slopes0: Optional[Tensor] = None,
    reset: str = "subtract",
    delayed: bool = False,
    record: bool = False,
    tag: int = 0,
    delay: Optional[Tensor] = None,
    recurrent_delay: Optional[Tensor] = None,
) -> GridSpikes:
    """Run a layer of LIF neurons (or integrators: threshold inf) over ``steps`` bins.

    Args:
        events: input events; they reach neurons through ``weight``.
        weight: [N, H], one row per input (the transpose of ``nn.Linear``'s).
        coefficients: [4, H] rows s, c, m, threshold (``snn_eventprop.discretisation``).
        v_reset: [H].
        floor: [H] smallest slope per bin used in the jump (the grazing guard); 0 switches it off.
        recurrent: [H, H], one row per presynaptic neuron.
        input_current: [T, B, H], added to I in each bin.
        raster: [T, B, N], the dense form of ``events``, where its gradient is wanted.
        event_stamps: [S] float bin indices of ``events``, where their gradient is wanted.
        current0, voltage0: [B, H] initial state.   spikes0, slopes0: [B, H] spikes of the bin
            before the first, and their slopes.
        reset: "none", "subtract" (V - (threshold - v_reset)), "zero" (V = v_reset), or, delayed
            only, "zero_all" (V = v_reset after the next step).
        delayed: the reset acts in the next step.
        record: return the membrane trace.
        tag: key under which diagnostics of the backward pass are kept.
        delay: [N, H] bins by which events arrive later, rounded to whole ones; differentiable.
        recurrent_delay: [H, H], [pre, post], the same for the layer's own spikes.
    """
    check_backend(coefficients)
    if spikes0 is not None and (delay is not None or recurrent_delay is not None):
        raise ValueError(
            "spikes0 knows the last bin alone, but with delays earlier spikes arrive as well; "
            "give the whole recording at once"
        )
    keep_states = coefficients.requires_grad and torch.is_grad_enabled()
    out = _forward(
        *events, raster, event_stamps, input_current, weight, recurrent, coefficients, v_reset,
        floor, current0, voltage0, spikes0, slopes0,
        steps, RESETS[reset], delayed, record, keep_states, tag, delay, recurrent_delay,
    )  # fmt: skip
    return GridSpikes(*itertools.islice(out, 9))
