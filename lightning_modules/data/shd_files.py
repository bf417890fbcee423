"""Spike files in the HDF5 layout of the Spiking Heidelberg Digits: find, download, read, verify.

Layout: ``spikes/times`` (variable-length float16 or float32, s), ``spikes/units``
(variable-length unsigned integers), ``labels``, ``extra/keys`` (class names), ``extra/speaker``.
"""

from __future__ import annotations

import gzip
import io
import os
import tempfile
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lightning_modules.data.packed import PackedSpikes

_SUFFIXES = (".h5", ".hdf5", ".h5.gz", ".hdf5.gz")
_CHUNK = 4096  # samples per read
_MOST_CHANNELS = 2**16  # units are packed in 16 bits


class DataFileError(RuntimeError):
    """A data file is missing or unfit; the message names it, what is wrong and the mend."""


def read_shd_file(
    path: str | os.PathLike[str], *, channels: int = 700, require_labels: bool = True
) -> PackedSpikes:
    """Read and verify a file (``.h5``, or ``.h5.gz``) in one go.

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
    path = Path(path)
    if not path.is_file():
        raise DataFileError(f"{path}: no such file")
    try:
        with h5py.File(_opened(path), "r") as file:
            return _read(file, path, channels, require_labels)
    except (OSError, EOFError, zlib.error, RuntimeError) as error:
        if isinstance(error, (DataFileError, PermissionError)):
            raise
        raise DataFileError(
            f"{path}: not a whole HDF5 file ({error}). It was probably cut while it was copied or "
            "downloaded: delete it and fetch it again"
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
                f"{path}: has no data set {name!r}; the layout of the Spiking Heidelberg Digits is "
                "spikes/times, spikes/units, labels, extra/keys, extra/speaker"
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


def find_files(
    root: str | os.PathLike[str], needed: Collection[str] = ("train", "test")
) -> dict[str, Path]:
    """The files of the splits under ``root``: ``train``, ``test`` and ``valid``, as far as there.

    ``root`` is a folder with one file for each split, or the beginning of the files' names:
    ``digits/de`` finds ``digits/de_train.h5`` and ``digits/de_test.h5``. A split's name is part of
    the file's name. Where a file is there both plain and gzipped, the plain one is taken.

    Raises:
        DataFileError: a split of ``needed`` is missing, or one is not unique.
    """
    root = Path(root).expanduser()
    folder, prefix = (root, "") if root.is_dir() else (root.parent, root.name)
    if not folder.is_dir():
        raise DataFileError(f"{root}: no such folder with spike files")
    files = sorted(
        f for f in folder.iterdir()
        if f.name.startswith(prefix) and f.name.endswith(_SUFFIXES) and f.is_file()
    )
    plain = {f.name for f in files if f.suffix != ".gz"}
    files = [f for f in files if f.suffix != ".gz" or f.name[:-3] not in plain]
    found = {}
    for split in ("train", "test", "valid"):
        matches = [f for f in files if split in f.name[len(prefix):].lower()]
        if len(matches) > 1:
            raise DataFileError(
                f"{root}: several files could be the {split} split "
                f"({', '.join(f.name for f in matches)}); give the beginning of the wanted ones, "
                f"such as {folder / matches[0].name.split(split)[0]}"
            )
        if matches:
            found[split] = matches[0]
        elif split in needed:
            names = ", ".join(f.name for f in files) or "no .h5 files at all"
            raise DataFileError(
                f"{root}: no file for the {split} split, looked for *{split}*.h5 (or .h5.gz) and "
                f"found {names}"
            )
    return found


def download(dataset: str, root: str | os.PathLike[str]) -> dict[str, Path]:
    """The files of ``dataset`` (``"shd"`` or ``"ssc"``), through tonic's loader.

    A file that is there is left alone. Otherwise tonic downloads and checks it in a temporary
    folder, and only a whole file is moved to ``root/SHD/`` (or ``root/SSC/``), where tonic itself
    would look for it.

    Raises:
        DataFileError: there is no network, the download was cut, or the folder is not writable.
    """
    import tonic.datasets

    options: dict[str, dict[str, Any]]
    if dataset == "shd":
        kind = tonic.datasets.SHD
        options = {"train": {"train": True}, "test": {"train": False}}
    else:
        kind = tonic.datasets.SSC
        options = {split: {"split": split} for split in ("train", "valid", "test")}
    folder = Path(root).expanduser() / kind.__name__
    files = {split: folder / f"{dataset}_{split}.h5" for split in options}
    for split, path in files.items():
        if path.exists():
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise DataFileError(
                f"{folder}: cannot write there ({error}); name another folder by --data.root"
            ) from error
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as temporary:
                archive = path.with_name(path.name + ".zip")
                if zipfile.is_zipfile(archive):
                    _unzip(archive, path.name, Path(temporary) / kind.__name__)
                else:
                    kind(temporary, **options[split])
                    os.replace(Path(temporary) / kind.__name__ / archive.name, archive)
                os.replace(Path(temporary) / kind.__name__ / path.name, path)
        except Exception as error:
            raise DataFileError(_download_message(path, kind.base_url, error)) from error
    return files


def _unzip(archive: Path, name: str, folder: Path) -> None:
    """Take ``name`` out of an archive that somebody put there by hand; its checksum is checked."""
    with zipfile.ZipFile(archive) as file:
        file.extract(name, folder)


def _download_message(path: Path, url: str, error: Exception) -> str:
    by_hand = f"fetch {url}{path.name}.zip elsewhere and put it into {path.parent}"
    if isinstance(error, zipfile.BadZipFile):
        return f"{path}.zip: broken archive ({error}); delete it and run again, or {by_hand}"
    if isinstance(error, OSError):
        return (
            f"{path} is not there and cannot be downloaded ({error}). With a network, run again; "
            f"without one, {by_hand}, or train on the embedded set (leave --data.dataset out)"
        )
    return (
        f"{path}: the download from {url} was cut or is corrupt ({error}) and was thrown away; "
        f"run again, or {by_hand}"
    )
