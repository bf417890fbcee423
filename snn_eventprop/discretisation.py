"""Parameter sets of the one grid kernel.

One step of every discretisation is the same linear map with three numbers per neuron,

    I <- I + X[k];   V <- m V + c I;   spike where V > threshold;   reset;   I <- s I

| discretisation      | s                  | c               | m                  |
| ------------------- | ------------------ | --------------- | ------------------ |
| exponential (exact) | exp(-dt/tau_syn)   | PSP after dt    | exp(-dt/tau_mem)   |
| snnTorch Synaptic   | alpha              | 1               | beta               |
| snnTorch Leaky      | 0                  | 1               | beta               |
| Norse (Euler)       | 1 - dt tau_syn_inv | dt tau_mem_inv  | 1 - dt tau_mem_inv |

All functions are plain differentiable torch, so gradients reach time constants by autograd.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def psp_coefficient(gap: Tensor, tau_mem: Tensor, tau_syn: Tensor) -> Tensor:
    """``equations.psp_coefficient`` on tensors, differentiable also where tau_mem = tau_syn."""
    x = gap / tau_mem - gap / tau_syn
    small = x.abs() < 1e-3
    ratio = torch.expm1(x) / torch.where(small, torch.ones_like(x), x)
    series = 1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5)))
    return gap / tau_mem * torch.exp(-gap / tau_mem) * torch.where(small, series, ratio)


def exponential(tau_mem: Tensor, tau_syn: Tensor, dt: float) -> tuple[Tensor, Tensor, Tensor]:
    """(s, c, m) of the exact solution over one bin; computed in float64.

    Args:
        tau_mem, tau_syn: time constants in seconds, of one shape.
        dt: bin width in seconds.
    """
    tau_mem, tau_syn = tau_mem.double(), tau_syn.double()
    step = torch.full((), dt, dtype=torch.float64, device=tau_mem.device)
    return (
        torch.exp(-step / tau_syn),
        psp_coefficient(step, tau_mem, tau_syn),
        torch.exp(-step / tau_mem),
    )


def snntorch(alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(s, c, m) of snnTorch's Synaptic; ``alpha = 0`` is its Leaky."""
    return alpha, torch.ones_like(beta), beta


def norse(
    tau_mem_inv: Tensor, tau_syn_inv: Tensor, dt: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(s, c, m) of Norse's forward Euler step; inverse time constants in 1/s."""
    return 1 - dt * tau_syn_inv, dt * tau_mem_inv, 1 - dt * tau_mem_inv


def largest_response(s: Tensor, c: Tensor, m: Tensor) -> Tensor:
    """Bound on the largest V that one unit of I causes; infinite where the map does not decay.

    V after n bins is c times a sum of m^(n-1-i) s^i over i < n, at most c / (1 - min(s, m)).
    """
    bound = c / (1 - torch.minimum(s, m))
    decays = (s >= 0) & (s < 1) & (m >= 0) & (m <= 1) & (c >= 0)
    return torch.where(decays & ~bound.isnan(), bound, math.inf)
