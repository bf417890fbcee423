"""Continuous-time solver on NVIDIA GPUs: a block of threads for each sample, from event to event.

The rules, the spikes kept and the states stored for replay are those of ``backends.cpu.exact``. A
thread owns every ``blockDim``-th neuron, moves it to each event, and solves for its next crossing
right away, if a bound says there may be one before the next event. Threads meet once in an event,
to learn whether anybody crosses, and three times more where somebody does. Backward they meet
where the adjoint is summed over a spike's receivers.

Cost of an event for H neurons: one row of weights from the second-level cache forward, one row of
gradients read and written backward, and for each neuron about 60 float64 operations for the
coefficients of the gap and 10 for the state. Spikes of recurrent layers cost the same again, and a
row of weights more backward.

Over 400 lines: the backward pass reads what the forward pass writes, step for step.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from ...neurons import lif
from ..binding import compiled
from . import spike_sets
from .launch import device, kernel, scalar
from .spike_sets import has, note, number, rank
from .synaptic_sums import add_rows, add_to_row, block_sum

_lif = compiled(lif, scalar)
_flow, _adjoint_flow = _lif.flow, _lif.adjoint_flow
_coefficients, _next_crossing, _crosses_with = (
    _lif.coefficients, _lif.next_crossing, _lif.crosses_with
)  # fmt: skip
_crossing_bound, _spike_slope, _time_jump = _lif.crossing_bound, _lif.spike_slope, _lif.time_jump
_sensitivity_rate = _lif.sensitivity_rate
_time_constant_gradients = _lif.time_constant_gradients
_entries = scalar(spike_sets.entries)


class Neurons(NamedTuple):
    """A population. Rates are inverse time constants, [H], or [1] where neurons share them."""

    rate_mem: Any  # float64, 1/s
    rate_syn: Any
    threshold: Any  # [H]
    v_reset: Any  # [H]
    floor: Any  # [H] smallest slope in the jump, 1/s


class Stops(NamedTuple):
    """When a sample ends early."""

    limit: int  # spikes at which to give up
    times: Any  # [B], written: the time at which a sample exceeded it


# Events between two stored states, and states that are replayed at once.
SEGMENT = 128

# Rows of H float64 numbers that a block works in, and of numbers of the weights' type.
FORWARD_ROWS, BACKWARD_ROWS = 3, 2


def list_entries(size: int) -> int:
    """Entries of the lists that a block of ``forward`` keeps, 4 bytes each."""
    return size + 2 * spike_sets.entries(size)


@scalar
def _pick(values, h):
    """The entry of neuron h of a vector that has one entry for all, or one for each."""
    return values[h] if values.shape[0] > 1 else values[0]


@scalar
def _wait(current, voltage, gap, threshold, rate_mem, rate_syn):
    """Seconds until the neuron crosses within ``gap`` s, or infinity."""
    if gap > 0.0 and _crossing_bound(current, voltage, gap * rate_mem, 0.0) >= threshold:
        return _next_crossing(current, voltage, gap, threshold, rate_mem, rate_syn)
    return math.inf


@kernel
def forward(
    events, duration, weights, neurons, stops, segment, shared, work, lists, kept, spikes
):
    """One block for each sample.

    Args:
        segment: events between two stored states.
        shared: whether the lists of spikes fit into shared memory (``list_entries``).
        work: [B, FORWARD_ROWS, H] float64.   lists: [B, list entries] where they are not shared.
        kept: ``States`` or empty, written: those of sample b from offsets[b] on. Places that are
            not written are larger than all others.
        spikes: ``Spikes``, [B, room] each, written: the spikes of each sample as far as there is
            room. Offsets are [B], written: how many there are.
    """
    times, units, offsets = events
    weight, recurrent = weights
    rate_mem, rate_syn, threshold, v_reset, _ = neurons
    states, places, state_offsets = kept
    out_times, out_units, out_slopes, out_before, counts = spikes
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    b = cuda.blockIdx.x
    size = threshold.shape[0]
    each = rate_mem.shape[0] > 1
    is_recurrent = recurrent.shape[0] == size
    keep = states.shape[0] > 0
    room = out_times.shape[1]
    no_values = v_reset[:0]
    current, voltage, wait = work[b, 0], work[b, 1], work[b, 2]
    earliest = cuda.shared.array(2, np.float64)  # crossing, of this group and the next by turns
    block_lists = cuda.shared.array(0, lists.dtype)
    if not shared:
        block_lists = lists[b]
    words = _entries(size)
    found = block_lists[:size]  # who crosses now, ascending
    sets = block_lists[size : size + 2 * words]  # the same, by turns
    for h in range(thread, size, threads):
        current[h] = 0.0
        voltage[h] = 0.0
        wait[h] = math.inf
    for w in range(thread, 2 * words, threads):
        sets[w] = 0
    if thread == 0:
        earliest[0] = math.inf
        earliest[1] = math.inf
    first, end = offsets[b], offsets[b + 1]
    event, total, stored, turn = first, 0, 0, 0
    now, soonest = 0.0, math.inf
    while True:
        place = event - first + total
        if keep and place >= stored * segment:
            slot = state_offsets[b] + stored
            if slot < state_offsets[b + 1]:  # a sample that finds too little room starts again
                for h in range(thread, size, threads):
                    states[slot, 0, h] = current[h]
                    states[slot, 1, h] = voltage[h]
                if thread == 0:
                    places[slot] = place
            stored += 1
        until = np.float64(times[event]) if event < end else duration
        somebody = cuda.syncthreads_or(np.int32(soonest < math.inf))
        gap = max(until - now, 0.0)
        if somebody == 0:
            if event == end:
                break
            following = np.float64(times[event + 1]) if event + 1 < end else duration
            next_gap = max(following - until, 0.0)
            soonest = math.inf
            mem, syn = rate_mem[0], rate_syn[0]
            e_syn, e_mem, psp = _coefficients(gap, mem, syn)
            for h in range(thread, size, threads):
                if each:
                    mem, syn = rate_mem[h], rate_syn[h]
                    e_syn, e_mem, psp = _coefficients(gap, mem, syn)
                i, after = _flow(current[h], (voltage[h],), (e_syn, psp, e_mem))
                v = after[0]
                i += weight[units[event], h]
                current[h], voltage[h] = i, v
                wait[h] = _wait(i, v, next_gap, np.float64(threshold[h]), mem, syn)
                soonest = min(soonest, wait[h])
            now = until
            event += 1
            continue
        if soonest < math.inf:
            cuda.atomic.min(earliest, turn, soonest)
        cuda.syncthreads()
        t = earliest[turn]
        noted = sets[turn * words : (turn + 1) * words]
        for h in range(thread, size, threads):
            if wait[h] < math.inf and (
                wait[h] <= t
                or _crosses_with(
                    current[h], voltage[h], t, np.float64(threshold[h]), _pick(rate_mem, h),
                    _pick(rate_syn, h),
                )
            ):  # fmt: skip
                note(noted, h)
        cuda.syncthreads()
        crossing = number(noted)
        now += t
        for h in range(thread, size, threads):
            if has(noted, h):
                before = rank(noted, h)
                found[before] = h
                at = total + before
                if at < room:
                    mem = _pick(rate_mem, h)
                    decay, _, _ = _coefficients(t, mem, _pick(rate_syn, h))
                    out_times[b, at] = now
                    out_units[b, at] = h
                    out_slopes[b, at] = _spike_slope(decay * current[h], threshold[h], mem)
                    out_before[b, at] = event - first
        # Of the group before, which all have read.
        for w in range((1 - turn) * words + thread, (2 - turn) * words, threads):
            sets[w] = 0
        if thread == 0:
            earliest[1 - turn] = math.inf
        cuda.syncthreads()
        next_gap = max(until - now, 0.0)
        soonest = math.inf
        mem, syn = rate_mem[0], rate_syn[0]
        e_syn, e_mem, psp = _coefficients(t, mem, syn)
        for h in range(thread, size, threads):
            if each:
                mem, syn = rate_mem[h], rate_syn[h]
                e_syn, e_mem, psp = _coefficients(t, mem, syn)
            i, after = _flow(current[h], (voltage[h],), (e_syn, psp, e_mem))
            v = after[0]
            if is_recurrent:
                i = add_rows(i, recurrent, found, no_values, 0, crossing, h)
            if has(noted, h):
                v = np.float64(v_reset[h])
            current[h], voltage[h] = i, v
            wait[h] = _wait(i, v, next_gap, np.float64(threshold[h]), mem, syn)
            soonest = min(soonest, wait[h])
        turn = 1 - turn
        total += crossing
        if total > stops.limit:
            if thread == 0:
                stops.times[b] = now
            break
    if thread == 0:
        counts[b] = total


@kernel
def collect(
    times, units, slopes, before, offsets, out_times, out_units, out_slopes, out_before,
    out_stamps, out_marks,
):  # fmt: skip
    """Put the spikes of each sample, [B, room], in their place among those of all samples."""
    b = cuda.blockIdx.x
    start = offsets[b]
    one = out_marks.dtype.type(1)
    for j in range(cuda.threadIdx.x, offsets[b + 1] - start, cuda.blockDim.x):
        out_times[start + j] = times[b, j]
        out_units[start + j] = units[b, j]
        out_slopes[start + j] = slopes[b, j]
        out_before[start + j] = before[b, j]
        out_stamps[start + j] = times[b, j]
        out_marks[start + j] = one


@scalar
def _is_spike(event, spike, first_event, first_spike, before):
    """Whether the later of input event ``event`` and spike ``spike`` is the spike.

    ``before`` counts the input events of the sample before each spike.
    """
    return spike >= first_spike and before[spike] > event - first_event


@scalar
def _state_before(places, first, place, segment):
    """The last stored state that is not after ``place``.

    One is stored for each ``segment`` events, or later, by the neurons that cross together.
    """
    state = first + place // segment
    while places[state] > place:
        state -= 1
    return state


@device
def _replay(
    place, base, at_last, begins, end_spike, events, spikes, weights, neurons, state, start,
    currents, voltages,
):  # fmt: skip
    """The state after each of the events base..place, into rows 0, 1, ...

    Starts at ``state`` [2, H], from which on the events are start..place; ``at_last`` are the last
    input event and the last spike of these, ``begins`` the first of the sample. Each thread
    replays its own neurons.
    """
    event, spike = at_last
    first_event, first_spike = begins
    times, units, _ = events
    out_times, out_units, _, out_before, _ = spikes
    weight, recurrent = weights
    rate_mem, rate_syn, _, v_reset, _ = neurons
    size = v_reset.shape[0]
    is_recurrent = recurrent.shape[0] == size
    each = rate_mem.shape[0] > 1
    dtype = currents.dtype
    for _ in range(place - start + 1):
        if _is_spike(event, spike, first_event, first_spike, out_before):
            spike -= 1
        else:
            event -= 1
    begin = 0.0
    if event >= first_event:
        begin = np.float64(times[event])
    if spike >= first_spike:
        begin = max(begin, out_times[spike])
    mem, syn = rate_mem[0], rate_syn[0]
    for h in range(cuda.threadIdx.x, size, cuda.blockDim.x):
        if each:
            mem, syn = rate_mem[h], rate_syn[h]
        i, v = np.float64(state[0, h]), np.float64(state[1, h])
        now = begin
        e, s = event + 1, spike + 1
        for at in range(start, place + 1):
            fires = s < end_spike and out_before[s] <= e - first_event
            when = out_times[s] if fires else np.float64(times[e])
            gap = max(when - now, 0.0)
            now = when
            if gap > 0.0:
                e_syn, e_mem, psp = _coefficients(gap, mem, syn)
                i, after = _flow(i, (v,), (e_syn, psp, e_mem))
                v = after[0]
            if fires:
                n = out_units[s]
                if is_recurrent:
                    i += recurrent[n, h]
                if n == h:
                    v = np.float64(v_reset[h])
                s += 1
            else:
                i += weight[units[e], h]
                e += 1
            if at >= base:
                currents[at - base, h] = dtype.type(i)
                voltages[at - base, h] = dtype.type(v)


@kernel
def backward(
    events, weights, neurons, spikes, kept, segment, upstream, grad_weights, gradients, sums,
    ordered, lanes, work, replayed,
):  # fmt: skip
    """Blocks visit samples by turns.

    Args:
        grad_weights: ``Rows`` [P, N, H] and [P, H, H] or [P, 1, H]. P is the number of blocks
            where gradients are ``ordered``, else 1, and all blocks add to it atomically.
        gradients: ``Gradients``; threshold, tau_mem and tau_syn are [blocks, H].
        lanes: threads that finish a sum over the block.
        work: [blocks, BACKWARD_ROWS, H].
        replayed: [blocks, 2, segment, H] or empty.
    """
    times, units, offsets = events
    weight, recurrent = weights
    rate_mem, rate_syn, threshold, v_reset, floor = neurons
    out_times, out_units, out_slopes, out_before, out_offsets = spikes
    states, places, state_offsets = kept
    grad_weight, grad_recurrent = grad_weights
    grad_threshold, grad_mem, grad_syn, grad_times = gradients
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    block = cuda.blockIdx.x
    part = block if ordered else 0
    size = threshold.shape[0]
    dtype = weight.dtype
    zero = dtype.type(0)
    each = rate_mem.shape[0] > 1
    is_recurrent = recurrent.shape[0] == size
    replays = grad_mem.size > 0
    wants_times = grad_times.shape[0] > 0
    b, a = work[block, 0], work[block, 1]
    scratch = cuda.shared.array(0, dtype)
    own_guarded = 0
    own_largest = zero
    for sample in range(block, offsets.shape[0] - 1, cuda.gridDim.x):
        for h in range(thread, size, threads):
            b[h] = zero
            a[h] = zero
        first_event, first_spike = offsets[sample], out_offsets[sample]
        end_spike = out_offsets[sample + 1]
        spike = end_spike - 1
        event = first_event - 1
        later = 0.0
        if spike >= first_spike:
            # Input that came after the last spike has no adjoint.
            event = first_event + out_before[spike] - 1
            later = out_times[spike]
        base = event - first_event + spike - first_spike + 2  # states from here on are replayed
        while event >= first_event or spike >= first_spike:
            place = event - first_event + spike - first_spike + 1
            if replays and place < base:
                state = _state_before(places, state_offsets[sample], place, segment)
                start = places[state]
                base = max(start, place + 1 - segment)
                _replay(
                    place, base, (event, spike), (first_event, first_spike), end_spike, events,
                    spikes, weights, neurons, states[state], start, replayed[block, 0],
                    replayed[block, 1],
                )  # fmt: skip
            fires = _is_spike(event, spike, first_event, first_spike, out_before)
            at = out_times[spike] if fires else np.float64(times[event])
            gap = max(later - at, 0.0)
            later = at
            n = out_units[spike] if fires else units[event]
            received = zero
            mem, syn = rate_mem[0], rate_syn[0]
            e_syn, e_mem, psp = _coefficients(gap, mem, syn)
            for h in range(thread, size, threads):
                if each:
                    mem, syn = rate_mem[h], rate_syn[h]
                    e_syn, e_mem, psp = _coefficients(gap, mem, syn)
                if replays and gap > 0.0:
                    i = np.float64(replayed[block, 0, place - base, h])
                    v = np.float64(replayed[block, 1, place - base, h])
                    of_mem, of_syn = _time_constant_gradients(
                        b[h], a[h], i, v, gap, e_syn, e_mem, 1.0 / mem, 1.0 / syn
                    )
                    grad_mem[block, h] += of_mem
                    grad_syn[block, h] += of_syn
                earlier, before = _adjoint_flow(
                    b[h], (a[h],), (dtype.type(e_syn), dtype.type(psp), dtype.type(e_mem))
                )
                b[h], a[h] = earlier, before[0]
                if not fires:
                    add_to_row(grad_weight, ordered, part, n, h, earlier)
                elif is_recurrent:
                    add_to_row(grad_recurrent, ordered, part, n, h, earlier)
                if wants_times and not fires:
                    row = weight[n, h]
                elif is_recurrent and fires:
                    row = recurrent[n, h]
                else:
                    continue
                received += row * _sensitivity_rate(
                    a[h], earlier, dtype.type(1.0 / mem), dtype.type(1.0 / syn)
                )
            if not fires:
                if wants_times:
                    received = block_sum(received, scratch, lanes)
                    if thread == 0:
                        grad_times[event] = received
                event -= 1
                continue
            if is_recurrent:
                received = block_sum(received, scratch, lanes)
            if n % threads == thread:
                before_spike, of_threshold, acted, moved = _time_jump(
                    a[n], upstream.times[spike] + received, out_slopes[spike], floor[n],
                    threshold[n], v_reset[n], dtype.type(_pick(rate_mem, n)),
                )  # fmt: skip
                own_guarded += acted
                own_largest = max(own_largest, moved)
                grad_threshold[block, n] += of_threshold
                a[n] = before_spike + upstream.marks[spike]
            spike -= 1
    cuda.atomic.add(sums.guarded, 0, own_guarded)
    cuda.atomic.max(sums.largest, 0, own_largest)
