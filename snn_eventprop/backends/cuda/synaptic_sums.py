"""Rows of weights on the GPU: sums over events, products with a vector, gradients.

Neuron h belongs to thread ``h % blockDim``: threads next to each other read numbers next to each
other.
"""

from __future__ import annotations

from numba import cuda

from ..cpu.event_sort import first_entry
from .launch import device, scalar

first_from = scalar(first_entry)


@scalar
def find(units, lo, hi, h):
    """Index of ``h`` among the ascending units[lo:hi]; -1 where it is not."""
    e = first_from(units, lo, hi, h)
    if e < hi and units[e] == h:
        return e
    return -1


@scalar
def end_of_bin(bins, event, end, k):
    """First event after ``event`` that is not of bin ``k``."""
    while event < end and bins[event] == k:
        event += 1
    return event


@scalar
def start_of_bin(bins, event, start, k):
    """The event before ``event`` from which on they are of bin ``k``."""
    while event > start and bins[event - 1] == k:
        event -= 1
    return event


@scalar
def add_rows(total, rows, units, values, lo, hi, h):
    """total + sum of values[e] * rows[units[e], h] over e in lo..hi. No values: all one.

    Four rows at a time, whose loads are under way together.
    """
    weighted = values.shape[0] > 0
    e = lo
    while e + 4 <= hi:
        x0, x1 = rows[units[e], h], rows[units[e + 1], h]
        x2, x3 = rows[units[e + 2], h], rows[units[e + 3], h]
        if weighted:
            x0, x1 = values[e] * x0, values[e + 1] * x1
            x2, x3 = values[e + 2] * x2, values[e + 3] * x3
        total += (x0 + x1) + (x2 + x3)
        e += 4
    while e < hi:
        x = rows[units[e], h]
        total += values[e] * x if weighted else x
        e += 1
    return total


@device
def add_to_row(sums, ordered, part, n, h, x):
    """Add to a gradient: this block's own part of it in order, or the one that all blocks share."""
    if ordered:
        sums[part, n, h] += x
    else:
        cuda.atomic.add(sums, (0, n, h), x)


@device
def dot_rows(rows, units, lo, hi, x, scratch, lanes, out, at):
    """out[at + e - lo] = rows[units[e]] . x for e in lo..hi; called by all threads of the block.

    ``lanes`` threads share a row. Waits for ``x`` to be complete before, and for ``out`` after.
    """
    thread = cuda.threadIdx.x
    lane, group = thread % lanes, thread // lanes
    zero = rows.dtype.type(0)
    cuda.syncthreads()
    for first in range(lo, hi, cuda.blockDim.x // lanes):
        e = first + group
        total = zero
        if e < hi:
            for h in range(lane, rows.shape[1], lanes):
                total += rows[units[e], h] * x[h]
        scratch[thread] = total
        cuda.syncthreads()
        if lane == 0 and e < hi:
            for j in range(1, lanes):
                total += scratch[thread + j]
            out[at + e - lo] = total
        cuda.syncthreads()


@scalar
def send(ring, row, rows, delays, units, values, lo, hi, h):
    """Put rows[units[e], h] where it arrives, delays[units[e], h] rows on from ``row``."""
    for e in range(lo, hi):
        n = units[e]
        x = values[e] * rows[n, h] if values.shape[0] > 0 else rows[n, h]
        ring[(row + delays[n, h]) % ring.shape[0], h] += x


@scalar
def send_late(ring, begin, wait, rows, delays, events, lo, hi, h):
    """The same of events of different bins, which are on their way ``wait`` bins and the delay.

    Only of what arrives in bin ``begin`` or later. ``events`` are bins, units and values.
    """
    bins, units, values = events
    for e in range(lo, hi):
        n = units[e]
        at = bins[e] + wait + delays[n, h]
        if at >= begin:
            x = values[e] * rows[n, h] if values.shape[0] > 0 else rows[n, h]
            ring[at % ring.shape[0], h] += x


@device
def dot_delayed(rows, delays, units, lo, hi, ring, row, change, scratch, lanes, out, at):
    """out[at + e - lo] = sum over h of rows[units[e], h] ring[row + delays[units[e], h], h].

    Or, with ``change``, of what the next row of the ring has more than that one. As ``dot_rows``.
    """
    thread = cuda.threadIdx.x
    lane, group = thread % lanes, thread // lanes
    zero = rows.dtype.type(0)
    length = ring.shape[0]
    cuda.syncthreads()
    for first in range(lo, hi, cuda.blockDim.x // lanes):
        e = first + group
        total = zero
        if e < hi:
            n = units[e]
            for h in range(lane, rows.shape[1], lanes):
                there = row + delays[n, h]
                x = ring[there % length, h]
                if change:
                    x = ring[(there + 1) % length, h] - x
                total += rows[n, h] * x
        scratch[thread] = total
        cuda.syncthreads()
        if lane == 0 and e < hi:
            for j in range(1, lanes):
                total += scratch[thread + j]
            out[at + e - lo] = total
        cuda.syncthreads()


@device
def block_sum(x, scratch, lanes):
    """The sum of ``x`` over the threads of the block, for all of them, always in one order.

    ``scratch`` [blockDim + lanes] is for work.
    """
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    scratch[thread] = x
    cuda.syncthreads()
    if thread < lanes:
        for j in range(thread + lanes, threads, lanes):
            x += scratch[j]
        scratch[threads + thread] = x
    cuda.syncthreads()
    total = scratch[threads]
    for j in range(1, lanes):
        total += scratch[threads + j]
    return total
