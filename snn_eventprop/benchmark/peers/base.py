"""What a method has to offer to be measured, and what all methods on torch share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from ...events import SpikeEvents
from ...layers import EventPropLI
from ...losses import SumExpLoss
from ..cases import Case


class Network(ABC):
    """A network of the shape of ``case`` with the weights of ``draw_weights(case)``."""

    remark = ""  # what a reader of the figures should know
    differs = ""  # why its gradient cannot be compared: another model

    def __init__(self, case: Case) -> None:
        self.case = case
        self.device = "cpu"

    def move(self, device: str) -> None:
        """Bring the parameters to ``"cpu"`` or ``"cuda"``."""
        self.device = device

    @abstractmethod
    def encode(self, events: SpikeEvents) -> Any:
        """The input as the library takes it, where the parameters are."""

    @abstractmethod
    def set_gain(self, gain: float) -> None:
        """Scale the initial input weights."""

    @abstractmethod
    def spikes_per_neuron(self, encoded: Any) -> float:
        """Mean number of spikes of a hidden neuron in a sample."""

    @abstractmethod
    def step(self, encoded: Any, target: Tensor) -> tuple[float, float]:
        """Forward, loss, backward. Seconds until the loss, and in all."""

    @abstractmethod
    def gradients(self) -> dict[str, Tensor]:
        """Of the last step, with respect to ``draw_weights(case)``: input, recurrent, output."""

    def update(self) -> None:
        """A step of Adam, where an epoch of training is timed; nothing where there is none."""
        return None

    def peak_device_memory(self) -> int | None:
        """Largest number of bytes that a GPU held, where that is not torch's to know."""
        return None


class TorchNetwork(Network):
    """``weights`` names the parameters; each is ``draw_weights``' times a factor."""

    weights: dict[str, tuple[Tensor, float]]
    layers: nn.ModuleList

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.loss = SumExpLoss()
        self._initial: Tensor | None = None
        self._optimizer: torch.optim.Optimizer | None = None

    @abstractmethod
    def forward(self, encoded: Any, target: Tensor) -> Tensor:
        """The loss."""

    def move(self, device: str) -> None:
        super().move(device)
        self.layers.to(device)

    def set_gain(self, gain: float) -> None:
        weight, _ = self.weights["input"]
        if self._initial is None:
            self._initial = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(self._initial * gain)

    def step(self, encoded: Any, target: Tensor) -> tuple[float, float]:
        self.layers.zero_grad(set_to_none=True)
        target = target.to(self.device)
        self._wait()
        start = perf_counter()
        loss = self.forward(encoded, target)
        self._wait()
        middle = perf_counter()
        loss.backward()
        self._wait()
        return middle - start, perf_counter() - start

    def gradients(self) -> dict[str, Tensor]:
        found = {}
        for name, (weight, factor) in self.weights.items():
            assert weight.grad is not None
            found[name] = weight.grad.double().cpu() * factor
        return found

    def update(self) -> None:
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(self.layers.parameters(), lr=1e-4)
        self._optimizer.step()

    def _wait(self) -> None:
        """A GPU works on while Python goes ahead: the clock is read once it is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()


class DenseNetwork(TorchNetwork):
    """Reads a raster ``[T, B, N]``."""

    def encode(self, events: SpikeEvents) -> Tensor:
        return events.to(self.device).to_dense(self.case.dt)


class EventNetwork(TorchNetwork):
    """Hidden spikes are events, which our readout averages over time in closed form."""

    dtype = torch.float32
    readout: EventPropLI

    @abstractmethod
    def hidden_spikes(self, encoded: SpikeEvents) -> SpikeEvents:
        """Of the hidden layer."""

    def encode(self, events: SpikeEvents) -> SpikeEvents:
        return events.to(self.device, dtype=self.dtype)

    @torch.no_grad()
    def spikes_per_neuron(self, encoded: SpikeEvents) -> float:
        return self.hidden_spikes(encoded).times.numel() / (len(encoded) * self.case.hidden)

    def forward(self, encoded: SpikeEvents, target: Tensor) -> Tensor:
        averages = self.readout.integral(self.hidden_spikes(encoded), "exponential")
        return self.loss.from_logits(self.loss.scale * averages, target)


def linear(weight: Tensor) -> nn.Linear:
    """``nn.Linear`` without bias with a copy of ``weight``."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer
