"""Bins of a time grid."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._checks import positive
from ..backends.cpu import bin_times as cpu_bins
from ..backends.cpu.threads import over_samples
from ._operator import operator

# A time this share of a bin below a bin's edge counts as that edge: float32 times of 100,000
# steps are off by up to 0.6 % of a bin.
_EDGE = 0.01

_PIECE = 2**14  # times per piece of work
_LEAST = 2**18  # times that are worth waking another thread


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
    _in_pieces(cpu_bins.fill, times, dt, _EDGE, float(steps - 1), bins.view(-1).numpy())
    return bins


def _in_pieces(kernel: Callable[..., None], values: Tensor, *arguments: Any) -> None:
    """``kernel(lo, hi, values, *arguments)`` for all values, on all threads."""
    total, flat = values.numel(), values.detach().reshape(-1).numpy()
    over_samples(
        lambda lo, hi: kernel(lo * _PIECE, min(hi * _PIECE, total), flat, *arguments),
        np.full(-(-total // _PIECE), _PIECE),
        per_thread=4, least=_LEAST,
    )


@bin_of.register_fake
def _(times, dt, steps=2**31 - 1):
    return times.new_empty(times.shape, dtype=torch.int32)


@operator("snn_eventprop::time_of")
def time_of(stamps: Tensor, dt: float) -> Tensor:
    """Where each bin begins: ``stamps * dt`` in s, off by one rounding; linear, differentiable."""
    return (stamps.double() * dt).to(stamps.dtype)


@time_of.register_kernel("cpu")
def _(stamps: Tensor, dt: float) -> Tensor:
    times = torch.empty_like(stamps, memory_format=torch.contiguous_format)
    _in_pieces(cpu_bins.scale, stamps, dt, times.view(-1).numpy())
    return times


@time_of.register_fake
def _(stamps, dt):
    return torch.empty_like(stamps, memory_format=torch.contiguous_format)


def _keep_dt(ctx, inputs, output) -> None:
    ctx.dt = inputs[1]


time_of.register_autograd(
    lambda ctx, grad: (time_of(grad, ctx.dt), None), setup_context=_keep_dt
)
