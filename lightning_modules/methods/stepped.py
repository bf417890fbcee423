"""The reference network in a loop over time on rasters, which autograd differentiates.

All methods here compute one step of a hidden layer as the grid solver does,

    I <- I + X[k] + W_rec z[k-1];   V <- m V + c I;   z[k] = V > threshold;   reset;   I <- s I

with (s, c, m) of the exact solution over dt (``snn_eventprop.discretisation.exponential``). The
methods differ in the surrogate derivative of the step function.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_modules.model.network import NetworkOptions, Observation, Outcome, ReferenceNetwork
from snn_eventprop import SpikeEvents
from snn_eventprop.discretisation import exponential
from snn_eventprop.losses import ClassificationLoss


class Maps(NamedTuple):
    """Factors of one step, scalars or per neuron."""

    s: Tensor
    c: Tensor
    m: Tensor


class SteppedNetwork(ReferenceNetwork):
    """Layers that exchange rasters ``[T, B, N]``; memory grows with T times neurons.

    Raises:
        ValueError: the options have solver="exact", which has no steps, or delays, or the loss
            reads spike times, which surrogate derivatives do not reach.
    """

    def __init__(
        self, num_inputs: int, num_classes: int, options: NetworkOptions, loss: ClassificationLoss
    ) -> None:
        if options.solver != "grid":
            raise ValueError(
                f"solver={options.solver!r} belongs to method eventprop; other methods step "
                "through time: use solver: grid and choose dt"
            )
        if loss.reads == "spikes":
            raise ValueError(
                f"{type(loss).__name__} reads spike times, which only method eventprop "
                "differentiates; choose a loss on readout membranes, such as SumExpLoss"
            )
        if options.max_delay is not None:
            raise ValueError(
                f"max_delay={options.max_delay!r} belongs to method eventprop; other methods have "
                "no delays: leave it out"
            )
        super().__init__(num_inputs, num_classes, options, loss)
        self.dt = options.dt

    def spikes(self, layer: Any, signal: Tensor) -> Tensor:
        """Raster ``[T, B, out]`` of a hidden layer for the input raster ``[T, B, in]``."""
        raise NotImplementedError

    def trace(self, signal: Tensor) -> Tensor:
        """Membranes of the readout at the end of each step, ``[T, B, O]``."""
        raise NotImplementedError

    def forward(self, events: SpikeEvents) -> Outcome:
        hidden, trace = self._run(events)
        if events.of_one_length:
            return Outcome(self.loss.logits(trace), [raster.sum(0) for raster in hidden])
        # A sample ends with its own last bin, and so do its spikes.
        mask = events.valid_bins(self.dt)
        inside = mask[..., None]
        return Outcome(
            self.loss.logits(trace, mask), [(raster * inside).sum(0) for raster in hidden]
        )

    @torch.no_grad()
    def observe(self, events: SpikeEvents) -> Observation:
        hidden, trace = self._run(events)
        inside = events.valid_bins(self.dt)[..., None]
        spikes = [SpikeEvents.from_dense(raster * inside, self.dt) for raster in hidden]
        return Observation(spikes, trace, None)

    def _run(self, events: SpikeEvents) -> tuple[list[Tensor], Tensor]:
        signals = [events.to_dense(self.dt).to(self.readout.weight.dtype)]
        for layer in self.hidden:
            signals.append(self.spikes(layer, signals[-1]))
        return signals[1:], self.trace(signals[-1])


def maps(layer: Any) -> Maps:
    """(s, c, m) of a layer, in the dtype of its weights."""
    factors = exponential(layer.tau_mem, layer.tau_syn, layer.dt)
    return Maps(*(factor.to(layer.weight.dtype) for factor in factors))
