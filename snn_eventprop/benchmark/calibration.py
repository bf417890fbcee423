"""Input weights scaled until hidden neurons spike as often as a case asks for."""

from __future__ import annotations

from .cases import Case, draw_events
from .peers.base import Network

_SAMPLES = 4  # these are enough to tell


def calibrate(network: Network, case: Case) -> float:
    """Scale the input weights until neurons spike ``case.spikes`` times, within 2 %.

    Returns the factor, found by bisection on the first samples of the case.
    """
    encoded = network.encode(draw_events(case)[: min(case.batch, _SAMPLES)])
    low, high, gain = 2.0**-6, 2.0**6, 1.0
    for _ in range(24):
        network.set_gain(gain)
        spikes = network.spikes_per_neuron(encoded)
        if abs(spikes - case.spikes) <= 0.02 * case.spikes:
            break
        if spikes < case.spikes:
            low = gain
            gain = min(gain * 1.5, high) if high == 2.0**6 else (low * high) ** 0.5
        else:
            high = gain
            gain = max(gain / 1.5, low) if low == 2.0**-6 else (low * high) ** 0.5
    return gain
