"""Build the embedded data set from a pair of files in SHD's layout.

    python -m lightning_modules.embedded.build TRAIN.h5 TEST.h5 [FOLDER]

Spike times are floored to a grid of 1 ms, every event is kept. Within a sample the events are
ordered by (time step, channel); the number ``step * 700 + channel`` grows from event to event,
and only its increases are stored, a byte each, with 255 for "add 255 and go on".
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from lightning_modules.embedded import CHANNELS, STEP, decode
from lightning_modules.packed import PackedSpikes
from lightning_modules.shd_files import read_shd_file


def encode(packed: PackedSpikes) -> dict[str, np.ndarray]:
    """The arrays stored for one split."""
    steps = np.floor(packed.times.astype(np.float64) / STEP + 0.01).astype(np.int64)
    ranks = steps * CHANNELS + packed.units
    gaps = []
    for begin, end in zip(packed.offsets[:-1], packed.offsets[1:], strict=True):
        gaps.append(np.diff(np.sort(ranks[begin:end]), prepend=0))
    gap = np.concatenate(gaps)
    full = gap // 255
    stored = np.full(gap.size + int(full.sum()), 255, np.uint8)
    stored[np.cumsum(full + 1) - 1] = gap % 255
    return {
        "gaps": stored,
        "counts": np.diff(packed.offsets).astype(np.uint16),
        "labels": packed.labels.astype(np.uint8),
        "speakers": packed.speakers.astype(np.uint8),
        "class_names": np.array([n.encode() for n in packed.class_names], dtype=np.bytes_),
    }


def main(train: str, test: str, folder: str | None = None) -> None:
    """Write ``twin_train.npz`` and ``twin_test.npz``."""
    target = Path(folder) if folder else Path(__file__).parent
    for name, source in (("twin_train.npz", train), ("twin_test.npz", test)):
        packed = read_shd_file(source)
        arrays = encode(packed)
        again = decode(arrays)
        if not np.array_equal(again.offsets, packed.offsets):
            raise RuntimeError(f"{source}: events were lost")
        np.savez_compressed(target / name, **arrays)
        size = (target / name).stat().st_size
        print(f"{name}: {len(packed)} samples, {packed.times.size} events, {size} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
