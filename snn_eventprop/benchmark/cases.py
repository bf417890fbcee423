"""What is measured: shapes, and the random input and weights that every method gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..events import SpikeEvents

TAU_MEM = 20e-3
TAU_SYN = 5e-3


@dataclass(frozen=True)
class Case:
    """A network ``inputs -> hidden (recurrent) -> outputs`` and a batch of random spike trains.

    ``events`` and ``spikes`` are per sample: input events over all channels, and output spikes of
    each hidden neuron, to which weights are scaled. ``duration`` is in seconds.
    """

    steps: int = 1000
    hidden: int = 256
    batch: int = 64
    events: int = 8000
    spikes: float = 13.0
    duration: float = 1.0
    inputs: int = 700
    outputs: int = 20
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("steps", "hidden", "batch", "events", "inputs", "outputs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("spikes", "duration"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @property
    def dt(self) -> float:
        """Width of a time step, s."""
        return self.duration / self.steps

    @property
    def dt_ms(self) -> float:
        """Width of a time step, ms."""
        return 1e3 * self.dt

    def __str__(self) -> str:
        return f"T={self.steps}, H={self.hidden}, B={self.batch}"


class Weights(NamedTuple):
    """Weights for neurons of threshold 1, rows are receivers."""

    input: Tensor  # [hidden, inputs]
    recurrent: Tensor  # [hidden, hidden]
    output: Tensor  # [outputs, hidden]


DEFAULT = (
    Case(steps=1000, hidden=256, batch=64),
    Case(steps=100, hidden=256, batch=64),
    Case(steps=1000, hidden=1024, batch=16),
)


def parse_shape(text: str) -> Case:
    """A case from ``"1000x256x64"``: steps, hidden neurons, batch."""
    try:
        steps, hidden, batch = (int(part) for part in text.lower().split("x"))
        return Case(steps=steps, hidden=hidden, batch=batch)
    except ValueError as error:
        raise ValueError(
            f"a shape is STEPSxHIDDENxBATCH, positive integers such as 1000x256x64; got {text!r}"
        ) from error


def draw_events(case: Case) -> SpikeEvents:
    """Uniformly random events, ``case.events`` in each sample; the same for the same seed."""
    generator = torch.Generator().manual_seed(case.seed)
    shape = (case.batch, case.events)
    times = torch.rand(shape, generator=generator).sort(dim=1).values * case.duration
    units = torch.randint(case.inputs, shape, generator=generator)
    offsets = torch.arange(case.batch + 1) * case.events
    return SpikeEvents(
        times.flatten(), units.flatten(), offsets, case.inputs, case.duration, validate=False
    )


def draw_targets(case: Case) -> Tensor:
    """Random labels, ``[batch]``."""
    generator = torch.Generator().manual_seed(case.seed + 1)
    return torch.randint(case.outputs, (case.batch,), generator=generator)


def draw_weights(case: Case) -> Weights:
    """The initial weights of Nowotny et al. (2025), Neuromorph. Comput. Eng. 5."""
    generator = torch.Generator().manual_seed(case.seed + 2)

    def normal(rows: int, columns: int, mean: float, std: float) -> Tensor:
        return mean + std * torch.randn(rows, columns, generator=generator)

    return Weights(
        normal(case.hidden, case.inputs, 0.03, 0.01),
        normal(case.hidden, case.hidden, 0.0, 0.02),
        normal(case.outputs, case.hidden, 0.0, 0.03),
    )


DTS = (10e-3, 5e-3, 2e-3, 1e-3)  # s


def with_steps(cases: list[Case], dts: Sequence[float]) -> list[Case]:
    """The cases cut into steps of each of ``dts`` (s)."""
    return [
        replace(case, steps=max(round(case.duration / dt), 1)) for case in cases for dt in dts
    ]


class Sweep(NamedTuple):
    """Cases that differ in one field."""

    varied: str
    title: str
    cases: list[Case]


def sweeps(base: Case, quick: bool = False) -> list[Sweep]:
    """How the cost grows with dt, neurons, batch, input events, spikes, and length.

    ``quick`` keeps the smaller values.
    """

    def vary(title: str, varied: str, values: list, start: Case = base) -> Sweep:
        cases = [replace(start, **{varied: value}) for value in values]
        return Sweep(varied, title, cases[:3] if quick else cases)

    small = replace(base, batch=min(base.batch, 16))
    long = [
        replace(base, steps=n * base.steps, duration=n * base.duration, events=n * base.events,
                spikes=n * base.spikes, batch=min(base.batch, 4))
        for n in (1, 3, 10, 30, 100)
    ]  # fmt: skip
    return [
        Sweep("dt_ms", "time step for the same events", with_steps([base], DTS)),
        vary("hidden neurons", "hidden", [64, 128, 256, 512, 1024], small),
        vary("batch", "batch", [16, 64, 256, 1024, 4096]),
        vary("input events per sample", "events", [2000, 4000, 8000, 16000], small),
        vary("spikes per neuron and sample", "spikes", [3.0, 6.0, 13.0, 26.0, 52.0], small),
        Sweep("steps", "longer recordings at the same dt and rates", long[:3] if quick else long),
    ]
