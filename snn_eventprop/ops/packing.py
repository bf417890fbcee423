"""Packed batches: events of all samples in one vector, sample after sample; absent tensors."""

from __future__ import annotations

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


def absent(like: Tensor) -> Tensor:
    """Stands in lists of tensors for one that is not there."""
    return like.new_empty(0)


def present(tensor: Tensor) -> bool:
    """Whether a tensor of such a list is there."""
    return tensor.ndim != 1 or tensor.shape[0] > 0
