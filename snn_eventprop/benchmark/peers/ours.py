"""This package: events in, spike times through, the time average of the readout in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...events import SpikeEvents
from ...layers import EventPropLI, EventPropLIF, Solver
from ..cases import TAU_MEM, TAU_SYN, Case, draw_weights
from .base import TorchNetwork


class Grid(TorchNetwork):
    solver: Solver = "grid"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        weights = draw_weights(case)
        self.hidden = EventPropLIF(
            case.inputs, case.hidden, recurrent=True, tau_mem=TAU_MEM, tau_syn=TAU_SYN,
            dt=case.dt, solver=self.solver,
        )  # fmt: skip
        self.readout = EventPropLI(
            case.hidden, case.outputs, tau_mem=TAU_MEM, tau_syn=TAU_SYN, dt=case.dt
        )
        with torch.no_grad():
            self.hidden.weight.copy_(weights.input)
            self.hidden.recurrent_weight.copy_(weights.recurrent)
            self.readout.weight.copy_(weights.output)
        self.layers = nn.ModuleList([self.hidden, self.readout]).to(case.device)
        self.input_weight = self.hidden.weight

    def encode(self, events: SpikeEvents) -> SpikeEvents:
        return events.to(self.case.device)

    @torch.no_grad()
    def spikes_per_neuron(self, encoded: SpikeEvents) -> float:
        return self.hidden(encoded).times.numel() / (len(encoded) * self.case.hidden)

    def forward(self, encoded: SpikeEvents, target: Tensor) -> Tensor:
        averages = self.readout.integral(self.hidden(encoded), "exponential")
        return self.loss.from_logits(self.loss.scale * averages, target)


class Exact(Grid):
    solver = "exact"
