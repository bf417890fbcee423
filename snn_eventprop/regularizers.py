"""Penalties on activity."""

from __future__ import annotations

from torch import Tensor, nn

from ._checks import nonnegative, positive


class SpikeCountRegularizer(nn.Module):
    r"""Pulls every neuron's mean spike count towards a target.

    .. math:: R = \frac{k}{2N} \sum_{n=1}^N
        \Big( \frac{\bar s_n}{\nu} - 1 \Big)^2, \qquad
        \bar s_n = \frac1B \sum_m s_{mn}

    The exact gradient of a spike count is zero almost everywhere. ``SpikeEvents.counts`` carries
    the straight-through gradient of the paper instead: dR/ds is added to dL/dV of the neuron at
    each of its own spikes. A silent neuron has none, so a low count can be raised by this penalty
    and a zero one cannot.

    Args:
        target: nu, spikes per neuron and trial; positive.
        strength: k, dimensionless: every neuron at twice its target costs k/2. 0 switches off.

    Counts of a sample are those of its own duration, whatever the length of others in the batch.
    The target is a number of spikes per trial, not per second.

    Shapes:
        counts ``[B, N]`` (``SpikeEvents.counts()``) -> scalar. A raster summed over time has the
        same numbers and no gradient: they stay the same where spikes move.

    Raises:
        ValueError: a target that is not positive, a negative strength, counts that are not 2-d
            or of no sample.

    **In the paper's units.** They add k_reg (s_n - nu) / B to lambda_V at each spike, where
    lambda_V = dL/dV / tau_m in 1/ms, for a loss averaged over trials and time like those in
    ``snn_eventprop.losses``. Equating dR/ds with tau_m k_reg (s_n - nu) / B gives
    k = k_reg tau_m nu^2 N, tau_m in ms: for k_reg = 4e-9, tau_m = 20 ms, nu = 14 and N = 256,
    k = 4.0e-3.

    >>> import torch
    >>> SpikeCountRegularizer(target=14.0, strength=1.0)(torch.full((4, 8), 28.0)).item()
    0.5

    Source: T. Nowotny, J. P. Turner and J. C. Knight, Neuromorph. Comput. Eng. 5 (2025).
    """

    def __init__(self, target: float = 14.0, strength: float = 4e-3) -> None:
        super().__init__()
        self.target = positive("target", target, "number of spikes")
        self.strength = nonnegative("strength", strength)

    def forward(self, counts: Tensor) -> Tensor:
        if counts.ndim != 2 or 0 in counts.shape:
            raise ValueError(
                f"counts must have shape [B, N], B and N at least 1, got {tuple(counts.shape)}"
            )
        return self.strength / 2 * (counts.mean(dim=0) / self.target - 1).square().mean()

    def extra_repr(self) -> str:
        return f"target={self.target:g}, strength={self.strength:g}"
