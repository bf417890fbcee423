"""Surrogate gradients in snnTorch: ``snntorch.Synaptic`` in a loop over time.

snnTorch's membrane adds the current without a factor, ``mem <- beta mem + syn``, so the weights are
multiplied by c. The network then spikes exactly as with the grid solver, unless a neuron is driven
beyond two thresholds in one step, where snnTorch resets once more. The surrogate derivative is
snnTorch's default, the arctangent (``surrogate.atan``).
"""

from __future__ import annotations

from typing import Any

import snntorch
import torch
from torch import Tensor
from torch.nn.functional import linear

from lightning_modules.methods.stepped import SteppedNetwork, maps
from lightning_modules.model.network import recurrent_weight


class SnnTorchNetwork(SteppedNetwork):
    """Input products are computed for all steps at once; snnTorch's neuron then loops over time."""

    def spikes(self, layer: Any, signal: Tensor) -> Tensor:
        s, c, m = maps(layer)
        gain = c.expand(layer.out_features)[:, None]
        recurrent = recurrent_weight(layer)
        if recurrent is not None:
            recurrent = recurrent * gain
        neuron = _neuron(s, m, layer.threshold, "subtract")
        currents = linear(signal, layer.weight * gain).unbind()
        syn = mem = spikes = torch.zeros_like(currents[0])
        raster = []
        for current in currents:
            if recurrent is not None:
                current = current + linear(spikes, recurrent)
            spikes, syn, mem = neuron(current, syn, mem)
            spikes = spikes.to(current.dtype)  # snnTorch's are float32 always
            raster.append(spikes)
        return torch.stack(raster)

    def trace(self, signal: Tensor) -> Tensor:
        s, c, m = maps(self.readout)
        neuron = _neuron(s, m, c.new_ones(()), "none")
        currents = (c * linear(signal, self.readout.weight)).unbind()
        syn = mem = torch.zeros_like(currents[0])
        trace = []
        for current in currents:
            _, syn, mem = neuron(current, syn, mem)
            trace.append(mem)
        return torch.stack(trace)


def _neuron(alpha: Tensor, beta: Tensor, threshold: Tensor, reset: str) -> snntorch.Synaptic:
    """Made anew for each pass: its constants are functions of what is trained."""
    neuron = snntorch.Synaptic(alpha, beta, threshold, reset_mechanism=reset, reset_delay=False)
    # snnTorch keeps every neuron ever made in a list of its class.
    del snntorch.SpikingNeuron.instances[-1]
    return neuron
