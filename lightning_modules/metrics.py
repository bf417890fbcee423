"""Activity of a hidden layer over an epoch, as torchmetrics (they add up over processes)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class _Activity(Metric):
    full_state_update = False
    spikes: Tensor
    samples: Tensor

    def __init__(self, neurons: int) -> None:
        super().__init__()
        self.add_state("spikes", torch.zeros(neurons, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, counts: Tensor) -> None:
        """Add a batch: spike counts [B, N]."""
        self.spikes += counts.detach().sum(dim=0)
        self.samples += counts.shape[0]


class SpikesPerNeuron(_Activity):
    """Mean number of spikes per neuron and sample."""

    def compute(self) -> Tensor:
        return self.spikes.mean() / self.samples.clamp(min=1)


class SilentShare(_Activity):
    """Share of neurons that did not fire once."""

    def compute(self) -> Tensor:
        return (self.spikes == 0).double().mean()
