r"""Leaky integrate-and-fire with exponential synapses: the dynamics, their adjoint, the spike.

    tau_mem dV/dt = -V + I          tau_syn dI/dt = -I

An incoming spike adds its weight to ``I``. When ``V`` reaches ``theta`` from below the neuron
spikes and ``V`` drops by ``theta - v_reset``, the reset height. A leaky-integrator readout is the
same neuron with an infinite threshold.

With the adjoint variables a = dL/dV and b = dL/dI (tau_mem lambda_V and tau_syn lambda_I in the
paper's notation), the adjoint system runs backwards between events,

    da/dt = a / tau_mem             db/dt = b / tau_syn - a / tau_mem

and jumps at the neuron's own spikes. The crossing condition V(t) = theta makes a small increase of
V move the spike earlier by 1 / V', so

    a- = a+ - S' / V'-              (``jump``)

where S' = dL/dt of that spike, summed over everything that receives it: the synapses it feeds
(``sensitivity_rate`` of each), any loss on its time, and the neuron's own reset, which is one more
receiver, with weight -(theta - v_reset) onto V. This is the textbook rule
a- = (V'+ / V'-) a+ - S'_others / V'-, written without a second slope.

**On a grid** one bin is the map I <- I + X; V <- m V + c I; I <- s I, with constants from
``snn_eventprop.discretisation``; rates become differences between neighbouring bins.

This module is a neuron as ``snn_eventprop.neurons`` describes it. Its functions take scalars, or
anything with the same arithmetic, such as tensors and vector registers. The float64 reference runs
them as they are; the CPU and CUDA backends compile them.

Over 400 lines, as all that is this neuron's stands here, for both solvers.

Source: T. C. Wunderlich and C. Pehle, Event-based backpropagation can compute exact gradients
for spiking neural networks, Scientific Reports 11, 12829 (2021).
"""

from __future__ import annotations

import math

from .exponentials import coefficients
from .threshold_noise import density

NAME = "lif"
STATE = ("current", "voltage")
FLOW_CONSTANTS = ("s", "c", "m")
SPIKE_CONSTANTS = ("threshold",)
FIXED_CONSTANTS = ("v_reset",)
KEPT = ("slope",)

# When and how V is reset. The later ones act in the bin after the spike, as snnTorch's do:
# ``later_zero`` before the flow of that bin, the others after it.
NONE, SUBTRACT, ZERO, LATER_SUBTRACT, LATER_ZERO, LATER_ZERO_ALL = range(6)
RESETS = {
    "none": NONE,
    "subtract": SUBTRACT,
    "zero": ZERO,
    "later_subtract": LATER_SUBTRACT,
    "later_zero": LATER_ZERO,
    "later_zero_all": LATER_ZERO_ALL,
}


# Between spikes.


def flow(current, state, constants):
    """State after a bin, or a gap, without events: ``(I, V) -> (s I, m V + c I)``."""
    s, c, m = constants[0], constants[1], constants[2]
    return s * current, (m * state[0] + c * current,)


def adjoint_flow(b, adjoint, constants):
    """The transpose of ``flow``: ``(b, a) -> (s b + c a, m a)``."""
    s, c, m = constants[0], constants[1], constants[2]
    return s * b + c * adjoint[0], (m * adjoint[0],)


def flow_gradients(b, adjoint, current, state):
    """dL/d(s, c, m) of one bin.

    Args:
        b, adjoint: after the bin.   current, state: as they enter its flow.
    """
    return b * current, adjoint[0] * current, adjoint[0] * state[0]


def twice(constants):
    """``FLOW_CONSTANTS`` of the flow applied two times."""
    s, c, m = constants[0], constants[1], constants[2]
    return s * s, (s + m) * c, m * m


# The spike.


def tested(state, constants):
    """The neuron spikes where the first number exceeds the second: V and theta."""
    return state[0], constants[3]


def may_spike(current, state, gain, constants, zero):
    """Whether the neuron could spike without further input, however long that takes.

    V stays below max(V, 0) + gain max(I, 0), ``gain`` being a bound on the largest membrane
    potential that one unit of current causes.
    """
    return max(state[0], zero) + gain * max(current, zero) > constants[3]


def slope(drive, threshold, leak):
    """dV/dt at the threshold, ``drive - leak * threshold``.

    In continuous time drive = I / tau_mem and leak = 1 / tau_mem, per second; on a grid
    drive = c I and leak = 1 - m, per bin.
    """
    return drive - leak * threshold


def crossing_slope(slope_at_spike, voltage, threshold):
    """The slope on a grid, where a spike may be no upward crossing; then it is infinite.

    After a reset by subtraction V can still lie above the threshold, and the next bin spikes
    whatever its slope: the time of that spike does not depend on V. An upward crossing starts
    from V <= threshold in the bin before, so its slope is at least V - threshold in this one.
    """
    if slope_at_spike < voltage - threshold:
        return math.inf
    return slope_at_spike


def kept_of_spike(current, state, constants):
    """What the backward pass needs to know of a spike (``KEPT``): its slope per bin.

    Args:
        current, state: of the bin, before the reset.
        constants: the last one is the number 1.
    """
    voltage, threshold = tested(state, constants)
    rise = slope(constants[1] * current, threshold, constants[-1] - constants[2])
    return (crossing_slope(rise, voltage, threshold),)


def reset_by(state, constants, rule, by_height, to_rest):
    """The state after a reset, if ``rule`` is one of the two."""
    threshold, v_reset = constants[3], constants[4]
    if rule == by_height:
        return (state[0] - (threshold - v_reset),)
    if rule == to_rest:
        return (v_reset,)
    return (state[0],)


def reset_at_spike(state, constants, rule):
    """The state of a neuron that spikes, after the resets that act at once."""
    return reset_by(state, constants, rule, SUBTRACT, ZERO)


def reset_before_flow(state, constants, rule):
    """The state of a neuron that spiked in the bin before, as it enters the flow."""
    return reset_by(state, constants, rule, -1, LATER_ZERO)


def reset_after_flow(state, constants, rule):
    """The state of a neuron that spiked in the bin before, as it leaves the flow."""
    return reset_by(state, constants, rule, LATER_SUBTRACT, LATER_ZERO_ALL)


def is_later(rule):
    """Whether the reset acts in the bin after the spike."""
    return rule >= LATER_SUBTRACT


# The adjoint of the spike.


def guard(slope_at_spike, floor):
    """Slope used in the jump, and whether the guard acted: slopes below ``floor`` are raised to it.

    A spike that grazes the threshold (V' -> 0) has an unbounded exact gradient. ``floor = 0``
    switches the guard off.
    """
    if slope_at_spike < floor:
        return floor, True
    return slope_at_spike, False


def jump(a_after, slope_at_spike, rate):
    """a just before a spike from a just after it: ``a+ - S' / V'-``."""
    return a_after - rate / slope_at_spike


def grid_jump(after, following, change, kept, floor, constants, rule):
    """The adjoint before a spike of bin k, from the one after it.

    Args:
        after: a of bin k after the spike.   following: a of bin k + 1.
        change: what moving the spike from bin k to k + 1 adds to the loss, through everything but
            the neuron's own reset.
        kept: of the spike.   floor: the guard's smallest slope per bin.

    Returns:
        a of bin k before the spike; dL/d(threshold); whether the guard acted; the size of the jump.
    """
    threshold, v_reset = constants[3], constants[4]
    a, later = after[0], following[0]
    felt = a - a  # by the reset, whose height holds the threshold
    if rule != NONE:
        change = change - (threshold - v_reset) * (later - a)
        felt = later if is_later(rule) else a
    steep, acted = guard(kept[0], floor)
    before = jump(a, steep, change)
    moved = before - a
    return (before,), (-felt - moved,), acted, abs(moved)


def kept_of_peak(state, constants):
    """What the backward pass needs to know of a peak below the threshold: its distance, V - theta.

    As many numbers as ``KEPT`` has.
    """
    voltage, threshold = tested(state, constants)
    return (voltage - threshold,)


def grid_peak(after, following, value, kept, width, constants, rule):
    """The adjoint before a peak that nearly spikes, from the one after it: the hybrid gradient.

    A spike there would change the loss by S, to first order: through its receivers, and through
    the reset. With a threshold noise of density h the expected loss changes with the height of the
    peak by h(V - theta) S. That the peak also moves in time adds nothing: V' = 0 there.

    Args:
        after, following: as in ``grid_jump``.
        value: what a spike in bin k adds to the loss, through everything but the neuron's reset.
        kept: of the peak.   width: of the noise.

    Returns:
        a of bin k before the peak; dL/d(threshold).
    """
    threshold, v_reset = constants[3], constants[4]
    if rule != NONE:
        a = following[0] if is_later(rule) else after[0]
        value = value - (threshold - v_reset) * a
    moved = density(kept[0], width) * value
    return (after[0] + moved,), (-moved,)


def jump_before_first_bin(adjoint, change, slope0, floor, constants, rule):
    """What a chunk sends back for a spike of the bin before its first one.

    The step that spiked has scaled the adjoint of its membrane by f = 1 - height / slope already
    (``snn_eventprop.hosts.step``), hence the division.

    Args:
        adjoint: a of the first bin.   slope0: of the spike; not positive where it has no time.
        change: the sensitivity to the spike of what receives it in the first bin.

    Returns:
        what is added to dL/dV before the first bin; dL/d(threshold); whether the guard acted.
    """
    threshold, v_reset = constants[3], constants[4]
    height = threshold - v_reset
    if rule == NONE:
        height = threshold - threshold
    felt = adjoint[0] if is_later(rule) else adjoint[0] - adjoint[0]
    steep, acted = guard(slope0, floor)
    sent = (change - height * adjoint[0]) / (steep - height)
    crossing = sent if is_later(rule) else sent - sent
    return -sent, crossing - felt, acted


# Continuous time, for the exact solver. Rates are inverse time constants, 1/s.

# Neurons this close to the threshold at a crossing cross with it.
SAME = 4e-16


def psp_coefficient(gap, tau_mem, tau_syn):
    """Membrane potential caused after ``gap`` seconds by one unit of current at its start.

    tau_syn / (tau_syn - tau_mem) * (exp(-gap/tau_syn) - exp(-gap/tau_mem)), written with
    ``expm1`` so that it stays accurate when the two time constants meet, and with the limit
    gap/tau * exp(-gap/tau) where they are equal.
    """
    x = gap / tau_mem - gap / tau_syn
    if abs(x) < 1e-8:
        return gap / tau_mem * math.exp(-gap / tau_mem) * (1.0 + 0.5 * x)
    return gap / tau_mem * math.exp(-gap / tau_mem) * math.expm1(x) / x


def psp_derivatives(gap, e_syn, e_mem, tau_mem, tau_syn):
    """Derivatives of ``psp_coefficient`` with respect to tau_mem and to tau_syn.

    With x = gap/tau_mem - gap/tau_syn and f(x) = expm1(x)/x the coefficient is
    gap/tau_mem e_mem f(x); f' is a series where x is small.
    """
    start = gap / tau_mem
    x = start - gap / tau_syn
    if abs(x) < 0.1:
        f = 1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7)))))
        rise = x * (1 / 8 + x * (1 / 30 + x * (1 / 144 + x * (1 / 840 + x / 5760))))
        rise = 1 / 2 + x * (1 / 3 + rise)
        value, change = start * e_mem * f, start * e_mem * rise
    else:
        value = start * (e_syn - e_mem) / x
        change = start * (e_syn * (x - 1) + e_mem) / (x * x)
    return (value * (start - 1) - change * start) / tau_mem, change * gap / tau_syn**2


def peak_time(current, voltage, tau_mem, tau_syn):
    """Seconds until V peaks (where I has come down to V), for I > V now and I < V later.

    tau_syn y log(1 - z) / -z with y = 1 - V/I and z = (1 - tau_syn/tau_mem) y; tau_syn y where the
    two time constants are equal.
    """
    y = 1 - voltage / current
    z = (1 - tau_syn / tau_mem) * y
    if abs(z) < 1e-8:
        return tau_syn * y * (1 + z / 2)
    return tau_syn * y * math.log1p(-z) / -z


def sensitivity_rate(a, b, tau_mem, tau_syn):
    """db/dt = b / tau_syn - a / tau_mem: how the value of a unit of current changes with time."""
    return b / tau_syn - a / tau_mem


def reset_rate(a_after, threshold, v_reset, leak):
    """What the neuron's own reset adds to S': -(theta - v_reset) da/dt, with da/dt = leak * a."""
    return -(threshold - v_reset) * leak * a_after


def spike_slope(current, threshold, rate_mem):
    """V' of a spike, 1/s."""
    return slope(current * rate_mem, threshold, rate_mem)


def crossing_bound(current, voltage, reach, zero):
    """What V stays below over a gap, ``reach`` being gap / tau_mem.

    While I > V, V rises at a falling rate.
    """
    return voltage + max(current - voltage, zero) * reach


def _after(current, voltage, e_syn, e_mem, psp):
    current, state = flow(current, (voltage,), (e_syn, psp, e_mem))
    return current, state[0]


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
        i, v = _after(current, voltage, e_syn, e_mem, psp)
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


def next_crossing(current, voltage, gap, threshold, rate_mem, rate_syn):
    """Seconds until V reaches the threshold within ``gap`` s; infinite where it does not."""
    if current <= voltage:
        return math.inf  # V falls, and will not rise before I does
    if voltage >= threshold:
        return 0.0  # reached to rounding at the event before
    e_syn, e_mem, psp = coefficients(gap, rate_mem, rate_syn)
    i_end, highest = _after(current, voltage, e_syn, e_mem, psp)
    if i_end >= highest:  # rising all the way
        if highest < threshold - SAME * threshold:
            return math.inf
        if highest <= threshold + SAME * threshold:
            return gap
        return crossing(current, voltage, gap, threshold, rate_mem, rate_syn)
    upper = min(peak_time(current, voltage, 1.0 / rate_mem, 1.0 / rate_syn), gap)
    e_syn, e_mem, psp = coefficients(upper, rate_mem, rate_syn)
    _, highest = _after(current, voltage, e_syn, e_mem, psp)
    if highest < threshold:
        return math.inf
    return crossing(current, voltage, upper, threshold, rate_mem, rate_syn)


def crosses_with(current, voltage, at, threshold, rate_mem, rate_syn):
    """Whether a neuron of which V rises until ``at`` has reached the threshold by then."""
    e_syn, e_mem, psp = coefficients(at, rate_mem, rate_syn)
    i, v = _after(current, voltage, e_syn, e_mem, psp)
    return current > voltage and i >= v and v >= threshold - SAME * threshold


def time_jump(a_after, rate, slope_at_spike, floor, threshold, v_reset, rate_mem):
    """The adjoint before a spike, from the one after it.

    Args:
        rate: S', but for the neuron's own reset.   floor: the guard's smallest slope, 1/s.

    Returns:
        a before the spike; dL/d(threshold), the reset height included; whether the guard acted;
        the size of the jump.
    """
    rate = rate + reset_rate(a_after, threshold, v_reset, rate_mem)
    steep, acted = guard(slope_at_spike, floor)
    before = jump(a_after, steep, rate)
    return before, -before, acted, abs(before - a_after)


def time_constant_gradients(b, a, current, voltage, gap, e_syn, e_mem, tau_mem, tau_syn):
    """dL/d(tau_mem, tau_syn) of one gap: (I, V) at its start, (b, a) at its end."""
    by_mem, by_syn = psp_derivatives(gap, e_syn, e_mem, tau_mem, tau_syn)
    of_mem = a * (voltage * e_mem * gap / tau_mem**2 + current * by_mem)
    of_syn = current * (b * e_syn * gap / tau_syn**2 + a * by_syn)
    return of_mem, of_syn
