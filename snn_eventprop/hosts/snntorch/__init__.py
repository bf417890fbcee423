"""snnTorch: neurons with event-based gradients, and a loss in its style."""

from __future__ import annotations

import sys

from torch import nn

from ..registry import Host


def _is_neuron(module: nn.Module) -> bool:
    library = sys.modules["snntorch"]
    # LeakyParallel shares no base class with the others.
    return isinstance(module, (library.SpikingNeuron, library.LeakyParallel))


HOST = Host(
    title="snnTorch",
    library="snntorch",
    package="snn_eventprop.snntorch",
    neurons=("Leaky", "RLeaky", "Synaptic", "RSynaptic", "Lapicque"),
    integrators=(),
    is_neuron=_is_neuron,
    advice="Leaky and Synaptic have one",
    losses="snntorch.functional",
)
