"""Files that are complete or absent, whenever the process is killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class WriteError(OSError):
    """Something cannot be written; the message says what, why, and what to do."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, beside ``path``. When the block ends well, it replaces ``path``.

    Until then, and after an error, ``path`` holds what it held before. There may be one writer at a
    time: the temporary path is always the same, so that killed processes leave at most one file.

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
            pass  # the folder itself cannot be written
        if isinstance(error, OSError):
            raise WriteError(
                f"cannot write {path} ({error.strerror or error}); what was there before is "
                "intact. Make room there, or write access, and try again"
            ) from error
        raise


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write ``values`` as JSON, completely or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
