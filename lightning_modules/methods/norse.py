"""Surrogate gradients in Norse: ``lif_step`` in a loop over time.

Norse's Euler step has the factors 1 - dt/tau_syn, dt/tau_mem and 1 - dt/tau_mem. With the inverse
time constants (1 - s)/dt and (1 - m)/dt and weights times c/(1 - m) it is the exponential step of
the grid solver. There is one difference: a spike sets V to 0, where the grid solver subtracts the
threshold. The surrogate derivative is Norse's default, SuperSpike.
"""

from __future__ import annotations

from typing import Any

import torch
from norse.torch.functional.leaky_integrator import LIParameters, LIState, li_feed_forward_step
from norse.torch.functional.lif import (
    LIFFeedForwardState,
    LIFParameters,
    LIFState,
    lif_feed_forward_step,
    lif_step,
)
from torch import Tensor
from torch.nn.functional import linear

from lightning_modules.methods.stepped import SteppedNetwork, maps
from lightning_modules.model.network import recurrent_weight


class NorseNetwork(SteppedNetwork):
    """What Norse's ``LIF``, ``LIFRecurrent`` and ``LI`` compute."""

    def spikes(self, layer: Any, signal: Tensor) -> Tensor:
        s, c, m = maps(layer)
        gain = (c / (1 - m)).expand(layer.out_features)[:, None]
        p = LIFParameters((1 - s) / layer.dt, (1 - m) / layer.dt, v_th=layer.threshold)
        rest = signal.new_zeros(signal.shape[1], layer.out_features)
        state: Any
        weight, recurrent = layer.weight * gain, recurrent_weight(layer)
        raster = []
        if recurrent is None:
            state = LIFFeedForwardState(rest, rest)
            for current in linear(signal, weight).unbind():
                spikes, state = lif_feed_forward_step(current, state, p, layer.dt)
                raster.append(spikes)
        else:
            state, recurrent = LIFState(rest, rest, rest), recurrent * gain
            for arriving in signal.unbind():
                spikes, state = lif_step(arriving, state, weight, recurrent, p, layer.dt)
                raster.append(spikes)
        return torch.stack(raster)

    def trace(self, signal: Tensor) -> Tensor:
        s, c, m = maps(self.readout)
        dt = self.readout.dt
        p = LIParameters((1 - s) / dt, (1 - m) / dt)
        rest = signal.new_zeros(signal.shape[1], self.readout.weight.shape[0])
        state = LIState(rest, rest)
        trace = []
        for current in linear(signal, self.readout.weight * (c / (1 - m))).unbind():
            voltage, state = li_feed_forward_step(current, state, p, dt)
            trace.append(voltage)
        return torch.stack(trace)
