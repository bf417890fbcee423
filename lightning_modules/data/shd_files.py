"""Read and verify HDF5 files in the layout of the Spiking Heidelberg Digits.

docs/shd_layout.md describes the layout and shows how to write such a file.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lightning_modules.data.data_files import LAYOUT_PAGE, DataFileError, check_spike_file
from lightning_modules.data.spike_arrays import PackedSpikes

_CHUNK = 4096  # samples per read
_MOST_CHANNELS = 2**16  # units are packed in 16 bits


def read_shd_file(
    path: str | os.PathLike[str], *, channels: int = 700, require_labels: bool = True
) -> PackedSpikes:
    """Read and verify a file (``.h5``, or ``.h5.gz``).

    Args:
        path: the file.
        channels: units must be below this; at most 65536.
        require_labels: whether a file without ``labels`` is an error; otherwise its labels are -1.

    Raises:
        ValueError: ``channels`` is too large.
        DataFileError: the file is missing, truncated, lacks a data set, or holds times that are
            negative or not finite, or units or labels out of range.
    """
    if channels > _MOST_CHANNELS:
        raise ValueError(
            f"channels must be at most {_MOST_CHANNELS}, got {channels}; pool neighbouring ones in "
            "the files"
        )
    path = check_spike_file(path)
    try:
        with h5py.File(_opened(path), "r") as file:
            return _read(file, path, channels, require_labels)
    except (OSError, EOFError, zlib.error, RuntimeError) as error:
        if isinstance(error, (DataFileError, PermissionError)):
            raise
        raise DataFileError(
            f"{path}: not a whole HDF5 file ({error}). Copying or downloading was probably "
            "interrupted: delete it and fetch it again"
        ) from error


def _opened(path: Path) -> Any:
    if path.suffix != ".gz":
        return path
    with gzip.open(path, "rb") as file:
        return io.BytesIO(file.read())


def _read(file: h5py.File, path: Path, channels: int, require_labels: bool) -> PackedSpikes:
    needed = ["spikes/times", "spikes/units"] + (["labels"] if require_labels else [])
    for name in needed:
        if not isinstance(file.get(name), h5py.Dataset):
            raise DataFileError(
                f"{path}: has no data set {name!r}; SHD's layout is spikes/times, spikes/units, "
                f"labels, extra/keys, extra/speaker ({LAYOUT_PAGE})"
            )
    size = file["spikes/times"].shape[0]
    labels = _per_sample(file, "labels", path, size)
    speakers = _per_sample(file, "extra/speaker", path, size)
    times, time_counts = _flat(file["spikes/times"])
    units, unit_counts = _flat(file["spikes/units"])
    wrong = np.flatnonzero(time_counts != unit_counts) if unit_counts.size == size else [0]
    if len(wrong):
        raise DataFileError(
            f"{path}: sample {wrong[0]} has different numbers of times and units; make them equal"
        )
    offsets = np.concatenate([[0], np.cumsum(time_counts)])
    _verify_events(path, times, units, offsets, channels)
    names = _class_names(file, labels)
    bad = np.flatnonzero((labels < (0 if "labels" in file else -1)) | (labels >= len(names)))
    if bad.size:
        raise DataFileError(
            f"{path}: label {labels[bad[0]]} of sample {bad[0]} is out of range "
            f"0..{len(names) - 1} (extra/keys names the classes); correct the label or add the "
            "class name"
        )
    times, units = _sorted(times.astype(np.float32), units.astype(np.uint16), offsets)
    return PackedSpikes(times, units, offsets, labels, speakers, names)


def _flat(dataset: h5py.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """All events of a variable-length data set, and [N] how many each sample has."""
    kind = h5py.check_vlen_dtype(dataset.dtype) or dataset.dtype
    pieces, counts = [], []
    for start in range(0, dataset.shape[0], _CHUNK):
        rows = dataset[start : start + _CHUNK]
        counts.append(np.fromiter(map(len, rows), np.int64, len(rows)))
        pieces.append(np.concatenate([np.asarray(row, dtype=kind) for row in rows]))
    if not pieces:
        return np.empty(0, kind), np.empty(0, np.int64)
    return np.concatenate(pieces), np.concatenate(counts)


def _per_sample(file: h5py.File, name: str, path: Path, size: int) -> np.ndarray:
    if name not in file:
        return np.full(size, -1, np.int64)
    values = file[name][()]
    if values.shape != (size,) or values.dtype.kind not in "iu":
        raise DataFileError(
            f"{path}: {name} must hold one integer for each of the {size} samples, has shape "
            f"{values.shape} and type {values.dtype}"
        )
    return values.astype(np.int64)


def _class_names(file: h5py.File, labels: np.ndarray) -> tuple[str, ...]:
    if "extra/keys" in file:
        keys = file["extra/keys"][()].tolist()
        return tuple(k.decode() if isinstance(k, bytes) else str(k) for k in keys)
    return tuple(str(k) for k in range(int(labels.max(initial=-1)) + 1))


def _verify_events(
    path: Path, times: np.ndarray, units: np.ndarray, offsets: np.ndarray, channels: int
) -> None:
    def first(bad: np.ndarray) -> tuple[int, int]:
        event = int(np.argmax(bad))
        return event, int(np.searchsorted(offsets, event, side="right")) - 1

    if units.dtype.kind not in "iu" or times.dtype.kind != "f":
        raise DataFileError(
            f"{path}: spikes/units must be integers and spikes/times floating point (s), they are "
            f"{units.dtype} and {times.dtype}"
        )
    bad = ~(np.isfinite(times) & (times >= 0))
    if bad.any():
        event, sample = first(bad)
        raise DataFileError(
            f"{path}: sample {sample} has the spike time {times[event]}; times must be finite "
            "seconds from 0 on: remove the sample or correct it"
        )
    bad = (units < 0) | (units >= channels)
    if bad.any():
        event, sample = first(bad)
        raise DataFileError(
            f"{path}: sample {sample} has unit {units[event]}, but units must be in "
            f"0..{channels - 1}; files with more channels need a network that was trained with "
            "--data.channels"
        )


def _sorted(
    times: np.ndarray, units: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    falls = np.flatnonzero(np.diff(times) < 0) + 1
    if np.isin(falls, offsets).all():
        return times, units
    samples = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
    order = np.lexsort((times, samples))
    return times[order], units[order]
