"""Input currents ``linear(raster, weight, bias)`` of a whole sequence, before they are computed.

The engine reads them as events: a product costs one row of weights for each spike, where
``nn.Linear`` costs a whole matrix for each step and stores a current for each neuron and step. A
bias is one more input, which spikes in every bin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

# An event costs about as much as _EVENT weights plus one for each neuron; one weight of a dense
# product is that much cheaper: measured on two cores of a server CPU, float32.
_EVENT, _DENSE = 64, 0.2


@dataclass(frozen=True)
class LinearDrive:
    """Currents [T, B, H] of a raster [T, B, N] through ``weight`` [H, N] and ``bias`` [H]."""

    raster: Tensor
    weight: Tensor
    bias: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.raster.shape[:-1], len(self.weight)))

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.weight.device

    @property
    def is_sparse(self) -> bool:
        """As of tensors: not of a sparse layout."""
        return False

    def dense(self) -> Tensor:
        return linear(self.raster, self.weight, self.bias)

    def plus(self, bias: Tensor) -> LinearDrive:
        """The same currents and a constant one."""
        return replace(self, bias=bias if self.bias is None else self.bias + bias)

    def prefers_events(self) -> bool:
        """Whether running from event to event is faster than a dense product."""
        raster, neurons = self.raster, len(self.weight)
        if raster.ndim != 3 or raster.dtype != self.weight.dtype:
            return False
        events = int(torch.count_nonzero(raster))
        return events * (_EVENT + neurons) <= _DENSE * raster.numel() * neurons

    def rows(self) -> tuple[Tensor, Tensor]:
        """The raster [T, B, N'] and the weights [N', H] that the engine reads, bias included."""
        raster, rows = self.raster, self.weight.t()
        if self.bias is not None:
            raster = pad(raster, (0, 1), value=1.0)
            rows = torch.cat([rows, self.bias[None]])
        return raster, rows.contiguous()
