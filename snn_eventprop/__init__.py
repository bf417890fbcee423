"""Exact event-based gradients (EventProp) for spiking networks in PyTorch."""

from __future__ import annotations

from . import backends, diagnostics  # noqa: F401  (backends register their kernels)
from .events import SpikeEvents
from .hosts.register import register
from .hosts.swap import swap, unswap
from .layers import EventPropALIF, EventPropLI, EventPropLIF, EventPropNeuron

__all__ = [
    "EventPropALIF",
    "EventPropLI",
    "EventPropLIF",
    "EventPropNeuron",
    "SpikeEvents",
    "diagnostics",
    "register",
    "swap",
    "unswap",
]
__version__ = "0.1.0"
