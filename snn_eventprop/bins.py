"""Bins of a time grid."""

import math

import numpy as np
import torch
from torch import Tensor

from ._numbers import positive
from ._operator import operator
from .backends import cpu_bins
from .backends.threads import over_samples

# A time this share of a bin below a bin's edge counts as that edge: float32 times of 100,000
# steps are off by up to 0.6 % of a bin.
_EDGE = 0.01

_PIECE = 2**14  # times per piece of work


def num_bins(duration: float, dt: float) -> int:
    """Number of bins of width ``dt`` (s) that cover ``duration`` (s), at least one."""
    bins = max(math.ceil(duration / positive("dt", dt, "time in seconds") - _EDGE), 1)
    if bins >= 2**31:
        raise ValueError(
            f"dt={dt} s cuts duration={duration} s into {bins} bins, of which 2**31 - 1 can be "
            "counted; are both in seconds?"
        )
    return bins


@operator("snn_eventprop::bin_of")
def bin_of(times: Tensor, dt: float, steps: int = 2**31 - 1) -> Tensor:
    """Bin index (int32) of each time: bin k covers [k dt, (k+1) dt), the last of ``steps`` more."""
    return (times.double() / dt + _EDGE).floor_().clamp_(max=steps - 1).int()


@bin_of.register_kernel("cpu")
def _(times: Tensor, dt: float, steps: int = 2**31 - 1) -> Tensor:
    bins = torch.empty(times.shape, dtype=torch.int32)
    arrays = times.detach().reshape(-1).numpy(), dt, _EDGE, float(steps - 1), bins.view(-1).numpy()
    pieces = np.full(-(-times.numel() // _PIECE), _PIECE)
    over_samples(
        lambda lo, hi: cpu_bins.fill(lo * _PIECE, min(hi * _PIECE, times.numel()), *arrays), pieces
    )
    return bins


@bin_of.register_fake
def _(times, dt, steps=2**31 - 1):
    return times.new_empty(times.shape, dtype=torch.int32)
