"""Augmentations on packed batches of spike trains.

Each is a small object, called with a batch (``SpikeArrays``) and a NumPy random generator; it
returns a new batch and leaves the old one alone. Events that leave the duration or the channels
are dropped. Written for whole batches, so that they keep the loader's pace.

Sources: [N25] Nowotny, Turner & Knight, Neuromorphic Computing and Engineering, 2025 (loss shaping
with EventProp); [C20] Cramer, Stradmann, Schemmel & Zenke, IEEE TNNLS, 2020 (the Heidelberg data
sets). Where none is named, the augmentation is common practice.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from lightning_modules import event_kernels
from lightning_modules.packed import SpikeArrays


class Augmentation:
    """A random map from batch to batch, of the same samples in the same order."""

    def __call__(self, events: SpikeArrays, rng: np.random.Generator) -> SpikeArrays:
        raise NotImplementedError

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"


def _at_least_zero(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")


def _probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability in [0, 1], got {value!r}")


class ChannelShift(Augmentation):
    """Move all channels of a sample by one random number of channels, another pitch of voice.

    The shift is uniform on the integers ``-max_shift..max_shift`` [N25: 40].

    Args:
        max_shift: in channels.
    """

    def __init__(self, max_shift: int = 40) -> None:
        _at_least_zero("max_shift", max_shift)
        self.max_shift = int(max_shift)

    def __call__(self, events: SpikeArrays, rng: np.random.Generator) -> SpikeArrays:
        shift = rng.integers(-self.max_shift, self.max_shift, len(events), endpoint=True)
        return events.with_events(events.times, events.units + events.per_event(shift))


class Blend(Augmentation):
    """Replace a sample by a blend of itself and another sample of its class [N25].

    Both are moved to the mean of their two centres (mean channel, rounded, and mean time), then
    each event of either is taken with probability 1/2. A sample whose class has no other sample
    or that is silent stays as it is. The label stays; so does the speaker, for book-keeping.

    Args:
        probability: that a sample is blended.
    """

    def __init__(self, probability: float = 0.5) -> None:
        _probability("probability", probability)
        self.probability = probability

    def __call__(self, events: SpikeArrays, rng: np.random.Generator) -> SpikeArrays:
        pool = events.pool
        if pool is None:
            raise ValueError("Blend draws second samples: give the batch its pool")
        partner = events.indices.copy()
        # One draw for each sample whatever its class, so that the stream of random numbers does
        # not depend on the labels.
        lucky = rng.random(len(events)) < self.probability
        draw = rng.random(len(events))
        for b in np.flatnonzero(lucky):
            others = pool.by_label[int(events.labels[b])]
            others = others[others != events.indices[b]]
            if others.size:
                partner[b] = others[int(draw[b] * others.size)]
        second = pool.packed.gather(partner, events.num_units, events.duration)
        blended = (
            (partner != events.indices) & (events.counts > 0) & (second.counts > 0)
        )
        move = np.where(blended, 0.5, 0.0)
        pieces = []
        for one, other, chance in (
            (events, second, np.where(blended, 0.5, 1.0)),
            (second, events, np.where(blended, 0.5, 0.0)),
        ):
            gap_time = move * (_means(other.times, other) - _means(one.times, one))
            gap_unit = np.rint(move * (_means(other.units, other) - _means(one.units, one)))
            keep = rng.random(one.times.size, dtype=np.float32) < one.per_event(chance)
            times = one.times + one.per_event(gap_time.astype(np.float32))
            units = one.units + one.per_event(gap_unit.astype(np.int64))
            pieces.append((times[keep], units[keep], _kept_offsets(keep, one.offsets)))
        times, units, offsets = _interleave(*pieces)
        return replace(events, offsets=offsets).with_events(times, units)


def _means(values: np.ndarray, events: SpikeArrays) -> np.ndarray:
    """[B] mean of ``values`` [S] over each sample; 0 for silent ones."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return np.diff(sums[events.offsets]) / np.maximum(events.counts, 1)


def _kept_offsets(keep: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(keep)])[offsets]


def _interleave(first, second):
    """Join two batches sample by sample."""
    (times1, units1, offsets1), (times2, units2, offsets2) = first, second
    offsets = offsets1 + offsets2
    place1 = np.arange(times1.size) + np.repeat(offsets2[:-1], np.diff(offsets1))
    place2 = np.arange(times2.size) + np.repeat(offsets1[1:], np.diff(offsets2))
    times = np.empty(offsets[-1], np.float32)
    units = np.empty(offsets[-1], np.int64)
    times[place1], times[place2] = times1, times2
    units[place1], units[place2] = units1, units2
    return times, units, offsets


class TimeStretch(Augmentation):
    """Multiply all times of a sample by one random factor, another pace of speech.

    The factor is uniform on ``[1 - max_stretch, 1 + max_stretch]``.

    Args:
        max_stretch: below 1.
    """

    def __init__(self, max_stretch: float = 0.1) -> None:
        if not 0 <= max_stretch < 1:
            raise ValueError(f"max_stretch must be in [0, 1), got {max_stretch!r}")
        self.max_stretch = max_stretch

    def __call__(self, events: SpikeArrays, rng: np.random.Generator) -> SpikeArrays:
        factor = 1 + rng.uniform(-self.max_stretch, self.max_stretch, len(events))
        times = events.times * events.per_event(factor.astype(np.float32))
        return events.with_events(times, events.units)


class TimeShift(Augmentation):
    """Start all events of a sample a random time earlier or later, uniform on
    ``[-max_shift, max_shift]``.

    Args:
        max_shift: in seconds.
    """

    def __init__(self, max_shift: float = 0.02) -> None:
        _at_least_zero("max_shift", max_shift)
        self.max_shift = max_shift

    def __call__(self, events: SpikeArrays, rng: np.random.Generator) -> SpikeArrays:
        shift = rng.uniform(-self.max_shift, self.max_shift, len(events)).astype(np.float32)
        return events.with_events(events.times + events.per_event(shift), events.units)


class EventDropout(Augmentation):
    """Drop each event with a probability.

    Args:
        probability: that an event is dropped.
    """

    def __init__(self, probability: float = 0.1) -> None:
        _probability("probability", probability)
        self.probability = probability

    def __call__(self, events: SpikeArrays, rng: np.random.Generator) -> SpikeArrays:
        keep = rng.random(events.times.size, dtype=np.float32) >= self.probability
        return replace(
            events, times=events.times[keep], units=events.units[keep],
            offsets=_kept_offsets(keep, events.offsets),
        )


class TimeJitter(Augmentation):
    """Move each event in time by its own Gaussian amount.

    Args:
        std: in seconds.
    """

    def __init__(self, std: float = 1e-3) -> None:
        _at_least_zero("std", std)
        self.std = std

    def __call__(self, events: SpikeArrays, rng: np.random.Generator) -> SpikeArrays:
        noise = rng.standard_normal(events.times.size, dtype=np.float32)
        return events.with_events(events.times + noise * np.float32(self.std), events.units)


class ChannelJitter(Augmentation):
    """Move each event by its own Gaussian number of channels, rounded [C20, N25].

    Args:
        std: in channels.
    """

    def __init__(self, std: float = 5.0) -> None:
        _at_least_zero("std", std)
        self.std = std

    def __call__(self, events: SpikeArrays, rng: np.random.Generator) -> SpikeArrays:
        noise = rng.standard_normal(events.times.size, dtype=np.float32)
        step = np.rint(noise * np.float32(self.std)).astype(np.int64)
        return events.with_events(events.times, events.units + step)


class DelayLine:
    """The input and ``copies`` delayed copies of it, each on channels of its own [N25: 10, 30 ms].

    Not random, and part of the network's input at test time too: unit ``c * num_units + u`` is
    channel u, ``c * delay`` late.

    Args:
        copies: delayed copies.
        delay: between one copy and the next, in seconds.
    """

    def __init__(self, copies: int = 10, delay: float = 0.03) -> None:
        _at_least_zero("copies", copies)
        _at_least_zero("delay", delay)
        self.copies = int(copies)
        self.delay = delay

    def __call__(self, events: SpikeArrays) -> SpikeArrays:
        times, units, offsets = event_kernels.delay_line(
            events.times, events.units, events.offsets, events.num_units, events.duration,
            self.copies, self.delay,
        )
        return replace(
            events, times=times, units=units, offsets=offsets,
            num_units=events.num_units * (self.copies + 1),
        )
