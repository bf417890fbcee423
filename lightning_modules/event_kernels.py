"""Compiled passes over packed spike trains: gather, tidy, thin out, delay.

Every function works on arrays as in ``SpikeArrays``: ``times`` [S] float32 (s), ``units`` [S]
int64, ``offsets`` [B + 1] int64. They run on one thread and release the GIL, so that they are safe
in data-loading processes and threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# The edge rule of SpikeEvents.to_dense: an event at t belongs to bin floor(t / dt + 0.01).
_EDGE = 0.01

_jit = njit(nogil=True, cache=True)


@_jit
def gather(times, units, offsets, chosen):
    """Copy the samples ``chosen`` [B] out of packed storage (units of any integer type)."""
    batch = chosen.size
    out_offsets = np.empty(batch + 1, np.int64)
    out_offsets[0] = 0
    for b in range(batch):
        i = chosen[b]
        out_offsets[b + 1] = out_offsets[b] + offsets[i + 1] - offsets[i]
    total = out_offsets[batch]
    out_times = np.empty(total, np.float32)
    out_units = np.empty(total, np.int64)
    for b in range(batch):
        start, to = offsets[chosen[b]], out_offsets[b]
        n = out_offsets[b + 1] - to
        out_times[to : to + n] = times[start : start + n]
        for k in range(n):
            out_units[to + k] = units[start + k]
    return out_times, out_units, out_offsets


@_jit
def tidy(times, units, offsets, num_units, duration):
    """Drop events outside ``[0, duration)`` or ``0..num_units - 1``; sort each sample by time.

    Events of equal time keep their order. Sorting is a radix sort on the bits of the float32
    times, which order like the (non-negative) numbers themselves.
    """
    batch = offsets.size - 1
    out_times = np.empty(times.size, np.float32)
    out_units = np.empty(times.size, np.int64)
    out_offsets = np.empty(batch + 1, np.int64)
    out_offsets[0] = 0
    at = 0
    for b in range(batch):
        begin = at
        sorted_already = True
        previous = np.float32(0.0)
        for k in range(offsets[b], offsets[b + 1]):
            t, u = times[k], units[k]
            if t >= 0 and t < duration and u >= 0 and u < num_units:
                if t < previous:
                    sorted_already = False
                previous = t
                out_times[at] = t
                out_units[at] = u
                at += 1
        out_offsets[b + 1] = at
        if not sorted_already:
            _sort(out_times[begin:at], out_units[begin:at])
    return out_times[:at], out_units[:at], out_offsets


@_jit
def _sort(times, units):
    n = times.size
    times += np.float32(0.0)  # turns -0.0, whose bits would sort last, into 0.0
    keys = times.view(np.uint32)
    other_keys = np.empty(n, np.uint32)
    other_units = np.empty(n, np.int64)
    from_keys, from_units, to_keys, to_units = keys, units, other_keys, other_units
    for digit in range(3):
        shift = np.uint32(11 * digit)
        place = np.zeros(2049, np.int64)
        for k in range(n):
            place[((from_keys[k] >> shift) & np.uint32(2047)) + 1] += 1
        for d in range(2048):
            place[d + 1] += place[d]
        for k in range(n):
            d = (from_keys[k] >> shift) & np.uint32(2047)
            to_keys[place[d]] = from_keys[k]
            to_units[place[d]] = from_units[k]
            place[d] += 1
        from_keys, from_units, to_keys, to_units = to_keys, to_units, from_keys, from_units
    keys[:] = from_keys
    units[:] = from_units


@_jit
def one_per_bin(times, units, offsets, num_units, dt):
    """Keep the first event of each unit in each bin of width ``dt`` (events sorted by time)."""
    batch = offsets.size - 1
    out_times = np.empty_like(times)
    out_units = np.empty_like(units)
    out_offsets = np.empty(batch + 1, np.int64)
    out_offsets[0] = 0
    last = np.empty(num_units, np.int64)
    at = 0
    for b in range(batch):
        last[:] = -1
        for k in range(offsets[b], offsets[b + 1]):
            bin_ = np.int64(np.floor(np.float64(times[k]) / dt + _EDGE))
            u = units[k]
            if last[u] != bin_:
                last[u] = bin_
                out_times[at] = times[k]
                out_units[at] = u
                at += 1
        out_offsets[b + 1] = at
    return out_times[:at], out_units[:at], out_offsets


@_jit
def delay_line(times, units, offsets, num_units, duration, copies, delay):
    """Append ``copies`` delayed copies; copy c arrives ``c * delay`` later on units
    ``c * num_units ...``. Events delayed beyond ``duration`` are dropped."""
    batch = offsets.size - 1
    room = times.size * (copies + 1)
    out_times = np.empty(room, np.float32)
    out_units = np.empty(room, np.int64)
    out_offsets = np.empty(batch + 1, np.int64)
    out_offsets[0] = 0
    heads = np.empty(copies + 1, np.int64)
    at = 0
    for b in range(batch):
        # Every copy is sorted already: merge them by their next event.
        begin, end = offsets[b], offsets[b + 1]
        heads[:] = begin
        while True:
            best, best_time = -1, np.float32(duration)
            for c in range(copies + 1):
                if heads[c] < end:
                    t = np.float32(times[heads[c]] + c * delay)
                    if t < best_time:
                        best, best_time = c, t
            if best < 0:
                break
            out_times[at] = best_time
            out_units[at] = units[heads[best]] + best * num_units
            heads[best] += 1
            at += 1
        out_offsets[b + 1] = at
    return out_times[:at], out_units[:at], out_offsets
