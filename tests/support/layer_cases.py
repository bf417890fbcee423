"""Rasters, weights and losses for small layers."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

DT = 1e-3
DOUBLE = {"dtype": torch.float64}


def raster_of(steps=50, batch=3, units=6, density=0.15, seed=0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.random((steps, batch, units)) < density) * 1.0).to(dtype)


def fill(module: nn.Module, seed=1, mean=1.5, std=1.0) -> nn.Module:
    """Weights at which layers of this size fire now and then."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "recurrent" in name:
                p.copy_(torch.from_numpy(rng.normal(0, 0.5, p.shape)))
            elif "weight" in name:
                p.copy_(torch.from_numpy(rng.normal(mean, std, p.shape)))
            elif "bias" in name:
                p.copy_(torch.from_numpy(rng.normal(0, 0.02, p.shape)))
    return module


def worth_like(raster, seed=5):
    """A loss on rasters or traces: worth something else in every bin, and nothing in the last.

    What a spike of the last bin would be worth beyond the end is a matter of form: events have
    nothing there, rasters what they had in the last bin.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(raster.shape, generator=generator, dtype=torch.float64)
    worth = noise.cumsum(0).to(raster.dtype)
    worth[-1:] = 0
    return worth


def gradients(module, loss):
    module.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def assert_close(ours, theirs, tolerance=1e-10):
    scale = max(theirs.abs().max().item(), 1e-30) if theirs.numel() else 1.0
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max().item() <= tolerance * scale if theirs.numel() else True
