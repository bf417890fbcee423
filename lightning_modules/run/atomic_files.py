"""Files that are there as a whole or not at all, whenever the process is killed."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO


class WriteError(OSError):
    """Something cannot be written; the message names it, why, and the mend."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, beside ``path``, whose place it takes when the block ends well.

    Until then, and after an error, ``path`` holds what it held before. For one writer at a time:
    the path is the same each time, so that a killed process leaves at most one.

    Raises:
        WriteError: the disk is full, the folder is not writable, and the like.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        try:
            partial.unlink(missing_ok=True)
        except OSError:
            pass  # the folder itself is the trouble
        if isinstance(error, OSError):
            raise WriteError(
                f"cannot write {path} ({error.strerror or error}); what was there before is whole. "
                "Make room there, or write access, and try again"
            ) from error
        raise


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write ``values`` as JSON, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that a kill or a full disk leaves as they were.

    Lightning writes to the system's temporary folder and moves from there, which is a copy where
    that is another disk: whoever is killed during it has lost the checkpoint before, too.
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
