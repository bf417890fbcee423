"""A cache of packed spike files, so that HDF5 is read and verified once."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np

from lightning_modules.data.shd_files import read_shd_file
from lightning_modules.data.spike_arrays import PackedSpikes

_VERSION = 1  # of the packed layout; a change invalidates old caches


def default_cache_dir() -> Path:
    """The user's cache folder: ``$XDG_CACHE_HOME/snn-eventprop`` or ``~/.cache/snn-eventprop``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "snn-eventprop"


def load_packed(
    path: Path, *, channels: int = 700, cache_dir: str | os.PathLike[str] | None = None
) -> PackedSpikes:
    """The samples of a file in SHD's layout (docs/shd_layout.md), from the cache if they are there.

    A file is recognised by its path, size and modification time. A damaged cache is built again
    (every array has a checksum). If the cache folder cannot be written, a warning says so and the
    data stay in memory.
    """
    folder = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
    cached = folder / _cache_name(path, channels)
    if cached.exists():
        try:
            with np.load(cached, allow_pickle=False) as arrays:
                return PackedSpikes.from_arrays(arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            warnings.warn(f"{cached}: damaged ({error}), building it again", stacklevel=2)
    packed = read_shd_file(path, channels=channels)
    try:
        _write(packed, cached)
    except OSError as error:
        warnings.warn(
            f"{folder}: cannot keep packed data there ({error}), they will be packed again next "
            "time; name another folder by XDG_CACHE_HOME, or by fit's --data.cache_dir",
            stacklevel=2,
        )
    return packed


def _cache_name(path: Path, channels: int) -> str:
    status = path.stat()
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{channels}|{_VERSION}"
    stem = path.name.split(".")[0]
    return f"{stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"


def _write(packed: PackedSpikes, target: Path) -> None:
    """Write to a temporary file, then rename: a reader sees all of it or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".packing-", suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **packed.to_arrays())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
