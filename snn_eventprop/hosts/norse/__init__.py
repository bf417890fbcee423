"""Norse: neurons with event-based gradients, a loss in its style, and its layers in NIR."""

from __future__ import annotations

import sys

from torch import nn

from ..registry import Host


def _is_neuron(module: nn.Module) -> bool:
    library = sys.modules["norse.torch"]
    if isinstance(module, (library.CobaLIFCell, library.LIFCorrelation)):
        return True  # the two without ``state_fallback``
    ours = type(module).__module__.startswith("norse.torch.module.")
    return ours and hasattr(module, "state_fallback")


HOST = Host(
    title="Norse",
    library="norse.torch",
    package="snn_eventprop.norse",
    neurons=("LIFCell", "LIF", "LIFRecurrentCell", "LIFRecurrent", "LIFBoxCell"),
    integrators=("LI", "LICell", "LILinearCell", "LIBoxCell"),
    is_neuron=_is_neuron,
    advice="LIF has one",
    losses="norse.torch",
    nodes="snn_eventprop.hosts.norse.nir",
)
