"""Bin times: which bin a time falls into, and where a bin begins."""

import math

import torch
from torch import Tensor

from .._checks import positive
from ._operator import operator

# A time this share of a bin below a bin's edge counts as that edge: float32 times of 100,000
# steps are off by up to 0.6 % of a bin.
EDGE = 0.01


def num_bins(duration: float, dt: float) -> int:
    """Number of bins of width ``dt`` (s) that cover ``duration`` (s), at least one."""
    bins = max(math.ceil(duration / positive("dt", dt, "time in seconds") - EDGE), 1)
    if bins >= 2**31:
        raise ValueError(
            f"dt={dt} s cuts duration={duration} s into {bins} bins, of which 2**31 - 1 can be "
            "counted; are both in seconds?"
        )
    return bins


@operator("snn_eventprop::bin_of")
def bin_of(times: Tensor, dt: float, steps: int = 2**31 - 1) -> Tensor:
    """Bin index (int32) of each time: bin k covers [k dt, (k+1) dt), the last of ``steps`` more."""
    return (times.double() / dt + EDGE).floor_().clamp_(max=steps - 1).int()


@bin_of.register_fake
def _(times, dt, steps=2**31 - 1):
    return times.new_empty(times.shape, dtype=torch.int32)


@operator("snn_eventprop::time_of")
def time_of(stamps: Tensor, dt: float) -> Tensor:
    """Where each bin begins: ``stamps * dt`` in s, off by one rounding; linear, differentiable."""
    return (stamps.double() * dt).to(stamps.dtype)


@time_of.register_fake
def _(stamps, dt):
    return torch.empty_like(stamps, memory_format=torch.contiguous_format)


def _keep_dt(ctx, inputs, output) -> None:
    ctx.dt = inputs[1]


time_of.register_autograd(
    lambda ctx, grad: (time_of(grad, ctx.dt), None), setup_context=_keep_dt
)
