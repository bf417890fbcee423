"""A leaky integrator's membrane and its time averages in closed form, as differentiable torch."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from ..backends.cpu import readout as cpu_readout
from ..backends.cpu.threads import over_samples
from ..discretisation import psp_coefficient
from ..events import SpikeEvents
from ..ops._operator import no_second_derivative, operator
from ..ops.packing import sample_of_each

Weighting = Literal["uniform", "exponential", "linear"]
WEIGHTINGS: tuple[str, ...] = get_args(Weighting)

# Time constants closer than this are spread symmetrically about their mean: the divided
# difference below is then a central difference, off by the square of it.
_SPREAD = 1e-4


def _terms(tau: Tensor, duration: float, weighting: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Factors (p, q, u, v) of integral_s^T w(t) exp(-(t - s) / tau) dt, with r = T - s:

    p + q r + u exp(-s / T) + v exp(-r / tau)
    """
    zero = torch.zeros_like(tau)
    if weighting == "uniform":
        return tau, zero, zero, -tau
    if weighting == "exponential":
        both = 1 / (1 / tau + 1 / duration)
        return zero, zero, both, -both * math.exp(-1)
    return -(tau**2) / duration, tau / duration, zero, tau**2 / duration


def _spread(tau_mem: Tensor, tau_syn: Tensor) -> tuple[Tensor, Tensor]:
    middle, half = (tau_mem + tau_syn) / 2, (tau_mem - tau_syn) / 2
    least = _SPREAD * middle.detach()
    sign = torch.where(half < 0, -1.0, 1.0)
    near = half.abs() < least
    return (
        torch.where(near, middle + sign * least, tau_mem),
        torch.where(near, middle - sign * least, tau_syn),
    )


def mean_response(
    start: Tensor, tau_mem: Tensor, tau_syn: Tensor, duration: float, weighting: str
) -> tuple[Tensor, Tensor]:
    """(1/T) integral_s^T w(t) psp(t - s) dt for an event of unit weight at s = ``start``.

    psp(u) = tau_syn / (tau_syn - tau_mem) (exp(-u/tau_syn) - exp(-u/tau_mem)).

    Returns:
        the response and its derivative with respect to ``start``.
    """
    slow, fast = _spread(tau_mem, tau_syn)
    p1, q1, u1, v1 = _terms(fast, duration, weighting)
    p2, q2, u2, v2 = _terms(slow, duration, weighting)
    gain = tau_syn / (fast - slow) / duration
    rest = duration - start
    fall_fast = torch.exp(rest * (-1 / fast)) * (gain * v1)
    fall_slow = torch.exp(rest * (-1 / slow)) * (gain * v2)
    response = fall_fast - fall_slow + gain * (p1 - p2)
    slope = fall_fast * (1 / fast) - fall_slow * (1 / slow)
    if weighting == "linear":
        response = response + rest * (gain * (q1 - q2))
        slope = slope - gain * (q1 - q2)
    if weighting == "exponential":
        early = torch.exp(start * (-1 / duration)) * (gain * (u1 - u2))
        response = response + early
        slope = slope - early * (1 / duration)
    return response, slope


@operator("snn_eventprop::gathered_response", device_types="cpu")
def _gathered_response(
    times: Tensor, units: Tensor, offsets: Tensor, num_units: int, tau_mem: Tensor,
    tau_syn: Tensor, duration: float, weighting: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``mean_response`` summed over the events of each unit, [B, N], and its slope in each event.

    For time constants that need no gradient: autograd would keep and revisit a dozen vectors over
    all events, where the slope is all it takes.
    """
    slow, fast = _spread(tau_mem, tau_syn)
    first, second = (_terms(tau, duration, weighting) for tau in (fast, slow))
    gain = tau_syn / (fast - slow) / duration
    constant, linear, early = (gain * (x - y) for x, y in zip(first[:3], second[:3], strict=True))
    factors = tuple(float(x) for x in (constant, linear, early, gain * first[3], gain * second[3]))
    total = torch.zeros(offsets.numel() - 1, num_units, dtype=torch.float64)
    slopes = torch.empty_like(times)
    arguments = (
        times.detach().numpy(), units.numpy(), offsets.numpy(), duration,
        (float(fast), float(slow)), factors, total.numpy(), slopes.numpy(),
    )  # fmt: skip
    work = offsets.diff().numpy()
    over_samples(lambda lo, hi: cpu_readout.respond(lo, hi, *arguments), work)
    return total.to(times.dtype), slopes


@_gathered_response.register_kernel("cuda")
def _gathered_on_gpu(
    times: Tensor, units: Tensor, offsets: Tensor, num_units: int, tau_mem: Tensor,
    tau_syn: Tensor, duration: float, weighting: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch = offsets.numel() - 1
    response, slopes = mean_response(times.double(), tau_mem, tau_syn, duration, weighting)
    places = units + num_units * sample_of_each(offsets, units.numel())
    total = response.new_zeros(batch * num_units).index_add(0, places, response)
    return total.view(batch, num_units).to(times.dtype), slopes.to(times.dtype)


@_gathered_response.register_fake
def _(times, units, offsets, num_units, tau_mem, tau_syn, duration, weighting):
    return times.new_empty(offsets.shape[0] - 1, num_units), torch.empty_like(times)


@operator("snn_eventprop::spread_slopes", device_types="cpu")
def _spread_slopes(grad: Tensor, units: Tensor, offsets: Tensor, slopes: Tensor) -> Tensor:
    out = torch.empty_like(slopes)
    arguments = (
        units.numpy(), offsets.numpy(), grad.detach().contiguous().numpy(), slopes.numpy(),
        out.numpy(),
    )  # fmt: skip
    work = offsets.diff().numpy()
    over_samples(lambda lo, hi: cpu_readout.apply(lo, hi, *arguments), work)
    return out


@_spread_slopes.register_kernel("cuda")
def _spread_on_gpu(grad: Tensor, units: Tensor, offsets: Tensor, slopes: Tensor) -> Tensor:
    return slopes * grad[sample_of_each(offsets, units.numel()), units]


@_spread_slopes.register_fake
def _(grad, units, offsets, slopes):
    return torch.empty_like(slopes)


_spread_slopes.register_autograd(no_second_derivative)


def _keep_slopes(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[1], inputs[2], output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _apply_slopes(ctx, grad, _):
    return _spread_slopes(grad, *ctx.saved_tensors), *(None,) * 7


_gathered_response.register_autograd(_apply_slopes, setup_context=_keep_slopes)


def mean_membrane(
    events: SpikeEvents, weight: Tensor, tau_mem: Tensor, tau_syn: Tensor, weighting: str
) -> Tensor:
    """(1/T) integral_0^T w(t) V(t) dt of integrators driven by ``events``, ``[B, O]``.

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
    learned = tau_mem.requires_grad or tau_syn.requires_grad
    if tau_mem.numel() == 1 and tau_syn.numel() == 1:
        # One response per event whatever the output: gather per input unit first.
        constants = (tau_mem.reshape(()), tau_syn.reshape(()), events.duration, weighting)
        if learned:
            flat = events.samples().mul_(inputs).add_(events.units)
            response = mean_response(start.double(), *constants)[0]
            gathered = response.new_zeros(batch * inputs).index_add(0, flat, response)
        else:
            gathered, _ = _gathered_response(
                start.contiguous(), events.units, events.offsets, inputs, *constants
            )
        return gathered.to(weight.dtype).view(batch, inputs) @ weight.T
    response = mean_response(
        start[:, None].double(), tau_mem, tau_syn, events.duration, weighting
    )[0]
    each = response.to(weight.dtype) * weight.T[events.units]
    return weight.new_zeros(batch, outputs).index_add(0, events.samples(), each)


def membrane_at(
    times: Tensor, events: SpikeEvents, weight: Tensor, tau_mem: Tensor, tau_syn: Tensor
) -> Tensor:
    """V(t) of integrators driven by ``events`` at the requested times, exactly, ``[Q, B, O]``.

    Each event is carried in closed form to the first requested time after it; from there the
    state steps from one requested time to the next. The cost is that of events plus times.

    Args:
        times: [Q] ascending, in seconds, in [0, duration].
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
    start = events.times.double()
    arrival = torch.searchsorted(at, start.detach())
    heard = (arrival < queries).nonzero()[:, 0]
    arrival = arrival[heard]
    gap = (at[arrival] - start[heard])[:, None]
    rows = weight.T[events.units[heard]].double()
    place = arrival * batch + events.samples()[heard]
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
