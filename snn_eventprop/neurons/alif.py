r"""Adaptive leaky integrate-and-fire: a threshold that rises at each spike and decays.

    tau_mem dV/dt = -V + I     tau_syn dI/dt = -I     tau_a dA/dt = -A

The neuron spikes where V reaches theta + beta A. V then drops by theta + beta A - v_reset, and A
rises by 1.

At a spike, with phi = V - theta - beta A and S' the sensitivity of the loss to the spike's time
(``snn_eventprop.neurons.lif``), a = dL/dV and alpha = dL/dA jump by

    a-     = a+ - S' / phi'
    alpha- = alpha+ - beta a+ + beta S' / phi'

The term -beta a+ is the reset height, which holds beta A. S' counts two receivers of the neuron's
own: the reset, whose height falls with A while the spike is put off, and the rise of A.

Source: G. Bellec et al., Long short-term memory and learning-to-learn in networks of spiking
neurons, NeurIPS (2018); the adjoint follows Wunderlich and Pehle (2021).
"""

from __future__ import annotations

from .lif import NONE, SUBTRACT, ZERO, crossing_slope, guard, jump
from .threshold_noise import density

NAME = "alif"
STATE = ("current", "voltage", "adaptation")
FLOW_CONSTANTS = ("s", "c", "m", "r")
SPIKE_CONSTANTS = ("threshold", "beta")
FIXED_CONSTANTS = ("v_reset",)
KEPT = ("slope", "adaptation")
RESETS = {"none": NONE, "subtract": SUBTRACT, "zero": ZERO}


def flow(current, state, constants):
    """``(I, V, A) -> (s I, m V + c I, r A)``."""
    s, c, m, r = constants[0], constants[1], constants[2], constants[3]
    return s * current, (m * state[0] + c * current, r * state[1])


def adjoint_flow(b, adjoint, constants):
    """The transpose of ``flow``."""
    s, c, m, r = constants[0], constants[1], constants[2], constants[3]
    return s * b + c * adjoint[0], (m * adjoint[0], r * adjoint[1])


def flow_gradients(b, adjoint, current, state):
    """dL/d(s, c, m, r) of one bin."""
    return b * current, adjoint[0] * current, adjoint[0] * state[0], adjoint[1] * state[1]


def twice(constants):
    s, c, m, r = constants[0], constants[1], constants[2], constants[3]
    return s * s, (s + m) * c, m * m, r * r


def tested(state, constants):
    """V and theta + beta A."""
    return state[0], constants[4] + constants[5] * state[1]


def may_spike(current, state, gain, constants, zero):
    """Without input A only decays: the threshold stays above theta + min(beta A, 0)."""
    lowest = constants[4] + min(constants[5] * state[1], zero)
    return max(state[0], zero) + gain * max(current, zero) > lowest


def kept_of_spike(current, state, constants):
    """phi' per bin, from a state at the threshold in the bin before, and A."""
    voltage, threshold = tested(state, constants)
    earlier = constants[4] + constants[5] * state[1] / constants[3]
    rise = constants[2] * earlier + constants[1] * current - threshold
    return crossing_slope(rise, voltage, threshold), state[1]


def reset_at_spike(state, constants, rule):
    voltage, adaptation = state[0], state[1] + constants[-1]
    if rule == SUBTRACT:
        _, threshold = tested(state, constants)
        return voltage - (threshold - constants[6]), adaptation
    if rule == ZERO:
        return constants[6], adaptation
    return voltage, adaptation


def reset_before_flow(state, constants, rule):
    return state


def reset_after_flow(state, constants, rule):
    return state


def is_later(rule):
    return False


def grid_jump(after, following, change, kept, floor, constants, rule):
    """As in ``lif``; gradients of theta and beta."""
    r, theta, beta, v_reset = constants[3], constants[4], constants[5], constants[6]
    a, alpha, adaptation = after[0], after[1], kept[1]
    change = change + (following[1] - alpha)  # A rises by 1
    felt = a - a  # by the reset, whose height is theta + beta A - v_reset
    if rule != NONE:
        height = theta + beta * adaptation - v_reset
        height_later = theta + beta * r * adaptation - v_reset
        change = change - (height_later * following[0] - height * a)
        felt = a
    steep, acted = guard(kept[0], floor)
    before = jump(a, steep, change)
    moved = before - a
    of_threshold = -felt - moved
    return (
        (before, alpha + beta * of_threshold), (of_threshold, adaptation * of_threshold), acted,
        abs(moved),
    )  # fmt: skip


def kept_of_peak(state, constants):
    """V - theta - beta A, and A."""
    voltage, threshold = tested(state, constants)
    return voltage - threshold, state[1]


def grid_peak(after, following, value, kept, width, constants, rule):
    """As in ``lif``; gradients of theta and beta."""
    theta, beta, v_reset = constants[4], constants[5], constants[6]
    a, alpha, adaptation = after[0], after[1], kept[1]
    value = value + alpha  # A would rise by 1
    if rule != NONE:
        value = value - (theta + beta * adaptation - v_reset) * a
    moved = density(kept[0], width) * value
    return (a + moved, alpha - beta * moved), (-moved, -adaptation * moved)


def jump_before_first_bin(adjoint, change, slope0, floor, constants, rule):
    """Nothing: chunks of a recording do not continue each other."""
    nothing = change - change
    return nothing, nothing, False
