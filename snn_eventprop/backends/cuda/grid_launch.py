"""The operators of the grid solver on NVIDIA GPUs: memory and launches."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from ...discretisation import largest_response
from ...neurons import neuron as neuron_module
from ...ops import grid as op
from ..arrays import Events, Gradients, Outputs, Spikes, Start, Upstream
from . import delayed, dense, launch
from .arrays import BACKWARD_ROWS, Order, Population, SpikesBySample, Sums
from .grid_backward import backward_kernel
from .grid_forward import collect, forward_kernel, list_entries
from .launch_helpers import (
    first_room,
    offsets_of,
    read,
    row,
    share_of_blocks,
    sum_of_parts,
    with_room,
    zeros_if,
)


def _row(tensor: Tensor, like: Tensor, ndim: int) -> Tensor:
    return row(tensor if op.present(tensor) else None, like, ndim)


def _events(events: Sequence[Tensor], like: Tensor) -> Events:
    bins, units, values, offsets = (tensor.detach().contiguous() for tensor in events)
    return Events(bins, units, values.to(like.dtype), offsets)


def _population(constants: Tensor, floor: Tensor, reset: int) -> Population:
    rows = torch.cat([constants, torch.ones_like(constants[:1])]).contiguous()
    return Population(rows, largest_response(*rows[:3]), row(floor, rows, 1), reset)


def _synapses(
    synapses: Sequence[Tensor], like: Tensor, slots: int, gradients: Sequence[Tensor]
) -> tuple[ModuleType, tuple]:
    """The synapse's module and its arrays."""
    module = delayed if op.delays_given(synapses) else dense
    weight, recurrent, *delays = synapses
    weights = _row(weight, like, 2), _row(recurrent, like, 2)
    return module, module.arrays(weights, delays, like, slots, gradients)


def grid_forward(
    events: Sequence[Tensor],
    drive: Sequence[Tensor],
    synapses: Sequence[Tensor],
    constants: Tensor,
    floor: Tensor,
    width: Tensor,
    start: Sequence[Tensor],
    probe: Tensor,
    neuron: str,
    steps: int,
    reset: int,
    record: bool,
    keep_states: bool,
) -> tuple[Tensor, ...]:
    """``op.grid_forward`` on a GPU."""
    if op.present(width):
        raise NotImplementedError(
            'gradient="hybrid" runs on the CPU so far; on a GPU choose gradient="exact"'
        )
    kind, like = neuron_module(neuron), constants.detach()
    batch, size, variables = events[3].numel() - 1, like.shape[1], len(kind.STATE)
    segment = op.SEGMENT["cuda"]
    last = zeros_if((variables, batch, size), like)
    trace = zeros_if((steps, batch, size), like, record)
    states = zeros_if((batch, -(-steps // segment), variables, size), like, keep_states)
    counts = torch.zeros(batch, dtype=torch.int64, device=like.device)
    entries = list_entries(size)
    shared = 4 * entries <= launch.SHARED_BYTES
    lists = torch.empty(
        (0, 0) if shared else (batch, entries), dtype=torch.uint32, device=like.device
    )
    threads = launch.threads_for(size)
    module, arrays = _synapses(synapses, like, batch, ())
    state0, spikes0, slopes0 = start
    before = Start(
        row(state0, like, 3) if op.present(state0) else torch.zeros_like(last),
        _row(spikes0, like, 2), _row(slopes0, like, 2),
    )  # fmt: skip
    arguments = (
        steps, _events(events, like), _row(drive[2], like, 3), arrays,
        _population(like, floor, reset), before, Outputs(last, trace, states), segment, shared,
        like.new_empty(batch, variables, size), lists,
    )  # fmt: skip
    kernel = forward_kernel(kind, module)
    spikes: list[SpikesBySample] = []  # of the last run

    def run(room: int) -> tuple[int, int]:
        spikes[:] = [SpikesBySample(
            torch.empty(batch, room, dtype=torch.int32, device=like.device),
            torch.empty(batch, room, dtype=torch.int32, device=like.device),
            like.new_empty(batch, len(kind.KEPT), room), counts,
        )]  # fmt: skip
        launch.launch(
            kernel, batch, threads, 4 * entries if shared else 0, *arguments, *spikes
        )
        return read(counts, weight=synapses[0], recurrent_weight=synapses[1])

    found = with_room(("grid", size, steps), first_room(size, steps), run) if batch else 0
    out_offsets = offsets_of(counts)
    stamps, marks = like.new_empty(found), like.new_empty(found)
    kept = like.new_empty(len(kind.KEPT), found)
    out_bins = torch.empty(found, dtype=torch.int32, device=like.device)
    out_units = torch.empty(found, dtype=torch.int64, device=like.device)
    if found:
        launch.launch(
            collect, batch, threads, 0,
            *spikes, out_offsets, out_bins, out_units, kept, stamps, marks,
        )  # fmt: skip
    return (
        stamps, marks, out_bins, out_units, kept, out_offsets, last, trace, states,
        *op.no_peaks(kind, like),
    )  # fmt: skip


def grid_backward(
    events: Sequence[Tensor],
    input_current: Tensor,
    synapses: Sequence[Tensor],
    constants: Tensor,
    floor: Tensor,
    width: Tensor,
    start: Sequence[Tensor],
    spikes: Sequence[Tensor],
    states: Tensor,
    peaks: Sequence[Tensor],
    upstream: Sequence[Tensor],
    neuron: str,
    steps: int,
    reset: int,
    want: Sequence[bool],
) -> tuple[Tensor, ...]:
    """``op.grid_backward`` on a GPU."""
    kind, like = neuron_module(neuron), constants.detach()
    weight, recurrent, delay, recurrent_delay = synapses
    want_weight, want_values, want_changes, want_current = want
    batch, size, inputs = events[3].numel() - 1, like.shape[1], weight.shape[0]
    variables, itemsize = len(kind.STATE), like.element_size()
    is_recurrent, continues = op.present(recurrent), op.present(start[0])
    of_delay, of_recurrent = op.present(delay), is_recurrent and op.present(recurrent_delay)
    rows = inputs * (want_weight + of_delay) + size * (is_recurrent + of_recurrent)
    ordered, blocks, parts = share_of_blocks(batch, rows, size, itemsize)
    partial = [
        zeros_if((parts, inputs, size), like, want_weight),
        zeros_if((parts, size, size), like, is_recurrent),
        zeros_if((parts, inputs, size), like, of_delay),
        zeros_if((parts, size, size), like, of_recurrent),
    ]
    count_constants = len(kind.FLOW_CONSTANTS) + len(kind.SPIKE_CONSTANTS)
    gradients = Gradients(
        zeros_if((blocks, count_constants, size), like),
        zeros_if((steps, batch, size), like, want_current),
        zeros_if((events[0].numel(),), like, want_values),
        zeros_if((events[0].numel(),), like, want_changes),
        zeros_if((variables, batch, size), like),
        zeros_if((batch, size), like, continues),
    )
    sums = Sums(torch.zeros(1, dtype=torch.int64, device=like.device), like.new_zeros(1))
    threads = launch.threads_for(size)
    wide = max(size, threads)
    shared = 2 * wide * itemsize <= launch.SHARED_BYTES
    everyone = torch.arange(size if is_recurrent and continues else 0, device=like.device)
    segment = op.SEGMENT["cuda"]
    module, arrays = _synapses(synapses, like, blocks, partial)
    out_bins, out_units, kept, out_offsets = spikes
    of_spikes = Spikes(
        out_bins.contiguous(), out_units.contiguous(), row(kept, like, 2),
        out_offsets.contiguous(),
    )  # fmt: skip
    changes, marks, last, trace, values = upstream
    of_loss = Upstream(
        row(changes, like, 1), row(marks, like, 1), row(last, like, 3), _row(trace, like, 3),
        row(values, like, 1),
    )
    launch.launch(
        backward_kernel(kind, module), blocks, threads,
        2 * wide * itemsize if shared else 0,
        steps, _events(events, like), _row(input_current, like, 3), arrays,
        _population(like, floor, reset),
        Start(like.new_empty(variables, 0, 0), *(_row(tensor, like, 2) for tensor in start)),
        states, segment, of_spikes, of_loss, gradients, sums,
        Order(ordered, min(launch.LANES, threads), shared, everyone),
        like.new_empty(blocks, variables - 1 + BACKWARD_ROWS, wide),
        like.new_empty((blocks, variables, segment, size) if states.numel() else (0, 0, 0, 0)),
    )  # fmt: skip
    grad_weight, grad_recurrent, grad_delay, grad_recurrent_delay = (
        sum_of_parts(grad, of if wanted else None)
        for grad, of, wanted in zip(
            partial, (weight, recurrent, weight, recurrent),
            (want_weight, is_recurrent, of_delay, of_recurrent), strict=True,
        )
    )  # fmt: skip
    jumps = torch.cat([sums.guarded.double(), sums.largest.double()])
    return (
        grad_weight, grad_recurrent,
        # Of a delay, per bin: its weight times the changes that it moved events across.
        weight * grad_delay if of_delay else grad_delay,
        recurrent * grad_recurrent_delay if of_recurrent else grad_recurrent_delay,
        gradients.constants.sum(0), gradients.current, gradients.values, gradients.changes,
        gradients.start, gradients.spikes0, jumps,
    )  # fmt: skip
