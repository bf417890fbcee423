r"""e-prop: learning signals times eligibility traces (Bellec et al. 2020).

.. math:: \frac{dE}{dW_{ji}} \approx \sum_t L_j^t e_{ji}^t, \qquad
    e_{ji}^t = \psi_j^t\, \epsilon_{ji}^t

The eligibility vector :math:`\epsilon` carries the derivative of neuron j's own state (I, V) with
respect to the weight from step to step. The effects of j's spikes on other neurons and on its own
reset are left out. The learning signal :math:`L_j^t` is the derivative of the loss
with respect to spike :math:`z_j^t` through the readout, with the readout weights (symmetric) or
fixed random ones in their place (random). :math:`\psi = \frac{0.3}{\theta} \max(0, 1 - |V -
\theta|/\theta)`.

Backpropagation through time gives this sum when recurrent spikes and resets pass on no gradient,
and that is how it is computed here. The numbers are those of e-prop; the memory is that of
backpropagation, not of an online rule.

Source: G. Bellec et al., Nature Communications 11, 3625 (2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from lightning_modules.methods.filters import Triangle, integrate
from lightning_modules.methods.stepped import SteppedNetwork, maps
from lightning_modules.model.network import recurrent_weight

_HEIGHT = 0.3


class EpropNetwork(SteppedNetwork):
    """Symmetric feedback.

    Raises:
        ValueError: more than one hidden layer, for which e-prop defines no learning signal.
    """

    def __init__(self, num_inputs: int, num_classes: int, options: Any, loss: Any) -> None:
        if len(options.hidden) != 1:
            raise ValueError(
                f"e-prop trains one hidden layer, got hidden={options.hidden}; use another method "
                "for deeper networks"
            )
        super().__init__(num_inputs, num_classes, options, loss)

    def spikes(self, layer: Any, signal: Tensor) -> Tensor:
        s, c, m = maps(layer)
        threshold, recurrent = layer.threshold, recurrent_weight(layer)
        currents = linear(signal, layer.weight).unbind()
        current = voltage = spikes = torch.zeros_like(currents[0])
        raster = []
        for arriving in currents:
            if recurrent is not None:
                arriving = arriving + linear(spikes.detach(), recurrent)
            current = s * current + arriving
            voltage = m * voltage + c * current
            spikes = Triangle.apply(voltage / threshold - 1, _HEIGHT)
            voltage = voltage - spikes.detach() * threshold
            raster.append(spikes)
        return torch.stack(raster)

    def trace(self, signal: Tensor) -> Tensor:
        return integrate(self._read(signal), maps(self.readout))

    def _read(self, signal: Tensor) -> Tensor:
        return linear(signal, self.readout.weight)


class RandomEpropNetwork(EpropNetwork):
    """Random feedback: fixed weights drawn like the readout's initial ones."""

    feedback: Tensor

    def __init__(self, num_inputs: int, num_classes: int, options: Any, loss: Any) -> None:
        super().__init__(num_inputs, num_classes, options, loss)
        # Always the same draw, so that checkpoints do not have to hold it.
        draw = torch.randn(self.readout.weight.shape, generator=torch.Generator().manual_seed(1))
        self.register_buffer("feedback", draw * options.readout_std, persistent=False)

    def _read(self, signal: Tensor) -> Tensor:
        return _LinearWithFeedback.apply(signal, self.readout.weight, self.feedback)


class _LinearWithFeedback(torch.autograd.Function):
    """``linear(x, weight)`` whose derivative with respect to x uses ``feedback`` for ``weight``."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, feedback: Tensor) -> Tensor:
        ctx.save_for_backward(x, feedback)
        return linear(x, weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, feedback = ctx.saved_tensors
        return grad @ feedback.to(grad.dtype), grad.flatten(0, 1).T @ x.flatten(0, 1), None
