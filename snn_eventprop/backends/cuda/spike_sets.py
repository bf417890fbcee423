"""Sets of neurons of a block of threads: one bit for each neuron, their number in the last entry.

Bits have an order, so that spikes come in the order of their neurons whichever thread was first.
"""

from __future__ import annotations

import numpy as np
from numba import cuda

from .launch import device


def entries(size: int) -> int:
    """Entries of a set of some of ``size`` neurons."""
    return (size + 31) // 32 + 1


@device
def note(spiked, h):
    """Put neuron ``h`` into the set."""
    cuda.atomic.or_(spiked, h // 32, np.uint32(np.uint32(1) << np.uint32(h % 32)))
    cuda.atomic.add(spiked, spiked.shape[0] - 1, np.uint32(1))


@device
def has(spiked, h):
    """Whether neuron ``h`` is in the set."""
    return (spiked[h // 32] >> np.uint32(h % 32)) & np.uint32(1) != 0


@device
def rank(spiked, h):
    """How many neurons before ``h`` are in the set."""
    word = h // 32
    before = 0
    for w in range(word):
        before += cuda.popc(spiked[w])
    below = np.uint32(np.uint32(np.uint32(1) << np.uint32(h % 32)) - np.uint32(1))
    return before + cuda.popc(np.uint32(spiked[word] & below))


@device
def number(spiked):
    """How many neurons are in the set."""
    return np.int64(spiked[spiked.shape[0] - 1])
