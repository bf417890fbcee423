"""Bins of a time grid."""

import math

import torch
from torch import Tensor

# A time this share of a bin below a bin's edge counts as that edge: float32 times of 100,000
# steps are off by up to 0.6 % of a bin.
_EDGE = 0.01

_PIECE = 2**15


def check_dt(dt: float) -> None:
    if not (math.isfinite(dt) and dt > 0):
        raise ValueError(f"dt must be a positive time in seconds, got {dt!r}")


def num_bins(duration: float, dt: float) -> int:
    """Number of bins of width ``dt`` (s) that cover ``duration`` (s), at least one."""
    check_dt(dt)
    bins = max(math.ceil(duration / dt - _EDGE), 1)
    if bins >= 2**31:
        raise ValueError(
            f"dt={dt} s cuts duration={duration} s into {bins} bins, of which 2**31 - 1 can be "
            "counted; are both in seconds?"
        )
    return bins


@torch.library.custom_op("snn_eventprop::bin_of", mutates_args=())
def bin_of(times: Tensor, dt: float, steps: int = 2**31 - 1) -> Tensor:
    """Bin index (int32) of each time: bin k covers [k dt, (k+1) dt), the last of ``steps`` more."""
    bins = torch.empty(times.shape, dtype=torch.int32, device=times.device)
    # In pieces that stay in the cache: float64 copies of all times would take longer and more.
    for piece, out in zip(times.detach().split(_PIECE), bins.split(_PIECE), strict=True):
        index = piece.to(torch.float64, copy=True).div_(dt).add_(_EDGE).floor_()
        out.copy_(index.clamp_(max=steps - 1))
    return bins


@bin_of.register_fake
def _(times, dt, steps=2**31 - 1):
    return times.new_empty(times.shape, dtype=torch.int32)
