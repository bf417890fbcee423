"""Compiled passes over packed spike trains: gather, sort, thin out, delay.

Every function works on arrays as in ``SpikeArrays``: ``times`` [S] float32 (s), ``units`` [S]
int64, ``offsets`` [B + 1] int64. They run on one thread and release the GIL, so that they are safe
in data-loading processes and threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from snn_eventprop.backends.cpu.compile import index as _index  # unsigned
from snn_eventprop.ops.bin_times import EDGE  # an event at t is in bin floor(t / dt + EDGE)

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
def move(times, units, offsets, stretch, delay, shift, num_units, duration):
    """Move whole samples, times to ``t * stretch[b] + delay[b]`` and units by ``shift[b]``, and
    drop the events outside ``[0, duration)`` or ``0..num_units - 1``. Order is kept."""
    batch = offsets.size - 1
    out_times = np.empty(times.size, np.float32)
    out_units = np.empty(times.size, np.int64)
    out_offsets = np.empty(batch + 1, np.int64)
    out_offsets[0] = 0
    at = _index(0)
    for b in range(batch):
        factor, late, up = stretch[b], delay[b], shift[b]
        for j in range(offsets[b], offsets[b + 1]):
            k = _index(j)
            t = times[k] * factor + late
            u = units[k] + up
            # Without a branch: a dropped event is overwritten by the next.
            out_times[at] = t
            out_units[at] = u
            # Unsigned, a negative unit is a large one.
            inside = (t >= 0) & (t < duration) & (_index(u) < _index(num_units))
            at += _index(inside)
        out_offsets[b + 1] = at
    return out_times[: np.int64(at)], out_units[: np.int64(at)], out_offsets


@_jit
def thin(times, units, offsets, draws, probability):
    """Drop the events whose uniform number in ``draws`` [S] is below ``probability``."""
    out_times = np.empty(times.size, np.float32)
    out_units = np.empty(times.size, np.int64)
    out_offsets = np.empty(offsets.size, np.int64)
    out_offsets[0] = 0
    at = 0
    for b in range(offsets.size - 1):
        for k in range(offsets[b], offsets[b + 1]):
            out_times[at] = times[k]
            out_units[at] = units[k]
            at += draws[k] >= probability
        out_offsets[b + 1] = at
    return out_times[:at], out_units[:at], out_offsets


@njit(nogil=True, cache=True, fastmath={"reassoc"})  # sums in vector lanes
def _centre(times, units, begin, end):
    time_sum, unit_sum = 0.0, np.int64(0)
    for k in range(begin, end):
        time_sum += times[_index(k)]
        unit_sum += units[_index(k)]
    return time_sum / (end - begin), unit_sum / (end - begin)


@_jit
def _pick(times, units, begin, end, bits, first_bit, to_times, to_units):
    """Copy the events whose bit in ``bits`` (bytes) is set; their number."""
    n = _index(0)
    for j in range(end - begin):
        k, bit = _index(begin + j), _index(first_bit + j)
        to_times[n] = times[k]
        to_units[n] = units[k]
        n += (_index(bits[bit >> _index(3)]) >> (bit & _index(7))) & _index(1)
    return np.int64(n)


@_jit
def blend(one, pool, partners, bits, num_units, duration):
    """Blend sample b of ``one`` with sample ``partners[b]`` of ``pool``; not if that is -1.

    ``one`` and ``pool`` are (times, units, offsets). Both samples are moved to the mean of their
    centres; each event whose random bit is set is taken, in order of time. ``bits`` holds one bit
    for each event of ``one`` and then of the partners.
    """
    times1, units1, offsets1 = one
    times2, units2, offsets2 = pool
    batch = offsets1.size - 1
    room, longest = times1.size, 0
    for p in partners:
        if p >= 0:
            size = offsets2[p + 1] - offsets2[p]
            room += size
            longest = max(longest, size)
    out_times = np.empty(room, np.float32)
    out_units = np.empty(room, np.int64)
    out_offsets = np.empty(batch + 1, np.int64)
    out_offsets[0] = 0
    t1, u1 = np.empty(times1.size + 1, np.float32), np.empty(times1.size + 1, np.int64)
    t2, u2 = np.empty(longest + 1, np.float32), np.empty(longest + 1, np.int64)
    at, next_bit = 0, times1.size
    for b in range(batch):
        begin1, end1, partner = offsets1[b], offsets1[b + 1], partners[b]
        begin2, end2 = offsets2[max(partner, 0)], offsets2[max(partner, 0) + 1]
        if partner < 0 or end1 == begin1 or end2 == begin2:
            size = end1 - begin1
            out_times[at : at + size] = times1[begin1:end1]
            out_units[at : at + size] = units1[begin1:end1]
            at += size
            out_offsets[b + 1] = at
            continue
        time1, unit1 = _centre(times1, units1, begin1, end1)
        time2, unit2 = _centre(times2, units2, begin2, end2)
        late = np.float32((time2 - time1) / 2)  # one moves by this, other by the opposite
        n1 = _pick(times1, units1, begin1, end1, bits, begin1, t1, u1)
        n2 = _pick(times2, units2, begin2, end2, bits, next_bit, t2, u2)
        next_bit += end2 - begin2
        up1 = np.int64(np.rint((unit2 - unit1) / 2))
        up2 = np.int64(np.rint((unit1 - unit2) / 2))
        t1[n1] = t2[n2] = np.inf
        i, j, to = _index(0), _index(0), _index(at)
        for _ in range(n1 + n2):
            first, second = t1[i] + late, t2[j] - late
            from_one = first <= second
            from1, from2 = u1[i] + up1, u2[j] + up2  # both read: a choice, not a branch
            t = first if from_one else second
            u = from1 if from_one else from2
            i += _index(from_one)
            j += _index(not from_one)
            out_times[to] = t
            out_units[to] = u
            to += _index((t >= 0) & (t < duration) & (_index(u) < _index(num_units)))
        at = np.int64(to)
        out_offsets[b + 1] = at
    return out_times[:at], out_units[:at], out_offsets


@_jit
def jitter(times, units, offsets, noise, time_std, unit_std, num_units, duration):
    """Move every event by its own ``noise`` [S] (standard normal): its time by ``time_std`` times
    that, its unit by ``unit_std`` times that, rounded.

    Events outside ``[0, duration)`` or ``0..num_units - 1`` are then dropped, and each sample is
    sorted by time; events of equal time keep their order.
    """
    time_std, unit_std = np.float32(time_std), np.float32(unit_std)
    batch = offsets.size - 1
    out_times = np.empty(times.size, np.float32)
    out_units = np.empty(times.size, np.int64)
    out_offsets = np.empty(batch + 1, np.int64)
    out_offsets[0] = 0
    at = 0
    for b in range(batch):
        begin = at
        falls = False
        previous = np.float32(0.0)
        for k in range(offsets[b], offsets[b + 1]):
            t = times[k] + time_std * noise[k]
            u = units[k] + np.int64(np.rint(unit_std * noise[k]))
            out_times[at] = t
            out_units[at] = u
            if t >= 0 and t < duration and u >= 0 and u < num_units:
                falls |= t < previous
                previous = t
                at += 1
        out_offsets[b + 1] = at
        if falls:
            _sort(out_times[begin:at], out_units[begin:at])
    return out_times[:at], out_units[:at], out_offsets


def tidy(times, units, offsets, num_units, duration):
    """Drop events outside ``[0, duration)`` or ``0..num_units - 1`` and sort each sample by time;
    events of equal time keep their order."""
    still = np.zeros(times.size, np.float32)
    return jitter(times, units, offsets, still, 0.0, 0.0, num_units, duration)


@_jit
def _sort(times, units):
    """Sort by time in place, keeping the order of equal times.

    A radix sort of words that hold a time's bits above its unit (units are below 2**32). The bits
    of non-negative float32 numbers order like the numbers.
    """
    n = times.size
    times += np.float32(0.0)  # turns -0.0, whose bits would sort last, into 0.0
    keys = times.view(np.uint32)
    words, spare = np.empty(n, np.uint64), np.empty(n, np.uint64)
    places = np.zeros((3, 2048), np.int64)
    mask = np.uint32(2047)
    for k in range(n):
        key = keys[k]
        words[k] = (np.uint64(key) << np.uint64(32)) | np.uint64(units[k])
        places[0, key & mask] += 1
        places[1, (key >> np.uint32(11)) & mask] += 1
        places[2, key >> np.uint32(22)] += 1
    for digit in range(3):
        shift = np.uint64(32 + 11 * digit)
        place = places[digit]
        total = 0
        for d in range(2048):
            count = place[d]
            place[d] = total
            total += count
        for k in range(n):
            d = (words[k] >> shift) & np.uint64(2047)
            spare[place[d]] = words[k]
            place[d] += 1
        words, spare = spare, words
    for k in range(n):
        keys[k] = np.uint32(words[k] >> np.uint64(32))
        units[k] = np.int64(words[k] & np.uint64(0xFFFFFFFF))


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
            bin_ = np.int64(np.floor(np.float64(times[k]) / dt + EDGE))
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
    at = 0
    for b in range(batch):
        for c in range(copies + 1):
            for k in range(offsets[b], offsets[b + 1]):
                t = np.float32(times[k] + c * delay)
                if t >= duration:
                    break
                out_times[at] = t
                out_units[at] = units[k] + c * num_units
                at += 1
        out_offsets[b + 1] = at
        _sort(out_times[out_offsets[b] : at], out_units[out_offsets[b] : at])
    return out_times[:at], out_units[:at], out_offsets
