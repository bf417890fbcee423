"""``SpikeEvents``: a packed batch of spike trains.

Over 400 lines: one class, whose constructors check what people bring.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._checks import positive
from ._reading import check_integers, raster_tensor, spike_train
from ._warnings import warn_of_batch_first, warn_of_wide_bins
from .ops.bin_times import EDGE, bin_of, num_bins
from .ops.packing import joined_offsets, kept_offsets, picked, pieces_of, sample_of_each


def _lengths(duration: Any) -> tuple[float, Tensor | None]:
    """The longest duration, and ``[B]`` all of them (float64) where they differ.

    Raises:
        TypeError, ValueError: durations that are not positive times.
    """
    several = isinstance(duration, (list, tuple, Tensor)) or hasattr(duration, "__array__")
    if not several or (isinstance(duration, Tensor) and duration.ndim == 0):
        return positive("duration", duration, "time in seconds"), None
    try:
        each = torch.as_tensor(duration, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"duration must be a time in seconds, or one for each sample, got {duration!r:.60}"
        ) from error
    if each.ndim == 0:
        return positive("duration", each.item(), "time in seconds"), None
    if each.ndim != 1:
        raise ValueError(
            f"duration must be a number or have one entry for each sample, got shape "
            f"{tuple(each.shape)}"
        )
    bad = ~(torch.isfinite(each) & (each > 0))
    if bool(bad.any()):
        b = int(bad.nonzero()[0])
        raise ValueError(
            f"duration must be a positive time in seconds, got {each[b].item()} for sample {b}"
        )
    if each.numel() == 0:
        raise ValueError(
            "duration is an empty list; give a batch without samples a number of seconds"
        )
    return each.max().item(), each


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
        """Peaks of chosen samples."""
        pieces, offsets = pieces_of(self.offsets, chosen)
        values, bins, units = (picked(whole, pieces) for whole in self[:3])
        return Peaks(values, bins, units, offsets, self.dt)

    def before(self, ends: Tensor) -> Peaks:
        """Peaks before the bin at which their sample ends, ``[B]``."""
        keep = self.bins < ends[sample_of_each(self.offsets, self.bins.numel())]
        values, bins, units = (whole[keep] for whole in self[:3])
        return Peaks(values, bins, units, kept_offsets(self.offsets, keep), self.dt)

    @classmethod
    def cat(cls, batches: Sequence[Peaks]) -> Peaks:
        """Peaks of all samples of several batches, on grids of one dt."""
        values, bins, units = (
            torch.cat(field) for field in zip(*(peaks[:3] for peaks in batches), strict=True)
        )
        offsets = joined_offsets([peaks.offsets for peaks in batches])
        return cls(values, bins, units, offsets, batches[0].dt)


class SpikeEvents:
    """A batch of spike trains, packed: only the events are stored.

    Args:
        times: ``[S]`` floating-point spike times in seconds, ascending within each sample, all in
            ``[0, duration]``. May carry autograd: its gradient is dL/dt of each spike.
        units: ``[S]`` integer unit of each spike, ``0 <= unit < num_units``.
        offsets: ``[B + 1]`` integers; sample ``b`` is ``times[offsets[b]:offsets[b + 1]]``.
        num_units: number of units (channels or neurons).
        duration: length of every sample in seconds, or one for each, ``[B]``: then nothing that
            comes of a sample depends on the longer ones beside it. Read ``durations`` for all of
            them; ``duration`` is the longest.
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

    __slots__ = (
        "_durations", "duration", "marks", "num_units", "offsets", "peaks", "times", "units",
    )  # fmt: skip

    duration: float

    def __init__(
        self,
        times: Tensor,
        units: Tensor,
        offsets: Tensor,
        num_units: int,
        duration: float | Sequence[float] | Tensor,
        marks: Tensor | None = None,
        *,
        validate: bool = True,
    ) -> None:
        self.times = times
        self.units = units
        self.offsets = offsets
        self.num_units = num_units
        self.marks = marks
        # Of layers with ``gradient="hybrid"``: peaks of the membrane that nearly spike.
        self.peaks: Peaks | None = None
        self._durations: Tensor | None = None
        if isinstance(duration, float):
            self.duration = duration
        else:
            self.duration, self._durations = _lengths(duration)
        if validate:
            self._check_types()
            self.units = units.long()
            self.offsets = offsets.long()
            self._validate()
        if self._durations is not None:
            self._durations = self._durations.to(times.device)
        self.num_units = int(num_units)

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
            check_integers(name, getattr(self, name))

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
        if self._durations is not None and self._durations.numel() != len(self):
            raise ValueError(
                f"duration must be a number or have one entry for each of {len(self)} samples, "
                f"got {self._durations.numel()}"
            )
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
        if self._durations is not None:
            ends = self._durations.to(times.device)[self.samples()]
            late = (seconds.double() > ends * (1 + 1e-6)).nonzero()
            if late.numel():
                e = int(late[0])
                b = int(self.samples()[e])
                raise ValueError(
                    f"times of sample {b} must be in [0, duration={ends[e].item():g}] s, got "
                    f"{seconds[e].item():g}; crop them, or pass outside='drop' to "
                    "SpikeEvents.from_list"
                )
        falls = seconds.diff() < 0
        inner = torch.ones(total, dtype=torch.bool, device=times.device)
        starts = offsets[:-1]
        inner[starts[starts < total]] = False
        if bool((falls & inner[1:]).any()):
            raise ValueError(
                "times must ascend within each sample; SpikeEvents.from_list sorts for you"
            )

    def _with(
        self,
        times: Tensor,
        units: Tensor,
        offsets: Tensor,
        *,
        num_units: int | None = None,
        marks: Tensor | None = None,
    ) -> SpikeEvents:
        """Other spikes of the same samples, as a layer makes them; nothing is checked."""
        events = SpikeEvents(
            times, units, offsets, self.num_units if num_units is None else num_units,
            self.duration, marks, validate=False,
        )  # fmt: skip
        if self._durations is not None:
            events._durations = self._durations.to(times.device)
        return events

    @property
    def durations(self) -> Tensor:
        """``[B]`` length of each sample in seconds, float64."""
        if self._durations is not None:
            return self._durations
        return torch.full(
            (len(self),), self.duration, dtype=torch.float64, device=self.times.device
        )

    @property
    def of_one_length(self) -> bool:
        """Whether all samples were given one duration."""
        return self._durations is None

    @classmethod
    def from_list(
        cls,
        samples: Sequence[Any],
        *,
        num_units: int,
        duration: float | Sequence[float] | Tensor,
        outside: str = "raise",
        dtype: torch.dtype | None = None,
        time_unit: float | None = None,
    ) -> SpikeEvents:
        """Pack ``[(times, units), ...]``, one pair per sample; unsorted events are sorted.

        Args:
            samples: for each sample a pair of array-likes, times in seconds and units as
                integers; or a structured array with fields ``t`` and ``x`` (the unit), as tonic's
                data sets give them, in which ``time_unit`` says what ``t`` counts.
            num_units: number of units.
            duration: length of every sample in seconds, or one for each, ``[B]``.
            outside: ``"raise"`` on events outside of ``[0, duration]`` of their sample, or
                ``"drop"`` them.
            dtype: of the times; default ``torch.get_default_dtype()``.
            time_unit: what times are multiples of, in seconds: 1e-6 for tonic's microseconds.
                Pairs are in seconds unless this says otherwise; structured arrays need it.

        Raises:
            ValueError, TypeError: as the constructor; times and units of different lengths; a
                structured array without ``time_unit``, or of a sensor with rows or polarities.

        >>> import numpy as np
        >>> sample = np.array([(2000, 1), (3000, 0)], dtype=[("t", "i8"), ("x", "i8")])
        >>> SpikeEvents.from_list([sample], num_units=2, duration=0.01, time_unit=1e-6).times
        tensor([0.0020, 0.0030])
        """
        if outside not in ("raise", "drop"):
            raise ValueError(f"outside must be 'raise' or 'drop', got {outside!r}")
        if time_unit is not None:
            time_unit = positive("time_unit", time_unit, "number of seconds")
        dtype = dtype or torch.get_default_dtype()
        samples = list(samples)
        longest, each = _lengths(duration)
        if each is not None and each.numel() != len(samples):
            raise ValueError(
                f"duration must be a number or have one entry for each of {len(samples)} samples, "
                f"got {each.numel()}"
            )
        ends = [longest] * len(samples) if each is None else each.tolist()
        all_times, all_units, offsets = [], [], [0]
        for index, sample in enumerate(samples):
            t, u = spike_train(sample, index, time_unit)
            if outside == "drop":
                keep = ~((t < 0) | (t > ends[index]))  # NaN stays, to be named
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
            longest if each is None else each,
        )

    @classmethod
    def cat(cls, batches: Iterable[SpikeEvents]) -> SpikeEvents:
        """One batch of all samples of several; also a ``collate_fn`` for data sets of events.

        Batches of different ``duration`` make one whose samples keep their own.

        Raises:
            TypeError: something else than batches of events.
            ValueError: no batch, or batches of different ``num_units``, or on several devices.
        """
        if isinstance(batches, SpikeEvents) or not isinstance(batches, Iterable):
            raise TypeError(
                f"batches must be several SpikeEvents, got {type(batches).__name__}; pass a list"
            )
        batches = list(batches)
        if not batches:
            raise ValueError("there are no batches to put together")
        for index, other in enumerate(batches):
            if not isinstance(other, SpikeEvents):
                raise TypeError(
                    f"batches must hold SpikeEvents, got {type(other).__name__} as batch {index}"
                )
        first = batches[0]
        for index, other in enumerate(batches):
            for name in ("num_units", "device"):
                if getattr(other, name) != getattr(first, name):
                    raise ValueError(
                        f"batches must have one {name}, got {getattr(first, name)} in batch 0 and "
                        f"{getattr(other, name)} in batch {index}"
                    )
        marked = [
            torch.ones_like(batch.times) if batch.marks is None else batch.marks
            for batch in batches
        ]
        lengths = {batch.duration for batch in batches}
        joined = cls(
            torch.cat([batch.times for batch in batches]),
            torch.cat([batch.units for batch in batches]),
            joined_offsets([batch.offsets for batch in batches]),
            first.num_units,
            max(lengths),
            None if all(batch.marks is None for batch in batches) else torch.cat(marked),
            validate=False,
        )
        peaks = [batch.peaks for batch in batches if batch.peaks is not None]
        if peaks and len(peaks) == len(batches):
            joined.peaks = Peaks.cat(peaks)
        if len(lengths) > 1 or not all(batch.of_one_length for batch in batches):
            joined._durations = torch.cat([batch.durations for batch in batches])
            joined._settle()
        return joined

    def _settle(self) -> None:
        """Let ``duration`` be the longest of ``durations``, and these be one if all are the same.

        A batch on a GPU is waited for.
        """
        if self._durations is None or self._durations.numel() == 0:
            self._durations = None
            return
        shortest, longest = torch.stack(self._durations.aminmax()).tolist()
        self.duration = longest
        if shortest == longest:
            self._durations = None

    @classmethod
    def from_dense(
        cls, raster: Any, dt: float, duration: float | Sequence[float] | Tensor | None = None
    ) -> SpikeEvents:
        """Events of a raster ``[T, B, N]`` of 0, 1 or small counts; bin k is stamped ``k dt``.

        A count of n becomes n events. The result carries no gradient to the raster.

        Args:
            raster: tensor, sparse tensor or array; ``[T, N]`` is one sample.
            dt: bin width in seconds.
            duration: length of the samples in seconds, one for all or ``[B]``, where the raster
                was padded; default: T dt.

        Raises:
            TypeError: ``raster`` is no tensor or array of real numbers.
            ValueError: another shape, values that are no counts, spikes after a sample's duration.
        """
        raster = raster_tensor(raster)
        dt = positive("dt", dt, "time in seconds")
        warn_of_wide_bins(dt)
        if raster.ndim == 2:
            raster = raster[:, None]
        if raster.ndim != 3 or 0 in (raster.shape[0], raster.shape[2]):
            raise ValueError(
                "raster must have shape [T, B, N], or [T, N] of one sample, with T and N at least "
                f"1, got {tuple(raster.shape)}"
            )
        warn_of_batch_first(raster.shape, dt)
        steps, batch, num_units = raster.shape
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
        whole = float(steps * dt)
        return cls(
            times, index[:, 2], offsets, num_units, whole if duration is None else duration,
            validate=duration is not None,
        )  # fmt: skip

    def to_dense(self, dt: float, dtype: torch.dtype | None = None) -> Tensor:
        """Spike counts per bin, ``[T, B, N]`` with T = ceil(duration / dt) of the longest sample.

        They carry no gradient; ``layer(raster)`` returns rasters that do. ``valid_bins`` says
        which bins belong to a sample.
        """
        steps = num_bins(self.duration, dt)
        warn_of_wide_bins(float(dt))
        raster = torch.zeros(
            (steps, len(self), self.num_units),
            dtype=dtype or self.times.dtype,
            device=self.times.device,
        )
        bins = self._bins(dt, steps).long()
        one = torch.ones((), dtype=raster.dtype, device=raster.device)
        return raster.index_put_((bins, self.samples(), self.units), one, accumulate=True)

    def num_bins(self, dt: float) -> Tensor:
        """``[B]`` how many bins of ``dt`` seconds cover each sample's duration, int64."""
        longest = num_bins(self.duration, dt)
        if self._durations is None:
            return torch.full((len(self),), longest, device=self.times.device)
        return torch.ceil(self._durations / dt - EDGE).clamp(1, longest).long()

    def valid_bins(self, dt: float) -> Tensor:
        """``[T, B]`` bool: the bins of ``dt`` seconds that lie within each sample's duration.

        The ``mask`` that losses take beside a trace of samples of different lengths.
        """
        bins = torch.arange(num_bins(self.duration, dt), device=self.times.device)
        return bins[:, None] < self.num_bins(dt)

    def _bins(self, dt: float, steps: int) -> Tensor:
        """``[S]`` bin of each event (int32), the last of its own sample at most."""
        bins = bin_of(self.times, dt, steps)
        if self._durations is None:
            return bins
        last = (self.num_bins(dt) - 1).int()
        return torch.minimum(bins, last[self.samples()])

    def _within(self, keep: Tensor) -> SpikeEvents:
        """The spikes of a mask ``[S]``."""
        return self._with(
            self.times[keep], self.units[keep], kept_offsets(self.offsets, keep),
            marks=None if self.marks is None else self.marks[keep],
        )  # fmt: skip

    def first_spike_times(self, silent: float | None = None) -> Tensor:
        """``[B, N]`` time of each unit's first spike in seconds; differentiable.

        Spikes of a unit that share the first time share its gradient equally.

        Args:
            silent: what stands for units without a spike, such as ``math.inf``. None: the duration
                of their sample. It has no gradient.

        >>> events = SpikeEvents.from_list([([0.02, 0.01], [1, 1])], num_units=2, duration=0.1)
        >>> events.first_spike_times()
        tensor([[0.1000, 0.0100]])
        """
        flat = self.samples() * self.num_units + self.units
        fill = self.durations if silent is None else torch.full_like(self.durations, silent)
        first = fill.to(self.times.dtype).repeat_interleave(self.num_units)
        first = first.scatter_reduce(0, flat, self.times, "amin", include_self=silent is None)
        return first.view(len(self), self.num_units)

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
        moved = self._with(
            times,
            self.units.to(times.device, non_blocking=ahead),
            self.offsets.to(times.device, non_blocking=ahead),
            marks=None if self.marks is None else self.marks.to(*args, **kwargs),
        )
        if self.peaks is not None:
            values, *indices, dt = self.peaks
            bins, units, starts = (each.to(times.device) for each in indices)
            moved.peaks = Peaks(values.to(times), bins, units, starts, dt)
        return moved

    def pin_memory(self) -> SpikeEvents:
        """Copy to page-locked memory, for asynchronous transfer to a GPU."""
        marks = None if self.marks is None else self.marks.pin_memory()
        pinned = self._with(
            self.times.pin_memory(), self.units.pin_memory(), self.offsets.pin_memory(),
            marks=marks,
        )  # fmt: skip
        if pinned._durations is not None:
            pinned._durations = pinned._durations.pin_memory()
        return pinned

    def detach(self) -> SpikeEvents:
        """The same events without autograd history."""
        return self._with(self.times.detach(), self.units, self.offsets)

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
        ``SpikeEvents``, whose ``duration`` is that of the longest sample chosen.

        Raises:
            IndexError: a sample that is not there, or a mask of another length.
            TypeError: what chooses no samples, such as a float or a string.
        """
        chosen = self._chosen(index)
        pieces, offsets = pieces_of(self.offsets, chosen)
        part = self._with(
            picked(self.times, pieces),
            picked(self.units, pieces),
            offsets,
            marks=None if self.marks is None else picked(self.marks, pieces),
        )
        part.peaks = None if self.peaks is None else self.peaks.of_samples(chosen)
        if self._durations is not None:
            part._durations = self._durations[chosen]
            part._settle()
        return part

    def _chosen(self, index: int | slice | Sequence[int] | Tensor) -> list[int]:
        batch = len(self)
        if isinstance(index, slice):
            return list(range(batch))[index]
        try:
            wanted = torch.as_tensor(index).flatten()
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                "samples are chosen by an integer, a slice, a sequence of integers or a mask, got "
                f"{index!r:.60}"
            ) from error
        if wanted.dtype == torch.bool:
            if wanted.numel() != batch:
                raise IndexError(f"a mask of {wanted.numel()} samples for a batch of {batch}")
            wanted = wanted.nonzero()[:, 0]
        if wanted.numel() and (wanted.is_floating_point() or wanted.is_complex()):
            raise TypeError(f"samples are chosen by integers, got {wanted.dtype}")
        chosen = [int(i) for i in wanted]
        for i in chosen:
            if not -batch <= i < batch:
                raise IndexError(f"sample {i} out of range for {batch} samples")
        return [i % batch for i in chosen]

    def _shown_duration(self) -> str:
        if self._durations is None or self._durations.device.type == "meta":
            return f"{self.duration:g} s"
        return f"{self._durations.min().item():g} to {self.duration:g} s"

    def __repr__(self) -> str:
        dtype = str(self.times.dtype).removeprefix("torch.")
        return (
            f"SpikeEvents({len(self)} samples, {self.times.numel()} events, "
            f"{self.num_units} units, {self._shown_duration()}, {dtype}, {self.times.device})"
        )


# ``torch.load`` reads what ``torch.save`` wrote of them, without trust in other code.
torch.serialization.add_safe_globals([SpikeEvents])
