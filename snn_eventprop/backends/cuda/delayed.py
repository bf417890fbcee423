"""Synapses with delays on the GPU: rings of the bins in which events are still to arrive.

The functions that the kernels call are those of ``dense``, which documents them. Recordings behind
delays are not cut into chunks: no spike comes before the first bin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ops.checks import DIVERGED, check_delays, check_finite
from ...ops.grid import present
from .launch import device, scalar
from .synaptic_sums import add_to_row, dot_delayed, first_from, send, send_late

NAME = "delayed"


class Delayed(NamedTuple):
    """Weights, delays in bins, rings and gradients, as in ``dense.Dense``."""

    weight: Any  # [N, H]
    recurrent: Any  # [pre, post] or absent
    delay: Any  # [N, H] int32
    recurrent_delay: Any  # [pre, post] int32
    longest: int
    rings: Any  # [samples or blocks, longest + 1, H]: input of the bins to come
    betas: Any  # [blocks, longest + 3, H]: beta of the bins that came
    grad_weight: Any  # [P, N, H], added to, or absent
    grad_recurrent: Any  # [P, pre, post], added to, or absent
    grad_delay: Any  # [P, N, H], added to, or absent: changes of beta from the bin of arrival on
    grad_recurrent_delay: Any  # [P, pre, post], added to, or absent


def _in_bins(weight: Tensor, delays: Sequence[Tensor]) -> tuple[list[Tensor], int]:
    """Delays in whole bins, zeros for none of a kind, and the longest.

    Raises:
        ValueError: delays that are NaN, negative or too long.
    """
    shapes = (tuple(weight.shape), (weight.shape[1],) * 2)
    longest = 0
    bins = []
    for name, value, shape in zip(("delay", "recurrent_delay"), delays, shapes, strict=True):
        if not present(value):
            bins.append(weight.new_zeros(shape, dtype=torch.int32))
            continue
        rounded = value.detach().round()
        if rounded.numel():
            # Rings have a row for each bin of the longest one: here the GPU is waited for.
            low, high = torch.stack([rounded.min(), rounded.max()]).tolist()
            if math.isnan(low):
                check_finite(DIVERGED, **{name: value})
            check_delays(name, low, high)
            longest = max(longest, int(high))
        bins.append(rounded.to(torch.int32).contiguous())
    return bins, longest


def arrays(
    weights: Sequence[Tensor], delays: Sequence[Tensor], like: Tensor, slots: int,
    gradients: Sequence[Tensor],
) -> Delayed:  # fmt: skip
    bins, longest = _in_bins(weights[0], delays)
    size, backward = like.shape[1], len(gradients) > 0
    rings = like.new_empty(slots, longest + 1, size)
    betas = like.new_empty((slots, longest + 3, size) if backward else (0, 0, 0))
    return Delayed._make((
        *weights, *bins, longest, rings, betas, *(gradients or [like.new_empty(0, 0, 0)] * 4)
    ))  # fmt: skip


def delayed_adjoint(grad_current: Tensor, weight: Tensor, delay: Tensor) -> Tensor:
    """``op.delayed_adjoint`` on a GPU: one product for each delay in bins."""
    steps, batch, _ = grad_current.shape
    (bins, _), longest = _in_bins(weight, (delay, weight.new_empty(0)))
    out = grad_current.new_zeros(steps, batch, weight.shape[0])
    for d in range(min(longest + 1, steps)):
        out[: steps - d] += grad_current[d:] @ torch.where(bins == d, weight, 0).T
    return out


@scalar
def reach(synapse):
    return synapse.longest


# Forward.


@scalar
def clear(synapse, slot, h):
    for row in range(synapse.rings.shape[1]):
        synapse.rings[slot, row, h] = synapse.weight.dtype.type(0)


@scalar
def resume(synapse, slot, begin, events, first, event, spikes, first_spike, before, h):
    clear(synapse, slot, h)
    ring, longest = synapse.rings[slot], synapse.longest
    on_its_way = first_from(events.bins, first, event, begin - longest)
    send_late(
        ring, begin, 0, synapse.weight, synapse.delay, (events.bins, events.units, events.values),
        on_its_way, event, h,
    )  # fmt: skip
    if synapse.recurrent.size > 0:
        on_its_way = first_from(spikes.bins, first_spike, before, begin - 1 - longest)
        send_late(
            ring, begin, 1, synapse.recurrent, synapse.recurrent_delay,
            (spikes.bins, spikes.units, events.values[:0]), on_its_way, before, h,
        )  # fmt: skip


@scalar
def arrive(current, synapse, slot, k, events, lo, hi, senders, first, last, h):
    ring = synapse.rings[slot]
    send(ring, k, synapse.weight, synapse.delay, events.units, events.values, lo, hi, h)
    if synapse.recurrent.size > 0:
        no_values = events.values[:0]
        send(
            ring, k, synapse.recurrent, synapse.recurrent_delay, senders, no_values, first, last, h
        )
    row = k % ring.shape[0]
    current += ring[row, h]
    ring[row, h] = synapse.weight.dtype.type(0)
    return current


@scalar
def arrive_in_first_bin(current, synapse, spikes0, b, h):
    return current


# Backward.


@scalar
def clear_adjoint(synapse, block, h):
    for row in range(synapse.betas.shape[1]):
        synapse.betas[block, row, h] = synapse.weight.dtype.type(0)


@scalar
def keep_adjoint(synapse, block, k, beta, h):
    synapse.betas[block, k % synapse.betas.shape[1], h] = beta


@device
def change_at_receivers(synapse, block, spikes, lo, hi, k, rows, lanes):
    dot_delayed(
        synapse.recurrent, synapse.recurrent_delay, spikes.units, lo, hi, synapse.betas[block],
        k + 1, True, rows.scratch, lanes, rows.received, 0,
    )  # fmt: skip


@scalar
def send_back_before_first_bin(synapse, order, part, spikes0, direct, rows):
    pass


@device
def _add_delayed(grads, ordered, part, delays, sources, lo, hi, ring, row, h):
    """Gradients of weights and delays from events that are sent from bin ``row`` of the ring."""
    grad_rows, grad_delays = grads
    units, values = sources
    for e in range(lo, hi):
        n = units[e]
        there = row + delays[n, h]
        now = ring[there % ring.shape[0], h]
        change = ring[(there + 1) % ring.shape[0], h] - now
        if values.shape[0] > 0:
            now, change = values[e] * now, values[e] * change
        if grad_rows.size > 0:
            add_to_row(grad_rows, ordered, part, n, h, now)
        if grad_delays.size > 0:
            add_to_row(grad_delays, ordered, part, n, h, change)


@device
def gather(synapse, ordered, part, block, events, lo, hi, spikes, out_lo, out_hi, k, betas, h):
    ring = synapse.betas[block]
    _add_delayed(
        (synapse.grad_weight, synapse.grad_delay), ordered, part, synapse.delay,
        (events.units, events.values), lo, hi, ring, k, h,
    )  # fmt: skip
    if synapse.recurrent.size > 0:
        _add_delayed(
            (synapse.grad_recurrent, synapse.grad_recurrent_delay), ordered, part,
            synapse.recurrent_delay, (spikes.units, events.values[:0]), out_lo, out_hi, ring,
            k + 1, h,
        )  # fmt: skip


@device
def gradients_of_events(synapse, block, events, lo, hi, k, rows, lanes, values, changes):
    ring = synapse.betas[block]
    if values.size > 0:
        dot_delayed(
            synapse.weight, synapse.delay, events.units, lo, hi, ring, k, False, rows.scratch,
            lanes, values, lo,
        )  # fmt: skip
    if changes.size > 0:
        dot_delayed(
            synapse.weight, synapse.delay, events.units, lo, hi, ring, k, True, rows.scratch,
            lanes, changes, lo,
        )  # fmt: skip
