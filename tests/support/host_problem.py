"""Two layers of spiking neurons, a loss, and its exact gradient, for tests of the host skins."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from support.continuous_network import Network, central_differences

TAU_MEM, TAU_SYN, DURATION = 20e-3, 5e-3, 0.04
INPUTS, SIZES = 6, (5, 4)
_OMEGA = 2 * math.pi / 0.05


class Problem:
    """Weights, input events and a loss on output spikes or on all membranes.

    The seed is one for which every spike crosses the threshold steeply (V' > 1.2 theta / tau_mem),
    so that grids of the tests are fine enough for the error to be of first order.
    """

    def __init__(self, recurrent: bool, loss: str, seed: int = 17):
        rng = np.random.default_rng(seed)
        self.recurrent, self.loss = recurrent, loss
        self.phase = rng.uniform(0, 6, 8)
        first, second = SIZES
        self.arrays = [
            rng.normal(1.9, 0.8, (first, INPUTS)),
            rng.normal(1.2, 0.6, (second, first)),
        ]
        if recurrent:
            self.arrays += [
                rng.normal(0, 0.5, (first, first)),
                rng.normal(0, 0.5, (second, second)),
            ]
        times = np.sort(rng.uniform(0, DURATION * 0.9, 20))
        self.events = list(zip(times, rng.integers(0, INPUTS, 20), strict=True))
        self.constants = np.array([1.0, 0.0])  # threshold, reset

    def spike_weight(self, time: float) -> np.ndarray:
        return np.cos(_OMEGA * time + self.phase[: SIZES[1]])

    def membrane_weight(self, time, layer: int) -> np.ndarray:
        return 50 * np.cos(_OMEGA * np.asarray(time)[:, None] + self.phase[None, : SIZES[layer]])

    def _continuous_loss(self):
        first, second, *back = self.arrays
        back = back or [None, None]
        network = Network([(first, back[0]), (second, back[1])], TAU_MEM, TAU_SYN, *self.constants)
        weighting = self.membrane_weight if self.loss == "membrane" else None
        spikes, total = network.run(self.events, DURATION, weighting)
        if self.loss == "spikes":
            total = sum(self.spike_weight(time)[n] for time, n in spikes[1])
        return total, [len(layer) for layer in spikes]

    @functools.cached_property
    def exact_gradients(self) -> list[np.ndarray]:
        """With respect to the weights, then (threshold, reset)."""
        return central_differences(self._continuous_loss, [*self.arrays, self.constants])

    def raster(self, dt: float) -> torch.Tensor:
        raster = torch.zeros(round(DURATION / dt), 1, INPUTS, dtype=torch.float64)
        for time, unit in self.events:
            raster[int(time / dt), 0, unit] += 1
        return raster

    def grid_loss(self, spikes: torch.Tensor, membranes: list[torch.Tensor], dt: float):
        """From output spikes [T, 1, N] and the membranes [T, 1, N] of both layers."""
        times = np.arange(spikes.shape[0]) * dt
        if self.loss == "spikes":
            weight = np.stack([self.spike_weight(time) for time in times])
            return (spikes[:, 0] * torch.from_numpy(weight)).sum()
        return sum(
            (membrane[:, 0] * torch.from_numpy(self.membrane_weight(times, layer))).sum() * dt
            for layer, membrane in enumerate(membranes)
        )


@functools.cache
def problem(recurrent: bool, loss: str) -> Problem:
    return Problem(recurrent, loss)


def relative_error(found, exact) -> float:
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
