"""The grid solver on the CPU: its operators' kernels, over threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...discretisation import largest_response
from ...neurons import neuron
from ...ops import grid as op
from ..arrays import Events, Gradients, Outputs, Spikes, Start, Upstream
from . import delayed, dense
from .arrays import BackwardWork, ForwardWork, Neurons, PeakWork
from .collect_spikes import collect
from .compile import PAD, grown
from .grid_backward import backward_kernel
from .grid_forward import forward_kernel, powers_kernel
from .grid_passes import SEGMENT
from .lanes import WIDE, words
from .memory import Workspace, cache_aligned
from .threads import over_samples, share_cores
from .weights import in_memory_of, read_rows, sum_rows


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _in_shape(tensor: Tensor, ndim: int, dtype: torch.dtype) -> np.ndarray:
    """An array of so many dimensions; an absent tensor becomes one of size 0."""
    if not op.present(tensor):
        tensor = tensor.new_empty((0,) * ndim)
    return _array(tensor.to(dtype))


def _neurons(
    kind: ModuleType, constants: Tensor, floor: Tensor, width: Tensor, reset: int, learned: bool
) -> Neurons:
    rows = torch.cat([constants.detach(), torch.ones_like(constants[:1])]).contiguous()
    gain = largest_response(*rows[:3])
    array = rows.numpy()
    powers = np.empty((32, len(kind.FLOW_CONSTANTS), array.shape[1]), array.dtype)
    powers_kernel(kind)(powers, array)
    blocks: tuple = tuple(array)
    # Numbers stay in registers. Not where constants are learned: they may come to differ after a
    # step of the optimiser, and kernels would be compiled again in the middle of training.
    if not learned and array.shape[1] and (array == array[:, :1]).all():
        blocks = tuple(array[:, 0])
    return Neurons(array, blocks, powers, _array(gain), _array(floor), _array(width), reset)


def _check_delays(name: str, delay: Tensor) -> np.ndarray:
    """Delays in whole bins."""
    op.check_finite(op.DIVERGED, **{name: delay})
    bins = delay.detach().round()
    if bins.numel():
        op.check_delays(name, float(bins.min()), float(bins.max()))
    return np.ascontiguousarray(bins.numpy().astype(np.uint16))


class _Synapses(NamedTuple):
    """How a layer's synapses are made for one thread."""

    module: ModuleType
    make: Callable[[int, list[np.ndarray]], Any]  # from the most events of a kind, and gradients


def _synapses(
    synapses: Sequence[Tensor], values: Tensor, steps: int, work: Workspace, backward: bool
) -> _Synapses:
    weight, recurrent, delay, recurrent_delay = synapses
    kind = _array(weight).dtype
    size = weight.shape[1]
    is_recurrent, is_delayed = op.present(recurrent), op.delays_given(synapses)
    pad = 0 if is_delayed else PAD
    if not is_recurrent:
        recurrent = weight.new_empty(0, size)
    rows = read_rows(weight, work, pad), read_rows(recurrent, work, pad)
    weighted = values.numel() > 0
    if not is_delayed:

        def make(most: int, gradients: list[np.ndarray]) -> dense.Dense:
            most = most if backward else 0
            return dense.Dense._make((
                *rows, *gradients, np.empty(size, kind),
                np.empty(max(len(weight), size) + 1, np.int64), np.empty(most, np.int32),
                np.empty(most if weighted else 0, kind),
            ))  # fmt: skip

        return _Synapses(dense, make)
    none = np.zeros((0, 0), np.uint16)
    zeros = np.zeros(tuple(weight.shape), np.uint16)
    bins = _check_delays("delay", delay) if op.present(delay) else zeros
    of_spikes = none
    if is_recurrent and op.present(recurrent_delay):
        of_spikes = _check_delays("recurrent_delay", recurrent_delay)
    elif is_recurrent:
        of_spikes = np.zeros((size, size), np.uint16)
    prepared = delayed.prepare(rows, bins, of_spikes, min(steps, SEGMENT), weighted, backward)
    return _Synapses(delayed, lambda most, gradients: prepared(most))


def _events(events: Sequence[Tensor], dtype: torch.dtype) -> Events:
    bins, units, values, offsets = events
    return Events(_array(bins), _array(units), _array(values.to(dtype)), _array(offsets))


def _forward_work(kind: ModuleType, size: int, dtype: np.dtype, looks: bool) -> ForwardWork:
    marks = np.empty((2, words(size)), np.uint64)
    units = np.empty((3, WIDE * (words(size) + 1)), np.int64)
    state = cache_aligned(len(kind.STATE) + 1, size, dtype)
    rise = np.empty(size if looks else 0, dtype)
    entering = np.empty((len(kind.STATE) - 1, size if looks else 0), dtype)
    peaks = PeakWork(rise, entering, marks[1], units[2])
    return ForwardWork(state[:-1], state[-1], marks[0], units[0], units[1], peaks)


# Bins, units and what is kept of spikes or peaks; how many in each sample; how many together.
Found = tuple[list[np.ndarray], np.ndarray, int]


def _found(kind: ModuleType, room: int, dtype: np.dtype) -> list[np.ndarray]:
    """Memory for bins, units, and what is kept of so many spikes or peaks."""
    return [
        np.empty(room, np.int32), np.empty(room, np.int64), np.empty((len(kind.KEPT), room), dtype)
    ]  # fmt: skip


def _joined(
    kind: ModuleType, batch: int, parts: Sequence[Found], dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Stamps, marks, bins, units, kept, offsets of what was found in ranges of samples.

    Args:
        parts: of each range.
    """
    offsets = torch.zeros(batch + 1, dtype=torch.int64)
    np.cumsum(np.concatenate([[0], *(part[1] for part in parts)]), out=offsets.numpy())
    count = int(offsets[-1])
    stamps = torch.empty(count, dtype=dtype)
    marks, kept = torch.empty_like(stamps), stamps.new_empty(len(kind.KEPT), count)
    bins = torch.empty(count, dtype=torch.int32)
    units = torch.empty(count, dtype=torch.int64)
    whole = [out.numpy() for out in (bins, units, kept, stamps, marks)]
    starts = np.cumsum([0, *(part[2] for part in parts)])

    def put(lo: int, hi: int) -> None:
        for part, first in zip(parts[lo:hi], starts[lo:hi], strict=True):
            collect(first, part[2], *part[0], *whole)

    over_samples(put, np.diff(starts))
    return stamps, marks, bins, units, kept, offsets


@op.grid_forward.register_kernel("cpu")
def forward(
    events: Sequence[Tensor],
    drive: Sequence[Tensor],
    synapses: Sequence[Tensor],
    constants: Tensor,
    floor: Tensor,
    width: Tensor,
    start: Sequence[Tensor],
    probe: Tensor,
    neuron_name: str,
    steps: int,
    reset: int,
    record: bool,
    keep_states: bool,
) -> tuple[Tensor, ...]:
    kind, dtype = neuron(neuron_name), constants.dtype
    _, _, values, offsets = events
    batch, size, variables = offsets.numel() - 1, constants.shape[1], len(kind.STATE)
    op.check_finite(
        op.DIVERGED, weight=synapses[0], recurrent_weight=synapses[1],
        time_constants=constants[: len(kind.FLOW_CONSTANTS)],
    )  # fmt: skip
    op.check_finite(op.BAD_DATA, input=values, current=drive[2])
    last = constants.new_zeros(variables, batch, size)
    trace = constants.new_zeros((steps, batch, size) if record else (0, 0, 0))
    segments = -(-steps // SEGMENT)
    states = constants.new_zeros(
        (batch, segments, variables, size) if keep_states else (0, 0, 0, 0)
    )
    state0, spikes0, slopes0 = start
    if not op.present(state0):
        state0 = torch.zeros_like(last)
    work = Workspace()
    layer = _synapses(synapses, values, steps, work, backward=False)
    population = _neurons(kind, constants, floor, width, reset, keep_states)
    looks = op.present(width)
    run = forward_kernel(kind, layer.module, looks)
    arguments = (
        steps, _events(events, dtype), _in_shape(drive[2], 3, dtype),
    )  # fmt: skip
    before = Start(
        _array(state0.to(dtype)), _in_shape(spikes0, 2, dtype), _in_shape(slopes0, 2, dtype)
    )
    outputs = Outputs(last.numpy(), trace.numpy(), states.numpy())
    counted, array_type = offsets.diff().numpy(), population.constants.dtype
    nothing = np.empty((0, 0), array_type)

    def samples(lo: int, hi: int) -> tuple[Found, Found]:
        # Room that is not used is never touched, and a sample that finds too little starts again.
        room = 1024 + min(32, steps) * size * (hi - lo)
        found = _found(kind, room, array_type)
        peaks = _found(kind, 2 * room + size if looks else 0, array_type)
        counts = np.zeros(batch + 1, np.int64)
        count_peaks = np.zeros(batch + 1 if looks else 0, np.int64)
        own = layer.make(int(counted[lo:hi].max(initial=0)), [nothing, nothing])
        memory = _forward_work(kind, size, array_type, looks)
        b, total, total_peaks = lo, 0, 0
        while True:
            b, total, total_peaks = run(
                b, hi, total, total_peaks, *arguments, own, population, before, outputs,
                Spikes._make((*found, counts)), Spikes._make((*peaks, count_peaks)), memory,
            )  # fmt: skip
            if b == hi:
                return (
                    (found, counts[lo:hi], total), (peaks, count_peaks[lo:hi], total_peaks)
                )
            found = [grown(array, total, axis=-1) for array in found]
            peaks = [grown(array, total_peaks, axis=-1) for array in peaks]

    share_cores()
    parts = over_samples(samples, counted + steps, per_thread=4)
    work.give_back()
    spikes = _joined(kind, batch, [part[0] for part in parts], dtype)
    if looks:
        _, values, *of_peaks = _joined(kind, batch, [part[1] for part in parts], dtype)
        peaks = (values.zero_(), *of_peaks)
    else:
        peaks = op.no_peaks(kind, constants)
    return *spikes, last, trace, states, *peaks


@op.grid_backward.register_kernel("cpu")
def backward(
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
    neuron_name: str,
    steps: int,
    reset: int,
    want: Sequence[bool],
) -> tuple[Tensor, ...]:
    kind, dtype = neuron(neuron_name), constants.dtype
    bins, _, values, offsets = events
    batch, size, variables = offsets.numel() - 1, constants.shape[1], len(kind.STATE)
    want_weight, want_values, want_changes, want_current = want
    weight, recurrent, delay, recurrent_delay = synapses
    new = constants.new_zeros
    grad_current = new((steps, batch, size) if want_current else (0, 0, 0))
    grad_values = new(bins.numel() if want_values else 0)
    grad_changes = new(bins.numel() if want_changes else 0)
    grad_start = new(variables, batch, size)
    grad_spikes0 = new((batch, size) if op.present(start[0]) else (0, 0))
    learned = states.numel() > 0
    work = Workspace()
    layer = _synapses(synapses, values, steps, work, backward=True)
    population = _neurons(kind, constants, floor, width, reset, learned)
    array_type = population.constants.dtype
    looks = op.present(width)
    run = backward_kernel(kind, layer.module, learned, op.present(start[0]), looks)
    out_offsets = spikes[3]
    of_events, of_spikes = _events(events, dtype), Spikes(*map(_array, spikes))
    of_peaks = Spikes(*map(_array, peaks))
    current = _in_shape(input_current, 3, dtype)
    before = Start(
        np.empty((0, 0, 0), array_type), *(_in_shape(tensor, 2, dtype) for tensor in start)
    )
    changes, marks, last, trace, values = upstream
    from_loss = Upstream(
        _array(changes.to(dtype)), _array(marks.to(dtype)), _array(last.to(dtype)),
        _in_shape(trace, 3, dtype), _array(values.to(dtype)),
    )  # fmt: skip
    is_dense = layer.module is dense
    rows = (
        len(weight) if want_weight and is_dense else 0,
        size if op.present(recurrent) and is_dense else 0,
    )
    count_constants = len(kind.FLOW_CONSTANTS) + len(kind.SPIKE_CONSTANTS)
    most = torch.maximum(offsets.diff(), out_offsets.diff()).numpy()
    replayed = min(steps, SEGMENT) if learned else 0

    def samples(lo: int, hi: int) -> tuple[Any, np.ndarray, int, float]:
        own = layer.make(
            int(most[lo:hi].max(initial=0)),
            [work.array(count, size + PAD, array_type, zeros=True) for count in rows],
        )
        of_constants = work.array(count_constants, size, array_type, zeros=True)
        into = Gradients(
            of_constants, grad_current.numpy(), grad_values.numpy(), grad_changes.numpy(),
            grad_start.numpy(), grad_spikes0.numpy(),
        )  # fmt: skip
        longest = getattr(own, "longest", 0)
        adjoint = cache_aligned(3 * (variables - 1), size, array_type)
        memory = BackwardWork(
            adjoint.reshape(3, variables - 1, size),
            work.array(SEGMENT + 2 + longest, size + PAD, array_type, zeros=False),
            np.empty(size if op.present(recurrent) else 0, array_type),
            np.empty((replayed, size), array_type),
            np.empty((replayed, variables - 1, size), array_type),
            _forward_work(kind, size, array_type, looks=False),
        )
        guarded, largest = run(
            lo, hi, steps, of_events, current, own, population, before, states.numpy(), of_spikes,
            of_peaks, from_loss, into, memory,
        )  # fmt: skip
        return own, of_constants, guarded, float(largest)

    parts = over_samples(samples, offsets.diff().numpy() + steps) or [samples(0, 0)]
    own, of_constants, guarded, largest = zip(*parts, strict=True)
    absent = weight.new_empty(0, 0)
    grads = [absent, absent.clone(), absent.clone(), absent.clone()]
    if is_dense:
        if want_weight:
            grads[0] = sum_rows([part.grad_weight for part in own], weight)
        if op.present(recurrent):
            grads[1] = sum_rows([part.grad_recurrent for part in own], recurrent)
    else:
        summed = [
            torch.from_numpy(np.sum(arrays, axis=0))
            for arrays in zip(*map(delayed.gradients, own), strict=True)
        ]
        if want_weight:
            grads[0] = in_memory_of(weight, summed[0])
        if op.present(recurrent):
            grads[1] = in_memory_of(recurrent, summed[1])
        if op.present(delay):
            grads[2] = in_memory_of(weight, summed[2] * weight)
        if op.present(recurrent) and op.present(recurrent_delay):
            grads[3] = in_memory_of(recurrent, summed[3] * recurrent)
    grad_constants = torch.from_numpy(np.sum(of_constants, axis=0))
    work.give_back()
    jumps = torch.tensor([sum(guarded), max(largest)], dtype=torch.float64)
    return (
        *grads, grad_constants, grad_current, grad_values, grad_changes, grad_start, grad_spikes0,
        jumps,
    )  # fmt: skip


@op.delayed_adjoint.register_kernel("cpu")
def delayed_adjoint(grad_current: Tensor, weight: Tensor, delay: Tensor) -> Tensor:
    steps, batch, _ = grad_current.shape
    out = grad_current.new_zeros((batch, weight.shape[0], steps))
    arrays = (
        _array(grad_current.permute(1, 2, 0)), _array(weight), _check_delays("delay", delay),
        out.numpy(),
    )  # fmt: skip
    over_samples(
        lambda lo, hi: delayed.add_delayed_adjoint(lo, hi, *arrays), np.full(batch, max(steps, 1))
    )
    return out.permute(2, 0, 1).contiguous()
