"""The backward pass of the grid solver on NVIDIA GPUs, made from a neuron and a synapse.

beta[k] = dL/dX[k] is the adjoint of the current; the adjoint of bin k is that of the other state
variables after its flow, before its spikes.

A thread owns every ``blockDim``-th neuron. Threads meet only where the adjoint is summed over a
spike's receivers: in recurrent layers, and in layers whose input events need gradients.

Cost of an event for H neurons of ``size`` bytes each: H additions that read and write one row of
gradients, H * size bytes, in the second-level cache (``add_to_row``). Spikes of recurrent layers
cost two such rows, one read and one written.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType

from numba import cuda

from .arrays import Rows
from .grid_forward import all_finite, replay_pass
from .launch import device, kernel_of
from .neuron_code import neuron_code
from .synaptic_sums import find, start_of_bin


@functools.cache
def _before_first_bin(neuron: ModuleType, synapse_module: ModuleType):
    code = neuron_code(neuron)
    adjoint_of, constants_of = code.adjoint_of, code.constants_of
    jump_before_first_bin, threshold_row = code.jump_before_first_bin, len(neuron.FLOW_CONSTANTS)
    send_back = synapse_module.send_back_before_first_bin

    @device
    def before_first_bin(b, part, order, synapse, neurons, start, gradients, rows):
        """What spikes of bin -1 receive in bin 0 belongs to their jump, which ``hosts.step`` does.

        The part of it that the loss pays for the spike directly is added by ``hosts.sequence``.
        Returns the number of this thread's guarded slopes.
        """
        zero, never = rows.beta.dtype.type(0), rows.beta.dtype.type(math.inf)
        is_recurrent = synapse.recurrent.size > 0
        guarded = 0
        if is_recurrent:
            send_back(synapse, order, part, start.spikes[b], gradients.spikes0[b], rows)
        for n in range(cuda.threadIdx.x, neurons.floor.shape[0], cuda.blockDim.x):
            if start.spikes[b, n] == 0:
                continue
            slope0 = start.slopes[b, n] if start.slopes.size > 0 else never
            sent, of_threshold, acted = jump_before_first_bin(
                adjoint_of(rows.adjoint, n), rows.received[n] if is_recurrent else zero, slope0,
                neurons.floor[n], constants_of(neurons.constants, n), neurons.reset,
            )  # fmt: skip
            guarded += acted
            gradients.start[1, b, n] += sent
            gradients.constants[cuda.blockIdx.x, threshold_row, n] += of_threshold
        return guarded

    return before_first_bin


@functools.cache
def backward_kernel(neuron: ModuleType, synapse_module: ModuleType):
    """``backward`` of layers of such neurons behind such synapses."""
    code = neuron_code(neuron)
    others = len(neuron.STATE) - 1
    adjoint_of, put_adjoint, entering_of = code.adjoint_of, code.put_adjoint, code.entering_of
    plus_first, plus_last = code.plus_first, code.plus_last
    constants_of, flow_constants_of = code.constants_of, code.flow_constants_of
    adjoint_flow, leap_back, flow_gradients = code.adjoint_flow, code.leap_back, code.flow_gradients
    grid_jump, kept_of = code.grid_jump, code.kept_of
    add_flow, add_spike = code.add_flow, code.add_spike
    replay = replay_pass(neuron, synapse_module)
    before_first_bin = _before_first_bin(neuron, synapse_module)
    reach, clear_adjoint = synapse_module.reach, synapse_module.clear_adjoint
    keep_adjoint, gather = synapse_module.keep_adjoint, synapse_module.gather
    change_at_receivers = synapse_module.change_at_receivers
    gradients_of_events = synapse_module.gradients_of_events

    @kernel_of(neuron, synapse_module)
    def backward(
        steps, events, input_current, synapse, neurons, start, states, segment, spikes, upstream,
        gradients, sums, order, work, replayed,
    ):  # fmt: skip
        """Blocks visit samples by turns.

        Args:
            start: of its arrays, the spikes and slopes.
            gradients: ``Gradients``, whose constants are [blocks, ..., H].
            work: [blocks, S - 1 + BACKWARD_ROWS, max(H, blockDim)].
            replayed: [blocks, S, segment, H] or empty.
        """
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        block = cuda.blockIdx.x
        part = block if order.ordered else 0
        size, wide = neurons.floor.shape[0], work.shape[2]
        zero = work.dtype.type(0)
        late = reach(synapse)
        dense = gradients.current.size > 0
        traced = upstream.trace.size > 0
        replays = states.size > 0
        is_recurrent = synapse.recurrent.size > 0
        wants_events = gradients.values.size > 0 or gradients.changes.size > 0
        may_skip = all_finite(neurons.gain) and not dense and not traced and not replays
        two_rows = cuda.shared.array(0, work.dtype)
        x, scratch = two_rows[:wide], two_rows[wide:]
        if not order.shared:
            x, scratch = work[block, others + 3], work[block, others + 4]
        adjoint, beta, later = work[block, :others], work[block, others], work[block, others + 1]
        rows = Rows(adjoint, beta[:size], later, work[block, others + 2], x, scratch)
        of_constants = gradients.constants[block]
        own_guarded = 0
        own_largest = zero
        for b in range(block, events.offsets.shape[0] - 1, cuda.gridDim.x):
            for h in range(thread, size, threads):
                for j in range(others):
                    adjoint[j, h] = zero  # of bin k + 1
                beta[h] = zero  # of bin k + 1
                later[h] = zero  # of bin k + 2
                clear_adjoint(synapse, block, h)
            first_event, first_spike = events.offsets[b], spikes.offsets[b]
            event, spike = events.offsets[b + 1], spikes.offsets[b + 1]  # those before are to come
            begin = steps  # bins from here on have been replayed
            k = steps - 1
            while k >= 0:
                if may_skip and k < steps - 1:
                    target = 1  # the last two bins are always stepped
                    if event > first_event:
                        target = max(target, events.bins[event - 1] + late)
                    if spike > first_spike:  # a spike's jump looks two bins ahead
                        target = max(target, spikes.bins[spike - 1] + 2 + late)
                    if k - target >= 2:
                        for h in range(thread, size, threads):
                            beta[h], earlier = leap_back(
                                beta[h], adjoint_of(adjoint, h),
                                flow_constants_of(neurons.constants, h), k - target,
                            )  # fmt: skip
                            put_adjoint(adjoint, h, earlier)
                            keep_adjoint(synapse, block, target + 1, beta[h], h)
                        k = target
                        continue
                if replays and k < begin:
                    begin = k - k % segment
                    replay(
                        b, block, begin, k + 1, events, input_current, synapse, neurons,
                        start.spikes, states, segment, spikes, replayed[block],
                    )  # fmt: skip
                end_event, end_spike = event, spike
                event = start_of_bin(events.bins, end_event, first_event, k)
                spike = start_of_bin(spikes.bins, end_spike, first_spike, k)
                if is_recurrent and spike < end_spike:
                    change_at_receivers(
                        synapse, block, spikes, spike, end_spike, k, rows, order.lanes
                    )
                for h in range(thread, size, threads):
                    constants = constants_of(neurons.constants, h)
                    following, beta_of_next = adjoint_of(adjoint, h), beta[h]
                    _, own = adjoint_flow(beta_of_next, following, constants)
                    if traced:
                        own = plus_first(own, upstream.trace[k, b, h])
                    if k == steps - 1:
                        own = plus_last(own, upstream.last, b, h)
                    own_spike = find(spikes.units, spike, end_spike, h)
                    if own_spike >= 0:
                        change = upstream.changes[own_spike]
                        if is_recurrent:
                            change += rows.received[own_spike - spike]
                        own, at_spike, acted, moved = grid_jump(
                            own, following, change, kept_of(spikes.kept, own_spike),
                            neurons.floor[h], constants, neurons.reset,
                        )  # fmt: skip
                        own_guarded += acted
                        own_largest = max(own_largest, moved)
                        add_spike(of_constants, h, at_spike)
                        own = plus_first(own, upstream.marks[own_spike])
                    now, _ = adjoint_flow(beta_of_next, own, constants)
                    if k == steps - 1:
                        now += upstream.last[0, b, h]
                    if replays:
                        add_flow(of_constants, h, flow_gradients(
                            beta_of_next, own, replayed[block, 0, k - begin, h],
                            entering_of(replayed[block], k - begin, h),
                        ))  # fmt: skip
                    if dense:
                        gradients.current[k, b, h] = now
                    put_adjoint(adjoint, h, own)
                    beta[h], later[h] = now, beta_of_next
                    keep_adjoint(synapse, block, k, now, h)
                    gather(
                        synapse, order.ordered, part, block, events, event, end_event, spikes,
                        spike, end_spike, k, (now, beta_of_next), h,
                    )  # fmt: skip
                if wants_events and event < end_event:
                    gradients_of_events(
                        synapse, block, events, event, end_event, k, rows, order.lanes,
                        gradients.values, gradients.changes,
                    )  # fmt: skip
                k -= 1
            for h in range(thread, size, threads):
                gradients.start[0, b, h] = beta[h]
                _, entering = adjoint_flow(
                    zero, adjoint_of(adjoint, h), constants_of(neurons.constants, h)
                )
                put_adjoint(gradients.start[1:, b], h, entering)
            if start.spikes.size > 0:
                own_guarded += before_first_bin(
                    b, part, order, synapse, neurons, start, gradients, rows
                )
        cuda.atomic.add(sums.guarded, 0, own_guarded)
        cuda.atomic.max(sums.largest, 0, own_largest)

    return backward
