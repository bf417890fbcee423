"""The operators of the exact solver on NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...ops import exact as op
from .. import exact_arrays as arrays
from . import exact as kernels
from . import launch
from .arrays import Sums
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

# The place of a state that has not been stored.
_NOWHERE = torch.iinfo(torch.int64).max


def _arguments(
    events: Sequence[Tensor], weights: Sequence[Tensor], population: Sequence[Tensor]
) -> tuple[arrays.Events, arrays.Rows, kernels.Neurons]:
    like = weights[0].detach()
    tau_mem, tau_syn, *others = population
    return (
        arrays.Events(*(tensor.detach().contiguous() for tensor in events)),
        arrays.Rows(
            like.contiguous(), op.recurrent_rows(weights[1], like).detach().contiguous()
        ),
        kernels.Neurons(
            op.rates(tau_mem), op.rates(tau_syn), *(row(tensor, like, 1) for tensor in others)
        ),
    )  # fmt: skip


def exact_forward(
    events: Sequence[Tensor],
    weights: Sequence[Tensor],
    population: Sequence[Tensor],
    probe: Tensor,
    duration: float,
    limit: int,
    keep: bool,
    name: str,
) -> tuple[Tensor, ...]:
    times, _, offsets = events
    like = weights[0].detach()
    batch, size = offsets.numel() - 1, like.shape[1]
    device, segment = like.device, kernels.SEGMENT
    counts = torch.zeros(batch, dtype=torch.int64, device=device)
    stops = torch.zeros(batch, dtype=torch.float64, device=device)
    entries = kernels.list_entries(size)
    shared = 4 * entries <= launch.SHARED_BYTES
    lists = torch.empty((0, 0) if shared else (batch, entries), dtype=torch.uint32, device=device)
    work = torch.empty(batch, kernels.FORWARD_ROWS, size, dtype=torch.float64, device=device)
    threads = launch.threads_for(size)
    of_events, rows, neurons = _arguments(events, weights, population)
    spikes: list[Tensor] = []
    kept: list[Tensor] = []

    def run(room: int) -> tuple[int, int]:
        # At most a state every ``segment`` events, and one at the start.
        samples = torch.arange(batch + 1, device=device)
        state_offsets = (offsets + samples * room) // segment + 2 * samples
        slots = (times.numel() + batch * room) // segment + 2 * batch if keep else 0
        kept[:] = (
            like.new_empty(slots, 2, size),
            # Where neurons cross together, fewer are stored: the rest come after every place.
            torch.full((slots,), _NOWHERE, dtype=torch.int64, device=device), state_offsets,
        )  # fmt: skip
        spikes[:] = (
            torch.empty(batch, room, dtype=torch.float64, device=device),
            torch.empty(batch, room, dtype=torch.int32, device=device),
            like.new_empty(batch, room),
            torch.empty(batch, room, dtype=torch.int32, device=device),
        )
        launch.launch(
            kernels.forward, batch, threads, 4 * entries if shared else 0,
            of_events, duration, rows, neurons, kernels.Stops(limit, stops), segment, shared, work,
            lists, arrays.States(*kept), arrays.Spikes._make((*spikes, counts)),
        )  # fmt: skip
        most, total = read(counts, weight=weights[0], recurrent_weight=weights[1])
        if most > limit:
            sample = int((counts > limit).nonzero()[0])
            raise op.runaway(name, sample, limit, stops[sample].item())
        return most, total

    if batch:
        total = with_room(("exact", size, duration), min(first_room(size), limit), run)
    else:
        total = 0
        kept[:] = (
            like.new_empty(0, 2, size), torch.empty(0, dtype=torch.int64, device=device),
            torch.zeros(1, dtype=torch.int64, device=device),
        )  # fmt: skip
    out_offsets = offsets_of(counts)
    at = torch.empty(total, dtype=torch.float64, device=device)
    out_units = torch.empty(total, dtype=torch.int64, device=device)
    slopes, stamps, marks = (like.new_empty(total) for _ in range(3))
    before = torch.empty(total, dtype=torch.int32, device=device)
    if total:
        launch.launch(
            kernels.collect, batch, threads, 0,
            *spikes, out_offsets, at, out_units, slopes, before, stamps, marks,
        )  # fmt: skip
    return stamps, marks, out_units, out_offsets, at, slopes, before, *kept


def exact_backward(
    events: Sequence[Tensor],
    weights: Sequence[Tensor],
    population: Sequence[Tensor],
    spikes: Sequence[Tensor],
    states: Sequence[Tensor],
    upstream: Sequence[Tensor],
    keep: bool,
    want_times: bool,
) -> tuple[Tensor, ...]:
    like = weights[0].detach()
    batch, (inputs, size) = events[2].numel() - 1, like.shape
    of_events, rows, neurons = _arguments(events, weights, population)
    itemsize = like.element_size()
    ordered, blocks, parts = share_of_blocks(
        batch, inputs + len(rows.recurrent), size, itemsize
    )
    grad_rows = arrays.Rows(
        zeros_if((parts, inputs, size), like), zeros_if((parts, *rows.recurrent.shape), like)
    )
    double = like.new_empty(0, dtype=torch.float64)
    of_mem, of_syn = (zeros_if((blocks, size), double, keep) for _ in range(2))
    of_times = zeros_if(tuple(events[0].shape), like, want_times)
    gradients = arrays.Gradients(zeros_if((blocks, size), like), of_mem, of_syn, of_times)
    sums = Sums(torch.zeros(1, dtype=torch.int64, device=like.device), like.new_zeros(1))
    threads = launch.threads_for(size)
    lanes = min(launch.LANES, threads)
    segment = kernels.SEGMENT
    out_units, out_offsets, out_times, slopes, before = spikes
    launch.launch(
        kernels.backward, blocks, threads, (threads + lanes) * itemsize,
        of_events, rows, neurons,
        arrays.Spikes(out_times, out_units, slopes, before, out_offsets),
        arrays.States(*states), segment,
        arrays.Upstream(*(row(grad, like, 1) for grad in upstream)), grad_rows, gradients, sums,
        ordered, lanes, like.new_empty(blocks, kernels.BACKWARD_ROWS, size),
        like.new_empty((blocks, 2, segment, size) if keep else (0, 0, 0, 0)),
    )  # fmt: skip
    taus = zip((gradients.tau_mem, gradients.tau_syn), population[:2], strict=True)
    return (
        sum_of_parts(grad_rows.input, weights[0]),
        sum_of_parts(grad_rows.recurrent, op.recurrent_rows(weights[1], like)),
        gradients.threshold.sum(0),
        *(
            op.of_tau(grad.sum(0), tau) if keep else double.new_empty(0) for grad, tau in taus
        ),
        gradients.times, torch.cat([sums.guarded.double(), sums.largest.double()]),
    )  # fmt: skip
