"""Grid solver on the CPU: event-driven Numba kernels over a range of samples.

One step of every discretisation (see ``snn_eventprop.discretisation``) is

    I <- I + X[k];   V <- m V + c I;   spike where V > theta;   reset;   I <- s I

with X[k] the weights of the input events of bin k and of the recurrent spikes of bin k - 1.
Work follows events and spikes: a stretch of bins without either, in which an upper bound on V
shows that nobody can reach the threshold, is crossed by squaring the linear map (``_powers``).

Only spikes are kept for the backward pass: bin, unit and slope. Notation there: beta[k] = dL/dX[k]
and a[k] = dL/dV[k] before the reset.
"""

from __future__ import annotations

import numpy as np

from ...neurons import lif as equations
from . import delayed as cpu_delays
from .blocks import dot, dot_rows, gather, retreat, scale, step, step_and_fire
from .compile import PAD, copy, equation, grown, inlined, kernel
from .compile import index as _index
from .event_sort import first_from
from .lanes import WIDE, exceeding, words
from .memory import cache_aligned

RESET_NONE, RESET_SUBTRACT, RESET_ZERO, RESET_ZERO_ALL = 0, 1, 2, 3

_flow = equation(equations.flow)
_adjoint_flow = equation(equations.adjoint_flow)
_slope = equation(equations.slope)
_crossing_slope = equation(equations.crossing_slope)
_guard = equation(equations.guard)
_jump = equation(equations.jump)

# Bins between two stored states, from which the backward pass replays the forward one.
SEGMENT = 512


# Passes over all neurons.


@inlined
def _add(total, x):
    for h in range(min(total.shape[0], x.shape[0])):  # rows of beta are longer than others
        total[h] += x[h]


@inlined
def _add_product(total, x, y):
    for h in range(total.shape[0]):
        total[h] += x[h] * y[h]


@inlined
def _retreat_beta(beta, beta_later, a, s, c, m):
    """beta of a bin from that of the next one and the bin's own a."""
    for h in range(a.shape[0]):
        beta[h], _ = _adjoint_flow(beta_later[h], a[h], s[h], m[h], c[h])


@inlined
def _difference(out, x, y):
    for h in range(out.shape[0]):
        out[h] = x[h] - y[h]


@kernel
def _all_finite(values):
    finite = True
    for h in range(values.shape[0]):
        finite = finite and np.isfinite(values[h])
    return finite


@kernel
def _fill_powers(table, s, c, m):
    for h in range(s.shape[0]):  # assigning whole rows takes a second longer to compile
        table[0, 0, h], table[0, 1, h], table[0, 2, h] = s[h], c[h], m[h]
    for j in range(1, table.shape[0]):
        for h in range(s.shape[0]):
            s1, c1, m1 = table[j - 1, 0, h], table[j - 1, 1, h], table[j - 1, 2, h]
            table[j, 0, h] = s1 * s1
            table[j, 1, h] = (s1 + m1) * c1
            table[j, 2, h] = m1 * m1


def _powers(s, c, m):
    """The one-step map (s, c, m) composed with itself 2^j times, j < 32: [32, 3, H]."""
    table = np.empty((32, 3, len(s)), s.dtype)
    _fill_powers(table, s, c, m)
    return table


@inlined
def _skip_flow(current, voltage, table, steps):
    """Cross ``steps`` bins without events at once."""
    j = 0
    while steps > 0:
        if steps & 1:
            for h in range(current.shape[0]):
                current[h], voltage[h] = _flow(
                    current[h], voltage[h], table[j, 0, h], table[j, 2, h], table[j, 1, h]
                )
        steps >>= 1
        j += 1


@inlined
def _skip_adjoint(beta, a, m, table, steps):
    """The same backwards: beta[k], a[k] from beta[k + steps], a[k + steps]."""
    j = 0
    while steps > 0:
        if steps & 1:
            for h in range(a.shape[0]):
                beta[h], _ = _adjoint_flow(
                    beta[h], m[h] * a[h], table[j, 0, h], table[j, 2, h], table[j, 1, h]
                )
                a[h] *= table[j, 2, h]
        steps >>= 1
        j += 1


@inlined
def _all_stay_below(current, voltage, gain, threshold):
    """Whether no neuron can spike before its next input, however long that takes.

    V stays below max(V, 0) + gain max(I, 0), ``gain`` being a bound on the largest membrane
    potential that one unit of current causes.
    """
    zero = current.dtype.type(0)
    above = 0
    for h in range(current.shape[0]):
        above += max(voltage[h], zero) + gain[h] * max(current[h], zero) > threshold[h]
    return above == 0


@inlined
def _emit(
    k, fired, current, voltage, c, m, threshold, v_reset, reset, out_bins, out_units, out_slopes
):
    """Store the spikes of bin ``k`` and reset their neurons."""
    one = m.dtype.type(1)
    for i in range(fired.shape[0]):
        j = _index(i)
        h = _index(fired[j])
        out_bins[j] = k
        out_units[j] = h
        out_slopes[j] = _crossing_slope(
            _slope(c[h] * current[h], threshold[h], one - m[h]), voltage[h], threshold[h]
        )
        if reset == RESET_SUBTRACT:
            voltage[h] -= threshold[h] - v_reset[h]
        elif reset != RESET_NONE:
            voltage[h] = v_reset[h]


@kernel
def _forward_samples(
    b, hi, total, steps, bins, units, values, offsets, input_current, weight, recurrent,
    s, c, m, threshold, v_reset, gain, reset, delayed, current0, voltage0, spikes0,
    last_current, last_voltage, trace, states, delays, constants, table,
    current, voltage, work, marks, senders, fired, out_bins, out_units, out_slopes, counts,
):  # fmt: skip
    """Samples ``b..hi``, after ``total`` spikes of those before.

    Returns the first sample that is not done, for want of room, and the spikes of those that are.
    """
    size = s.shape[0]
    one = constants[4]
    at_once = delays is None
    dense = input_current.size > 0
    record = trace.size > 0
    store = states.size > 0
    is_recurrent = recurrent.size > 0
    may_skip = not dense and not record and _all_finite(gain)
    while b < hi:
        copy(current, current0[b])
        copy(voltage, voltage0[b])
        decay = one  # from what ``current`` is to I at the start of the bin
        num_senders = 0
        if spikes0.size > 0:
            for h in range(size):
                if spikes0[b, h] != 0:
                    senders[num_senders] = h
                    num_senders += 1
        count = 0
        event, end = offsets[b], offsets[b + 1]
        longest = 0 if delays is None else delays.longest
        busy = -1  # last bin in which something sent with a delay may arrive
        collected = -1  # segment whose arrivals are known
        if delays is not None:
            cpu_delays.begin_forward(delays)
        k = 0
        while k < steps:
            if store and k % SEGMENT == 0:
                scale(states[b, k // SEGMENT, 0], current, decay)
                copy(states[b, k // SEGMENT, 1], voltage)
            if may_skip and num_senders == 0 and k > busy:
                target = bins[event] if event < end else steps - 1
                if store:
                    target = min(target, k - k % SEGMENT + SEGMENT)
                # The last bin is always stepped, so that its I is known before scaling by s.
                target = min(target, steps - 1)
                if target - k >= 2:
                    scale(current, current, decay)
                    decay = one
                    if _all_stay_below(current, voltage, gain, threshold):
                        _skip_flow(current, voltage, table, target - k)
                        k = target
                        continue
            first = event
            while event < end and bins[event] == k:
                event += 1
            inflow = input_current[k, b] if dense else work[:0]
            if delays is not None:
                inflow = work
                if collected != k // SEGMENT:
                    collected = k // SEGMENT
                    begin = collected * SEGMENT
                    cpu_delays.collect(
                        delays,
                        begin,
                        min(begin + SEGMENT, steps),
                        bins,
                        units,
                        values,
                        offsets[b],
                        end,
                    )
                if event > first:
                    busy = max(busy, k + longest)
                if k <= busy:
                    cpu_delays.take(work, delays, k, k % SEGMENT)
                else:
                    work[:] = 0
                if dense:
                    _add(work, input_current[k, b])
            if delayed and reset == RESET_ZERO:
                for j in range(num_senders):
                    voltage[senders[j]] = v_reset[senders[j]]
            num_fired = step_and_fire(
                (
                    current, voltage, constants, decay,
                    weight, units, values, first, event if at_once else first,
                    recurrent, senders, num_senders if at_once and is_recurrent else 0, inflow,
                ),
                marks, fired,
            )  # fmt: skip
            decay = constants[0]
            if delayed and num_senders > 0 and reset != RESET_ZERO:
                for j in range(num_senders):
                    h = senders[j]
                    if reset == RESET_SUBTRACT:
                        voltage[h] -= threshold[h] - v_reset[h]
                    elif reset == RESET_ZERO_ALL:
                        voltage[h] = v_reset[h]
                num_fired = exceeding(voltage, threshold, fired)
            if num_fired > 0:
                if total + count + num_fired > out_bins.shape[0]:
                    return b, total
                at = total + count
                _emit(
                    k, fired[:num_fired], current, voltage, c, m, threshold, v_reset,
                    reset if not delayed else RESET_NONE,
                    out_bins[at:], out_units[at:], out_slopes[at:],
                )  # fmt: skip
                count += num_fired
                if delays is not None:
                    if is_recurrent:
                        cpu_delays.send(delays, recurrent, k, fired[:num_fired])
                        busy = max(busy, k + 1 + longest)
            senders, fired = fired, senders
            num_senders = num_fired
            if record:
                copy(trace[k, b], voltage)
            if k == steps - 1:
                copy(last_current[b], current)
                copy(last_voltage[b], voltage)
            k += 1
        counts[b] = count
        total += count
        b += 1
    return b, total


def _for_blocks(learned, *constants):
    """And ones; as numbers, which stay in registers, where all neurons share them.

    Not where they are ``learned``: they may differ after a step of the optimiser, and kernels
    would be compiled a second time in the middle of training.
    """
    constants = *constants, np.ones_like(constants[0])
    if learned or len(constants[0]) == 0:
        return constants
    if all((values == values[0]).all() for values in constants):
        return tuple(values[0] for values in constants)
    return constants


def forward(
    lo, hi, steps, bins, units, values, offsets, input_current, weight, recurrent,
    s, c, m, threshold, v_reset, gain, reset, delayed, current0, voltage0, spikes0,
    last_current, last_voltage, trace, states, delays,
):  # fmt: skip
    """Samples ``lo..hi``: spikes out, in order of sample, bin, unit.

    Args (B samples, N inputs, H neurons, T bins; an array of size 0 stands for "absent"):
        bins, units, values: [S] input events sorted by bin within each sample; offsets [B + 1].
        input_current: [T, B, H] added to X.   weight: [N, H].   recurrent: [H, H], [pre, post].
        s, c, m, threshold, v_reset, gain: [H]; gain is infinite where bins must not be skipped.
        reset: RESET_*; delayed: the reset acts at the start of the next step (snnTorch's order).
        current0, voltage0, spikes0: [B, H] state before bin 0 and spikes of bin -1.
        last_current, last_voltage: [B, H], written: I of the last bin before it is scaled by s, V.
        trace: [T, B, H], written: V after the reset (before it, where it is delayed).
        states: [B, segments, 2, H], written: (I, V) every ``SEGMENT`` bins.
        delays: of synapses, ``cpu_delays.Delays``, or None; they rule out ``spikes0``.

    Returns:
        bins [S2], units [S2], slopes [S2], spikes per sample [hi - lo].
    """
    size = len(s)
    # Room that is not used is never touched, and a sample that finds too little starts again.
    room = 1024 + min(32, steps) * size * (hi - lo)
    spikes = [np.empty(room, kind) for kind in (np.int32, np.int64, s.dtype)]
    counts = np.zeros(len(offsets), np.int64)
    table = _powers(s, c, m)
    constants = _for_blocks(states.size > 0, s, c, m, threshold)
    current, voltage, work = cache_aligned(3, size, s.dtype)
    marks = np.empty(words(size), np.uint64)
    # Units that spiked in the previous bin, and in this one.
    senders, fired = np.empty((2, WIDE * (len(marks) + 1)), np.int64)
    b, total = lo, 0
    while True:
        b, total = _forward_samples(
            b, hi, total, steps, bins, units, values, offsets, input_current, weight, recurrent,
            s, c, m, threshold, v_reset, gain, reset, delayed, current0, voltage0, spikes0,
            last_current, last_voltage, trace, states, delays, constants, table,
            current, voltage, work, marks, senders, fired, *spikes, counts,
        )  # fmt: skip
        if b == hi:
            return *(array[:total] for array in spikes), counts[lo:hi]
        spikes = [grown(array, total) for array in spikes]


@kernel
def collect(start, bins, units, slopes, out_bins, out_units, out_slopes, out_stamps, out_marks):
    """Put the spikes of a range of samples in their place among those of all samples."""
    one = out_marks.dtype.type(1)
    for j in range(bins.shape[0]):
        to = _index(start) + _index(j)
        out_bins[to] = bins[j]
        out_units[to] = units[j]
        out_slopes[to] = slopes[j]
        out_stamps[to] = out_stamps.dtype.type(bins[j])
        out_marks[to] = one


@kernel
def _worth_of_events(
    grad_values, grad_changes, weight, bins, units, lo, hi, begin, beta, change_of_beta
):
    """What one unit of each input event is worth, and how that changes to the next bin."""
    if grad_values.size == 0 and grad_changes.size == 0:
        return
    size = change_of_beta.shape[0]
    e = lo
    while e < hi:
        first = e
        while e < hi and bins[e] == bins[first]:
            e += 1
        row = bins[first] - begin
        if grad_values.size > 0:
            dot_rows(weight, units, first, e, beta[row, :size], grad_values)
        if grad_changes.size > 0:
            _difference(change_of_beta, beta[row + 1], beta[row])
            dot_rows(weight, units, first, e, change_of_beta, grad_changes)


@inlined
def _replay(
    b, begin, end, bins, units, values, offsets, input_current, weight, recurrent,
    s, c, m, threshold, v_reset, reset, delayed, spikes0,
    states, out_bins, out_units, out_offsets, currents, voltages, state, senders, delays,
    constants,
):  # fmt: skip
    """The forward pass of bins begin..end with its spikes known: I and the V that enters each.

    ``state`` [3, H] and ``senders`` [H] are for work.
    """
    size = s.shape[0]
    current, voltage, work = state[0], state[1], state[2]
    decay = constants[4]
    at_once = delays is None
    dense = input_current.size > 0
    copy(current, states[b, begin // SEGMENT, 0])
    copy(voltage, states[b, begin // SEGMENT, 1])
    event = first_from(bins, offsets[b], offsets[b + 1], begin)
    spike = first_from(out_bins, out_offsets[b], out_offsets[b + 1], begin)
    num_senders = 0
    if spikes0 is not None:
        for h in range(size if begin == 0 else 0):
            if spikes0[b, h] != 0:
                senders[num_senders] = h
                num_senders += 1
    for e in range(first_from(out_bins, out_offsets[b], spike, begin - 1), spike):
        senders[num_senders] = out_units[e]
        num_senders += 1
    if delays is not None:
        cpu_delays.collect(delays, begin, end, bins, units, values, offsets[b], offsets[b + 1])
        if recurrent.size > 0:
            cpu_delays.send_earlier(
                delays, recurrent, begin, out_bins, out_units, out_offsets[b], spike
            )
    for k in range(begin, end):
        first = event
        while event < offsets[b + 1] and bins[event] == k:
            event += 1
        inflow = input_current[k, b] if dense else work[:0]
        if delays is not None:
            inflow = work
            cpu_delays.take(work, delays, k, k - begin)
            if dense:
                _add(work, input_current[k, b])
        if delayed and reset == RESET_ZERO:
            for j in range(num_senders):
                voltage[senders[j]] = v_reset[senders[j]]
        copy(voltages[k - begin], voltage)
        step((
            current, voltage, constants, decay,
            weight, units, values, first, event if at_once else first,
            recurrent, senders, num_senders if at_once and recurrent.size > 0 else 0, inflow,
        ))  # fmt: skip
        decay = constants[0]
        copy(currents[k - begin], current)
        if delayed:
            for j in range(num_senders):
                h = senders[j]
                if reset == RESET_SUBTRACT:
                    voltage[h] -= threshold[h] - v_reset[h]
                elif reset == RESET_ZERO_ALL:
                    voltage[h] = v_reset[h]
        num_senders = 0
        while spike < out_offsets[b + 1] and out_bins[spike] == k:
            h = out_units[spike]
            if not delayed and reset == RESET_SUBTRACT:
                voltage[h] -= threshold[h] - v_reset[h]
            elif not delayed and reset != RESET_NONE:
                voltage[h] = v_reset[h]
            senders[num_senders] = h
            num_senders += 1
            spike += 1
        if delays is not None:
            if recurrent.size > 0:
                cpu_delays.send(delays, recurrent, k, senders[:num_senders])


@kernel
def _backward_samples(
    lo, hi, steps, bins, units, values, offsets, input_current, weight, recurrent,
    s, c, m, threshold, v_reset, reset, delayed, spikes0, slopes0, states, skip,
    out_bins, out_units, out_slopes, out_offsets, worth_change, mark_worth, floor,
    grad_trace, grad_last_current, grad_last_voltage,
    grad_weight, grad_recurrent, grad_coefficients,
    grad_current, grad_values, grad_changes, grad_current0, grad_voltage0, grad_spikes0, delays,
    constants, table, a, beta, currents, voltages, state, senders, change_of_beta, received,
    place, rows, scales,
):  # fmt: skip
    size = s.shape[0]
    zero = s.dtype.type(0)
    dense = grad_current.size > 0
    traced = grad_trace.size > 0
    is_recurrent = recurrent.size > 0
    may_skip = skip and not dense and not traced
    guarded = 0
    largest = zero
    grad_threshold = grad_coefficients[3]
    longest = 0 if delays is None else delays.longest
    for b in range(lo, hi):
        if delays is not None:
            cpu_delays.begin_backward(delays)
        a[:] = zero
        beta[:2] = zero  # for no bins at all
        first_event, first_spike = offsets[b], out_offsets[b]
        event, spike = offsets[b + 1] - 1, out_offsets[b + 1] - 1
        last_event, last_spike = event, spike
        for segment in range((steps - 1) // SEGMENT, -1, -1):
            begin = segment * SEGMENT
            k = min(begin + SEGMENT, steps) - 1
            # The first bins of the segment before are those after this one: two, that a spike's
            # arrival and its change look at, and the longest delay.
            if k + 1 < steps:
                for row in range(longest + 1, -1, -1):
                    copy(beta[SEGMENT + row], beta[row])
            if states is not None:
                _replay(
                    b, begin, k + 1, bins, units, values, offsets, input_current,
                    weight, recurrent, s, c, m, threshold, v_reset, reset, delayed, spikes0,
                    states, out_bins, out_units, out_offsets, currents, voltages, state, senders,
                    delays, constants,
                )  # fmt: skip
            if k == steps - 1:
                beta[k + 1 - begin : k + 3 + longest - begin] = zero
            while k >= begin:
                p, q = k % 3, (k + 1) % 3
                row = k - begin
                if may_skip and k < steps - 1:
                    target = max(bins[event] + longest, begin) if event >= first_event else begin
                    # A spike's jump looks two bins ahead, so those are stepped; so are the first
                    # two bins of a segment, which the next one looks at.
                    if spike >= first_spike:
                        target = max(target, out_bins[spike] + 2 + longest)
                    target = max(target, begin + 1 + longest)
                    if k - target >= 2:
                        t = (target + 1) % 3
                        if t != q:
                            copy(a[t], a[q])
                        copy(beta[target + 1 - begin], beta[row + 1])
                        _skip_adjoint(beta[target + 1 - begin], a[t], m, table, k - target)
                        k = target
                        continue
                if traced or k == steps - 1:
                    scale(a[p], a[q], m)
                    if traced:
                        _add(a[p], grad_trace[k, b])
                    if k == steps - 1:
                        _add(a[p], grad_last_voltage[b])
                    _retreat_beta(beta[row], beta[row + 1], a[p], s, c, m)
                else:
                    retreat(beta, row, a[p], a[q], constants)
                earliest = spike
                if is_recurrent and spike >= first_spike and out_bins[spike] == k:
                    while earliest > first_spike and out_bins[earliest - 1] == k:
                        earliest -= 1
                    if delays is None:
                        _difference(change_of_beta, beta[row + 2], beta[row + 1])
                        dot_rows(
                            recurrent, out_units[earliest:], 0, spike + 1 - earliest,
                            change_of_beta, received,
                        )  # fmt: skip
                    else:
                        cpu_delays.worth_of_spikes(
                            received, delays, recurrent, out_units, earliest, spike + 1, k
                        )
                a_p, a_q, b_now, b_next = a[p], a[q], beta[row], beta[row + 1]
                while spike >= first_spike and out_bins[spike] == k:
                    e, n = _index(spike), _index(out_units[_index(spike)])
                    change = worth_change[e]
                    if is_recurrent:
                        change += received[_index(spike - earliest)]
                    after = a_p[n]
                    if reset != RESET_NONE:
                        drop = threshold[n] - v_reset[n]
                        change -= drop * (a_q[n] - after)
                        grad_threshold[n] -= a_q[n] if delayed else after
                    steep, acted = _guard(out_slopes[e], floor[n])
                    guarded += acted
                    before = _jump(after, steep, change)
                    largest = max(largest, abs(before - after))
                    grad_threshold[n] -= before - after
                    a_p[n] = before + mark_worth[e]
                    b_now[n], _ = _adjoint_flow(b_next[n], a_p[n], s[n], m[n], c[n])
                    spike -= 1
                if k == steps - 1:
                    _add(beta[row], grad_last_current[b])
                if delays is not None:
                    cpu_delays.remember(delays, k, beta, row)
                if states is not None:
                    _add_product(grad_coefficients[0], beta[row + 1], currents[row])
                    _add_product(grad_coefficients[1], a[p], currents[row])
                    _add_product(grad_coefficients[2], a[p], voltages[row])
                if dense:
                    copy(grad_current[k, b], beta[row])
                while event >= first_event and bins[event] == k:
                    event -= 1
                k -= 1
            if delays is None:
                if grad_weight.size > 0:
                    gather(
                        grad_weight, bins, units, values, event + 1, last_event + 1, begin, beta,
                        place, rows, scales,
                    )  # fmt: skip
                if is_recurrent:  # spikes of bin k arrive in bin k + 1
                    gather(
                        grad_recurrent, out_bins, out_units, values[:0], spike + 1, last_spike + 1,
                        begin - 1, beta, place, rows, scales,
                    )  # fmt: skip
                _worth_of_events(
                    grad_values, grad_changes, weight, bins, units, event + 1, last_event + 1,
                    begin, beta, change_of_beta,
                )  # fmt: skip
            else:
                cpu_delays.gather(
                    delays, weight, bins, units, values, event + 1, last_event + 1,
                    out_bins, out_units, values[:0], spike + 1, last_spike + 1,
                    begin, beta, grad_values, grad_changes,
                )  # fmt: skip
            last_event, last_spike = event, spike
        for h in range(size):
            grad_current0[b, h] = beta[0, h]
            grad_voltage0[b, h] = m[h] * a[0, h]
        if spikes0 is not None:
            # What spikes of bin -1 are worth in bin 0 belongs to their jump. It goes back through
            # the state as ``hosts.step`` says; the part of it that the loss pays for the
            # spike directly is added by ``op.to_raster``.
            for n in range(size):
                if is_recurrent:
                    grad_spikes0[b, n] = dot(recurrent, n, beta[0, :size])
                if spikes0[b, n] == 0:
                    continue
                worth = zero
                drop = zero if reset == RESET_NONE else threshold[n] - v_reset[n]
                if is_recurrent:
                    worth += dot(recurrent, n, beta[1, :size])
                    _add(grad_recurrent[n], beta[0])
                if delayed:
                    grad_coefficients[3, n] -= a[0, n]
                if slopes0.size > 0:
                    steep, acted = _guard(slopes0[b, n], floor[n])
                    guarded += acted
                    sent = (worth - drop * a[0, n]) / (steep - drop)
                    grad_voltage0[b, n] -= sent
                    if delayed:
                        grad_coefficients[3, n] += sent
    return guarded, largest


def backward(
    lo, hi, steps, bins, units, values, offsets, input_current, weight, recurrent,
    s, c, m, threshold, v_reset, reset, delayed, spikes0, slopes0, states, skip,
    out_bins, out_units, out_slopes, out_offsets, worth_change, mark_worth, floor,
    grad_trace, grad_last_current, grad_last_voltage,
    grad_weight, grad_recurrent, grad_coefficients,
    grad_current, grad_values, grad_changes, grad_current0, grad_voltage0, grad_spikes0, delays,
    work,
):  # fmt: skip
    """Samples ``lo..hi`` of the adjoint pass; fills the ``grad_*`` arrays that are not empty.

    Args beyond ``forward``'s:
        slopes0: [B, H] slopes of the spikes of bin -1.   skip: bins may be skipped.
        out_*: the spikes of the forward pass.
        worth_change: [S2] G[k+1] - G[k] that the loss puts on each spike, G its value sensitivity.
        mark_worth: [S2] straight-through worth of each spike's existence, added to a.
        floor: [H] smallest slope per bin used in the jump.
        grad_trace [T, B, H], grad_last_current, grad_last_voltage [B, H]: from the loss.
        grad_weight [N, H], grad_recurrent [H, H]: added to.
        grad_coefficients: [4, H] with respect to s, c, m, threshold, added to (needs ``states``
            for the first three).
        grad_current: [T, B, H] = beta.   grad_values: [S] worth of one unit of each input event.
        grad_changes: [S] change of that worth from its bin to the next.
        grad_current0, grad_voltage0, grad_spikes0: [B, H].
        delays: None, or memory that holds the gradients of weights, in place of ``grad_weight``
            and ``grad_recurrent``, and of delays.
        work: a ``Workspace``.

    Returns:
        number of guarded slopes, largest absolute jump of a.
    """
    size, kind = len(s), s.dtype
    learned = states.size > 0
    longest = 0 if delays is None else delays.longest
    replayed = SEGMENT if learned else 0
    # Events of one kind in one sample.
    most = max(np.diff(counted[lo : hi + 1]).max(initial=0) for counted in (offsets, out_offsets))
    return _backward_samples(
        lo, hi, steps, bins, units, values, offsets, input_current, weight, recurrent,
        s, c, m, threshold, v_reset, reset, delayed,
        # None: what only some layers need is not compiled for the others.
        spikes0 if spikes0.size else None, slopes0, states if learned else None,
        skip and not learned,
        out_bins, out_units, out_slopes, out_offsets, worth_change, mark_worth, floor,
        grad_trace, grad_last_current, grad_last_voltage,
        grad_weight, grad_recurrent, grad_coefficients, grad_current, grad_values, grad_changes,
        grad_current0, grad_voltage0, grad_spikes0, delays,
        _for_blocks(learned, s, c, m, threshold), _powers(s, c, m),
        cache_aligned(3, size, kind),  # a: row k % 3 holds a[k]
        # beta: row k - begin, begin being the segment's first bin
        work.array(SEGMENT + 2 + longest, size + PAD, kind, zeros=False),
        np.empty((replayed, size), kind), np.empty((replayed, size), kind),  # (I, V) of a segment
        np.empty((3, size), kind), np.empty(size, np.int64),  # for the replay
        np.empty(size, kind), np.empty(size if recurrent.size else 0, kind),  # worth of spikes
        np.empty(max(len(weight), size) + 1, np.int64), np.empty(most, np.int32),  # for sorting
        np.empty(most if values.size else 0, kind),
    )  # fmt: skip
