"""snnTorch: ``RSynaptic`` and a ``Synaptic`` readout in a loop over time."""

from __future__ import annotations

import math
from collections.abc import Iterable

import snntorch
import torch
from torch import Tensor, nn

from ..cases import TAU_MEM, TAU_SYN, Case, draw_weights
from .base import DenseNetwork, linear


class SnnTorch(DenseNetwork):
    remark = "one nn.Linear over the whole raster, then a loop over its unbound steps"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        weights = draw_weights(case)
        alpha, beta = math.exp(-case.dt / TAU_SYN), math.exp(-case.dt / TAU_MEM)
        # Its membrane adds the whole current in each step; the weights carry the missing factor.
        share = 1 - beta
        self.first = linear(weights.input * share)
        self.hidden = snntorch.RSynaptic(alpha=alpha, beta=beta, linear_features=case.hidden)
        self.second = linear(weights.output * share)
        self.readout = snntorch.Synaptic(alpha=alpha, beta=beta, reset_mechanism="none")
        with torch.no_grad():
            self.hidden.recurrent.weight.copy_(weights.recurrent * share)
            self.hidden.recurrent.bias.zero_()
        self.layers = nn.ModuleList([self.first, self.hidden, self.second, self.readout])
        self.weights = {
            "input": (self.first.weight, share),
            "recurrent": (self.hidden.recurrent.weight, share),
            "output": (self.second.weight, share),
        }

    @torch.no_grad()
    def spikes_per_neuron(self, encoded: Tensor) -> float:
        total = 0.0
        spikes, current, voltage = self.hidden.reset_mem()
        for x in self.currents(encoded):
            spikes, current, voltage = self.hidden(x, spikes, current, voltage)
            total += spikes.mean().item()
        return total

    def currents(self, encoded: Tensor) -> Iterable[Tensor]:
        return self.first(encoded).unbind()

    def forward(self, encoded: Tensor, target: Tensor) -> Tensor:
        trace = []
        spikes, current, voltage = self.hidden.reset_mem()
        current_out, voltage_out = self.readout.reset_mem()
        for x in self.currents(encoded):
            spikes, current, voltage = self.hidden(x, spikes, current, voltage)
            _, current_out, voltage_out = self.readout(
                self.second(spikes), current_out, voltage_out
            )
            trace.append(voltage_out)
        return self.loss(torch.stack(trace), target)


class SnnTorchTutorial(SnnTorch):
    remark = "every layer called once per step, as snnTorch's tutorials do"

    def currents(self, encoded: Tensor) -> Iterable[Tensor]:
        return (self.first(encoded[step]) for step in range(len(encoded)))
