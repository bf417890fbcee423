"""Synapses without delays on the GPU: an event adds its row of weights in its own bin.

The layer's own spikes arrive in the bin after. Functions of one neuron, ``h``, are called by its
thread. Those that sum over neurons are called by all threads of the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from numba import cuda
from torch import Tensor

from .launch import device, scalar
from .synaptic_sums import add_rows, add_to_row, dot_rows

NAME = "dense"


class Dense(NamedTuple):
    """Weights and gradients. P is the number of blocks where gradients are summed in order, else 1.
    """

    weight: Any  # [N, H]
    recurrent: Any  # [pre, post] or absent
    grad_weight: Any  # [P, N, H], added to, or absent
    grad_recurrent: Any  # [P, pre, post], added to, or absent


def arrays(
    weights: Sequence[Tensor], delays: Sequence[Tensor], like: Tensor, slots: int,
    gradients: Sequence[Tensor],
) -> Dense:  # fmt: skip
    """What the kernels read and write.

    Args:
        weights: contiguous; of inputs, of the layer's own spikes.   delays: the same, in bins.
        slots: samples or blocks that are under way at once.
        gradients: of weights and of delays; empty in the forward pass.
    """
    of_weight, of_recurrent, *_ = gradients or [like.new_empty(0, 0, 0)] * 4
    return Dense(weights[0], weights[1], of_weight, of_recurrent)


@scalar
def reach(synapse):
    """The longest delay in bins."""
    return 0


# Forward.


@scalar
def clear(synapse, slot, h):
    """Nothing is on its way to neuron h of the sample with this slot of memory."""


@scalar
def resume(synapse, slot, begin, events, first, event, spikes, first_spike, before, h):
    """What is on its way to neuron h at the start of bin ``begin``.

    Args:
        first, event: input events first..event of the sample come before that bin.
        first_spike, before: spikes first_spike..before come before the last bin before it.
    """


@scalar
def arrive(current, synapse, slot, k, events, lo, hi, senders, first, last, h):
    """``current`` of neuron h and what arrives in bin k.

    Args:
        lo, hi: input events of bin k.
        senders, first, last: units that spiked in bin k - 1.
    """
    current = add_rows(current, synapse.weight, events.units, events.values, lo, hi, h)
    if synapse.recurrent.size > 0:
        no_values = events.values[:0]
        current = add_rows(current, synapse.recurrent, senders, no_values, first, last, h)
    return current


@scalar
def arrive_in_first_bin(current, synapse, spikes0, b, h):
    """``current`` of neuron h and what spikes of the bin before the first one add to it."""
    if synapse.recurrent.size > 0:
        for n in range(spikes0.shape[1]):
            if spikes0[b, n] != 0:
                current += synapse.recurrent[n, h]
    return current


# Backward.


@scalar
def clear_adjoint(synapse, block, h):
    """Beyond the end all adjoints are zero."""


@scalar
def keep_adjoint(synapse, block, k, beta, h):
    """Keep beta of bin k for events that arrive in it."""


@device
def change_at_receivers(synapse, block, spikes, lo, hi, k, rows, lanes):
    """How moving each spike lo..hi, all of bin k, by one bin changes the loss at its receivers.

    Written to ``rows.received``.
    """
    for h in range(cuda.threadIdx.x, rows.beta.shape[0], cuda.blockDim.x):
        rows.x[h] = rows.later[h] - rows.beta[h]
    dot_rows(
        synapse.recurrent, spikes.units, lo, hi, rows.x, rows.scratch, lanes, rows.received, 0
    )


@device
def send_back_before_first_bin(synapse, order, part, spikes0, direct, rows):
    """What neurons receive in bin 0 if they spike in the bin before, and gradients of weights.

    Args:
        spikes0: [H] of that bin.
        direct: [H], written: what each spike adds to the loss. The change of that from bin 0 to
            bin 1 is written to ``rows.received``.
    """
    thread, threads, size = cuda.threadIdx.x, cuda.blockDim.x, rows.beta.shape[0]
    for h in range(thread, size, threads):
        rows.x[h] = rows.later[h]
    dot_rows(
        synapse.recurrent, order.everyone, 0, size, rows.x, rows.scratch, order.lanes,
        rows.received, 0,
    )  # fmt: skip
    for h in range(thread, size, threads):
        rows.x[h] = rows.beta[h]
    dot_rows(
        synapse.recurrent, order.everyone, 0, size, rows.x, rows.scratch, order.lanes, direct, 0
    )
    for n in range(size):
        if spikes0[n] != 0:
            for h in range(thread, size, threads):
                add_to_row(synapse.grad_recurrent, order.ordered, part, n, h, rows.beta[h])


@device
def gather(synapse, ordered, part, block, events, lo, hi, spikes, out_lo, out_hi, k, betas, h):
    """Gradients of neuron h's synapses from input events lo..hi and spikes out_lo..out_hi of bin k.

    Args:
        betas: of bin k, and of bin k + 1.
    """
    now, following = betas
    if synapse.grad_weight.size > 0:
        for e in range(lo, hi):
            x = events.values[e] * now if events.values.shape[0] > 0 else now
            add_to_row(synapse.grad_weight, ordered, part, events.units[e], h, x)
    if synapse.recurrent.size > 0:  # spikes of bin k arrive in bin k + 1
        for e in range(out_lo, out_hi):
            add_to_row(synapse.grad_recurrent, ordered, part, spikes.units[e], h, following)


@device
def gradients_of_events(synapse, block, events, lo, hi, k, rows, lanes, values, changes):
    """Of one unit of each input event lo..hi of bin k, and the change of that to the next bin."""
    thread, threads, size = cuda.threadIdx.x, cuda.blockDim.x, rows.beta.shape[0]
    if values.size > 0:
        for h in range(thread, size, threads):
            rows.x[h] = rows.beta[h]
        dot_rows(synapse.weight, events.units, lo, hi, rows.x, rows.scratch, lanes, values, lo)
    if changes.size > 0:
        for h in range(thread, size, threads):
            rows.x[h] = rows.later[h] - rows.beta[h]
        dot_rows(synapse.weight, events.units, lo, hi, rows.x, rows.scratch, lanes, changes, lo)
