"""To and from the Neuromorphic Intermediate Representation (NIR, Pedersen et al. 2024).

    graph = snn_eventprop.nir.to_nir(model, sample)     # nir.write("model.nir", graph)
    model = snn_eventprop.nir.from_nir(graph)           # or from_nir("model.nir")

NIR describes neurons by differential equations, and leaves steps in time to whoever runs them. Our
neurons are its ``CubaLIF`` and ``CubaLI``: time constants in seconds, r = 1, and w_in = tau_syn /
dt, with which a spike, a pulse of height 1 that lasts one dt, raises I by its weight.

The neurons of ``snn_eventprop.snntorch`` pass through snnTorch's own ``export_to_nir`` and
``import_from_nir``, with the nodes and numbers of snnTorch's. Norse's own ``to_nir`` knows
``LIFCell`` alone; ``snn_eventprop.norse`` has a mapping of its own.
"""

from __future__ import annotations

from .._extras import require

require("nir", extra="nir")

from .export_graph import to_nir  # noqa: E402
from .import_graph import from_nir  # noqa: E402

__all__ = ["from_nir", "to_nir"]
