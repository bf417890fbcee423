"""Figures of a run as PNG files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.run import figures
from lightning_modules.run.atomic_files import WriteError, whole_file
from lightning_modules.run.callbacks.history import History
from lightning_modules.run.logged_media import log_figure, sample_figures


class Figures(Callback):
    """PNG figures of a run: learning curves, one sample in the network, confusion matrix."""

    def __init__(self, folder: Path, history: History | None = None) -> None:
        self.folder = folder
        self.history = history

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._learning_curves(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        with suppress(WriteError):  # the exception under way matters more than a full disk
            self._learning_curves(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        names = data.class_names
        made = {"confusion": figures.confusion(pl_module.confusion.compute().cpu(), names)}
        if data.pools["test"].indices.size:
            made |= sample_figures(pl_module, data, "test")
        for name, figure in made.items():
            self._save(name, figure)
            log_figure(trainer, f"test/{name}", figure)

    def _learning_curves(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and self.history is not None and self.history.rows:
            self._save("learning_curves", figures.learning_curves(self.history.rows))

    def _save(self, name: str, figure: Any) -> None:
        with whole_file(self.folder / f"{name}.png") as partial:
            figure.savefig(partial, dpi=120, format="png")
