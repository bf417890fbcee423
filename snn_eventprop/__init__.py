"""Exact event-based gradients (EventProp) for spiking networks in PyTorch."""

from __future__ import annotations

from . import diagnostics
from .backends.cuda import ops as op_cuda  # noqa: F401  (op_cuda registers kernels)
from .events import SpikeEvents
from .hosts.register import register
from .hosts.swap import swap, unswap
from .layers.layers import EventPropLI, EventPropLIF, EventPropNeuron

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
