"""Responses of leaky integrators to events, averaged over time, as PyTorch operators."""

import math

import torch
from torch import Tensor

from ._operator import no_second_derivative, operator
from .packing import sample_of_each

# Time constants closer than this are spread symmetrically about their mean: the divided
# difference below is then a central difference, off by the square of it.
SPREAD = 1e-4


def response_terms(
    tau: Tensor, duration: float | Tensor, weighting: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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


def spread_apart(tau_mem: Tensor, tau_syn: Tensor) -> tuple[Tensor, Tensor]:
    """Both time constants, apart from each other."""
    middle, half = (tau_mem + tau_syn) / 2, (tau_mem - tau_syn) / 2
    least = SPREAD * middle.detach()
    sign = torch.where(half < 0, -1.0, 1.0)
    near = half.abs() < least
    return (
        torch.where(near, middle + sign * least, tau_mem),
        torch.where(near, middle - sign * least, tau_syn),
    )


def mean_response(
    start: Tensor,
    tau_mem: Tensor,
    tau_syn: Tensor,
    duration: float | Tensor,
    weighting: str,
) -> tuple[Tensor, Tensor]:
    """(1/T) integral_s^T w(t) psp(t - s) dt for an event of unit weight at s = ``start``.

    psp(u) = tau_syn / (tau_syn - tau_mem) (exp(-u/tau_syn) - exp(-u/tau_mem)). T, the
    ``duration``, is one number or one for each event, of the shape of ``start``.

    Returns:
        the response and its derivative with respect to ``start``.
    """
    slow, fast = spread_apart(tau_mem, tau_syn)
    p1, q1, u1, v1 = response_terms(fast, duration, weighting)
    p2, q2, u2, v2 = response_terms(slow, duration, weighting)
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


@operator("snn_eventprop::gathered_response")
def gathered_response(
    times: Tensor, units: Tensor, offsets: Tensor, num_units: int, tau_mem: Tensor,
    tau_syn: Tensor, duration: float, weighting: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``mean_response`` summed over the events of each unit, [B, N], and its slope in each event.

    For time constants that need no gradient: autograd would keep and revisit a dozen vectors over
    all events, where the slope is all it takes.
    """
    batch = offsets.numel() - 1
    response, slopes = mean_response(times.double(), tau_mem, tau_syn, duration, weighting)
    places = units + num_units * sample_of_each(offsets, units.numel())
    total = response.new_zeros(batch * num_units).index_add(0, places, response)
    return total.view(batch, num_units).to(times.dtype), slopes.to(times.dtype)


@gathered_response.register_fake
def _(times, units, offsets, num_units, tau_mem, tau_syn, duration, weighting):
    return times.new_empty(offsets.shape[0] - 1, num_units), torch.empty_like(times)


@operator("snn_eventprop::gathered_response_of_each")
def gathered_response_of_each(
    times: Tensor, units: Tensor, offsets: Tensor, num_units: int, tau_mem: Tensor,
    tau_syn: Tensor, durations: Tensor, weighting: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``gathered_response`` where samples have durations of their own, [B]."""
    batch = offsets.numel() - 1
    samples = sample_of_each(offsets, units.numel())
    response, slopes = mean_response(
        times.double(), tau_mem, tau_syn, durations[samples], weighting
    )
    total = response.new_zeros(batch * num_units).index_add(
        0, units + num_units * samples, response
    )
    return total.view(batch, num_units).to(times.dtype), slopes.to(times.dtype)


@gathered_response_of_each.register_fake
def _(times, units, offsets, num_units, tau_mem, tau_syn, durations, weighting):
    return times.new_empty(offsets.shape[0] - 1, num_units), torch.empty_like(times)


@operator("snn_eventprop::spread_slopes")
def spread_slopes(grad: Tensor, units: Tensor, offsets: Tensor, slopes: Tensor) -> Tensor:
    """The gradient of each event, from that of ``gathered_response``."""
    return slopes * grad[sample_of_each(offsets, units.numel()), units]


@spread_slopes.register_fake
def _(grad, units, offsets, slopes):
    return torch.empty_like(slopes)


spread_slopes.register_autograd(no_second_derivative)


def _keep_slopes(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[1], inputs[2], output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _apply_slopes(ctx, grad, _):
    return spread_slopes(grad, *ctx.saved_tensors), *(None,) * 7


gathered_response.register_autograd(_apply_slopes, setup_context=_keep_slopes)
gathered_response_of_each.register_autograd(_apply_slopes, setup_context=_keep_slopes)
