"""Layers of adaptive leaky integrate-and-fire neurons."""

from __future__ import annotations

import torch
from torch import Tensor

from ._population import Gradient, constant_of
from ._weighted import WeightedLayer


class EventPropALIF(WeightedLayer):
    r"""Leaky integrate-and-fire neurons whose threshold adapts, with event-based gradients.

    .. math::
        \tau_m \dot V = -V + I, \qquad \tau_s \dot I = -I, \qquad \tau_a \dot A = -A

    The neuron spikes where V exceeds threshold + beta A. V then drops by that much, and A rises
    by 1. Grid solver.

    Args:
        tau_a: time constant of the adaptation in seconds, a number or ``[out_features]``.
        beta: how much each spike raises the threshold, likewise; may be negative.
        learn_tau_a, learn_beta: make them parameters, one per neuron.
        in_features, out_features, recurrent, recurrent_diagonal, tau_mem, tau_syn, threshold,
        learn_tau_mem, learn_tau_syn, learn_threshold, max_delay, learn_delays, dt,
        grazing_guard, gradient, threshold_noise, device, dtype: as in ``EventPropLIF``, and so
        are shapes and errors.

    >>> layer = EventPropALIF(4, 3, beta=0.5, learn_beta=True)
    >>> layer(torch.zeros(10, 2, 4)).shape
    torch.Size([10, 2, 3])

    Source: G. Bellec et al., Long short-term memory and learning-to-learn in networks of spiking
    neurons, NeurIPS (2018).
    """

    _neuron = "alif"
    beta: Tensor
    log_tau_a: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        recurrent: bool = False,
        recurrent_diagonal: bool = True,
        tau_mem: float | Tensor = 20e-3,
        tau_syn: float | Tensor = 5e-3,
        tau_a: float | Tensor = 200e-3,
        threshold: float | Tensor = 1.0,
        beta: float | Tensor = 0.2,
        learn_tau_mem: bool = False,
        learn_tau_syn: bool = False,
        learn_tau_a: bool = False,
        learn_threshold: bool = False,
        learn_beta: bool = False,
        max_delay: float | None = None,
        learn_delays: bool = True,
        dt: float = 1e-3,
        grazing_guard: float = 0.05,
        gradient: Gradient = "exact",
        threshold_noise: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features, out_features, recurrent=recurrent, recurrent_diagonal=recurrent_diagonal,
            max_delay=max_delay, learn_delays=learn_delays,
            taus={"tau_mem": tau_mem, "tau_syn": tau_syn, "tau_a": tau_a}, threshold=threshold,
            others={"beta": constant_of("beta", beta)},
            learn={
                "tau_mem": learn_tau_mem, "tau_syn": learn_tau_syn, "tau_a": learn_tau_a,
                "threshold": learn_threshold, "beta": learn_beta,
            },
            dt=dt, grazing_guard=grazing_guard, gradient=gradient,
            threshold_noise=threshold_noise, device=device, dtype=dtype,
        )  # fmt: skip

    @property
    def tau_a(self) -> Tensor:
        """Time constant of the adaptation in seconds; kept as ``log_tau_a``."""
        return self.log_tau_a.double().exp()

    @tau_a.setter
    def tau_a(self, value: float | Tensor) -> None:
        self._assign("tau_a", value)

    def _constants(self, size: int, dtype: torch.dtype) -> Tensor:
        threshold = self._checked_threshold().expand(size).to(dtype)
        decay = torch.exp(-self.dt / self.tau_a).expand(size).to(dtype)
        beta = self.beta.expand(size).to(dtype)
        return torch.stack(
            [*self._map(size, dtype), decay, threshold, beta, torch.zeros_like(threshold)]
        )
