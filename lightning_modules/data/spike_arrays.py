"""Spike trains packed into flat arrays: a whole data set, and one batch of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from lightning_modules.data import event_kernels


@dataclass
class SpikeArrays:
    """A batch as NumPy arrays, the form that augmentations work on.

    Attributes:
        times: [S] float32, seconds, ascending within each sample.
        units: [S] int64.
        offsets: [B + 1] int64; sample b is ``times[offsets[b]:offsets[b + 1]]``.
        labels: [B] int64.
        speakers: [B] int64.
        indices: [B] int64, which samples of ``pool`` these are.
        num_units: number of units.
        duration: seconds.
        pool: the samples a batch is drawn from, for augmentations that mix samples.
    """

    times: np.ndarray
    units: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    speakers: np.ndarray
    indices: np.ndarray
    num_units: int
    duration: float
    pool: SamplePool | None = None

    def __len__(self) -> int:
        return self.labels.size

    @property
    def counts(self) -> np.ndarray:
        """[B] events per sample."""
        return np.diff(self.offsets)

    def with_events(self, times: np.ndarray, units: np.ndarray) -> SpikeArrays:
        """The batch with other events of the same samples ([S] each).

        Events outside of the duration or the units are dropped, the others are sorted by time.
        """
        times, units, offsets = event_kernels.tidy(
            times.astype(np.float32, copy=False), units.astype(np.int64, copy=False), self.offsets,
            self.num_units, self.duration,
        )
        return replace(self, times=times, units=units, offsets=offsets)


@dataclass(frozen=True)
class PackedSpikes:
    """A data set's samples in flat arrays.

    Attributes:
        times: [S] float32, seconds, ascending within each sample.
        units: [S] uint16.
        offsets: [N + 1] int64; sample i is ``times[offsets[i]:offsets[i + 1]]``.
        labels: [N] int64; -1 where a file has none.
        speakers: [N] int64; -1 where a file has none.
        class_names: name of each label.
    """

    times: np.ndarray
    units: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    speakers: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return self.labels.size

    def gather(
        self, indices: np.ndarray, num_units: int, duration: float, pool: SamplePool | None = None
    ) -> SpikeArrays:
        """The samples ``indices`` [B] as one batch; events are those of the packed arrays."""
        indices = np.asarray(indices, dtype=np.int64)
        times, units, offsets = event_kernels.gather(
            self.times, self.units, self.offsets, indices
        )
        return SpikeArrays(
            times, units, offsets, self.labels[indices], self.speakers[indices], indices,
            num_units, duration, pool,
        )

    def crop(self, duration: float) -> PackedSpikes:
        """Without the events at or after ``duration`` (s)."""
        keep = self.times < duration
        if keep.all():
            return self
        kept = np.concatenate([[0], np.cumsum(keep)])
        return replace(
            self, times=self.times[keep], units=self.units[keep], offsets=kept[self.offsets]
        )

    def one_per_bin(self, num_units: int, dt: float) -> PackedSpikes:
        """With at most one event per unit and bin of width ``dt`` (s): the first."""
        times, units, offsets = event_kernels.one_per_bin(
            self.times, self.units, self.offsets, num_units, dt
        )
        return replace(self, times=times, units=units, offsets=offsets)

    def to_arrays(self) -> dict[str, Any]:
        """Plain arrays, for ``np.savez``."""
        names = [name.encode() for name in self.class_names]
        return {
            "times": self.times, "units": self.units, "offsets": self.offsets,
            "labels": self.labels, "speakers": self.speakers,
            "class_names": np.array(names, dtype=np.bytes_),
        }

    @classmethod
    def from_arrays(cls, arrays: Any) -> PackedSpikes:
        """The inverse of ``to_arrays``, from any mapping of names to arrays."""
        return cls(
            arrays["times"], arrays["units"], arrays["offsets"], arrays["labels"],
            arrays["speakers"], tuple(name.decode() for name in arrays["class_names"].tolist()),
        )


@dataclass(frozen=True)
class SamplePool:
    """The samples of one split: a packed file, and which of its samples belong to the split.

    Attributes:
        packed: the packed file.
        indices: [M] int64, the split's samples.
    """

    packed: PackedSpikes
    indices: np.ndarray = field(repr=False)

    @cached_property
    def by_label(self) -> dict[int, np.ndarray]:
        """The split's samples of each label."""
        labels = self.packed.labels[self.indices]
        return {int(label): self.indices[labels == label] for label in np.unique(labels)}
