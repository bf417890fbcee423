"""How fast batches are loaded from random samples, with and without augmentation."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence

import numpy as np

from lightning_modules.data.augment import (
    Augmentation,
    Blend,
    ChannelJitter,
    ChannelShift,
    DelayLine,
    EventDropout,
    TimeJitter,
    TimeShift,
    TimeStretch,
)
from lightning_modules.data.loader import Batch, EventDataset, EventLoader, EventSampler
from lightning_modules.data.spike_arrays import PackedSpikes, SamplePool


def _shd_shaped(samples: int, events: int = 8000, seed: int = 0) -> SamplePool:
    """Uniformly random samples, 700 channels, 20 classes, 1 s; their sizes vary by a quarter."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(events * 3 // 4, events * 5 // 4, samples, endpoint=True)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    times = np.concatenate([np.sort(rng.random(n, dtype=np.float32)) for n in counts])
    units = rng.integers(0, 700, times.size).astype(np.uint16)
    labels = rng.integers(0, 20, samples)
    packed = PackedSpikes(
        times, units, offsets, labels, labels % 10, tuple(str(k) for k in range(20))
    )
    return SamplePool(packed, np.arange(samples))


def rate(batches: Iterable[Batch], seconds: float) -> tuple[float, float]:
    """Samples per second and per second of processor time, over passes of at least ``seconds``.

    A first batch, for which kernels are compiled or loaded, does not count.
    """
    next(iter(batches))
    start, before, samples = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        samples += sum(len(batch.labels) for batch in batches)
    elapsed = time.perf_counter() - start
    return samples / elapsed, samples / (time.process_time() - before)


def measure(
    samples: int, events: int, batch_size: int, workers: Sequence[int], seconds: float
) -> None:
    """Print a row for each way of preparing batches.

    Args:
        samples: size of the data set.
        events: mean number of events of a sample.
        batch_size: samples per batch.
        workers: numbers of threads of the loader.
        seconds: measured time per row.
    """
    pool = _shd_shaped(samples, events)

    def loader(*augmentations: Augmentation, threads: int = 0, **more) -> EventLoader:
        dataset = EventDataset(
            pool, num_units=700, duration=1.0, augmentations=augmentations, **more
        )
        sampler = EventSampler(dataset, batch_size, shuffle=True)
        return EventLoader(dataset, sampler, threads=threads)

    everything = (
        Blend(0.5), ChannelShift(40), TimeStretch(0.1), TimeShift(0.02), EventDropout(0.1),
        TimeJitter(1e-3), ChannelJitter(5),
    )
    rows = {
        "batches of SpikeEvents": loader(),
        "at most one event per channel and ms": loader(EventDropout(0.0), unique_dt=1e-3),
        **{repr(a): loader(a) for a in everything},
        "the paper's: shift and blend": loader(Blend(0.5), ChannelShift(40)),
        "all of them": loader(*everything),
        "delay line of 10 copies (88,000 events)": loader(delay_line=DelayLine(10)),
        **{f"batches of SpikeEvents, {n} workers": loader(threads=n) for n in workers},
        **{f"all of them, {n} workers": loader(*everything, threads=n) for n in workers},
    }
    print(
        f"{samples} samples of {events} events on 700 channels, "
        f"batches of {batch_size}, {os.cpu_count()} processors"
    )
    print(f"{'':42s} samples/s  per core  million events/s")
    for name, batches in rows.items():
        speed, per_core = rate(batches, seconds)
        rate_of_events = speed * events * 1e-6
        print(f"{name:42s} {speed:9,.0f} {per_core:9,.0f} {rate_of_events:17,.0f}", flush=True)
