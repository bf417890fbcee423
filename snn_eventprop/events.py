"""``SpikeEvents``: a packed batch of spike trains.

Over 400 lines: one class, whose constructors check what people bring.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._checks import positive
from .ops.bin_times import bin_of, num_bins
from .ops.packing import sample_of_each


def _check_integers(name: str, value: Tensor) -> None:
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, got {value.dtype}")


class Peaks(NamedTuple):
    """Peaks of membranes that nearly spike: places for spikes, for the backward pass alone.

    A layer that reads spikes also says of each peak what a spike there would add to the loss.
    """

    values: Tensor  # [S3] zeros; that is their gradient
    bins: Tensor  # [S3] int32
    units: Tensor  # [S3] int64
    offsets: Tensor  # [B + 1] int64
    dt: float  # width of a bin in seconds

    def of_samples(self, chosen: Sequence[int]) -> Peaks:
        bounds = self.offsets.tolist()
        pieces = [slice(bounds[b], bounds[b + 1]) for b in chosen]
        offsets = [0]
        for piece in pieces:
            offsets.append(offsets[-1] + piece.stop - piece.start)
        values, bins, units = (
            torch.cat([whole[p] for p in pieces]) if pieces else whole[:0] for whole in self[:3]
        )
        return Peaks(
            values, bins, units, torch.tensor(offsets, device=self.offsets.device), self.dt
        )

    @classmethod
    def cat(cls, batches: Sequence[Peaks]) -> Peaks:
        counts = torch.cat([peaks.offsets.diff() for peaks in batches])
        values, bins, units = (
            torch.cat(field) for field in zip(*(peaks[:3] for peaks in batches), strict=True)
        )
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(values, bins, units, offsets, batches[0].dt)


class SpikeEvents:
    """A batch of spike trains, packed: only the events are stored.

    Args:
        times: ``[S]`` floating-point spike times in seconds, ascending within each sample, all in
            ``[0, duration]``. May carry autograd: its gradient is dL/dt of each spike.
        units: ``[S]`` integer unit of each spike, ``0 <= unit < num_units``.
        offsets: ``[B + 1]`` integers; sample ``b`` is ``times[offsets[b]:offsets[b + 1]]``.
        num_units: number of units (channels or neurons).
        duration: length of every sample in seconds.
        marks: ``[S]`` ones, set by spiking layers. The gradient of a mark is the straight-through
            worth of that spike's existence; ``counts`` sums them.
        validate: check the arguments (one pass over the events).

    Raises:
        ValueError: wrong shapes, times that are not finite, unsorted or outside the duration,
            units out of range, offsets that do not fit.
        TypeError: times that are not floating point, units or offsets that are not integers.

    >>> events = SpikeEvents.from_list([([0.002, 0.001], [0, 1]), ([], [])],
    ...                                num_units=2, duration=0.004)
    >>> events
    SpikeEvents(2 samples, 2 events, 2 units, 0.004 s, float32, cpu)
    >>> events.to_dense(dt=1e-3)[:, 0].tolist()
    [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
    """

    __slots__ = ("duration", "marks", "num_units", "offsets", "peaks", "times", "units")

    def __init__(
        self,
        times: Tensor,
        units: Tensor,
        offsets: Tensor,
        num_units: int,
        duration: float,
        marks: Tensor | None = None,
        *,
        validate: bool = True,
    ) -> None:
        self.times = times
        self.units = units
        self.offsets = offsets
        self.num_units = num_units
        self.duration = duration
        self.marks = marks
        # Of layers with ``gradient="hybrid"``: peaks of the membrane that nearly spike.
        self.peaks: Peaks | None = None
        if validate:
            self._check_types()
            self.units = units.long()
            self.offsets = offsets.long()
            self._validate()
        self.num_units = int(num_units)
        self.duration = float(duration)

    def _check_types(self) -> None:
        for name in ("times", "units", "offsets"):
            value = getattr(self, name)
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{name} must be a tensor, got {type(value).__name__}; "
                    "SpikeEvents.from_list takes lists and arrays"
                )
        if not self.times.is_floating_point():
            raise TypeError(f"times must be floating point (seconds), got {self.times.dtype}")
        for name in ("units", "offsets"):
            _check_integers(name, getattr(self, name))

    def _validate(self) -> None:
        times, units, offsets = self.times, self.units, self.offsets
        if times.ndim != 1 or units.shape != times.shape:
            raise ValueError(
                "times and units must be 1-d and of one length, got shapes "
                f"{tuple(times.shape)} and {tuple(units.shape)}"
            )
        for name, value in (("units", units), ("offsets", offsets)):
            if value.device != times.device:
                raise ValueError(
                    f"{name} is on {value.device} but times is on {times.device}; "
                    "move them to one device"
                )
        if not isinstance(self.num_units, Integral) or self.num_units < 1:
            raise ValueError(f"num_units must be an integer, at least 1, got {self.num_units!r}")
        positive("duration", self.duration, "time in seconds")
        total = times.numel()
        if offsets.ndim != 1 or offsets.numel() < 1:
            raise ValueError(
                f"offsets must be 1-d with B + 1 entries, got shape {tuple(offsets.shape)}"
            )
        if int(offsets[0]) != 0 or int(offsets[-1]) != total or bool((offsets.diff() < 0).any()):
            raise ValueError(
                f"offsets must ascend from 0 to the number of events ({total}), got "
                f"{offsets[0].item()}..{offsets[-1].item()}"
            )
        if self.marks is not None and self.marks.shape != times.shape:
            raise ValueError(f"marks must have shape {tuple(times.shape)}")
        if total == 0:
            return
        low, high = units.min().item(), units.max().item()
        if low < 0 or high >= self.num_units:
            raise ValueError(
                f"units must be in 0..{self.num_units - 1} (num_units={self.num_units}), got "
                f"{low if low < 0 else high}"
            )
        seconds = times.detach()
        if not bool(torch.isfinite(seconds).all()):
            raise ValueError("times contain NaN or infinite values")
        first, last = seconds.min().item(), seconds.max().item()
        # A float32 copy of the duration may round above the float64 one.
        if first < 0 or last > self.duration * (1 + 1e-6):
            raise ValueError(
                f"times must be in [0, duration={self.duration}] s, got "
                f"{first if first < 0 else last}; crop them, or pass "
                "outside='drop' to SpikeEvents.from_list"
            )
        falls = seconds.diff() < 0
        inner = torch.ones(total, dtype=torch.bool, device=times.device)
        starts = offsets[:-1]
        inner[starts[starts < total]] = False
        if bool((falls & inner[1:]).any()):
            raise ValueError(
                "times must ascend within each sample; SpikeEvents.from_list sorts for you"
            )

    @classmethod
    def from_list(
        cls,
        samples: Sequence[tuple[Any, Any]],
        *,
        num_units: int,
        duration: float,
        outside: str = "raise",
        dtype: torch.dtype | None = None,
    ) -> SpikeEvents:
        """Pack ``[(times, units), ...]``, one pair per sample; unsorted events are sorted.

        Args:
            samples: pairs of array-likes: times in seconds, units as integers.
            num_units: number of units.
            duration: length of every sample in seconds.
            outside: ``"raise"`` on events outside ``[0, duration]`` or ``"drop"`` them.
            dtype: of the times; default ``torch.get_default_dtype()``.

        Raises:
            ValueError, TypeError: as the constructor; times and units of different lengths.
        """
        if outside not in ("raise", "drop"):
            raise ValueError(f"outside must be 'raise' or 'drop', got {outside!r}")
        dtype = dtype or torch.get_default_dtype()
        all_times, all_units, offsets = [], [], [0]
        for index, sample in enumerate(samples):
            try:
                times, units = sample
                len(times), len(units)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"sample {index} must be a pair of lists (times, units), got {sample!r:.60}; "
                    "one sample is given as [(times, units)]"
                ) from error
            t = torch.as_tensor(times, dtype=torch.float64).flatten()
            u = torch.as_tensor(units).flatten()
            if u.numel() == 0:
                u = u.long()
            _check_integers(f"sample {index}: units", u)
            if t.shape != u.shape:
                raise ValueError(
                    f"sample {index}: {t.numel()} times but {u.numel()} units; give one unit a time"
                )
            if outside == "drop":
                keep = ~((t < 0) | (t > duration))  # NaN stays, to be named
                t, u = t[keep], u.long()[keep]
            order = torch.argsort(t, stable=True)
            all_times.append(t[order].to(dtype))
            all_units.append(u[order].long())
            offsets.append(offsets[-1] + t.numel())
        return cls(
            torch.cat(all_times) if all_times else torch.empty(0, dtype=dtype),
            torch.cat(all_units) if all_units else torch.empty(0, dtype=torch.long),
            torch.tensor(offsets),
            num_units,
            duration,
        )

    @classmethod
    def cat(cls, batches: Sequence[SpikeEvents]) -> SpikeEvents:
        """One batch of all samples of several; also a ``collate_fn`` for data sets of events.

        Raises:
            ValueError: no batch, or batches of different ``num_units`` or ``duration``.
        """
        if not batches:
            raise ValueError("there are no batches to put together")
        first = batches[0]
        for index, other in enumerate(batches):
            for name in ("num_units", "duration"):
                if getattr(other, name) != getattr(first, name):
                    raise ValueError(
                        f"batches must have one {name}, got {getattr(first, name)} in batch 0 and "
                        f"{getattr(other, name)} in batch {index}"
                    )
        counts = torch.cat([batch.offsets.diff() for batch in batches])
        marked = [
            torch.ones_like(batch.times) if batch.marks is None else batch.marks
            for batch in batches
        ]
        joined = cls(
            torch.cat([batch.times for batch in batches]),
            torch.cat([batch.units for batch in batches]),
            torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            first.num_units,
            first.duration,
            None if all(batch.marks is None for batch in batches) else torch.cat(marked),
            validate=False,
        )
        peaks = [batch.peaks for batch in batches if batch.peaks is not None]
        if peaks and len(peaks) == len(batches):
            joined.peaks = Peaks.cat(peaks)
        return joined

    @classmethod
    def from_dense(cls, raster: Tensor, dt: float) -> SpikeEvents:
        """Events of a raster ``[T, B, N]`` of 0, 1 or small counts; bin k is stamped ``k dt``.

        A count of n becomes n events. The result carries no gradient to the raster.
        """
        if not isinstance(raster, Tensor):
            raise TypeError(f"raster must be a tensor [T, B, N], got {type(raster).__name__}")
        raster = raster.to_dense()  # a sparse one
        if raster.ndim != 3 or 0 in (raster.shape[0], raster.shape[2]):
            raise ValueError(
                "raster must have shape [T, B, N] with T and N at least 1, got "
                f"{tuple(raster.shape)}"
            )
        steps, batch, num_units = raster.shape
        dt = positive("dt", dt, "time in seconds")
        counts = raster.detach().transpose(0, 1)
        index = counts.nonzero()
        repeats = counts[tuple(index.T)]
        if not repeats.is_complex() and not bool(torch.isfinite(repeats).all()):
            raise ValueError("raster holds NaN or infinite values; spike counts are 0, 1, 2, ...")
        if repeats.is_complex() or bool((repeats.double() != repeats.double().round()).any()):
            raise ValueError(
                "raster holds values that are not spike counts; use nn.Linear and the neuron-only "
                "layer for graded input"
            )
        if repeats.dtype != torch.bool and bool((repeats < 0).any()):
            raise ValueError("raster holds negative values; spike counts are 0, 1, 2, ...")
        index = index.repeat_interleave(repeats.long(), dim=0)
        # Half precision holds the counts of a raster, but not the times of its bins.
        dtype = torch.promote_types(raster.dtype, torch.get_default_dtype())
        per_sample = torch.bincount(index[:, 0], minlength=batch)
        offsets = torch.zeros(batch + 1, dtype=torch.long, device=raster.device)
        torch.cumsum(per_sample, 0, out=offsets[1:])
        times = (index[:, 1].double() * dt).to(dtype)
        return cls(times, index[:, 2], offsets, num_units, steps * dt, validate=False)

    def to_dense(self, dt: float, dtype: torch.dtype | None = None) -> Tensor:
        """Spike counts per bin, ``[T, B, N]`` with T = ceil(duration / dt).

        They carry no gradient; ``layer(raster)`` returns rasters that do.
        """
        steps = num_bins(self.duration, dt)
        raster = torch.zeros(
            (steps, len(self), self.num_units),
            dtype=dtype or self.times.dtype,
            device=self.times.device,
        )
        bins = bin_of(self.times, dt, steps).long()
        one = torch.ones((), dtype=raster.dtype, device=raster.device)
        return raster.index_put_((bins, self.samples(), self.units), one, accumulate=True)

    def samples(self) -> Tensor:
        """``[S]`` sample index of each event."""
        return sample_of_each(self.offsets, self.units.numel())

    def counts(self) -> Tensor:
        """Spikes per sample and unit, ``[B, N]``.

        Differentiable by the straight-through rule where the events come from a spiking layer:
        the exact gradient of a spike count is zero almost everywhere, so dR/dcount is added to
        dL/dV at each of the neuron's own spikes instead.
        """
        marks = torch.ones_like(self.times) if self.marks is None else self.marks
        flat = self.samples() * self.num_units + self.units
        total = marks.new_zeros(len(self) * self.num_units)
        return total.index_add(0, flat, marks).view(len(self), self.num_units)

    def to(self, *args: Any, **kwargs: Any) -> SpikeEvents:
        """Move to a device and/or cast times (and marks); integers keep their dtype.

        Raises:
            TypeError: a dtype that cannot hold times, such as float16.
        """
        times = self.times.to(*args, **kwargs)
        if times.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"times need torch.float32 or torch.float64, got {times.dtype}")
        ahead = bool(kwargs.get("non_blocking"))
        return SpikeEvents(
            times,
            self.units.to(times.device, non_blocking=ahead),
            self.offsets.to(times.device, non_blocking=ahead),
            self.num_units,
            self.duration,
            None if self.marks is None else self.marks.to(*args, **kwargs),
            validate=False,
        )

    def pin_memory(self) -> SpikeEvents:
        """Copy to page-locked memory, for asynchronous transfer to a GPU."""
        marks = None if self.marks is None else self.marks.pin_memory()
        return SpikeEvents(
            self.times.pin_memory(),
            self.units.pin_memory(),
            self.offsets.pin_memory(),
            self.num_units,
            self.duration,
            marks,
            validate=False,
        )

    def detach(self) -> SpikeEvents:
        """The same events without autograd history."""
        return SpikeEvents(
            self.times.detach(),
            self.units,
            self.offsets,
            self.num_units,
            self.duration,
            validate=False,
        )

    @property
    def device(self) -> torch.device:
        return self.times.device

    @property
    def dtype(self) -> torch.dtype:
        return self.times.dtype

    def __len__(self) -> int:
        """Batch size."""
        return self.offsets.numel() - 1

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> SpikeEvents:
        """Samples by integer, slice, sequence of integers or boolean mask ``[B]``; always a
        ``SpikeEvents``."""
        chosen = self._chosen(index)
        bounds = self.offsets.tolist()
        pieces = [slice(bounds[b], bounds[b + 1]) for b in chosen]
        offsets = [0]
        for piece in pieces:
            offsets.append(offsets[-1] + piece.stop - piece.start)

        def pick(values: Tensor) -> Tensor:
            return torch.cat([values[p] for p in pieces]) if pieces else values[:0]

        events = SpikeEvents(
            pick(self.times),
            pick(self.units),
            torch.tensor(offsets, device=self.offsets.device),
            self.num_units,
            self.duration,
            None if self.marks is None else pick(self.marks),
            validate=False,
        )
        events.peaks = None if self.peaks is None else self.peaks.of_samples(chosen)
        return events

    def _chosen(self, index: int | slice | Sequence[int] | Tensor) -> list[int]:
        batch = len(self)
        if isinstance(index, slice):
            return list(range(batch))[index]
        wanted = torch.as_tensor(index).flatten()
        if wanted.dtype == torch.bool:
            if wanted.numel() != batch:
                raise IndexError(f"a mask of {wanted.numel()} samples for a batch of {batch}")
            wanted = wanted.nonzero()[:, 0]
        if wanted.numel() and wanted.is_floating_point():
            raise TypeError(f"samples are chosen by integers, got {wanted.dtype}")
        chosen = [int(i) for i in wanted]
        for i in chosen:
            if not -batch <= i < batch:
                raise IndexError(f"sample {i} out of range for {batch} samples")
        return [i % batch for i in chosen]

    def __repr__(self) -> str:
        dtype = str(self.times.dtype).removeprefix("torch.")
        return (
            f"SpikeEvents({len(self)} samples, {self.times.numel()} events, "
            f"{self.num_units} units, {self.duration:g} s, {dtype}, {self.times.device})"
        )


# ``torch.load`` reads what ``torch.save`` wrote of them, without trust in other code.
torch.serialization.add_safe_globals([SpikeEvents])
