"""Populations of neurons: time constants and thresholds as parameters or buffers."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .._checks import nonnegative, positive
from .._warnings import warn
from ..diagnostics import LayerRecord, keep_record, new_probe
from ..discretisation import exponential
from ..ops import grid
from ..ops.checks import DIVERGED, check_finite

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


def _warn_of_long(seconds: float) -> None:
    if seconds > _LONGEST_TAU:
        warn(f"a time constant of {seconds:g} s is long; all are in seconds: 20 ms is 20e-3")


def check_sizes(**sizes: int | None) -> None:
    for name, size in sizes.items():
        if not isinstance(size, Integral) or size < 1:
            raise ValueError(f"{name} must be an integer, at least 1, got {size!r}")


class Population(nn.Module):
    """Time constants (and where there is one, the threshold) of a population of neurons.

    Time constants are kept as logarithms, ``log_tau_mem`` and so on, so that no optimiser step
    can make them negative and a step is a relative change.

    Args:
        size: number of neurons; None: any number, which then share their constants.
        taus: time constants in seconds, by name.
        others: further constants by name, already checked.
        learn: names of those that are parameters, one for each neuron.
        dt: bin width in seconds.
    """

    dt: float
    log_tau_mem: Tensor
    log_tau_syn: Tensor

    def __init__(
        self,
        size: int | None,
        taus: Mapping[str, float | Tensor],
        others: Mapping[str, Tensor],
        learn: set[str],
        dt: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.dt = positive("dt", dt, "time in seconds")
        dtype = dtype or torch.get_default_dtype()
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        seconds = {name: _positive(name, value, " (seconds)") for name, value in taus.items()}
        longest = max(value.max().item() for value in seconds.values())
        if self.dt > _WIDEST_BIN * longest:
            raise ValueError(
                f"dt={self.dt:g} s is {self.dt / longest:.3g} times the longest time constant; all "
                "are in seconds: 1 ms is 1e-3"
            )
        _warn_of_long(longest)
        for name, value in (*seconds.items(), *others.items()):
            if value.ndim > 1 or (value.ndim == 1 and len(value) != size):
                shape = f"[{size}]" if size is not None else "[features], with features given"
                raise ValueError(
                    f"{name} must be a number or have shape {shape}, got shape "
                    f"{tuple(value.shape)}"
                )
            trainable = name in learn
            if trainable and value.ndim == 0 and size is not None:
                value = value.expand(size)
            kept = f"log_{name}" if name in seconds else name
            value = value.log() if name in seconds else value
            value = value.to(device=device, dtype=dtype).contiguous()
            if trainable:
                self.register_parameter(kept, nn.Parameter(value))
            else:
                self.register_buffer(kept, value)

    @property
    def tau_mem(self) -> Tensor:
        """Membrane time constant in seconds, scalar or per neuron; kept as ``log_tau_mem``."""
        return self.log_tau_mem.double().exp()

    @tau_mem.setter
    def tau_mem(self, value: float | Tensor) -> None:
        self._assign("tau_mem", value)

    @property
    def tau_syn(self) -> Tensor:
        """Synaptic time constant in seconds, likewise; kept as ``log_tau_syn``."""
        return self.log_tau_syn.double().exp()

    @tau_syn.setter
    def tau_syn(self, value: float | Tensor) -> None:
        self._assign("tau_syn", value)

    @torch.no_grad()
    def _assign(self, name: str, value: float | Tensor) -> None:
        logarithm = getattr(self, f"log_{name}")
        seconds = _positive(name, value, " (seconds)")
        new = seconds.log()
        if new.ndim and new.shape != logarithm.shape:
            raise ValueError(
                f"{name} must be a number or have shape {list(logarithm.shape)}, got shape "
                f"{tuple(new.shape)}"
            )
        logarithm.copy_(new.expand(logarithm.shape))
        _warn_of_long(seconds.max().item())

    def _constant_names(self) -> list[str]:
        """Names under which constants are kept."""
        own = {**self._parameters, **self._buffers}
        return [name for name in own if name.startswith("log_tau_")]

    def _check_time_constants(self, **others: Tensor) -> None:
        """Raise if they, or ``others``, have become NaN or infinite.

        Nobody waits for a GPU here.
        """
        if not torch.compiler.is_compiling() and self.log_tau_mem.device.type == "cpu":
            taus = {name: getattr(self, name).detach() for name in self._constant_names()}
            check_finite(DIVERGED, **taus, **others)

    def _map(self, size: int, dtype: torch.dtype) -> list[Tensor]:
        """s, c, m of one bin, [size] each."""
        maps = exponential(self.tau_mem, self.tau_syn, self.dt)
        return [row.expand(size).to(dtype) for row in maps]

    def _describe(self) -> str:
        def show(value: Tensor) -> str:
            value = value.detach()
            return f"{value.item():.4g}" if value.numel() == 1 else f"[{value.numel()}]"

        names = [name.removeprefix("log_") for name in self._constant_names()]
        names += ["threshold"] * hasattr(self, "threshold")
        return ", ".join(f"{name}={show(getattr(self, name))}" for name in names)


Gradient = Literal["exact", "hybrid"]
GRADIENTS: tuple[str, ...] = get_args(Gradient)


class SpikingPopulation(Population):
    """The part of a spiking layer that does not depend on where its currents come from.

    A subclass for another neuron names its module, ``_neuron``, and overrides ``_constants``.

    Args:
        taus, dt: as in ``Population``.   threshold: positive.
        others: further constants by name.   learn: whether each constant is a parameter.
        grazing_guard: smallest slope in the gradient, in units of threshold / tau_mem.
        gradient, threshold_noise: as in ``EventPropLIF``.
    """

    _neuron = "lif"
    threshold: Tensor

    def __init__(
        self,
        size: int | None,
        *,
        taus: Mapping[str, float | Tensor],
        threshold: float | Tensor,
        others: Mapping[str, Tensor] | None = None,
        learn: Mapping[str, bool],
        dt: float,
        grazing_guard: float,
        gradient: Gradient,
        threshold_noise: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        constants = {"threshold": _positive("threshold", threshold, ""), **(others or {})}
        learned = {name for name, wanted in learn.items() if wanted}
        super().__init__(size, taus, constants, learned, dt, device, dtype)
        self.grazing_guard = nonnegative("grazing_guard", grazing_guard)
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {GRADIENTS}, got {gradient!r}")
        self.gradient = gradient
        self.threshold_noise = nonnegative("threshold_noise", threshold_noise)
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

    def _constants(self, size: int, dtype: torch.dtype) -> Tensor:
        """Constants of the neuron's module, [P, size]."""
        threshold = self._checked_threshold().expand(size).to(dtype)
        return torch.stack([*self._map(size, dtype), threshold, torch.zeros_like(threshold)])

    def _run_grid(
        self, events: grid.Events, steps: int, weight: Tensor, size: int, **inputs: Any
    ) -> grid.GridSpikes:
        self._check_time_constants()
        constants = self._constants(size, weight.dtype)
        # The slope per bin of V' = guard * threshold / tau_mem, for which 1 - m stands.
        threshold = self.threshold.detach().to(weight.dtype)
        floor = self.grazing_guard * threshold * (1 - constants[2].detach())
        width = None
        if self.gradient == "hybrid" and self.threshold_noise and torch.is_grad_enabled():
            width = (self.threshold_noise * threshold).expand(size)
        probe = new_probe(constants)
        spikes = grid.grid_lif(
            events, steps, weight, grid.Population(self._neuron, constants, floor, width=width),
            probe=probe, **inputs,
        )  # fmt: skip
        peaks = None if spikes.peaks is None else spikes.peaks.bins
        keep_record(self, LayerRecord(spikes.units, spikes.offsets, size, probe, peaks))
        return spikes


def constant_of(name: str, value: float | Tensor) -> Tensor:
    """A constant that may have any sign, as a tensor."""
    tensor = torch.as_tensor(value, dtype=torch.float64).detach().clone()
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} must be finite, got {value}")
    return tensor


