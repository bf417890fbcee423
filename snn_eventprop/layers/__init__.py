"""The layers: parameters, shapes, documentation. No loops over time."""

from __future__ import annotations

from ._population import GRADIENTS, Gradient
from .alif import EventPropALIF
from .lif import SOLVERS, EventPropLIF, Solver
from .neuron import EventPropNeuron
from .readout import EventPropLI

__all__ = [
    "GRADIENTS", "SOLVERS", "EventPropALIF", "EventPropLI", "EventPropLIF", "EventPropNeuron",
    "Gradient", "Solver",
]  # fmt: skip
