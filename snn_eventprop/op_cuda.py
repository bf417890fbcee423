"""The operators of both solvers on NVIDIA GPUs: memory, launches, and what the host must read.

The host waits for the GPU once in a forward pass, to learn how many spikes there are; a sample
with more of them than it had room for is then run again with enough. The backward pass, and
whatever it reports, waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _report, op
from .discretisation import largest_response

# Partial gradients of deterministic runs take at most this much memory.
_PARTS_BYTES = 256 * 2**20


def first_room(size: int, steps: int | None = None) -> int:
    """Spikes of one sample for which there is room at first: of ``size`` neurons in so many bins."""
    room = 1024 + 32 * size
    return room if steps is None else min(room, steps * size)


# Most spikes of one sample that a layer had, by its number of neurons and the steps.
_room: dict[tuple[int, int], int] = {}


def _row(tensor: Tensor | None, like: Tensor, ndim: int) -> Tensor:
    """Contiguous and of one type; an empty tensor stands for None."""
    if tensor is None:
        return like.new_empty((0,) * ndim)
    return tensor.detach().to(like.dtype).contiguous()


def _zeros(shape: tuple[int, ...], like: Tensor, wanted: bool = True) -> Tensor:
    return like.new_zeros(shape if wanted else (0,) * len(shape))


def _parts(batch: int, rows: int, size: int, itemsize: int) -> tuple[bool, int, int]:
    """Whether gradients are summed in order, how many blocks run, how many partial sums there are.

    The number depends on shapes alone, so that equal seeds give equal gradients.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return False, batch, 1
    most = max(_PARTS_BYTES // max(rows * size * itemsize, 1), 1)
    blocks = min(batch, most)
    return True, blocks, max(blocks, 1)


def _read(counts: Tensor, mend: str, **weights: Tensor | None) -> tuple[int, int]:
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
        op.check_finite(mend, **given)
    return int(most), int(total)


def _with_room(
    key: tuple[int, int], first: int, run: Callable[[int], Tensor], read: Callable[[Tensor], Any]
) -> Any:
    """``run`` with room for so many spikes in each sample, again if there were more."""
    room = max(first, _room.get(key, 0))
    found = read(run(room))
    if found[0] > room:
        room = found[0]
        found = read(run(room))
    _room[key] = room
    return found


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
) -> tuple[Tensor, ...]:
    """``op._forward`` on a GPU."""
    from .backends import cuda_grid, cuda_launch

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
    arguments = (
        steps, bins.contiguous(), units.contiguous(), _row(values, like, 1), offsets.contiguous(),
        _row(input_current, like, 3), _row(weight, like, 2), _row(recurrent, like, 2),
        s, c, m, threshold, _row(v_reset, like, 1), largest_response(s, c, m), reset, delayed,
        start if current0 is None else _row(current0, like, 2),
        start if voltage0 is None else _row(voltage0, like, 2), _row(spikes0, like, 2),
        last_current, last_voltage, trace, states, segment,
        shared, like.new_empty(batch, cuda_grid.FORWARD_ROWS, size), lists,
    )  # fmt: skip
    spikes: list[Tensor] = []

    def run(room: int) -> Tensor:
        spikes[:] = (
            torch.empty(batch, room, dtype=torch.int32, device=like.device),
            torch.empty(batch, room, dtype=torch.int32, device=like.device),
            like.new_empty(batch, room),
        )
        cuda_launch.launch(
            cuda_grid.forward, batch, threads, 4 * entries if shared else 0,
            *arguments, *spikes, counts,
        )  # fmt: skip
        return counts

    if batch == 0:
        total = 0
    else:
        _, total = _with_room(
            (size, steps), first_room(size, steps), run,
            lambda counts: _read(counts, op.DIVERGED, weight=weight, recurrent_weight=recurrent),
        )  # fmt: skip
    out_offsets = torch.zeros(batch + 1, dtype=torch.int64, device=like.device)
    torch.cumsum(counts, 0, out=out_offsets[1:])
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
) -> tuple[Tensor, ...]:
    """``op._backward`` on a GPU."""
    from .backends import cuda_grid, cuda_launch

    like = coefficients.detach()
    batch, size, inputs = offsets.numel() - 1, like.shape[1], weight.shape[0]
    is_recurrent = recurrent is not None
    ordered, blocks, parts = _parts(
        batch, inputs * want_weight + size * is_recurrent, size, like.element_size()
    )
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
    )  # fmt: skip
    _report.record_jumps(tag, guarded, largest)
    return (
        _total(grad_weight), _total(grad_recurrent), grad_coefficients.sum(0), grad_current,
        grad_values, grad_changes, grad_current0, grad_voltage0, grad_spikes0,
    )  # fmt: skip


def _total(parts: Tensor) -> Tensor:
    """The sum of partial gradients, in order; an empty tensor stays one."""
    if len(parts) == 1:
        return parts[0]
    return parts.sum(0) if parts.numel() else parts.new_zeros(parts.shape[1:])


op._forward.register_kernel("cuda")(grid_forward)
op._backward.register_kernel("cuda")(grid_backward)
