"""Leaky-integrator readouts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..events import SpikeEvents
from ..ops import grid
from ..ops.bin_times import num_bins
from . import closed_form
from ._inputs import (
    check_units,
    checked_raster,
    events_on_grid,
    raster_of_peaks,
    unbatched,
    wanted,
)
from ._population import Population, check_sizes


class EventPropLI(Population):
    r"""A readout of leaky integrators: ``EventPropLIF`` without threshold.

    .. math:: \tau_m \dot V = -V + I, \qquad \tau_s \dot I = -I

    Args:
        in_features, out_features: sizes; ``weight`` is ``[out_features, in_features]``.
        tau_mem, tau_syn, learn_tau_mem, learn_tau_syn, dt, device, dtype: as in ``EventPropLIF``.

    Shapes:
        ``forward``: ``SpikeEvents`` or raster ``[T, B, in_features]`` -> membrane trace ``[T, B,
        out_features]``, V at the end of each bin; ``[T, in_features]`` -> ``[T, out_features]``.
        Where samples have durations of their own, T is the longest; losses take
        ``events.valid_bins(dt)`` as their ``mask``. Without bins, in closed form: ``sample``, the
        membrane at times of your choice, and ``integral``, its weighted time average ``[B,
        out_features]``, at a cost that follows the events alone.

    >>> readout = EventPropLI(2, 3)
    >>> events = SpikeEvents.from_list([([0.01, 0.02], [0, 1])], num_units=2, duration=0.1)
    >>> readout(events).shape, readout.integral(events).shape
    (torch.Size([100, 1, 3]), torch.Size([1, 3]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        tau_mem: float | Tensor = 20e-3,
        tau_syn: float | Tensor = 5e-3,
        learn_tau_mem: bool = False,
        learn_tau_syn: bool = False,
        dt: float = 1e-3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_sizes(in_features=in_features, out_features=out_features)
        learn = {
            name for name, wanted in (("tau_mem", learn_tau_mem), ("tau_syn", learn_tau_syn))
            if wanted
        }  # fmt: skip
        super().__init__(
            out_features, {"tau_mem": tau_mem, "tau_syn": tau_syn}, {}, learn, dt, device, dtype
        )
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(
            torch.empty(out_features, in_features, device=device, dtype=dtype)
        )
        self.reset_parameters()

    def reset_parameters(self, mean: float = 0.0, std: float = 0.03) -> None:
        """Draw weights from a normal distribution; by default as in Nowotny et al. 2025."""
        nn.init.normal_(self.weight, mean, std)

    def forward(self, input: SpikeEvents | Tensor) -> Tensor:
        stamps = raster = None
        if isinstance(input, SpikeEvents):
            check_units(self, input)
            steps = num_bins(input.duration, self.dt)
            events, stamps = events_on_grid(input, self.dt, steps, self.weight.dtype)
            raster = raster_of_peaks(input, self.dt, steps)
        else:
            dense = checked_raster(self, input)
            steps = dense.shape[0]
            events = grid.dense_events(dense, self.weight.dtype)
            raster = wanted(dense, self.weight.dtype)
        self._check_time_constants()
        maps = self._map(self.out_features, self.weight.dtype)
        never, zero = torch.full_like(maps[0], math.inf), torch.zeros_like(maps[0])
        constants = torch.stack([*maps, never.detach(), zero.detach()])
        trace = grid.grid_lif(
            events, steps, self.weight.t(),
            grid.Population("lif", constants, zero.detach(), "none"),
            drive=grid.Drive(raster=raster, event_stamps=stamps), record=True,
        ).trace  # fmt: skip
        return trace[:, 0] if unbatched(input) else trace

    def _check_closed_form(self, events: SpikeEvents) -> None:
        if not isinstance(events, SpikeEvents):
            raise TypeError(
                f"the closed form reads SpikeEvents, got {type(events).__name__}; convert a raster "
                "with SpikeEvents.from_dense(raster, dt), or call the readout itself"
            )
        check_units(self, events)
        # Of those on a GPU, the layer before this one finds out in the next step.
        self._check_time_constants(weight=self.weight.detach())

    def sample(self, events: SpikeEvents, times: Tensor) -> Tensor:
        """Membrane at the requested times, exactly, ``[Q, B, O]``.

        Args:
            events: input spikes; their times receive gradients.
            times: ``[Q]`` ascending, in seconds, in [0, duration] of the longest sample. After the
                end of its own, a sample's membrane decays on.

        Raises:
            TypeError: ``times`` is no tensor, ``events`` are no events.
            ValueError: times that are not 1-d, do not ascend, or are not in [0, duration].
        """
        self._check_closed_form(events)
        return closed_form.membrane_at(times, events, self.weight, self.tau_mem, self.tau_syn)

    def integral(self, events: SpikeEvents, weighting: closed_form.Weighting = "uniform") -> Tensor:
        """Weighted time average of the membrane, ``(1/T) integral_0^T w(t) V(t) dt``, ``[B, O]``.

        Args:
            events: input spikes; their times receive gradients.
            weighting: w(t): ``"uniform"`` 1, ``"exponential"`` exp(-t/T), ``"linear"`` 1 - t/T,
                with T the duration of each sample.
        """
        self._check_closed_form(events)
        return closed_form.mean_membrane(events, self.weight, self.tau_mem, self.tau_syn, weighting)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self._describe()}, dt={self.dt:g}"


