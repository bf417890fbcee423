"""Time averages of a leaky integrator on the CPU: one pass over the events of each sample.

The average is a sum over events at s of

    constant + linear r + early exp(-s / T) + fall_fast exp(-r / fast) - fall_slow exp(-r / slow)

with r = T - s (``layers.closed_form`` derives the factors). Events are visited from the
last to the first, so that the exponentials follow from one event to the next by a short gap.
"""

from __future__ import annotations

import math

import numpy as np

from .coefficients import decay
from .compile import kernel


@kernel
def respond(lo, hi, times, units, offsets, duration, taus, factors, total, slopes):
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
def apply(lo, hi, units, offsets, grad, slopes, out):
    """out[e] = slopes[e] * grad[b, unit of e] for the events of samples ``lo..hi``."""
    for b in range(lo, hi):
        for e in range(offsets[b], offsets[b + 1]):
            out[e] = slopes[e] * grad[b, units[e]]
