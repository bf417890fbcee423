"""Which checkpoints a run keeps, and how they are written."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_modules.run.atomic_files import whole_file

BEST, LAST = "best.ckpt", "last.ckpt"


def checkpoint_callbacks(folder: Path, monitor: tuple[str, str] | None) -> list[Callback]:
    """``last.ckpt`` after every epoch and, with validation, ``best.ckpt``.

    Args:
        folder: where.
        monitor: the metric that picks ``best.ckpt``, and whether its "min" or "max" is best.
    """
    common: dict[str, Any] = {
        "dirpath": folder, "save_top_k": 1, "enable_version_counter": False,
        "save_on_train_epoch_end": True,
    }  # fmt: skip
    kept: list[Callback] = []
    if monitor:
        name, mode = monitor
        kept.append(ModelCheckpoint(filename="best", monitor=name, mode=mode, **common))
    # Saved after best.ckpt, so that a resumed run knows how good best.ckpt is.
    return [*kept, ModelCheckpoint(filename="last", **common)]


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints survive a kill or a full disk.

    Lightning writes to the system's temporary folder and moves the file from there. On another disk
    that move is a copy, and a process that is killed during it loses the previous checkpoint too.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str],
        storage_options: Any | None = None,
    ) -> None:  # fmt: skip
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with whole_file(Path(path)) as partial, partial.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
