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

from .blocks import plus_rows, plus_scaled_rows, scale
from .compile import copy, index, inlined, kernel_of
from .event_sort import first_from
from .lanes import constant, each_block, list_marked, load, load_row, mark_above, store_row
from .neuron_code import neuron_code

# Bins between two stored states, from which the backward pass replays the forward one.
SEGMENT = 512


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
def step_passes(neuron: ModuleType):
    """Passes over all neurons of one bin: ``step``, ``step_and_fire``, ``fire``.

    They take a tuple of

        state: [S, H], written.   blocks: of ``Neurons``.
        decay: s or 1, what the current is multiplied by.
        weight, units, values, first, last: input events first..last.
        recurrent, senders, count: spikes of the bin before.
        inflow: [H] added to I, or absent.
    """
    code = neuron_code(neuron)
    load_state, store_state, constants_at = code.load_state, code.store_state, code.constants_at
    flow, tested = code.flow, code.tested

    @inlined
    def stepped(at, width, arguments):
        (
            state, blocks, decay, weight, units, values, first, last,
            recurrent, senders, count, inflow,
        ) = arguments  # fmt: skip
        current = load_row(state, index(0), at, width) * constant(decay, at, width)
        current = plus_scaled_rows(current, weight, units, values, first, last, at, width)
        current = plus_rows(current, recurrent, senders, 0, count, at, width)
        if inflow.shape[0] > 0:
            current = current + load(inflow, at, width)
        _, after = flow(current, load_state(state, at, width), constants_at(blocks, at, width))
        store_row(state, index(0), at, current)
        store_state(state, at, after)
        return after

    @inlined
    def step_block(at, width, arguments):
        stepped(at, width, arguments)

    @inlined
    def step(arguments):
        """One bin, without its spikes."""
        each_block(step_block, arguments[0].shape[1], arguments)

    @inlined
    def step_and_mark_block(at, width, arguments):
        of_step, marks = arguments
        value, limit = tested(
            stepped(at, width, of_step), constants_at(of_step[1], at, width)
        )
        mark_above(value, limit, at, marks)

    @inlined
    def step_and_fire(arguments, marks, fired):
        """``step``; neurons that spike then go into ``fired``. Returns how many.

        ``marks`` and ``fired`` are as in ``lanes.list_marked``.
        """
        each_block(step_and_mark_block, arguments[0].shape[1], (arguments, marks))
        return list_marked(marks, fired)

    @inlined
    def mark_block(at, width, arguments):
        state, blocks, marks = arguments
        value, limit = tested(load_state(state, at, width), constants_at(blocks, at, width))
        mark_above(value, limit, at, marks)

    @inlined
    def fire(state, blocks, marks, fired):
        """Neurons whose state is past the threshold go into ``fired``. Returns how many."""
        each_block(mark_block, state.shape[1], (state, blocks, marks))
        return list_marked(marks, fired)

    return step, step_and_fire, fire


@functools.cache
def resets(neuron: ModuleType):
    """``reset(state, constants, rule, units, count)`` of listed neurons, one for each moment:
    before the flow of the next bin, after it, and at the spike."""
    code = neuron_code(neuron)
    constants_of, state_of, put_state = code.constants_of, code.state_of, code.put_state

    def made(rule_of_neuron):
        @inlined
        def reset(state, constants, rule, units, count):
            for j in range(count):
                h = units[index(j)]
                n = constants_of(constants, h)
                put_state(state, h, rule_of_neuron(state_of(state, h), n, rule))

        return reset

    return (
        made(code.reset_before_flow), made(code.reset_after_flow), made(code.reset_at_spike),
    )  # fmt: skip


@functools.cache
def forward_kernel(neuron: ModuleType, synapse: ModuleType):
    """``forward_samples`` of layers of such neurons behind such synapses."""
    code = neuron_code(neuron)
    constants_of, state_of, put_state = code.constants_of, code.state_of, code.put_state
    flow, may_spike, is_later = code.flow, code.may_spike, code.is_later
    kept_of_spike, put_kept, powers_of = code.kept_of_spike, code.put_kept, code.powers_of
    _, step_and_fire, fire = step_passes(neuron)
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

    @kernel_of(neuron, synapse)
    def forward_samples(
        b, hi, total, steps, events, input_current, synapse, neurons, start, outputs, spikes, work
    ):
        """Samples ``b..hi``, after ``total`` spikes of those before.

        Returns the first sample that is not done, for want of room, and the spikes of those that
        are. ``spikes.offsets`` receives the spikes of each sample.
        """
        state, marks = work.state, work.marks
        senders, fired = work.senders, work.fired
        size, one = state.shape[1], neurons.blocks[-1]
        weight, recurrent = synapse.weight_rows, synapse.recurrent_rows
        rule, later = neurons.reset, is_later(neurons.reset)
        dense = input_current.size > 0
        record, store = outputs.trace.size > 0, outputs.states.size > 0
        may_skip = not dense and not record and _all_finite(neurons.gain)
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
            count = 0
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
                num_fired = step_and_fire(
                    (
                        state, neurons.blocks, decay,
                        weight, events.units, events.values, first, event if direct else first,
                        recurrent, senders,
                        num_senders if direct and recurrent.size > 0 else 0, inflow,
                    ),
                    marks, fired,
                )  # fmt: skip
                decay = neurons.blocks[0]
                if later and num_senders > 0:
                    reset_after_flow(state, neurons.constants, rule, senders, num_senders)
                    num_fired = fire(state, neurons.blocks, marks, fired)
                if num_fired > 0:
                    at = total + count
                    if at + num_fired > spikes.bins.shape[0]:
                        return b, total
                    for j in range(num_fired):
                        h = fired[index(j)]
                        e = index(at) + index(j)
                        spikes.bins[e] = k
                        spikes.units[e] = h
                        put_kept(spikes.kept, e, kept_of_spike(
                            state[index(0), index(h)], state_of(state, h),
                            constants_of(neurons.constants, h),
                        ))  # fmt: skip
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
                k += 1
            spikes.offsets[b] = count
            total += count
            b += 1
        return b, total

    return forward_samples


@functools.cache
def replay_pass(neuron: ModuleType, synapse: ModuleType):
    """``replay``: bins of one segment again, with their spikes known."""
    step, _, _ = step_passes(neuron)
    reset_before_flow, reset_after_flow, reset_at_spike = resets(neuron)
    direct, resume, drive, send = synapse.DIRECT, synapse.resume, synapse.drive, synapse.send

    @inlined
    def replay(
        b, begin, end, events, input_current, synapse, neurons, spikes0, states, spikes, work
    ):
        """I of bins begin..end, and the state that enters the flow of each, into ``work``."""
        of_forward = work.replay
        state, senders = of_forward.state, of_forward.senders
        weight, recurrent = synapse.weight_rows, synapse.recurrent_rows
        rule, dense = neurons.reset, input_current.size > 0
        decay = neurons.blocks[-1]
        for j in range(state.shape[0]):
            copy(state[j], states[b, begin // SEGMENT, j])
        lo, stop = events.offsets[b], events.offsets[b + 1]
        event = first_from(events.bins, lo, stop, begin)
        first_spike, end_spike = spikes.offsets[b], spikes.offsets[b + 1]
        spike = first_from(spikes.bins, first_spike, end_spike, begin)
        num_senders = 0
        if spikes0.size > 0 and begin == 0:
            for h in range(state.shape[1]):
                if spikes0[b, h] != 0:
                    senders[num_senders] = h
                    num_senders += 1
        for e in range(first_from(spikes.bins, first_spike, spike, begin - 1), spike):
            senders[num_senders] = spikes.units[e]
            num_senders += 1
        resume(synapse, begin, spikes, first_spike, spike)
        for k in range(begin, end):
            first = event
            while event < stop and events.bins[event] == k:
                event += 1
            row = input_current[k, b] if dense else of_forward.inflow[:0]
            inflow = drive(
                synapse, of_forward.inflow, row, k, begin, end, events, lo, first, event, stop
            )
            reset_before_flow(state, neurons.constants, rule, senders, num_senders)
            for j in range(1, state.shape[0]):
                copy(work.entering[k - begin, j - 1], state[j])
            step((
                state, neurons.blocks, decay,
                weight, events.units, events.values, first, event if direct else first,
                recurrent, senders, num_senders if direct and recurrent.size > 0 else 0, inflow,
            ))  # fmt: skip
            decay = neurons.blocks[0]
            copy(work.currents[k - begin], state[0])
            reset_after_flow(state, neurons.constants, rule, senders, num_senders)
            num_senders = 0
            while spike < end_spike and spikes.bins[spike] == k:
                senders[num_senders] = spikes.units[spike]
                num_senders += 1
                spike += 1
            reset_at_spike(state, neurons.constants, rule, senders, num_senders)
            send(synapse, k, senders, num_senders)

    return replay
