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
from numba import njit

from .. import equations

RESET_NONE, RESET_SUBTRACT, RESET_ZERO, RESET_ZERO_ALL = 0, 1, 2, 3

_flow = njit(nogil=True, error_model="numpy")(equations.flow)
_adjoint_flow = njit(nogil=True, error_model="numpy")(equations.adjoint_flow)
_slope = njit(nogil=True, error_model="numpy")(equations.slope)
_guard = njit(nogil=True, error_model="numpy")(equations.guard)
_jump = njit(nogil=True, error_model="numpy")(equations.jump)

# Contraction to fused multiply-adds only: NaN and infinity keep their meaning, sums their order.
_jit = njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")

# Bins between two stored states, from which the backward pass replays the forward one.
SEGMENT = 256


@_jit
def _add_rows(total, rows, units, values, lo, hi):
    """total += sum of ``values[e] * rows[units[e]]`` over events lo..hi, four rows at a time."""
    size = total.shape[0]
    one = rows.dtype.type(1)
    weighted = values.shape[0] > 0
    e = lo
    while e + 4 <= hi:
        u0, u1, u2, u3 = units[e], units[e + 1], units[e + 2], units[e + 3]
        if weighted:
            x0, x1, x2, x3 = values[e], values[e + 1], values[e + 2], values[e + 3]
            for h in range(size):
                total[h] += (x0 * rows[u0, h] + x1 * rows[u1, h]) + (
                    x2 * rows[u2, h] + x3 * rows[u3, h]
                )
        else:
            for h in range(size):
                total[h] += (rows[u0, h] + rows[u1, h]) + (rows[u2, h] + rows[u3, h])
        e += 4
    while e < hi:
        u0 = units[e]
        x0 = values[e] if weighted else one
        for h in range(size):
            total[h] += x0 * rows[u0, h]
        e += 1


# Sums that may be re-ordered into vector lanes (the order is fixed once compiled).
_jit_sum = njit(nogil=True, cache=True, fastmath={"contract", "nsz", "reassoc"})


@_jit_sum
def _dot(x, y):
    total = x.dtype.type(0)
    for h in range(x.shape[0]):
        total += x[h] * y[h]
    return total


@_jit_sum
def _dot_change(x, later, now):
    """x . (later - now)"""
    total = x.dtype.type(0)
    for h in range(x.shape[0]):
        total += x[h] * (later[h] - now[h])
    return total


@_jit
def _add_scaled(total, scale, x):
    for h in range(total.shape[0]):
        total[h] += scale * x[h]


@_jit
def _powers(s, c, m, count):
    """The one-step map (s, c, m) composed with itself 2^j times, j < count: [count, 3, H]."""
    table = np.empty((count, 3, s.shape[0]), s.dtype)
    table[0, 0], table[0, 1], table[0, 2] = s, c, m
    for j in range(1, count):
        for h in range(s.shape[0]):
            s1, c1, m1 = table[j - 1, 0, h], table[j - 1, 1, h], table[j - 1, 2, h]
            table[j, 0, h] = s1 * s1
            table[j, 1, h] = (s1 + m1) * c1
            table[j, 2, h] = m1 * m1
    return table


@_jit
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


@_jit
def _skip_adjoint(beta, a, m, table, steps):
    """The same backwards: beta[k], a[k] from beta[k + steps], a[k + steps]."""
    j = 0
    while steps > 0:
        if steps & 1:
            for h in range(beta.shape[0]):
                beta[h], _ = _adjoint_flow(
                    beta[h], m[h] * a[h], table[j, 0, h], table[j, 2, h], table[j, 1, h]
                )
                a[h] *= table[j, 2, h]
        steps >>= 1
        j += 1


@_jit
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


@_jit
def _above(voltage, threshold, found):
    """Write the indices of the neurons above threshold into ``found``; how many they are."""
    block = 32  # few neurons spike in any one bin: count by blocks (vectorised), then look inside
    size = voltage.shape[0]
    count = 0
    for start in range(0, size, block):
        stop = min(start + block, size)
        fired = 0
        for h in range(start, stop):
            fired += voltage[h] > threshold[h]
        if fired > 0:
            for h in range(start, stop):
                if voltage[h] > threshold[h]:
                    found[count] = h
                    count += 1
    return count


@_jit
def _emit(
    k, fired, current, voltage, c, m, threshold, v_reset, reset, out_bins, out_units, out_slopes
):
    """Store the spikes of bin ``k`` and reset their neurons."""
    one = c.dtype.type(1)
    for j in range(fired.shape[0]):
        h = fired[j]
        out_bins[j] = k
        out_units[j] = h
        out_slopes[j] = _slope(c[h] * current[h], threshold[h], one - m[h])
        if reset == RESET_SUBTRACT:
            voltage[h] -= threshold[h] - v_reset[h]
        elif reset != RESET_NONE:
            voltage[h] = v_reset[h]


@_jit
def forward(
    lo, hi, steps, bins, units, values, offsets, input_current, weight, recurrent,
    s, c, m, threshold, v_reset, gain, reset, delayed, current0, voltage0, spikes0,
    last_current, last_voltage, trace, states,
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

    Returns:
        bins [S2], units [S2], slopes [S2], spikes per sample [hi - lo].
    """
    size = s.shape[0]
    out_bins = np.empty(1024, np.int32)
    out_units = np.empty(1024, np.int32)
    out_slopes = np.empty(1024, s.dtype)
    counts = np.zeros(hi - lo, np.int64)
    total = 0
    dense = input_current.size > 0
    record = trace.size > 0
    store = states.size > 0
    is_recurrent = recurrent.size > 0
    no_values = values[:0]
    table = _powers(s, c, m, 32)
    current = np.empty(size, s.dtype)
    voltage = np.empty(size, s.dtype)
    pending = np.empty(size, np.int32)  # units that spiked in the previous bin
    for b in range(lo, hi):
        current[:] = current0[b]
        voltage[:] = voltage0[b]
        num_pending = 0
        if spikes0.size > 0:
            for h in range(size):
                if spikes0[b, h] != 0:
                    pending[num_pending] = h
                    num_pending += 1
        begin = total
        event, end = offsets[b], offsets[b + 1]
        k = 0
        while k < steps:
            if store and k % SEGMENT == 0:
                states[b, k // SEGMENT, 0] = current
                states[b, k // SEGMENT, 1] = voltage
            if num_pending == 0 and not dense and not record:
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
            if event > first:
                _add_rows(current, weight, units, values, first, event)
            if dense:
                for h in range(size):
                    current[h] += input_current[k, b, h]
            if num_pending > 0:
                if is_recurrent:
                    _add_rows(current, recurrent, pending, no_values, 0, num_pending)
                if delayed and reset == RESET_ZERO:
                    for j in range(num_pending):
                        voltage[pending[j]] = v_reset[pending[j]]
            fired = 0
            for h in range(size):
                _, voltage[h] = _flow(current[h], voltage[h], s[h], m[h], c[h])
                fired += voltage[h] > threshold[h]
            if delayed and num_pending > 0 and reset in (RESET_SUBTRACT, RESET_ZERO_ALL):
                for j in range(num_pending):
                    h = pending[j]
                    fired -= voltage[h] > threshold[h]
                    if reset == RESET_SUBTRACT:
                        voltage[h] -= threshold[h] - v_reset[h]
                    else:
                        voltage[h] = v_reset[h]
                    fired += voltage[h] > threshold[h]
            num_pending = 0
            if fired > 0:
                if total + fired > out_bins.shape[0]:
                    room = max(2 * out_bins.shape[0], total + fired)
                    out_bins = _grown(out_bins, total, room)
                    out_units = _grown(out_units, total, room)
                    out_slopes = _grown(out_slopes, total, room)
                num_pending = _above(voltage, threshold, pending)
                _emit(
                    k, pending[:num_pending], current, voltage, c, m, threshold, v_reset,
                    reset if not delayed else RESET_NONE,
                    out_bins[total:], out_units[total:], out_slopes[total:],
                )  # fmt: skip
                total += num_pending
            if record:
                trace[k, b] = voltage
            if k == steps - 1:
                last_current[b] = current
                last_voltage[b] = voltage
            for h in range(size):
                current[h] *= s[h]
            k += 1
        counts[b - lo] = total - begin
    return out_bins[:total].copy(), out_units[:total].copy(), out_slopes[:total].copy(), counts


@_jit
def _grown(values, used, room):
    grown = np.empty(room, values.dtype)
    grown[:used] = values[:used]
    return grown


@_jit
def backward(
    lo, hi, steps, bins, units, values, offsets, input_current, weight, recurrent,
    s, c, m, threshold, v_reset, reset, delayed, spikes0, slopes0, states, skip,
    out_bins, out_units, out_slopes, out_offsets, worth_change, mark_worth, floor,
    grad_trace, grad_last_current, grad_last_voltage,
    grad_weight, grad_recurrent, grad_coefficients,
    grad_current, grad_values, grad_changes, grad_current0, grad_voltage0, grad_spikes0,
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

    Returns:
        number of guarded slopes, largest absolute jump of a.
    """
    size = s.shape[0]
    one = s.dtype.type(1)
    zero = s.dtype.type(0)
    dense = grad_current.size > 0
    traced = grad_trace.size > 0
    replay = states.size > 0
    is_recurrent = recurrent.size > 0
    weighted = values.shape[0] > 0
    may_skip = skip and not dense and not traced and not replay
    table = _powers(s, c, m, 32)
    a = np.zeros((3, size), s.dtype)  # row k % 3 holds a[k]
    beta = np.zeros((3, size), s.dtype)
    currents = np.empty((SEGMENT if replay else 0, size), s.dtype)
    voltages = np.empty((SEGMENT if replay else 0, size), s.dtype)
    guarded = 0
    largest = zero
    for b in range(lo, hi):
        a[:] = zero
        beta[:] = zero
        event = offsets[b + 1] - 1
        spike = out_offsets[b + 1] - 1
        first_event, first_spike = offsets[b], out_offsets[b]
        k = steps - 1
        while k >= 0:
            p, q, r = k % 3, (k + 1) % 3, (k + 2) % 3
            if replay and (k == steps - 1 or k % SEGMENT == SEGMENT - 1):
                _replay(
                    b, k - k % SEGMENT, k + 1, bins, units, values, offsets, input_current,
                    weight, recurrent, s, c, m, threshold, v_reset, reset, delayed, spikes0,
                    states, out_bins, out_units, out_offsets, currents, voltages,
                )  # fmt: skip
            if may_skip and k < steps - 1:
                # A spike's jump looks two bins ahead, so those are stepped.
                target = bins[event] if event >= first_event else 0
                if spike >= first_spike:
                    target = max(target, out_bins[spike] + 2)
                if k - target >= 2:
                    if q != (target + 1) % 3:
                        a[(target + 1) % 3] = a[q]
                        beta[(target + 1) % 3] = beta[q]
                    _skip_adjoint(
                        beta[(target + 1) % 3], a[(target + 1) % 3], m, table, k - target
                    )
                    k = target
                    continue
            for h in range(size):
                a[p, h] = m[h] * a[q, h]
            if traced:
                for h in range(size):
                    a[p, h] += grad_trace[k, b, h]
            if k == steps - 1:
                for h in range(size):
                    a[p, h] += grad_last_voltage[b, h]
            while spike >= first_spike and out_bins[spike] == k:
                n = out_units[spike]
                change = worth_change[spike]
                if is_recurrent:
                    change += _dot_change(recurrent[n], beta[r], beta[q])
                    _add_scaled(grad_recurrent[n], one, beta[q])
                after = a[p, n]
                if reset != RESET_NONE:
                    drop = threshold[n] - v_reset[n]
                    if delayed:
                        change -= drop * (a[r, n] - a[q, n])
                        grad_coefficients[3, n] -= a[q, n]
                    else:
                        later = m[n] * a[r, n]
                        if traced and k + 1 < steps:
                            later += grad_trace[k + 1, b, n]
                        if k + 2 == steps:
                            later += grad_last_voltage[b, n]
                        change -= drop * (later - after)
                        grad_coefficients[3, n] -= after
                steep, acted = _guard(out_slopes[spike], floor[n])
                guarded += acted
                before = _jump(after, steep, change)
                largest = max(largest, abs(before - after))
                grad_coefficients[3, n] -= before - after
                a[p, n] = before + mark_worth[spike]
                spike -= 1
            for h in range(size):
                beta[p, h], _ = _adjoint_flow(beta[q, h], a[p, h], s[h], m[h], c[h])
            if k == steps - 1:
                for h in range(size):
                    beta[p, h] += grad_last_current[b, h]
            if replay:
                j = k % SEGMENT
                for h in range(size):
                    grad_coefficients[0, h] += beta[q, h] * currents[j, h]
                    grad_coefficients[1, h] += a[p, h] * currents[j, h]
                    grad_coefficients[2, h] += a[p, h] * voltages[j, h]
            if dense:
                grad_current[k, b] = beta[p]
            while event >= first_event and bins[event] == k:
                n = units[event]
                if grad_weight.size > 0:
                    _add_scaled(grad_weight[n], values[event] if weighted else one, beta[p])
                if grad_values.size > 0:
                    grad_values[event] = _dot(weight[n], beta[p])
                if grad_changes.size > 0:
                    grad_changes[event] = _dot_change(weight[n], beta[q], beta[p])
                event -= 1
            k -= 1
        # Before bin 0: the row of bin 0 is 0, of bin 1 is 1.
        for h in range(size):
            grad_current0[b, h] = beta[0, h]
            grad_voltage0[b, h] = m[h] * a[0, h]
        if spikes0.size > 0:
            # The second half of the jump of spikes of bin -1: G[-1] goes back through spikes0,
            # G[0] through the state.
            for n in range(size):
                if spikes0[b, n] == 0:
                    continue
                worth_now, worth_next = zero, zero
                if is_recurrent:
                    worth_now += _dot(recurrent[n], beta[0])
                    worth_next += _dot(recurrent[n], beta[1])
                    _add_scaled(grad_recurrent[n], one, beta[0])
                if delayed and reset != RESET_NONE:
                    drop = threshold[n] - v_reset[n]
                    worth_now -= drop * a[0, n]
                    worth_next -= drop * a[1, n]
                    grad_coefficients[3, n] -= a[0, n]
                grad_spikes0[b, n] = worth_now
                if slopes0.size > 0:
                    steep, acted = _guard(slopes0[b, n], floor[n])
                    guarded += acted
                    grad_voltage0[b, n] -= worth_next / steep
                    grad_coefficients[3, n] += worth_next / steep
    return guarded, largest


@_jit
def _replay(
    b, begin, end, bins, units, values, offsets, input_current, weight, recurrent,
    s, c, m, threshold, v_reset, reset, delayed, spikes0,
    states, out_bins, out_units, out_offsets, currents, voltages,
):  # fmt: skip
    """The forward pass of bins begin..end with its spikes known: I and the V that enters each."""
    size = s.shape[0]
    no_values = values[:0]
    current = states[b, begin // SEGMENT, 0].copy()
    voltage = states[b, begin // SEGMENT, 1].copy()
    event = offsets[b] + np.searchsorted(bins[offsets[b] : offsets[b + 1]], begin)
    own_bins = out_bins[out_offsets[b] : out_offsets[b + 1]]
    spike = out_offsets[b] + np.searchsorted(own_bins, begin)
    previous = out_offsets[b] + np.searchsorted(own_bins, begin - 1)
    pending = out_units[previous:spike].copy()
    if begin == 0 and spikes0.size > 0:
        pending = np.flatnonzero(spikes0[b]).astype(np.int32)
    for k in range(begin, end):
        first = event
        while event < offsets[b + 1] and bins[event] == k:
            event += 1
        if event > first:
            _add_rows(current, weight, units, values, first, event)
        if input_current.size > 0:
            for h in range(size):
                current[h] += input_current[k, b, h]
        if recurrent.size > 0:
            _add_rows(current, recurrent, pending, no_values, 0, pending.shape[0])
        if delayed and reset == RESET_ZERO:
            for h in pending:
                voltage[h] = v_reset[h]
        currents[k - begin] = current
        voltages[k - begin] = voltage
        for h in range(size):
            current[h], voltage[h] = _flow(current[h], voltage[h], s[h], m[h], c[h])
        if delayed:
            for h in pending:
                if reset == RESET_SUBTRACT:
                    voltage[h] -= threshold[h] - v_reset[h]
                elif reset == RESET_ZERO_ALL:
                    voltage[h] = v_reset[h]
        first_spike = spike
        while spike < out_offsets[b + 1] and out_bins[spike] == k:
            h = out_units[spike]
            if not delayed and reset == RESET_SUBTRACT:
                voltage[h] -= threshold[h] - v_reset[h]
            elif not delayed and reset != RESET_NONE:
                voltage[h] = v_reset[h]
            spike += 1
        pending = out_units[first_spike:spike]
