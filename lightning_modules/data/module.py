"""``SpokenDigits``: spoken digits (or commands) as spike trains, as a LightningDataModule.

The file is long because every option of the data is declared, described and checked here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from lightning_modules.data import splits
from lightning_modules.data.augment import (
    Augmentation,
    Blend,
    ChannelJitter,
    ChannelShift,
    DelayLine,
    EventDropout,
    TimeJitter,
    TimeShift,
    TimeStretch,
)
from lightning_modules.data.cache import load_packed
from lightning_modules.data.data_files import DataFileError, find_files
from lightning_modules.data.loader import Batch, BatchKey, EventDataset, EventLoader, EventSampler
from lightning_modules.data.shd_files import read_shd_file
from lightning_modules.data.sources import (
    EXPLAINED,
    OWN,
    DatasetName,
    TrainingFile,
    cropped,
    load_splits,
    same_classes,
)
from lightning_modules.data.spike_arrays import PackedSpikes, SamplePool

__all__ = ["Batch", "DataFileError", "SpokenDigits"]


class SpokenDigits(LightningDataModule):
    """Spoken digits as spike trains of a model cochlea, in batches of ``SpikeEvents``.

    The data are the embedded set (the default: 960 samples of synthetic speech, 20 classes, 12
    voices), the files of a folder in SHD's layout (``root``; docs/shd_layout.md), or SHD or SSC,
    which tonic downloads (``dataset``). Validation samples are taken from the training file. By
    default they are those of whole speakers, which training then never hears. The test file is for
    testing only.

    Args:
        dataset: ``"twin"`` (the embedded set, a synthetic stand-in for SHD), ``"folder"`` (the
            files under ``root``), ``"shd"`` or ``"ssc"``. Default: ``"folder"`` if ``root`` is
            given, else ``"twin"``.
        root: folder of files in SHD's layout (docs/shd_layout.md), or the beginning of their names
            (``data/de`` for ``data/de_train.h5`` and ``data/de_test.h5``); for ``"shd"`` and
            ``"ssc"`` the folder that tonic's loader calls ``save_to`` (default: in the cache
            folder).
        batch_size: training samples per batch (and process).
        eval_batch_size: validation and test samples per batch.
        duration: length of a sample in s; later events are cut off. The default is the published
            recipe's; it cuts 24 of the embedded set's 6.4 million events (1.4 would keep all of
            SHD's). ``"own"``: each sample ends 1 ms after its last event, with augmentations and
            the delay line applied; nothing is cut off, and averages over time are over that length.
        channels: input channels of the files, at most 65536.
        val_by: validate on whole speakers (``"speaker"``) or on samples of every speaker and class
            (``"sample"``).
        val_fraction: share of the training speakers (rounded, at least one) or samples held out for
            validation; 0: none, train on everything.
        val_speakers: the speakers held out for validation, instead of ``val_fraction``.
        fold: leave-one-speaker-out: hold out the fold-th (from 0) training speaker.
        split_seed: decides which speakers or samples are held out. It is separate from ``seed``,
            so that runs with several seeds share a split.
        limit_samples: keep at most this many samples of each split, drawn with ``split_seed``.
        seed: of the order of samples and of augmentation. Both depend only on it, on the epoch
            and on the batch's number, not on ``num_workers``.
        pool_channels: neighbouring channels that make one input unit, after augmentation. With
            ``unique_dt``, their events in one bin count as one.
        unique_dt: keep at most one event per input unit and bin of this width (s); None: keep all.
        channel_shift: augmentation: largest shift of a sample in channels (paper: 40); 0: off.
        blend: augmentation: probability of blending a sample with one of its class; 0: off.
        time_stretch: augmentation: largest relative change of pace; 0: off.
        time_shift: augmentation: largest shift of a sample in s; 0: off.
        event_dropout: augmentation: probability of dropping an event; 0: off.
        time_jitter: augmentation: standard deviation of event times in s; 0: off.
        channel_jitter: augmentation: standard deviation of event channels; 0: off.
        augment: further augmentations, applied after those above.
        delay_copies: delayed copies of the input on channels of their own (paper: 10); 0: off.
        delay_step: time between one copy and the next in s (paper: 0.03).
        transform: a tonic transform of events, applied to every sample of every split before
            augmentation (a Python call per sample, hence slow).
        num_workers: threads that prepare batches (processes, where there is a ``transform``);
            0: the main process prepares them, which is fast enough for a CPU.
        pin_memory: page-locked batches, for GPUs; None: if there is a GPU.
        cache_dir: where packed files are cached; default ``~/.cache/snn-eventprop``.

    Raises:
        ValueError: an argument is out of range or contradicts another.
        DataFileError: (``prepare_data``, ``setup``) files are missing, truncated or corrupt.
    """

    def __init__(
        self,
        dataset: DatasetName | None = None,
        root: str | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        duration: float | str = 1.0,
        channels: int = 700,
        val_by: Literal["speaker", "sample"] = "speaker",
        val_fraction: float = 0.1,
        val_speakers: list[int] | None = None,
        fold: int | None = None,
        split_seed: int = 0,
        limit_samples: int | None = None,
        seed: int = 0,
        pool_channels: int = 1,
        unique_dt: float | None = None,
        channel_shift: int = 0,
        blend: float = 0.0,
        time_stretch: float = 0.0,
        time_shift: float = 0.0,
        event_dropout: float = 0.0,
        time_jitter: float = 0.0,
        channel_jitter: float = 0.0,
        augment: list[Augmentation] | None = None,
        delay_copies: int = 0,
        delay_step: float = 0.03,
        transform: Callable | None = None,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["augment", "transform"], logger=False)
        self.dataset: str = dataset or ("folder" if root else "twin")
        self.root = root
        self.batch_size = _positive("batch_size", batch_size)
        self.eval_batch_size = _positive("eval_batch_size", eval_batch_size)
        self.channels = _positive("channels", channels)
        self.duration: float | str = duration
        self.val_by = val_by
        self.val_fraction = val_fraction
        self.fold = fold
        self.split_seed = split_seed
        self.limit_samples = limit_samples
        self.seed = seed
        self.pool_channels = _positive("pool_channels", pool_channels)
        self.unique_dt = unique_dt
        self.transform = transform
        self.trained_transform: str | None = None  # the name of that in the checkpoint
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.cache_dir = cache_dir
        self._held_out = val_speakers
        self._check_arguments()
        strengths: list[tuple[Callable[[Any], Augmentation], float]] = [
            (Blend, blend), (ChannelShift, channel_shift), (TimeStretch, time_stretch),
            (TimeShift, time_shift), (EventDropout, event_dropout), (TimeJitter, time_jitter),
            (ChannelJitter, channel_jitter),
        ]
        self.augmentations = [kind(strength) for kind, strength in strengths if strength]
        self.augmentations += augment or []
        self.delay_line = DelayLine(delay_copies, delay_step) if delay_copies else None
        self._packed: dict[str, PackedSpikes] | None = None
        self._pools: dict[str, SamplePool] | None = None
        self._training_file: TrainingFile | None = None

    def _check_arguments(self) -> None:
        if self.dataset not in get_args(DatasetName):
            raise ValueError(
                f"dataset must be one of {', '.join(get_args(DatasetName))}, got {self.dataset!r}"
            )
        if self.dataset == "twin" and self.root:
            raise ValueError(
                f"dataset='twin' is embedded and has no root, got root={self.root!r}; leave one out"
            )
        if self.dataset == "folder" and not self.root:
            raise ValueError("dataset='folder' needs root, the folder of the files")
        if isinstance(self.duration, str) and self.duration != OWN:
            raise ValueError(
                f"duration must be a positive time in s or {OWN!r}, got {self.duration!r}"
            )
        for name in ("duration", "unique_dt"):
            value = getattr(self, name)
            if value is not None and value != OWN and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive time in s, got {value!r}")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction must be in [0, 1), got {self.val_fraction!r}")
        if self.val_by not in ("speaker", "sample"):
            raise ValueError(f"val_by must be 'speaker' or 'sample', got {self.val_by!r}")
        if self.fold is not None and self._held_out is not None:
            raise ValueError("fold and val_speakers both name the held-out speakers; give one")
        if self.limit_samples is not None:
            _positive("limit_samples", self.limit_samples)
        if self.num_workers < 0:
            raise ValueError(f"num_workers must be >= 0, got {self.num_workers}")

    # ---------------------------------------------------------------- loading and splitting

    def prepare_data(self) -> None:
        """Find or download the files, verify and pack them (once per machine)."""
        if self._packed is None and self._pools is None:
            self._packed = self._load()

    def setup(self, stage: str | None = None) -> None:
        """Load the packed files and split them. ``stage`` does not matter: loading is cheap."""
        if self._pools is None:
            self._pools = self._split(self._packed or self._load())
            self._packed = None

    def _load(self) -> dict[str, PackedSpikes]:
        return load_splits(self.dataset, self.root, self.channels, self.cache_dir)

    def _split(self, packed: dict[str, PackedSpikes]) -> dict[str, SamplePool]:
        train = packed["train"]
        self._class_names = train.class_names
        self._training_file = TrainingFile(train.class_names, splits.speakers_of(train))
        packed = {split: self._cropped(data) for split, data in packed.items()}
        named_speakers = self.fold is not None or self._held_out is not None
        held_out = None if "valid" in packed and not named_speakers else self._hold_out(train)
        pools = splits.pools(packed, held_out, self.limit_samples, self.split_seed)
        if pools["train"].indices.size == 0:
            raise ValueError("no training samples are left; hold out fewer for validation")
        return pools

    def test_on(self, root: str | Path) -> None:
        """Take all test samples from other files; no training samples remain.

        Args:
            root: a file in SHD's layout (docs/shd_layout.md), or a folder (or the beginning of
                names) with a test file.

        Raises:
            DataFileError: there is none, or it cannot be used, or it has other classes than
                training.
        """
        root = Path(root).expanduser()
        path = root if root.is_file() else find_files(root, needed=["test"])["test"]
        packed = load_packed(path, channels=self.channels, cache_dir=self.cache_dir)
        training = self.training_file or TrainingFile(packed.class_names, ())
        if not same_classes(packed.class_names, training.class_names):
            raise DataFileError(
                f"{path}: extra/keys names the classes {', '.join(packed.class_names)}; those of "
                f"training are {', '.join(training.class_names)}"
            )
        self._training_file, self._class_names = training, training.class_names
        packed = self._cropped(packed)
        everything, nothing = np.arange(len(packed)), np.arange(0)
        self._pools = {
            split: SamplePool(packed, everything if split == "test" else nothing)
            for split in ("train", "val", "test")
        }

    def _cropped(self, packed: PackedSpikes) -> PackedSpikes:
        return cropped(packed, self.duration, self.unique_dt, self.channels)

    def _hold_out(self, train: PackedSpikes) -> np.ndarray:
        """[N] which samples of the training file are for validation."""
        if self.val_by == "sample" and self.fold is None and self._held_out is None:
            return splits.by_sample(train, self.val_fraction, self.split_seed)
        return splits.by_speaker(
            train, fraction=self.val_fraction, speakers=self._held_out, fold=self.fold,
            seed=self.split_seed,
        )

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep of the training file, for tests on other data.

        They also keep the name of the transform. The transform itself is Python code and cannot be
        kept.
        """
        self.setup()
        assert self._training_file is not None
        kept: dict[str, Any] = {
            name: list(values) for name, values in self._training_file._asdict().items()
        }
        return kept if self.transform is None else {**kept, "transform": named(self.transform)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.trained_transform = state_dict.get("transform")
        if self._pools is None:  # files that have been read take precedence
            self._training_file = TrainingFile(
                tuple(state_dict["class_names"]), tuple(state_dict["speakers"])
            )

    # ---------------------------------------------------------------- what the data are

    @property
    def explanation(self) -> str | None:
        """What ``dataset`` names, where its name does not say it."""
        return EXPLAINED.get(self.dataset)

    @property
    def num_units(self) -> int:
        """Input units of the network: pooled channels, times the copies of the delay line."""
        units = -(-self.channels // self.pool_channels)
        return units * (1 + (self.delay_line.copies if self.delay_line else 0))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label."""
        self.setup()
        return self._class_names

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)

    @property
    def pools(self) -> dict[str, SamplePool]:
        """The samples of ``"train"``, ``"val"`` and ``"test"``."""
        self.setup()
        assert self._pools is not None
        return self._pools

    def speakers(self, split: str) -> tuple[int, ...]:
        """The speakers of a split (``"train"``, ``"val"`` or ``"test"``), ascending."""
        pool = self.pools[split]
        return splits.speakers_of(pool.packed, pool.indices)

    @property
    def train_speakers(self) -> tuple[int, ...]:
        """Speakers that training hears."""
        return self.speakers("train")

    @property
    def train_file_speakers(self) -> tuple[int, ...]:
        """Speakers of the training file, held out for validation or not, ascending."""
        self.setup()
        assert self._training_file is not None
        return self._training_file.speakers

    @property
    def training_file(self) -> TrainingFile | None:
        """From the checkpoint, or from the file; None: it is in neither."""
        if self._training_file is None:
            try:
                self.setup()
            except (DataFileError, FileNotFoundError):
                return None
        return self._training_file

    @property
    def val_speakers(self) -> tuple[int, ...]:
        """Speakers of the validation samples."""
        return self.speakers("val")

    @property
    def test_speakers(self) -> tuple[int, ...]:
        """Speakers of the test samples."""
        return self.speakers("test")

    @property
    def test_seen_speakers(self) -> tuple[int, ...]:
        """Test speakers that have samples in the training file (held out for validation or not)."""
        test = self.test_speakers
        return tuple(s for s in test if s in self.train_file_speakers)

    @property
    def test_unseen_speakers(self) -> tuple[int, ...]:
        """Test speakers without samples in the training file."""
        test = self.test_speakers
        return tuple(s for s in test if s not in self.train_file_speakers)

    # ---------------------------------------------------------------- batches

    def event_dataset(self, split: str, *, augmented: bool = False) -> EventDataset:
        """The samples of a split as a map from ``BatchKey`` to ``Batch``."""
        return EventDataset(
            self.pools[split],
            num_units=self.channels,
            duration=self.duration,
            augmentations=self.augmentations if augmented else (),
            transform=self.transform,
            pool_channels=self.pool_channels,
            unique_dt=self.unique_dt,
            delay_line=self.delay_line,
            seed=self.seed,
        )

    def file_dataset(self, path: str | Path) -> EventDataset:
        """The samples of another file, labelled or not, prepared as for testing.

        The file is in SHD's layout (docs/shd_layout.md).
        """
        packed = self._cropped(read_shd_file(path, channels=self.channels, require_labels=False))
        return EventDataset(
            SamplePool(packed, np.arange(len(packed))), num_units=self.channels,
            duration=self.duration, transform=self.transform, pool_channels=self.pool_channels,
            unique_dt=self.unique_dt, delay_line=self.delay_line, seed=self.seed,
        )  # fmt: skip

    def batch(self, split: str, indices: list[int]) -> Batch:
        """The samples ``indices`` of a split as one batch, not augmented; for figures."""
        return self.event_dataset(split)[BatchKey(0, 0, np.asarray(indices, dtype=np.int64))]

    def _loader(self, split: str, *, train: bool) -> EventLoader:
        trainer = self.trainer
        dataset = self.event_dataset(split, augmented=train)
        sampler = EventSampler(
            dataset,
            self.batch_size if train else self.eval_batch_size,
            shuffle=train,
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        if trainer is not None:
            sampler.set_epoch(trainer.current_epoch)
        pin = torch.cuda.is_available() if self.pin_memory is None else self.pin_memory
        if self.transform is None:
            return EventLoader(dataset, sampler, threads=self.num_workers, pin_memory=pin)
        return EventLoader(  # a transform is Python code, which threads cannot run in parallel
            dataset, sampler, num_workers=self.num_workers, pin_memory=pin,
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> EventLoader:
        """Shuffled, augmented."""
        return self._loader("train", train=True)

    def val_dataloader(self) -> EventLoader | list[EventLoader]:
        """In order; an empty list where nothing is held out."""
        if self.pools["val"].indices.size == 0:
            return []
        return self._loader("val", train=False)

    def test_dataloader(self) -> EventLoader:
        """In order. ``test_seen_speakers`` says which of ``Batch.speakers`` training has heard."""
        return self._loader("test", train=False)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move a ``Batch``; copies from page-locked memory do not block."""
        if not isinstance(batch, Batch):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        return Batch(
            batch.events.to(device, non_blocking=True),
            batch.labels.to(device, non_blocking=True),
            batch.speakers.to(device, non_blocking=True),
        )


def named(function: Callable) -> str:
    """The import path of a function, or of the class that a callable object is of."""
    kind: Any = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}.{kind.__qualname__}"


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return int(value)
