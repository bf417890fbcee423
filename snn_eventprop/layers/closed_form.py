"""A leaky integrator's membrane and its time averages in closed form, as differentiable torch."""

from typing import Literal, get_args

import torch
from torch import Tensor

from ..discretisation import psp_coefficient
from ..events import Peaks, SpikeEvents
from ..ops.bin_times import num_bins
from ..ops.packing import sample_of_each
from ..ops.responses import gathered_response, gathered_response_of_each, mean_response

Weighting = Literal["uniform", "exponential", "linear"]
WEIGHTINGS: tuple[str, ...] = get_args(Weighting)


def mean_membrane(
    events: SpikeEvents, weight: Tensor, tau_mem: Tensor, tau_syn: Tensor, weighting: str
) -> Tensor:
    """(1/T) integral_0^T w(t) V(t) dt of integrators driven by ``events``, ``[B, O]``.

    T is the duration of each sample.

    Args:
        events: input spikes of N units; times in seconds, differentiable.
        weight: [O, N].
        tau_mem, tau_syn: seconds, scalar or [O].
        weighting: one of ``WEIGHTINGS``.

    Raises:
        ValueError: an unknown weighting.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {weighting!r}")
    outputs, inputs = weight.shape
    batch = len(events)
    start = events.times
    length = events.duration if events.of_one_length else events.durations[events.samples()]
    learned = tau_mem.requires_grad or tau_syn.requires_grad
    if tau_mem.numel() == 1 and tau_syn.numel() == 1:
        # One response per event whatever the output: gather per input unit first.
        taus = (tau_mem.reshape(()), tau_syn.reshape(()))
        if learned:
            flat = events.samples().mul_(inputs).add_(events.units)
            response = mean_response(start.double(), *taus, length, weighting)[0]
            gathered = response.new_zeros(batch * inputs).index_add(0, flat, response)
        else:
            packed = (start.contiguous(), events.units, events.offsets, inputs, *taus)
            gathered, _ = (
                gathered_response(*packed, events.duration, weighting)
                if events.of_one_length
                else gathered_response_of_each(*packed, events.durations, weighting)
            )
        gathered = gathered.view(batch, inputs)
        if events.peaks is not None:
            each, sample = _responses_of_peaks(events, events.peaks, *taus, weighting)
            place = sample.mul_(inputs).add_(events.peaks.units)
            of_peaks = each.new_zeros(batch * inputs).index_add(0, place, each[:, 0])
            gathered = gathered + of_peaks.view(batch, inputs)
        return gathered.to(weight.dtype) @ weight.T
    if isinstance(length, Tensor):
        length = length[:, None]
    response = mean_response(start[:, None].double(), tau_mem, tau_syn, length, weighting)[0]
    each = response.to(weight.dtype) * weight.T[events.units]
    mean = weight.new_zeros(batch, outputs).index_add(0, events.samples(), each)
    if events.peaks is not None:
        each, sample = _responses_of_peaks(events, events.peaks, tau_mem, tau_syn, weighting)
        rows = each.to(weight.dtype) * weight.T[events.peaks.units]
        mean = mean.index_add(0, sample, rows)
    return mean


def _responses_of_peaks(
    events: SpikeEvents, peaks: Peaks, tau_mem: Tensor, tau_syn: Tensor, weighting: str
) -> tuple[Tensor, Tensor]:
    """``mean_response`` times the value, a zero, of each peak, [S3, O] or [S3, 1]; its sample."""
    slow, fast = tau_mem.detach().reshape(-1), tau_syn.detach().reshape(-1)
    bins = peaks.bins.long()
    sample = sample_of_each(peaks.offsets, bins.numel())
    if events.of_one_length:  # one response for each bin
        steps = torch.arange(num_bins(events.duration, peaks.dt), device=bins.device)
        table, _ = mean_response(
            steps[:, None].double() * peaks.dt, slow, fast, events.duration, weighting
        )
        response = table.to(peaks.values.dtype)[bins]
    else:
        response, _ = mean_response(
            bins[:, None].double() * peaks.dt, slow, fast, events.durations[sample][:, None],
            weighting,
        )  # fmt: skip
    return response.to(peaks.values.dtype) * peaks.values[:, None], sample


def membrane_at(
    times: Tensor, events: SpikeEvents, weight: Tensor, tau_mem: Tensor, tau_syn: Tensor
) -> Tensor:
    """V(t) of integrators driven by ``events`` at the requested times, exactly, ``[Q, B, O]``.

    Each event is carried in closed form to the first requested time after it; from there the
    state steps from one requested time to the next. The cost is that of events plus times.

    Args:
        times: [Q] ascending, in seconds, in [0, duration] of the longest sample.
        events: input spikes of N units; times in seconds, differentiable.
        weight: [O, N].
        tau_mem, tau_syn: seconds, scalar or [O].

    Raises:
        TypeError: times that are no tensor.
        ValueError: times that are not 1-d, do not ascend, or are not in [0, duration].
    """
    if not isinstance(times, Tensor):
        raise TypeError(f"times must be a tensor [Q] (seconds), got {type(times).__name__}")
    at = times.detach().double()
    if at.ndim != 1:
        raise ValueError(f"times must be 1-d, got shape {tuple(times.shape)}")
    # A float32 copy of the duration may round above the float64 one. NaN is in no interval.
    if not bool(((at >= 0) & (at <= events.duration * (1 + 1e-6))).all()):
        raise ValueError(
            f"times must be in [0, duration={events.duration:g}] s, got {at.min().item():g} to "
            f"{at.max().item():g}"
        )
    falls = (at.diff() < 0).nonzero()
    if falls.numel():
        e = int(falls[0])
        raise ValueError(
            f"times must ascend, got {at[e].item():g} s before {at[e + 1].item():g} s; sort them"
        )
    batch, outputs, queries = len(events), weight.shape[0], at.numel()
    tau_mem, tau_syn = (tau.expand(outputs) for tau in (tau_mem.double(), tau_syn.double()))
    start, units, sample = events.times.double(), events.units, events.samples()
    value = None
    if events.peaks is not None:  # events that are not there, for their gradient alone
        peaks = events.peaks
        start = torch.cat([start, peaks.bins * peaks.dt])
        units = torch.cat([units, peaks.units])
        sample = torch.cat([sample, sample_of_each(peaks.offsets, peaks.units.numel())])
        value = torch.cat([torch.ones_like(events.times), peaks.values]).double()
    arrival = torch.searchsorted(at, start.detach())
    heard = (arrival < queries).nonzero()[:, 0]
    arrival = arrival[heard]
    gap = (at[arrival] - start[heard])[:, None]
    rows = weight.T[units[heard]].double()
    if value is not None:
        rows = rows * value[heard, None]
    place = arrival * batch + sample[heard]
    zeros = rows.new_zeros(queries * batch, outputs)
    new_current = zeros.index_add(0, place, rows * torch.exp(-gap / tau_syn))
    new_voltage = zeros.index_add(0, place, rows * psp_coefficient(gap, tau_mem, tau_syn))
    new_current = new_current.view(queries, batch, outputs)
    new_voltage = new_voltage.view(queries, batch, outputs)
    step = torch.cat([at[:1], at.diff()])[:, None]
    e_syn, e_mem = torch.exp(-step / tau_syn), torch.exp(-step / tau_mem)
    psp = psp_coefficient(step, tau_mem, tau_syn)
    current = voltage = rows.new_zeros(batch, outputs)
    trace = []
    for q in range(queries):
        voltage = e_mem[q] * voltage + psp[q] * current + new_voltage[q]
        current = e_syn[q] * current + new_current[q]
        trace.append(voltage)
    if not trace:
        return weight.new_zeros(0, batch, outputs)
    return torch.stack(trace).to(weight.dtype)
