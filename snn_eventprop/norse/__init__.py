"""Drop-in replacements for Norse's LIF modules, with exact event-based gradients.

    import snn_eventprop.norse as norse     # instead of: import norse.torch as norse

Constructors, the call ``(x, state) -> (out, state)``, states and ``state_dict`` are those of
Norse 1.1, and so are spikes and states; the backward pass is different. The leaky integrators
emit no spikes: Norse's own gradient of them is already exact, and they are Norse's classes.
``docs/migration.md`` has the support table.
"""

from __future__ import annotations

from .._extras import require

require("norse", extra="norse")

from norse.torch import (  # noqa: E402
    LI,
    LIBoxCell,
    LIBoxParameters,
    LIBoxState,
    LICell,
    LIFBoxFeedForwardState,
    LIFBoxParameters,
    LIFFeedForwardState,
    LIFParameters,
    LIFState,
    LILinearCell,
    LIParameters,
    LIState,
)

from ..hosts.norse.box import LIFBoxCell  # noqa: E402
from ..hosts.norse.neurons import LIF, LIFCell, LIFRecurrent, LIFRecurrentCell  # noqa: E402
from ..hosts.norse.nir import from_nir, to_nir  # noqa: E402

__all__ = [
    "LI",
    "LIF",
    "LIBoxCell",
    "LIBoxParameters",
    "LIBoxState",
    "LICell",
    "LIFBoxCell",
    "LIFBoxFeedForwardState",
    "LIFBoxParameters",
    "LIFCell",
    "LIFFeedForwardState",
    "LIFParameters",
    "LIFRecurrent",
    "LIFRecurrentCell",
    "LIFState",
    "LILinearCell",
    "LIParameters",
    "LIState",
    "from_nir",
    "to_nir",
]
