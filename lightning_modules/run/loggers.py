"""Lightning's loggers, which write to the run's folder unless another is named."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import sys
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

_HERE = "."  # as save_dir: the folder of the run
PROJECT = "snn-eventprop"
_NAMES = ("CSVLogger", "TensorBoardLogger", "WandbLogger")
_OPTION = re.compile(r"--trainer\.logger\+?(=.*)?")


def with_folders(args: list[str]) -> list[str]:
    """Arguments in which ``--trainer.logger NAME`` also names the run's folder as its place."""
    found: list[str] = []
    named = False  # whether the previous argument expects a logger's name
    for arg in args:
        found.append(arg)
        option = _OPTION.fullmatch(arg)
        value = arg if named else ((option and option[1]) or "")[1:]
        if value.rpartition(".")[2] in _NAMES:
            found.append(f"--trainer.logger.save_dir={_HERE}")
        named = bool(option) and option[1] is None  # type: ignore[index]
    return found


def placed(stated: Any, run: Path) -> Any:
    """The options of one or several loggers, with the run's folder where none is named."""
    if isinstance(stated, list):
        return [placed(one, run) for one in stated]
    if not hasattr(stated, "class_path"):
        return stated
    made = deepcopy(stated)
    name, options = made.class_path.rpartition(".")[2], made.init_args
    if name == "TensorBoardLogger" and not _has_tensorboard():
        sys.exit(
            "error: TensorBoardLogger needs TensorBoard, which is not installed: "
            'pip install "snn-eventprop[tensorboard]"'
        )
    if options.get("save_dir") == _HERE:
        options.save_dir = str(run)
        if name == "TensorBoardLogger":  # a resumed run continues the same curves
            options.name, options.version = "tensorboard", ""
        if name == "CSVLogger":
            options.name = "csv"
    if name == "WandbLogger":
        options.project = options.project or _project()
        options.id = options.id or wandb_id(run)
    return made


def wandb_logger(run: Path) -> Any:
    """What ``--wandb true`` logs to."""
    return WandbLogger(project=_project(), save_dir=str(run), id=wandb_id(run), log_model=True)


def wandb_id(run: Path) -> str | None:
    """The W&B run that belongs to this folder: a resumed run continues its own.

    None where ``WANDB_RUN_ID`` names it, as an agent of a sweep does.
    """
    if os.environ.get("WANDB_RUN_ID"):
        return None
    kept = run / "wandb_id"
    if not kept.exists():
        kept.write_text(secrets.token_hex(4), encoding="utf-8")
    return kept.read_text(encoding="utf-8").strip()


def finish(loggers: Iterable[Any]) -> None:
    """End the runs of W&B, so that another run in this process does not continue them."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def _has_tensorboard() -> bool:
    return any(importlib.util.find_spec(name) for name in ("tensorboard", "tensorboardX"))


def _project() -> str:
    return os.environ.get("WANDB_PROJECT", PROJECT)
