"""Drop-in replacements for snnTorch's neurons, with exact event-based gradients.

    import snn_eventprop.snntorch as snn     # instead of: import snntorch as snn

Constructor arguments, attributes, calls, states and ``state_dict`` are those of snnTorch 1.0, and
so are spikes and states; the backward pass is different. ``docs/migration.md`` has the support
table.
"""

from __future__ import annotations

from .._extras import require

require("snntorch", extra="snntorch")

from ..hosts.snntorch.neurons import (  # noqa: E402
    Lapicque,
    Leaky,
    RLeaky,
    RSynaptic,
    Synaptic,
)

__all__ = ["Lapicque", "Leaky", "RLeaky", "RSynaptic", "Synaptic"]
