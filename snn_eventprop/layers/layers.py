"""EventProp layers: spiking neurons with exact event-based gradients, and readouts."""

from __future__ import annotations

import math
import warnings
from numbers import Integral
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .._checks import nonnegative, positive
from ..diagnostics import LayerRecord, keep_record
from ..discretisation import exponential
from ..events import SpikeEvents
from ..ops import exact as op_exact
from ..ops import grid as op
from ..ops.bin_times import bin_of, num_bins, time_of
from ..synapses.delays import check_max_delay, within
from . import closed_form

Solver = Literal["grid", "exact"]
SOLVERS: tuple[str, ...] = get_args(Solver)

# Beyond these, milliseconds were meant: bins in units of the longest time constant, and seconds.
_WIDEST_BIN, _LONGEST_TAU = 10, 10.0


def _positive(name: str, value: float | Tensor, unit: str) -> Tensor:
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a number or a tensor{unit}, got {value!r}") from error
    if not bool((torch.isfinite(tensor) & (tensor > 0)).all()):
        raise ValueError(f"{name} must be positive{unit}, got {value}")
    return tensor


def _check_sizes(**sizes: int | None) -> None:
    for name, size in sizes.items():
        if not isinstance(size, Integral) or size < 1:
            raise ValueError(f"{name} must be an integer, at least 1, got {size!r}")


class _Neurons(nn.Module):
    """Time constants (and where there is one, the threshold) of a population of neurons.

    Trainable time constants are kept as logarithms, ``log_tau_mem`` and ``log_tau_syn``, so that
    no optimiser step can make them negative and a step is a relative change.
    """

    dt: float
    log_tau_mem: Tensor
    log_tau_syn: Tensor
    threshold: Tensor

    def __init__(
        self,
        size: int | None,
        tau_mem: float | Tensor,
        tau_syn: float | Tensor,
        threshold: float | Tensor | None,
        learn: dict[str, bool],
        dt: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.dt = positive("dt", dt, "time in seconds")
        dtype = dtype or torch.get_default_dtype()
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        values = {
            "log_tau_mem": _positive("tau_mem", tau_mem, " (seconds)").log(),
            "log_tau_syn": _positive("tau_syn", tau_syn, " (seconds)").log(),
        }
        longest = max(value.max().exp().item() for value in values.values())
        if self.dt > _WIDEST_BIN * longest:
            raise ValueError(
                f"dt={self.dt:g} s is {self.dt / longest:.3g} times the longest time constant; all "
                "are in seconds: 1 ms is 1e-3"
            )
        if longest > _LONGEST_TAU:
            warnings.warn(
                f"a time constant of {longest:g} s is long; all are in seconds: 20 ms is 20e-3",
                stacklevel=3,
            )
        if threshold is not None:
            values["threshold"] = _positive("threshold", threshold, "")
        for name, value in values.items():
            if value.ndim > 1 or (value.ndim == 1 and len(value) != size):
                shape = f"[{size}]" if size is not None else "[features], with features given"
                raise ValueError(
                    f"{name.removeprefix('log_')} must be a number or have shape {shape}, got "
                    f"shape {tuple(value.shape)}"
                )
            trainable = learn.get(name.removeprefix("log_"), False)
            if trainable and value.ndim == 0 and size is not None:
                value = value.expand(size)
            value = value.to(device=device, dtype=dtype).contiguous()
            if trainable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    @property
    def tau_mem(self) -> Tensor:
        """Membrane time constant in seconds, scalar or per neuron. What is assigned is kept as
        ``log_tau_mem``."""
        return self.log_tau_mem.double().exp()

    @tau_mem.setter
    def tau_mem(self, value: float | Tensor) -> None:
        self._assign("tau_mem", value)

    @property
    def tau_syn(self) -> Tensor:
        """Synaptic time constant in seconds, likewise, as ``log_tau_syn``."""
        return self.log_tau_syn.double().exp()

    @tau_syn.setter
    def tau_syn(self, value: float | Tensor) -> None:
        self._assign("tau_syn", value)

    @torch.no_grad()
    def _assign(self, name: str, value: float | Tensor) -> None:
        logarithm = getattr(self, f"log_{name}")
        new = _positive(name, value, " (seconds)").log()
        if new.ndim and new.shape != logarithm.shape:
            raise ValueError(
                f"{name} must be a number or have shape {list(logarithm.shape)}, got shape "
                f"{tuple(new.shape)}"
            )
        logarithm.copy_(new.expand(logarithm.shape))

    def _check_time_constants(self, **others: Tensor) -> None:
        """Raise if they, or ``others``, have become NaN or infinite.

        Nobody waits for a GPU here.
        """
        if not torch.compiler.is_compiling() and self.log_tau_mem.device.type == "cpu":
            op.check_finite(
                op.DIVERGED,
                log_tau_mem=self.log_tau_mem.detach(), log_tau_syn=self.log_tau_syn.detach(),
                **others,
            )  # fmt: skip

    def _coefficients(self, size: int, dtype: torch.dtype, threshold: Tensor) -> Tensor:
        """Rows s, c, m, threshold of the grid kernel, [4, size]."""
        maps = exponential(self.tau_mem, self.tau_syn, self.dt)
        return torch.stack([row.expand(size).to(dtype) for row in (*maps, threshold)])

    def _describe(self) -> str:
        def show(value: Tensor) -> str:
            value = value.detach()
            return f"{value.item():.4g}" if value.numel() == 1 else f"[{value.numel()}]"

        names = ["tau_mem", "tau_syn"] + ["threshold"] * hasattr(self, "threshold")
        return ", ".join(f"{name}={show(getattr(self, name))}" for name in names)


class _SpikingNeurons(_Neurons):
    """The part of a spiking layer that does not depend on where its currents come from."""

    def __init__(
        self,
        size: int | None,
        *,
        tau_mem: float | Tensor,
        tau_syn: float | Tensor,
        threshold: float | Tensor,
        learn_tau_mem: bool,
        learn_tau_syn: bool,
        learn_threshold: bool,
        dt: float,
        grazing_guard: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        learn = {"tau_mem": learn_tau_mem, "tau_syn": learn_tau_syn, "threshold": learn_threshold}
        super().__init__(size, tau_mem, tau_syn, threshold, learn, dt, device, dtype)
        self.grazing_guard = nonnegative("grazing_guard", grazing_guard)
        self._record: LayerRecord | None = None
        self._seen: tuple[int, int | None] | None = None

    def _checked_threshold(self) -> Tensor:
        threshold = self.threshold
        if torch.compiler.is_compiling():
            return threshold
        # Looking at a value on a GPU waits for it, so the same one is looked at once.
        version = None if threshold.is_inference() else threshold._version
        seen = (id(threshold), version)
        if threshold.device.type != "cpu" and version is not None and seen == self._seen:
            return threshold
        if not bool((threshold.detach() > 0).all()):
            raise ValueError(
                f"threshold must stay positive, got {threshold.detach().min().item():.3g}; "
                "lower the learning rate or clamp it after each step"
            )
        self._seen = seen
        return threshold

    def _run_grid(
        self, events: op.Events, steps: int, weight: Tensor, size: int, **inputs: Any
    ) -> op.GridSpikes:
        self._check_time_constants()
        coefficients = self._coefficients(size, weight.dtype, self._checked_threshold())
        # The slope per bin of V' = guard * threshold / tau_mem, for which 1 - m stands.
        floor = self.grazing_guard * (coefficients[3] * (1 - coefficients[2])).detach()
        spikes = op.grid_lif(
            events,
            steps,
            weight,
            coefficients,
            torch.zeros_like(floor),
            floor,
            tag=id(self),
            **inputs,
        )
        keep_record(self, LayerRecord(spikes.units, spikes.offsets, size))
        return spikes


class EventPropLIF(_SpikingNeurons):
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
            order in dt. ``"exact"``: continuous time from event to event, for ``SpikeEvents``
            alone; spike times and gradients are exact to rounding.
        dt: bin width of the grid in seconds; the exact solver has none.
        grazing_guard: smallest slope of V at a spike used in the gradient, in units of
            threshold / tau_mem; spikes that graze the threshold have unbounded exact gradients.
            0 switches it off. ``snn_eventprop.diagnostics`` counts where it acted.
        max_rate: spikes per second and neuron, in the mean over the layer and a sample, at which
            the exact solver gives up: in continuous time, recurrent excitation that feeds itself
            makes spikes without end (a grid bounds them to one in a bin).
        device, dtype: of parameters; float32 or float64.

    Shapes:
        ``SpikeEvents`` of B samples -> ``SpikeEvents`` with ``out_features`` units, whose times
        and marks carry gradients; or raster ``[T, B, in_features]`` -> ``[T, B,
        out_features]``. Gradients of both agree but for spikes of the last bin, which as events
        feel that the recording ends, and in a raster do not. ``weight`` is
        ``[out_features, in_features]`` and ``recurrent_weight`` ``[post, pre]``, as in
        ``torch.nn``.

    Raises:
        ValueError: time constants, threshold, dt or max_delay that are not positive, wrong shapes,
            weights or delays that are NaN or infinite, delays with the exact solver.
        TypeError: an input that is neither a tensor nor ``SpikeEvents``; a raster for the exact
            solver.
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
    the next one. A gradient that would lead out of [0, max_delay] is zero, one that leads in from
    beyond, where an optimiser's momentum may have carried a delay, is kept; the delay that acts is
    the clamped one.

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
        max_rate: float = 2000.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_sizes(in_features=in_features, out_features=out_features)
        super().__init__(
            out_features, tau_mem=tau_mem, tau_syn=tau_syn, threshold=threshold,
            learn_tau_mem=learn_tau_mem, learn_tau_syn=learn_tau_syn,
            learn_threshold=learn_threshold, dt=dt, grazing_guard=grazing_guard,
            device=device, dtype=dtype,
        )  # fmt: skip
        if solver not in SOLVERS:
            raise ValueError(f"solver must be one of {SOLVERS}, got {solver!r}")
        if max_delay is not None and solver == "exact":
            raise ValueError(
                f'max_delay={max_delay!r} needs solver="grid": the exact solver has no delays'
            )
        self.in_features = in_features
        self.out_features = out_features
        self.recurrent = recurrent
        self.recurrent_diagonal = recurrent_diagonal
        self.solver = solver
        self.max_rate = positive("max_rate", max_rate, "number of spikes per second")
        self.weight = nn.Parameter(
            torch.empty(out_features, in_features, device=device, dtype=dtype)
        )
        if recurrent:
            self.recurrent_weight = nn.Parameter(
                torch.empty(out_features, out_features, device=device, dtype=dtype)
            )
        else:
            self.register_parameter("recurrent_weight", None)
        self.reset_parameters()
        self.max_delay = None if max_delay is None else check_max_delay(max_delay, self.dt)
        self.learn_delays = learn_delays
        if self.max_delay is not None:
            for weight in ("weight", "recurrent_weight") if recurrent else ("weight",):
                delay = torch.zeros_like(getattr(self, weight))
                name = weight.replace("weight", "delay")
                if learn_delays:
                    self.register_parameter(name, nn.Parameter(delay))
                else:
                    self.register_buffer(name, delay.detach())
            self.reset_delays()

    def reset_delays(self, longest: float | None = None, recurrent_longest: float = 0.0) -> None:
        """Draw delays from uniform distributions, from 0 to these times in seconds.

        Args:
            longest: of input synapses; None: ``max_delay``.
            recurrent_longest: of recurrent ones; by default they start without delays.

        Raises:
            ValueError: the layer has no delays, or a time is not in [0, max_delay].
        """
        if self.max_delay is None:
            raise ValueError("the layer has no delays: make it with max_delay=... (seconds)")
        bounds = {
            "delay": self.max_delay if longest is None else longest,
            "recurrent_delay": recurrent_longest,
        }
        for name, bound in bounds.items():
            if not 0 <= bound <= self.max_delay:
                which = "longest" if name == "delay" else "recurrent_longest"
                raise ValueError(
                    f"{which} must be between 0 and max_delay={self.max_delay:g} s, got {bound!r}"
                )
            if hasattr(self, name):
                nn.init.uniform_(getattr(self, name), 0.0, bound)

    def _delay_rows(self) -> dict[str, Tensor]:
        """Delays in bins as the kernels read them, [pre, post]."""
        if self.max_delay is None:
            return {}
        names = ["delay", "recurrent_delay"] if self.recurrent else ["delay"]
        return {name: within(getattr(self, name), self.max_delay).t() / self.dt for name in names}

    def reset_parameters(
        self, mean: float | None = None, std: float | None = None, recurrent_std: float = 0.02
    ) -> None:
        """Draw weights from normal distributions.

        By default mean 21 / in_features and std 7 / in_features: 0.03 and 0.01 for the 700
        channels of spoken-digit data, at which neurons start out firing (Nowotny et al. 2025).
        """
        nn.init.normal_(
            self.weight,
            21 / self.in_features if mean is None else mean,
            7 / self.in_features if std is None else std,
        )
        if self.recurrent_weight is not None:
            nn.init.normal_(self.recurrent_weight, 0.0, recurrent_std)

    def _recurrent_rows(self) -> Tensor | None:
        """Recurrent weights as the kernels read them: [pre, post], diagonal or not."""
        if self.recurrent_weight is None:
            return None
        weight: Tensor = self.recurrent_weight
        if not self.recurrent_diagonal:
            weight = weight * (1 - torch.eye(self.out_features, device=weight.device)).to(weight)
        return weight.t()

    def forward(self, input: SpikeEvents | Tensor):
        """Spikes out for spikes in: events for events, a raster for a raster."""
        if self.solver == "exact":
            return self._forward_exact(input)
        if isinstance(input, SpikeEvents):
            _check_units(self, input)
            steps = num_bins(input.duration, self.dt)
            events, stamps = _events_on_grid(input, self.dt, steps, self.weight.dtype)
            spikes = self._run_grid(
                events, steps, self.weight.t(), self.out_features,
                recurrent=self._recurrent_rows(), event_stamps=stamps, **self._delay_rows(),
            )  # fmt: skip
            return SpikeEvents(
                time_of(spikes.stamps, self.dt), spikes.units, spikes.offsets,
                self.out_features, input.duration, spikes.marks, validate=False,
            )  # fmt: skip
        _check_raster(self, input)
        spikes = self._run_grid(
            op.dense_events(input, self.weight.dtype), input.shape[0],
            self.weight.t(), self.out_features,
            recurrent=self._recurrent_rows(), raster=_wanted(input, self.weight.dtype),
            **self._delay_rows(),
        )  # fmt: skip
        return op.to_raster(spikes, input.shape[0], self.out_features, hold=True)

    def _forward_exact(self, events: SpikeEvents | Tensor) -> SpikeEvents:
        if not isinstance(events, SpikeEvents):
            raise TypeError(
                f'solver="exact" reads SpikeEvents, got {type(events).__name__}; convert a raster '
                'with SpikeEvents.from_dense(raster, dt), or use solver="grid"'
            )
        _check_units(self, events)
        self._check_time_constants()
        size, dtype = self.out_features, self.weight.dtype
        threshold = self._checked_threshold().expand(size)
        tau_mem, tau_syn = self.tau_mem, self.tau_syn
        shape = (1,) if tau_mem.numel() == tau_syn.numel() == 1 else (size,)
        floor = self.grazing_guard * threshold.detach() / tau_mem.detach()
        spikes = op_exact.exact_lif(
            events.times, events.units, events.offsets, events.duration,
            self.weight.t(), tau_mem.expand(shape), tau_syn.expand(shape),
            threshold, torch.zeros_like(threshold), floor.to(dtype),
            recurrent=self._recurrent_rows(),
            limit=math.ceil(self.max_rate * size * events.duration) + 1000,
            name=f"{type(self).__name__}({self.in_features}, {size})", tag=id(self),
        )  # fmt: skip
        keep_record(self, LayerRecord(spikes.units, spikes.offsets, size))
        return SpikeEvents(
            spikes.times, spikes.units, spikes.offsets, size, events.duration, spikes.marks,
            validate=False,
        )  # fmt: skip

    def extra_repr(self) -> str:
        diagonal = f"recurrent_diagonal={self.recurrent_diagonal}, " if self.recurrent else ""
        return (
            f"{self.in_features}, {self.out_features}, recurrent={self.recurrent}, {diagonal}"
            f"{self._describe()}, solver={self.solver!r}"
            + f", max_delay={self.max_delay!r}" * (self.max_delay is not None)
            + f", dt={self.dt:g}" * (self.solver == "grid")
        )


class EventPropNeuron(_SpikingNeurons):
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
        grazing_guard, device, dtype: as in ``EventPropLIF``.

    Shapes:
        currents ``[T, B, ...]`` -> spikes ``[T, B, ...]``.

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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if features is not None:
            _check_sizes(features=features)
        super().__init__(
            features, tau_mem=tau_mem, tau_syn=tau_syn, threshold=threshold,
            learn_tau_mem=learn_tau_mem, learn_tau_syn=learn_tau_syn,
            learn_threshold=learn_threshold, dt=dt, grazing_guard=grazing_guard,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.features = features

    def forward(self, current: Tensor) -> Tensor:
        if not isinstance(current, Tensor) or current.ndim < 3:
            shape = tuple(current.shape) if isinstance(current, Tensor) else type(current).__name__
            raise ValueError(f"current must be a tensor [T, B, ...], got {shape}")
        if current.is_complex():
            raise TypeError(f"current must be real, got {current.dtype}")
        if current.device != self.log_tau_mem.device:
            raise ValueError(
                f"current is on {current.device} but the layer is on {self.log_tau_mem.device}; "
                "move them to one device"
            )
        op.check_backend(self.log_tau_mem)
        flat = current.flatten(2).to(self.log_tau_mem.dtype)
        steps, batch, size = flat.shape
        if self.features is not None and size != self.features:
            raise ValueError(
                f"current has {size} neurons per sample (shape {tuple(current.shape)}) but this "
                f"layer has features={self.features}"
            )
        spikes = self._run_grid(
            op.no_events(batch, flat), steps, flat.new_empty(0, size), size, input_current=flat
        )
        return op.to_raster(spikes, steps, size, hold=True).view(current.shape)

    def extra_repr(self) -> str:
        features = "" if self.features is None else f"{self.features}, "
        return f"{features}{self._describe()}, dt={self.dt:g}"


class EventPropLI(_Neurons):
    r"""A readout of leaky integrators: ``EventPropLIF`` without threshold.

    .. math:: \tau_m \dot V = -V + I, \qquad \tau_s \dot I = -I

    Args:
        in_features, out_features: sizes; ``weight`` is ``[out_features, in_features]``.
        tau_mem, tau_syn, learn_tau_mem, learn_tau_syn, dt, device, dtype: as in ``EventPropLIF``.

    Shapes:
        ``forward``: ``SpikeEvents`` or raster ``[T, B, in_features]`` -> membrane trace ``[T, B,
        out_features]``, V at the end of each bin. Without bins, in closed form: ``sample``, the
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
        _check_sizes(in_features=in_features, out_features=out_features)
        learn = {"tau_mem": learn_tau_mem, "tau_syn": learn_tau_syn}
        super().__init__(out_features, tau_mem, tau_syn, None, learn, dt, device, dtype)
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
            _check_units(self, input)
            steps = num_bins(input.duration, self.dt)
            events, stamps = _events_on_grid(input, self.dt, steps, self.weight.dtype)
        else:
            _check_raster(self, input)
            steps = input.shape[0]
            events = op.dense_events(input, self.weight.dtype)
            raster = _wanted(input, self.weight.dtype)
        self._check_time_constants()
        never = self.weight.new_full((), math.inf)
        coefficients = self._coefficients(self.out_features, self.weight.dtype, never)
        zero = torch.zeros_like(coefficients[0]).detach()
        return op.grid_lif(
            events, steps, self.weight.t(), coefficients, zero, zero,
            raster=raster, event_stamps=stamps, reset="none", record=True, tag=id(self),
        ).trace  # fmt: skip

    def _check_closed_form(self, events: SpikeEvents) -> None:
        if not isinstance(events, SpikeEvents):
            raise TypeError(
                f"the closed form reads SpikeEvents, got {type(events).__name__}; convert a raster "
                "with SpikeEvents.from_dense(raster, dt), or call the readout itself"
            )
        _check_units(self, events)
        # Of those on a GPU, the layer before this one finds out in the next step.
        self._check_time_constants(weight=self.weight.detach())

    def sample(self, events: SpikeEvents, times: Tensor) -> Tensor:
        """Membrane at the requested times, exactly, ``[Q, B, O]``.

        Args:
            events: input spikes; their times receive gradients.
            times: ``[Q]`` ascending, in seconds, in [0, duration].

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
                with T the duration of the events.
        """
        self._check_closed_form(events)
        return closed_form.mean_membrane(events, self.weight, self.tau_mem, self.tau_syn, weighting)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self._describe()}, dt={self.dt:g}"


def _check_units(layer: EventPropLIF | EventPropLI, events: SpikeEvents) -> None:
    op.check_backend(layer.weight)
    if events.num_units != layer.in_features:
        raise ValueError(
            f"events have num_units={events.num_units} but the layer has "
            f"in_features={layer.in_features}"
        )
    if events.device != layer.weight.device:
        raise ValueError(
            f"events are on {events.device} but the layer is on {layer.weight.device}; "
            f"call events.to({str(layer.weight.device)!r})"
        )


def _check_raster(layer: EventPropLIF | EventPropLI, raster: Tensor) -> None:
    if not isinstance(raster, Tensor):
        raise TypeError(f"input must be SpikeEvents or a tensor, got {type(raster).__name__}")
    if raster.layout != torch.strided:
        raise TypeError(
            f"a raster must be dense, got {raster.layout}; call raster.to_dense(), or "
            "SpikeEvents.from_dense(raster, dt) for spike counts"
        )
    if raster.ndim != 3 or raster.shape[2] != layer.in_features:
        raise ValueError(
            f"a raster must have shape [T, B, in_features={layer.in_features}], got "
            f"{tuple(raster.shape)}"
        )
    if raster.device != layer.weight.device:
        raise ValueError(
            f"input is on {raster.device} but the layer is on {layer.weight.device}; "
            "move them to one device"
        )
    op.check_backend(layer.weight)
    if raster.is_complex():
        raise TypeError(f"a raster must be real, got {raster.dtype}")


def _events_on_grid(
    events: SpikeEvents, dt: float, steps: int, dtype: torch.dtype
) -> tuple[op.Events, Tensor | None]:
    bins = bin_of(events.times, dt, steps)
    stamps = events.times.to(dtype) / dt if events.times.requires_grad else None
    ones = events.times.new_empty(0, dtype=dtype)
    return op.Events(bins, events.units, ones, events.offsets), stamps


def _wanted(raster: Tensor, dtype: torch.dtype) -> Tensor | None:
    return raster.to(dtype) if raster.requires_grad else None
