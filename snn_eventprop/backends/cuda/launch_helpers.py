"""Memory around launches: rooms for spikes, partial gradients, and what the host must read.

The host waits for the GPU once in a forward pass, to learn how many spikes there are. A sample
with more of them than it had room for is then run again with enough. The backward pass, and
whatever it reports, waits for nothing. Only where there are delays both passes wait once for each
kind of them, to learn the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from ...ops.checks import DIVERGED, check_finite
from ..cpu.weights import in_memory_of

# Partial gradients of deterministic runs take at most this much memory.
PARTS_BYTES = 256 * 2**20


def first_room(size: int, steps: int | None = None) -> int:
    """Spikes of one sample for which there is room at first, from ``size`` neurons."""
    room = 1024 + 32 * size
    return room if steps is None else min(room, steps * size)


# Most spikes that a sample has had, by what tells layers apart.
most_spikes: dict[Hashable, int] = {}


def row(tensor: Tensor | None, like: Tensor, ndim: int) -> Tensor:
    """Contiguous and of one type; an empty tensor stands for None."""
    if tensor is None:
        return like.new_empty((0,) * ndim)
    return tensor.detach().to(like.dtype).contiguous()


def zeros_if(shape: tuple[int, ...], like: Tensor, wanted: bool = True) -> Tensor:
    return like.new_zeros(shape if wanted else (0,) * len(shape))


def offsets_of(counts: Tensor) -> Tensor:
    """Where each sample begins, and the end."""
    offsets = counts.new_zeros(counts.numel() + 1)
    torch.cumsum(counts, 0, out=offsets[1:])
    return offsets


def share_of_blocks(batch: int, rows: int, size: int, itemsize: int) -> tuple[bool, int, int]:
    """Whether gradients are summed in order, how many blocks run, how many partial sums there are.

    The number depends on shapes alone, so that equal seeds give equal gradients.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return False, batch, 1
    most = max(PARTS_BYTES // max(rows * size * itemsize, 1), 1)
    blocks = min(batch, most)
    return True, blocks, max(blocks, 1)


def read(counts: Tensor, **weights: Tensor | None) -> tuple[int, int]:
    """Largest and sum of the spike counts, and a check of the weights, in one transfer.

    Raises:
        ValueError: weights that are NaN or infinite.
    """
    given = {name: w for name, w in weights.items() if w is not None and w.numel()}
    numbers = [counts.max().double(), counts.sum().double()]
    # One NaN or infinity makes the sum NaN or infinite.
    most, spikes, *sums = torch.stack(
        [*numbers, *(w.detach().sum().double() for w in given.values())]
    ).tolist()
    if not all(abs(x) < float("inf") for x in sums):
        check_finite(DIVERGED, **given)
    return int(most), int(spikes)


def with_room(key: Hashable, first: int, run: Callable[[int], tuple[int, int]]) -> int:
    """``run`` with room for so many spikes in each sample, again if there were more of them.

    ``run`` returns the most spikes of a sample and their sum, which is returned.
    """
    room = most_spikes[key] * 5 // 4 + 64 if key in most_spikes else first
    most, total = run(room)
    if most > room:
        most, total = run(most)
    most_spikes[key] = max(most, most_spikes.get(key, 0))
    return total


def sum_of_parts(parts: Tensor, of: Tensor | None) -> Tensor:
    """The sum of partial gradients, in order, in the memory of what it is the gradient of.

    An empty tensor stays one.
    """
    if not parts.numel() or of is None:
        return parts.new_zeros(parts.shape[1:])
    return in_memory_of(of, parts[0] if len(parts) == 1 else parts.sum(0))


