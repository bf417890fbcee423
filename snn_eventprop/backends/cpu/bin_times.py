"""Times into bins and back, and rasters into events, on the CPU."""

from __future__ import annotations

import numpy as np

from .compile import index, kernel


@kernel
def fill(lo, hi, times, dt, edge, last, bins):
    """bins[e] = min(floor(times[e] / dt + edge), last) in float64, for e in lo..hi."""
    for j in range(hi - lo):
        e = index(lo) + index(j)
        bins[e] = np.int32(min(np.floor(np.float64(times[e]) / dt + edge), last))


@kernel
def scale(lo, hi, values, factor, out):
    """out[e] = values[e] * factor in float64, for e in lo..hi."""
    for j in range(hi - lo):
        e = index(lo) + index(j)
        out[e] = np.float64(values[e]) * factor


@kernel
def count_entries(lo, hi, raster, counts, others):
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
def list_entries(lo, hi, raster, offsets, bins, units, values):
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
