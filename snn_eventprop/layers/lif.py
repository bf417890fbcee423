"""Layers of leaky integrate-and-fire neurons."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from .._checks import positive
from ..diagnostics import LayerRecord, keep_record, new_probe
from ..events import SpikeEvents
from ..ops import exact
from ._inputs import check_units, checked_raster
from ._population import Gradient
from ._weighted import WeightedLayer

Solver = Literal["grid", "exact"]
SOLVERS: tuple[str, ...] = get_args(Solver)


class EventPropLIF(WeightedLayer):
    r"""A layer of leaky integrate-and-fire neurons with exact event-based gradients.

    .. math:: \tau_m \dot V = -V + I, \qquad \tau_s \dot I = -I

    An incoming spike of unit j adds ``weight[:, j]`` to I; V > threshold emits a spike and V drops
    by the threshold. The gradient is that of the continuous-time system (EventProp): spikes move
    in time, they do not appear or vanish.

    Args:
        in_features: number of input units.
        out_features: number of neurons.
        recurrent: connect every neuron to every neuron through ``recurrent_weight``.
        recurrent_diagonal: whether neurons also connect to themselves.
        tau_mem: membrane time constant in seconds, a number or ``[out_features]``.
        tau_syn: synaptic time constant in seconds, likewise; may equal ``tau_mem``.
        threshold: number or ``[out_features]``, positive.
        learn_tau_mem, learn_tau_syn, learn_threshold: make them parameters, one per neuron.
        max_delay: give every synapse a delay of its own, between 0 and this many seconds:
            ``delay``, ``[out_features, in_features]``, and for recurrent synapses
            ``recurrent_delay``, ``[post, pre]``, both in seconds. Grid solver only, which rounds
            them to bins. None: no delays. They start as ``reset_delays`` says.
        learn_delays: make delays parameters; else they are buffers, to be set by hand.
        solver: ``"grid"``: bins of ``dt``; gradients converge to those of continuous time at first
            order in dt. ``"exact"``: continuous time from event to event; spike times and
            gradients are exact to rounding.
        dt: bin width in seconds, of the grid and of rasters; the exact solver reads a spike in bin
            k of a raster as an event at k dt, where the bin begins.
        grazing_guard: smallest slope of V at a spike used in the gradient, in units of
            threshold / tau_mem; spikes that graze the threshold have unbounded exact gradients.
            0 switches it off. ``snn_eventprop.diagnostics`` counts where it acted.
        gradient: ``"exact"``: spikes move in time; a neuron that does not spike has no gradient.
            ``"hybrid"``: also what a spike would change where V has a peak just below the
            threshold. Silent neurons learn, and losses that jump have the right gradient on
            average; a step costs 1.4 to 3 times as much. Choose exact to study or check
            gradients, hybrid to train. Grid solver, CPU (docs/gradients.md).
        threshold_noise: of the hybrid gradient: the half width of the threshold's assumed noise,
            in units of the threshold. Peaks closer to the threshold than that count; 0 leaves the
            exact gradient.
        max_rate: spikes per second and neuron, in the mean over the layer and a sample, at which
            the exact solver gives up: in continuous time, recurrent excitation that feeds itself
            makes spikes without end (a grid bounds them to one in a bin).
        device, dtype: of parameters; float32 or float64.

    Shapes:
        ``SpikeEvents`` of B samples -> ``SpikeEvents`` with ``out_features`` units, whose times
        and marks carry gradients; or raster ``[T, B, in_features]`` -> ``[T, B,
        out_features]``, and ``[T, in_features]`` -> ``[T, out_features]``. A raster may be a
        tensor, a sparse tensor or an array. The exact solver returns ``SpikeEvents`` for a raster
        too, to which it gives no gradient. Samples with durations of their own spike until these
        end. Gradients of both agree but for spikes of the last bin, which as events
        feel that the recording ends, and in a raster do not. ``weight`` is
        ``[out_features, in_features]`` and ``recurrent_weight`` ``[post, pre]``, as in
        ``torch.nn``.

    Raises:
        ValueError: time constants, threshold, dt or max_delay that are not positive, wrong shapes,
            weights or delays that are NaN or infinite, delays with the exact solver.
            For the exact solver: a raster that requires a gradient, or whose values are no spike
            counts.
        TypeError: an input that is neither ``SpikeEvents`` nor a tensor or array.
        RuntimeError: runaway excitation, with the sample and the time.

    >>> layer = EventPropLIF(3, 2, dt=1e-3)
    >>> torch.nn.init.constant_(layer.weight, 5.0).shape
    torch.Size([2, 3])
    >>> events = SpikeEvents.from_list([([0.01, 0.012], [0, 2])], num_units=3, duration=0.05)
    >>> layer(events)
    SpikeEvents(1 samples, 2 events, 2 units, 0.05 s, float32, cpu)

    With delays, an event of unit i at t adds its weight to I of neuron j at t + d_ij, and

    .. math::
        \frac{dL}{dd_{ij}} = w_{ij} \sum_t \dot b_j(t + d_{ij}), \qquad b = dL/dI,

    is summed over the events of i, the derivative being the difference from the bin of arrival to
    the next one. A gradient that would lead out of [0, max_delay] is zero. An optimiser's momentum
    may carry a delay beyond a bound; it is set back to the bound when it is next read, by the layer
    or by anybody.

    Source: T. C. Wunderlich and C. Pehle, Scientific Reports 11, 12829 (2021); delays: B. Mészáros,
    J. C. Knight and T. Nowotny, Efficient event-based delay learning in spiking neural networks,
    Nature Communications (2025).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        recurrent: bool = False,
        recurrent_diagonal: bool = True,
        tau_mem: float | Tensor = 20e-3,
        tau_syn: float | Tensor = 5e-3,
        threshold: float | Tensor = 1.0,
        learn_tau_mem: bool = False,
        learn_tau_syn: bool = False,
        learn_threshold: bool = False,
        max_delay: float | None = None,
        learn_delays: bool = True,
        solver: Solver = "grid",
        dt: float = 1e-3,
        grazing_guard: float = 0.05,
        gradient: Gradient = "exact",
        threshold_noise: float = 1.0,
        max_rate: float = 2000.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features, out_features, recurrent=recurrent, recurrent_diagonal=recurrent_diagonal,
            max_delay=max_delay, learn_delays=learn_delays,
            taus={"tau_mem": tau_mem, "tau_syn": tau_syn}, threshold=threshold,
            learn={
                "tau_mem": learn_tau_mem, "tau_syn": learn_tau_syn, "threshold": learn_threshold,
            },
            dt=dt, grazing_guard=grazing_guard, gradient=gradient,
            threshold_noise=threshold_noise, device=device, dtype=dtype,
        )  # fmt: skip
        if solver not in SOLVERS:
            raise ValueError(f"solver must be one of {SOLVERS}, got {solver!r}")
        if max_delay is not None and solver == "exact":
            raise ValueError(
                f'max_delay={max_delay!r} needs solver="grid": the exact solver has no delays'
            )
        if gradient != "exact" and solver == "exact":
            raise ValueError(f'gradient={gradient!r} needs solver="grid"')
        self.solver = solver
        self.max_rate = positive("max_rate", max_rate, "number of spikes per second")

    def forward(self, input: SpikeEvents | Tensor) -> SpikeEvents | Tensor:
        """Spikes out for spikes in: events for events, a raster for a raster."""
        return self._forward_exact(input) if self.solver == "exact" else self._forward_grid(input)

    def _forward_exact(self, input: SpikeEvents | Tensor) -> SpikeEvents:
        events = input if isinstance(input, SpikeEvents) else self._events_of(input)
        check_units(self, events)
        self._check_time_constants()
        size, dtype = self.out_features, self.weight.dtype
        threshold = self._checked_threshold().expand(size)
        tau_mem, tau_syn = self.tau_mem, self.tau_syn
        shape = (1,) if tau_mem.numel() == tau_syn.numel() == 1 else (size,)
        floor = self.grazing_guard * threshold.detach() / tau_mem.detach()
        probe = new_probe(threshold)
        spikes = exact.exact_lif(
            exact.ExactEvents(events.times, events.units, events.offsets), events.duration,
            self.weight.t(),
            exact.ExactPopulation(
                tau_mem.expand(shape), tau_syn.expand(shape), threshold,
                torch.zeros_like(threshold), floor.to(dtype),
            ),
            recurrent=self._recurrent_rows(),
            limit=math.ceil(self.max_rate * size * events.duration) + 1000,
            name=f"{type(self).__name__}({self.in_features}, {size})", probe=probe,
        )  # fmt: skip
        keep_record(self, LayerRecord(spikes.units, spikes.offsets, size, probe))
        out = events._with(
            spikes.times, spikes.units, spikes.offsets, num_units=size, marks=spikes.marks
        )
        return self._ended(out, None)

    def _events_of(self, input: Tensor) -> SpikeEvents:
        """The events of a raster, each at the beginning of its bin of ``dt``."""
        raster = checked_raster(self, input)
        if raster.requires_grad:
            raise ValueError(
                'solver="exact" gives no gradient to a raster, and this one requires it; use '
                'solver="grid", hand over SpikeEvents, or raster.detach()'
            )
        return SpikeEvents.from_dense(raster, self.dt).to(self.weight.dtype)

    def extra_repr(self) -> str:
        return (
            f"{self._shown()}, solver={self.solver!r}"
            + f", max_delay={self.max_delay!r}" * (self.max_delay is not None)
            + f", dt={self.dt:g}" * (self.solver == "grid")
        )
