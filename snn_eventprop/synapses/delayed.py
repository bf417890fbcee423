"""Delays of synapses: parameters in seconds that stay within their bounds."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

LONGEST = 2**16 - 1  # bins


def check_max_delay(max_delay: float, dt: float) -> float:
    """``max_delay`` as a float, s; ValueError unless bins of ``dt`` can hold it."""
    try:
        value = float(max_delay)
    except (TypeError, ValueError) as error:
        raise TypeError(f"max_delay must be a number (seconds), got {max_delay!r}") from error
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"max_delay must be a positive time in seconds, or None, got {max_delay!r}"
        )
    if not 0.5 < value / dt <= LONGEST:
        raise ValueError(
            f"max_delay={value:g} s is {value / dt:.3g} bins of dt={dt:g} s; delays are rounded to "
            f"bins and can be 1 to {LONGEST} of them: choose a finer dt or another max_delay (are "
            "both in seconds?)"
        )
    return value


class _Within(torch.autograd.Function):
    @staticmethod
    def forward(delay: Tensor, longest: float) -> Tensor:
        return delay.clamp(0.0, longest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        delay, ctx.longest = inputs
        ctx.save_for_backward(delay)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (delay,) = ctx.saved_tensors
        leaves = ((delay <= 0) & (grad > 0)) | ((delay >= ctx.longest) & (grad < 0))
        return torch.where(leaves, torch.zeros_like(grad), grad), None


def within(delay: Tensor, longest: float) -> Tensor:
    """Delays clamped to [0, longest].

    The gradient is that of projected gradient descent: where a delay is at a bound, or has been
    carried beyond it by an optimiser's momentum, it is zero if descent would lead further out, and
    passes unchanged if descent leads back in.
    """
    return _Within.apply(delay, longest)
