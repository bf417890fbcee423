"""exact-snn-nn: an ``ExactMultiSpike`` layer, which looks for its spikes on a grid of times."""

from __future__ import annotations

import torch
from exact_snn.extended import ExactMultiSpike
from torch import nn
from torch.func import functional_call

from ...events import SpikeEvents
from ...layers import EventPropLI
from ..cases import TAU_MEM, TAU_SYN, Case, draw_weights
from .base import EventNetwork


class ExactSnn(EventNetwork):
    remark = (
        "feed-forward: it has no recurrent layer whose neurons spike more than once; an input of "
        "its layer spikes once, so that every event is an input of its own, sample by sample; room "
        "for twice the spikes that are wanted; the readout is ours"
    )
    differs = "it is feed-forward, and a spike leaves another current behind"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        weights = draw_weights(case)
        self.hidden = ExactMultiSpike(
            case.events, case.hidden, tm=TAU_MEM, ts=TAU_SYN, t_max=case.duration,
            grid_pts=case.steps + 1, max_spikes=int(2 * case.spikes),
        )  # fmt: skip
        self.hidden.requires_grad_(False)  # events of a channel share a weight: ``first``
        # Its potential after one input spike is scaled to peak at the weight.
        share = TAU_SYN * self.hidden.k_peak
        self.first = nn.Parameter(weights.input * share)
        self.readout = EventPropLI(
            case.hidden, case.outputs, tau_mem=TAU_MEM, tau_syn=TAU_SYN, dt=case.dt
        )
        with torch.no_grad():
            self.readout.weight.copy_(weights.output)
        self.layers = nn.ModuleList([self.hidden, self.readout])
        self.layers.register_parameter("first", self.first)
        self.weights = {"input": (self.first, share), "output": (self.readout.weight, 1.0)}

    def hidden_spikes(self, encoded: SpikeEvents) -> SpikeEvents:
        samples = []
        no_bias = self.first.new_zeros(self.case.hidden, 1)
        shape = len(encoded), self.case.events
        for times, units in zip(
            encoded.times.view(shape), encoded.units.view(shape), strict=True
        ):
            weight = torch.cat([self.first[:, units], no_bias], dim=1)
            found = functional_call(self.hidden, {"weight": weight}, (times[:, None],))[:, 0]
            neurons, numbers = found.isfinite().nonzero(as_tuple=True)
            times, order = found[neurons, numbers].sort()
            samples.append((times, neurons[order]))
        counts = torch.tensor([0, *(len(times) for times, _ in samples)], device=self.device)
        return SpikeEvents(
            torch.cat([times for times, _ in samples]),
            torch.cat([neurons for _, neurons in samples]),
            counts.cumsum(0), self.case.hidden, self.case.duration, validate=False,
        )  # fmt: skip
