"""Spikes of ranges of samples, put in their place among those of all samples."""

from __future__ import annotations

from .compile import index, kernel


@kernel
def collect(start, count, bins, units, kept, out_bins, out_units, out_kept, out_stamps, out_marks):
    """Write ``count`` spikes to place ``start`` and after, with their stamps and marks."""
    one = out_marks.dtype.type(1)
    for j in range(count):
        to = index(start) + index(j)
        out_bins[to] = bins[index(j)]
        out_units[to] = units[index(j)]
        out_stamps[to] = out_stamps.dtype.type(bins[index(j)])
        out_marks[to] = one
    for i in range(kept.shape[0]):
        for j in range(count):
            out_kept[index(i), index(start) + index(j)] = kept[index(i), index(j)]
