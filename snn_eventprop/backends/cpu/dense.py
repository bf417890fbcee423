"""Synapses without delays on the CPU grid: an event adds its row of weights in its own bin.

The layer's own spikes arrive in the bin after. Rows are added, and gathered, by blocks of neurons
(``blocks``), so the kernels read them directly (``DIRECT``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .blocks import dot_rows, gather
from .compile import inlined, kernel

NAME = "dense"
DIRECT = True


class Dense(NamedTuple):
    """Weights of a layer, memory for work, and gradients. "Absent" arrays have size 0."""

    weight_rows: np.ndarray  # [N, H] or longer rows
    recurrent_rows: np.ndarray  # [pre, post] or longer rows, or absent
    grad_weight: np.ndarray  # [N, H + PAD], added to, or absent
    grad_recurrent: np.ndarray  # [pre, post + PAD], added to, or absent
    change: np.ndarray  # [H] for work
    ends: np.ndarray  # [max(N, H) + 1] for work
    rows: np.ndarray  # [most events or spikes in a sample] for work
    scales: np.ndarray  # the same, or absent where events have no values


@inlined
def reach(synapse):
    """The longest delay in bins."""
    return 0


# Forward.


@inlined
def begin_sample(synapse):
    """Nothing has been sent."""


@inlined
def quiet(synapse, k):
    """Whether nothing that was sent before bin ``k`` is still to arrive, spikes of bin k - 1 apart.
    """
    return True


@inlined
def resume(synapse, begin, spikes, lo, hi):
    """Start from bin ``begin``, spikes lo..hi of this sample having been sent before it."""


@inlined
def drive(synapse, work, row, k, begin, stop, events, lo, first, last, end):
    """What is added to I in bin ``k`` beside rows that are read directly.

    Args:
        work: [H] for work.   row: [H] input current of the bin, or absent.
        begin, stop: the segment of bins.
        events: this sample's are lo..end, those of bin k first..last.
    """
    return row


@inlined
def send(synapse, k, units, count):
    """Send spikes of bin ``k``."""


# Backward.


@inlined
def begin_sample_backward(synapse):
    """Beyond the end all adjoints are zero."""


@inlined
def change_at_receivers(synapse, out, spikes, lo, hi, k, beta, row):
    """How moving each spike lo..hi, all of bin k, by one bin changes the loss at its receivers.

    Args:
        out: [hi - lo] or more, written.   beta: row ``row`` is bin k.
    """
    _difference(synapse.change, beta[row + 2], beta[row + 1])
    dot_rows(synapse.recurrent_rows, spikes.units[lo:], 0, hi - lo, synapse.change, out)


@inlined
def value_at_receivers(synapse, out, peaks, lo, hi, k, beta, row):
    """What a spike at each peak lo..hi, all of bin k, would add to the loss at its receivers.

    Args:
        out: [hi - lo] or more, written.   beta: row ``row`` is bin k.
    """
    size = synapse.change.shape[0]
    dot_rows(synapse.recurrent_rows, peaks.units[lo:], 0, hi - lo, beta[row + 1, :size], out)


@inlined
def remember(synapse, k, beta, row):
    """Keep of bin k what earlier spikes will need."""


@inlined
def _difference(out, x, y):
    for h in range(out.shape[0]):
        out[h] = x[h] - y[h]


@kernel
def _of_events(grad_values, grad_changes, synapse, events, lo, hi, begin, beta):
    change, weight = synapse.change, synapse.weight_rows
    size = change.shape[0]
    e = lo
    while e < hi:
        first = e
        while e < hi and events.bins[e] == events.bins[first]:
            e += 1
        row = events.bins[first] - begin
        if grad_values.size > 0:
            dot_rows(weight, events.units, first, e, beta[row, :size], grad_values)
        if grad_changes.size > 0:
            _difference(change, beta[row + 1], beta[row])
            dot_rows(weight, events.units, first, e, change, grad_changes)


@inlined
def gather_segment(synapse, events, lo, hi, spikes, out_lo, out_hi, begin, beta, gradients):
    """Gradients from a segment's input events lo..hi and spikes out_lo..out_hi.

    Of weights; and, where these are wanted, of each input event's value and bin. Row t of ``beta``
    is that of bin begin + t.
    """
    if synapse.grad_weight.size > 0:
        gather(
            synapse.grad_weight, events.bins, events.units, events.values, lo, hi, begin, beta,
            synapse.ends, synapse.rows, synapse.scales,
        )  # fmt: skip
    if synapse.grad_recurrent.size > 0:  # spikes of bin k arrive in bin k + 1
        gather(
            synapse.grad_recurrent, spikes.bins, spikes.units, events.values[:0], out_lo, out_hi,
            begin - 1, beta, synapse.ends, synapse.rows, synapse.scales,
        )  # fmt: skip
    if gradients.values.size > 0 or gradients.changes.size > 0:
        _of_events(
            gradients.values, gradients.changes, synapse, events, lo, hi, begin, beta
        )
