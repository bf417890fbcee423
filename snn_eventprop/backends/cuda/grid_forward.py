"""The forward pass of the grid solver on NVIDIA GPUs, made from a neuron and a synapse.

One block of threads for each sample, one launch for all its bins. A second one, ``collect``, puts
the spikes of the samples together. ``forward`` is launched again where a sample had more of them
than there was room for.

A thread owns every ``blockDim``-th neuron and carries its state through all bins. Threads meet
only where a neuron needs to know of others: once in a bin, to learn who spiked, and once more in
bins with spikes.

Cost of an event for H neurons of ``size`` bytes each: H additions and one row of weights, H * size
bytes, from the second-level cache, which holds 700 x 1024 of them. Everything else per bin and
neuron stays in the multiprocessor: about 8 numbers in the first-level cache. With 8 events and 3
spikes in a bin at H = 256 that is 11 kB and 3,000 operations: latency bounds it, not bandwidth,
which is what several blocks on a multiprocessor hide.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType

from numba import cuda

from . import spike_sets
from .launch import device, kernel, kernel_of, scalar
from .neuron_code import neuron_code
from .spike_sets import note, number, rank
from .synaptic_sums import end_of_bin, find, first_from

_entries = scalar(spike_sets.entries)


@device
def all_finite(values):
    """Whether no entry is infinite, for all threads of the block."""
    infinite = 0
    for h in range(cuda.threadIdx.x, values.shape[0], cuda.blockDim.x):
        if math.isinf(values[h]):
            infinite = 1
    return cuda.syncthreads_or(infinite) == 0


def list_entries(size: int) -> int:
    """Entries of the lists that a block of ``forward`` keeps, 4 bytes each."""
    return 2 * size + 3 * spike_sets.entries(size)


@functools.cache
def forward_kernel(neuron: ModuleType, synapse_module: ModuleType):
    """``forward`` of layers of such neurons behind such synapses."""
    code = neuron_code(neuron)
    variables = len(neuron.STATE)
    state_of, put_state, constants_of = code.state_of, code.put_state, code.constants_of
    flow, tested, may_spike, leap = code.flow, code.tested, code.may_spike, code.leap
    flow_constants_of = code.flow_constants_of
    kept_of_spike, put_kept = code.kept_of_spike, code.put_kept
    reset_before_flow, reset_after_flow = code.reset_before_flow, code.reset_after_flow
    reset_at_spike = code.reset_at_spike
    reach, clear, arrive = synapse_module.reach, synapse_module.clear, synapse_module.arrive

    @kernel_of(neuron, synapse_module)
    def forward(
        steps, events, input_current, synapse, neurons, start, outputs, segment, shared, work,
        lists, spikes,
    ):  # fmt: skip
        """One block for each sample.

        Args:
            segment: bins between two stored states.
            shared: whether the lists of spikes fit into shared memory (``list_entries``).
            work: [B, S, H].   lists: [B, list entries] where they are not shared.
            spikes: ``SpikesBySample``, written.
        """
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        b = cuda.blockIdx.x
        rows, rule = neurons.constants, neurons.reset
        size = rows.shape[1]
        zero = rows.dtype.type(0)
        dense = input_current.size > 0
        record = outputs.trace.size > 0
        store = outputs.states.size > 0
        may_skip = all_finite(neurons.gain) and not dense and not record
        room = spikes.bins.shape[1]
        state = work[b]
        block_lists = cuda.shared.array(0, lists.dtype)
        if not shared:
            block_lists = lists[b]
        words = _entries(size)
        pending = block_lists[:size]  # who spiked in the previous bin, ascending
        spiked = block_lists[size : 2 * size]  # whether neuron h did
        # Who spikes in this bin, in the next one, and in the one after, by turns. What is cleared
        # in a bin has been read by all threads in the bin before, and is written in the next.
        sets = block_lists[2 * size : 2 * size + 3 * words]
        for h in range(thread, size, threads):
            for j in range(variables):
                state[j, h] = start.state[j, b, h]
            spiked[h] = 0
            clear(synapse, b, h)
        for w in range(thread, 3 * words, threads):
            sets[w] = 0
        cuda.syncthreads()
        num_pending = 0
        if start.spikes.size > 0:
            noted = sets[2 * words :]
            for h in range(thread, size, threads):
                if start.spikes[b, h] != 0:
                    spiked[h] = 1
                    note(noted, h)
            cuda.syncthreads()
            num_pending = number(noted)
            for h in range(thread, size, threads):
                if spiked[h] != 0:
                    pending[rank(noted, h)] = h
            cuda.syncthreads()
        turn = 0
        total = 0
        event, end = events.offsets[b], events.offsets[b + 1]
        busy = -1  # last bin in which something sent with a delay may arrive
        k = 0
        while k < steps:
            if store and k % segment == 0:
                for h in range(thread, size, threads):
                    for j in range(variables):
                        outputs.states[b, k // segment, j, h] = state[j, h]
            if may_skip and num_pending == 0 and k > busy:
                target = steps - 1  # always stepped, so that its I is known before it decays
                if event < end:
                    target = min(target, events.bins[event])
                if store:
                    target = min(target, k - k % segment + segment)
                if target - k >= 2:
                    able = 0
                    for h in range(thread, size, threads):
                        if may_spike(
                            state[0, h], state_of(state, h), neurons.gain[h],
                            constants_of(rows, h), zero,
                        ):  # fmt: skip
                            able = 1
                    if cuda.syncthreads_or(able) == 0:
                        for h in range(thread, size, threads):
                            state[0, h], after = leap(
                                state[0, h], state_of(state, h), flow_constants_of(rows, h),
                                target - k,
                            )  # fmt: skip
                            put_state(state, h, after)
                        k = target
                        continue
            first = event
            event = end_of_bin(events.bins, first, end, k)
            noted = sets[turn * words : (turn + 1) * words]
            if event > first or num_pending > 0:
                busy = k + reach(synapse)
            for h in range(thread, size, threads):
                current, values = state[0, h], state_of(state, h)
                current = arrive(
                    current, synapse, b, k, events, first, event, pending, 0, num_pending, h
                )
                if dense:
                    current += input_current[k, b, h]
                constants = constants_of(rows, h)
                if spiked[h] != 0:
                    values = reset_before_flow(values, constants, rule)
                _, values = flow(current, values, constants)
                if spiked[h] != 0:
                    values = reset_after_flow(values, constants, rule)
                state[0, h] = current
                put_state(state, h, values)
                spiked[h] = 0
                value, limit = tested(values, constants)
                if value > limit:
                    spiked[h] = 1
                    note(noted, h)
            cuda.syncthreads()
            num_pending = number(noted)
            for h in range(thread, size, threads):
                if num_pending > 0 and spiked[h] != 0:
                    values, constants = state_of(state, h), constants_of(rows, h)
                    place = rank(noted, h)
                    pending[place] = h
                    at = total + place
                    if at < room:
                        spikes.bins[b, at] = k
                        spikes.units[b, at] = h
                        put_kept(
                            spikes.kept, b, at, kept_of_spike(state[0, h], values, constants)
                        )
                    put_state(state, h, reset_at_spike(values, constants, rule))
                if record:
                    outputs.trace[k, b, h] = state[1, h]
                if k == steps - 1:
                    for j in range(variables):
                        outputs.last[j, b, h] = state[j, h]
                state[0, h], _ = flow(state[0, h], state_of(state, h), constants_of(rows, h))
            last_turn = (turn + 2) % 3
            for w in range(last_turn * words + thread, (last_turn + 1) * words, threads):
                sets[w] = 0
            turn = (turn + 1) % 3
            if num_pending > 0:
                total += num_pending
                cuda.syncthreads()
            k += 1
        if thread == 0:
            spikes.counts[b] = total

    return forward


@kernel
def collect(found, offsets, out_bins, out_units, out_kept, out_stamps, out_marks):
    """Put the spikes of each sample in their place among those of all samples."""
    b = cuda.blockIdx.x
    start = offsets[b]
    one = out_marks.dtype.type(1)
    for j in range(cuda.threadIdx.x, offsets[b + 1] - start, cuda.blockDim.x):
        out_bins[start + j] = found.bins[b, j]
        out_units[start + j] = found.units[b, j]
        for i in range(found.kept.shape[1]):
            out_kept[i, start + j] = found.kept[b, i, j]
        out_stamps[start + j] = out_stamps.dtype.type(found.bins[b, j])
        out_marks[start + j] = one


@functools.cache
def replay_pass(neuron: ModuleType, synapse_module: ModuleType):
    """``replay`` of layers of such neurons behind such synapses."""
    code = neuron_code(neuron)
    state_of, put_entering, constants_of = code.state_of, code.put_entering, code.constants_of
    flow, reset_at_spike = code.flow, code.reset_at_spike
    reset_before_flow, reset_after_flow = code.reset_before_flow, code.reset_after_flow
    resume, arrive = synapse_module.resume, synapse_module.arrive
    arrive_in_first_bin = synapse_module.arrive_in_first_bin

    @device
    def replay(
        b, slot, begin, stop, events, input_current, synapse, neurons, spikes0, states, segment,
        spikes, replayed,
    ):  # fmt: skip
        """The forward pass of bins begin..stop with its spikes known.

        Writes I of each bin, and the state that enters its flow, to ``replayed`` [S, segment, H].
        Nobody needs to wait for anybody: each thread replays its own neurons.
        """
        rule = neurons.reset
        start, end = events.offsets[b], events.offsets[b + 1]
        start_spike, end_spike = spikes.offsets[b], spikes.offsets[b + 1]
        first_event = first_from(events.bins, start, end, begin)
        first_spike = first_from(spikes.bins, start_spike, end_spike, begin)
        saved = states[b, begin // segment]
        for h in range(cuda.threadIdx.x, neurons.floor.shape[0], cuda.blockDim.x):
            constants = constants_of(neurons.constants, h)
            current, state = saved[0, h], state_of(saved, h)
            event, spike = first_event, first_spike
            before = first_from(spikes.bins, start_spike, spike, begin - 1)
            spiked = find(spikes.units, before, spike, h) >= 0
            if begin == 0 and spikes0.size > 0:
                spiked = spikes0[b, h] != 0
            resume(synapse, slot, begin, events, start, event, spikes, start_spike, before, h)
            for k in range(begin, stop):
                first = event
                event = end_of_bin(events.bins, first, end, k)
                current = arrive(
                    current, synapse, slot, k, events, first, event, spikes.units, before, spike, h
                )
                if input_current.size > 0:
                    current += input_current[k, b, h]
                if k == 0 and spikes0.size > 0:
                    current = arrive_in_first_bin(current, synapse, spikes0, b, h)
                if spiked:
                    state = reset_before_flow(state, constants, rule)
                replayed[0, k - begin, h] = current
                put_entering(replayed, k - begin, h, state)
                current, state = flow(current, state, constants)
                if spiked:
                    state = reset_after_flow(state, constants, rule)
                before = spike
                spike = end_of_bin(spikes.bins, before, end_spike, k)
                spiked = find(spikes.units, before, spike, h) >= 0
                if spiked:
                    state = reset_at_spike(state, constants, rule)

    return replay
