"""EventProp: exact gradients of event-based networks, the method of this package."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.model.network import Observation, Outcome, ReferenceNetwork
from snn_eventprop import EventPropLI, SpikeEvents
from snn_eventprop.ops.bin_times import num_bins


class EventPropNetwork(ReferenceNetwork):
    """Exact event-based gradients; all layers exchange events.

    The loss decides what the readout computes: closed-form time averages where they exist, else
    membrane traces, and spiking outputs for losses on spike times.
    """

    def forward(self, events: SpikeEvents) -> Outcome:
        spikes = self._hidden_spikes(events)
        counts = [layer.counts() for layer in spikes]
        if isinstance(self.readout, EventPropLI) and self.loss.weighting is not None:
            averages = self.readout.integral(spikes[-1], self.loss.weighting)
            return Outcome(self.loss.scale * averages, counts)
        read = self._read(spikes[-1])
        if isinstance(read, SpikeEvents) or events.of_one_length:
            return Outcome(self.loss.logits(read), counts)
        return Outcome(self.loss.logits(read, events.valid_bins(self.readout.dt)), counts)

    @torch.no_grad()
    def observe(self, events: SpikeEvents) -> Observation:
        spikes = self._hidden_spikes(events)
        readout = self._read(spikes[-1])
        if isinstance(readout, SpikeEvents):
            return Observation(spikes, None, readout)
        return Observation(spikes, readout, None)

    def _read(self, spikes: SpikeEvents) -> SpikeEvents | Tensor:
        """The readout's spikes, or its trace at the end of each dt."""
        continuous = self.hidden[0].solver == "exact"
        if continuous and isinstance(self.readout, EventPropLI):
            steps = num_bins(spikes.duration, self.readout.dt)
            times = torch.arange(1, steps + 1, dtype=torch.float64) * self.readout.dt
            return self.readout.sample(spikes, times.to(spikes.device))
        return self.readout(spikes)

    def _hidden_spikes(self, events: SpikeEvents) -> list[SpikeEvents]:
        spikes = [events]
        for layer in self.hidden:
            spikes.append(layer(spikes[-1]))
        return spikes[1:]
