"""Write files in SHD's exact HDF5 layout, for the tests of reading them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

CLASSES = ("zero", "one", "two", "fünf")
SPEAKERS = 6


def random_samples(count: int, seed: int = 0, last: float = 1.2, mean_events: int = 60):
    """[(times in s, units)], times ascending and exact in float16; one sample is silent."""
    rng = np.random.default_rng(seed)
    samples = []
    for index in range(count):
        events = 0 if index == 3 else int(rng.integers(1, 2 * mean_events))
        times = np.sort(rng.uniform(0, last, events)).astype(np.float16)
        samples.append((times, rng.integers(0, 700, events).astype(np.uint16)))
    return samples


def write_shd_file(
    path: Path,
    samples,
    *,
    time_type=np.float16,
    labels=None,
    speakers=None,
    leave_out: tuple[str, ...] = (),
    unit_type=np.uint16,
) -> Path:
    """Write ``samples``; labels run through the classes and speakers through 0..5 by default."""
    count = len(samples)
    labels = np.arange(count) % len(CLASSES) if labels is None else labels
    speakers = np.arange(count) // 2 % SPEAKERS if speakers is None else speakers
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        times = file.create_dataset("spikes/times", (count,), h5py.vlen_dtype(time_type))
        units = file.create_dataset("spikes/units", (count,), h5py.vlen_dtype(unit_type))
        for index, (t, u) in enumerate(samples):
            times[index] = np.asarray(t, time_type)
            units[index] = np.asarray(u, unit_type)
        file["labels"] = np.asarray(labels, np.uint16)
        file["extra/keys"] = np.array([c.encode() for c in CLASSES])
        file["extra/speaker"] = np.asarray(speakers, np.uint16)
        file["extra/meta_info/age"] = np.full(SPEAKERS, 30, np.uint16)
        file["extra/meta_info/body_height"] = np.full(SPEAKERS, 170, np.uint16)
        file["extra/meta_info/gender"] = np.array([b"male", b"female"] * (SPEAKERS // 2))
        for name in leave_out:
            del file[name]
    return path
