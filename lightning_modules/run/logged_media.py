"""Images and histograms of a network, for the loggers that show them: W&B and TensorBoard."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from lightning_modules.run import figures

_SHOWING = (WandbLogger, TensorBoardLogger)


class LogMedia(Callback):
    """Logs what the network does while it trains.

    After the first epoch, every ``every`` epochs and after the last: spikes and readout membranes
    of one validation sample (of the first training sample without validation), the confusion
    matrix of validation, histograms of weights and of time constants. Nothing is computed where no
    logger shows media.

    Args:
        every: epochs from one to the next.
    """

    def __init__(self, every: int = 10) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 epoch, got {every!r}")
        self.every = every

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch != 1 and epoch % self.every and epoch != trainer.max_epochs:
            return
        if not any(isinstance(logger, _SHOWING) for logger in trainer.loggers):
            return
        model: Any = pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        validated = data.pools["val"].indices.size > 0
        if validated and model.confusion.update_called:
            counts = model.confusion.compute()  # on every process, over which it sums
            log_figure(trainer, "val/confusion", figures.confusion(counts.cpu(), data.class_names))
        for name, figure in sample_figures(model, data, "val" if validated else "train").items():
            log_figure(trainer, f"sample/{name}", figure)
        for name, values in distributions(model.network).items():
            log_histogram(trainer, name, values)


def sample_figures(model: Any, data: Any, split: str, index: int = 0) -> dict[str, Figure]:
    """``raster`` and ``readout`` of one sample of a split."""
    batch = data.batch(split, [index])
    events = batch.events.to(model.device)
    seen = model.network.observe(events)
    names, label = data.class_names, int(batch.labels[0])
    found = {"raster": figures.raster([events, *seen.hidden], f"sample {names[label]!r}")}
    if seen.trace is not None:
        dt = events.duration / len(seen.trace)
        found["readout"] = figures.readout(seen.trace[:, 0].cpu(), dt, names, label)
    elif seen.output is not None:
        found["readout"] = figures.raster([seen.output], f"outputs for {names[label]!r}")
    return found


def distributions(network: torch.nn.Module) -> dict[str, Tensor]:
    """Every parameter by name; time constants in s, where each neuron has its own."""
    found: dict[str, Tensor] = {
        f"parameters/{name}": values for name, values in network.named_parameters()
        if ".log_tau" not in name
    }  # fmt: skip
    for name, layer in network.named_modules():
        for constant in ("tau_mem", "tau_syn"):
            values = getattr(layer, constant, None)
            if isinstance(values, Tensor) and values.numel() > 1:
                found[f"{constant}/{name}"] = values
    return {name: values.detach().cpu() for name, values in found.items()}


def log_figure(trainer: Trainer, name: str, figure: Figure) -> None:
    """Log a figure where images are shown."""
    if not trainer.is_global_zero:
        return
    showing = [logger for logger in trainer.loggers if isinstance(logger, _SHOWING)]
    if not showing:
        return
    picture = _pixels(figure)
    for logger in showing:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], trainer.global_step)
        else:
            logger.experiment.add_image(name, picture, trainer.global_step, dataformats="HWC")


def log_histogram(trainer: Trainer, name: str, values: Tensor) -> None:
    """Log the distribution of some numbers where histograms are shown."""
    values = values[values.isfinite()]
    if not trainer.is_global_zero or not values.numel():
        return
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            bars = wandb.Histogram(np_histogram=np.histogram(values.numpy(), bins=64))
            logger.log_metrics({name: bars}, trainer.global_step)  # type: ignore[dict-item]
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_histogram(name, values, trainer.global_step)


def _pixels(figure: Figure) -> np.ndarray:
    """[height, width, 3] of a figure, 8 bits each."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
