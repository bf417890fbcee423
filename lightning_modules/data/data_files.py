"""Spike files on disk: their formats, and which file holds which split. Imports no HDF5."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

_SUFFIXES = (".h5", ".hdf5", ".h5.gz", ".hdf5.gz")
LAYOUT_PAGE = "docs/shd_layout.md"


class DataFileError(RuntimeError):
    """A data file is missing or cannot be used; the message says why and what to do."""


_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_OTHER_FORMATS = {
    ".npz": "a NumPy archive", ".npy": "a NumPy array", ".pt": "a PyTorch file",
    ".ckpt": "a checkpoint", ".csv": "a table of text", ".mat": "a MATLAB file",
    ".wav": "a sound file", ".flac": "a sound file", ".zip": "a ZIP archive",
    ".aedat": "an AEDAT recording", ".aedat4": "an AEDAT recording",
}  # fmt: skip


def check_spike_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that can hold spikes: HDF5, plain or gzipped.

    Raises:
        DataFileError: there is no such file, or it has another format.
    """
    path = Path(path)
    if not path.is_file():
        raise DataFileError(f"{path}: no such file")
    if path.name.endswith(_SUFFIXES):
        return path
    with path.open("rb") as file:
        if file.read(len(_HDF5_SIGNATURE)) == _HDF5_SIGNATURE:
            return path
    unnamed = f"a {path.suffix} file" if path.suffix else "a file without a suffix"
    raise DataFileError(
        f"{path} is {_OTHER_FORMATS.get(path.suffix.lower(), unnamed)}; samples are read from "
        f"{', '.join(_SUFFIXES)} files in SHD's layout ({LAYOUT_PAGE})"
    )


def find_files(
    root: str | os.PathLike[str], needed: Collection[str] = ("train", "test")
) -> dict[str, Path]:
    """The files of the splits under ``root``: ``train``, ``test`` and ``valid``, where present.

    ``root`` is a folder with one file for each split, or the beginning of the files' names:
    ``digits/de`` finds ``digits/de_train.h5`` and ``digits/de_test.h5``. A split's name is part of
    the file's name. Of a plain and a gzipped file of the same name, the plain one is taken.

    Raises:
        DataFileError: a split of ``needed`` is missing, or several files match one.
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
                f"found {names}; {LAYOUT_PAGE} shows how to write such files"
            )
    return found
