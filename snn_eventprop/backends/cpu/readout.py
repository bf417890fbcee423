"""Time averages of a leaky integrator on the CPU: one pass over the events of each sample.

The average is a sum over events at s of

    constant + linear r + early exp(-s / T) + fall_fast exp(-r / fast) - fall_slow exp(-r / slow)

with r = T - s (``ops.responses`` derives the factors). Events are visited from the
last to the first, so that the exponentials follow from one event to the next by a short gap.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ...ops.responses import gathered_response, response_terms, spread_apart, spread_slopes
from .coefficients import decay
from .compile import kernel
from .threads import over_samples


@kernel
def _respond(lo, hi, times, units, offsets, duration, taus, factors, total, slopes):
    """Samples ``lo..hi``: the response summed over the events of each unit, and its slope in s.

    Args:
        times, units, offsets: events, s, ascending within each sample.
        taus: (fast, slow) s.   factors: (constant, linear, early, fall_fast, fall_slow).
        total: [B, N] float64, added to.   slopes: [S], written.
    """
    fast, slow, trial = 1 / taus[0], 1 / taus[1], 1 / duration
    constant, linear, early, fall_fast, fall_slow = factors
    for b in range(lo, hi):
        first, end = offsets[b], offsets[b + 1]
        if first == end:
            continue
        later = np.float64(times[end - 1])
        rest = duration - later
        by_fast, by_slow = math.exp(-rest * fast), math.exp(-rest * slow)
        start = math.exp(-later * trial)
        response = slope = 0.0
        for e in range(end - 1, first - 1, -1):
            at = np.float64(times[e])
            gap = later - at
            if gap > 0 or e == end - 1:  # spikes of a grid share their times
                later = at
                by_fast *= decay(gap * fast)
                by_slow *= decay(gap * slow)
                start /= decay(gap * trial)
                falls, tail, c = fall_fast * by_fast, fall_slow * by_slow, early * start
                response = constant + linear * (duration - at) + c + falls - tail
                slope = falls * fast - tail * slow - linear - c * trial
            total[b, units[e]] += response
            slopes[e] = slope


@kernel
def _apply(lo, hi, units, offsets, grad, slopes, out):
    """out[e] = slopes[e] * grad[b, unit of e] for the events of samples ``lo..hi``."""
    for b in range(lo, hi):
        for e in range(offsets[b], offsets[b + 1]):
            out[e] = slopes[e] * grad[b, units[e]]


@gathered_response.register_kernel("cpu")
def _(
    times: Tensor, units: Tensor, offsets: Tensor, num_units: int, tau_mem: Tensor,
    tau_syn: Tensor, duration: float, weighting: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    slow, fast = spread_apart(tau_mem, tau_syn)
    first, second = (response_terms(tau, duration, weighting) for tau in (fast, slow))
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
    over_samples(lambda lo, hi: _respond(lo, hi, *arguments), work)
    return total.to(times.dtype), slopes


@spread_slopes.register_kernel("cpu")
def _(grad: Tensor, units: Tensor, offsets: Tensor, slopes: Tensor) -> Tensor:
    out = torch.empty_like(slopes)
    arguments = (
        units.numpy(), offsets.numpy(), grad.detach().contiguous().numpy(), slopes.numpy(),
        out.numpy(),
    )  # fmt: skip
    work = offsets.diff().numpy()
    over_samples(lambda lo, hi: _apply(lo, hi, *arguments), work)
    return out
