"""Packed batches: events of all samples in one vector, sample after sample; absent tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sample_of_each(offsets: Tensor, events: int) -> Tensor:
    """The sample that each event belongs to, [S].

    Args:
        offsets: [B + 1] where samples begin, and the end.
        events: S, for which a GPU would otherwise have to be waited for.
    """
    samples = torch.arange(offsets.numel() - 1, device=offsets.device)
    return torch.repeat_interleave(samples, offsets.diff(), output_size=events)


def joined_offsets(batches: Sequence[Tensor]) -> Tensor:
    """Offsets of the samples of several batches, one batch after the other."""
    counts = torch.cat([offsets.diff() for offsets in batches])
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def kept_offsets(offsets: Tensor, keep: Tensor) -> Tensor:
    """Offsets of the events of a mask, [S]."""
    kept = torch.zeros(keep.numel() + 1, dtype=torch.long, device=keep.device)
    torch.cumsum(keep, 0, out=kept[1:])
    return kept[offsets]


def pieces_of(offsets: Tensor, chosen: Sequence[int]) -> tuple[list[slice], Tensor]:
    """Where the events of chosen samples are, for ``picked``, and their offsets."""
    bounds = offsets.tolist()
    pieces = [slice(bounds[b], bounds[b + 1]) for b in chosen]
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + piece.stop - piece.start)
    return pieces, torch.tensor(ends, device=offsets.device)


def picked(values: Tensor, pieces: Sequence[slice]) -> Tensor:
    """The events of ``pieces_of``, one piece after the other."""
    return torch.cat([values[piece] for piece in pieces]) if pieces else values[:0]


def absent(like: Tensor) -> Tensor:
    """Stands in lists of tensors for one that is not there."""
    return like.new_empty(0)


def present(tensor: Tensor) -> bool:
    """Whether a tensor of such a list is there."""
    return tensor.ndim != 1 or tensor.shape[0] > 0
