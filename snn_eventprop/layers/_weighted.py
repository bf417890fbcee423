"""Layers of spiking neurons with weights, recurrent weights and delays, on the grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..events import Peaks, SpikeEvents
from ..ops import grid
from ..ops.bin_times import num_bins, time_of
from ..synapses.delayed import check_max_delay, within
from ._inputs import (
    check_units,
    checked_raster,
    events_on_grid,
    raster_of_peaks,
    unbatched,
    wanted,
    within_own_durations,
)
from ._population import SpikingPopulation, check_sizes


class WeightedLayer(SpikingPopulation):
    """Neurons behind synapses: the base of the layers with weights.

    Args:
        recurrent, recurrent_diagonal, max_delay, learn_delays: as in ``EventPropLIF``.
        population: what ``SpikingPopulation`` takes.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        recurrent: bool,
        recurrent_diagonal: bool,
        max_delay: float | None,
        learn_delays: bool,
        **population: Any,
    ) -> None:
        check_sizes(in_features=in_features, out_features=out_features)
        super().__init__(out_features, **population)
        like = {"device": population["device"], "dtype": population["dtype"]}
        self.in_features = in_features
        self.out_features = out_features
        self.recurrent = recurrent
        self.recurrent_diagonal = recurrent_diagonal
        self.weight = nn.Parameter(torch.empty(out_features, in_features, **like))
        if recurrent:
            self.recurrent_weight = nn.Parameter(torch.empty(out_features, out_features, **like))
        else:
            self.register_parameter("recurrent_weight", None)
        self.reset_parameters()
        self.max_delay = None if max_delay is None else check_max_delay(max_delay, self.dt)
        self.learn_delays = learn_delays
        if self.max_delay is not None:
            for weight in ("weight", "recurrent_weight") if recurrent else ("weight",):
                delay = torch.zeros_like(getattr(self, weight))
                name = weight.replace("weight", "delay")
                # Not by register_parameter, which refuses the name of a property.
                if learn_delays:
                    self._parameters[name] = nn.Parameter(delay)
                else:
                    self._buffers[name] = delay.detach()
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
            if (delay := self._kept(name)) is not None:
                nn.init.uniform_(delay, 0.0, bound)

    def _kept(self, name: str) -> Tensor | None:
        """The parameter or buffer, which an optimiser's last step may have moved out of bounds."""
        kept = self._parameters.get(name)
        return self._buffers.get(name) if kept is None else kept

    def _bounded(self, name: str) -> Tensor:
        delay = self._kept(name)
        if delay is None:
            raise AttributeError(f"{type(self).__name__} has no {name}; it takes max_delay=...")
        # In place, and not as a new version: what autograd has saved of values within the bounds,
        # as every forward pass leaves them, stays what it was.
        assert self.max_delay is not None
        delay.data.clamp_(0.0, self.max_delay)
        return delay

    @property
    def delay(self) -> Tensor:
        """Delays of input synapses in seconds, ``[post, pre]``, within [0, max_delay].

        The parameter itself (or buffer). An optimiser's step may lead out of the bounds; reading
        it, ``state_dict`` and the next forward pass set it back.
        """
        return self._bounded("delay")

    @property
    def recurrent_delay(self) -> Tensor:
        """Delays of recurrent synapses in seconds, ``[post, pre]``, likewise."""
        return self._bounded("recurrent_delay")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name in ("delay", "recurrent_delay"):
            if self._kept(name) is not None:
                self._bounded(name)
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _delays(self) -> grid.Delays:
        """In bins as the kernels read them, [pre, post]."""
        if self.max_delay is None:
            return grid.Delays()
        names = ["delay", "recurrent_delay"] if self.recurrent else ["delay"]
        return grid.Delays(
            *(within(self._to_run_with(name), self.max_delay).t() / self.dt for name in names)
        )

    def _to_run_with(self, name: str) -> Tensor:
        # Compiled code leaves parameters alone; there ``within`` does all the clamping.
        if torch.compiler.is_compiling():
            kept = self._parameters if self.learn_delays else self._buffers
            return kept[name]  # type: ignore[return-value]
        return self._bounded(name)

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

    def _forward_grid(self, input: SpikeEvents | Tensor) -> SpikeEvents | Tensor:
        """Spikes out for spikes in: events for events, a raster for a raster."""
        if isinstance(input, SpikeEvents):
            check_units(self, input)
            steps = num_bins(input.duration, self.dt)
            events, stamps = events_on_grid(input, self.dt, steps, self.weight.dtype)
            spikes = self._run_grid(
                events, steps, self.weight.t(), self.out_features,
                recurrent=self._recurrent_rows(),
                drive=grid.Drive(raster_of_peaks(input, self.dt, steps), stamps),
                delays=self._delays(),
            )  # fmt: skip
            out = input._with(
                time_of(spikes.stamps, self.dt), spikes.units, spikes.offsets,
                num_units=self.out_features, marks=spikes.marks,
            )  # fmt: skip
            if spikes.peaks is not None:
                out.peaks = Peaks(*spikes.peaks, self.dt)
            return self._ended(out, self.dt)
        raster = checked_raster(self, input)
        spikes = self._run_grid(
            grid.dense_events(raster, self.weight.dtype), raster.shape[0],
            self.weight.t(), self.out_features, recurrent=self._recurrent_rows(),
            drive=grid.Drive(raster=wanted(raster, self.weight.dtype)), delays=self._delays(),
        )  # fmt: skip
        dense = grid.to_raster(spikes, raster.shape[0], self.out_features, hold=True)
        return dense[:, 0] if unbatched(input) else dense

    def _ended(self, out: SpikeEvents, dt: float | None) -> SpikeEvents:
        """Without spikes after a sample's own end, which the layer's record forgets as well."""
        kept = within_own_durations(out, dt)
        if kept is not out and self._record is not None:
            self._record = self._record._replace(units=kept.units, offsets=kept.offsets)
        return kept

    def forward(self, input: SpikeEvents | Tensor) -> SpikeEvents | Tensor:
        """Spikes out for spikes in: events for events, a raster for a raster."""
        return self._forward_grid(input)

    def _shown(self) -> str:
        diagonal = f"recurrent_diagonal={self.recurrent_diagonal}, " if self.recurrent else ""
        return (
            f"{self.in_features}, {self.out_features}, recurrent={self.recurrent}, {diagonal}"
            f"{self._describe()}"
        )

    def extra_repr(self) -> str:
        delays = f", max_delay={self.max_delay!r}" * (self.max_delay is not None)
        return f"{self._shown()}{delays}, dt={self.dt:g}"
