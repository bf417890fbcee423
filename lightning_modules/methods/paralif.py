r"""ParaLIF: neurons without reset, all steps at once (Yarga and Wood).

The membrane of a layer is one convolution of its currents (``filters.integrate``), since no reset
makes a step depend on the previous spikes. Spikes mark the steps in which it rises by more than a
threshold (the paper's "delta" rule),

.. math:: z[k] = \Theta(V[k] - V[k-1] - \vartheta), \qquad \vartheta = 0.01 \times
    \text{threshold}

A recurrent layer takes two convolutions. The first membrane, delayed by one step, gives the spikes
that recurrent weights carry; the second membrane, of all currents, is added to it. This neuron is
not LIF: it trains fast on parallel machines, but a LIF network with the same weights spikes
differently. The surrogate derivative is a fast sigmoid of slope 100.

Source: S. Y. A. Yarga and S. U. N. Wood, "Accelerating spiking neural networks with parallelizable
leaky integrate-and-fire neurons", Neuromorph. Comput. Eng. (2025).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import linear, pad

from lightning_modules.methods.filters import FastSigmoid, integrate
from lightning_modules.methods.stepped import SteppedNetwork, maps
from lightning_modules.model.network import recurrent_weight

_RISE = 0.01  # of the threshold, per step
_SLOPE = 100.0


class ParaLifNetwork(SteppedNetwork):
    """Hidden layers of ParaLIF neurons; the readout is the leaky integrator of all methods."""

    def spikes(self, layer: Any, signal: Tensor) -> Tensor:
        factors = maps(layer)
        currents = linear(signal, layer.weight)
        membrane = integrate(currents, factors)
        recurrent = recurrent_weight(layer)
        if recurrent is not None:
            hidden = _rises(_delayed(membrane), layer.threshold)
            membrane = membrane + integrate(currents + linear(hidden, recurrent), factors)
        return _rises(membrane, layer.threshold)

    def trace(self, signal: Tensor) -> Tensor:
        return integrate(linear(signal, self.readout.weight), maps(self.readout))


def _delayed(x: Tensor) -> Tensor:
    return pad(x, (0, 0, 0, 0, 1, 0))[:-1]


def _rises(membrane: Tensor, threshold: Tensor) -> Tensor:
    spikes: Any = FastSigmoid.apply(membrane - _delayed(membrane) - _RISE * threshold, _SLOPE)
    return spikes
