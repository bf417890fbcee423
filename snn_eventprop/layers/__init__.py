"""The layers: parameters, shapes, documentation. No loops over time."""

from __future__ import annotations

from .alif import EventPropALIF
from .lif import SOLVERS, EventPropLIF, Solver
from .neuron import EventPropNeuron
from .readout import EventPropLI

__all__ = ["SOLVERS", "EventPropALIF", "EventPropLI", "EventPropLIF", "EventPropNeuron", "Solver"]
