"""This package: events in, spike times through, the time average of the readout in closed form."""

from __future__ import annotations

import torch
from torch import nn

from ...events import SpikeEvents
from ...layers import EventPropLI, EventPropLIF, Solver
from ..cases import TAU_MEM, TAU_SYN, Case, draw_weights
from .base import EventNetwork


class Grid(EventNetwork):
    solver: Solver = "grid"
    delay_steps = 0  # longest delay of input and recurrent synapses

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        weights = draw_weights(case)
        self.hidden = EventPropLIF(
            case.inputs, case.hidden, recurrent=True, tau_mem=TAU_MEM, tau_syn=TAU_SYN,
            dt=case.dt, solver=self.solver, dtype=self.dtype,
            max_delay=self.delay_steps * case.dt or None,
        )  # fmt: skip
        if self.hidden.max_delay is not None:
            self.hidden.reset_delays(self.hidden.max_delay, self.hidden.max_delay)
        self.readout = EventPropLI(
            case.hidden, case.outputs, tau_mem=TAU_MEM, tau_syn=TAU_SYN, dt=case.dt,
            dtype=self.dtype,
        )  # fmt: skip
        assert self.hidden.recurrent_weight is not None
        self.layers = nn.ModuleList([self.hidden, self.readout])
        parameters = self.hidden.weight, self.hidden.recurrent_weight, self.readout.weight
        self.weights = {}
        for name, parameter in zip(weights._fields, parameters, strict=True):
            self.weights[name] = parameter, 1.0
            with torch.no_grad():
                parameter.copy_(getattr(weights, name))

    def hidden_spikes(self, encoded: SpikeEvents) -> SpikeEvents:
        return self.hidden(encoded)


class GridDelays(Grid):
    remark = "learned delays of up to 62 steps"
    differs = "it has delays"
    delay_steps = 62


class Exact(Grid):
    solver = "exact"


class Reference(Exact):
    """What gradients are compared with: continuous time in float64."""

    dtype = torch.float64
