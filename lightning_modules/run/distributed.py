"""One run in several processes: the folder they share, and decisions they make together."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from lightning_modules.run.folder import new_run

_RUN = "SNN_EVENTPROP_RUN"


def _is_first() -> bool:
    """Whether this is the only process, or that of rank 0, which writes the files."""
    return getattr(rank_zero_only, "rank", 0) == 0


def shared_run(folder: str | None) -> Path:
    """The run's folder: made by the first process, which names it to those that Lightning starts.

    Processes that something else starts together (torchrun, srun) must be given ``folder``.
    """
    if _is_first():
        run = new_run(folder)
        os.environ[_RUN] = str(run.absolute())
        return run
    folder = folder or os.environ.get(_RUN)
    if not folder:
        sys.exit(
            "error: processes that are started together must agree on a folder: name it with "
            "--run_dir"
        )
    return Path(folder)


def in_any_process(trainer: Trainer, here: bool) -> bool:
    """Whether ``here`` is true in any process of the run."""
    if trainer.world_size == 1:
        return here
    return trainer.strategy.reduce_boolean_decision(here, all=False)
