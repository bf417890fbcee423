"""The embedded data set "twin": synthetic spoken digits in the manner of SHD. See PROVENANCE.md."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from lightning_modules.data.spike_arrays import PackedSpikes

CHANNELS = 700
STEP = 1e-3  # s, the time grid of the stored events


def decode(arrays: Mapping[str, np.ndarray]) -> PackedSpikes:
    """Packed spikes from the stored arrays (the inverse of ``build.encode``)."""
    stored = arrays["gaps"]
    ranks = np.cumsum(stored, dtype=np.int64)[stored < 255]
    offsets = np.concatenate([[0], np.cumsum(arrays["counts"], dtype=np.int64)])
    # The increases of each sample start from zero: subtract the sum over earlier samples.
    before = np.concatenate([[0], ranks])[offsets[:-1]]
    ranks -= np.repeat(before, np.diff(offsets))
    return PackedSpikes(
        times=((ranks // CHANNELS) * STEP).astype(np.float32),
        units=(ranks % CHANNELS).astype(np.uint16),
        offsets=offsets,
        labels=arrays["labels"].astype(np.int64),
        speakers=arrays["speakers"].astype(np.int64),
        class_names=tuple(name.decode() for name in arrays["class_names"].tolist()),
    )


@lru_cache(maxsize=2)
def load_twin(split: str) -> PackedSpikes:
    """The embedded samples; ``split`` is ``"train"`` (600 samples) or ``"test"`` (360)."""
    with np.load(Path(__file__).parent / f"twin_{split}.npz") as arrays:
        return decode(arrays)
