"""``Leaky``, ``RLeaky``, ``Synaptic``, ``RSynaptic`` and ``Lapicque`` with exact gradients."""

from __future__ import annotations

import snntorch
import torch
from torch import Tensor

from .steps import SnnTorchNeuron


class Leaky(SnnTorchNeuron, snntorch.Leaky):
    """``snntorch.Leaky``; its gradient is exact for currents that are smooth in time.

    Fed by spikes, U jumps at each input spike and no slope exists: then the gradient is that of
    the same jumps spread over one bin.
    """

    def forward(self, input_: Tensor, mem: Tensor | None = None):
        return self._call(input_, mem=mem)


class RLeaky(SnnTorchNeuron, snntorch.RLeaky):
    """``snntorch.RLeaky``; see ``Leaky`` for what its gradient means."""

    _states = ("spk", "mem")

    def forward(self, input_: Tensor, spk: Tensor | None = None, mem: Tensor | None = None):
        return self._call(input_, spk=spk, mem=mem)


class Synaptic(SnnTorchNeuron, snntorch.Synaptic):
    """``snntorch.Synaptic``, whose gradient converges to the exact one as the step shrinks."""

    _states = ("syn", "mem")

    def forward(self, input_: Tensor, syn: Tensor | None = None, mem: Tensor | None = None):
        return self._call(input_, syn=syn, mem=mem)


class RSynaptic(SnnTorchNeuron, snntorch.RSynaptic):
    """``snntorch.RSynaptic``, whose gradient converges to the exact one as the step shrinks."""

    _states = ("spk", "syn", "mem")

    def forward(
        self,
        input_: Tensor,
        spk: Tensor | None = None,
        syn: Tensor | None = None,
        mem: Tensor | None = None,
    ):
        return self._call(input_, spk=spk, syn=syn, mem=mem)


class Lapicque(SnnTorchNeuron, snntorch.Lapicque):
    r"""``snntorch.Lapicque``; see ``Leaky`` for what its gradient means.

    .. math:: U[k] = (1 - \Delta t / RC)\, U[k-1] + X[k]\, \Delta t / C - R[k]\,\theta
    """

    reset_delay = True
    R: Tensor
    C: Tensor
    time_step: Tensor

    @staticmethod
    def refusal(neuron: snntorch.Lapicque) -> str | None:
        if isinstance(neuron.beta, torch.nn.Parameter):
            return "learn_beta=True: C is computed from beta once, in the constructor"
        return SnnTorchNeuron.refusal(neuron)

    def forward(self, input_: Tensor, mem: Tensor | None = None):
        return self._call(input_, mem=mem)

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        rate = self.time_step / (self.R * self.C)
        return torch.zeros_like(rate), rate * self.R, 1 - rate

    def _leak(self) -> Tensor:
        return 1 - self.time_step / (self.R * self.C)

    def _driven(self, input_: Tensor) -> Tensor:
        return input_ * self.R * (1 / (self.R * self.C)) * self.time_step
