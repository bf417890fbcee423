"""Times into bins and back, and rasters into events, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ops.bin_times import EDGE, bin_of, time_of
from ...ops.rasters import raster_events
from .compile import index, kernel
from .threads import over_samples

_PIECE = 2**14  # times per piece of work
_LEAST = 2**18  # times that are worth waking another thread


@kernel
def _fill(lo, hi, times, dt, edge, last, bins):
    """bins[e] = min(floor(times[e] / dt + edge), last) in float64, for e in lo..hi."""
    for j in range(hi - lo):
        e = index(lo) + index(j)
        bins[e] = np.int32(min(np.floor(np.float64(times[e]) / dt + edge), last))


@kernel
def _scale(lo, hi, values, factor, out):
    """out[e] = values[e] * factor in float64, for e in lo..hi."""
    for j in range(hi - lo):
        e = index(lo) + index(j)
        out[e] = np.float64(values[e]) * factor


@kernel
def _count_entries(lo, hi, raster, counts, others):
    """Entries of samples lo..hi of a raster [T, B, N] that are not 0, and those that are not 1."""
    for b in range(lo, hi):
        entries, other = 0, 0
        for k in range(raster.shape[0]):
            for n in range(raster.shape[2]):
                x = raster[index(k), index(b), index(n)]
                entries += x != 0
                other += (x != 0) & (x != 1)
        counts[b], others[b] = entries, other


@kernel
def _list_entries(lo, hi, raster, offsets, bins, units, values):
    """Bin, unit and, if ``values`` are not empty, value of each entry of samples lo..hi."""
    weighted = values.shape[0] > 0
    for b in range(lo, hi):
        e = index(offsets[b])
        for k in range(raster.shape[0]):
            for n in range(raster.shape[2]):
                x = raster[index(k), index(b), index(n)]
                if x != 0:
                    bins[e] = k
                    units[e] = n
                    if weighted:
                        values[e] = x
                    e += index(1)


def _in_pieces(kernel: Callable[..., None], values: Tensor, *arguments: Any) -> None:
    """``kernel(lo, hi, values, *arguments)`` for all values, on all threads."""
    total, flat = values.numel(), values.detach().reshape(-1).numpy()
    over_samples(
        lambda lo, hi: kernel(lo * _PIECE, min(hi * _PIECE, total), flat, *arguments),
        np.full(-(-total // _PIECE), _PIECE),
        per_thread=4, least=_LEAST,
    )


@bin_of.register_kernel("cpu")
def _(times: Tensor, dt: float, steps: int = 2**31 - 1) -> Tensor:
    bins = torch.empty(times.shape, dtype=torch.int32)
    _in_pieces(_fill, times, dt, EDGE, float(steps - 1), bins.view(-1).numpy())
    return bins


@time_of.register_kernel("cpu")
def _(stamps: Tensor, dt: float) -> Tensor:
    times = torch.empty_like(stamps, memory_format=torch.contiguous_format)
    _in_pieces(_scale, stamps, dt, times.view(-1).numpy())
    return times


@raster_events.register_kernel("cpu")
def _(raster: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    entries, (steps, batch, units) = raster.detach().contiguous().numpy(), raster.shape
    work = np.full(batch, steps * units)
    counts, others = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
    over_samples(lambda lo, hi: _count_entries(lo, hi, entries, counts, others), work)
    offsets = torch.zeros(batch + 1, dtype=torch.int64)
    np.cumsum(counts, out=offsets.numpy()[1:])
    total = int(offsets[-1])
    out = (
        torch.empty(total, dtype=torch.int32), torch.empty(total, dtype=torch.int64),
        raster.new_empty(total if others.any() else 0),
    )  # fmt: skip
    arrays = [offsets.numpy(), *(tensor.numpy() for tensor in out)]
    over_samples(lambda lo, hi: _list_entries(lo, hi, entries, *arrays), work)
    return *out, offsets
