"""Metrics of each epoch: kept in checkpoints, written as CSV."""

from __future__ import annotations

import csv
import statistics
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.run.atomic_files import whole_file
from lightning_modules.run.summary import memory


class History(Callback):
    """Metrics of each epoch, kept in checkpoints and written to ``metrics.csv``.

    The clock starts after ``WarmUp``. It stands still while a callback measures: the seconds that
    one spent so far are its attribute ``unclocked_seconds``. Epochs without validation
    (``--trainer.check_val_every_n_epoch``) have no validation metrics. A resumed run keeps the
    rows of the run it resumes. If it resumes within an epoch, that epoch's throughput is measured
    over the remaining batches.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self._samples = 0
        self._validated = False  # in this epoch
        self._start = self._end = 0.0
        self._seconds = 0.0  # of training so far
        self._origin = 0.0  # what the clock read when training began

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._origin = _clock(trainer) - self._seconds
        # Lightning does not call this when it resumes within an epoch.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._samples = 0
        self._validated = False
        self._start = self._end = _clock(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self._samples += len(batch.labels)
        self._end = _clock(trainer)
        self._seconds = self._end - self._origin

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds = self._end - self._start
        self._seconds = _clock(trainer) - self._origin
        cost = {
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "samples_per_s": self._samples / seconds if seconds > 0 else 0.0,
            **memory(),
        }
        row = {
            "epoch": float(trainer.current_epoch),
            "step": float(trainer.global_step),
            **cost,
            "seconds": self._seconds,
        }
        for name, value in trainer.callback_metrics.items():
            # Names without a "/" are metrics of single batches, for the progress bar. Lightning
            # keeps metrics of validation until the next validation.
            if "/" in name and (self._validated or not name.startswith("val/")):
                row[name] = float(value)
        self.rows.append(row)
        if trainer.is_global_zero:
            self._write()
        for logger in trainer.loggers:
            logger.log_metrics(cost, trainer.global_step)

    def samples_per_s(self) -> float | None:
        """Throughput of training with loading, without validation: the median over epochs."""
        rates = [row["samples_per_s"] for row in self.rows]
        return statistics.median(rates) if rates else None

    def seconds(self) -> float:
        """Time of training in s until the end of the last full epoch.

        Loading, validation and checkpoints count; start, compilation and comparisons of gradients
        do not. For a resumed run it is the sum over its parts, without what was discarded.
        """
        return self.rows[-1]["seconds"] if self.rows else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        self._seconds = state_dict.get("seconds", self.seconds())  # older checkpoints: without

    def _write(self) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with (
            whole_file(self.folder / "metrics.csv") as partial,
            partial.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)


def _clock(trainer: Trainer) -> float:
    """Seconds that pass, without those of callbacks that measure (``unclocked_seconds``)."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    measuring = sum(getattr(one, "unclocked_seconds", 0.0) for one in callbacks)
    return time.perf_counter() - measuring
