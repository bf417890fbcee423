"""Spiking neurons without weights, for use after any operator."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import grid
from ..ops.checks import check_backend
from ._population import Gradient, SpikingPopulation, check_sizes


class EventPropNeuron(SpikingPopulation):
    """The neurons of ``EventPropLIF`` without weights: currents in, spikes out (grid solver).

    For use after ``nn.Linear``, ``nn.Conv2d``, pooling, normalisation or any code of yours: what
    comes in is added to I in each bin, and gradients of the raster that goes out are read as the
    worth of a spike in each bin, so that spike times get their derivative through whatever
    follows.

    Args:
        features: number of neurons, where time constants or thresholds differ between them.
            Neurons are numbered over the trailing dimensions, flattened. None: any number of
            neurons, all of which share one time constant and threshold, given or learned.
        tau_mem, tau_syn, threshold, learn_tau_mem, learn_tau_syn, learn_threshold, dt,
        grazing_guard, gradient, threshold_noise, device, dtype: as in ``EventPropLIF``.

    Shapes:
        currents ``[T, B, ...]`` -> spikes ``[T, B, ...]``; of one sample ``[T, N]`` -> ``[T, N]``.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), EventPropNeuron(threshold=0.1))
    >>> net(torch.ones(10, 2, 4)).shape
    torch.Size([10, 2, 3])
    """

    def __init__(
        self,
        features: int | None = None,
        *,
        tau_mem: float | Tensor = 20e-3,
        tau_syn: float | Tensor = 5e-3,
        threshold: float | Tensor = 1.0,
        learn_tau_mem: bool = False,
        learn_tau_syn: bool = False,
        learn_threshold: bool = False,
        dt: float = 1e-3,
        grazing_guard: float = 0.05,
        gradient: Gradient = "exact",
        threshold_noise: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if features is not None:
            check_sizes(features=features)
        super().__init__(
            features, taus={"tau_mem": tau_mem, "tau_syn": tau_syn}, threshold=threshold,
            learn={
                "tau_mem": learn_tau_mem, "tau_syn": learn_tau_syn, "threshold": learn_threshold,
            },
            dt=dt, grazing_guard=grazing_guard, gradient=gradient,
            threshold_noise=threshold_noise, device=device, dtype=dtype,
        )  # fmt: skip
        self.features = features

    def forward(self, current: Tensor) -> Tensor:
        if not isinstance(current, Tensor) or current.ndim < 2:
            shape = tuple(current.shape) if isinstance(current, Tensor) else type(current).__name__
            raise ValueError(
                f"current must be a tensor [T, B, ...], or [T, N] of one sample, got {shape}"
            )
        if current.ndim == 2:
            return self.forward(current[:, None])[:, 0]
        if current.is_complex():
            raise TypeError(f"current must be real, got {current.dtype}")
        if current.device != self.log_tau_mem.device:
            raise ValueError(
                f"current is on {current.device} but the layer is on {self.log_tau_mem.device}; "
                "move them to one device"
            )
        check_backend(self.log_tau_mem)
        flat = current.flatten(2).to(self.log_tau_mem.dtype)
        steps, batch, size = flat.shape
        if self.features is not None and size != self.features:
            raise ValueError(
                f"current has {size} neurons per sample (shape {tuple(current.shape)}) but this "
                f"layer has features={self.features}"
            )
        spikes = self._run_grid(
            grid.no_events(batch, flat), steps, flat.new_empty(0, size), size,
            drive=grid.Drive(input_current=flat),
        )
        return grid.to_raster(spikes, steps, size, hold=True).view(current.shape)

    def extra_repr(self) -> str:
        features = "" if self.features is None else f"{self.features}, "
        return f"{features}{self._describe()}, dt={self.dt:g}"


