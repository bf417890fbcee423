"""Synapses with delays on the CPU grid: what arrives when, and what it is worth.

An event of unit i in bin k reaches neuron j in bin k + d_ij (a spike, in bin k + 1 + d_ij), d in
whole bins. So each event touches as many bins as there are different delays, few neurons in each,
and work goes by pairs of event and neuron:

- input events are known beforehand. A few neurons at a time, in traces of one segment of time that
  stay in the cache, each unit's events are put where they arrive (``collect``), or what they are
  worth is read from where they arrived (``gather``); traces are transposed into, or from, the rows
  of bins that the loops over time use.
- spikes are sent when they happen (``send``) into a ring of the bins to come, and, backwards, the
  change of their worth is summed over the neurons that they reach (``worth_of_spikes``) in a ring
  of the bins that came.

A delay's gradient per bin is the weight times the sum over events of what one unit of current is
worth one bin after each arrival, less what it is worth at the arrival.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .compile import index as _index
from .compile import inlined, kernel, sum_kernel
from .event_sort import first_from, sort_by_unit
from .pairs import add_pair, first_of, no_pair, second_of

_STRIPE = 16  # neurons whose traces are transposed at once: a cache line of float32
_ABREAST = 4  # neurons for which each event is looked up once


class Delays(NamedTuple):
    """Delays of a layer, what its loops need for them, and the gradients they leave.

    N inputs, H neurons; R bins in a segment; P bins in a ring, a power of two. H' is H rounded up
    to a multiple of 4, rows beyond H being zeros. "Absent" arrays have size 0.
    """

    longest: int  # bins
    weight: np.ndarray  # [H', N]
    input: np.ndarray  # [H', N] uint16, bins
    input_rows: np.ndarray  # [N, H], the same
    recurrent: np.ndarray  # [H' post, H pre] uint16, bins, or absent
    recurrent_rows: np.ndarray  # [pre, post], the same
    arrivals: np.ndarray  # [R, H] input that arrives in each bin of a segment
    sent: np.ndarray  # [P H] recurrent input that arrives in the bins to come
    changes: np.ndarray  # [P, H] beta of the next bin less beta, of the bins that came
    traces: np.ndarray  # [_STRIPE, R + 2 longest + 3] for work
    ends: np.ndarray  # [max(N, H) + 1] for work
    rows: np.ndarray  # [most events or spikes in a sample] for work
    scales: np.ndarray  # the same, or absent where events have no values
    grad_weight: np.ndarray  # [H', N], added to
    grad_input: np.ndarray  # [H', N], added to: sums of changes of worth
    grad_recurrent_weight: np.ndarray  # [H' post, pre] or absent, added to
    grad_recurrent: np.ndarray  # [H' post, pre] or absent, added to


@kernel
def _arrive(
    trace0, trace1, trace2, trace3, weight0, weight1, weight2, weight3,
    delay0, delay1, delay2, delay3, ends, rows, scales,
):  # fmt: skip
    """Put every unit's events where they arrive at four neurons."""
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
def _read(
    trace0, trace1, trace2, trace3, grad_weight0, grad_weight1, grad_weight2, grad_weight3,
    grad_delay0, grad_delay1, grad_delay2, grad_delay3, delay0, delay1, delay2, delay3,
    ends, rows, scales,
):  # fmt: skip
    """Sum over every unit's events of traces where they arrive at four neurons, and the changes."""
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
def _into_rows(rows, traces, first, stop, count, skip):
    """rows[t, first + i] = traces[i, skip + t] for t < count, as long as first + i < stop."""
    for t in range(count):
        for i in range(stop - first):
            rows[_index(t), _index(first) + _index(i)] = traces[_index(i), _index(skip) + _index(t)]


@kernel
def _from_rows(traces, rows, first, stop, count):
    """traces[i, t] = rows[t, first + i] for t < count."""
    for t in range(count):
        for i in range(stop - first):
            traces[_index(i), _index(t)] = rows[_index(t), _index(first) + _index(i)]


@kernel
def collect(delays, begin, end, bins, units, values, lo, hi):
    """Fill ``arrivals`` with the input that arrives in bins begin..end of a sample.

    Args:
        bins, units, values: input events; this sample's are ``lo..hi``.
    """
    arrivals, traces, longest = delays.arrivals, delays.traces, delays.longest
    weight, delay, ends, rows = delays.weight, delays.input, delays.ends, delays.rows
    size, inputs = arrivals.shape[1], weight.shape[1]
    first = first_from(bins, lo, hi, begin - longest)
    last = first_from(bins, first, hi, end)
    if first == last:
        arrivals[: end - begin] = 0
        return
    sort_by_unit(
        inputs, bins, units, values, first, last, begin - longest, ends, rows, delays.scales
    )
    scales = delays.scales if values.shape[0] > 0 else values[:0]
    for start in range(0, size, _STRIPE):
        stop = min(start + _STRIPE, size)
        traces[:, : end - begin + 2 * longest] = 0
        for j in range(start, stop, _ABREAST):
            t = j - start
            _arrive(
                traces[t], traces[t + 1], traces[t + 2], traces[t + 3],
                weight[j], weight[j + 1], weight[j + 2], weight[j + 3],
                delay[j], delay[j + 1], delay[j + 2], delay[j + 3], ends, rows, scales,
            )  # fmt: skip
        _into_rows(arrivals, traces, start, stop, end - begin, longest)


@inlined
def begin_forward(delays):
    """Nothing has been sent."""
    delays.sent[:] = 0


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
def send(delays, recurrent, k, units):
    """Put spikes of bin ``k`` where they arrive."""
    last_row = _index(delays.changes.shape[0] - 1)
    for e in range(units.shape[0]):
        n = units[e]
        _send(delays.sent, k, last_row, recurrent[n], delays.recurrent_rows[n])


@inlined
def send_earlier(delays, recurrent, begin, bins, units, lo, hi):
    """Of spikes lo..hi before bin ``begin``, what arrives in that bin or later."""
    delays.sent[:] = 0
    last_row = _index(delays.changes.shape[0] - 1)
    for e in range(first_from(bins, lo, hi, begin - delays.longest - 1), hi):
        n = units[e]
        _send_late(delays.sent, bins[e], last_row, recurrent[n], delays.recurrent_rows[n], begin)


@inlined
def take(inflow, delays, k, row):
    """inflow = what arrives in bin k, in this row of the segment."""
    size = inflow.shape[0]
    for h in range(size):
        inflow[_index(h)] = delays.arrivals[_index(row), _index(h)]
    if delays.recurrent.size > 0:
        at = (_index(k) & _index(delays.sent.shape[0] // size - 1)) * _index(size)
        for h in range(size):
            inflow[_index(h)] += delays.sent[at + _index(h)]
            delays.sent[at + _index(h)] = 0


@inlined
def begin_backward(delays):
    """Beyond the end nothing is worth anything."""
    delays.changes[:] = 0


@inlined
def remember(delays, k, beta, row):
    """The change of beta from bin k, in this row of the segment, to the next one."""
    if delays.recurrent.size > 0:
        change = delays.changes[_index(k) & _index(delays.changes.shape[0] - 1)]
        for h in range(change.shape[0]):
            change[_index(h)] = beta[_index(row + 1), _index(h)] - beta[_index(row), _index(h)]


@sum_kernel
def _worth_in_ring(ring, k, weight, delay):
    """Sum over neurons j of weight[j] ring[k + delay[j], j]."""
    total = ring.dtype.type(0)
    last_row = _index(ring.shape[0] - 1)
    for j in range(weight.shape[0]):
        at = (_index(k) + _index(delay[_index(j)])) & last_row
        total += weight[_index(j)] * ring[at, _index(j)]
    return total


@sum_kernel
def _worth(rows, row, weight, delay):
    """Sum over neurons j of weight[j] rows[row + delay[j], j], and its change to the next row."""
    now, later = rows.dtype.type(0), rows.dtype.type(0)
    for j in range(weight.shape[0]):
        at = _index(row) + _index(delay[_index(j)])
        now += weight[_index(j)] * rows[at, _index(j)]
        later += weight[_index(j)] * (rows[at + _index(1), _index(j)] - rows[at, _index(j)])
    return now, later


@inlined
def worth_of_spikes(out, delays, recurrent, units, lo, hi, k):
    """How the worth to all receivers changes with the time of each spike lo..hi, all of bin k.

    Args:
        out: [hi - lo], written.
    """
    for e in range(lo, hi):
        n = units[e]
        out[e - lo] = _worth_in_ring(delays.changes, k + 1, recurrent[n], delays.recurrent_rows[n])


@kernel
def _gather(grad_weight, grad_delay, delay, delays, bins, units, values, lo, hi, begin, beta):
    if hi <= lo:
        return
    size, inputs = delays.arrivals.shape[1], delay.shape[1]
    traces, ends, rows = delays.traces, delays.ends, delays.rows
    sort_by_unit(inputs, bins, units, values, lo, hi, begin, ends, rows, delays.scales)
    scales = delays.scales if values.shape[0] > 0 else values[:0]
    count = bins[hi - 1] - begin + delays.longest + 2
    for start in range(0, size, _STRIPE):
        stop = min(start + _STRIPE, size)
        _from_rows(traces, beta, start, stop, count)
        for j in range(start, stop, _ABREAST):
            t = j - start
            _read(
                traces[t], traces[t + 1], traces[t + 2], traces[t + 3],
                grad_weight[j], grad_weight[j + 1], grad_weight[j + 2], grad_weight[j + 3],
                grad_delay[j], grad_delay[j + 1], grad_delay[j + 2], grad_delay[j + 3],
                delay[j], delay[j + 1], delay[j + 2], delay[j + 3], ends, rows, scales,
            )  # fmt: skip


@kernel
def gather(
    delays, weight, bins, units, values, lo, hi, out_bins, out_units, no_values, out_lo, out_hi,
    begin, beta, grad_values, grad_changes,
):  # fmt: skip
    """Gradients from a segment's input events lo..hi and spikes out_lo..out_hi.

    Of weights and delays; and, where these are not empty, what one unit of each input event is
    worth (``grad_values``), and how that changes to the next bin (``grad_changes``). Row t of
    ``beta`` is that of bin begin + t.
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
    if grad_values.size > 0 or grad_changes.size > 0:
        for e in range(lo, hi):
            n = units[e]
            now, change = _worth(beta, bins[e] - begin, weight[n], delays.input_rows[n])
            if grad_values.size > 0:
                grad_values[e] = now
            if grad_changes.size > 0:
                grad_changes[e] = change


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
                _add_later(worth[b, i], weight[i, j], np.int64(delay[i, j]), beta[b, j])


def prepare(
    weight: np.ndarray,
    delay: np.ndarray,
    recurrent_delay: np.ndarray,
    bins: int,
    weighted: bool,
    backward: bool,
) -> Callable[[int], Delays]:
    """Makes ``Delays`` for one thread, given the most events of one kind in a sample.

    Args:
        weight: [H, N].   delay: [H, N] uint16.   recurrent_delay: [post, pre] uint16 or of size 0.
        bins: in a segment.   weighted: events have values.
        backward: for the backward pass (else for the forward one).
    """
    size, inputs = weight.shape
    kind = weight.dtype
    longest = int(max((d.max() for d in (delay, recurrent_delay) if d.size), default=0))
    ring = 2 ** longest.bit_length() if recurrent_delay.size else 1  # longest + 1 or more

    def padded(array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, -len(array) % _ABREAST), (0, 0)))

    by_neuron = {"weight": weight, "input": delay, "recurrent": recurrent_delay}
    by_neuron = {name: padded(array) for name, array in by_neuron.items()}

    def gradient(like: str) -> np.ndarray:
        return np.zeros(by_neuron[like].shape if backward else (0, 0), kind)

    by_sender = {"input_rows": delay, "recurrent_rows": recurrent_delay}
    by_sender = {name: np.ascontiguousarray(array.T) for name, array in by_sender.items()}
    return lambda most: Delays(
        longest=longest, **by_neuron, **by_sender,
        arrivals=np.empty((bins, size), kind), sent=np.zeros(ring * size, kind),
        changes=np.zeros((ring, size), kind),
        traces=np.empty((_STRIPE, bins + 2 * longest + 3), kind),
        ends=np.empty(max(inputs, size) + 1, np.int64),
        rows=np.empty(most, np.int32),
        scales=np.empty(most if weighted else 0, kind),
        grad_weight=gradient("weight"), grad_input=gradient("weight"),
        grad_recurrent_weight=gradient("recurrent"), grad_recurrent=gradient("recurrent"),
    )  # fmt: skip


def gradients(delays: Delays) -> tuple[np.ndarray, ...]:
    """Those of ``weight``, ``input``, recurrent weights and ``recurrent``, [to, from].

    What is that of a delay lacks the weight as a factor.
    """
    size = delays.arrivals.shape[1]
    return (
        delays.grad_weight[:size], delays.grad_input[:size],
        delays.grad_recurrent_weight[:size], delays.grad_recurrent[:size],
    )  # fmt: skip
