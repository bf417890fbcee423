"""Exact event-based gradients (EventProp) for spiking networks in PyTorch."""

from __future__ import annotations

from .events import SpikeEvents

__all__ = ["SpikeEvents"]
__version__ = "0.1.0"
