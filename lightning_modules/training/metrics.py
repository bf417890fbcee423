"""Metrics that torchmetrics lacks: activity of a hidden layer, and accuracy of no samples.

They accumulate over the batches of an epoch and over processes.
"""

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
    """Share of neurons that never spiked."""

    def compute(self) -> Tensor:
        return (self.spikes == 0).double().mean()


class Share(Metric):
    """Share of correctly classified samples; NaN if there was no sample."""

    full_state_update = False
    right: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("right", "samples"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, right: Tensor) -> None:
        """Add a batch: [B] bool."""
        self.right += right.sum()
        self.samples += right.numel()

    def compute(self) -> Tensor:
        return self.right / self.samples
