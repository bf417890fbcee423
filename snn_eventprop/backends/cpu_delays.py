"""Synapses with delays on the CPU grid: what arrives when, and what it is worth.

An event of unit i in bin k reaches neuron j in bin k + d_ij (a spike, in bin k + 1 + d_ij), d in
whole bins. So each event touches as many bins as there are different delays, one neuron in each,
and work goes by pairs of event and neuron:

- input events are known beforehand. Neuron by neuron, in a trace of one segment of time that stays
  in the first-level cache, each unit's events are put where they arrive (``collect``), or what
  they are worth is read from where they arrived (``gather``); traces of a few neurons at a time are
  transposed into, or from, the rows of bins that the loops over time use.
- spikes are sent when they happen (``send``) and, backwards, the change of their worth is summed
  over the neurons that they reach, each at its own bin (``worth_of_spikes``).

A delay's gradient per bin is the weight times the sum over events of what one unit of current is
worth one bin after each arrival, less what it is worth at the arrival.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .by_unit import first_from, sort_by_unit
from .compile import index as _index
from .compile import kernel, sum_kernel

_STRIPE = 16  # neurons whose traces are transposed at once: a cache line of float32


class Delays(NamedTuple):
    """Delays of a layer, what its loops need for them, and the gradients they leave.

    N inputs, H neurons; R bins in a segment; "absent" arrays have size 0.
    """

    longest: int  # bins
    weight: np.ndarray  # [H, N]
    input: np.ndarray  # [H, N] int32, bins
    input_rows: np.ndarray  # [N, H], the same
    recurrent: np.ndarray  # [post, pre] int32, bins, or absent
    recurrent_rows: np.ndarray  # [pre, post], the same
    arrivals: np.ndarray  # [(R + longest + 2) H] what arrives in each bin of a segment; forward
    changes: np.ndarray  # [R + longest + 2, H] beta of the next bin less beta; backward
    traces: np.ndarray  # [_STRIPE, R + 2 longest + 3] for work
    ends: np.ndarray  # [max(N, H) + 1] for work
    rows: np.ndarray  # [most events or spikes in a sample] for work
    scales: np.ndarray  # the same, or absent where events have no values
    grad_weight: np.ndarray  # [H, N], added to
    grad_input: np.ndarray  # [H, N], added to: sums of changes of worth
    grad_recurrent_weight: np.ndarray  # [post, pre] or absent, added to
    grad_recurrent: np.ndarray  # [post, pre] or absent, added to


@kernel
def _arrive(trace, weight, delay, ends, rows, scales):
    """Put every unit's events where they arrive at one neuron."""
    first = 0
    for i in range(weight.shape[0]):
        w, d = weight[_index(i)], delay[_index(i)]
        last = ends[_index(i)]
        if scales.shape[0] > 0:
            for e in range(first, last):
                trace[_index(rows[_index(e)] + d)] += w * scales[_index(e)]
        else:
            for e in range(first, last):
                trace[_index(rows[_index(e)] + d)] += w
        first = last


@kernel
def _read(trace, grad_weight, grad_delay, delay, ends, rows, scales):
    """Sum over every unit's events of the trace where they arrive at one neuron, and its change."""
    zero = trace.dtype.type(0)
    first = 0
    for i in range(delay.shape[0]):
        d = delay[_index(i)]
        last = ends[_index(i)]
        now, next_bin = zero, zero
        if scales.shape[0] > 0:
            for e in range(first, last):
                at = _index(rows[_index(e)] + d)
                now += scales[_index(e)] * trace[at]
                next_bin += scales[_index(e)] * trace[at + _index(1)]
        else:
            for e in range(first, last):
                at = _index(rows[_index(e)] + d)
                now += trace[at]
                next_bin += trace[at + _index(1)]
        grad_weight[_index(i)] += now
        grad_delay[_index(i)] += next_bin - now
        first = last


@kernel
def _into_rows(rows, size, traces, first, stop, count, skip):
    """rows[t, first + i] = traces[i, skip + t] for t < count, as long as first + i < stop."""
    for t in range(count):
        for i in range(stop - first):
            to = _index(t) * _index(size) + _index(first) + _index(i)
            rows[to] = traces[_index(i), _index(skip) + _index(t)]


@kernel
def _from_rows(traces, rows, first, stop, count):
    """traces[i, t] = rows[t, first + i] for t < count."""
    for t in range(count):
        for i in range(stop - first):
            traces[_index(i), _index(t)] = rows[_index(t), _index(first) + _index(i)]


@kernel
def _send(arrivals, weight, delay):
    """Put a spike, whose undelayed arrival is in the first of these rows, where it arrives."""
    size = weight.shape[0]
    for j in range(size):
        at = _index(delay[_index(j)]) * _index(size) + _index(j)
        arrivals[at] += weight[_index(j)]


@kernel
def _send_late(arrivals, row, weight, delay):
    """The same for one of an earlier segment, in row < 0 of this one: what arrives in this one."""
    size = weight.shape[0]
    for j in range(size):
        late = row + delay[_index(j)]
        if late >= 0:
            arrivals[_index(late) * _index(size) + _index(j)] += weight[_index(j)]


@kernel
def send(delays, recurrent, k, units):
    """Put spikes of bin ``k`` of the segment where they arrive."""
    size = recurrent.shape[0]
    for e in range(units.shape[0]):
        n = units[e]
        _send(delays.arrivals[(k + 1) * size :], recurrent[n], delays.recurrent_rows[n])


@kernel
def collect(
    delays, begin, end, bins, units, values, lo, hi, recurrent, out_bins, out_units, out_lo, out_hi
):
    """Fill ``arrivals`` with what arrives in bins begin..end of a sample.

    Args:
        bins, units, values: input events; this sample's are ``lo..hi``.
        out_bins, out_units: spikes; those known of this sample are ``out_lo..out_hi``.
    """
    size, inputs = delays.weight.shape
    arrivals, traces, longest = delays.arrivals, delays.traces, delays.longest
    first = first_from(bins, lo, hi, begin - longest)
    last = first_from(bins, first, hi, end)
    if last > first:
        sort_by_unit(
            inputs, bins, units, values, first, last, begin - longest,
            delays.ends, delays.rows, delays.scales,
        )  # fmt: skip
        used = delays.scales if values.shape[0] > 0 else values
        for start in range(0, size, _STRIPE):
            stop = min(start + _STRIPE, size)
            for j in range(start, stop):
                trace = traces[j - start]
                trace[: end - begin + 2 * longest] = 0
                _arrive(trace, delays.weight[j], delays.input[j], delays.ends, delays.rows, used)
            _into_rows(arrivals, size, traces, start, stop, end - begin, longest)
    else:
        arrivals[: (end - begin) * size] = 0
    if recurrent.size > 0:
        # Spikes that are known: later ones are sent as they happen.
        e = first_from(out_bins, out_lo, out_hi, begin - longest - 1)
        while e < out_hi and out_bins[e] < end:
            n, row = out_units[e], out_bins[e] + 1 - begin
            if row >= 0:
                _send(arrivals[row * size :], recurrent[n], delays.recurrent_rows[n])
            else:
                _send_late(arrivals, row, recurrent[n], delays.recurrent_rows[n])
            e += 1


@kernel
def take(current, delays, row):
    """Add what arrives in a bin of the segment."""
    at = _index(row) * _index(current.shape[0])
    for h in range(current.shape[0]):
        current[_index(h)] += delays.arrivals[at + _index(h)]


@sum_kernel
def _worth(trace, row, weight, delay):
    """Sum over neurons j of weight[j] trace[row + delay[j], j]."""
    total = trace.dtype.type(0)
    for j in range(weight.shape[0]):
        total += weight[_index(j)] * trace[_index(row + delay[_index(j)]), _index(j)]
    return total


@kernel
def worth_of_spikes(out, delays, recurrent, units, lo, hi, row):
    """How the worth to all receivers changes with the time of each spike lo..hi of a bin.

    Args:
        row: of the bin in the segment.
        out: [hi - lo], written.
    """
    for e in range(lo, hi):
        n = units[e]
        out[e - lo] = _worth(delays.changes, row + 1, recurrent[n], delays.recurrent_rows[n])


@kernel
def _gather(grad_weight, grad_delay, delay, delays, bins, units, values, lo, hi, begin, beta):
    if hi <= lo:
        return
    size, inputs = delay.shape
    sort_by_unit(
        inputs, bins, units, values, lo, hi, begin, delays.ends, delays.rows, delays.scales
    )
    used = delays.scales if values.shape[0] > 0 else values
    count = bins[hi - 1] - begin + delays.longest + 2
    for start in range(0, size, _STRIPE):
        stop = min(start + _STRIPE, size)
        _from_rows(delays.traces, beta, start, stop, count)
        for j in range(start, stop):
            _read(
                delays.traces[j - start], grad_weight[j], grad_delay[j], delay[j],
                delays.ends, delays.rows, used,
            )  # fmt: skip


@kernel
def gather(
    delays, weight, bins, units, values, lo, hi, out_bins, out_units, no_values, out_lo, out_hi,
    begin, beta, grad_values, grad_changes,
):  # fmt: skip
    """Gradients from a segment's input events lo..hi and spikes out_lo..out_hi.

    Of weights and delays; and, where these are not empty, what one unit of each input event is
    worth (``grad_values``), and how that changes to the next bin (``grad_changes``). Row t of
    ``beta`` and ``delays.changes`` is that of bin begin + t.
    """
    _gather(
        delays.grad_weight, delays.grad_input, delays.input, delays,
        bins, units, values, lo, hi, begin, beta,
    )  # fmt: skip
    if delays.recurrent.size > 0:  # spikes of bin k arrive in bin k + 1 and later
        _gather(
            delays.grad_recurrent_weight, delays.grad_recurrent, delays.recurrent, delays,
            out_bins, out_units, no_values, out_lo, out_hi, begin - 1, beta,
        )  # fmt: skip
    for e in range(lo, hi):
        n, row = units[e], bins[e] - begin
        if grad_values.size > 0:
            grad_values[e] = _worth(beta, row, weight[n], delays.input_rows[n])
        if grad_changes.size > 0:
            grad_changes[e] = _worth(delays.changes, row, weight[n], delays.input_rows[n])


@kernel
def _add_later(worth, weight, delay, beta):
    for k in range(worth.shape[0] - delay):
        worth[_index(k)] += weight * beta[_index(k) + _index(delay)]


@kernel
def dense_worth(lo, hi, beta, weight, delay, worth):
    """worth[b, i, k] = sum over j of weight[i, j] beta[b, j, k + delay[i, j]], for b in lo..hi.

    Args:
        beta: [B, H, T].   weight, delay: [N, H].   worth: [B, N, T], zeros that are added to.
    """
    for b in range(lo, hi):
        for i in range(weight.shape[0]):
            for j in range(weight.shape[1]):
                _add_later(worth[b, i], weight[i, j], delay[i, j], beta[b, j])


def longest_delay(*delays: np.ndarray) -> int:
    """The longest of some delays in bins."""
    return int(max((d.max() for d in delays if d.size), default=0))


def prepare(
    weight: np.ndarray,
    delay: np.ndarray,
    recurrent_delay: np.ndarray,
    bins: int,
    most: int,
    weighted: bool,
    backward: bool,
) -> Delays:
    """``Delays`` for the loops of one thread.

    Args:
        weight: [H, N].   delay: [H, N] int32.   recurrent_delay: [post, pre] int32 or of size 0.
        bins: in a segment.   most: events of one kind in a sample.   weighted: events have values.
        backward: for the backward pass (else for the forward one).
    """
    size, inputs = weight.shape
    longest = longest_delay(delay, recurrent_delay)
    rows = bins + longest + 2
    kind = weight.dtype

    def gradient(like: np.ndarray) -> np.ndarray:
        return np.zeros(like.shape if backward else (0, 0), kind)

    return Delays(
        longest=longest, weight=weight,
        input=delay, input_rows=np.ascontiguousarray(delay.T),
        recurrent=recurrent_delay, recurrent_rows=np.ascontiguousarray(recurrent_delay.T),
        arrivals=np.empty(rows * size, kind),  # for the replay also backwards
        changes=np.zeros((rows if backward else 0, size), kind),
        traces=np.empty((_STRIPE, bins + 2 * longest + 3), kind),
        ends=np.empty(max(inputs, size) + 1, np.int64),
        rows=np.empty(most, np.int32),
        scales=np.empty(most if weighted else 0, kind),
        grad_weight=gradient(weight), grad_input=gradient(weight),
        grad_recurrent_weight=gradient(recurrent_delay), grad_recurrent=gradient(recurrent_delay),
    )  # fmt: skip


def gradients(delays: Delays) -> tuple[np.ndarray, ...]:
    """Those of ``weight``, ``input``, recurrent weights and ``recurrent``, [to, from].

    What is that of a delay lacks the weight as a factor.
    """
    return (
        delays.grad_weight, delays.grad_input, delays.grad_recurrent_weight, delays.grad_recurrent
    )  # fmt: skip
