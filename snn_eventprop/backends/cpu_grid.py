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

from .. import equations
from . import cpu_delays
from .by_unit import first_from, sort_by_unit
from .compile import cache_aligned, copy, equation, grown, inlined, kernel, sum_kernel
from .compile import index as _index
from .lanes import exceeding

RESET_NONE, RESET_SUBTRACT, RESET_ZERO, RESET_ZERO_ALL = 0, 1, 2, 3

_flow = equation(equations.flow)
_adjoint_flow = equation(equations.adjoint_flow)
_slope = equation(equations.slope)
_crossing_slope = equation(equations.crossing_slope)
_guard = equation(equations.guard)
_jump = equation(equations.jump)

# Bins between two stored states, from which the backward pass replays the forward one.
SEGMENT = 1024

# Numbers at the end of each row of beta that nobody uses: rows whose length is a power of two
# would share few places in the caches.
PAD = 16


@kernel
def _add_4(total, rows, r0, r1, r2, r3):
    for j in range(total.shape[0]):
        h = _index(j)
        total[h] += (rows[r0, h] + rows[r1, h]) + (rows[r2, h] + rows[r3, h])


@kernel
def _add_4_scaled(total, rows, r0, r1, r2, r3, x0, x1, x2, x3):
    for j in range(total.shape[0]):
        h = _index(j)
        total[h] += (x0 * rows[r0, h] + x1 * rows[r1, h]) + (x2 * rows[r2, h] + x3 * rows[r3, h])


@kernel
def _add_1_scaled(total, rows, r0, x0):
    for j in range(total.shape[0]):
        h = _index(j)
        total[h] += x0 * rows[r0, h]


@kernel
def _add_rows(total, rows, index, values, lo, hi):
    """total += sum of ``values[e] * rows[index[e]]`` over e in lo..hi.

    Four rows at a time, so that ``total`` is read and written once for four. No values: all one.
    """
    one, zero = rows.dtype.type(1), rows.dtype.type(0)
    weighted = values.shape[0] > 0
    e = lo
    while e + 4 <= hi:
        r0, r1 = _index(index[e]), _index(index[e + 1])
        r2, r3 = _index(index[e + 2]), _index(index[e + 3])
        if weighted:
            _add_4_scaled(
                total, rows, r0, r1, r2, r3,
                values[e], values[e + 1], values[e + 2], values[e + 3],
            )  # fmt: skip
        else:
            _add_4(total, rows, r0, r1, r2, r3)
        e += 4
    if e + 1 == hi:
        _add_1_scaled(total, rows, _index(index[e]), values[e] if weighted else one)
    elif e < hi:  # two or three: the last one counts once, and else nothing
        last = hi - 1
        x0 = values[e] if weighted else one
        x1 = values[e + 1] if weighted else one
        x2 = zero if last == e + 1 else (values[last] if weighted else one)
        _add_4_scaled(
            total, rows, _index(index[e]), _index(index[e + 1]), _index(index[last]),
            _index(index[last]), x0, x1, x2, zero,
        )  # fmt: skip


@sum_kernel
def _dot(x, y):
    total = x.dtype.type(0)
    for h in range(x.shape[0]):
        total += x[h] * y[h]
    return total


@sum_kernel
def _dot_rows(rows, index, lo, hi, x, out):
    """out[e] = rows[index[e]] . x for e in lo..hi, four rows at a time."""
    zero = x.dtype.type(0)
    e = lo
    while e + 4 <= hi:
        r0, r1 = _index(index[e]), _index(index[e + 1])
        r2, r3 = _index(index[e + 2]), _index(index[e + 3])
        t0, t1, t2, t3 = zero, zero, zero, zero
        for h in range(rows.shape[1]):
            t0 += rows[r0, h] * x[h]
            t1 += rows[r1, h] * x[h]
            t2 += rows[r2, h] * x[h]
            t3 += rows[r3, h] * x[h]
        out[e], out[e + 1], out[e + 2], out[e + 3] = t0, t1, t2, t3
        e += 4
    while e < hi:
        out[e] = _dot(rows[index[e]], x)
        e += 1


# Passes over all neurons.


@inlined
def _advance(current, voltage, drive, s, c, m):
    """(I, V) after one bin; ``drive`` receives c I of before, from which slopes are read."""
    for h in range(voltage.shape[0]):
        drive[h] = c[h] * current[h]
        current[h], voltage[h] = _flow(current[h], voltage[h], s[h], m[h], c[h])


@inlined
def _add(total, x):
    for h in range(min(total.shape[0], x.shape[0])):  # rows of beta are longer than others
        total[h] += x[h]


@inlined
def _product(out, x, y):
    for h in range(out.shape[0]):
        out[h] = x[h] * y[h]


@inlined
def _add_product(total, x, y):
    for h in range(total.shape[0]):
        total[h] += x[h] * y[h]


@inlined
def _retreat(beta, a, beta_later, a_later, s, c, m):
    """beta and a of a bin without spikes from those of the next one."""
    for h in range(a.shape[0]):
        before = m[h] * a_later[h]
        a[h] = before
        beta[h], _ = _adjoint_flow(beta_later[h], before, s[h], m[h], c[h])


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
def _emit(k, fired, drive, voltage, m, threshold, v_reset, reset, out_bins, out_units, out_slopes):
    """Store the spikes of bin ``k`` and reset their neurons."""
    one = m.dtype.type(1)
    for j in range(fired.shape[0]):
        h = fired[j]
        out_bins[j] = k
        out_units[j] = h
        out_slopes[j] = _crossing_slope(
            _slope(drive[h], threshold[h], one - m[h]), voltage[h], threshold[h]
        )
        if reset == RESET_SUBTRACT:
            voltage[h] -= threshold[h] - v_reset[h]
        elif reset != RESET_NONE:
            voltage[h] = v_reset[h]


@kernel
def _forward_samples(
    b, hi, total, steps, bins, units, values, offsets, input_current, weight, recurrent,
    s, c, m, threshold, v_reset, gain, reset, delayed, current0, voltage0, spikes0,
    last_current, last_voltage, trace, states, delays, table, current, voltage, drive, pending,
    out_bins, out_units, out_slopes, counts,
):  # fmt: skip
    """Samples ``b..hi``, after ``total`` spikes of those before.

    Returns the first sample that is not done, for want of room, and the spikes of those that are.
    """
    size = s.shape[0]
    dense = input_current.size > 0
    record = trace.size > 0
    store = states.size > 0
    is_recurrent = recurrent.size > 0
    may_skip = not dense and not record and _all_finite(gain)
    no_values = values[:0]
    while b < hi:
        copy(current, current0[b])
        copy(voltage, voltage0[b])
        num_pending = 0
        if spikes0.size > 0:
            for h in range(size):
                if spikes0[b, h] != 0:
                    pending[num_pending] = h
                    num_pending += 1
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
                copy(states[b, k // SEGMENT, 0], current)
                copy(states[b, k // SEGMENT, 1], voltage)
            if may_skip and num_pending == 0 and k > busy:
                target = bins[event] if event < end else steps - 1
                if store:
                    target = min(target, k - k % SEGMENT + SEGMENT)
                # The last bin is always stepped, so that its I is known before scaling by s.
                target = min(target, steps - 1)
                if target - k >= 2 and _all_stay_below(current, voltage, gain, threshold):
                    _skip_flow(current, voltage, table, target - k)
                    k = target
                    continue
            first = event
            while event < end and bins[event] == k:
                event += 1
            if delays is None:
                if event > first:
                    _add_rows(current, weight, units, values, first, event)
            else:
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
                    cpu_delays.take(current, delays, k, k % SEGMENT)
            if dense:
                _add(current, input_current[k, b])
            if num_pending > 0:
                if is_recurrent and delays is None:
                    _add_rows(current, recurrent, pending, no_values, 0, num_pending)
                if delayed and reset == RESET_ZERO:
                    for j in range(num_pending):
                        voltage[pending[j]] = v_reset[pending[j]]
            if k == steps - 1:
                copy(last_current[b], current)
            _advance(current, voltage, drive, s, c, m)
            if delayed:
                for j in range(num_pending):
                    h = pending[j]
                    if reset == RESET_SUBTRACT:
                        voltage[h] -= threshold[h] - v_reset[h]
                    elif reset == RESET_ZERO_ALL:
                        voltage[h] = v_reset[h]
            num_pending = exceeding(voltage, threshold, pending)
            if num_pending > 0:
                if total + count + num_pending > out_bins.shape[0]:
                    return b, total
                at = total + count
                _emit(
                    k, pending[:num_pending], drive, voltage, m, threshold, v_reset,
                    reset if not delayed else RESET_NONE,
                    out_bins[at:], out_units[at:], out_slopes[at:],
                )  # fmt: skip
                count += num_pending
                if delays is not None:
                    if is_recurrent:
                        cpu_delays.send(delays, recurrent, k, pending[:num_pending])
                        busy = max(busy, k + 1 + longest)
            if record:
                copy(trace[k, b], voltage)
            if k == steps - 1:
                copy(last_voltage[b], voltage)
            k += 1
        counts[b] = count
        total += count
        b += 1
    return b, total


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
    current, voltage, drive = cache_aligned(3, size, s.dtype)
    pending = np.empty(size + 1, np.int64)  # units that spiked in the previous bin
    b, total = lo, 0
    while True:
        b, total = _forward_samples(
            b, hi, total, steps, bins, units, values, offsets, input_current, weight, recurrent,
            s, c, m, threshold, v_reset, gain, reset, delayed, current0, voltage0, spikes0,
            last_current, last_voltage, trace, states, delays, table,
            current, voltage, drive, pending, *spikes, counts,
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
def _gather(grad_rows, bins, units, values, lo, hi, begin, beta, place, rows, scales):
    """grad_rows[units[e]] += values[e] * beta[bins[e] - begin] for events lo..hi.

    Sorted by unit, so that each row of the gradient is written once for up to four events.
    ``place`` [inputs + 1], ``rows`` and ``scales`` [hi - lo] are for work.
    """
    inputs = grad_rows.shape[0]
    sort_by_unit(inputs, bins, units, values, lo, hi, begin, place, rows, scales)
    used = scales if values.shape[0] > 0 else values
    first = 0
    for n in range(inputs):
        if place[n] > first:
            _add_rows(grad_rows[n], beta, rows, used, first, place[n])
            first = place[n]


@kernel
def _worth_of_events(
    grad_values, grad_changes, weight, bins, units, lo, hi, begin, beta, change_of_beta
):
    """What one unit of each input event is worth, and how that changes to the next bin."""
    if grad_values.size == 0 and grad_changes.size == 0:
        return
    e = lo
    while e < hi:
        first = e
        while e < hi and bins[e] == bins[first]:
            e += 1
        row = bins[first] - begin
        if grad_values.size > 0:
            _dot_rows(weight, units, first, e, beta[row], grad_values)
        if grad_changes.size > 0:
            _difference(change_of_beta, beta[row + 1], beta[row])
            _dot_rows(weight, units, first, e, change_of_beta, grad_changes)


@inlined
def _replay(
    b, begin, end, bins, units, values, offsets, input_current, weight, recurrent,
    s, c, m, threshold, v_reset, reset, delayed, spikes0,
    states, out_bins, out_units, out_offsets, currents, voltages, state, pending, delays,
):  # fmt: skip
    """The forward pass of bins begin..end with its spikes known: I and the V that enters each.

    ``state`` [3, H] and ``pending`` [H] are for work.
    """
    size = s.shape[0]
    no_values = values[:0]
    current, voltage, drive = state[0], state[1], state[2]
    copy(current, states[b, begin // SEGMENT, 0])
    copy(voltage, states[b, begin // SEGMENT, 1])
    event = first_from(bins, offsets[b], offsets[b + 1], begin)
    spike = first_from(out_bins, out_offsets[b], out_offsets[b + 1], begin)
    num_pending = 0
    if begin == 0 and spikes0.size > 0:
        for h in range(size):
            if spikes0[b, h] != 0:
                pending[num_pending] = h
                num_pending += 1
    for e in range(first_from(out_bins, out_offsets[b], spike, begin - 1), spike):
        pending[num_pending] = out_units[e]
        num_pending += 1
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
        if delays is None:
            if event > first:
                _add_rows(current, weight, units, values, first, event)
        else:
            cpu_delays.take(current, delays, k, k - begin)
        if input_current.size > 0:
            _add(current, input_current[k, b])
        if recurrent.size > 0 and delays is None:
            _add_rows(current, recurrent, pending, no_values, 0, num_pending)
        if delayed and reset == RESET_ZERO:
            for j in range(num_pending):
                voltage[pending[j]] = v_reset[pending[j]]
        copy(currents[k - begin], current)
        copy(voltages[k - begin], voltage)
        _advance(current, voltage, drive, s, c, m)
        if delayed:
            for j in range(num_pending):
                h = pending[j]
                if reset == RESET_SUBTRACT:
                    voltage[h] -= threshold[h] - v_reset[h]
                elif reset == RESET_ZERO_ALL:
                    voltage[h] = v_reset[h]
        num_pending = 0
        while spike < out_offsets[b + 1] and out_bins[spike] == k:
            h = out_units[spike]
            if not delayed and reset == RESET_SUBTRACT:
                voltage[h] -= threshold[h] - v_reset[h]
            elif not delayed and reset != RESET_NONE:
                voltage[h] = v_reset[h]
            pending[num_pending] = h
            num_pending += 1
            spike += 1
        if delays is not None:
            if recurrent.size > 0:
                cpu_delays.send(delays, recurrent, k, pending[:num_pending])


@kernel
def _backward_samples(
    lo, hi, steps, bins, units, values, offsets, input_current, weight, recurrent,
    s, c, m, threshold, v_reset, reset, delayed, spikes0, slopes0, states, skip,
    out_bins, out_units, out_slopes, out_offsets, worth_change, mark_worth, floor,
    grad_trace, grad_last_current, grad_last_voltage,
    grad_weight, grad_recurrent, grad_coefficients,
    grad_current, grad_values, grad_changes, grad_current0, grad_voltage0, grad_spikes0, delays,
    table, a, beta, currents, voltages, state, pending, change_of_beta, received,
    place, rows, scales,
):  # fmt: skip
    size = s.shape[0]
    zero = s.dtype.type(0)
    dense = grad_current.size > 0
    traced = grad_trace.size > 0
    replay = states.size > 0
    is_recurrent = recurrent.size > 0
    may_skip = skip and not dense and not traced and not replay
    guarded = 0
    largest = zero
    longest = 0 if delays is None else delays.longest
    for b in range(lo, hi):
        if delays is not None:
            cpu_delays.begin_backward(delays)
        a[:] = zero
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
            if replay:
                _replay(
                    b, begin, k + 1, bins, units, values, offsets, input_current,
                    weight, recurrent, s, c, m, threshold, v_reset, reset, delayed, spikes0,
                    states, out_bins, out_units, out_offsets, currents, voltages, state, pending,
                    delays,
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
                    _product(a[p], m, a[q])
                    if traced:
                        _add(a[p], grad_trace[k, b])
                    if k == steps - 1:
                        _add(a[p], grad_last_voltage[b])
                    _retreat_beta(beta[row], beta[row + 1], a[p], s, c, m)
                else:
                    _retreat(beta[row], a[p], beta[row + 1], a[q], s, c, m)
                earliest = spike
                if is_recurrent and spike >= first_spike and out_bins[spike] == k:
                    while earliest > first_spike and out_bins[earliest - 1] == k:
                        earliest -= 1
                    if delays is None:
                        _difference(change_of_beta, beta[row + 2], beta[row + 1])
                        _dot_rows(
                            recurrent, out_units[earliest:], 0, spike + 1 - earliest,
                            change_of_beta, received,
                        )  # fmt: skip
                    else:
                        cpu_delays.worth_of_spikes(
                            received, delays, recurrent, out_units, earliest, spike + 1, k
                        )
                while spike >= first_spike and out_bins[spike] == k:
                    n = out_units[spike]
                    change = worth_change[spike]
                    if is_recurrent:
                        change += received[spike - earliest]
                    after = a[p, n]
                    if reset != RESET_NONE:
                        drop = threshold[n] - v_reset[n]
                        change -= drop * (a[q, n] - after)
                        grad_coefficients[3, n] -= a[q, n] if delayed else after
                    steep, acted = _guard(out_slopes[spike], floor[n])
                    guarded += acted
                    before = _jump(after, steep, change)
                    largest = max(largest, abs(before - after))
                    grad_coefficients[3, n] -= before - after
                    a[p, n] = before + mark_worth[spike]
                    beta[row, n], _ = _adjoint_flow(beta[row + 1, n], a[p, n], s[n], m[n], c[n])
                    spike -= 1
                if k == steps - 1:
                    _add(beta[row], grad_last_current[b])
                if delays is not None:
                    cpu_delays.remember(delays, k, beta, row)
                if replay:
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
                    _gather(
                        grad_weight, bins, units, values, event + 1, last_event + 1, begin, beta,
                        place, rows, scales,
                    )  # fmt: skip
                if is_recurrent:  # spikes of bin k arrive in bin k + 1
                    _gather(
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
        if spikes0.size > 0:
            # What spikes of bin -1 are worth in bin 0 belongs to their jump. It goes back through
            # the state as ``snn_eventprop.step`` says; the part of it that the loss pays for the
            # spike directly is added by ``op.to_raster``.
            for n in range(size):
                if is_recurrent:
                    grad_spikes0[b, n] = _dot(recurrent[n], beta[0])
                if spikes0[b, n] == 0:
                    continue
                worth = zero
                drop = zero if reset == RESET_NONE else threshold[n] - v_reset[n]
                if is_recurrent:
                    worth += _dot(recurrent[n], beta[1])
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

    Returns:
        number of guarded slopes, largest absolute jump of a.
    """
    size, kind = len(s), s.dtype
    longest = 0 if delays is None else delays.longest
    replayed = SEGMENT if states.size else 0
    # Events of one kind in one sample.
    most = max(np.diff(counted[lo : hi + 1]).max(initial=0) for counted in (offsets, out_offsets))
    return _backward_samples(
        lo, hi, steps, bins, units, values, offsets, input_current, weight, recurrent,
        s, c, m, threshold, v_reset, reset, delayed, spikes0, slopes0, states, skip,
        out_bins, out_units, out_slopes, out_offsets, worth_change, mark_worth, floor,
        grad_trace, grad_last_current, grad_last_voltage,
        grad_weight, grad_recurrent, grad_coefficients, grad_current, grad_values, grad_changes,
        grad_current0, grad_voltage0, grad_spikes0, delays,
        _powers(s, c, m),
        cache_aligned(3, size, kind),  # a: row k % 3 holds a[k]
        # beta: row k - begin, begin being the segment's first bin
        cache_aligned(SEGMENT + 2 + longest, size + PAD, kind),
        np.empty((replayed, size), kind), np.empty((replayed, size), kind),  # (I, V) of a segment
        np.empty((3, size), kind), np.empty(size, np.int64),  # for the replay
        np.empty(size, kind), np.empty(size if recurrent.size else 0, kind),  # worth of spikes
        np.empty(max(len(weight), size) + 1, np.int64), np.empty(most, np.int32),  # for sorting
        np.empty(most if values.size else 0, kind),
    )  # fmt: skip
