"""Norse: ``LIFRecurrent`` over the sequence, then a leaky-integrator readout."""

from __future__ import annotations

import norse.torch as norse
import torch
from torch import Tensor, nn

from ..cases import TAU_MEM, TAU_SYN, Case, draw_weights
from .base import DenseNetwork, linear


class Norse(DenseNetwork):
    def __init__(self, case: Case) -> None:
        super().__init__(case)
        weights = draw_weights(case)
        tau_syn = TAU_SYN
        if case.dt >= TAU_SYN:
            # Its Euler step has the factor 1 - dt/tau_syn, which must not be negative.
            tau_syn = case.dt
            self.differs = f"its Euler step needs dt < tau_syn: run with tau_syn = {tau_syn:g} s"
            self.remark = self.differs
        inverse = {
            "tau_syn_inv": torch.tensor(1 / tau_syn), "tau_mem_inv": torch.tensor(1 / TAU_MEM)
        }  # fmt: skip
        self.hidden = norse.LIFRecurrent(
            case.inputs, case.hidden, p=norse.LIFParameters(**inverse), autapses=True, dt=case.dt
        )
        self.second = linear(weights.output)
        self.readout = norse.LICell(p=norse.LIParameters(**inverse), dt=case.dt)
        with torch.no_grad():
            self.hidden.input_weights.copy_(weights.input)
            self.hidden.recurrent_weights.copy_(weights.recurrent)
        self.layers = nn.ModuleList([self.hidden, self.second, self.readout])
        self.weights = {
            "input": (self.hidden.input_weights, 1.0),
            "recurrent": (self.hidden.recurrent_weights, 1.0),
            "output": (self.second.weight, 1.0),
        }

    @torch.no_grad()
    def spikes_per_neuron(self, encoded: Tensor) -> float:
        return self.hidden(encoded)[0].mean().item() * len(encoded)

    def forward(self, encoded: Tensor, target: Tensor) -> Tensor:
        spikes, _ = self.hidden(encoded)
        trace, state = [], None
        # Norse's LI indexes its input step by step, whose backward pass is quadratic in the number
        # of steps; its cell over the unbound steps is what it computes, and faster.
        for current in self.second(spikes).unbind():
            voltage, state = self.readout(current, state)
            trace.append(voltage)
        return self.loss(torch.stack(trace), target)
