"""Read what W&B wrote to disk in an offline run: LevelDB's log format, one protobuf a record."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

BLOCK, HEADER = 32768, 7
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


class OfflineRun(NamedTuple):
    """Config and history by key, names of artifacts, and whether the run was ended well."""

    config: dict[str, Any]
    history: dict[str, list[Any]]
    artifacts: list[str]
    run_id: str
    sweep_id: str
    exit_code: int | None


def records(path: Path) -> Iterator[bytes]:
    """The payloads of a ``.wandb`` file."""
    content = path.read_bytes()
    assert content[:4] == b":W&B", "not a file of W&B"
    position, parts = HEADER, b""
    while position + HEADER <= len(content):
        left = BLOCK - position % BLOCK
        if left < HEADER:  # too small for a record: padding
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if kind not in (WHOLE, FIRST, MIDDLE, LAST):
            return
        start = position + HEADER
        parts = (b"" if kind in (WHOLE, FIRST) else parts) + content[start : start + length]
        position = start + length
        if kind in (WHOLE, LAST):
            yield parts


def read(folder: Path) -> OfflineRun:
    """The one offline run in ``folder/wandb``."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # its service writes the end of the file when it goes

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    config: dict[str, Any] = {}
    history: dict[str, list[Any]] = {}
    artifacts: list[str] = []
    run_id = sweep_id = ""
    code = None
    for payload in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run_id, sweep_id = record.run.run_id, record.run.sweep_id
        if kind in ("run", "config"):
            update = record.run.config.update if kind == "run" else record.config.update
            config |= {_key(item): json.loads(item.value_json) for item in update}
        if kind == "history":
            for item in record.history.item:
                history.setdefault(_key(item), []).append(json.loads(item.value_json))
        if kind == "artifact":
            artifacts.append(record.artifact.name)
        if kind == "request" and record.request.HasField("log_artifact"):
            artifacts.append(record.request.log_artifact.artifact.name)
        if kind == "exit":
            code = record.exit.exit_code
    return OfflineRun(config, history, artifacts, run_id, sweep_id, code)


def _key(item: Any) -> str:
    return item.key or "/".join(item.nested_key)
