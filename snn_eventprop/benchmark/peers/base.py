"""What a method has to offer to be measured, and what all methods on torch share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from ...events import SpikeEvents
from ...losses import SumExpLoss
from ..cases import Case


class Network(ABC):
    """A network of the shape of ``case`` with the weights of ``draw_weights(case)``."""

    remark = ""  # what a reader of the figures should know

    def __init__(self, case: Case) -> None:
        self.case = case

    @abstractmethod
    def encode(self, events: SpikeEvents) -> Any:
        """The input as the library takes it."""

    @abstractmethod
    def set_gain(self, gain: float) -> None:
        """Scale the initial input weights."""

    @abstractmethod
    def spikes_per_neuron(self, encoded: Any) -> float:
        """Mean number of spikes of a hidden neuron in a sample."""

    @abstractmethod
    def step(self, encoded: Any, target: Tensor) -> tuple[float | None, float]:
        """Forward, loss, backward. Seconds until the loss (None if not apart), and in all."""


class TorchNetwork(Network):
    """``layers`` hold the parameters; ``input_weight`` is the one that is scaled."""

    layers: nn.ModuleList
    input_weight: nn.Parameter

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.loss = SumExpLoss()

    @abstractmethod
    def forward(self, encoded: Any, target: Tensor) -> Tensor:
        """The loss."""

    def set_gain(self, gain: float) -> None:
        if not hasattr(self, "_initial"):
            self._initial = self.input_weight.detach().clone()
        with torch.no_grad():
            self.input_weight.copy_(self._initial * gain)

    def step(self, encoded: Any, target: Tensor) -> tuple[float | None, float]:
        self.layers.zero_grad(set_to_none=True)
        start = self._clock()
        loss = self.forward(encoded, target)
        middle = self._clock()
        loss.backward()
        return middle - start, self._clock() - start

    def _clock(self) -> float:
        """Seconds, once everything asked for is done."""
        if self.case.device == "cuda":
            torch.cuda.synchronize()
        return perf_counter()


def linear(weight: Tensor) -> nn.Linear:
    """``nn.Linear`` without bias with a copy of ``weight``."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer
