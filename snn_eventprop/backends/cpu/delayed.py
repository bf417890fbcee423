"""Synapses with delays on the CPU grid: what arrives when, and the adjoint at arrival.

An event of unit i in bin k reaches neuron j in bin k + d_ij (a spike, in bin k + 1 + d_ij), d in
whole bins. So each event touches as many bins as there are different delays, few neurons in each,
and work goes by pairs of event and neuron:

- Input events are known beforehand. They are handled for a few neurons at a time, in traces of one
  segment of time that stay in the cache. Each unit's events are put where they arrive
  (``_collect``), and the adjoint is read from where they arrived (``_gather``). Traces are
  transposed into, or from, the rows of bins that the loops over time use.
- Spikes are sent when they happen (``send``) into a ring of the bins to come. Backwards, the change
  of the adjoint is summed over the neurons that a spike reaches (``change_at_receivers``), in a
  ring of the bins that came.

A delay's gradient per bin is the weight times the sum over events of the adjoint of the current
one bin after each arrival, less that at the arrival.

The functions that kernels call are those of ``dense``, which documents them. The file has over 400
lines because its passes come in pairs, forward and backward, that share one layout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .compile import index as _index
from .compile import inlined, kernel, sum_kernel
from .event_sort import first_from, sort_by_unit
from .pairs import add_pair, first_of, no_pair, second_of

NAME = "delayed"
DIRECT = False

_STRIPE = 16  # neurons whose traces are transposed at once: a cache line of float32
_ABREAST = 4  # neurons for which each event is looked up once
_NEVER = 2**62  # a bin that no recording reaches


class Delayed(NamedTuple):
    """Weights and delays of a layer, memory for its loops, and gradients.

    N inputs, H neurons; R bins in a segment; P bins in a ring, a power of two. H' is H rounded up
    to a multiple of 4, rows beyond H being zeros. "Absent" arrays have size 0.
    """

    longest: int  # bins
    progress: np.ndarray  # [2]: last bin in which anything may arrive; segment that is collected
    weight_rows: np.ndarray  # [N, H]
    recurrent_rows: np.ndarray  # [pre, post], or absent
    delay_rows: np.ndarray  # [N, H] uint16, bins
    recurrent_delay_rows: np.ndarray  # [pre, post], or absent
    weight: np.ndarray  # [H', N]
    delay: np.ndarray  # [H', N]
    recurrent_delay: np.ndarray  # [H' post, H pre], or absent
    arrivals: np.ndarray  # [R, H] input that arrives in each bin of a segment
    sent: np.ndarray  # [P H] recurrent input that arrives in the bins to come
    changes: np.ndarray  # [P, H] beta of the next bin less beta, of the bins that came
    traces: np.ndarray  # [_STRIPE, R + 2 longest + 3] for work
    ends: np.ndarray  # [max(N, H) + 1] for work
    rows: np.ndarray  # [most events or spikes in a sample] for work
    scales: np.ndarray  # the same, or absent where events have no values
    grad_weight: np.ndarray  # [H', N], added to
    grad_delay: np.ndarray  # [H', N], added to: sums of changes, without the weight as a factor
    grad_recurrent_weight: np.ndarray  # [H' post, pre] or absent, added to
    grad_recurrent_delay: np.ndarray  # [H' post, pre] or absent, added to
    grad_recurrent: np.ndarray  # absent: no spikes before the first bin


@inlined
def reach(synapse):
    return synapse.longest


# Forward.


@kernel
def _arrive(traces, weights, delays, ends, rows, scales):
    """Put every unit's events where they arrive at four neurons.

    Args:
        traces, weights, delays: of each of the four.
    """
    trace0, trace1, trace2, trace3 = traces
    weight0, weight1, weight2, weight3 = weights
    delay0, delay1, delay2, delay3 = delays
    e = _index(0)
    for j in range(weight0.shape[0]):
        i = _index(j)
        w0, w1, w2, w3 = weight0[i], weight1[i], weight2[i], weight3[i]
        to0, to1 = trace0[_index(delay0[i]) :], trace1[_index(delay1[i]) :]
        to2, to3 = trace2[_index(delay2[i]) :], trace3[_index(delay3[i]) :]
        last = _index(ends[i])
        if scales.shape[0] > 0:
            while e < last:
                at, x = _index(rows[e]), scales[e]
                to0[at] += w0 * x
                to1[at] += w1 * x
                to2[at] += w2 * x
                to3[at] += w3 * x
                e += _index(1)
        while e < last:
            at = _index(rows[e])
            to0[at] += w0
            to1[at] += w1
            to2[at] += w2
            to3[at] += w3
            e += _index(1)


@kernel
def _into_rows(rows, traces, first, stop, count, skip):
    """rows[t, first + i] = traces[i, skip + t] for t < count, as long as first + i < stop."""
    for t in range(count):
        for i in range(stop - first):
            rows[_index(t), _index(first) + _index(i)] = traces[_index(i), _index(skip) + _index(t)]


@kernel
def _collect(synapse, begin, end, events, lo, hi):
    """Fill ``arrivals`` with the input that arrives in bins begin..end from events lo..hi."""
    arrivals, traces, longest = synapse.arrivals, synapse.traces, synapse.longest
    weight, delay, ends, rows = synapse.weight, synapse.delay, synapse.ends, synapse.rows
    bins, units, values = events.bins, events.units, events.values
    size, inputs = arrivals.shape[1], weight.shape[1]
    first = first_from(bins, lo, hi, begin - longest)
    last = first_from(bins, first, hi, end)
    if first == last:
        arrivals[: end - begin] = 0
        return
    sort_by_unit(
        inputs, bins, units, values, first, last, begin - longest, ends, rows, synapse.scales
    )
    scales = synapse.scales if values.shape[0] > 0 else values[:0]
    for start in range(0, size, _STRIPE):
        stop = min(start + _STRIPE, size)
        traces[:, : end - begin + 2 * longest] = 0
        for j in range(start, stop, _ABREAST):
            t = j - start
            _arrive(
                (traces[t], traces[t + 1], traces[t + 2], traces[t + 3]),
                (weight[j], weight[j + 1], weight[j + 2], weight[j + 3]),
                (delay[j], delay[j + 1], delay[j + 2], delay[j + 3]), ends, rows, scales,
            )  # fmt: skip
        _into_rows(arrivals, traces, start, stop, end - begin, longest)


@inlined
def begin_sample(synapse):
    synapse.sent[:] = 0
    synapse.progress[0] = -1
    synapse.progress[1] = -1


@inlined
def quiet(synapse, k):
    return k > synapse.progress[0]


@inlined
def resume(synapse, begin, spikes, lo, hi):
    synapse.sent[:] = 0
    synapse.progress[0] = _NEVER
    synapse.progress[1] = -1
    if synapse.recurrent_delay.size > 0:
        last_row = _index(synapse.changes.shape[0] - 1)
        for e in range(first_from(spikes.bins, lo, hi, begin - synapse.longest - 1), hi):
            n = spikes.units[e]
            _send_late(
                synapse.sent, spikes.bins[e], last_row, synapse.recurrent_rows[n],
                synapse.recurrent_delay_rows[n], begin,
            )  # fmt: skip


@inlined
def drive(synapse, work, row, k, begin, stop, events, lo, first, last, end):
    if synapse.progress[1] != begin:
        synapse.progress[1] = begin
        _collect(synapse, begin, stop, events, lo, end)
    if last > first:
        synapse.progress[0] = max(synapse.progress[0], k + synapse.longest)
    if k <= synapse.progress[0]:
        _take(work, synapse, k, k - begin)
    else:
        work[:] = 0
    for h in range(row.shape[0]):
        work[h] += row[h]
    return work


@inlined
def _take(inflow, synapse, k, row):
    """inflow = what arrives in bin k, in this row of the segment."""
    size = inflow.shape[0]
    for h in range(size):
        inflow[_index(h)] = synapse.arrivals[_index(row), _index(h)]
    if synapse.recurrent_delay.size > 0:
        at = (_index(k) & _index(synapse.sent.shape[0] // size - 1)) * _index(size)
        for h in range(size):
            inflow[_index(h)] += synapse.sent[at + _index(h)]
            synapse.sent[at + _index(h)] = 0


@inlined
def _send(sent, k, last_row, weight, delay):
    size = weight.shape[0]
    for j in range(size):
        at = (_index(k + 1) + _index(delay[_index(j)])) & last_row
        sent[at * _index(size) + _index(j)] += weight[_index(j)]


@kernel
def _send_late(sent, k, last_row, weight, delay, begin):
    """The same of what arrives in bin ``begin`` or later."""
    size = weight.shape[0]
    for j in range(size):
        at = _index(k + 1) + _index(delay[_index(j)])
        if at >= _index(begin):
            sent[(at & last_row) * _index(size) + _index(j)] += weight[_index(j)]


@inlined
def send(synapse, k, units, count):
    if synapse.recurrent_delay.size > 0 and count > 0:
        last_row = _index(synapse.changes.shape[0] - 1)
        for e in range(count):
            n = units[_index(e)]
            _send(
                synapse.sent, k, last_row, synapse.recurrent_rows[n],
                synapse.recurrent_delay_rows[n],
            )  # fmt: skip
        synapse.progress[0] = max(synapse.progress[0], k + 1 + synapse.longest)


# Backward.


@inlined
def begin_sample_backward(synapse):
    synapse.changes[:] = 0


@inlined
def change_at_receivers(synapse, out, spikes, lo, hi, k, beta, row):
    for e in range(lo, hi):
        n = spikes.units[e]
        out[e - lo] = _sum_in_ring(
            synapse.changes, k + 1, synapse.recurrent_rows[n], synapse.recurrent_delay_rows[n]
        )


@inlined
def value_at_receivers(synapse, out, peaks, lo, hi, k, beta, row):
    for e in range(lo, hi):
        n = peaks.units[e]
        out[e - lo], _ = _sums(
            beta, row + 1, synapse.recurrent_rows[n], synapse.recurrent_delay_rows[n]
        )


@inlined
def remember(synapse, k, beta, row):
    if synapse.recurrent_delay.size > 0:
        change = synapse.changes[_index(k) & _index(synapse.changes.shape[0] - 1)]
        for h in range(change.shape[0]):
            change[_index(h)] = beta[_index(row + 1), _index(h)] - beta[_index(row), _index(h)]


@sum_kernel
def _sum_in_ring(ring, k, weight, delay):
    """Sum over neurons j of weight[j] ring[k + delay[j], j]."""
    total = ring.dtype.type(0)
    last_row = _index(ring.shape[0] - 1)
    for j in range(weight.shape[0]):
        at = (_index(k) + _index(delay[_index(j)])) & last_row
        total += weight[_index(j)] * ring[at, _index(j)]
    return total


@sum_kernel
def _sums(rows, row, weight, delay):
    """Sum over neurons j of weight[j] rows[row + delay[j], j], and its change to the next row."""
    now, later = rows.dtype.type(0), rows.dtype.type(0)
    for j in range(weight.shape[0]):
        at = _index(row) + _index(delay[_index(j)])
        now += weight[_index(j)] * rows[at, _index(j)]
        later += weight[_index(j)] * (rows[at + _index(1), _index(j)] - rows[at, _index(j)])
    return now, later


@kernel
def _from_rows(traces, rows, first, stop, count):
    """traces[i, t] = rows[t, first + i] for t < count."""
    for t in range(count):
        for i in range(stop - first):
            traces[_index(i), _index(t)] = rows[_index(t), _index(first) + _index(i)]


@kernel
def _read(traces, grad_weights, grad_delays, delays, ends, rows, scales):
    """Sum over every unit's events of traces where they arrive at four neurons, and the changes.

    Args:
        traces, grad_weights, grad_delays, delays: of each of the four.
    """
    trace0, trace1, trace2, trace3 = traces
    grad_weight0, grad_weight1, grad_weight2, grad_weight3 = grad_weights
    grad_delay0, grad_delay1, grad_delay2, grad_delay3 = grad_delays
    delay0, delay1, delay2, delay3 = delays
    one = trace0.dtype.type(1)
    e = _index(0)
    for j in range(delay0.shape[0]):
        i = _index(j)
        of0, of1 = trace0[_index(delay0[i]) :], trace1[_index(delay1[i]) :]
        of2, of3 = trace2[_index(delay2[i]) :], trace3[_index(delay3[i]) :]
        # Sums of the bin of arrival and of the next one.
        zero = no_pair(of0)  # type: ignore[call-arg, var-annotated]
        sum0, sum1, sum2, sum3 = zero, zero, zero, zero
        last = _index(ends[i])
        if scales.shape[0] > 0:
            while e < last:
                at, x = _index(rows[e]), scales[e]
                sum0, sum1 = add_pair(sum0, of0, at, x), add_pair(sum1, of1, at, x)
                sum2, sum3 = add_pair(sum2, of2, at, x), add_pair(sum3, of3, at, x)
                e += _index(1)
        while e < last:
            at = _index(rows[e])
            sum0, sum1 = add_pair(sum0, of0, at, one), add_pair(sum1, of1, at, one)
            sum2, sum3 = add_pair(sum2, of2, at, one), add_pair(sum3, of3, at, one)
            e += _index(1)
        grad_weight0[i] += first_of(sum0)
        grad_weight1[i] += first_of(sum1)
        grad_weight2[i] += first_of(sum2)
        grad_weight3[i] += first_of(sum3)
        grad_delay0[i] += second_of(sum0) - first_of(sum0)
        grad_delay1[i] += second_of(sum1) - first_of(sum1)
        grad_delay2[i] += second_of(sum2) - first_of(sum2)
        grad_delay3[i] += second_of(sum3) - first_of(sum3)


@kernel
def _gather(grad_weight, grad_delay, delay, synapse, sources, lo, hi, begin, beta):
    """Gradients of weights and delays from events lo..hi of ``sources``: bins, units, values."""
    if hi <= lo:
        return
    bins, units, values = sources
    size, inputs = synapse.arrivals.shape[1], delay.shape[1]
    traces, ends, rows = synapse.traces, synapse.ends, synapse.rows
    sort_by_unit(inputs, bins, units, values, lo, hi, begin, ends, rows, synapse.scales)
    scales = synapse.scales if values.shape[0] > 0 else values[:0]
    count = bins[hi - 1] - begin + synapse.longest + 2
    for start in range(0, size, _STRIPE):
        stop = min(start + _STRIPE, size)
        _from_rows(traces, beta, start, stop, count)
        for j in range(start, stop, _ABREAST):
            t = j - start
            _read(
                (traces[t], traces[t + 1], traces[t + 2], traces[t + 3]),
                (grad_weight[j], grad_weight[j + 1], grad_weight[j + 2], grad_weight[j + 3]),
                (grad_delay[j], grad_delay[j + 1], grad_delay[j + 2], grad_delay[j + 3]),
                (delay[j], delay[j + 1], delay[j + 2], delay[j + 3]), ends, rows, scales,
            )  # fmt: skip


@kernel
def _of_events(grad_values, grad_changes, synapse, events, lo, hi, begin, beta):
    for e in range(lo, hi):
        n = events.units[e]
        now, change = _sums(
            beta, events.bins[e] - begin, synapse.weight_rows[n], synapse.delay_rows[n]
        )
        if grad_values.size > 0:
            grad_values[e] = now
        if grad_changes.size > 0:
            grad_changes[e] = change


@inlined
def gather_segment(synapse, events, lo, hi, spikes, out_lo, out_hi, begin, beta, gradients):
    _gather(
        synapse.grad_weight, synapse.grad_delay, synapse.delay, synapse,
        (events.bins, events.units, events.values), lo, hi, begin, beta,
    )  # fmt: skip
    if synapse.recurrent_delay.size > 0:  # spikes of bin k arrive in bin k + 1 and later
        _gather(
            synapse.grad_recurrent_weight, synapse.grad_recurrent_delay, synapse.recurrent_delay,
            synapse, (spikes.bins, spikes.units, events.values[:0]), out_lo, out_hi, begin - 1,
            beta,
        )  # fmt: skip
    if gradients.values.size > 0 or gradients.changes.size > 0:
        _of_events(gradients.values, gradients.changes, synapse, events, lo, hi, begin, beta)


@kernel
def _add_later(out, weight, delay, beta):
    for k in range(out.shape[0] - delay):
        out[_index(k)] += weight * beta[_index(k) + _index(delay)]


@kernel
def add_delayed_adjoint(lo, hi, beta, weight, delay, out):
    """out[b, i, k] = sum over j of weight[i, j] beta[b, j, k + delay[i, j]], for b in lo..hi.

    Args:
        beta: [B, H, T].   weight, delay: [N, H].   out: [B, N, T], zeros that are added to.
    """
    for b in range(lo, hi):
        for i in range(weight.shape[0]):
            for j in range(weight.shape[1]):
                _add_later(out[b, i], weight[i, j], np.int64(delay[i, j]), beta[b, j])


def prepare(
    rows: tuple[np.ndarray, np.ndarray],
    delay: np.ndarray,
    recurrent_delay: np.ndarray,
    bins: int,
    weighted: bool,
    backward: bool,
) -> Callable[[int], Delayed]:
    """Makes ``Delayed`` for one thread, given the most events of one kind in a sample.

    Args:
        rows: weights [N, H] and recurrent weights [pre, post], or of size 0.
        delay: [N, H] uint16.   recurrent_delay: [pre, post] uint16 or of size 0.
        bins: in a segment.   weighted: events have values.
        backward: for the backward pass (else for the forward one).
    """
    weight_rows, recurrent_rows = rows
    inputs, size = weight_rows.shape
    kind = weight_rows.dtype
    longest = int(max((d.max() for d in (delay, recurrent_delay) if d.size), default=0))
    ring = 2 ** longest.bit_length() if recurrent_delay.size else 1  # longest + 1 or more

    def by_neuron(array: np.ndarray) -> np.ndarray:
        padding = ((0, -array.shape[1] % _ABREAST), (0, 0))
        return np.pad(np.ascontiguousarray(array.T), padding)

    given = {"weight": weight_rows, "delay": delay, "recurrent_delay": recurrent_delay}
    turned = {name: by_neuron(array) for name, array in given.items()}

    def gradient(like: str) -> np.ndarray:
        return np.zeros(turned[like].shape if backward else (0, 0), kind)

    return lambda most: Delayed(
        longest=longest, progress=np.zeros(2, np.int64),
        weight_rows=weight_rows, recurrent_rows=recurrent_rows,
        delay_rows=delay, recurrent_delay_rows=recurrent_delay, **turned,
        arrivals=np.empty((bins, size), kind), sent=np.zeros(ring * size, kind),
        changes=np.zeros((ring, size), kind),
        traces=np.empty((_STRIPE, bins + 2 * longest + 3), kind),
        ends=np.empty(max(inputs, size) + 1, np.int64),
        rows=np.empty(most, np.int32),
        scales=np.empty(most if weighted else 0, kind),
        grad_weight=gradient("weight"), grad_delay=gradient("weight"),
        grad_recurrent_weight=gradient("recurrent_delay"),
        grad_recurrent_delay=gradient("recurrent_delay"),
        grad_recurrent=np.empty((0, 0), kind),
    )  # fmt: skip


def gradients(synapse: Delayed) -> tuple[np.ndarray, ...]:
    """Those of weights, recurrent weights, delays and recurrent delays, [from, to].

    Those of delays lack the weight as a factor.
    """
    size = synapse.arrivals.shape[1]
    return tuple(
        array[:size].T
        for array in (
            synapse.grad_weight, synapse.grad_recurrent_weight, synapse.grad_delay,
            synapse.grad_recurrent_delay,
        )
    )  # fmt: skip
