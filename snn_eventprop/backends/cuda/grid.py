"""Grid solver on NVIDIA GPUs: one block of threads for each sample, one launch for all its bins.

A second one, ``collect``, puts the spikes of the samples together; ``forward`` is launched again
where a sample had more of them than there was room for. Kernels are made from a neuron and a
synapse.

A thread owns every ``blockDim``-th neuron and carries its state through all bins. Threads meet
only where a neuron needs to know of others:

    forward    once in a bin, to learn who spiked, and once more in bins with spikes
    backward   where the adjoint is summed over a spike's receivers (recurrent layers, and layers
               whose input times need a gradient); otherwise never

Cost of an event for H neurons of ``size`` bytes each: forward H additions and one row of weights,
H * size bytes, from the second-level cache, which holds 700 x 1024 of them; backward the same of
gradients, H additions that read and write (``add_to_row``). Spikes of recurrent layers cost two
such rows backwards, one read and one written. Everything else per bin and neuron stays in the
multiprocessor: about 8 numbers in the first-level cache. With 8 events and 3 spikes in a bin at
H = 256 that is 11 kB and 3,000 operations forward, twice that backward: latency bounds it, not
bandwidth, which is what several blocks on a multiprocessor hide.

Over 400 lines: the backward pass reads what the forward pass writes, step for step.
"""

from __future__ import annotations

import functools
import math
from types import ModuleType
from typing import Any, NamedTuple

from numba import cuda

from . import spike_sets
from .launch import device, kernel, kernel_of, scalar
from .neuron_code import neuron_code
from .spike_sets import note, number, rank
from .synaptic_sums import add_to_row, dot_rows, end_of_bin, find, first_from, start_of_bin

_entries = scalar(spike_sets.entries)


class Population(NamedTuple):
    """Constants and rules of the neurons."""

    constants: Any  # [P + 1, H], the last row being ones
    gain: Any  # [H] bound on the response; infinite: bins must not be skipped
    floor: Any  # [H] smallest slope per bin in the jump
    reset: int  # code of the neuron's ``RESETS``


class Rows(NamedTuple):
    """Vectors that a block works in, [max(H, blockDim)] each but for the adjoint."""

    adjoint: Any  # [S - 1, ...] of bin k + 1, then of bin k
    beta: Any  # [H] of bin k + 1, then of bin k
    later: Any  # of the bin after that
    received: Any  # by each spike from its receivers
    direct: Any
    x: Any  # a vector that is multiplied with rows of weights
    scratch: Any


class Sums(NamedTuple):
    """Numbers over all samples, added to."""

    guarded: Any  # [1] guarded slopes
    largest: Any  # [1] the largest absolute jump


class Order(NamedTuple):
    """How blocks share the work of the backward pass."""

    ordered: bool  # each block adds to its own part of the gradients; else all add atomically
    lanes: int  # threads that share one row of weights where its product with a vector is wanted
    shared: bool  # whether x and scratch fit into shared memory
    everyone: Any  # [H] 0, 1, ..., for recurrent layers with spikes before the first bin


# Rows of numbers that a block of ``backward`` works in, beside the adjoint.
BACKWARD_ROWS = 6


@device
def _all_finite(values):
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
    code = neuron_code(neuron)
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
        lists, spikes, counts,
    ):  # fmt: skip
        """One block for each sample.

        Args:
            segment: bins between two stored states.
            shared: whether the lists of spikes fit into shared memory (``list_entries``).
            work: [B, S, H].   lists: [B, list entries] where they are not shared.
            spikes: bins [B, room], units [B, room], kept [B, K, room], written: the spikes of each
                sample in order of bin and unit, as far as there is room.
            counts: [B], written: how many there are.
        """  # fmt: skip
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        b = cuda.blockIdx.x
        constants, rule = neurons.constants, neurons.reset
        size = constants.shape[1]
        zero = constants.dtype.type(0)
        dense = input_current.size > 0
        record = outputs.trace.size > 0
        store = outputs.states.size > 0
        may_skip = _all_finite(neurons.gain) and not dense and not record
        out_bins, out_units, out_kept = spikes
        room = out_bins.shape[1]
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
            for j in range(state.shape[0]):
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
                    for j in range(state.shape[0]):
                        outputs.states[b, k // segment, j, h] = state[j, h]
            if may_skip and num_pending == 0 and k > busy:
                target = steps - 1  # always stepped, so that its I is known before scaling by s
                if event < end:
                    target = min(target, events.bins[event])
                if store:
                    target = min(target, k - k % segment + segment)
                if target - k >= 2:
                    able = 0
                    for h in range(thread, size, threads):
                        if may_spike(
                            state[0, h], state_of(state, h), neurons.gain[h],
                            constants_of(constants, h), zero,
                        ):  # fmt: skip
                            able = 1
                    if cuda.syncthreads_or(able) == 0:
                        for h in range(thread, size, threads):
                            state[0, h], after = leap(
                                state[0, h], state_of(state, h), flow_constants_of(constants, h),
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
                current, before = state[0, h], state_of(state, h)
                n = constants_of(constants, h)
                current = arrive(
                    current, synapse, b, k, events, first, event, pending, 0, num_pending, h
                )
                if dense:
                    current += input_current[k, b, h]
                if spiked[h] != 0:
                    before = reset_before_flow(before, n, rule)
                _, after = flow(current, before, n)
                if spiked[h] != 0:
                    after = reset_after_flow(after, n, rule)
                state[0, h] = current
                put_state(state, h, after)
                spiked[h] = 0
                value, limit = tested(after, n)
                if value > limit:
                    spiked[h] = 1
                    note(noted, h)
            cuda.syncthreads()
            num_pending = number(noted)
            for h in range(thread, size, threads):
                if num_pending > 0 and spiked[h] != 0:
                    place = rank(noted, h)
                    pending[place] = h
                    at = total + place
                    n = constants_of(constants, h)
                    if at < room:
                        out_bins[b, at] = k
                        out_units[b, at] = h
                        put_kept(
                            out_kept[b], at, kept_of_spike(state[0, h], state_of(state, h), n)
                        )
                    put_state(state, h, reset_at_spike(state_of(state, h), n, rule))
                if record:
                    outputs.trace[k, b, h] = state[1, h]
                if k == steps - 1:
                    for j in range(state.shape[0]):
                        outputs.last[j, b, h] = state[j, h]
                state[0, h] *= constants[0, h]
            last_turn = (turn + 2) % 3
            for w in range(last_turn * words + thread, (last_turn + 1) * words, threads):
                sets[w] = 0
            turn = (turn + 1) % 3
            if num_pending > 0:
                total += num_pending
                cuda.syncthreads()
            k += 1
        if thread == 0:
            counts[b] = total

    return forward


@kernel
def collect(bins, units, kept, offsets, out_bins, out_units, out_kept, out_stamps, out_marks):
    """Put the spikes of each sample, [B, room], in their place among those of all samples."""
    b = cuda.blockIdx.x
    start = offsets[b]
    one = out_marks.dtype.type(1)
    for j in range(cuda.threadIdx.x, offsets[b + 1] - start, cuda.blockDim.x):
        out_bins[start + j] = bins[b, j]
        out_units[start + j] = units[b, j]
        for i in range(kept.shape[1]):
            out_kept[i, start + j] = kept[b, i, j]
        out_stamps[start + j] = out_stamps.dtype.type(bins[b, j])
        out_marks[start + j] = one


@functools.cache
def _replay(neuron: ModuleType, synapse_module: ModuleType):
    code = neuron_code(neuron)
    state_of, put_adjoint, constants_of = code.state_of, code.put_adjoint, code.constants_of
    flow, reset_at_spike = code.flow, code.reset_at_spike
    reset_before_flow, reset_after_flow = code.reset_before_flow, code.reset_after_flow
    resume, arrive = synapse_module.resume, synapse_module.arrive

    @device
    def replay(
        b, slot, begin, stop, events, input_current, synapse, neurons, spikes0, states, segment,
        spikes, replayed,
    ):  # fmt: skip
        """The forward pass of bins begin..stop with its spikes known.

        Writes I of each bin, and the state that enters its flow, to ``replayed`` [S, segment, H].
        Nobody needs to wait for anybody: each thread replays its own neurons.
        """
        constants, rule, recurrent = neurons.constants, neurons.reset, synapse.recurrent
        size = constants.shape[1]
        start, end = events.offsets[b], events.offsets[b + 1]
        start_spike, end_spike = spikes.offsets[b], spikes.offsets[b + 1]
        first_event = first_from(events.bins, start, end, begin)
        first_spike = first_from(spikes.bins, start_spike, end_spike, begin)
        for h in range(cuda.threadIdx.x, size, cuda.blockDim.x):
            n = constants_of(constants, h)
            saved = states[b, begin // segment]
            current, state = saved[0, h], state_of(saved, h)
            event, spike = first_event, first_spike
            before = first_from(spikes.bins, start_spike, spike, begin - 1)
            spiked = find(spikes.units, before, spike, h) >= 0
            if begin == 0 and spikes0.size > 0:
                spiked = spikes0[b, h] != 0
            resume(
                synapse, slot, begin, events, start, event, spikes, start_spike, before, h
            )
            for k in range(begin, stop):
                first = event
                event = end_of_bin(events.bins, first, end, k)
                current = arrive(
                    current, synapse, slot, k, events, first, event, spikes.units, before, spike, h
                )
                if input_current.size > 0:
                    current += input_current[k, b, h]
                if k == 0 and spikes0.size > 0 and recurrent.size > 0:
                    for sender in range(size):
                        if spikes0[b, sender] != 0:
                            current += recurrent[sender, h]
                if spiked:
                    state = reset_before_flow(state, n, rule)
                replayed[0, k - begin, h] = current
                put_adjoint(replayed[1:, k - begin], h, state)
                current, state = flow(current, state, n)
                if spiked:
                    state = reset_after_flow(state, n, rule)
                before = spike
                spike = end_of_bin(spikes.bins, before, end_spike, k)
                spiked = find(spikes.units, before, spike, h) >= 0
                if spiked:
                    state = reset_at_spike(state, n, rule)

    return replay


@functools.cache
def _before_first_bin(neuron: ModuleType):
    code = neuron_code(neuron)
    adjoint_of, constants_of = code.adjoint_of, code.constants_of
    jump_before_first_bin, first_of_spike = code.jump_before_first_bin, len(neuron.FLOW_CONSTANTS)

    @device
    def before_first_bin(b, part, order, synapse, neurons, start, gradients, rows):
        """What spikes of bin -1 receive in bin 0. Returns this thread's guarded slopes."""
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        recurrent, constants = synapse.recurrent, neurons.constants
        size = constants.shape[1]
        zero = constants.dtype.type(0)
        is_recurrent = recurrent.size > 0
        guarded = 0
        if is_recurrent:
            for h in range(thread, size, threads):
                rows.x[h] = rows.later[h]
            dot_rows(
                recurrent, order.everyone, 0, size, rows.x, rows.scratch, order.lanes,
                rows.received, 0,
            )  # fmt: skip
            for h in range(thread, size, threads):
                rows.x[h] = rows.beta[h]
            dot_rows(
                recurrent, order.everyone, 0, size, rows.x, rows.scratch, order.lanes,
                rows.direct, 0,
            )  # fmt: skip
            for n in range(size):
                if start.spikes[b, n] != 0:
                    for h in range(thread, size, threads):
                        add_to_row(
                            synapse.grad_recurrent, order.ordered, part, n, h, rows.beta[h]
                        )
        for n in range(thread, size, threads):
            received = zero
            if is_recurrent:
                gradients.spikes0[b, n] = rows.direct[n]
                received = rows.received[n]
            if start.spikes[b, n] == 0:
                continue
            slope0 = constants.dtype.type(math.inf)
            if start.slopes.size > 0:
                slope0 = start.slopes[b, n]
            sent, of_threshold, acted = jump_before_first_bin(
                adjoint_of(rows.adjoint, n), received, slope0, neurons.floor[n],
                constants_of(constants, n), neurons.reset,
            )  # fmt: skip
            guarded += acted
            gradients.start[1, b, n] += sent
            gradients.constants[cuda.blockIdx.x, first_of_spike, n] += of_threshold
        return guarded

    return before_first_bin


@functools.cache
def backward_kernel(neuron: ModuleType, synapse_module: ModuleType):
    code = neuron_code(neuron)
    adjoint_of, put_adjoint, constants_of = code.adjoint_of, code.put_adjoint, code.constants_of
    adjoint_flow, leap_back, flow_gradients = code.adjoint_flow, code.leap_back, code.flow_gradients
    flow_constants_of = code.flow_constants_of
    grid_jump, kept_of = code.grid_jump, code.kept_of
    add_flow, add_spike = code.add_flow, code.add_spike
    replay, before_first_bin = _replay(neuron, synapse_module), _before_first_bin(neuron)
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
            gradients: ``Gradients``, whose constants are [blocks, ..., H].
            work: [blocks, S - 1 + BACKWARD_ROWS, max(H, blockDim)].
            replayed: [blocks, S, segment, H] or empty.
        """
        thread, threads = cuda.threadIdx.x, cuda.blockDim.x
        block = cuda.blockIdx.x
        part = block if order.ordered else 0
        constants = neurons.constants
        size = constants.shape[1]
        zero = constants.dtype.type(0)
        late = reach(synapse)
        dense = gradients.current.size > 0
        traced = upstream.trace.size > 0
        replays = states.size > 0
        is_recurrent = synapse.recurrent.size > 0
        wants_events = gradients.values.size > 0 or gradients.changes.size > 0
        may_skip = _all_finite(neurons.gain) and not dense and not traced and not replays
        others = start.state.shape[0] - 1
        wide = work.shape[2]
        two_rows = cuda.shared.array(0, constants.dtype)
        x, scratch = two_rows[:wide], two_rows[wide:]
        if not order.shared:
            x, scratch = work[block, others + 4], work[block, others + 5]
        adjoint, beta, later = work[block, :others], work[block, others], work[block, others + 1]
        rows = Rows(
            adjoint, beta[:size], later, work[block, others + 2], work[block, others + 3], x,
            scratch,
        )  # fmt: skip
        of_constants = gradients.constants[block]
        own_guarded = 0
        own_largest = zero
        for b in range(block, events.offsets.shape[0] - 1, cuda.gridDim.x):
            for h in range(thread, size, threads):
                for j in range(others):
                    adjoint[j, h] = zero  # of bin k + 1
                beta[h] = zero  # of bin k + 1
                later[h] = zero  # beta of bin k + 2
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
                                beta[h], adjoint_of(adjoint, h), flow_constants_of(constants, h),
                                k - target,
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
                        synapse, block, spikes, spike, end_spike, k, rows, order.lanes,
                        rows.received,
                    )  # fmt: skip
                for h in range(thread, size, threads):
                    following, beta_of_next = adjoint_of(adjoint, h), beta[h]
                    n = constants_of(constants, h)
                    _, after = adjoint_flow(beta_of_next, following, n)
                    put_adjoint(adjoint, h, after)
                    if traced:
                        adjoint[0, h] += upstream.trace[k, b, h]
                    if k == steps - 1:
                        for j in range(others):
                            adjoint[j, h] += upstream.last[j + 1, b, h]
                    own_spike = find(spikes.units, spike, end_spike, h)
                    if own_spike >= 0:
                        change = upstream.changes[own_spike]
                        if is_recurrent:
                            change += rows.received[own_spike - spike]
                        before, at_spike, acted, moved = grid_jump(
                            adjoint_of(adjoint, h), following, change,
                            kept_of(spikes.kept, own_spike), neurons.floor[h], n, neurons.reset,
                        )  # fmt: skip
                        own_guarded += acted
                        own_largest = max(own_largest, moved)
                        add_spike(of_constants, h, at_spike)
                        put_adjoint(adjoint, h, before)
                        adjoint[0, h] += upstream.marks[own_spike]
                    own = adjoint_of(adjoint, h)
                    now, _ = adjoint_flow(beta_of_next, own, n)
                    if k == steps - 1:
                        now += upstream.last[0, b, h]
                    if replays:
                        add_flow(of_constants, h, flow_gradients(
                            beta_of_next, own, replayed[block, 0, k - begin, h],
                            adjoint_of(replayed[block, 1:, k - begin], h),
                        ))  # fmt: skip
                    if dense:
                        gradients.current[k, b, h] = now
                    keep_adjoint(synapse, block, k, now, h)
                    gather(
                        synapse, order.ordered, part, block, events, event, end_event, spikes,
                        spike, end_spike, k, (now, beta_of_next), h,
                    )  # fmt: skip
                    beta[h], later[h] = now, beta_of_next
                if wants_events and event < end_event:
                    gradients_of_events(
                        synapse, block, events, event, end_event, k, rows, order.lanes,
                        gradients.values, gradients.changes,
                    )  # fmt: skip
                k -= 1
            for h in range(thread, size, threads):
                gradients.start[0, b, h] = beta[h]
                _, entering = adjoint_flow(
                    zero, adjoint_of(adjoint, h), constants_of(constants, h)
                )
                put_adjoint(gradients.start[1:, b], h, entering)
            if start.spikes.size > 0:
                own_guarded += before_first_bin(
                    b, part, order, synapse, neurons, start, gradients, rows
                )
        cuda.atomic.add(sums.guarded, 0, own_guarded)
        cuda.atomic.max(sums.largest, 0, own_largest)

    return backward
