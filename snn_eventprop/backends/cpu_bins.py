"""Times into bins on the CPU."""

from __future__ import annotations

import numpy as np

from .compile import index, kernel


@kernel
def fill(lo, hi, times, dt, edge, last, bins):
    """bins[e] = min(floor(times[e] / dt + edge), last) in float64, for e in lo..hi."""
    for j in range(hi - lo):
        e = index(lo) + index(j)
        bins[e] = np.int32(min(np.floor(np.float64(times[e]) / dt + edge), last))
