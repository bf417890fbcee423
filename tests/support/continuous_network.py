"""Feed-forward or recurrent LIF layers in continuous time, simulated from event to event.

The independent reference of the host layers' gradients: no grid, no adjoint; crossings are found
by sampling the closed-form membrane and bisecting.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq


class Network:
    """Layers (input weights [H, N], recurrent weights [H, H] or None) with common constants."""

    def __init__(self, layers, tau_mem, tau_syn, threshold=1.0, v_reset=0.0):
        self.layers = layers
        self.tau_mem, self.tau_syn = tau_mem, tau_syn
        self.threshold, self.v_reset = threshold, v_reset

    def _membrane(self, gap, current, voltage):
        decay = np.exp(-gap / self.tau_mem)
        ratio = self.tau_syn / (self.tau_syn - self.tau_mem)
        return voltage * decay + current * ratio * (np.exp(-gap / self.tau_syn) - decay)

    def run(self, events, duration, weighting=None):
        """Spikes [(time, neuron)] of each layer, and sum over neurons of int weighting V dt."""
        currents = [np.zeros(w.shape[0]) for w, _ in self.layers]
        voltages = [np.zeros(w.shape[0]) for w, _ in self.layers]
        spikes = [[] for _ in self.layers]
        nodes, weights = np.polynomial.legendre.leggauss(12)
        events = sorted(events)
        now, total, following = 0.0, 0.0, 0
        while now < duration:
            arrival = events[following][0] if following < len(events) else duration
            gap = min(arrival, now + 2e-3, duration) - now
            first = None
            grid = np.linspace(0, gap, 41)
            for layer, (current, voltage) in enumerate(zip(currents, voltages, strict=True)):
                above = self._membrane(grid[1:, None], current, voltage) > self.threshold
                for n in np.flatnonzero(above.any(0)):
                    j = int(above[:, n].argmax())
                    crossing = brentq(
                        lambda d, i=current[n], v=voltage[n]: (
                            self._membrane(d, i, v) - self.threshold
                        ),
                        grid[j], grid[j + 1], xtol=1e-16, rtol=1e-15,
                    )  # fmt: skip
                    if first is None or crossing < first[0]:
                        first = (crossing, layer, n)
            gap = first[0] if first else gap
            for layer, (current, voltage) in enumerate(zip(currents, voltages, strict=True)):
                if weighting is not None:
                    at = (nodes + 1) / 2 * gap
                    course = self._membrane(at[:, None], current, voltage)
                    total += (
                        ((weighting(now + at, layer) * course).sum(1) * weights).sum() * gap / 2
                    )
                voltages[layer] = self._membrane(gap, current, voltage)
                currents[layer] = current * np.exp(-gap / self.tau_syn)
            now += gap
            if first:
                _, layer, n = first
                spikes[layer].append((now, n))
                voltages[layer][n] = self.v_reset
                if self.layers[layer][1] is not None:
                    currents[layer] = currents[layer] + self.layers[layer][1][:, n]
                if layer + 1 < len(self.layers):
                    currents[layer + 1] = currents[layer + 1] + self.layers[layer + 1][0][:, n]
            elif following < len(events) and now >= arrival:
                currents[0] = currents[0] + self.layers[0][0][:, events[following][1]]
                following += 1
        return spikes, total


def central_differences(loss, arrays, step=1e-6):
    """d loss / d array of each array; ``loss`` returns (value, spike counts), counts must hold."""
    _, counts = loss()
    gradients = []
    for array in arrays:
        gradient = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + step
            up, counts_up = loss()
            array[index] = kept - step
            down, counts_down = loss()
            array[index] = kept
            assert counts_up == counts_down == counts
            gradient[index] = (up - down) / (2 * step)
        gradients.append(gradient)
    return gradients
