"""Passes over all neurons of a sample on the CPU grid, in blocks that stay in registers.

Rows of weights, or of beta, are added where the block is: it is read and written once whatever the
number of rows.
"""

from __future__ import annotations

from .compile import PAD, inlined, kernel
from .compile import index as _index
from .event_sort import sort_by_unit
from .lanes import (
    NARROW,
    WIDE,
    constant,
    each_block,
    load,
    load_row,
    spread,
    store,
    store_row,
    total,
)


@inlined
def plus_rows(x, rows, index, lo, hi, at, width):
    """x and rows[index[e]] of e in lo..hi."""
    for e in range(_index(lo), _index(hi)):
        x = x + load_row(rows, _index(index[e]), at, width)
    return x


@inlined
def plus_scaled_rows(x, rows, index, scales, lo, hi, at, width):
    """x and scales[e] * rows[index[e]] of e in lo..hi; no scales: all one."""
    if scales.shape[0] > 0:
        for e in range(_index(lo), _index(hi)):
            x = x + spread(scales[e], width) * load_row(rows, _index(index[e]), at, width)
    else:
        x = plus_rows(x, rows, index, lo, hi, at, width)
    return x


@inlined
def _scale_at(at, width, arguments):
    out, x, factor = arguments
    store(out, at, load(x, at, width) * constant(factor, at, width))


@inlined
def scale(out, x, factor):
    """out = factor * x"""
    each_block(_scale_at, x.shape[0], (out, x, factor))


@inlined
def _plus_products(products, rows, row, x, at, width):
    return products + load_row(rows, row, at, width) * load(x, at, width)


@inlined
def dot(rows, row, x):
    """rows[row] . x"""
    size, zero, row = x.shape[0], x.dtype.type(0), _index(row)
    wide, narrow, single = spread(zero, WIDE), spread(zero, NARROW), spread(zero, 1)
    for h in range(0, size - size % WIDE, WIDE):
        wide = _plus_products(wide, rows, row, x, _index(h), WIDE)
    for h in range(size - size % WIDE, size - size % NARROW, NARROW):
        narrow = _plus_products(narrow, rows, row, x, _index(h), NARROW)
    for h in range(size - size % NARROW, size):
        single = _plus_products(single, rows, row, x, _index(h), 1)
    return total(wide) + (total(narrow) + total(single))


@kernel
def dot_rows(rows, index, lo, hi, x, out):
    """out[e] = rows[index[e]] . x for e in lo..hi; four rows at a time read x once."""
    size, zero = x.shape[0], x.dtype.type(0)
    four, e, end = _index(4), _index(lo), _index(hi)
    while e + four <= end:
        e1, e2, e3 = e + _index(1), e + _index(2), e + _index(3)
        r0, r1, r2, r3 = _index(index[e]), _index(index[e1]), _index(index[e2]), _index(index[e3])
        x0 = x1 = x2 = x3 = spread(zero, NARROW)
        for h in range(0, size - size % NARROW, NARROW):
            at = _index(h)
            shared = load(x, at, NARROW)
            x0 = x0 + load_row(rows, r0, at, NARROW) * shared
            x1 = x1 + load_row(rows, r1, at, NARROW) * shared
            x2 = x2 + load_row(rows, r2, at, NARROW) * shared
            x3 = x3 + load_row(rows, r3, at, NARROW) * shared
        t0, t1, t2, t3 = total(x0), total(x1), total(x2), total(x3)
        for h in range(size - size % NARROW, size):
            at = _index(h)
            t0 += rows[r0, at] * x[at]
            t1 += rows[r1, at] * x[at]
            t2 += rows[r2, at] * x[at]
            t3 += rows[r3, at] * x[at]
        out[e], out[e1], out[e2], out[e3] = t0, t1, t2, t3
        e += four
    while e < end:
        out[e] = dot(rows, index[e], x)
        e += _index(1)


@inlined
def _gather_at(at, width, arguments):
    out, beta, place, rows, scales = arguments
    first = _index(0)
    for i in range(out.shape[0]):
        n = _index(i)
        last = _index(place[n])
        if last > first:
            x = load_row(out, n, at, width)
            x = plus_scaled_rows(x, beta, rows, scales, first, last, at, width)
            store_row(out, n, at, x)
            first = last


@kernel
def gather(out, bins, units, values, lo, hi, begin, beta, place, rows, scales):
    """out[units[e]] += values[e] * beta[bins[e] - begin] for events lo..hi; no values: all one.

    Rows of both are ``PAD`` longer than there are neurons.

    Sorted by unit, so that each row of the gradient is written once, and a block of neurons after
    the other, so that beta's stays in the cache.
    ``place`` [inputs + 1], ``rows`` and ``scales`` [hi - lo] are for work.
    """
    inputs, size = out.shape[0], out.shape[1] - PAD
    sort_by_unit(inputs, bins, units, values, lo, hi, begin, place, rows, scales)
    used = scales if values.shape[0] > 0 else values
    each_block(_gather_at, size, (out, beta, place, rows, used))
