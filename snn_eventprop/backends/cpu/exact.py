"""Continuous-time solver on the CPU: from event to event, Numba kernels over a range of samples.

Between events every neuron's (I, V) flows in closed form. After each event one pass over the
neurons moves them there, adds a row of weights and asks who could reach the threshold before the
next event: while I > V, V rises at a falling rate, so it stays below V + (I - V) gap / tau_mem.
Only those few are solved, in float64: the earliest crossing becomes the next event.

Only spikes are kept for the backward pass: time, neuron, slope, and how many input events came
before. Gradients of time constants need (I, V) again, which are replayed from states stored every
``SEGMENT`` events.

Over 400 lines: the backward pass reads what the forward pass writes, step for step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from ...neurons import lif
from ..binding import compiled
from ..exact_arrays import Spikes, States
from .coefficients import coefficients, fill_coefficients
from .compile import copy, grown, index, inlined, kernel, sum_kernel
from .lanes import exceeding
from .memory import cache_aligned

# Events between two stored states.
SEGMENT = 256

_lif = compiled(lif, inlined)
_flow, _adjoint_flow = _lif.flow, _lif.adjoint_flow
_crossing_bound, _spike_slope, _time_jump = _lif.crossing_bound, _lif.spike_slope, _lif.time_jump
_time_constant_gradients = _lif.time_constant_gradients
_next_crossing = compiled(lif, kernel).next_crossing
_SAME = lif.SAME


class Neurons(NamedTuple):
    """A population. Rates are inverse time constants, [H], or [1] where neurons share them."""

    rate_mem: np.ndarray  # float64, 1/s
    rate_syn: np.ndarray
    own_mem: np.ndarray  # the same in the type of the weights
    own_syn: np.ndarray
    fastest: float  # the largest rate
    threshold: np.ndarray  # [H]
    below: np.ndarray  # [H]; to exceed this is to reach the threshold
    v_reset: np.ndarray  # [H]
    floor: np.ndarray  # [H] smallest slope in the jump, 1/s


class GapWork(NamedTuple):
    """Coefficients of a gap, and what V stays below in the next one."""

    e_syn: np.ndarray  # as rates
    e_mem: np.ndarray
    psp: np.ndarray
    reach: np.ndarray
    bound: np.ndarray  # [H]


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
        i, state = _flow(
            current[h], (voltage[h],), (_at(e_syn, h), _at(psp, h), _at(e_mem, h))
        )
        i += rows[r, h]
        current[h] = i
        voltage[h] = state[0]
        bound[h] = _crossing_bound(i, state[0], _at(reach, h), zero)


@inlined
def _retreat(b, a, e_syn, e_mem, psp):
    for j in range(b.shape[0]):
        h = index(j)
        later, before = _adjoint_flow(
            b[h], (a[h],), (_at(e_syn, h), _at(psp, h), _at(e_mem, h))
        )
        b[h], a[h] = later, before[0]


@inlined
def _retreat_and_add(b, a, e_syn, e_mem, psp, rows, row):
    """Adjoint flow back over a gap, and b added to a row of gradients."""
    r = index(row)
    for j in range(b.shape[0]):
        h = index(j)
        later, before = _adjoint_flow(
            b[h], (a[h],), (_at(e_syn, h), _at(psp, h), _at(e_mem, h))
        )
        b[h], a[h] = later, before[0]
        rows[r, h] += later


@sum_kernel
def _sensitivity_rate(weights, b, a, rate_mem, rate_syn):
    total = b.dtype.type(0)
    for j in range(b.shape[0]):
        h = index(j)
        # lif.sensitivity_rate with the rates inverted once for all events
        total += weights[h] * (b[h] * _at(rate_syn, h) - a[h] * _at(rate_mem, h))
    return total


@inlined
def _rate_at_receivers(rows, row, b, a, rate_mem, rate_syn):
    """dL/dt of an event with this row of weights, at its receivers."""
    if rate_mem.shape[0] == 1:
        return _sensitivity_rate(rows[row], b, a, rate_mem[0], rate_syn[0])
    return _sensitivity_rate(rows[row], b, a, rate_mem, rate_syn)


@kernel
def _pick(values, h):
    """The entry of neuron h of a vector that has one entry for all, or one for each."""
    return values[h] if values.shape[0] > 1 else values[0]


@kernel
def _earliest(current, voltage, gap, neurons, found, count):
    """Earliest crossing within ``gap`` s among the neurons ``found[:count]``.

    Returns its time from now and how many cross there: they are moved to the front of ``found``.
    """
    threshold, rate_mem, rate_syn = neurons.threshold, neurons.rate_mem, neurons.rate_syn
    best = gap
    crossing = 0
    for j in range(count):
        h = found[j]
        theta = np.float64(threshold[h])
        i, v = np.float64(current[h]), np.float64(voltage[h])
        mem = _pick(rate_mem, h)
        if i <= v or v + (i - v) * best * mem < theta - _SAME * theta:
            continue  # V falls, or rises too little
        t = _next_crossing(i, v, best, theta, mem, _pick(rate_syn, h))
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
def _move(gap, next_gap, current, voltage, rows, row, neurons, work):
    """``_arrive`` after ``gap`` s, with ``next_gap`` s to the next event."""
    e_syn, e_mem, psp, reach, bound = work
    rate_mem = neurons.rate_mem
    fill_coefficients(gap, rate_mem, neurons.rate_syn, neurons.fastest, e_syn, e_mem, psp)
    for j in range(reach.shape[0]):
        reach[j] = next_gap * rate_mem[j]
    if reach.shape[0] == 1:
        _arrive(current, voltage, e_syn[0], e_mem[0], psp[0], rows, row, reach[0], bound)
    else:
        _arrive(current, voltage, e_syn, e_mem, psp, rows, row, reach, bound)


@inlined
def _forward_sample(
    sample, events, duration, weights, neurons, limit, keep, memory, begins, spikes, states
):
    """One sample. Returns its spikes and states; -1 for what it has no room to store.

    Args:
        sample: its first input event, and the end.
        memory: I [H], V [H], ``GapWork`` and indices of neurons [H + 1].
        begins: place of its first spike, and of its first state.
    """
    first, end = sample
    first_spike, first_state = begins
    current, voltage, work, found = memory
    times, units = events.times, events.units
    rate_mem, v_reset = neurons.rate_mem, neurons.v_reset
    reach, bound = work.reach, work.bound
    current[:] = 0
    voltage[:] = 0
    bound[:] = 0
    event, total, stored = first, 0, 0
    now = 0.0
    zero = weights.input.dtype.type(0)
    is_recurrent = weights.recurrent.shape[0] == neurons.threshold.shape[0]
    while True:
        place = event - first + total
        if keep and place >= stored * SEGMENT:
            at = first_state + stored
            if at == states.states.shape[0]:
                return total, -1
            copy(states.states[at, 0], current)
            copy(states.states[at, 1], voltage)
            states.places[at] = place
            stored += 1
        until = np.float64(times[event]) if event < end else duration
        gap = max(until - now, 0.0)
        crossing = 0
        t = gap
        if gap > 0.0:
            able = exceeding(bound, neurons.below, found)  # may cross before the next input event
            t, crossing = _earliest(current, voltage, gap, neurons, found, able)
        if crossing == 0:
            if event == end:
                return total, stored
            following = np.float64(times[event + 1]) if event + 1 < end else duration
            _move(
                gap, max(following - until, 0.0), current, voltage, weights.input, units[event],
                neurons, work,
            )  # fmt: skip
            now = until
            event += 1
            continue
        now += t
        to = first_spike + total
        if to + crossing > spikes.times.shape[0]:
            return -1, stored
        for j in range(crossing):
            n = found[j]
            mem = _pick(rate_mem, n)
            decay, _, _ = coefficients(t, mem, _pick(neurons.rate_syn, n))
            spikes.times[to + j] = now
            spikes.units[to + j] = n
            spikes.slopes[to + j] = _spike_slope(decay * current[n], neurons.threshold[n], mem)
            spikes.before[to + j] = event - first
            voltage[n] = -np.inf  # out of the way of the test, until its reset below
        for j in range(crossing):
            _move(
                t if j == 0 else 0.0, max(until - now, 0.0), current, voltage, weights.recurrent,
                found[j] if is_recurrent else 0, neurons, work,
            )  # fmt: skip
        for j in range(crossing):
            n = found[j]
            voltage[n] = v_reset[n]
            bound[n] = _crossing_bound(current[n], v_reset[n], _pick(reach, n), zero)
        total += crossing
        if total > limit:
            spikes.times[first_spike] = now  # for the error: these spikes go nowhere
            return total, stored


@kernel
def _forward_samples(
    b, hi, total, stored, events, duration, weights, neurons, limit, keep, memory, spikes, states,
    stopped,
):  # fmt: skip
    """Samples ``b..hi``, after ``total`` spikes and ``stored`` states of those before.

    Returns the first sample that is not done, for want of room or as it was stopped, and the
    spikes and states of those that are.
    """
    while b < hi:
        sample = events.offsets[b], events.offsets[b + 1]
        fired, kept = _forward_sample(
            sample, events, duration, weights, neurons, limit, keep, memory,
            (total, stored), spikes, states,
        )  # fmt: skip
        if fired < 0 or kept < 0:
            break
        if fired > limit:
            stopped[0], stopped[1] = b, spikes.times[total]
            break
        spikes.offsets[b] = fired
        states.offsets[b] = kept
        total += fired
        stored += kept
        b += 1
    return b, total, stored


def population(rate_mem, rate_syn, threshold, v_reset, floor):
    """``Neurons``; rates are float64, [H] or [1]."""
    dtype = threshold.dtype
    return Neurons(
        rate_mem, rate_syn, rate_mem.astype(dtype), rate_syn.astype(dtype),
        max(rate_mem.max(), rate_syn.max()), threshold,
        np.nextafter(threshold, -dtype.type(np.inf)), v_reset, floor,
    )  # fmt: skip


def forward(lo, hi, events, duration, weights, neurons, limit, keep):
    """Samples ``lo..hi``: spikes out, in order of sample and time.

    Args:
        limit: spikes of one sample at which to give up.
        keep: store states for ``backward``.

    Returns:
        the first four fields of ``Spikes``, spikes per sample [hi - lo], the first two fields of
        ``States``, states per sample [hi - lo]; and the first sample that exceeds the limit, and
        the time, [2]; there is none where that is negative.
    """
    size, dtype = len(neurons.threshold), weights.input.dtype
    # Room that is not used is never touched, and a sample that finds too little starts again.
    room = 1024 + 32 * size * (hi - lo)
    kinds = np.float64, np.int64, dtype, np.int32
    spikes = [np.empty(room, kind) for kind in kinds]
    count = int(events.offsets[hi] - events.offsets[lo])
    keepable = ((count + 32 * size * (hi - lo)) // SEGMENT + hi - lo) if keep else 0
    states = [np.empty((keepable, 2, size), dtype), np.empty(keepable, np.int64)]
    counts, state_counts = np.zeros((2, len(events.offsets)), np.int64)
    stopped = np.full(2, -1.0)
    # Rounding of the membrane shows in the times of spikes: it is kept in float64.
    current, voltage = cache_aligned(2, size, np.float64)
    work = GapWork._make((*np.empty((4, len(neurons.rate_mem))), np.empty(size, dtype)))
    memory = current, voltage, work, np.empty(size + 1, np.int64)
    b, total, stored = lo, 0, 0
    while True:
        b, total, stored = _forward_samples(
            b, hi, total, stored, events, duration, weights, neurons, limit, keep, memory,
            Spikes._make((*spikes, counts)), States._make((*states, state_counts)), stopped,
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
def _add_constants(gradients, b, a, current, voltage, gap, rates, falls):
    """Gradients of the time constants over one gap: (I, V) at its start, (b, a) at its end."""
    rate_mem, rate_syn = rates
    e_syn, e_mem = falls
    for j in range(b.shape[0]):
        h = index(j)
        of_mem, of_syn = _time_constant_gradients(
            b[h], a[h], np.float64(current[h]), np.float64(voltage[h]), gap,
            np.float64(_at(e_syn, h)), np.float64(_at(e_mem, h)),
            1.0 / _at(rate_mem, h), 1.0 / _at(rate_syn, h),
        )  # fmt: skip
        gradients.tau_mem[h] += of_mem
        gradients.tau_syn[h] += of_syn


@kernel
def _is_spike(event, spike, first_event, first_spike, before):
    """Whether the later of input event ``event`` and spike ``spike`` is the spike.

    ``before`` counts the input events of the sample before each spike.
    """
    return spike >= first_spike and before[spike] > event - first_event


@inlined
def _replay(at, stop, begins, end_spike, now, events, spikes, weights, neurons, work, rows):
    """The forward pass with its spikes known, ``stop`` events.

    Args:
        at: the first input event and the first spike.   begins: those of the sample.
        rows: I and V; row 0 holds the state to start from, row r + 1 receives the state after the
            r-th event.
    """
    event, spike = at
    first_event, _ = begins
    currents, voltages = rows
    is_recurrent = weights.recurrent.shape[0] == neurons.v_reset.shape[0]
    for row in range(1, stop + 1):
        copy(currents[row], currents[row - 1])
        copy(voltages[row], voltages[row - 1])
        fires = spike < end_spike and spikes.before[spike] <= event - first_event
        then = spikes.times[spike] if fires else np.float64(events.times[event])
        gap = max(then - now, 0.0)
        now = then
        if fires:
            n = spikes.units[spike]
            _move(
                gap, 0.0, currents[row], voltages[row], weights.recurrent,
                n if is_recurrent else 0, neurons, work,
            )  # fmt: skip
            voltages[row, n] = neurons.v_reset[n]
            spike += 1
        else:
            _move(
                gap, 0.0, currents[row], voltages[row], weights.input, events.units[event],
                neurons, work,
            )  # fmt: skip
            event += 1


@kernel
def _backward_samples(
    lo, hi, events, weights, neurons, spikes, states, upstream, grad_weights, gradients, work,
    adjoint, rows,
):  # fmt: skip
    size = neurons.threshold.shape[0]
    zero = weights.input.dtype.type(0)
    b, a = adjoint
    currents, voltages = rows
    e_syn, e_mem, psp = work.e_syn, work.e_mem, work.psp
    rate_mem, rate_syn = neurons.rate_mem, neurons.rate_syn
    mems, syns, fastest = neurons.own_mem, neurons.own_syn, neurons.fastest
    shared = rate_mem.shape[0] == 1
    is_recurrent = weights.recurrent.shape[0] == size
    replays = gradients.tau_mem.shape[0] > 0
    guarded = 0
    largest = 0.0
    for sample in range(lo, hi):
        b[:] = zero
        a[:] = zero
        first_event, first_spike = events.offsets[sample], spikes.offsets[sample]
        end_spike = spikes.offsets[sample + 1]
        spike = end_spike - 1
        if spike < first_spike:
            continue
        # Input that came after the last spike has no adjoint.
        event = first_event + spikes.before[spike] - 1
        later = spikes.times[spike]
        state = states.offsets[sample + 1]  # states from here on have been replayed from
        while event >= first_event or spike >= first_spike:
            place = event - first_event + spike - first_spike + 1
            if replays and (state == states.offsets[sample + 1] or place < states.places[state]):
                state -= 1
                while states.places[state] > place:
                    state -= 1
                e, s = event, spike
                for _ in range(place - states.places[state] + 1):
                    if _is_spike(e, s, first_event, first_spike, spikes.before):
                        s -= 1
                    else:
                        e -= 1
                now = np.float64(events.times[e]) if e >= first_event else 0.0
                if s >= first_spike:
                    now = max(now, spikes.times[s])
                copy(currents[0], states.states[state, 0])
                copy(voltages[0], states.states[state, 1])
                _replay(
                    (e + 1, s + 1), place - states.places[state] + 1, (first_event, first_spike),
                    end_spike, now, events, spikes, weights, neurons, work, rows,
                )  # fmt: skip
            fires = _is_spike(event, spike, first_event, first_spike, spikes.before)
            at = spikes.times[spike] if fires else np.float64(events.times[event])
            gap = max(later - at, 0.0)
            later = at
            fill_coefficients(gap, rate_mem, rate_syn, fastest, e_syn, e_mem, psp)
            if replays and gap > 0.0:
                row = place - states.places[state] + 1
                if shared:
                    _add_constants(
                        gradients, b, a, currents[row], voltages[row], gap,
                        (rate_mem[0], rate_syn[0]), (e_syn[0], e_mem[0]),
                    )  # fmt: skip
                else:
                    _add_constants(
                        gradients, b, a, currents[row], voltages[row], gap, (rate_mem, rate_syn),
                        (e_syn, e_mem),
                    )  # fmt: skip
            if not fires:
                unit = events.units[event]
                if shared:
                    _retreat_and_add(b, a, e_syn[0], e_mem[0], psp[0], grad_weights.input, unit)
                else:
                    _retreat_and_add(b, a, e_syn, e_mem, psp, grad_weights.input, unit)
                if gradients.times.shape[0] > 0:
                    gradients.times[event] = _rate_at_receivers(
                        weights.input, unit, b, a, mems, syns
                    )
                event -= 1
                continue
            n = spikes.units[spike]
            rate = upstream.times[spike]
            if is_recurrent:
                if shared:
                    _retreat_and_add(b, a, e_syn[0], e_mem[0], psp[0], grad_weights.recurrent, n)
                else:
                    _retreat_and_add(b, a, e_syn, e_mem, psp, grad_weights.recurrent, n)
                rate += _rate_at_receivers(weights.recurrent, n, b, a, mems, syns)
            elif shared:
                _retreat(b, a, e_syn[0], e_mem[0], psp[0])
            else:
                _retreat(b, a, e_syn, e_mem, psp)
            before, of_threshold, acted, moved = _time_jump(
                a[n], rate, spikes.slopes[spike], neurons.floor[n], neurons.threshold[n],
                neurons.v_reset[n], _pick(mems, n),
            )  # fmt: skip
            guarded += acted
            largest = max(largest, np.float64(moved))
            gradients.threshold[n] += of_threshold
            a[n] = before + upstream.marks[spike]
            spike -= 1
    return guarded, largest


def backward(
    lo, hi, events, weights, neurons, spikes, states, upstream, grad_weights, gradients
):
    """Samples ``lo..hi`` of the adjoint pass; fills the gradients that are not absent.

    Returns:
        number of guarded slopes, largest absolute jump of a.
    """
    size, dtype = len(neurons.threshold), weights.input.dtype
    b, a, bound = cache_aligned(3, size, dtype)
    # A state may be stored late, by the neurons that cross together.
    rows = SEGMENT + size + 1 if len(gradients.tau_mem) else 0
    work = GapWork._make((*np.empty((4, len(neurons.rate_mem)), dtype), bound))
    return _backward_samples(
        lo, hi, events, weights, neurons, spikes, states, upstream, grad_weights, gradients, work,
        (b, a), tuple(np.empty((2, rows, size), dtype)),
    )  # fmt: skip
