"""SHD and SSC, downloaded through tonic's loaders."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from lightning_modules.data.data_files import DataFileError


def download(dataset: str, root: str | os.PathLike[str]) -> dict[str, Path]:
    """The files of ``dataset`` (``"shd"`` or ``"ssc"``), through tonic's loader.

    Existing files are kept. Tonic downloads and checks the others in a temporary folder. Only
    complete files are moved to ``root/SHD/`` (or ``root/SSC/``), where tonic itself looks.

    Raises:
        DataFileError: there is no network, the download is incomplete, or the folder cannot be
            written.
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
    """Extract ``name`` from an archive that was put there by hand; its checksum is verified."""
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
