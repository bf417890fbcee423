"""The operators of both solvers on NVIDIA GPUs: memory, launches, and what the host must read.

The host waits for the GPU once in a forward pass, to learn how many spikes there are; a sample
with more of them than it had room for is then run again with enough. The backward pass, and
whatever it reports, waits for nothing. Only where there are delays both passes wait once for each
kind of them, to learn the longest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from ...discretisation import largest_response
from ...ops import _jumps as _report
from ...ops import exact as op_exact
from ...ops import grid as op
from ..cpu.weights import in_memory_of

# Partial gradients of deterministic runs take at most this much memory.
_PARTS_BYTES = 256 * 2**20

# The place of a state that has not been stored.
_NOWHERE = torch.iinfo(torch.int64).max


def first_room(size: int, steps: int | None = None) -> int:
    """Spikes of one sample for which there is room at first, from ``size`` neurons."""
    room = 1024 + 32 * size
    return room if steps is None else min(room, steps * size)


# Most spikes that a sample has had, by what tells layers apart.
_most: dict[Hashable, int] = {}


def _row(tensor: Tensor | None, like: Tensor, ndim: int) -> Tensor:
    """Contiguous and of one type; an empty tensor stands for None."""
    if tensor is None:
        return like.new_empty((0,) * ndim)
    return tensor.detach().to(like.dtype).contiguous()


def _zeros(shape: tuple[int, ...], like: Tensor, wanted: bool = True) -> Tensor:
    return like.new_zeros(shape if wanted else (0,) * len(shape))


def _rates(tau: Tensor) -> Tensor:
    return op_exact.rates(tau).contiguous()


def _offsets(counts: Tensor) -> Tensor:
    offsets = counts.new_zeros(counts.numel() + 1)
    torch.cumsum(counts, 0, out=offsets[1:])
    return offsets


def _parts(batch: int, rows: int, size: int, itemsize: int) -> tuple[bool, int, int]:
    """Whether gradients are summed in order, how many blocks run, how many partial sums there are.

    The number depends on shapes alone, so that equal seeds give equal gradients.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return False, batch, 1
    most = max(_PARTS_BYTES // max(rows * size * itemsize, 1), 1)
    blocks = min(batch, most)
    return True, blocks, max(blocks, 1)


def _read(counts: Tensor, **weights: Tensor | None) -> tuple[int, int]:
    """Largest and sum of the spike counts, and a check of the weights, in one transfer.

    Raises:
        ValueError: weights that are NaN or infinite.
    """
    given = {name: w for name, w in weights.items() if w is not None and w.numel()}
    numbers = [counts.max().double(), counts.sum().double()]
    # One NaN or infinity makes the sum NaN or infinite.
    most, total, *sums = torch.stack(
        [*numbers, *(w.detach().sum().double() for w in given.values())]
    ).tolist()
    if not all(abs(x) < float("inf") for x in sums):
        op.check_finite(op.DIVERGED, **given)
    return int(most), int(total)


def _with_room(key: Hashable, first: int, run: Callable[[int], tuple[int, int]]) -> int:
    """``run`` with room for so many spikes in each sample, again if there were more of them.

    ``run`` returns the most spikes of a sample and their sum, which is returned.
    """
    room = _most[key] * 5 // 4 + 64 if key in _most else first
    most, total = run(room)
    if most > room:
        most, total = run(most)
    _most[key] = max(most, _most.get(key, 0))
    return total


def _delays(
    delay: Tensor | None, recurrent_delay: Tensor | None, weight: Tensor, like: Tensor
) -> tuple[list[Tensor], int]:
    """Delays in whole bins, zeros for none of a kind, and the longest; -1 where there are none.

    Raises:
        ValueError: delays that are NaN, negative or too long.
    """
    given = {"delay": delay, "recurrent_delay": recurrent_delay}
    nothing = like.new_empty((0, 0), dtype=torch.int32)
    longest = -1
    bins = []
    for name, value in given.items():
        if value is None:
            bins.append(nothing)
            continue
        rounded = value.detach().round()
        if rounded.numel():
            # Rings have a row for each bin of the longest one: here the GPU is waited for.
            low, high = torch.stack([rounded.min(), rounded.max()]).tolist()
            if math.isnan(low):
                op.check_finite(op.DIVERGED, **{name: value})
            op.check_delays(name, low, high)
            longest = max(longest, int(high))
        bins.append(rounded.to(torch.int32).contiguous())
    if longest >= 0:
        shapes = (tuple(weight.shape), (weight.shape[1],) * 2)
        bins = [
            b if b.numel() else b.new_zeros(shape) for b, shape in zip(bins, shapes, strict=True)
        ]
    return bins, longest


def _rings(blocks: int, longest: int, more: int, like: Tensor) -> Tensor:
    shape = (blocks, longest + more, like.shape[1]) if longest >= 0 else (1, 1, 1)
    return like.new_empty(shape)


def grid_forward(
    bins: Tensor,
    units: Tensor,
    values: Tensor,
    offsets: Tensor,
    raster: Tensor | None,
    event_stamps: Tensor | None,
    input_current: Tensor | None,
    weight: Tensor,
    recurrent: Tensor | None,
    coefficients: Tensor,
    v_reset: Tensor,
    floor: Tensor,
    current0: Tensor | None,
    voltage0: Tensor | None,
    spikes0: Tensor | None,
    slopes0: Tensor | None,
    steps: int,
    reset: int,
    delayed: bool,
    record: bool,
    keep_states: bool,
    tag: int,
    delay: Tensor | None,
    recurrent_delay: Tensor | None,
) -> tuple[Tensor, ...]:
    """``op._forward`` on a GPU."""
    from . import grid as cuda_grid
    from . import launch as cuda_launch

    like = coefficients.detach()
    batch, size = offsets.numel() - 1, like.shape[1]
    segment = op.SEGMENT["cuda"]
    last_current, last_voltage = _zeros((batch, size), like), _zeros((batch, size), like)
    trace = _zeros((steps, batch, size), like, record)
    states = _zeros((batch, -(-steps // segment), 2, size), like, keep_states)
    counts = torch.zeros(batch, dtype=torch.int64, device=like.device)
    s, c, m, threshold = (row.contiguous() for row in like)
    start = _zeros((batch, size), like)
    entries = cuda_grid.list_entries(size)
    shared = 4 * entries <= cuda_launch.SHARED_BYTES
    lists = torch.empty(
        (0, 0) if shared else (batch, entries), dtype=torch.uint32, device=like.device
    )
    threads = cuda_launch.threads_for(size)
    delays, longest = _delays(delay, recurrent_delay, weight, like)
    arguments = (
        steps, bins.contiguous(), units.contiguous(), _row(values, like, 1), offsets.contiguous(),
        _row(input_current, like, 3), _row(weight, like, 2), _row(recurrent, like, 2),
        s, c, m, threshold, _row(v_reset, like, 1), largest_response(s, c, m), reset, delayed,
        start if current0 is None else _row(current0, like, 2),
        start if voltage0 is None else _row(voltage0, like, 2), _row(spikes0, like, 2),
        last_current, last_voltage, trace, states, segment,
        shared, like.new_empty(batch, cuda_grid.FORWARD_ROWS, size), lists, *delays, longest,
        _rings(batch, longest, 1, like),
    )  # fmt: skip
    spikes: list[Tensor] = []

    def run(room: int) -> tuple[int, int]:
        spikes[:] = (
            torch.empty(batch, room, dtype=torch.int32, device=like.device),
            torch.empty(batch, room, dtype=torch.int32, device=like.device),
            like.new_empty(batch, room),
        )
        cuda_launch.launch(
            cuda_grid.forward, batch, threads, 4 * entries if shared else 0,
            *arguments, *spikes, counts,
        )  # fmt: skip
        return _read(counts, weight=weight, recurrent_weight=recurrent)

    total = _with_room(("grid", size, steps), first_room(size, steps), run) if batch else 0
    out_offsets = _offsets(counts)
    stamps, marks, slopes = (like.new_empty(total) for _ in range(3))
    out_bins = torch.empty(total, dtype=torch.int32, device=like.device)
    out_units = torch.empty(total, dtype=torch.int64, device=like.device)
    if total:
        cuda_launch.launch(
            cuda_grid.collect, batch, threads, 0,
            *spikes, out_offsets, out_bins, out_units, slopes, stamps, marks,
        )  # fmt: skip
    return (
        stamps, marks, out_bins, out_units, slopes, out_offsets,
        last_current, last_voltage, trace, states,
    )  # fmt: skip


def grid_backward(
    bins: Tensor,
    units: Tensor,
    values: Tensor,
    offsets: Tensor,
    input_current: Tensor | None,
    weight: Tensor,
    recurrent: Tensor | None,
    coefficients: Tensor,
    v_reset: Tensor,
    floor: Tensor,
    spikes0: Tensor | None,
    slopes0: Tensor | None,
    out_bins: Tensor,
    out_units: Tensor,
    slopes: Tensor,
    out_offsets: Tensor,
    states: Tensor,
    grad_stamps: Tensor,
    grad_marks: Tensor,
    grad_last_current: Tensor,
    grad_last_voltage: Tensor,
    grad_trace: Tensor | None,
    steps: int,
    reset: int,
    delayed: bool,
    want_weight: bool,
    want_values: bool,
    want_stamps: bool,
    want_dense: bool,
    tag: int,
    delay: Tensor | None,
    recurrent_delay: Tensor | None,
) -> tuple[Tensor, ...]:
    """``op._backward`` on a GPU."""
    from . import grid as cuda_grid
    from . import launch as cuda_launch

    like = coefficients.detach()
    batch, size, inputs = offsets.numel() - 1, like.shape[1], weight.shape[0]
    is_recurrent = recurrent is not None
    delays, longest = _delays(delay, recurrent_delay, weight, like)
    of_recurrent = is_recurrent and recurrent_delay is not None
    rows = inputs * (want_weight + (delay is not None)) + size * (is_recurrent + of_recurrent)
    ordered, blocks, parts = _parts(batch, rows, size, like.element_size())
    grad_delay = _zeros((parts, inputs, size), like, delay is not None)
    grad_recurrent_delay = _zeros((parts, size, size), like, of_recurrent)
    grad_weight = _zeros((parts, inputs, size), like, want_weight)
    grad_recurrent = _zeros((parts, size, size), like, is_recurrent)
    grad_coefficients = _zeros((blocks, 4, size), like)
    grad_current = _zeros((steps, batch, size), like, want_dense)
    grad_values = _zeros((bins.numel(),), like, want_values)
    grad_changes = _zeros((bins.numel(),), like, want_stamps)
    grad_current0, grad_voltage0 = _zeros((batch, size), like), _zeros((batch, size), like)
    grad_spikes0 = _zeros((batch, size), like, spikes0 is not None)
    guarded = torch.zeros(1, dtype=torch.int64, device=like.device)
    largest = like.new_zeros(1)
    everyone = torch.arange(
        size if is_recurrent and spikes0 is not None else 0, device=like.device
    )
    threads = cuda_launch.threads_for(size)
    wide = max(size, threads)
    shared = 2 * wide * like.element_size() <= cuda_launch.SHARED_BYTES
    s, c, m, threshold = (row.contiguous() for row in like)
    segment = op.SEGMENT["cuda"]
    replayed = (blocks, 2, segment, size) if states.numel() else (0, 0, 0, 0)
    cuda_launch.launch(
        cuda_grid.backward, blocks, threads, 2 * wide * like.element_size() if shared else 0,
        steps, bins.contiguous(), units.contiguous(), _row(values, like, 1), offsets.contiguous(),
        _row(input_current, like, 3), _row(weight, like, 2), _row(recurrent, like, 2),
        s, c, m, threshold, _row(v_reset, like, 1), largest_response(s, c, m), reset, delayed,
        _row(spikes0, like, 2), _row(slopes0, like, 2), states, segment,
        out_bins, out_units, slopes, out_offsets,
        _row(grad_stamps, like, 1), _row(grad_marks, like, 1), _row(floor, like, 1),
        _row(grad_trace, like, 3), _row(grad_last_current, like, 2),
        _row(grad_last_voltage, like, 2), grad_weight, grad_recurrent, grad_coefficients,
        grad_current, grad_values, grad_changes, grad_current0, grad_voltage0, grad_spikes0,
        guarded, largest, everyone, ordered, min(cuda_launch.LANES, threads), shared,
        like.new_empty(blocks, cuda_grid.BACKWARD_ROWS + 2, wide), like.new_empty(replayed),
        *delays, longest, _rings(blocks, longest, 1, like), _rings(blocks, longest, 3, like),
        grad_delay, grad_recurrent_delay,
    )  # fmt: skip
    _report.record_jumps(tag, guarded, largest)
    grad_delay = _total(grad_delay, weight)
    grad_recurrent_delay = _total(grad_recurrent_delay, recurrent)
    return (
        _total(grad_weight, weight), _total(grad_recurrent, recurrent),
        grad_coefficients.sum(0), grad_current, grad_values,
        grad_changes, grad_current0, grad_voltage0, grad_spikes0,
        # Of a delay, per bin: its weight times the changes that it moved events across.
        grad_delay if delay is None else weight * grad_delay,
        grad_recurrent_delay
        if recurrent is None or recurrent_delay is None
        else recurrent * grad_recurrent_delay,
    )  # fmt: skip


def delayed_worth(grad_current: Tensor, weight: Tensor, delay: Tensor) -> Tensor:
    """``op._delayed_worth`` on a GPU: one product for each delay in bins."""
    steps, batch, _ = grad_current.shape
    (bins, _), longest = _delays(delay, None, weight, weight)
    worth = grad_current.new_zeros(steps, batch, weight.shape[0])
    for d in range(min(longest + 1, steps)):
        worth[: steps - d] += grad_current[d:] @ torch.where(bins == d, weight, 0).T
    return worth


def _total(parts: Tensor, of: Tensor | None) -> Tensor:
    """The sum of partial gradients, in order, in the memory of what it is the gradient of.

    An empty tensor stays one.
    """
    if not parts.numel() or of is None:
        return parts.new_zeros(parts.shape[1:])
    return in_memory_of(of, parts[0] if len(parts) == 1 else parts.sum(0))


def exact_forward(
    times: Tensor,
    units: Tensor,
    offsets: Tensor,
    weight: Tensor,
    recurrent: Tensor | None,
    tau_mem: Tensor,
    tau_syn: Tensor,
    threshold: Tensor,
    v_reset: Tensor,
    floor: Tensor,
    duration: float,
    limit: int,
    keep: bool,
    name: str,
    tag: int,
) -> tuple[Tensor, ...]:
    """``op_exact._forward`` on a GPU."""
    from . import exact as cuda_exact
    from . import launch as cuda_launch

    like = weight.detach()
    batch, size = offsets.numel() - 1, like.shape[1]
    device, segment = like.device, cuda_exact.SEGMENT
    counts = torch.zeros(batch, dtype=torch.int64, device=device)
    stops = torch.zeros(batch, dtype=torch.float64, device=device)
    entries = cuda_exact.list_entries(size)
    shared = 4 * entries <= cuda_launch.SHARED_BYTES
    lists = torch.empty((0, 0) if shared else (batch, entries), dtype=torch.uint32, device=device)
    work = torch.empty(batch, cuda_exact.FORWARD_ROWS, size, dtype=torch.float64, device=device)
    threads = cuda_launch.threads_for(size)
    arguments = (
        times.detach().contiguous(), units.contiguous(), offsets.contiguous(), duration,
        like.contiguous(), op_exact.rows(recurrent, like).detach().contiguous(),
        _rates(tau_mem), _rates(tau_syn), _row(threshold, like, 1),
        _row(v_reset, like, 1), limit, segment, shared, work, lists,
    )  # fmt: skip
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
        cuda_launch.launch(
            cuda_exact.forward, batch, threads, 4 * entries if shared else 0,
            *arguments, *kept, *spikes, counts, stops,
        )  # fmt: skip
        most, total = _read(counts, weight=weight, recurrent_weight=recurrent)
        if most > limit:
            sample = int((counts > limit).nonzero()[0])
            raise op_exact.runaway(name, sample, limit, stops[sample].item())
        return most, total

    if batch:
        total = _with_room(("exact", size, duration), min(first_room(size), limit), run)
    else:
        total = 0
        kept[:] = (
            like.new_empty(0, 2, size), torch.empty(0, dtype=torch.int64, device=device),
            torch.zeros(1, dtype=torch.int64, device=device),
        )  # fmt: skip
    out_offsets = _offsets(counts)
    at = torch.empty(total, dtype=torch.float64, device=device)
    out_units = torch.empty(total, dtype=torch.int64, device=device)
    slopes, stamps, marks = (like.new_empty(total) for _ in range(3))
    before = torch.empty(total, dtype=torch.int32, device=device)
    if total:
        cuda_launch.launch(
            cuda_exact.collect, batch, threads, 0,
            *spikes, out_offsets, at, out_units, slopes, before, stamps, marks,
        )  # fmt: skip
    return stamps, marks, out_units, out_offsets, at, slopes, before, *kept


def exact_backward(
    times: Tensor,
    units: Tensor,
    offsets: Tensor,
    weight: Tensor,
    recurrent: Tensor | None,
    tau_mem: Tensor,
    tau_syn: Tensor,
    threshold: Tensor,
    v_reset: Tensor,
    floor: Tensor,
    out_units: Tensor,
    out_offsets: Tensor,
    out_times: Tensor,
    slopes: Tensor,
    out_before: Tensor,
    states: Tensor,
    places: Tensor,
    state_offsets: Tensor,
    grad_out: Tensor,
    grad_marks: Tensor,
    keep: bool,
    want_times: bool,
    tag: int,
) -> tuple[Tensor, ...]:
    """``op_exact._backward`` on a GPU."""
    from . import exact as cuda_exact
    from . import launch as cuda_launch

    like = weight.detach()
    batch, (inputs, size) = offsets.numel() - 1, like.shape
    rows = op_exact.rows(recurrent, like).detach().contiguous()
    ordered, blocks, parts = _parts(batch, inputs + len(rows), size, like.element_size())
    grad_weight = _zeros((parts, inputs, size), like)
    grad_recurrent = _zeros((parts, *rows.shape), like)
    grad_threshold = _zeros((blocks, size), like)
    double = like.new_empty(0, dtype=torch.float64)
    grad_mem, grad_syn = (_zeros((blocks, size), double, keep) for _ in range(2))
    grad_times = _zeros(times.shape, like, want_times)
    guarded = torch.zeros(1, dtype=torch.int64, device=like.device)
    largest = like.new_zeros(1)
    threads = cuda_launch.threads_for(size)
    lanes = min(cuda_launch.LANES, threads)
    segment = cuda_exact.SEGMENT
    cuda_launch.launch(
        cuda_exact.backward, blocks, threads, (threads + lanes) * like.element_size(),
        times.detach().contiguous(), units.contiguous(), offsets.contiguous(),
        like.contiguous(), rows, _rates(tau_mem), _rates(tau_syn),
        _row(threshold, like, 1), _row(v_reset, like, 1), _row(floor, like, 1),
        out_times, out_units, slopes, out_before, out_offsets, states, places, state_offsets,
        segment, _row(grad_out, like, 1), _row(grad_marks, like, 1),
        grad_weight, grad_recurrent, grad_threshold, grad_mem, grad_syn, grad_times,
        guarded, largest, ordered, lanes, like.new_empty(blocks, cuda_exact.BACKWARD_ROWS, size),
        like.new_empty((blocks, 2, segment, size) if keep else (0, 0, 0, 0)),
    )  # fmt: skip
    _report.record_jumps(tag, guarded, largest)
    return (
        _total(grad_weight, weight), _total(grad_recurrent, recurrent), grad_threshold.sum(0),
        *(
            op_exact.of_tau(grad.sum(0), tau) if keep else double.new_empty(0)
            for grad, tau in ((grad_mem, tau_mem), (grad_syn, tau_syn))
        ),
        grad_times,
    )  # fmt: skip


# Implementations by the names of the operators.
KERNELS = {
    "grid_forward": grid_forward,
    "grid_backward": grid_backward,
    "delayed_worth": delayed_worth,
    "exact_forward": exact_forward,
    "exact_backward": exact_backward,
}

op._forward.register_kernel("cuda")(grid_forward)
op._backward.register_kernel("cuda")(grid_backward)
op._delayed_worth.register_kernel("cuda")(delayed_worth)
op_exact._forward.register_kernel("cuda")(exact_forward)
op_exact._backward.register_kernel("cuda")(exact_backward)
