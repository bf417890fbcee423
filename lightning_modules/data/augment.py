"""Augmentations on packed batches of spike trains.

Each is a small object, called with a batch (``SpikeArrays``) and a NumPy random generator; it
returns a new batch and leaves the old one alone. Events that leave the duration or the channels
are dropped. They work on whole batches, to be as fast as the loader.

Sources: [N25] Nowotny, Turner & Knight, Neuromorphic Computing and Engineering, 2025 (loss shaping
with EventProp); [C20] Cramer, Stradmann, Schemmel & Zenke, IEEE TNNLS, 2020 (the Heidelberg data
sets). Where none is named, the augmentation is common practice.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from lightning_modules.data import event_kernels
from lightning_modules.data.spike_arrays import SpikeArrays


class Augmentation:
    """A random map from a batch to a batch of the same samples in the same order."""

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
    """Move all channels of a sample by one random number of channels: another pitch of voice.

    The shift is uniform on the integers ``-max_shift..max_shift`` [N25: 40].

    Args:
        max_shift: in channels.
    """

    def __init__(self, max_shift: int = 40) -> None:
        _at_least_zero("max_shift", max_shift)
        self.max_shift = int(max_shift)

    def __call__(self, events: SpikeArrays, rng: np.random.Generator) -> SpikeArrays:
        shift = rng.integers(-self.max_shift, self.max_shift, len(events), endpoint=True)
        return _moved(events, shift=shift)


class Blend(Augmentation):
    """Replace a sample by a blend of itself and another sample of its class [N25].

    Both are moved to the mean of their two centres (mean channel, rounded, and mean time), then
    each event of either is taken with probability 1/2. A sample whose class has no other sample
    or that is silent stays as it is. Label and speaker stay the same.

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
        partners = np.full(len(events), -1, np.int64)
        # Drawn for every sample, so that the class of one does not change the draws of others.
        lucky = rng.random(len(events)) < self.probability
        draw = rng.random(len(events))
        for b in np.flatnonzero(lucky):
            others = pool.by_label[int(events.labels[b])]
            others = others[others != events.indices[b]]
            if others.size:
                partners[b] = others[int(draw[b] * others.size)]
        packed = pool.packed
        sizes = np.diff(packed.offsets)[partners]
        bits = events.times.size + int(sizes[partners >= 0].sum())
        times, units, offsets = event_kernels.blend(
            (events.times, events.units, events.offsets),
            (packed.times, packed.units, packed.offsets),
            partners, np.frombuffer(rng.bytes(bits // 8 + 1), np.uint8),
            events.num_units, events.duration,
        )
        return replace(events, times=times, units=units, offsets=offsets)


def _moved(
    events: SpikeArrays,
    *,
    stretch: np.ndarray | float = 1.0,
    delay: np.ndarray | float = 0.0,
    shift: np.ndarray | int = 0,
) -> SpikeArrays:
    """Whole samples moved: times to ``t * stretch + delay``, channels by ``shift`` ([B] each)."""
    batch = len(events)
    times, units, offsets = event_kernels.move(
        events.times, events.units, events.offsets,
        np.full(batch, stretch, np.float32), np.full(batch, delay, np.float32),
        np.full(batch, shift, np.int64), events.num_units, events.duration,
    )
    return replace(events, times=times, units=units, offsets=offsets)


class TimeStretch(Augmentation):
    """Multiply all times of a sample by one random factor: another pace of speech.

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
        return _moved(events, stretch=factor)


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
        return _moved(events, delay=rng.uniform(-self.max_shift, self.max_shift, len(events)))


class EventDropout(Augmentation):
    """Drop each event with a probability.

    Args:
        probability: that an event is dropped.
    """

    def __init__(self, probability: float = 0.1) -> None:
        _probability("probability", probability)
        self.probability = probability

    def __call__(self, events: SpikeArrays, rng: np.random.Generator) -> SpikeArrays:
        draws = rng.random(events.times.size, dtype=np.float32)
        times, units, offsets = event_kernels.thin(
            events.times, events.units, events.offsets, draws, self.probability
        )
        return replace(events, times=times, units=units, offsets=offsets)


def _jittered(
    events: SpikeArrays, rng: np.random.Generator, time_std: float = 0.0, unit_std: float = 0.0
) -> SpikeArrays:
    """Each event moved independently."""
    times, units, offsets = event_kernels.jitter(
        events.times, events.units, events.offsets,
        rng.standard_normal(events.times.size, dtype=np.float32), time_std, unit_std,
        events.num_units, events.duration,
    )
    return replace(events, times=times, units=units, offsets=offsets)


class TimeJitter(Augmentation):
    """Move each event in time by its own Gaussian amount.

    Args:
        std: in seconds.
    """

    def __init__(self, std: float = 1e-3) -> None:
        _at_least_zero("std", std)
        self.std = std

    def __call__(self, events: SpikeArrays, rng: np.random.Generator) -> SpikeArrays:
        return _jittered(events, rng, time_std=self.std)


class ChannelJitter(Augmentation):
    """Move each event by its own Gaussian number of channels, rounded [C20, N25].

    Args:
        std: in channels.
    """

    def __init__(self, std: float = 5.0) -> None:
        _at_least_zero("std", std)
        self.std = std

    def __call__(self, events: SpikeArrays, rng: np.random.Generator) -> SpikeArrays:
        return _jittered(events, rng, unit_std=self.std)


def pool_channels(events: SpikeArrays, size: int) -> SpikeArrays:
    """Each ``size`` neighbouring channels as one unit: channel u becomes unit u // size.

    Every event stays; with the at-most-one-event rule after it, the events of these channels in
    one bin become one.
    """
    return replace(events, units=events.units // size, num_units=-(-events.num_units // size))


class DelayLine:
    """The input and ``copies`` delayed copies of it, each on channels of its own [N25: 10, 30 ms].

    It is not random and belongs to the network's input in tests too: unit ``c * num_units + u`` is
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
