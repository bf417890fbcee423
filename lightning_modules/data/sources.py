"""Where samples come from: the embedded set, a folder of files, or SHD and SSC by download."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from lightning_modules.data.cache import default_cache_dir, load_packed
from lightning_modules.data.data_files import DataFileError, find_files
from lightning_modules.data.download import download
from lightning_modules.data.embedded import load_twin
from lightning_modules.data.spike_arrays import PackedSpikes

DatasetName = Literal["twin", "folder", "shd", "ssc"]

OWN = "own"  # the duration of each sample: until its last event
_LONGEST_OWN = 100.0  # s; longer ones are taken for milliseconds
# Names of data sets that their readers may not know.
EXPLAINED = {"twin": "twin: embedded synthetic digits, not SHD"}
_LEAST_KEPT = 0.05  # share of the events; if a crop keeps fewer, times are taken for milliseconds


class TrainingFile(NamedTuple):
    """What checkpoints keep of the training file: the names of its classes, and its speakers."""

    class_names: tuple[str, ...]
    speakers: tuple[int, ...]  # ascending


def load_splits(
    dataset: str, root: str | None, channels: int, cache_dir: str | None
) -> dict[str, PackedSpikes]:
    """The samples of ``train``, ``test`` and, where there is such a file, ``valid``.

    Raises:
        DataFileError: files are missing, truncated or corrupt, or do not belong together.
    """
    if dataset == "twin":
        return {split: load_twin(split) for split in ("train", "test")}
    if dataset == "folder":
        assert root is not None
        files = find_files(root)
    else:
        cache = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        files = download(dataset, root or cache / "datasets")
    packed = {
        split: load_packed(path, channels=channels, cache_dir=cache_dir)
        for split, path in files.items()
    }
    names = {split: data.class_names for split, data in packed.items()}
    if not all(same_classes(found, names["train"]) for found in names.values()):
        raise DataFileError(
            f"{', '.join(map(str, files.values()))}: these files name different classes in "
            f"extra/keys, or have labels that training has not ({names}); they do not belong "
            "together"
        )
    return packed


def same_classes(found: tuple[str, ...], trained: tuple[str, ...]) -> bool:
    """Whether a file's classes are those of training. A file without names has them by number."""
    unnamed = found == tuple(map(str, range(len(found))))
    return found == trained or (unnamed and len(found) <= len(trained))


def cropped(
    packed: PackedSpikes, duration: float | str, unique_dt: float | None, channels: int
) -> PackedSpikes:
    """The samples without events after ``duration``; with ``unique_dt`` at most one per bin.

    Raises:
        DataFileError: hardly any event is left, or samples of ``"own"`` length are very long, so
            that times are probably not in seconds.
    """
    whole = packed
    if isinstance(duration, str):
        if packed.times.size and packed.times.max() > _LONGEST_OWN:
            raise DataFileError(
                f"the last event is at {packed.times.max():g} s; are the times in seconds? If so, "
                f"give a duration in s instead of {duration!r}"
            )
    else:
        packed = packed.crop(duration)
    if len(packed.times) < _LEAST_KEPT * len(whole.times):
        raise DataFileError(
            f"only {len(packed.times)} of {len(whole.times)} events lie before duration="
            f"{duration:g} s, the last at {whole.times.max():g}; are the times in seconds?"
        )
    return packed if unique_dt is None else packed.one_per_bin(channels, unique_dt)
