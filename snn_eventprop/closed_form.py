"""Closed-form time averages of a leaky integrator's membrane, as plain differentiable torch."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from .events import SpikeEvents

Weighting = Literal["uniform", "exponential", "linear"]
WEIGHTINGS: tuple[str, ...] = get_args(Weighting)

# Time constants closer than this are spread symmetrically about their mean: the divided
# difference below is then a central difference, off by the square of it.
_SPREAD = 1e-4


def _decay_integral(start: Tensor, tau: Tensor, duration: float, weighting: str) -> Tensor:
    """integral_start^T w(t) exp(-(t - start) / tau) dt."""
    rest = duration - start
    if weighting == "uniform":
        return -tau * torch.expm1(-rest / tau)
    if weighting == "exponential":
        both = 1 / (1 / tau + 1 / duration)
        return -torch.exp(-start / duration) * both * torch.expm1(-rest / both)
    return (rest * tau + tau**2 * torch.expm1(-rest / tau)) / duration


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
) -> Tensor:
    """(1/T) integral_start^T w(t) psp(t - start) dt for an event of unit weight at ``start``.

    psp(u) = tau_syn / (tau_syn - tau_mem) (exp(-u/tau_syn) - exp(-u/tau_mem)).
    """
    slow, fast = _spread(tau_mem, tau_syn)
    difference = _decay_integral(start, fast, duration, weighting) - _decay_integral(
        start, slow, duration, weighting
    )
    return tau_syn / (fast - slow) * difference / duration


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
    start = events.times.double()
    if tau_mem.numel() == 1 and tau_syn.numel() == 1:
        # One response per event whatever the output: gather per input unit first.
        response = mean_response(
            start, tau_mem.reshape(()), tau_syn.reshape(()), events.duration, weighting
        )
        flat = events.samples() * inputs + events.units
        gathered = weight.new_zeros(batch * inputs).index_add(0, flat, response.to(weight.dtype))
        return gathered.view(batch, inputs) @ weight.T
    response = mean_response(start[:, None], tau_mem, tau_syn, events.duration, weighting)
    each = response.to(weight.dtype) * weight.T[events.units]
    return weight.new_zeros(batch, outputs).index_add(0, events.samples(), each)
