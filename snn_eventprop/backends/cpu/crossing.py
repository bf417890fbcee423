"""When one neuron next reaches its threshold, in float64: for both backends of the exact solver."""

from __future__ import annotations

import math

from ...neurons import lif as equations
from .coefficients import coefficients
from .compile import equation, kernel

_flow = equation(equations.flow)
_peak_time = equation(equations.peak_time)

SAME = 4e-16  # neurons this close to the threshold at a crossing cross with it


@kernel
def crossing(current, voltage, upper, threshold, rate_mem, rate_syn):
    """Seconds until V reaches the threshold, in (0, upper], on which V rises through it.

    V rises at a falling rate there: Newton's steps from below never pass the crossing. The first
    guess is that of a parabola; a bracket catches what rounding does.
    """
    lower = 0.0
    slope = (current - voltage) * rate_mem
    bend = -(current * rate_syn + slope) * rate_mem
    rise = threshold - voltage
    under = slope * slope + 2.0 * bend * rise
    t = 2.0 * rise / (slope + math.sqrt(under)) if under > 0.0 else upper
    if not (0.0 < t <= upper):
        t = upper
    for _ in range(100):
        e_syn, e_mem, psp = coefficients(t, rate_mem, rate_syn)
        i, v = _flow(current, voltage, e_syn, e_mem, psp)
        short = threshold - v
        if short > 0.0:
            lower = t
        else:
            upper = t
        slope = (i - v) * rate_mem
        if slope > 0.0:
            step = short / slope
            # The next step would be about bend / (2 slope) step^2.
            rest = (i * rate_syn + slope) * rate_mem * step * step / slope
            if lower <= t + step <= upper:
                t += step
                if rest * rate_syn < 1e-15 or abs(step) * rate_syn < 1e-15:
                    break
                continue
        middle = 0.5 * (lower + upper)
        if middle <= lower or middle >= upper:
            t = upper
            break
        t = middle
    return t


@kernel
def next_crossing(current, voltage, gap, threshold, rate_mem, rate_syn):
    """Seconds until V reaches the threshold within ``gap`` s; infinite where it does not."""
    if current <= voltage:
        return math.inf  # V falls, and will not rise before I does
    if voltage >= threshold:
        return 0.0  # reached to rounding at the event before
    e_syn, e_mem, psp = coefficients(gap, rate_mem, rate_syn)
    i_end, highest = _flow(current, voltage, e_syn, e_mem, psp)
    if i_end >= highest:  # rising all the way
        if highest < threshold - SAME * threshold:
            return math.inf
        if highest <= threshold + SAME * threshold:
            return gap
        return crossing(current, voltage, gap, threshold, rate_mem, rate_syn)
    upper = min(_peak_time(current, voltage, 1.0 / rate_mem, 1.0 / rate_syn), gap)
    e_syn, e_mem, psp = coefficients(upper, rate_mem, rate_syn)
    _, highest = _flow(current, voltage, e_syn, e_mem, psp)
    if highest < threshold:
        return math.inf
    return crossing(current, voltage, upper, threshold, rate_mem, rate_syn)


@kernel
def crosses_with(current, voltage, at, threshold, rate_mem, rate_syn):
    """Whether a neuron of which V rises until ``at`` has reached the threshold by then."""
    e_syn, e_mem, psp = coefficients(at, rate_mem, rate_syn)
    i, v = _flow(current, voltage, e_syn, e_mem, psp)
    return current > voltage and i >= v and v >= threshold - SAME * threshold
