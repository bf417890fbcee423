"""Progress of training: a bar, or a line for each epoch where there is no terminal."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from lightning_modules.run.summary import console
from lightning_modules.training.validation_epochs import ends_with_validation


class ProgressBar(RichProgressBar):
    """Rich's progress bar; without a terminal, one plain line per epoch."""

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        name, bar, batches, clock, _speed = super().configure_columns(trainer)
        bar.bar_width = 12  # leaves room for loss and accuracy in 80 columns
        return [name, bar, batches, clock]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        short = {name: name.replace("/", "_").replace("accuracy", "acc") for name in metrics}
        return {short[name]: value for name, value in metrics.items()}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if console.is_terminal or not trainer.is_global_zero:
            return
        values = trainer.callback_metrics
        shown = ["train/loss", "train/accuracy"]
        if ends_with_validation(trainer):
            shown += ["val/loss", "val/accuracy"]
        line = "  ".join(f"{name} {values[name].item():.3f}" for name in shown if name in values)
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {line}", flush=True)
