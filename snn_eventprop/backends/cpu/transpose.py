"""Transposition of matrices on the CPU."""

from __future__ import annotations

from .compile import index, inlined, kernel
from .lanes import NARROW, turn


@inlined
def _turn_stripe(first, source, out, add):
    rows = source.shape[0]
    whole = rows - rows % NARROW
    for at in range(0, whole, NARROW):
        turn(out, index(first), index(at), source, index(at), index(first), add)
    for i in range(first, first + NARROW):
        for j in range(whole, rows):
            value = source[index(j), index(i)]
            if add:
                value += out[index(i), index(j)]
            out[index(i), index(j)] = value


@kernel
def turn_rows(lo, hi, source, out, add):
    """out[i, j] = source[j, i] for i in lo..hi and all rows j of ``source``; ``add``: +=."""
    whole = hi - (hi - lo) % NARROW
    for first in range(lo, whole, NARROW):
        if add:
            _turn_stripe(first, source, out, True)
        else:
            _turn_stripe(first, source, out, False)
    for i in range(whole, hi):
        for j in range(source.shape[0]):
            value = source[index(j), index(i)]
            if add:
                value += out[index(i), index(j)]
            out[index(i), index(j)] = value
