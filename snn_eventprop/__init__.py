"""Exact event-based gradients (EventProp) for spiking networks in PyTorch."""

from __future__ import annotations

from . import diagnostics
from .events import SpikeEvents
from .layers import EventPropLI, EventPropLIF, EventPropNeuron

__all__ = ["EventPropLI", "EventPropLIF", "EventPropNeuron", "SpikeEvents", "diagnostics"]
__version__ = "0.1.0"
