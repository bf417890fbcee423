"""Build the embedded data set from a pair of files in SHD's layout (docs/shd_layout.md).

    python -m lightning_modules.data.embedded.build TRAIN.h5 TEST.h5 [FOLDER]

Spike times are floored to a grid of 1 ms; every event is kept. Within a sample the events are
ordered by (time step, channel); the number ``step * 700 + channel`` grows from event to event,
and only its increases are stored, a byte each, where 255 means "add 255 and continue".
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from lightning_modules.data.embedded import CHANNELS, STEP, decode
from lightning_modules.data.shd_files import read_shd_file
from lightning_modules.data.spike_arrays import PackedSpikes


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


def main() -> None:
    """Write ``twin_train.npz`` and ``twin_test.npz``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", help="HDF5 file of the training samples")
    parser.add_argument("test", help="HDF5 file of the test samples")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    for name, source in (("twin_train.npz", options.train), ("twin_test.npz", options.test)):
        packed = read_shd_file(source)
        arrays = encode(packed)
        if not np.array_equal(decode(arrays).offsets, packed.offsets):
            raise RuntimeError(f"{source}: events were lost")
        target = options.folder / name
        np.savez_compressed(target, **arrays)  # type: ignore[arg-type]
        size = target.stat().st_size
        print(f"{target}: {len(packed)} samples, {packed.times.size} events, {size} bytes")


if __name__ == "__main__":
    main()
