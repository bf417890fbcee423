"""Exact event-based gradients (EventProp) for spiking networks in PyTorch."""

from __future__ import annotations

from . import diagnostics, op_cuda  # noqa: F401  (op_cuda registers kernels)
from .events import SpikeEvents
from .layers import EventPropLI, EventPropLIF, EventPropNeuron
from .register import register
from .swap import swap, unswap

__all__ = [
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
