"""Passes of the grid solver over all neurons of one bin, on the CPU, and their replay."""

from __future__ import annotations

import functools
from types import ModuleType

from .blocks import plus_rows, plus_scaled_rows
from .compile import copy, index, inlined
from .event_sort import first_from
from .lanes import (
    bits_above,
    constant,
    each_block,
    list_marked,
    load,
    load_row,
    mark,
    mark_above,
    spread,
    store,
    store_row,
)
from .neuron_code import neuron_code

# Bins between two stored states, from which the backward pass replays the forward one.
SEGMENT = 512


@functools.cache
def step_passes(neuron: ModuleType):
    """Passes over all neurons of one bin: ``step``, ``step_and_fire``, ``fire``, and
    ``step_and_look``, which finds peaks as well.

    They take a tuple of

        state: [S, H], written.   blocks: of ``Neurons``.
        decay: s or 1, what the current is multiplied by.
        weight, units, values, first, last: input events first..last.
        recurrent, senders, count: spikes of the bin before.
        inflow: [H] added to I, or absent.
    """
    code = neuron_code(neuron)
    load_state, store_state, constants_at = code.load_state, code.store_state, code.constants_at
    flow, tested, store_entering = code.flow, code.tested, code.store_adjoint

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
        entering = load_state(state, at, width)
        _, after = flow(current, entering, constants_at(blocks, at, width))
        store_row(state, index(0), at, current)
        store_state(state, at, after)
        return entering, after

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
        _, after = stepped(at, width, of_step)
        value, limit = tested(after, constants_at(of_step[1], at, width))
        mark_above(value, limit, at, marks)

    @inlined
    def step_and_fire(arguments, marks, fired):
        """``step``; neurons that spike then go into ``fired``. Returns how many.

        ``marks`` and ``fired`` are as in ``lanes.list_marked``.
        """
        each_block(step_and_mark_block, arguments[0].shape[1], (arguments, marks))
        return list_marked(marks, fired)

    @inlined
    def step_and_look_block(at, width, arguments):
        of_step, marks, work, half_widths = arguments
        entering, after = stepped(at, width, of_step)
        constants = constants_at(of_step[1], at, width)
        value, limit = tested(after, constants)
        mark_above(value, limit, at, marks)
        value_before, limit_before = tested(entering, constants)
        below = limit_before - value_before
        rise = value - limit + below
        zero = spread(work.rise.dtype.type(0), width)
        mark(
            bits_above(load(work.rise, at, width), zero) & bits_above(zero, rise)
            & bits_above(load(half_widths, at, width), below),
            at, work.marks,
        )  # fmt: skip
        store(work.rise, at, rise)
        store_entering(work.entering, at, entering)

    @inlined
    def step_and_look(arguments, marks, fired, work, half_widths):
        """``step_and_fire``; neurons of which V had a peak in the bin before, lower than the
        threshold by less than a half width, go into ``work.found``. Returns how many of both."""
        each_block(
            step_and_look_block, arguments[0].shape[1], (arguments, marks, work, half_widths)
        )
        return list_marked(marks, fired), list_marked(work.marks, work.found)

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

    return step, step_and_fire, fire, step_and_look


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
def replay_pass(neuron: ModuleType, synapse: ModuleType):
    """``replay``: bins of one segment again, with their spikes known."""
    step, *_ = step_passes(neuron)
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
