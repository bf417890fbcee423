"""The forward pass of the grid solver on the CPU, made from a neuron and a synapse.

One bin is I <- I + X[k]; flow; spike where ``tested`` says so; reset; I <- s I, with X[k] what
arrives in bin k: weights of input events, and of the layer's own spikes of the bin before or
earlier. Work follows events and spikes: a stretch of bins without either, in which ``may_spike``
holds for nobody, is crossed by squaring the flow (``Neurons.powers``).
"""

from __future__ import annotations

import functools
from types import ModuleType

import numpy as np

from .blocks import scale
from .compile import copy, index, inlined, kernel_of
from .grid_passes import SEGMENT, resets, step_passes
from .neuron_code import neuron_code


@inlined
def _all_finite(values):
    finite = True
    for h in range(values.shape[0]):
        finite = finite and np.isfinite(values[h])
    return finite


@functools.cache
def powers_kernel(neuron: ModuleType):
    """Fills ``Neurons.powers`` from constants [P + 1, H]."""
    code = neuron_code(neuron)
    constants_of, twice = code.constants_of, code.twice
    powers_of, put_powers = code.powers_of, code.put_powers

    @kernel_of(neuron)
    def fill(powers, constants):
        for h in range(powers.shape[2]):
            put_powers(powers, 0, h, constants_of(constants, h))
            for j in range(1, powers.shape[0]):
                put_powers(powers, j, h, twice(powers_of(powers, j - 1, h)))

    return fill


@functools.cache
def forward_kernel(neuron: ModuleType, synapse: ModuleType, looks: bool):
    """``forward_samples`` of layers of such neurons behind such synapses.

    Args:
        looks: for peaks that nearly spike, in every bin: no bin is skipped.
    """
    code = neuron_code(neuron)
    constants_of, state_of, put_state = code.constants_of, code.state_of, code.put_state
    flow, may_spike, is_later = code.flow, code.may_spike, code.is_later
    kept_of_spike, put_kept, powers_of = code.kept_of_spike, code.put_kept, code.powers_of
    tested, kept_of_peak, entering_of = code.tested, code.kept_of_peak, code.adjoint_of
    _, step_and_fire, fire, step_and_look = step_passes(neuron)
    reset_before_flow, reset_after_flow, reset_at_spike = resets(neuron)
    direct, begin_sample, quiet = synapse.DIRECT, synapse.begin_sample, synapse.quiet
    drive, send = synapse.drive, synapse.send

    @inlined
    def all_stay_below(state, neurons):
        zero = state.dtype.type(0)
        able = 0
        for j in range(state.shape[1]):
            h = index(j)
            able += may_spike(
                state[index(0), h], state_of(state, h), neurons.gain[h],
                constants_of(neurons.constants, h), zero,
            )  # fmt: skip
        return able == 0

    @inlined
    def skip(state, powers, steps):
        """Cross bins without events."""
        j = 0
        while steps > 0:
            if steps & 1:
                for i in range(state.shape[1]):
                    h = index(i)
                    current, after = flow(
                        state[index(0), h], state_of(state, h), powers_of(powers, j, h)
                    )
                    state[index(0), h] = current
                    put_state(state, h, after)
            steps >>= 1
            j += 1

    @inlined
    def list_peaks(peaks, at, k, entering, neurons, found, count):
        """Write peaks of bin k from place ``at`` on."""
        for j in range(count):
            h = found[index(j)]
            e = index(at) + index(j)
            peaks.bins[e] = k
            peaks.units[e] = h
            put_kept(peaks.kept, e, kept_of_peak(
                entering_of(entering, h), constants_of(neurons.constants, h)
            ))  # fmt: skip

    @inlined
    def list_last_peaks(peaks, at, k, state, rise, neurons):
        """Membranes that still rise as the last bin, k, ends are at their peak. How many."""
        count = 0
        for j in range(state.shape[1]):
            h = index(j)
            constants = constants_of(neurons.constants, h)
            value, limit = tested(state_of(state, h), constants)
            if rise[h] > 0 and value <= limit and limit - value < neurons.width[h]:
                e = index(at) + index(count)
                peaks.bins[e] = k
                peaks.units[e] = h
                put_kept(peaks.kept, e, kept_of_peak(state_of(state, h), constants))
                count += 1
        return count

    @kernel_of(neuron, synapse, looks)
    def forward_samples(
        b, hi, total, total_peaks, steps, events, input_current, synapse, neurons, start, outputs,
        spikes, peaks, work,
    ):  # fmt: skip
        """Samples ``b..hi``, after ``total`` spikes of those before and ``total_peaks`` peaks.

        Returns the first sample that is not done, for want of room, and the spikes and peaks of
        those that are. ``offsets`` of both receive the numbers of each sample.
        """
        state, marks = work.state, work.marks
        senders, fired = work.senders, work.fired
        size, one = state.shape[1], neurons.blocks[-1]
        number = neurons.constants.dtype.type
        weight, recurrent = synapse.weight_rows, synapse.recurrent_rows
        rule, later = neurons.reset, is_later(neurons.reset)
        dense = input_current.size > 0
        record, store = outputs.trace.size > 0, outputs.states.size > 0
        may_skip = not dense and not record and not looks and _all_finite(neurons.gain)
        looking = work.peaks
        while b < hi:
            for j in range(state.shape[0]):
                copy(state[j], start.state[j, b])
            decay = one  # from what the current is to I at the start of the bin
            num_senders = 0
            if start.spikes.size > 0:
                for h in range(size):
                    if start.spikes[b, h] != 0:
                        senders[num_senders] = h
                        num_senders += 1
            count = count_peaks = 0
            if looks:
                looking.rise[:] = number(0)
            event, end = events.offsets[b], events.offsets[b + 1]
            begin_sample(synapse)
            k = 0
            while k < steps:
                begin = k - k % SEGMENT
                if store and k == begin:
                    kept = outputs.states[b, k // SEGMENT]
                    scale(kept[0], state[0], decay)
                    for j in range(1, state.shape[0]):
                        copy(kept[j], state[j])
                if may_skip and num_senders == 0 and quiet(synapse, k):
                    target = events.bins[event] if event < end else steps - 1
                    if store:
                        target = min(target, begin + SEGMENT)
                    # The last bin is always stepped, so that its I is known before scaling by s.
                    target = min(target, steps - 1)
                    if target - k >= 2:
                        scale(state[0], state[0], decay)
                        decay = one
                        if all_stay_below(state, neurons):
                            skip(state, neurons.powers, target - k)
                            k = target
                            continue
                first = event
                while event < end and events.bins[event] == k:
                    event += 1
                row = input_current[k, b] if dense else work.inflow[:0]
                inflow = drive(
                    synapse, work.inflow, row, k, begin, min(begin + SEGMENT, steps), events,
                    events.offsets[b], first, event, end,
                )  # fmt: skip
                if later:
                    reset_before_flow(state, neurons.constants, rule, senders, num_senders)
                of_step = (
                    state, neurons.blocks, decay,
                    weight, events.units, events.values, first, event if direct else first,
                    recurrent, senders,
                    num_senders if direct and recurrent.size > 0 else 0, inflow,
                )  # fmt: skip
                if looks:
                    num_fired, num_found = step_and_look(
                        of_step, marks, fired, looking, neurons.width
                    )
                    at = total_peaks + count_peaks
                    if at + num_found + size > peaks.bins.shape[0]:
                        return b, total, total_peaks
                    list_peaks(
                        peaks, at, k - 1, looking.entering, neurons, looking.found, num_found
                    )
                    count_peaks += num_found
                else:
                    num_fired = step_and_fire(of_step, marks, fired)
                decay = neurons.blocks[0]
                if later and num_senders > 0:
                    reset_after_flow(state, neurons.constants, rule, senders, num_senders)
                    num_fired = fire(state, neurons.blocks, marks, fired)
                if num_fired > 0:
                    at = total + count
                    if at + num_fired > spikes.bins.shape[0]:
                        return b, total, total_peaks
                    for j in range(num_fired):
                        h = fired[index(j)]
                        e = index(at) + index(j)
                        spikes.bins[e] = k
                        spikes.units[e] = h
                        put_kept(spikes.kept, e, kept_of_spike(
                            state[index(0), index(h)], state_of(state, h),
                            constants_of(neurons.constants, h),
                        ))  # fmt: skip
                        if looks:
                            looking.rise[h] = number(-1)
                    reset_at_spike(state, neurons.constants, rule, fired, num_fired)
                    count += num_fired
                    send(synapse, k, fired, num_fired)
                senders, fired = fired, senders
                num_senders = num_fired
                if record:
                    copy(outputs.trace[k, b], state[1])
                if k == steps - 1:
                    for j in range(state.shape[0]):
                        copy(outputs.last[j, b], state[j])
                    if looks:
                        count_peaks += list_last_peaks(
                            peaks, total_peaks + count_peaks, k, state, looking.rise, neurons
                        )
                k += 1
            spikes.offsets[b] = count
            total += count
            if looks:
                peaks.offsets[b] = count_peaks
                total_peaks += count_peaks
            b += 1
        return b, total, total_peaks

    return forward_samples
