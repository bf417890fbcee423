"""SpikingJelly: ``CUBALIFNode`` in a loop over time, and a leaky-integrator readout."""

from __future__ import annotations

import math

import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from ..cases import TAU_MEM, TAU_SYN, Case, draw_weights
from .base import DenseNetwork, linear


class SpikingJelly(DenseNetwork):
    remark = "the synaptic current of its readout is a line of ours"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        weights = draw_weights(case)
        alpha, beta = math.exp(-case.dt / TAU_SYN), math.exp(-case.dt / TAU_MEM)
        share, self.alpha = 1 - beta, alpha
        self.first = linear(weights.input * share)
        self.recurrent = linear(weights.recurrent * share)
        self.hidden = neuron.CUBALIFNode(
            c_decay=alpha, v_decay=beta, v_threshold=1.0, v_reset=None,
            surrogate_function=surrogate.ATan(),
        )  # fmt: skip
        self.second = linear(weights.output)
        self.readout = neuron.NonSpikingLIFNode(tau=1 / share)
        self.layers = nn.ModuleList(
            [self.first, self.recurrent, self.hidden, self.second, self.readout]
        )
        self.weights = {
            "input": (self.first.weight, share),
            "recurrent": (self.recurrent.weight, share),
            "output": (self.second.weight, 1.0),
        }

    @torch.no_grad()
    def spikes_per_neuron(self, encoded: Tensor) -> float:
        return sum(spikes.mean().item() for spikes in self._run(encoded))

    def _run(self, raster: Tensor):
        functional.reset_net(self.layers)
        spikes = raster.new_zeros(raster.shape[1], self.case.hidden)
        for x in self.first(raster).unbind():
            spikes = self.hidden(x + self.recurrent(spikes))
            yield spikes

    def forward(self, encoded: Tensor, target: Tensor) -> Tensor:
        trace = []
        self.readout.v = 0.0
        # What the node's forward pass does, without indexing the sequence step by step, whose
        # backward pass is quadratic in the number of steps.
        current = encoded.new_zeros(encoded.shape[1], self.case.outputs)
        for spikes in self._run(encoded):
            current = self.alpha * current + self.second(spikes)
            self.readout.neuronal_charge(current)
            trace.append(self.readout.v)
        return self.loss(torch.stack(trace), target)
