"""Batches of spike events: which samples, in which order, and how they are gathered."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lightning_modules.data import event_kernels
from lightning_modules.data.augment import Augmentation, DelayLine, pool_channels
from lightning_modules.data.spike_arrays import SamplePool, SpikeArrays
from snn_eventprop.events import SpikeEvents

AFTER_LAST_EVENT = 1e-3  # s, for which samples of their own length go on


class Batch(NamedTuple):
    """What the loaders yield.

    Attributes:
        events: ``SpikeEvents`` of B samples.
        labels: [B] int64.
        speakers: [B] int64; -1 where unknown.
    """

    events: SpikeEvents
    labels: Tensor
    speakers: Tensor


class BatchKey(NamedTuple):
    """All that determines a batch: ``indices`` [B] into the split and, for random augmentations,
    the epoch and the batch's number in it (over all processes)."""

    epoch: int
    number: int
    indices: np.ndarray


class EventDataset(Dataset):
    """Maps a ``BatchKey`` to a ``Batch``: a whole batch is gathered from packed arrays at once.

    Args:
        pool: the split's samples.
        num_units: input channels before the delay line.
        duration: s; later events have been cropped. ``"own"``: each sample ends 1 ms after its
            last event, of which augmentations and the delay line cut none off.
        augmentations: applied in this order.
        transform: a tonic transform, applied to each sample as a structured array with fields t
            (us), x and p. Slow: one Python call per sample.
        pool_channels: neighbouring channels that become one unit after augmentation.
        unique_dt: bin width (s) of the at-most-one-event rule after that, or None.
        delay_line: applied last.
        seed: seed of augmentations and random transforms.
    """

    def __init__(
        self,
        pool: SamplePool,
        *,
        num_units: int,
        duration: float | str,
        augmentations: Sequence[Augmentation] = (),
        transform: Callable[[np.ndarray], np.ndarray] | None = None,
        pool_channels: int = 1,
        unique_dt: float | None = None,
        delay_line: DelayLine | None = None,
        seed: int = 0,
    ) -> None:
        self.pool = pool
        self.num_units = num_units
        self.duration = duration
        self.augmentations = tuple(augmentations)
        self.transform = transform
        self.pool_channels = pool_channels
        self.unique_dt = unique_dt
        self.delay_line = delay_line
        self.seed = seed

    def __len__(self) -> int:
        return self.pool.indices.size

    def __getitem__(self, key: BatchKey) -> Batch:
        events = self.arrays(key)
        spikes = SpikeEvents(
            torch.from_numpy(events.times), torch.from_numpy(events.units),
            torch.from_numpy(events.offsets), events.num_units, _durations(events), validate=False,
        )
        return Batch(spikes, torch.from_numpy(events.labels), torch.from_numpy(events.speakers))

    def arrays(self, key: BatchKey) -> SpikeArrays:
        """The batch as NumPy arrays."""
        chosen = self.pool.indices[key.indices]
        length = math.inf if isinstance(self.duration, str) else self.duration
        events = self.pool.packed.gather(chosen, self.num_units, length, self.pool)
        rng = np.random.default_rng([self.seed, key.epoch, key.number])
        if self.transform is not None:
            events = _transformed(events, self.transform, rng)
        for augmentation in self.augmentations:
            events = augmentation(events, rng)
        pooled = self.pool_channels > 1
        if pooled:
            events = pool_channels(events, self.pool_channels)
        changed = self.augmentations or self.transform is not None or pooled
        if self.unique_dt is not None and changed:
            events.times, events.units, events.offsets = event_kernels.one_per_bin(
                events.times, events.units, events.offsets, events.num_units, self.unique_dt
            )
        if self.delay_line is not None:
            events = self.delay_line(events)
        return events


def _durations(events: SpikeArrays) -> float | Tensor:
    """The batch's duration in s, or [B] those of samples that end with their last event."""
    if math.isfinite(events.duration):
        return events.duration
    last = np.zeros(len(events))
    spiking = events.counts > 0
    last[spiking] = events.times[events.offsets[1:][spiking] - 1]
    return torch.from_numpy(last + AFTER_LAST_EVENT) if len(events) else AFTER_LAST_EVENT


_TONIC = np.dtype([("t", np.int64), ("x", np.int64), ("p", np.int64)])


def _transformed(
    events: SpikeArrays,
    transform: Callable[[np.ndarray], np.ndarray],
    rng: np.random.Generator,
) -> SpikeArrays:
    """Apply a tonic transform to each sample.

    Tonic's random transforms draw from NumPy's global generator. It is seeded for the batch and
    restored afterwards.
    """
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(int(rng.integers(2**32)))  # noqa: NPY002
    try:
        samples = []
        for begin, end in zip(events.offsets[:-1], events.offsets[1:], strict=True):
            sample = np.empty(end - begin, _TONIC)
            sample["t"] = np.rint(events.times[begin:end].astype(np.float64) * 1e6)
            sample["x"] = events.units[begin:end]
            sample["p"] = 1
            if sample.size:  # many of tonic's transforms fail on silent samples
                sample = transform(sample)
            if getattr(sample, "dtype", None) is None or sample.dtype.names is None:
                raise ValueError(
                    f"the transform {transform!r} returned {type(sample).__name__}, but must "
                    "return events (a structured array with fields t and x); frames are made from "
                    "events by SpikeEvents.to_dense"
                )
            samples.append(sample)
    finally:
        np.random.set_state(state)  # noqa: NPY002
    counts = [sample.size for sample in samples]
    events.offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    joined = np.concatenate(samples)
    return events.with_events(joined["t"] * 1e-6, joined["x"])


class EventSampler(DistributedSampler):
    """Yields ``BatchKey``s; the order depends on (seed, epoch) alone.

    It is a ``DistributedSampler``, so that Lightning lets it distribute samples over processes. In
    training every process gets the same number of samples, so that up to ``world_size - 1`` samples
    are seen twice. In evaluation every sample is seen exactly once.

    Args:
        dataset: the data set whose samples are ordered.
        batch_size: samples per batch and process.
        shuffle: training (a new order every epoch) or evaluation (in order).
        seed: seed of the order.
        rank: rank of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        dataset: EventDataset,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            dataset, num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed
        )
        self.batch_size = batch_size
        self.start = 0

    def __iter__(self) -> Iterator[BatchKey]:  # type: ignore[override]
        order = self._order()
        world = self.num_replicas
        for step in range(self.start, len(self)):
            mine = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield BatchKey(self.epoch, step * world + self.rank, mine)

    def _order(self) -> np.ndarray:
        size = len(self.dataset)  # type: ignore[arg-type]
        order = np.arange(size)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(size)
            order = np.concatenate([order, order[: -size % self.num_replicas]])
        return order[self.rank :: self.num_replicas]

    def __len__(self) -> int:
        """Batches per epoch for this process."""
        size = len(self.dataset)  # type: ignore[arg-type]
        share = -(-size // self.num_replicas) if self.shuffle else -(
            -(size - self.rank) // self.num_replicas
        )
        return -(-share // self.batch_size)


class EventLoader(DataLoader):
    """A ``DataLoader`` of whole batches that can resume within an epoch.

    ``state_dict`` says how many batches of which epoch were yielded. After ``load_state_dict`` the
    next pass starts there, if it is of that epoch. Lightning stores the state in checkpoints.

    Args:
        dataset: maps a ``BatchKey`` to a ``Batch``.
        sampler: yields ``BatchKey``s.
        threads: number of threads that prepare batches ahead, beside or instead of ``num_workers``
            processes. The kernels that gather and augment release Python's lock, and batches need
            not be copied between processes. 0: each batch is prepared on demand.
        options: further options of ``DataLoader``.
    """

    def __init__(
        self, dataset: EventDataset, sampler: EventSampler, *, threads: int = 0, **options: Any
    ) -> None:
        self.threads = threads
        super().__init__(
            dataset, batch_size=None, sampler=sampler, collate_fn=_unchanged, **options
        )
        self._handed_out = 0
        self._resume: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator: nothing is read before the first next(), so that set_epoch may still be
        # called between iter() and next().
        sampler: EventSampler = self.sampler  # type: ignore[assignment]
        resume, self._resume = self._resume, None
        sampler.start = resume[1] if resume and resume[0] == sampler.epoch else 0
        self._handed_out = sampler.start
        try:
            for batch in self._ahead() if self.threads else super().__iter__():
                self._handed_out += 1
                yield batch
        finally:
            sampler.start = 0

    def _ahead(self) -> Iterator[Batch]:
        """The batches in order; each thread prepares one while another waits for it."""
        with ThreadPoolExecutor(self.threads, "snn_eventprop_loader") as pool:
            keys = iter(self.sampler)
            made = deque(pool.submit(self._make, key) for key in islice(keys, 2 * self.threads))
            try:
                while made:
                    batch = made.popleft().result()
                    made.extend(pool.submit(self._make, key) for key in islice(keys, 1))
                    yield batch
            finally:  # also if the loop over batches is left early
                for job in made:
                    job.cancel()

    def _make(self, key: BatchKey) -> Batch:
        batch = self.dataset[key]
        return Batch(*(part.pin_memory() for part in batch)) if self.pin_memory else batch

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, int]:
        sampler: EventSampler = self.sampler  # type: ignore[assignment]
        return {"epoch": sampler.epoch, "batch": self._handed_out}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._resume = (state_dict["epoch"], state_dict["batch"])


def _unchanged(batch: Any) -> Any:
    return batch
