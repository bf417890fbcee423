"""Leaky integration of whole sequences at once, and surrogate derivatives of the step function."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.methods.stepped import Maps


def integrate(currents: Tensor, maps: Maps) -> Tensor:
    """Membranes without spikes or reset for currents ``[T, B, N]``, by one FFT convolution.

    V[k] is the sum over j <= k of h[k - j] X[j], with h[n] = c (m^n + m^(n-1) s + ... + s^n): the
    recursion I <- I + X, V <- m V + c I, I <- s I written out.
    """
    steps = currents.shape[0]
    n = torch.arange(steps, device=currents.device, dtype=torch.float64)[:, None]
    s, c, m = (factor.double().reshape(1, -1) for factor in maps)
    length = 3 * steps  # of three convolved sequences, so that nothing wraps around into ``steps``
    h = c * torch.fft.rfft(s**n, length, 0) * torch.fft.rfft(m**n, length, 0)
    spectrum = torch.fft.rfft(currents.double(), length, 0) * h[:, None]
    return torch.fft.irfft(spectrum, length, 0)[:steps].to(currents.dtype)


class FastSigmoid(torch.autograd.Function):
    """x > 0, with the derivative 1 / (1 + slope |x|)^2 (Zenke and Ganguli 2018)."""

    @staticmethod
    def forward(ctx, x: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        return grad / (1 + ctx.slope * x.abs()) ** 2, None


class Triangle(torch.autograd.Function):
    """x > 0, with the derivative height max(0, 1 - |x|) (Bellec et al. 2020)."""

    @staticmethod
    def forward(ctx, x: Tensor, height: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.height = height
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        return grad * (ctx.height * (1 - x.abs()).clamp(min=0)), None
