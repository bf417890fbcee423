"""Grid solver on NVIDIA GPUs: one block of threads for each sample, one launch for all its bins.

A second one, ``collect``, puts the spikes of the samples together; ``forward`` is launched again
where a sample had more of them than there was room for.

The rules of a step, the spikes kept and the notation are those of ``cpu_grid``. A thread owns every
``blockDim``-th neuron and carries its state through all bins; threads meet only where a neuron
needs to know of others:

    forward    once in a bin, to learn who spiked, and once more in bins with spikes
    backward   where a spike's worth is summed over its receivers (recurrent layers, and layers
               whose input times need a gradient); otherwise never

Cost of an event for H neurons of ``size`` bytes each: forward H additions and one row of weights,
H * size bytes, from the second-level cache, which holds 700 x 1024 of them; backward the same of
gradients, H additions that read and write (``add_to_row``). Spikes of recurrent layers cost two
such rows backwards, one read and one written. Everything else per bin and neuron stays in the
multiprocessor: about 8 numbers in the first-level cache. With 8 events and 3 spikes in a bin at
H = 256 that is 11 kB and 3,000 operations forward, twice that backward: latency bounds it, not
bandwidth, which is what several blocks on a multiprocessor hide.
"""

from __future__ import annotations

import math

from numba import cuda

from ...neurons import lif as equations
from ..cpu.grid import RESET_NONE, RESET_SUBTRACT, RESET_ZERO, RESET_ZERO_ALL
from . import spike_sets as cuda_spikes
from .launch import device, kernel, scalar
from .spike_sets import note, number, rank
from .synaptic_sums import (
    add_rows,
    add_to_row,
    dot_delayed,
    dot_rows,
    end_of_bin,
    find,
    first_from,
    send,
    send_late,
    start_of_bin,
)

_flow = scalar(equations.flow)
_adjoint_flow = scalar(equations.adjoint_flow)
_slope = scalar(equations.slope)
_crossing_slope = scalar(equations.crossing_slope)
_guard = scalar(equations.guard)
_jump = scalar(equations.jump)
_entries = scalar(cuda_spikes.entries)

# Rows of H numbers that a block works in.
FORWARD_ROWS, BACKWARD_ROWS = 2, 5


@scalar
def _leap(current, voltage, s, c, m, steps):
    """Cross ``steps`` bins without events, by squaring the map."""
    while steps > 0:
        if steps & 1:
            current, voltage = _flow(current, voltage, s, m, c)
        s, c, m = s * s, (s + m) * c, m * m
        steps >>= 1
    return current, voltage


@scalar
def _leap_back(beta, a, s, c, m, steps):
    """The same backwards: beta[k], a[k] from beta[k + steps], a[k + steps]."""
    one_bin = m
    while steps > 0:
        if steps & 1:
            beta, _ = _adjoint_flow(beta, one_bin * a, s, m, c)
            a *= m
        s, c, m = s * s, (s + m) * c, m * m
        steps >>= 1
    return beta, a


@device
def _all_finite(values):
    """Whether no entry is infinite, for all threads of the block."""
    infinite = 0
    for h in range(cuda.threadIdx.x, values.shape[0], cuda.blockDim.x):
        if math.isinf(values[h]):
            infinite = 1
    return cuda.syncthreads_or(infinite) == 0


def list_entries(size: int) -> int:
    """Entries of the lists that a block of ``forward`` keeps, 4 bytes each."""
    return 2 * size + 3 * cuda_spikes.entries(size)


@kernel
def forward(
    steps, bins, units, values, offsets, input_current, weight, recurrent,
    s, c, m, threshold, v_reset, gain, reset, delayed, current0, voltage0, spikes0,
    last_current, last_voltage, trace, states, segment,
    shared, work, lists, delay, recurrent_delay, longest, rings,
    out_bins, out_units, out_slopes, counts,
):  # fmt: skip
    """One block for each sample. Arguments as in ``cpu_grid.forward``, and

        segment: bins between two ``states``.
        shared: whether the lists of spikes fit into shared memory (``list_entries``).
        work: [B, FORWARD_ROWS, H].   lists: [B, list entries] where they are not shared.
        delay [N, H], recurrent_delay [H, H]: bins by which events and spikes arrive later.
        longest: the longest of them, -1 for none.   rings: [B, longest + 1, H] for work.
        out_bins, out_units, out_slopes: [B, room], written: the spikes of each sample in order of
            bin and unit, as far as there is room.
        counts: [B], written: how many there are.
    """  # fmt: skip
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    b = cuda.blockIdx.x
    size = s.shape[0]
    zero, one = s.dtype.type(0), s.dtype.type(1)
    dense = input_current.size > 0
    record = trace.size > 0
    store = states.size > 0
    is_recurrent = recurrent.size > 0
    may_skip = _all_finite(gain) and not dense and not record
    no_values = values[:0]
    room = out_bins.shape[1]
    current, voltage = work[b, 0], work[b, 1]
    block_lists = cuda.shared.array(0, lists.dtype)
    if not shared:
        block_lists = lists[b]
    words = _entries(size)
    pending = block_lists[:size]  # who spiked in the previous bin, ascending
    spiked = block_lists[size : 2 * size]  # whether neuron h did
    # Who spikes in this bin, in the next one, and in the one after, by turns: what is cleared in
    # one bin has been read by all threads in the bin before, and is written to in the bin after.
    sets = block_lists[2 * size : 2 * size + 3 * words]
    for h in range(thread, size, threads):
        current[h] = current0[b, h]
        voltage[h] = voltage0[b, h]
        spiked[h] = 0
        for row in range(longest + 1):
            rings[b, row, h] = zero
    for w in range(thread, 3 * words, threads):
        sets[w] = 0
    cuda.syncthreads()
    num_pending = 0
    if spikes0.size > 0:
        noted = sets[2 * words :]
        for h in range(thread, size, threads):
            if spikes0[b, h] != 0:
                spiked[h] = 1
                note(noted, h)
        cuda.syncthreads()
        num_pending = number(noted)
        for h in range(thread, size, threads):
            if spiked[h] != 0:
                pending[rank(noted, h)] = h
        cuda.syncthreads()
    turn = 0
    total = 0
    event, end = offsets[b], offsets[b + 1]
    busy = -1  # last bin in which something sent with a delay may arrive
    k = 0
    while k < steps:
        if store and k % segment == 0:
            for h in range(thread, size, threads):
                states[b, k // segment, 0, h] = current[h]
                states[b, k // segment, 1, h] = voltage[h]
        if may_skip and num_pending == 0 and k > busy:
            target = steps - 1  # always stepped, so that its I is known before scaling by s
            if event < end:
                target = min(target, bins[event])
            if store:
                target = min(target, k - k % segment + segment)
            if target - k >= 2:
                above = 0
                for h in range(thread, size, threads):
                    highest = max(voltage[h], zero) + gain[h] * max(current[h], zero)
                    if highest > threshold[h]:
                        above = 1
                if cuda.syncthreads_or(above) == 0:
                    for h in range(thread, size, threads):
                        current[h], voltage[h] = _leap(
                            current[h], voltage[h], s[h], c[h], m[h], target - k
                        )
                    k = target
                    continue
        first = event
        event = end_of_bin(bins, first, end, k)
        noted = sets[turn * words : (turn + 1) * words]
        if longest >= 0 and (event > first or num_pending > 0):
            busy = k + longest
        for h in range(thread, size, threads):
            i, v = current[h], voltage[h]
            if longest < 0:
                i = add_rows(i, weight, units, values, first, event, h)
                if is_recurrent:
                    i = add_rows(i, recurrent, pending, no_values, 0, num_pending, h)
            else:
                ring = rings[b]
                send(ring, k, weight, delay, units, values, first, event, h)
                if is_recurrent:
                    send(ring, k, recurrent, recurrent_delay, pending, no_values, 0, num_pending, h)
                i += ring[k % (longest + 1), h]
                ring[k % (longest + 1), h] = zero
            if dense:
                i += input_current[k, b, h]
            before = delayed and spiked[h] != 0
            if before and reset == RESET_ZERO:
                v = v_reset[h]
            _, v = _flow(i, v, s[h], m[h], c[h])
            if before and reset == RESET_SUBTRACT:
                v -= threshold[h] - v_reset[h]
            elif before and reset == RESET_ZERO_ALL:
                v = v_reset[h]
            current[h], voltage[h] = i, v
            spiked[h] = 0
            if v > threshold[h]:
                spiked[h] = 1
                note(noted, h)
        cuda.syncthreads()
        num_pending = number(noted)
        for h in range(thread, size, threads):
            if num_pending > 0 and spiked[h] != 0:
                place = rank(noted, h)
                pending[place] = h
                at = total + place
                if at < room:
                    out_bins[b, at] = k
                    out_units[b, at] = h
                    out_slopes[b, at] = _crossing_slope(
                        _slope(c[h] * current[h], threshold[h], one - m[h]),
                        voltage[h], threshold[h],
                    )  # fmt: skip
                if not delayed and reset == RESET_SUBTRACT:
                    voltage[h] -= threshold[h] - v_reset[h]
                elif not delayed and reset != RESET_NONE:
                    voltage[h] = v_reset[h]
            if record:
                trace[k, b, h] = voltage[h]
            if k == steps - 1:
                last_current[b, h] = current[h]
                last_voltage[b, h] = voltage[h]
            current[h] *= s[h]
        last_turn = (turn + 2) % 3
        for w in range(last_turn * words + thread, (last_turn + 1) * words, threads):
            sets[w] = 0
        turn = (turn + 1) % 3
        if num_pending > 0:
            total += num_pending
            cuda.syncthreads()
        k += 1
    if thread == 0:
        counts[b] = total


@kernel
def collect(bins, units, slopes, offsets, out_bins, out_units, out_slopes, out_stamps, out_marks):
    """Put the spikes of each sample, [B, room], in their place among those of all samples."""
    b = cuda.blockIdx.x
    start = offsets[b]
    one = out_marks.dtype.type(1)
    for j in range(cuda.threadIdx.x, offsets[b + 1] - start, cuda.blockDim.x):
        out_bins[start + j] = bins[b, j]
        out_units[start + j] = units[b, j]
        out_slopes[start + j] = slopes[b, j]
        out_stamps[start + j] = out_stamps.dtype.type(bins[b, j])
        out_marks[start + j] = one


@device
def _replay(
    b, begin, stop, bins, units, values, offsets, input_current, weight, recurrent,
    s, c, m, threshold, v_reset, reset, delayed, spikes0, states, segment,
    out_bins, out_units, out_offsets, delay, recurrent_delay, longest, ring, currents, voltages,
):  # fmt: skip
    """The forward pass of bins begin..stop with its spikes known: I and the V that enters each.

    Nobody needs to wait for anybody: each thread replays its own neurons.
    """
    size = s.shape[0]
    no_values = values[:0]
    end, end_spike = offsets[b + 1], out_offsets[b + 1]
    first_event = first_from(bins, offsets[b], end, begin)
    first_spike = first_from(out_bins, out_offsets[b], end_spike, begin)
    for h in range(cuda.threadIdx.x, size, cuda.blockDim.x):
        i, v = states[b, begin // segment, 0, h], states[b, begin // segment, 1, h]
        event, spike = first_event, first_spike
        before = first_from(out_bins, out_offsets[b], spike, begin - 1)
        spiked = find(out_units, before, spike, h) >= 0
        if begin == 0 and spikes0.size > 0:
            spiked = spikes0[b, h] != 0
        if longest >= 0:
            for row in range(longest + 1):
                ring[row, h] = s.dtype.type(0)
            on_its_way = first_from(bins, offsets[b], event, begin - longest)
            send_late(ring, begin, 0, weight, delay, bins, units, values, on_its_way, event, h)
            if recurrent.size > 0:
                on_its_way = first_from(out_bins, out_offsets[b], before, begin - 1 - longest)
                send_late(
                    ring, begin, 1, recurrent, recurrent_delay, out_bins, out_units, no_values,
                    on_its_way, before, h,
                )  # fmt: skip
        for k in range(begin, stop):
            first = event
            event = end_of_bin(bins, first, end, k)
            if longest >= 0:
                send(ring, k, weight, delay, units, values, first, event, h)
                if recurrent.size > 0:
                    send(
                        ring, k, recurrent, recurrent_delay, out_units, no_values, before, spike, h
                    )
                i += ring[k % (longest + 1), h]
                ring[k % (longest + 1), h] = s.dtype.type(0)
            else:
                i = add_rows(i, weight, units, values, first, event, h)
            if input_current.size > 0:
                i += input_current[k, b, h]
            if recurrent.size > 0 and longest < 0:
                i = add_rows(i, recurrent, out_units, no_values, before, spike, h)
                if k == 0 and spikes0.size > 0:
                    for n in range(size):
                        if spikes0[b, n] != 0:
                            i += recurrent[n, h]
            if delayed and spiked and reset == RESET_ZERO:
                v = v_reset[h]
            currents[k - begin, h] = i
            voltages[k - begin, h] = v
            _, v = _flow(i, v, s[h], m[h], c[h])
            i *= s[h]
            if delayed and spiked and reset == RESET_SUBTRACT:
                v -= threshold[h] - v_reset[h]
            elif delayed and spiked and reset == RESET_ZERO_ALL:
                v = v_reset[h]
            before = spike
            spike = end_of_bin(out_bins, before, end_spike, k)
            spiked = find(out_units, before, spike, h) >= 0
            if not delayed and spiked and reset == RESET_SUBTRACT:
                v -= threshold[h] - v_reset[h]
            elif not delayed and spiked and reset != RESET_NONE:
                v = v_reset[h]


@device
def _add_delayed(
    grad_rows, grad_delays, ordered, part, delays, units, values, lo, hi, ring, row, h
):
    """Gradients of weights and delays from events that are sent from bin ``row`` of the ring."""
    for e in range(lo, hi):
        n = units[e]
        there = row + delays[n, h]
        now = ring[there % ring.shape[0], h]
        change = ring[(there + 1) % ring.shape[0], h] - now
        if values.shape[0] > 0:
            now, change = values[e] * now, values[e] * change
        if grad_rows.size > 0:
            add_to_row(grad_rows, ordered, part, n, h, now)
        if grad_delays.size > 0:
            add_to_row(grad_delays, ordered, part, n, h, change)


@device
def _before_the_first_bin(
    b, part, ordered, recurrent, everyone, threshold, v_reset, reset, delayed, spikes0, slopes0,
    floor, a, beta, beta_of_next, x, scratch, lanes, worth, direct,
    grad_recurrent, grad_coefficients, grad_voltage0, grad_spikes0,
):  # fmt: skip
    """What spikes of bin -1 are worth, as in ``cpu_grid``. Returns this thread's guarded slopes."""
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    size = a.shape[0]
    is_recurrent = recurrent.size > 0
    guarded = 0
    if is_recurrent:
        for h in range(thread, size, threads):
            x[h] = beta_of_next[h]
        dot_rows(recurrent, everyone, 0, size, x, scratch, lanes, worth, 0)
        for h in range(thread, size, threads):
            x[h] = beta[h]
        dot_rows(recurrent, everyone, 0, size, x, scratch, lanes, direct, 0)
        for n in range(size):
            if spikes0[b, n] != 0:
                for h in range(thread, size, threads):
                    add_to_row(grad_recurrent, ordered, part, n, h, beta[h])
    for n in range(thread, size, threads):
        received = a.dtype.type(0)
        if is_recurrent:
            grad_spikes0[b, n] = direct[n]
            received = worth[n]
        if spikes0[b, n] == 0:
            continue
        drop = a.dtype.type(0)
        if reset != RESET_NONE:
            drop = threshold[n] - v_reset[n]
        if delayed:
            grad_coefficients[cuda.blockIdx.x, 3, n] -= a[n]
        if slopes0.size > 0:
            steep, acted = _guard(slopes0[b, n], floor[n])
            guarded += acted
            sent = (received - drop * a[n]) / (steep - drop)
            grad_voltage0[b, n] -= sent
            if delayed:
                grad_coefficients[cuda.blockIdx.x, 3, n] += sent
    return guarded


@kernel
def backward(
    steps, bins, units, values, offsets, input_current, weight, recurrent,
    s, c, m, threshold, v_reset, gain, reset, delayed, spikes0, slopes0, states, segment,
    out_bins, out_units, out_slopes, out_offsets, worth_change, mark_worth, floor,
    grad_trace, grad_last_current, grad_last_voltage,
    grad_weight, grad_recurrent, grad_coefficients,
    grad_current, grad_values, grad_changes, grad_current0, grad_voltage0, grad_spikes0,
    guarded, largest, everyone, ordered, lanes, shared, work, replayed,
    delay, recurrent_delay, longest, rings, worths, grad_delay, grad_recurrent_delay,
):  # fmt: skip
    """Blocks visit samples by turns. Arguments as in ``cpu_grid.backward``, and

        gain: as in ``forward``: bins may be skipped where it is finite.
        grad_weight [P, N, H], grad_recurrent [P, H, H]: added to. P is the number of blocks where
            gradients are ``ordered``, else 1, and all blocks add to it atomically.
        grad_coefficients: [blocks, 4, H], added to.
        guarded [1], largest [1]: the number of guarded slopes, the largest absolute jump of a.
        everyone: [H] 0, 1, ..., for recurrent layers with spikes before the first bin.
        lanes: threads that share one row of weights where its product with a vector is wanted.
        shared: whether two rows of max(H, blockDim) numbers fit into shared memory.
        work: [blocks, BACKWARD_ROWS + 2, max(H, blockDim)].
        replayed: [blocks, 2, segment, H] or empty.
        rings, worths: [blocks, longest + 1, H], [blocks, longest + 3, H] for work.
        grad_delay [P, N, H], grad_recurrent_delay [P, H, H]: added to: the sum over events of the
            change of beta from the bin of each arrival to the next one.
    """  # fmt: skip
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    block = cuda.blockIdx.x
    part = block if ordered else 0
    size = s.shape[0]
    zero = s.dtype.type(0)
    late = max(longest, 0)
    ring_length = longest + 3
    dense = grad_current.size > 0
    traced = grad_trace.size > 0
    replay = states.size > 0
    is_recurrent = recurrent.size > 0
    may_skip = _all_finite(gain) and not dense and not traced and not replay
    a, beta, later = work[block, 0, :size], work[block, 1], work[block, 2]
    received, direct = work[block, 3], work[block, 4]
    wide = work.shape[2]
    two_rows = cuda.shared.array(0, s.dtype)
    x, scratch = two_rows[:wide], two_rows[wide:]
    if not shared:
        x, scratch = work[block, 5], work[block, 6]
    own_guarded = 0
    own_largest = zero
    for b in range(block, offsets.shape[0] - 1, cuda.gridDim.x):
        for h in range(thread, size, threads):
            a[h] = zero  # of bin k + 1
            beta[h] = zero  # of bin k + 1
            later[h] = zero  # beta of bin k + 2
            if longest >= 0:
                for row in range(ring_length):
                    worths[block, row, h] = zero  # beta of the bins that events arrive in
        first_event, first_spike = offsets[b], out_offsets[b]
        event, spike = offsets[b + 1], out_offsets[b + 1]  # those before are still to come
        begin = steps  # bins from here on have been replayed
        k = steps - 1
        while k >= 0:
            if may_skip and k < steps - 1:
                target = 1  # the last two bins are always stepped
                if event > first_event:
                    target = max(target, bins[event - 1] + late)
                if spike > first_spike:  # a spike's jump looks two bins ahead
                    target = max(target, out_bins[spike - 1] + 2 + late)
                if k - target >= 2:
                    for h in range(thread, size, threads):
                        beta[h], a[h] = _leap_back(beta[h], a[h], s[h], c[h], m[h], k - target)
                        if longest >= 0:
                            worths[block, (target + 1) % ring_length, h] = beta[h]
                    k = target
                    continue
            if replay and k < begin:
                begin = k - k % segment
                _replay(
                    b, begin, k + 1, bins, units, values, offsets, input_current, weight,
                    recurrent, s, c, m, threshold, v_reset, reset, delayed, spikes0, states,
                    segment, out_bins, out_units, out_offsets, delay, recurrent_delay, longest,
                    rings[block if longest >= 0 else 0], replayed[block, 0], replayed[block, 1],
                )  # fmt: skip
            end_event, end_spike = event, spike
            event = start_of_bin(bins, end_event, first_event, k)
            spike = start_of_bin(out_bins, end_spike, first_spike, k)
            if is_recurrent and spike < end_spike and longest < 0:
                for h in range(thread, size, threads):
                    x[h] = later[h] - beta[h]
                dot_rows(recurrent, out_units, spike, end_spike, x, scratch, lanes, received, 0)
            elif is_recurrent and spike < end_spike:
                dot_delayed(
                    recurrent, recurrent_delay, out_units, spike, end_spike, worths[block], k + 1,
                    True, scratch, lanes, received, 0,
                )  # fmt: skip
            for h in range(thread, size, threads):
                following, beta_of_next = a[h], beta[h]
                after = m[h] * following
                if traced:
                    after += grad_trace[k, b, h]
                if k == steps - 1:
                    after += grad_last_voltage[b, h]
                own = after
                own_spike = find(out_units, spike, end_spike, h)
                if own_spike >= 0:
                    change = worth_change[own_spike]
                    if is_recurrent:
                        change += received[own_spike - spike]
                    if reset != RESET_NONE:
                        change -= (threshold[h] - v_reset[h]) * (following - after)
                        grad_coefficients[block, 3, h] -= following if delayed else after
                    steep, acted = _guard(out_slopes[own_spike], floor[h])
                    own_guarded += acted
                    before = _jump(after, steep, change)
                    own_largest = max(own_largest, abs(before - after))
                    grad_coefficients[block, 3, h] -= before - after
                    own = before + mark_worth[own_spike]
                now, _ = _adjoint_flow(beta_of_next, own, s[h], m[h], c[h])
                if k == steps - 1:
                    now += grad_last_current[b, h]
                if replay:
                    i, v = replayed[block, 0, k - begin, h], replayed[block, 1, k - begin, h]
                    grad_coefficients[block, 0, h] += beta_of_next * i
                    grad_coefficients[block, 1, h] += own * i
                    grad_coefficients[block, 2, h] += own * v
                if dense:
                    grad_current[k, b, h] = now
                if longest >= 0:
                    worths[block, k % ring_length, h] = now
                    _add_delayed(
                        grad_weight, grad_delay, ordered, part, delay, units, values, event,
                        end_event, worths[block], k, h,
                    )  # fmt: skip
                    if is_recurrent:
                        _add_delayed(
                            grad_recurrent, grad_recurrent_delay, ordered, part, recurrent_delay,
                            out_units, values[:0], spike, end_spike, worths[block], k + 1, h,
                        )  # fmt: skip
                else:
                    if grad_weight.size > 0:
                        for e in range(event, end_event):
                            x_e = values[e] * now if values.shape[0] > 0 else now
                            add_to_row(grad_weight, ordered, part, units[e], h, x_e)
                    if is_recurrent:  # spikes of bin k arrive in bin k + 1
                        for e in range(spike, end_spike):
                            add_to_row(grad_recurrent, ordered, part, out_units[e], h, beta_of_next)
                a[h], beta[h], later[h] = own, now, beta_of_next
            if longest >= 0 and event < end_event:
                if grad_values.size > 0:
                    dot_delayed(
                        weight, delay, units, event, end_event, worths[block], k, False, scratch,
                        lanes, grad_values, event,
                    )  # fmt: skip
                if grad_changes.size > 0:
                    dot_delayed(
                        weight, delay, units, event, end_event, worths[block], k, True, scratch,
                        lanes, grad_changes, event,
                    )  # fmt: skip
                k -= 1
                continue
            if grad_values.size > 0 and event < end_event:
                for h in range(thread, size, threads):
                    x[h] = beta[h]
                dot_rows(weight, units, event, end_event, x, scratch, lanes, grad_values, event)
            if grad_changes.size > 0 and event < end_event:
                for h in range(thread, size, threads):
                    x[h] = later[h] - beta[h]
                dot_rows(weight, units, event, end_event, x, scratch, lanes, grad_changes, event)
            k -= 1
        for h in range(thread, size, threads):
            grad_current0[b, h] = beta[h]
            grad_voltage0[b, h] = m[h] * a[h]
        if spikes0.size > 0:
            own_guarded += _before_the_first_bin(
                b, part, ordered, recurrent, everyone, threshold, v_reset, reset, delayed,
                spikes0, slopes0, floor, a, beta, later, x, scratch, lanes, received, direct,
                grad_recurrent, grad_coefficients, grad_voltage0, grad_spikes0,
            )  # fmt: skip
    cuda.atomic.add(guarded, 0, own_guarded)
    cuda.atomic.max(largest, 0, own_largest)
