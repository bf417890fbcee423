"""Continuous-time solver on the CPU: from event to event, Numba kernels over a range of samples.

Between events every neuron's (I, V) flows in closed form. After each event one pass over the
neurons moves them there, adds a row of weights and asks who could reach the threshold before the
next event: while I > V, V rises at a falling rate, so it stays below V + (I - V) gap / tau_mem.
Only those few are solved, in float64: the earliest crossing becomes the next event.

Only spikes are kept for the backward pass: time, neuron, slope, and how many input events came
before. Gradients of time constants need (I, V) again, which are replayed from states stored every
``SEGMENT`` events.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from ...neurons import lif as equations
from .coefficients import coefficients, fill_coefficients
from .compile import copy, equation, grown, index, inlined, kernel, sum_kernel
from .crossing import SAME, next_crossing
from .lanes import exceeding
from .memory import cache_aligned

# Events between two stored states.
SEGMENT = 256

_flow = equation(equations.flow)
_adjoint_flow = equation(equations.adjoint_flow)
_slope = equation(equations.slope)
_guard = equation(equations.guard)
_reset_worth_rate = equation(equations.reset_worth_rate)
_jump = equation(equations.jump)
_psp_derivatives = equation(equations.psp_derivatives)


def _at(values, h):
    """``values[h]``; a number is the same for all neurons."""
    raise NotImplementedError


@overload(_at, inline="always")
def _(values, h):
    if isinstance(values, types.Array):
        return lambda values, h: values[h]
    return lambda values, h: values


# Passes over all neurons. Coefficients are numbers where neurons share their time constants.


@inlined
def _arrive(current, voltage, e_syn, e_mem, psp, rows, row, reach, bound):
    """Flow over a gap and add a row of weights.

    Args:
        reach: next gap / tau_mem.
        bound: [H], written: what V stays below in the next gap.
    """
    r = index(row)
    zero = current.dtype.type(0)
    for j in range(bound.shape[0]):
        h = index(j)
        i, v = _flow(current[h], voltage[h], _at(e_syn, h), _at(e_mem, h), _at(psp, h))
        i += rows[r, h]
        current[h] = i
        voltage[h] = v
        bound[h] = v + max(i - v, zero) * _at(reach, h)


@inlined
def _retreat(b, a, e_syn, e_mem, psp):
    for j in range(b.shape[0]):
        h = index(j)
        b[h], a[h] = _adjoint_flow(b[h], a[h], _at(e_syn, h), _at(e_mem, h), _at(psp, h))


@inlined
def _retreat_and_add(b, a, e_syn, e_mem, psp, rows, row):
    """Adjoint flow back over a gap, and b added to a row of gradients."""
    r = index(row)
    for j in range(b.shape[0]):
        h = index(j)
        later, a[h] = _adjoint_flow(b[h], a[h], _at(e_syn, h), _at(e_mem, h), _at(psp, h))
        b[h] = later
        rows[r, h] += later


@sum_kernel
def _change_of_worth(weights, b, a, rate_mem, rate_syn):
    total = b.dtype.type(0)
    for j in range(b.shape[0]):
        h = index(j)
        # equations.worth_rate with the rates inverted once for all events
        total += weights[h] * (b[h] * _at(rate_syn, h) - a[h] * _at(rate_mem, h))
    return total


@inlined
def _worth_change(rows, row, b, a, rate_mem, rate_syn):
    """Change per second of what an event of this row of weights is worth to its receivers."""
    if rate_mem.shape[0] == 1:
        return _change_of_worth(rows[row], b, a, rate_mem[0], rate_syn[0])
    return _change_of_worth(rows[row], b, a, rate_mem, rate_syn)


@kernel
def _pick(values, h):
    """The entry of neuron h of a vector that has one entry for all, or one for each."""
    return values[h] if values.shape[0] > 1 else values[0]


@kernel
def _earliest(current, voltage, gap, threshold, rate_mem, rate_syn, found, count):
    """Earliest crossing within ``gap`` s among the neurons ``found[:count]``.

    Returns its time from now and how many cross there: they are moved to the front of ``found``.
    """
    best = gap
    crossing = 0
    for j in range(count):
        h = found[j]
        theta = np.float64(threshold[h])
        i, v = np.float64(current[h]), np.float64(voltage[h])
        mem = _pick(rate_mem, h)
        if i <= v or v + (i - v) * best * mem < theta - SAME * theta:
            continue  # V falls, or rises too little
        t = next_crossing(i, v, best, theta, mem, _pick(rate_syn, h))
        if t == np.inf:
            continue
        if t < best or crossing == 0:
            best = t
            crossing = 0
        found[j] = found[crossing]
        found[crossing] = h
        crossing += 1
    return best, crossing


@inlined
def _move(
    gap, next_gap, current, voltage, rows, row, rate_mem, rate_syn, fastest,
    e_syn, e_mem, psp, reach, bound,
):  # fmt: skip
    """``_arrive`` after ``gap`` s, with ``next_gap`` s to the next event."""
    fill_coefficients(gap, rate_mem, rate_syn, fastest, e_syn, e_mem, psp)
    for j in range(reach.shape[0]):
        reach[j] = next_gap * rate_mem[j]
    if reach.shape[0] == 1:
        _arrive(current, voltage, e_syn[0], e_mem[0], psp[0], rows, row, reach[0], bound)
    else:
        _arrive(current, voltage, e_syn, e_mem, psp, rows, row, reach, bound)


@inlined
def _forward_sample(
    times, units, first, end, duration, weight, recurrent, rate_mem, rate_syn, fastest, threshold,
    below, v_reset, limit, keep, current, voltage, e_syn, e_mem, psp, reach, bound, found,
    out_times, out_units, out_slopes, out_before, states, places,
):  # fmt: skip
    """One sample. Returns its spikes and states; -1 for what it has no room to store."""
    current[:] = 0
    voltage[:] = 0
    bound[:] = 0
    event, total, stored = first, 0, 0
    now = 0.0
    zero = weight.dtype.type(0)
    is_recurrent = recurrent.shape[0] == threshold.shape[0]
    while True:
        place = event - first + total
        if keep and place >= stored * SEGMENT:
            if stored == states.shape[0]:
                return total, -1
            copy(states[stored, 0], current)
            copy(states[stored, 1], voltage)
            places[stored] = place
            stored += 1
        until = np.float64(times[event]) if event < end else duration
        gap = max(until - now, 0.0)
        crossing = 0
        t = gap
        if gap > 0.0:
            able = exceeding(bound, below, found)  # may cross before the next input event
            t, crossing = _earliest(
                current, voltage, gap, threshold, rate_mem, rate_syn, found, able
            )
        if crossing == 0:
            if event == end:
                return total, stored
            following = np.float64(times[event + 1]) if event + 1 < end else duration
            _move(
                gap, max(following - until, 0.0), current, voltage, weight, units[event],
                rate_mem, rate_syn, fastest, e_syn, e_mem, psp, reach, bound,
            )  # fmt: skip
            now = until
            event += 1
            continue
        now += t
        if total + crossing > out_times.shape[0]:
            return -1, stored
        for j in range(crossing):
            n = found[j]
            mem = _pick(rate_mem, n)
            decay, _, _ = coefficients(t, mem, _pick(rate_syn, n))
            out_times[total + j] = now
            out_units[total + j] = n
            out_slopes[total + j] = _slope(decay * current[n] * mem, threshold[n], mem)
            out_before[total + j] = event - first
            voltage[n] = -np.inf  # out of the way of the test, until its reset below
        for j in range(crossing):
            _move(
                t if j == 0 else 0.0, max(until - now, 0.0), current, voltage, recurrent,
                found[j] if is_recurrent else 0,
                rate_mem, rate_syn, fastest, e_syn, e_mem, psp, reach, bound,
            )  # fmt: skip
        for j in range(crossing):
            n = found[j]
            voltage[n] = v_reset[n]
            rise = max(current[n] - v_reset[n], zero) * _pick(reach, n)
            bound[n] = v_reset[n] + rise
        total += crossing
        if total > limit:
            out_times[0] = now  # for the error: these spikes go nowhere
            return total, stored


@kernel
def _forward_samples(
    b, hi, total, stored, times, units, offsets, duration, weight, recurrent, rate_mem, rate_syn,
    fastest, threshold, below, v_reset, limit, keep,
    current, voltage, e_syn, e_mem, psp, reach, bound, found,
    out_times, out_units, out_slopes, out_before, counts, states, places, state_counts, stopped,
):  # fmt: skip
    """Samples ``b..hi``, after ``total`` spikes and ``stored`` states of those before.

    Returns the first sample that is not done, for want of room or as it was stopped, and the
    spikes and states of those that are.
    """
    while b < hi:
        spikes, kept = _forward_sample(
            times, units, offsets[b], offsets[b + 1], duration, weight, recurrent,
            rate_mem, rate_syn, fastest, threshold, below, v_reset, limit, keep,
            current, voltage, e_syn, e_mem, psp, reach, bound, found,
            out_times[total:], out_units[total:], out_slopes[total:], out_before[total:],
            states[stored:], places[stored:],
        )  # fmt: skip
        if spikes < 0 or kept < 0:
            break
        if spikes > limit:
            stopped[0], stopped[1] = b, out_times[total]
            break
        counts[b] = spikes
        state_counts[b] = kept
        total += spikes
        stored += kept
        b += 1
    return b, total, stored


def forward(
    lo, hi, times, units, offsets, duration, weight, recurrent, rate_mem, rate_syn, threshold,
    v_reset, limit, keep,
):  # fmt: skip
    """Samples ``lo..hi``: spikes out, in order of sample and time.

    Args (B samples, S events, N inputs, H neurons):
        times: [S] s, ascending within each sample.   units: [S].   offsets: [B + 1].
        weight: [N, H].   recurrent: [H, H], [pre, post]; one row of zeros where there is none.
        rate_mem, rate_syn: [H], or [1] where neurons share them, float64, 1/s.
        threshold, v_reset: [H].
        limit: spikes of one sample at which to give up.
        keep: store states for ``backward``.

    Returns:
        times [S2] float64, units [S2], slopes [S2] (1/s), input events before each spike [S2],
        spikes per sample [hi - lo], states (I, V) [K, 2, H], events of either kind before each
        state [K], states per sample [hi - lo]; and the first sample that exceeds the limit, and
        the time, [2]; there is none where that is negative.
    """
    size, dtype = len(threshold), weight.dtype
    # Room that is not used is never touched, and a sample that finds too little starts again.
    room = 1024 + 32 * size * (hi - lo)
    kinds = np.float64, np.int64, dtype, np.int32
    spikes = [np.empty(room, kind) for kind in kinds]  # times, units, slopes, events before
    events = int(offsets[hi] - offsets[lo])
    keepable = ((events + 32 * size * (hi - lo)) // SEGMENT + hi - lo) if keep else 0
    states = [np.empty((keepable, 2, size), dtype), np.empty(keepable, np.int64)]
    counts, state_counts = np.zeros((2, len(offsets)), np.int64)
    stopped = np.full(2, -1.0)
    # Rounding of the membrane shows in the times of spikes: it is kept in float64.
    current, voltage = cache_aligned(2, size, np.float64)
    e_syn, e_mem, psp, reach = np.empty((4, len(rate_mem)))
    below = np.nextafter(threshold, -dtype.type(np.inf))  # to exceed this is to reach the threshold
    work = (
        max(rate_mem.max(), rate_syn.max()), threshold, below, v_reset, limit, keep,
        current, voltage, e_syn, e_mem, psp, reach,
        np.empty(size, dtype), np.empty(size + 1, np.int64),
    )  # fmt: skip
    b, total, stored = lo, 0, 0
    while True:
        b, total, stored = _forward_samples(
            b, hi, total, stored, times, units, offsets, duration, weight, recurrent,
            rate_mem, rate_syn, *work, *spikes, counts, *states, state_counts, stopped,
        )  # fmt: skip
        if b == hi or stopped[0] >= 0:
            break
        spikes = [grown(array, total) for array in spikes]
        states = [grown(array, stored) for array in states]
    return (
        *(array[:total] for array in spikes), counts[lo:hi],
        *(array[:stored] for array in states), state_counts[lo:hi], stopped,
    )  # fmt: skip


@kernel
def _add_constants(
    grad_mem, grad_syn, b, a, current, voltage, gap, rate_mem, rate_syn, e_syn, e_mem
):
    """Gradients of the time constants over one gap: (I, V) at its start, (b, a) at its end."""
    for j in range(b.shape[0]):
        h = index(j)
        tau_mem, tau_syn = 1.0 / _at(rate_mem, h), 1.0 / _at(rate_syn, h)
        fall_syn, fall_mem = np.float64(_at(e_syn, h)), np.float64(_at(e_mem, h))
        by_mem, by_syn = _psp_derivatives(gap, fall_syn, fall_mem, tau_mem, tau_syn)
        i, v = np.float64(current[h]), np.float64(voltage[h])
        grad_mem[h] += a[h] * (v * fall_mem * gap / tau_mem**2 + i * by_mem)
        grad_syn[h] += i * (b[h] * fall_syn * gap / tau_syn**2 + a[h] * by_syn)


@kernel
def _is_spike(event, spike, first_event, first_spike, before):
    """Whether the later of input event ``event`` and spike ``spike`` is the spike.

    ``before`` counts the input events of the sample before each spike.
    """
    return spike >= first_spike and before[spike] > event - first_event


@inlined
def _replay(
    event, spike, stop, first_event, first_spike, end_spike, now, times, units, out_times,
    out_units, out_before, weight, recurrent, rate_mem, rate_syn, fastest, v_reset,
    e_syn, e_mem, psp, reach, bound, currents, voltages,
):  # fmt: skip
    """The forward pass with its spikes known, from ``event`` and ``spike`` on, ``stop`` events.

    Row 0 of ``currents`` and ``voltages`` holds the state to start from, row r + 1 receives the
    state after the r-th event.
    """
    is_recurrent = recurrent.shape[0] == v_reset.shape[0]
    for row in range(1, stop + 1):
        copy(currents[row], currents[row - 1])
        copy(voltages[row], voltages[row - 1])
        fires = spike < end_spike and out_before[spike] <= event - first_event
        at = out_times[spike] if fires else np.float64(times[event])
        gap = max(at - now, 0.0)
        now = at
        if fires:
            n = out_units[spike]
            _move(
                gap, 0.0, currents[row], voltages[row], recurrent, n if is_recurrent else 0,
                rate_mem, rate_syn, fastest, e_syn, e_mem, psp, reach, bound,
            )  # fmt: skip
            voltages[row, n] = v_reset[n]
            spike += 1
        else:
            _move(
                gap, 0.0, currents[row], voltages[row], weight, units[event],
                rate_mem, rate_syn, fastest, e_syn, e_mem, psp, reach, bound,
            )  # fmt: skip
            event += 1


@kernel
def _backward_samples(
    lo, hi, times, units, offsets, weight, recurrent, rate_mem, rate_syn, mems, syns, fastest,
    threshold, v_reset, floor, out_times, out_units, out_slopes, out_before, out_offsets,
    states, places, state_offsets, grad_out, mark_worth,
    grad_weight, grad_recurrent, grad_threshold, grad_mem, grad_syn, grad_times,
    b, a, e_syn, e_mem, psp, reach, bound, currents, voltages,
):  # fmt: skip
    size = threshold.shape[0]
    zero = weight.dtype.type(0)
    shared = rate_mem.shape[0] == 1
    is_recurrent = recurrent.shape[0] == size
    replays = grad_mem.shape[0] > 0
    guarded = 0
    largest = zero
    for sample in range(lo, hi):
        b[:] = zero
        a[:] = zero
        first_event, first_spike = offsets[sample], out_offsets[sample]
        end_spike = out_offsets[sample + 1]
        spike = end_spike - 1
        if spike < first_spike:
            continue
        # Input that came after the last spike is worth nothing.
        event = first_event + out_before[spike] - 1
        later = out_times[spike]
        state = state_offsets[sample + 1]  # states from here on have been replayed from
        while event >= first_event or spike >= first_spike:
            place = event - first_event + spike - first_spike + 1
            if replays and (state == state_offsets[sample + 1] or place < places[state]):
                state -= 1
                while places[state] > place:
                    state -= 1
                e, s = event, spike
                for _ in range(place - places[state] + 1):
                    if _is_spike(e, s, first_event, first_spike, out_before):
                        s -= 1
                    else:
                        e -= 1
                now = np.float64(times[e]) if e >= first_event else 0.0
                if s >= first_spike:
                    now = max(now, out_times[s])
                copy(currents[0], states[state, 0])
                copy(voltages[0], states[state, 1])
                _replay(
                    e + 1, s + 1, place - places[state] + 1, first_event, first_spike, end_spike,
                    now, times, units, out_times, out_units, out_before, weight, recurrent,
                    rate_mem, rate_syn, fastest, v_reset, e_syn, e_mem, psp, reach, bound,
                    currents, voltages,
                )  # fmt: skip
            fires = _is_spike(event, spike, first_event, first_spike, out_before)
            at = out_times[spike] if fires else np.float64(times[event])
            gap = max(later - at, 0.0)
            later = at
            fill_coefficients(gap, rate_mem, rate_syn, fastest, e_syn, e_mem, psp)
            if replays and gap > 0.0:
                row = place - places[state] + 1
                if shared:
                    _add_constants(
                        grad_mem, grad_syn, b, a, currents[row], voltages[row], gap,
                        rate_mem[0], rate_syn[0], e_syn[0], e_mem[0],
                    )  # fmt: skip
                else:
                    _add_constants(
                        grad_mem, grad_syn, b, a, currents[row], voltages[row], gap,
                        rate_mem, rate_syn, e_syn, e_mem,
                    )  # fmt: skip
            if not fires:
                unit = units[event]
                if shared:
                    _retreat_and_add(b, a, e_syn[0], e_mem[0], psp[0], grad_weight, unit)
                else:
                    _retreat_and_add(b, a, e_syn, e_mem, psp, grad_weight, unit)
                if grad_times.shape[0] > 0:
                    grad_times[event] = _worth_change(weight, unit, b, a, mems, syns)
                event -= 1
                continue
            n = out_units[spike]
            change = grad_out[spike]
            if is_recurrent:
                if shared:
                    _retreat_and_add(b, a, e_syn[0], e_mem[0], psp[0], grad_recurrent, n)
                else:
                    _retreat_and_add(b, a, e_syn, e_mem, psp, grad_recurrent, n)
                change += _worth_change(recurrent, n, b, a, mems, syns)
            elif shared:
                _retreat(b, a, e_syn[0], e_mem[0], psp[0])
            else:
                _retreat(b, a, e_syn, e_mem, psp)
            after = a[n]
            change += _reset_worth_rate(after, threshold[n], v_reset[n], _pick(mems, n))
            steep, acted = _guard(out_slopes[spike], floor[n])
            guarded += acted
            before = _jump(after, steep, change)
            largest = max(largest, abs(before - after))
            grad_threshold[n] -= before
            a[n] = before + mark_worth[spike]
            spike -= 1
    return guarded, largest


def backward(
    lo, hi, times, units, offsets, weight, recurrent, rate_mem, rate_syn, threshold,
    v_reset, floor, out_times, out_units, out_slopes, out_before, out_offsets,
    states, places, state_offsets, grad_out, mark_worth,
    grad_weight, grad_recurrent, grad_threshold, grad_mem, grad_syn, grad_times,
):  # fmt: skip
    """Samples ``lo..hi`` of the adjoint pass; fills the ``grad_*`` arrays that are not empty.

    Args beyond ``forward``'s:
        floor: [H] smallest slope used in the jump, 1/s.
        out_*, states, places: of the forward pass, with the offsets of each sample.
        grad_out: [S2] dL/dt of each spike.   mark_worth: [S2] straight-through worth of each.
        grad_weight [N, H], grad_recurrent [H, H], grad_threshold [H]: added to.
        grad_mem, grad_syn: [H] float64, with respect to the time constants, added to.
        grad_times: [S] dL/dt of each input event.

    Returns:
        number of guarded slopes, largest absolute jump of a.
    """
    size, dtype = len(threshold), weight.dtype
    b, a, bound = cache_aligned(3, size, dtype)
    e_syn, e_mem, psp, reach = np.empty((4, len(rate_mem)), dtype)
    # A state may be stored late, by the neurons that cross together.
    rows = SEGMENT + size + 1 if len(grad_mem) else 0
    currents, voltages = np.empty((2, rows, size), dtype)
    return _backward_samples(
        lo, hi, times, units, offsets, weight, recurrent, rate_mem, rate_syn,
        rate_mem.astype(dtype), rate_syn.astype(dtype), max(rate_mem.max(), rate_syn.max()),
        threshold, v_reset, floor,
        out_times, out_units, out_slopes, out_before, out_offsets,
        states, places, state_offsets, grad_out, mark_worth,
        grad_weight, grad_recurrent, grad_threshold, grad_mem, grad_syn, grad_times,
        b, a, e_syn, e_mem, psp, reach, bound, currents, voltages,
    )  # fmt: skip
