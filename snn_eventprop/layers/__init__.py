"""The layers: parameters, shapes, documentation. No loops over time."""

from __future__ import annotations

from .layers import EventPropLI, EventPropLIF, EventPropNeuron

__all__ = ["EventPropLI", "EventPropLIF", "EventPropNeuron"]
