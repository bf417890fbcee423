"""The mathematics of event-based gradients, stated once.

A current-based leaky integrate-and-fire (LIF) neuron with exponential synapses:

    tau_mem dV/dt = -V + I          tau_syn dI/dt = -I

An incoming spike adds its weight to ``I``. When ``V`` reaches ``theta`` from below the neuron
spikes and ``V`` drops by ``theta - v_reset`` (to ``v_reset``). A leaky-integrator readout is the
same neuron without the threshold.

With a = dL/dV and b = dL/dI (what one unit of voltage, or of current, is worth at time t), the
adjoint system runs backwards between events,

    da/dt = a / tau_mem             db/dt = b / tau_syn - a / tau_mem

and jumps at the neuron's own spikes: the crossing condition V(t) = theta makes a small increase
of V move the spike earlier by 1 / V', so

    a- = a+ - S' / V'-              (``jump``)

where S' = dL/dt of that spike, summed over everybody who receives it: the synapses it feeds
(``worth_rate`` of each), any loss on its time, and the neuron's own reset, which is one more
receiver with weight -(theta - v_reset) onto V (``reset_worth_rate``). This is the textbook rule
a- = (V'+ / V'-) a+ - S'_others / V'-, written without a second slope.

Every function takes and returns scalars (or anything with the same arithmetic, such as tensors)
and is executed as it stands by the float64 reference and, compiled, by every backend.

Source: T. C. Wunderlich and C. Pehle, Event-based backpropagation can compute exact gradients
for spiking neural networks, Scientific Reports 11, 12829 (2021).
"""

from __future__ import annotations

import math


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
        slope = x * (1 / 8 + x * (1 / 30 + x * (1 / 144 + x * (1 / 840 + x / 5760))))
        slope = 1 / 2 + x * (1 / 3 + slope)
        value, change = start * e_mem * f, start * e_mem * slope
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


def flow(current, voltage, e_syn, e_mem, psp):
    """State after a gap without events: ``(I, V) -> (e_syn I, e_mem V + psp I)``."""
    return e_syn * current, e_mem * voltage + psp * current


def adjoint_flow(b, a, e_syn, e_mem, psp):
    """Adjoint state before a gap, from the one after it: the transpose of ``flow``."""
    return e_syn * b + psp * a, e_mem * a


def slope(drive, threshold, leak):
    """dV/dt at the threshold, ``drive - leak * threshold``.

    In continuous time drive = I / tau_mem and leak = 1 / tau_mem, per second; on a grid
    drive = c I and leak = 1 - m, per step.
    """
    return drive - leak * threshold


def crossing_slope(slope_at_spike, voltage, threshold):
    """The slope on a grid, where a spike may be no upward crossing; then it is infinite.

    After a reset by subtraction V can lie above the threshold still, and the next bin spikes
    whatever its slope: the time of that spike does not depend on V. Of an upward crossing
    V <= threshold is known of the bin before, and with it slope >= V - threshold of this one.
    """
    if slope_at_spike < voltage - threshold:
        return math.inf
    return slope_at_spike


def guard(slope_at_spike, floor):
    """Slope used in the jump, and whether the guard acted: slopes below ``floor`` are raised to it.

    A spike that grazes the threshold (V' -> 0) has an unbounded exact gradient. ``floor = 0``
    switches the guard off.
    """
    if slope_at_spike < floor:
        return floor, True
    return slope_at_spike, False


def worth_rate(a, b, tau_mem, tau_syn):
    """db/dt = b / tau_syn - a / tau_mem: how the worth of a unit of current changes with time."""
    return b / tau_syn - a / tau_mem


def reset_worth_rate(a_after, threshold, v_reset, leak):
    """What the neuron's own reset adds to S': -(theta - v_reset) da/dt, with da/dt = leak * a."""
    return -(threshold - v_reset) * leak * a_after


def jump(a_after, slope_at_spike, spike_worth_rate):
    """a just before a spike from a just after it: ``a+ - S' / V'-``."""
    return a_after - spike_worth_rate / slope_at_spike
