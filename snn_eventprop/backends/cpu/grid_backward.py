"""The backward pass of the grid solver on the CPU, made from a neuron and a synapse.

beta[k] = dL/dX[k] is the adjoint of the current; the adjoint of bin k is that of the other state
variables after its flow, before its spikes. beta of a segment of bins is kept, for gradients of
weights are gathered from it when the segment is done.
"""

from __future__ import annotations

import functools
from types import ModuleType

import numpy as np

from .blocks import dot
from .compile import copy, index, inlined, kernel_of
from .grid_passes import SEGMENT, replay_pass
from .lanes import each_block, load, load_row, store_row
from .neuron_code import neuron_code


@inlined
def _add(total, x):
    for h in range(min(total.shape[0], x.shape[0])):  # rows of beta are longer than others
        total[h] += x[h]


@functools.cache
def backward_passes(neuron: ModuleType):
    """Passes over all neurons of one bin: ``retreat``, ``retreat_state``, ``retreat_current``,
    ``skip``, ``add_flow_gradients``."""
    code = neuron_code(neuron)
    adjoint_flow, flow_gradients, add_flow = code.adjoint_flow, code.flow_gradients, code.add_flow
    load_adjoint, store_adjoint = code.load_adjoint, code.store_adjoint
    constants_at, constants_of = code.constants_at, code.constants_of
    adjoint_of, put_adjoint, powers_of = code.adjoint_of, code.put_adjoint, code.powers_of

    @inlined
    def state_block(at, width, arguments):
        beta, row, adjoint, later, blocks = arguments
        n = constants_at(blocks, at, width)
        later_b = load_row(beta, index(row + 1), at, width)
        _, before = adjoint_flow(later_b, load_adjoint(later, at, width), n)
        store_adjoint(adjoint, at, before)
        return later_b, before, n

    @inlined
    def retreat_state_block(at, width, arguments):
        state_block(at, width, arguments)

    @inlined
    def retreat_block(at, width, arguments):
        later_b, before, n = state_block(at, width, arguments)
        b, _ = adjoint_flow(later_b, before, n)
        store_row(arguments[0], index(arguments[1]), at, b)

    @inlined
    def retreat_current_block(at, width, arguments):
        beta, row, adjoint, _, blocks = arguments
        b, _ = adjoint_flow(
            load_row(beta, index(row + 1), at, width), load_adjoint(adjoint, at, width),
            constants_at(blocks, at, width),
        )  # fmt: skip
        store_row(beta, index(row), at, b)

    def over_neurons(block):
        @inlined
        def run(beta, row, adjoint, later, blocks):
            each_block(block, adjoint.shape[1], (beta, row, adjoint, later, blocks))

        return run

    @inlined
    def skip(beta, row, adjoint, neurons, steps):
        """beta[row] and the adjoint ``steps`` bins earlier, none of which has an event."""
        constants, powers = neurons.constants, neurons.powers
        j = 0
        while steps > 0:
            if steps & 1:
                for i in range(adjoint.shape[1]):
                    h = index(i)
                    a, b = adjoint_of(adjoint, h), beta[index(row), h]
                    of_steps = powers_of(powers, j, h)
                    _, before = adjoint_flow(b, a, constants_of(constants, h))
                    earlier_b, _ = adjoint_flow(b, before, of_steps)
                    _, earlier = adjoint_flow(b, a, of_steps)
                    beta[index(row), h] = earlier_b
                    put_adjoint(adjoint, h, earlier)
            steps >>= 1
            j += 1

    @inlined
    def flow_gradient_block(at, width, arguments):
        rows, beta, row, adjoint, current, entering = arguments
        add_flow(rows, at, width, flow_gradients(
            load_row(beta, index(row + 1), at, width), load_adjoint(adjoint, at, width),
            load(current, at, width), load_adjoint(entering, at, width),
        ))  # fmt: skip

    @inlined
    def add_flow_gradients(rows, beta, row, adjoint, current, entering):
        each_block(
            flow_gradient_block, adjoint.shape[1], (rows, beta, row, adjoint, current, entering)
        )

    return (
        over_neurons(retreat_block), over_neurons(retreat_state_block),
        over_neurons(retreat_current_block), skip, add_flow_gradients,
    )  # fmt: skip


@functools.cache
def backward_kernel(
    neuron: ModuleType, synapse: ModuleType, replays: bool, continues: bool, looks: bool
):
    """``backward_samples`` of layers of such neurons behind such synapses.

    Args:
        replays: gradients of flow constants are wanted, for which the states come again.
        continues: there are spikes before the first bin.
        looks: there are peaks that nearly spike.
    """
    code = neuron_code(neuron)
    constants_of, adjoint_of, put_adjoint = code.constants_of, code.adjoint_of, code.put_adjoint
    adjoint_flow, grid_jump, kept_of = code.adjoint_flow, code.grid_jump, code.kept_of
    grid_peak, value_at_receivers = code.grid_peak, synapse.value_at_receivers
    jump_before_first_bin = code.jump_before_first_bin
    add_spike = code.add_spike
    first_of_spike = len(neuron.FLOW_CONSTANTS)
    retreat, retreat_state, retreat_current, skip, add_flow_gradients = backward_passes(neuron)
    replay = replay_pass(neuron, synapse)
    reach, begin_sample, remember = synapse.reach, synapse.begin_sample_backward, synapse.remember
    change_at_receivers, gather_segment = synapse.change_at_receivers, synapse.gather_segment

    @inlined
    def send_back_before_first_bin(b, synapse, neurons, start, beta, adjoint, gradients, work):
        """What spikes of bin -1 receive in bin 0 belongs to their jump, which ``hosts.step`` does.

        The part of it that the loss pays for the spike directly is added by ``hosts.sequence``.
        Returns the number of guarded slopes.
        """
        guarded = 0
        recurrent, size = synapse.recurrent_rows, adjoint.shape[1]
        for i in range(size):
            n = index(i)
            received = beta.dtype.type(0)
            if recurrent.size > 0:
                gradients.spikes0[b, n] = dot(recurrent, n, beta[0, :size])
            if start.spikes[b, n] == 0:
                continue
            if recurrent.size > 0:
                received += dot(recurrent, n, beta[1, :size])
                _add(synapse.grad_recurrent[n], beta[0])
            slope0 = start.slopes[b, n] if start.slopes.size > 0 else beta.dtype.type(np.inf)
            sent, of_threshold, acted = jump_before_first_bin(
                adjoint_of(adjoint, n), received, slope0, neurons.floor[n],
                constants_of(neurons.constants, n), neurons.reset,
            )  # fmt: skip
            guarded += acted
            gradients.start[1, b, n] += sent
            gradients.constants[first_of_spike, n] += of_threshold
        return guarded

    @inlined
    def pass_peaks(peak, first_peak, k, row, peaks, values, synapse, neurons, adjoints, gradients,
                   beta, received):  # fmt: skip
        """Peaks of bin k. Returns the last peak before them."""
        earliest = peak + 1
        while earliest > first_peak and peaks.bins[earliest - 1] == k:
            earliest -= 1
        is_recurrent = synapse.recurrent_rows.size > 0
        if is_recurrent:
            value_at_receivers(synapse, received, peaks, earliest, peak + 1, k, beta, row)
        adjoint, following = adjoints[k % 3], adjoints[(k + 1) % 3]
        for j in range(earliest, peak + 1):
            e, n = index(j), index(peaks.units[index(j)])
            value = values[e]
            if is_recurrent:
                value += received[index(j - earliest)]
            constants = constants_of(neurons.constants, n)
            before, of_constants = grid_peak(
                adjoint_of(adjoint, n), adjoint_of(following, n), value, kept_of(peaks.kept, e),
                neurons.width[n], constants, neurons.reset,
            )  # fmt: skip
            add_spike(gradients.constants, n, of_constants)
            put_adjoint(adjoint, n, before)
            beta[index(row), n], _ = adjoint_flow(beta[index(row + 1), n], before, constants)
        return earliest - 1

    @kernel_of(neuron, synapse, replays, continues, looks)
    def backward_samples(
        lo, hi, steps, events, input_current, synapse, neurons, start, states, spikes, peaks,
        upstream, gradients, work,
    ):  # fmt: skip
        """Samples ``lo..hi``. Returns the number of guarded slopes and the largest jump."""
        beta, received = work.beta, work.received
        size, zero = work.adjoint.shape[2], beta.dtype.type(0)
        wants_current, traced = gradients.current.size > 0, upstream.trace.size > 0
        is_recurrent = synapse.recurrent_rows.size > 0
        finite = True
        for h in range(size):
            finite = finite and neurons.gain[h] < np.inf
        may_skip = finite and not wants_current and not traced and not replays
        guarded, largest = 0, zero
        longest = reach(synapse)
        for b in range(lo, hi):
            begin_sample(synapse)
            work.adjoint[:] = zero
            beta[:2] = zero  # for no bins at all
            first_event, first_spike = events.offsets[b], spikes.offsets[b]
            event, spike = events.offsets[b + 1] - 1, spikes.offsets[b + 1] - 1
            last_event, last_spike = event, spike
            first_peak = peak = 0
            if looks:
                first_peak, peak = peaks.offsets[b], peaks.offsets[b + 1] - 1
            for segment in range((steps - 1) // SEGMENT, -1, -1):
                begin = segment * SEGMENT
                k = min(begin + SEGMENT, steps) - 1
                # The first bins of the segment before are those after this one: two, that a spike's
                # arrival and its change look at, and the longest delay.
                if k + 1 < steps:
                    for row in range(longest + 1, -1, -1):
                        copy(beta[SEGMENT + row], beta[row])
                if replays:
                    replay(
                        b, begin, k + 1, events, input_current, synapse, neurons, start.spikes,
                        states, spikes, work,
                    )  # fmt: skip
                if k == steps - 1:
                    beta[k + 1 - begin : k + 3 + longest - begin] = zero
                while k >= begin:
                    row = k - begin
                    following, adjoint = work.adjoint[(k + 1) % 3], work.adjoint[k % 3]
                    if may_skip and k < steps - 1:
                        target = begin
                        if event >= first_event:
                            target = max(events.bins[event] + longest, begin)
                        # A spike's jump looks two bins ahead, so those are stepped; so are the
                        # first two bins of a segment, which the next one looks at.
                        if spike >= first_spike:
                            target = max(target, spikes.bins[spike] + 2 + longest)
                        if looks and peak >= first_peak:
                            target = max(target, peaks.bins[peak] + 2 + longest)
                        target = max(target, begin + 1 + longest)
                        if k - target >= 2:
                            after_target = work.adjoint[(target + 1) % 3]
                            if (target + 1) % 3 != (k + 1) % 3:
                                for j in range(after_target.shape[0]):
                                    copy(after_target[j], following[j])
                            copy(beta[target + 1 - begin], beta[row + 1])
                            skip(beta, target + 1 - begin, after_target, neurons, k - target)
                            k = target
                            continue
                    if traced or k == steps - 1:
                        retreat_state(beta, row, adjoint, following, neurons.blocks)
                        if traced:
                            _add(adjoint[0], upstream.trace[k, b])
                        if k == steps - 1:
                            for j in range(adjoint.shape[0]):
                                _add(adjoint[j], upstream.last[j + 1, b])
                        retreat_current(beta, row, adjoint, following, neurons.blocks)
                    else:
                        retreat(beta, row, adjoint, following, neurons.blocks)
                    earliest = spike
                    if is_recurrent and spike >= first_spike and spikes.bins[spike] == k:
                        while earliest > first_spike and spikes.bins[earliest - 1] == k:
                            earliest -= 1
                        change_at_receivers(
                            synapse, received, spikes, earliest, spike + 1, k, beta, row
                        )
                    while spike >= first_spike and spikes.bins[spike] == k:
                        e, n = index(spike), index(spikes.units[index(spike)])
                        change = upstream.changes[e]
                        if is_recurrent:
                            change += received[index(spike - earliest)]
                        constants = constants_of(neurons.constants, n)
                        before, of_constants, acted, moved = grid_jump(
                            adjoint_of(adjoint, n), adjoint_of(following, n), change,
                            kept_of(spikes.kept, e), neurons.floor[n], constants, neurons.reset,
                        )  # fmt: skip
                        guarded += acted
                        largest = max(largest, moved)
                        add_spike(gradients.constants, n, of_constants)
                        put_adjoint(adjoint, n, before)
                        adjoint[0, n] += upstream.marks[e]
                        beta[index(row), n], _ = adjoint_flow(
                            beta[index(row + 1), n], adjoint_of(adjoint, n), constants
                        )
                        spike -= 1
                    if looks and peak >= first_peak and peaks.bins[peak] == k:
                        peak = pass_peaks(
                            peak, first_peak, k, row, peaks, upstream.peaks, synapse, neurons,
                            work.adjoint, gradients, beta, received,
                        )  # fmt: skip
                    if k == steps - 1:
                        _add(beta[row], upstream.last[0, b])
                    remember(synapse, k, beta, row)
                    if replays:
                        add_flow_gradients(
                            gradients.constants, beta, row, adjoint, work.currents[row],
                            work.entering[row],
                        )  # fmt: skip
                    if wants_current:
                        copy(gradients.current[k, b], beta[row])
                    while event >= first_event and events.bins[event] == k:
                        event -= 1
                    k -= 1
                gather_segment(
                    synapse, events, event + 1, last_event + 1, spikes, spike + 1, last_spike + 1,
                    begin, beta, gradients,
                )  # fmt: skip
                last_event, last_spike = event, spike
            adjoint = work.adjoint[0]
            for j in range(size):
                h = index(j)
                gradients.start[index(0), b, h] = beta[index(0), h]
                _, entering = adjoint_flow(
                    zero, adjoint_of(adjoint, h), constants_of(neurons.constants, h)
                )
                put_adjoint(gradients.start[1:, b], h, entering)
            if continues:
                guarded += send_back_before_first_bin(
                    b, synapse, neurons, start, beta, adjoint, gradients, work
                )
        return guarded, largest

    return backward_samples
